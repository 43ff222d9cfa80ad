//! A hold that its driver has lent to the tasks of this process: they pass it on among themselves, and the driver sleeps.

use std::sync::Arc;

use tokio::sync::{oneshot, watch};

use crate::clock;
use crate::protocol::ReleaseRequest;
use crate::protocol::contender::Refusal;
use crate::protocol::lending::{Lending, News};
use crate::session::SessionUse;
use crate::slot::{Grant, GuardId, Order, Tenancy};
use crate::telemetry::Course;
use crate::validity::Validity;

/// Who has the hold, and what is needed to give it to another.
///
/// A driver lends it when it has nothing to do, and takes it back before it does anything: so nothing that it does meets a
/// hold that is on its way from one guard to the next. What it knew by then is what the hold is passed on by; what has
/// happened since it would not know either.
#[derive(Debug)]
pub(crate) struct Loan {
    /// Whoever has it, or has just released it.
    pub(crate) guard: GuardId,
    pub(crate) validity: Arc<Validity>,
    /// What is told of that guard.
    pub(crate) course: Course,
    pub(crate) lending: Lending,
    pub(crate) news: News,
    pub(crate) tenancy: Arc<Tenancy>,
    pub(crate) token: u64,
    pub(crate) session: SessionUse,
    pub(crate) resource_id: Option<Arc<str>>,
    pub(crate) request: watch::Receiver<Option<ReleaseRequest>>,
}

impl Loan {
    /// Whether the hold, whose guard has just been released, goes to whoever gave this order. What is to end by itself is the
    /// driver's, and what is to linger where it was not to before.
    pub(crate) fn goes_to(&mut self, order: &Order) -> bool {
        let (now, news) = (clock::moment(), Some(self.news));
        let mut lending = self.lending.clone();
        let goes = order.stay.at_most.is_none()
            && (order.terms.linger.is_zero() || self.lending.lingers())
            && order.is_met_by(self.resource_id.as_ref(), self.session.id())
            && lending.rest(news, true, now)
            && lending.lend(order.terms, news, now);
        if goes {
            self.lending = lending;
        }
        goes
    }

    /// Gives it to whoever gave this order: the guard, and where it is waited for.
    pub(crate) fn give(&mut self, order: Order) -> (oneshot::Sender<Result<Grant, Refusal>>, Grant) {
        let Order { guard, slot, course, reply, .. } = order;
        self.course.over();
        (self.guard, self.course) = (guard, course);
        self.validity = Arc::new(Validity::within(self.session.validity().clone()));
        self.course.acquired();
        let grant = Grant {
            guard,
            tenancy: self.tenancy.clone(),
            token: self.token,
            validity: self.validity.clone(),
            slot,
            request: self.request.clone(),
            stay_until: None,
            released: false,
        };
        (reply, grant)
    }
}
