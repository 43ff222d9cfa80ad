//! The operator's warden, as it is, in a simulated process: watch in, requests out.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use leasehold::testing::Event;
use leasehold::{Failure, Store as _, clock};
use leasehold_operator::warden::{Place, Task, Warden, What};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::network::{Link, Remote};

/// It goes round at least this often.
const BEAT: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(10);
const AT_ONCE: usize = 32;

/// Runs one operator for ever.
pub(super) async fn run(link: Arc<Link>) {
    let store = Remote(link.clone());
    let mut warden = Warden::new("operator");
    let mut news: Option<mpsc::UnboundedReceiver<Event>> = None;
    let (answers, mut answered) = mpsc::unbounded_channel();
    let mut on_their_way = 0;
    loop {
        if news.is_none() {
            match timeout(LIMIT, link.list_and_watch()).await {
                Ok(Ok((leases, receiver))) => {
                    let shown: HashSet<Place> = leases.iter().filter_map(place_of).collect();
                    let now = clock::moment();
                    for lease in leases {
                        warden.saw(lease, now);
                    }
                    warden.relisted(None, &shown, now);
                    news = Some(receiver);
                }
                _ => sleep(Duration::from_millis(300)).await,
            }
            continue;
        }
        let now = clock::now();
        while on_their_way < AT_ONCE {
            let Some(task) = warden.poll(now) else { break };
            on_their_way += 1;
            let (store, answers) = (store.clone(), answers.clone());
            // On its way it is the network's, not the process's: if that is paused, the answer waits for it.
            tokio::spawn(async move {
                let answer = timeout(LIMIT, send(&store, &task)).await;
                let answer = answer.unwrap_or_else(|_| Err(Failure::Unclear("no answer".to_owned())));
                let _ = answers.send((task, answer));
            });
        }
        let wake = warden.wake_at().map_or(BEAT, |at| at.since(now.moment).min(BEAT));
        tokio::select! {
            biased;
            Some((task, answer)) = answered.recv() => {
                on_their_way -= 1;
                warden.answer(&task, answer, clock::moment());
            }
            next = next(&mut news) => match next {
                Some(Event::Added(lease) | Event::Modified(lease)) => {
                    warden.saw(Arc::unwrap_or_clone(lease), clock::moment());
                }
                Some(Event::Deleted(lease)) => {
                    if let Some(place) = place_of(&lease) {
                        warden.out_of_sight(&place, clock::moment());
                    }
                }
                Some(Event::Bookmark { .. }) => {}
                Some(Event::Error(_)) | None => news = None,
            },
            () = sleep(wake.max(Duration::from_millis(1))) => {}
        }
    }
}

async fn next(news: &mut Option<mpsc::UnboundedReceiver<Event>>) -> Option<Event> {
    match news {
        Some(news) => news.recv().await,
        None => std::future::pending().await,
    }
}

async fn send(store: &Remote, task: &Task) -> Result<Option<Lease>, Failure> {
    let name = &task.place.name;
    match &task.what {
        What::Read => store.read(name).await.map(Some),
        What::End(write) | What::EndByEvidence(write) | What::Sweep(write) => store.write(name, write).await,
        What::Do(deed) => store.write(name, &deed.write).await,
    }
}

fn place_of(lease: &Lease) -> Option<Place> {
    Some(Place::new(lease.metadata.namespace.as_ref()?, lease.metadata.name.as_ref()?))
}
