//! What a driver watches: its session's grant, or what else it must not miss.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use tracing::{debug, info};

use super::{Driver, LINGER};
use crate::clock;
use crate::protocol::record::HOLDER;
use crate::protocol::{Moment, Record, SessionId, Version, renew_interval};
use crate::store::{Failure, Sight};
use crate::task;

pub(super) struct Watch {
    session: SessionId,
    /// It shows all that happens, and not only what concerns this session.
    all: bool,
    sights: BoxStream<'static, Result<Sight, Failure>>,
    /// It is open, and what stands there has been shown, by this one or one before.
    shown: bool,
    /// It goes on from a version that was known.
    goes_on: bool,
    begun: Moment,
    used: Moment,
    /// When it last showed anything new, and how far it had come by then.
    heard: Moment,
    reached: Option<Version>,
}

/// A watch that shows nothing for so long is taken for dead: the API server says every minute how far it has come.
const SILENT: Duration = Duration::from_secs(150);

/// A watch that has come to its end as it should, and from where the next one goes on.
pub(super) struct Left {
    session: SessionId,
    all: bool,
    shown: bool,
    reached: Version,
}

impl Watch {
    /// The API server ends a watch in good order just after it has told how far it has come.
    fn has_come_to_its_end(&self, now: Moment) -> bool {
        self.reached.is_some() && now < self.heard + SILENT / 2 && now >= self.begun + LINGER
    }
}

impl Driver {
    /// Begins, keeps or ends the watch for this session's grant, and for the loss of what is held.
    pub(super) fn keep_watch(&mut self) -> Option<Moment> {
        let now = clock::moment();
        let session = self.engaged.last().map(|engaged| engaged.id.session.clone());
        let shared = self.engaged.iter().any(|engaged| engaged.shared);
        let for_loss =
            self.engaged.iter().any(|engaged| engaged.watch_for_loss) || self.contender.is_evicted_on_request();
        self.watches_hold = self.watches_hold.take().filter(|_| session.is_some());
        let lingers = self.lingers();
        let held_from = (for_loss || lingers || self.watches_hold.is_some()).then(|| self.contender.watch_hold_from());
        let waits_from = self.contender.watch_from();
        let wanted = waits_from.or(held_from.flatten().map(|from| (from, false)));
        let had_one = self.watch.is_some();
        if let Some(watch) = &mut self.watch {
            if session.is_some() {
                watch.used = now;
            }
            let another = session.as_ref().is_some_and(|session| *session != watch.session);
            let too_little = wanted.is_some_and(|(_, all)| all && !watch.all);
            // What is contended for, or held by several, changes all the time: a watch that is of no use costs.
            let too_much = wanted.map_or(shared, |(_, all)| watch.all && !all);
            if now >= watch.heard + SILENT {
                self.saw(None);
                return Some(now);
            }
            if another || too_little || too_much || now >= watch.used + LINGER {
                self.watch = None;
            }
        }
        if self.recheck_at.is_some_and(|at| now >= at) {
            (self.recheck_at, self.watch_anew) = (None, false);
            self.contender.doubt();
            return Some(now);
        }
        if let (Some((from, all)), Some(session), None) = (wanted, session, &self.watch) {
            let urgent = lingers || !self.contender.only_holds();
            let retry_at = if urgent { self.watch_retry_at } else { self.watch_retry_at.max(self.watch_hold_at) };
            if now < retry_at {
                self.contender.set_watched(false, false);
                return self.recheck_at.into_iter().chain([retry_at]).min();
            }
            let label = format!("{HOLDER}{session}");
            let left = self.watch_left.take().filter(|left| left.session == session && left.all == all);
            let shown = left.as_ref().is_some_and(|left| left.shown) && !self.watch_anew;
            let anew = self.watch_anew || (lingers && waits_from.is_none() && !shown);
            let from = left.map_or(from, |left| left.reached.max(from));
            // What is there is shown at once where all is, or by a lock that lingers: that is as good as a read. What is
            // not shown is read.
            let from = (!anew && (shared || !all)).then_some(from);
            let soon = now + Duration::from_secs(1);
            self.recheck_at = anew.then(|| self.recheck_at.filter(|_| !urgent).map_or(soon, |at| at.max(soon)));
            let label = (!all).then_some(label.as_str());
            let sights = self.shared.store.watch(&self.name, label, from);
            let goes_on = from.is_some();
            let (begun, used, heard) = (now, now, now);
            self.watch = Some(Watch { session, all, sights, shown, goes_on, begun, used, heard, reached: None });
        }
        let sees_all = self.watch.as_ref().is_some_and(|watch| watch.all && watch.shown);
        self.contender.set_watched(self.watch.is_some(), sees_all);
        // Without it the protocol looks more often, from now on.
        let without = (had_one && self.watch.is_none()).then_some(now);
        let silent = self.watch.as_ref().map(|watch| (watch.used + LINGER).min(watch.heard + SILENT));
        silent.into_iter().chain(self.recheck_at).chain(without).min()
    }

