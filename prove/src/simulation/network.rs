//! The network: what becomes of requests, answers and watches on their way between a process and the API server.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use leasehold::protocol::record::SESSION_PREFIX;
use leasehold::protocol::{Version, Write};
use leasehold::testing::Event;
use leasehold::{Failure, Sight, Store};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

use super::dice::Dice;
use super::rules::Author;
use super::server::Server;

/// A request may be carried out so long after it was sent, whatever the sender heard. The protocol reckons with 90 s.
const LATEST: u64 = 85_000;

/// What a process's network is like at the moment.
#[derive(Clone, Debug)]
pub(super) struct Weather {
    /// How long a message is on its way, from and to, in milliseconds.
    pub(super) delay: (u64, u64),
    /// How likely it is that a request never arrives, and its sender hears of nothing or of a broken connection.
    pub(super) lost: f64,
    /// … that it is carried out and its answer never comes.
    pub(super) unheard: f64,
    /// … that it is carried out long after it was given up.
    pub(super) late: f64,
    /// … that it is carried out a second time, sooner or later.
    pub(super) twice: f64,
    /// … that it is refused by a busy API server, or by one that says so after it was carried out.
    pub(super) busy: f64,
    /// … that a watch begins further back than it was asked to.
    pub(super) past: f64,
    pub(super) cut: Cut,
    /// Nothing is heard of watches, though they seem to be there.
    pub(super) stalled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    No,
    /// Connections are refused.
    Refused,
    /// Nothing passes, and nobody is told.
    Silent,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            delay: (1, 4),
            lost: 0.0,
            unheard: 0.0,
            late: 0.0,
            twice: 0.0,
            busy: 0.0,
            past: 0.0,
            cut: Cut::No,
            stalled: false,
        }
    }
}

/// One process's way to the API server.
#[derive(Debug)]
pub(super) struct Link {
    server: Arc<Server>,
    author: Author,
    weather: watch::Sender<Weather>,
    /// Changes when all connections break.
    breaks: watch::Sender<u64>,
    dice: Mutex<Dice>,
    unlucky: Mutex<Option<Unlucky>>,
}

/// What is to befall the next write of a sort.
#[derive(Debug)]
struct Unlucky {
    sort: Sort,
    /// Its answer comes so late. Otherwise it never does.
    late: Option<Duration>,
    /// Who wants to know is told when it is sent.
    sent: oneshot::Sender<()>,
}

/// What becomes of one request.
#[derive(Debug)]
struct Fate {
    there: Duration,
    back: Duration,
    kind: Kind,
    /// It is carried out again, so long after the first time.
    again: Option<Duration>,
}

/// What sort of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Read,
    Write,
    /// It opens this process's session.
    Opening,
    /// It renews that.
    Renewal,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    Lost,
    Reset,
    Unheard,
    Late(Duration),
    Throttled,
    Unavailable { carried_out: bool },
}

