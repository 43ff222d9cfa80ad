//! What a driver watches: its session's grant, or what else it must not miss.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use tracing::{debug, info};

use super::{Driver, LINGER};
use crate::clock;
use crate::protocol::record::HOLDER;
use crate::protocol::{Moment, Record, SessionId, renew_interval};
use crate::store::{Failure, Sight};

pub(super) struct Watch {
    session: SessionId,
    /// It shows all that happens, and not only what concerns this session.
    all: bool,
    sights: BoxStream<'static, Result<Sight, Failure>>,
    /// It has shown something, and so is open.
    pub(super) shown: bool,
    begun: Moment,
    used: Moment,
}

impl Driver {
    /// Begins, keeps or ends the watch for this session's grant, and for the loss of what is held.
    pub(super) fn keep_watch(&mut self) -> Option<Moment> {
        let now = clock::moment();
        let session = self.engaged.last().map(|engaged| engaged.id.session.clone());
        let shared = self.engaged.iter().any(|engaged| engaged.shared);
        let for_loss =
            self.engaged.iter().any(|engaged| engaged.watch_for_loss) || self.contender.is_evicted_on_request();
        let lingers = self.lingers();
        let held_from = if for_loss || lingers { self.contender.watch_hold_from() } else { None };
        let waits_from = self.contender.watch_from();
        let anew = self.watch_anew || (lingers && waits_from.is_none());
        let wanted = waits_from.or(held_from.map(|from| (from, false)));
        let had_one = self.watch.is_some();
        if let Some(watch) = &mut self.watch {
            if session.is_some() {
                watch.used = now;
            }
            let another = session.as_ref().is_some_and(|session| *session != watch.session);
            let too_little = wanted.is_some_and(|(_, all)| all && !watch.all);
            // What several hold changes all the time: a watch that is of no use costs.
            let too_much = shared && wanted.is_none_or(|(_, all)| watch.all && !all);
            if another || too_little || too_much || now >= watch.used + LINGER {
                self.watch = None;
            }
        }
        if let (Some((from, all)), Some(session), None) = (wanted, session, &self.watch) {
            if now < self.watch_retry_at {
                self.contender.set_watched(false);
                return Some(self.watch_retry_at);
            }
            let label = format!("{HOLDER}{session}");
            // What is there shows that it is open.
            let from = (!anew).then_some(from);
            self.recheck_at = self.watch_anew.then(|| now + Duration::from_secs(1));
            let label = (!all).then_some(label.as_str());
            let sights = self.shared.store.watch(&self.name, label, from);
            self.watch = Some(Watch { session, all, sights, shown: false, begun: now, used: now });
        }
        if self.recheck_at.is_some_and(|at| now >= at) {
            (self.recheck_at, self.watch_anew) = (None, false);
            self.contender.doubt();
            return Some(now);
        }
        self.contender.set_watched(self.watch.is_some());
        // Without it the protocol looks more often, from now on.
        let without = (had_one && self.watch.is_none()).then_some(now);
        self.watch.as_ref().map(|watch| watch.used + LINGER).into_iter().chain(self.recheck_at).chain(without).min()
    }

    pub(super) fn saw(&mut self, sight: Option<Result<Sight, Failure>>) {
        self.watch.iter_mut().for_each(|watch| watch.shown = true);
        match sight {
            Some(Ok(Sight::Shows(lease))) => match Record::parse(*lease) {
                Ok(record) => {
                    self.watch_anew = false;
                    self.contender.saw(record, clock::moment());
                }
                Err(malformed) => info!(name = self.name, %malformed, "an event was passed over"),
            },
            Some(Ok(Sight::Hides(version))) => self.contender.went_out_of_sight(version),
            Some(Ok(Sight::Reached(_))) => {}
            end => {
                // It ended, or failed. The next one begins with what there is then, so that a version that is too old
                // by now does not matter; what is not shown to this session is read.
                debug!(name = self.name, ?end, "the watch ended");
                let lived = self.watch.take().map_or(Duration::ZERO, |watch| clock::moment().since(watch.begun));
                if lived > LINGER {
                    self.watch_failures = 0;
                }
                self.watch_anew = true;
                let pause = Duration::from_millis(50) * (1 << self.watch_failures.min(8));
                self.watch_retry_at = clock::moment() + pause.min(renew_interval(self.shared.session_duration));
                self.watch_failures += 1;
                self.contender.doubt();
            }
        }
    }
}

pub(super) async fn next_sight(watch: &mut Option<Watch>) -> Option<Result<Sight, Failure>> {
    match watch {
        Some(watch) => watch.sights.next().await,
        None => std::future::pending().await,
    }
}
