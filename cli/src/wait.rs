//! `wait`: until something is free, or held.

use tokio::time::timeout;

use crate::args::{Awaited, WaitArgs};
use crate::exit::{self, Failure};
use crate::follow::Follower;
use crate::read::Leases;
use crate::view::{LockView, State};

pub(crate) async fn wait(leases: &Leases, args: &WaitArgs) -> Result<(), Failure> {
    let mut last = None;
    let waiting = async {
        let mut follower = Follower::new(leases, &args.name);
        loop {
            let lock = follower.next().await?;
            if args.awaited.is_true_of(&lock) {
                return Ok(());
            }
            last = Some(lock);
        }
    };
    let Some(limit) = args.timeout else { return waiting.await };
    if let Ok(outcome) = timeout(limit, waiting).await {
        return outcome;
    }
    let held_by = last.map_or("no answer came".to_owned(), |lock| lock.held_by(leasehold::clock::now().stamp));
    let (name, place, awaited) = (&args.name, leases.place(), &args.awaited);
    let message = format!("{name} {place} was not {awaited} within {limit:?}: {held_by}");
    Err(Failure::new(exit::NOT_ACQUIRED, message))
}

impl Awaited {
    fn is_true_of(&self, lock: &LockView) -> bool {
        match self {
            Self::Free => lock.permits.map_or(lock.state == State::Free, |permits| permits.available > 0),
            Self::Held => lock.state == State::Held,
            Self::Holder(id) => lock.is_held_by(id),
        }
    }
}