impl Link {
    pub(super) fn new(server: Arc<Server>, author: Author, dice: Dice) -> Arc<Self> {
        Arc::new(Self {
            server,
            author,
            weather: watch::Sender::default(),
            breaks: watch::Sender::default(),
            dice: Mutex::new(dice),
            unlucky: Mutex::default(),
        })
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Weather)) {
        self.weather.send_modify(change);
    }

    /// All connections break.
    pub(super) fn break_connections(&self) {
        self.breaks.send_modify(|breaks| *breaks += 1);
    }

    /// The answer to the next opening of a session never comes, or that to its next renewal comes so late. Tells when that
    /// is sent.
    pub(super) fn befall_next_heartbeat(&self, late: Option<Duration>) -> oneshot::Receiver<()> {
        let (sent, receiver) = oneshot::channel();
        let sort = if late.is_some() { Sort::Renewal } else { Sort::Opening };
        *self.unlucky() = Some(Unlucky { sort, late, sent });
        receiver
    }

    /// All goes well from here on.
    pub(super) fn heal(&self) {
        self.change(|weather| *weather = Weather::default());
        *self.unlucky() = None;
    }

    fn unlucky(&self) -> MutexGuard<'_, Option<Unlucky>> {
        self.unlucky.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dice(&self) -> MutexGuard<'_, Dice> {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fate(&self, sort: Sort) -> Fate {
        let is_write = sort != Sort::Read;
        let weather = self.weather.borrow().clone();
        let mut dice = self.dice();
        let (low, high) = weather.delay;
        let (there, mut back) = (dice.millis(low..high), dice.millis(low..high));
        let again = (is_write && dice.chance(weather.twice)).then(|| dice.millis(1..LATEST));
        let unlucky = self.unlucky().take_if(|unlucky| unlucky.sort == sort);
        let kind = if let Some(Unlucky { late, sent, .. }) = unlucky {
            let _ = sent.send(());
            back = late.unwrap_or(back);
            if late.is_some() { Kind::Normal } else { Kind::Unheard }
        } else if dice.chance(weather.lost) {
            if dice.chance(0.5) { Kind::Lost } else { Kind::Reset }
        } else if dice.chance(weather.unheard) {
            Kind::Unheard
        } else if is_write && dice.chance(weather.late) {
            Kind::Late(dice.millis(100..LATEST))
        } else if dice.chance(weather.busy) {
            match dice.below(3) {
                0 => Kind::Throttled,
                1 => Kind::Unavailable { carried_out: false },
                _ => Kind::Unavailable { carried_out: true },
            }
        } else {
            Kind::Normal
        };
        Fate { there, back, kind, again }
    }

    /// Sends a request on its way. The way goes on whatever becomes of the sender.
    fn send<T: Send + 'static>(
        self: &Arc<Self>,
        sort: Sort,
        carry_out: impl Fn(&Server) -> Result<T, Failure> + Send + Sync + 'static,
    ) -> BoxFuture<'static, Result<T, Failure>> {
        let fate = self.fate(sort);
        let (reply, answer) = oneshot::channel();
        let link = self.clone();
        tokio::spawn(async move {
            sleep(fate.there).await;
            if let Some(outcome) = link.travel(&fate, &carry_out).await {
                // An answer that cannot pass is heard of when the connection breaks, if ever.
                if link.weather.borrow().cut != Cut::Silent {
                    let _ = reply.send(outcome);
                }
            }
            if let Some(pause) = fate.again {
                sleep(pause).await;
                let _ = carry_out(&link.server);
            }
        });
        async move {
            match answer.await {
                Ok(answer) => answer,
                Err(_) => std::future::pending().await,
            }
        }
        .boxed()
    }

    /// `None`: the sender hears nothing.
    async fn travel<T>(
        &self,
        fate: &Fate,
        carry_out: &(impl Fn(&Server) -> Result<T, Failure> + Sync),
    ) -> Option<Result<T, Failure>> {
        let unclear = |why: &str| Some(Err(Failure::Unclear(why.to_owned())));
        let cut = self.weather.borrow().cut;
        let outcome = match (&fate.kind, cut) {
            (Kind::Lost, _) | (_, Cut::Silent) => return None,
            (Kind::Reset, _) | (_, Cut::Refused) => return unclear("connection reset"),
            (Kind::Throttled, _) => Err(Failure::Throttled("429".to_owned())),
            (Kind::Unavailable { carried_out: false }, _) => return unclear("503"),
            (Kind::Unavailable { carried_out: true }, _) => {
                let _ = carry_out(&self.server);
                return unclear("503");
            }
            (Kind::Late(pause), _) => {
                sleep(*pause).await;
                let _ = carry_out(&self.server);
                return None;
            }
            (Kind::Unheard, _) => {
                let _ = carry_out(&self.server);
                return None;
            }
            (Kind::Normal, _) => carry_out(&self.server),
        };
        sleep(fate.back).await;
        Some(outcome)
    }

    /// All Leases, and every change of one, in order and late. It ends when the connection breaks.
    pub(super) async fn list_and_watch(
        self: &Arc<Self>,
    ) -> Result<(Vec<Lease>, mpsc::UnboundedReceiver<Event>), Failure> {
        let (list, mut news) = self.send(Sort::Read, Server::list_and_watch).await?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let link = self.clone();
        tokio::spawn(async move {
            let mut broken = Broken::of(&link);
            while let Some(next) = broken.before(news.next()).await.flatten() {
                if broken.before(link.pass()).await.is_none() || sender.send(next).is_err() {
                    return;
                }
            }
        });
        Ok((list, receiver))
    }

    /// Waits as long as an event is on its way.
    async fn pass(&self) {
        let delay = {
            let (low, high) = self.weather.borrow().delay;
            self.dice().millis(low..high)
        };
        sleep(delay).await;
        let mut weather = self.weather.subscribe();
        // An error would mean that the link is gone, which is borrowed here.
        let _ = weather.wait_for(|weather| !weather.stalled && weather.cut == Cut::No).await;
    }

    async fn pump(
        self: Arc<Self>,
        name: String,
        label: Option<String>,
        mut from: Option<Version>,
        sender: mpsc::UnboundedSender<Result<Sight, Failure>>,
    ) {
        let mut broken = Broken::of(&self);
        let reset = || Err(Failure::Unclear("the watch's connection broke".to_owned()));
        let fate = self.fate(Sort::Read);
        sleep(fate.there).await;
        let cut = self.weather.borrow().cut;
        match (&fate.kind, cut) {
            (Kind::Normal, Cut::No) => {}
            (Kind::Lost | Kind::Unheard, _) | (_, Cut::Silent) => {
                tokio::select! {
                    biased;
                    () = broken.wait() => drop(sender.send(reset())),
                    () = sender.closed() => {}
                }
                return;
            }
            _ => return drop(sender.send(reset())),
        }
        let past = self.weather.borrow().past;
        let (further, back) = {
            let mut dice = self.dice();
            (dice.chance(past), dice.below(30) as u64)
        };
        if let (Some(Version(version)), true) = (from, further) {
            from = Some(Version(version.saturating_sub(back)));
        }
        let mut sights = match self.server.watch(&name, label.as_deref(), from) {
            Ok(sights) => sights,
            Err(failure) => return drop(sender.send(Err(failure))),
        };
        loop {
            let next = tokio::select! {
                biased;
                () = broken.wait() => return drop(sender.send(reset())),
                () = sender.closed() => return,
                sight = sights.next() => sight,
            };
            let Some(sight) = next else { return };
            if broken.before(self.pass()).await.is_none() {
                return drop(sender.send(reset()));
            }
            if sender.send(sight).is_err() {
                return;
            }
        }
    }
}