    /// Whether all is shown that concerns this session, but for the moment between one watch and the next.
    pub(super) fn is_watched(&self) -> bool {
        match &self.watch {
            Some(watch) => watch.shown,
            None => self.watch_left.as_ref().is_some_and(|left| left.shown),
        }
    }

    pub(super) fn saw(&mut self, sight: Option<Result<Sight, Failure>>) {
        self.take_back();
        let now = clock::moment();
        if let (Some(watch), Some(Ok(sight))) = (&mut self.watch, &sight) {
            // An API server that is cut off from its store says again and again that it has come no further.
            let stands = matches!(sight, Sight::Reached(version) if Some(*version) <= watch.reached);
            // How far it has come says nothing of what was there before.
            watch.shown |= watch.goes_on || !matches!(sight, Sight::Reached(_));
            watch.heard = if stands { watch.heard } else { now };
        }
        match sight {
            Some(Ok(Sight::Shows(lease))) => match Record::parse(*lease) {
                Ok(record) => {
                    self.watch_anew = false;
                    // It may be from before what is known.
                    self.recheck_at = self.recheck_at.filter(|_| self.contender.knows_more_than(&record));
                    self.contender.saw(record, now);
                }
                Err(malformed) => {
                    info!(name = self.name, %malformed, "what stands there now cannot be read");
                    self.contender.doubt();
                }
            },
            Some(Ok(Sight::Hides(version))) => self.contender.went_out_of_sight(version),
            Some(Ok(Sight::Reached(version))) => {
                let watch = self.watch.as_mut().filter(|watch| Some(version) > watch.reached);
                if let Some(watch) = watch {
                    watch.reached = Some(version);
                    self.contender.is_up_to_date(now);
                }
            }
            None if self.watch.as_ref().is_some_and(|watch| watch.has_come_to_its_end(now)) => {
                let watch = self.watch.take();
                self.watch_left = watch.and_then(|Watch { session, all, shown, reached, .. }| {
                    Some(Left { session, all, shown, reached: reached? })
                });
            }
            end => {
                // It failed. The next one begins with what there is then, so that a version that is too old
                // by now does not matter; what is not shown to this session is read.
                debug!(name = self.name, ?end, "the watch ended");
                let lived = self.watch.take().map_or(Duration::ZERO, |watch| now.since(watch.begun));
                if lived > LINGER {
                    self.watch_failures = 0;
                }
                (self.watch_anew, self.watch_left) = (true, None);
                let most = renew_interval(self.shared.session_duration);
                let pause = Duration::from_millis(50) * (1 << self.watch_failures.min(8));
                let part = 0.5 + 0.5 * chance();
                self.watch_retry_at = now + pause.min(most).mul_f64(part);
                let is_outdated = matches!(end, Some(Err(Failure::Refused)));
                if is_outdated || self.lingers() || !self.contender.only_holds() {
                    self.contender.doubt();
                } else {
                    // Nothing waits for what it would show, and an API server that has lost thousands of watches at once
                    // has their sessions to see to first.
                    let pause = most.mul_f64(if self.watch_failures == 0 { chance() } else { part });
                    self.watch_hold_at = now + pause;
                    self.recheck_at.get_or_insert(now + most.mul_f64(0.8 + 0.2 * part));
                }
                self.watch_failures += 1;
            }
        }
    }
}

/// A number from 0 to 1, so that what fails for all at once is not tried again by all at once.
#[expect(clippy::cast_precision_loss, reason = "only so much precision is wanted")]
fn chance() -> f64 {
    (task::random() >> 32) as f64 / f64::from(u32::MAX)
}

pub(super) async fn next_sight(watch: &mut Option<Watch>) -> Option<Result<Sight, Failure>> {
    match watch {
        Some(watch) => watch.sights.next().await,
        None => std::future::pending().await,
    }
}
