//! A lock's hold that one task of this process has after another, without a write.
//!
//! On the Lease it is one hold, of one tenancy. Between two guards it *rests*: it is this process's still, and nobody has it.
//! It rests, and is lent again, only on [`News`] that are young enough and tell of nobody else who wants it. Otherwise it is
//! given back, as every hold is where nothing of this is asked for.

use std::time::Duration;

use super::Moment;

/// How long a task that has been told that it is next may take to come.
const TURN: Duration = Duration::from_millis(100);

/// For how long a process keeps a lock to itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Terms {
    /// News may be so old, watched or not.
    pub handoff: Duration,
    /// News may be so old while a watch tells of those who join.
    pub watched: Duration,
    /// It rests for so long though nobody in the process waits for it. It is to be watched then.
    pub linger: Duration,
}

/// How young what is known of a hold is, if nothing of it speaks against keeping it
/// ([`Contender::is_undisputed`](super::contender::Contender::is_undisputed)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct News {
    /// When the last request was sent whose answer showed the Lease: whoever joined before would have been seen.
    pub since: Moment,
    /// A watch is open that has shown the Lease, and tells of those who joined after.
    pub watched: bool,
}

impl Terms {
    /// Until when these news are young enough.
    fn good_until(self, news: News) -> Moment {
        news.since + if news.watched { self.handoff.max(self.watched) } else { self.handoff }
    }
}

/// Who has a hold: a guard, or nobody.
#[derive(Clone, Debug, Default, Hash)]
pub struct Lending {
    terms: Terms,
    rests_since: Option<Moment>,
}

impl Lending {
    /// A guard has it that was acquired on these terms.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        Self { terms, rests_since: None }
    }

    /// Nobody has it, and it is this process's still.
    #[must_use]
    pub fn rests(&self) -> bool {
        self.rests_since.is_some()
    }

    /// It may ever go from one guard to another.
    #[must_use]
    pub fn is_asked_for(&self) -> bool {
        self.terms != Terms::default()
    }

    /// It is to be kept back from others for longer than its guards need it: they are to be looked for.
    #[must_use]
    pub fn lingers(&self) -> bool {
        !self.terms.linger.is_zero()
    }

    /// Its guard has been released. Whether it rests from now on; otherwise it is to be given back. There are no news where
    /// anything is known that speaks against it.
    pub fn rest(&mut self, news: Option<News>, somebody_waits: bool, now: Moment) -> bool {
        self.rests_since = Some(now);
        if self.rests_until(news, somebody_waits).is_none_or(|until| now >= until) {
            self.rests_since = None;
        }
        self.rests()
    }

    /// Until when it may rest. `None`: it is to be given back now.
    #[must_use]
    pub fn rests_until(&self, news: Option<News>, somebody_waits: bool) -> Option<Moment> {
        let (since, news) = (self.rests_since?, news?);
        let turn = if somebody_waits { TURN } else { Duration::ZERO };
        let turn = (since + turn).min(self.terms.good_until(news));
        let lingers = news.watched.then(|| (since + self.terms.linger).min(news.since + self.terms.watched));
        Some(lingers.map_or(turn, |lingers| lingers.max(turn)))
    }

    /// A guard that was asked for on these terms has it from now on, if it rests and may be lent on both its terms and these.
    pub fn lend(&mut self, terms: Terms, news: Option<News>, now: Moment) -> bool {
        let good = |news| terms.good_until(news).min(self.terms.good_until(news));
        let lent = self.rests() && news.is_some_and(|news| now < good(news));
        if lent {
            *self = Self::new(terms);
        }
        lent
    }

    /// It is being given back.
    pub fn end(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const PASSED_ON: Terms = Terms { handoff: SECOND, watched: Duration::ZERO, linger: Duration::ZERO };
    const LINGERING: Terms =
        Terms { handoff: Duration::ZERO, watched: Duration::from_secs(20), linger: Duration::from_secs(5) };

    fn at(seconds: u64) -> Moment {
        Moment::from_start(Duration::from_secs(seconds))
    }

    fn news(since: u64, watched: bool) -> News {
        News { since: at(since), watched }
    }

    #[test]
    fn it_rests_only_where_somebody_waits_or_it_is_to_linger() {
        assert!(!Lending::new(PASSED_ON).rest(Some(news(10, true)), false, at(10)));
        assert!(Lending::new(PASSED_ON).rest(Some(news(10, false)), true, at(10)));
        assert!(Lending::new(LINGERING).rest(Some(news(10, true)), false, at(10)));
        assert!(!Lending::new(Terms::default()).rest(Some(news(10, true)), true, at(10)));
    }

    #[test]
    fn what_is_disputed_or_not_known_for_long_neither_rests_nor_is_lent() {
        let mut lending = Lending::new(PASSED_ON);
        assert!(!lending.rest(None, true, at(10)));
        assert!(!lending.rest(Some(news(9, true)), true, at(10)));
        assert!(lending.rest(Some(news(10, false)), true, at(10)));
        assert!(!lending.lend(PASSED_ON, None, at(10)));
        assert!(!lending.lend(PASSED_ON, Some(news(10, true)), at(11)));
        assert!(!lending.lend(Terms::default(), Some(news(10, true)), at(10)));
        assert!(lending.rests() && lending.lend(PASSED_ON, Some(news(10, false)), at(10)) && !lending.rests());
    }

    #[test]
    fn it_lingers_only_while_it_is_watched_and_for_its_time() {
        let mut lending = Lending::new(LINGERING);
        assert!(!lending.rest(Some(news(10, false)), false, at(10)));
        assert!(lending.rest(Some(news(10, true)), false, at(10)));
        assert_eq!(lending.rests_until(Some(news(10, true)), false), Some(at(15)));
        assert!(lending.rests_until(Some(news(10, false)), false).is_some_and(|until| until <= at(10)));
        // Where it is passed on without a watch, it does not linger without one.
        let both = Terms { handoff: Duration::from_mins(1), ..LINGERING };
        assert!(!Lending::new(both).rest(Some(news(10, false)), false, at(10)));
        assert!(Lending::new(both).rest(Some(news(10, false)), true, at(10)));
        // Heard of long ago, it does not stay for all of it.
        assert!(!Lending::new(LINGERING).rest(Some(news(10, true)), false, at(30)));
    }

    #[test]
    fn both_the_terms_it_rests_on_and_those_it_is_asked_for_on_count() {
        let rests = |terms: Terms| {
            let mut lending = Lending::new(terms);
            assert!(lending.rest(Some(news(10, true)), true, at(10)));
            lending
        };
        assert!(!rests(LINGERING).lend(PASSED_ON, Some(news(10, true)), at(12)));
        assert!(!rests(PASSED_ON).lend(LINGERING, Some(news(10, true)), at(12)));
        assert!(rests(LINGERING).lend(PASSED_ON, Some(news(12, true)), at(12)));
    }
}