fn is_held(spec: &LeaseSpec) -> bool {
    spec.holder_identity.as_ref().is_some_and(|holder| !holder.is_empty())
}

/// Knows when the present connections of a link break.
struct Broken {
    breaks: watch::Receiver<u64>,
    restarts: watch::Receiver<u64>,
}

impl Broken {
    fn of(link: &Link) -> Self {
        Self { breaks: link.breaks.subscribe(), restarts: link.server.restarts() }
    }

    async fn wait(&mut self) {
        tokio::select! {
            biased;
            _ = self.breaks.changed() => {}
            _ = self.restarts.changed() => {}
        }
    }

    /// `None` if the connection breaks before.
    async fn before<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.wait() => None,
            outcome = work => Some(outcome),
        }
    }
}

/// A link as a client's store.
#[derive(Clone, Debug)]
pub(super) struct Remote(pub(super) Arc<Link>);

impl Store for Remote {
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Lease, Failure>> {
        let name = name.to_owned();
        self.0.send(Sort::Read, move |server| server.read(&name))
    }

    fn write<'a>(&'a self, name: &'a str, write: &'a Write) -> BoxFuture<'a, Result<Option<Lease>, Failure>> {
        let (author, name, write) = (self.0.author.clone(), name.to_owned(), write.clone());
        let sort = match &write {
            _ if !name.starts_with(SESSION_PREFIX) => Sort::Write,
            Write::Create(_) => Sort::Opening,
            // An ended one is named by nobody any more.
            Write::Replace(lease) if lease.spec.as_ref().is_some_and(is_held) => Sort::Renewal,
            _ => Sort::Write,
        };
        self.0.send(sort, move |server| server.write(&author, &name, &write))
    }

    fn watch(
        &self,
        name: &str,
        label: Option<&str>,
        from: Option<Version>,
    ) -> BoxStream<'static, Result<Sight, Failure>> {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        tokio::spawn(self.0.clone().pump(name.to_owned(), label.map(str::to_owned), from, sender));
        futures::stream::poll_fn(move |cx| receiver.poll_recv(cx)).boxed()
    }
}
