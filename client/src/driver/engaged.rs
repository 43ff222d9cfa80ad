//! An acquisition that is going on, or held.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::{OwnedMutexGuard, oneshot, watch};

use crate::ahead::Ahead;
use crate::clock;
use crate::loan::Loan;
use crate::protocol::contender::Refusal;
use crate::protocol::lending::{Lending, News};
use crate::protocol::{HolderId, Kind, Moment, ReleaseRequest, SessionId};
use crate::session::{Holding, SessionUse};
use crate::slot::{Grant, GuardId, Order, Slot, Stay, Tenancy};
use crate::telemetry::Course;
use crate::validity::Validity;

/// An acquisition that is going on, or held.
pub(super) struct Engaged {
    /// As it stands on the Lease.
    pub(super) id: HolderId,
    pub(super) tenancy: Arc<Tenancy>,
    /// Whoever has it, or had it last.
    pub(super) guard: GuardId,
    pub(super) slot: Arc<Slot>,
    pub(super) session: Option<SessionUse>,
    /// It rests or is passed on, and its session is one by which something is held all the same.
    pub(super) resting: Option<Holding>,
    pub(super) session_over: bool,
    pub(super) reply: Option<oneshot::Sender<Result<Grant, Refusal>>>,
    /// The fencing token.
    pub(super) token: u64,
    /// Of the guard.
    pub(super) validity: Option<Arc<Validity>>,
    pub(super) deadline: Option<Moment>,
    pub(super) watch_for_loss: bool,
    /// Others can hold it beside.
    pub(super) shared: bool,
    pub(super) resource_id: Option<Arc<str>>,
    pub(super) lending: Lending,
    pub(super) stay: Stay,
    /// Until then it is left on the Lease, if the client shuts down before.
    pub(super) stay_until: Option<Moment>,
    /// Then it is given back.
    pub(super) at_most_until: Option<Moment>,
    /// The custom resource lets nobody have it for longer, and so it does not stay on the Lease for longer either.
    pub(super) allowed_until: Option<Moment>,
    pub(super) ahead: Ahead,
    pub(super) request: watch::Sender<Option<ReleaseRequest>>,
    /// Of a lock as long as somebody has it or it is being given back, else until it is held.
    pub(super) turn: Option<OwnedMutexGuard<()>>,
    /// What is told of it.
    pub(super) course: Course,
}

impl Engaged {
    pub(super) fn new(id: HolderId, order: Order) -> Self {
        let Order { guard, slot, session, wish, stay, terms, reply, turn, ahead, course, in_line: _ } = order;
        Self {
            tenancy: Arc::new(Tenancy { id: id.clone(), fences: AtomicU64::new(0) }),
            id,
            guard,
            slot,
            session: Some(session),
            resting: None,
            session_over: false,
            reply: Some(reply),
            token: 0,
            validity: None,
            deadline: None,
            watch_for_loss: false,
            shared: wish.kind != Kind::Lock,
            resource_id: wish.resource_id,
            lending: Lending::new(terms),
            stay,
            stay_until: None,
            at_most_until: None,
            allowed_until: None,
            ahead,
            request: watch::Sender::default(),
            turn,
            course,
        }
    }

    pub(super) fn is_lost(&self) -> bool {
        self.validity.as_ref().is_some_and(|validity| validity.is_over())
    }

    pub(super) fn lives_by(&self, session: &SessionId) -> bool {
        self.session.as_ref().is_some_and(|own| own.id() == session)
    }

    /// Lets the tasks of this process pass it on by themselves, if a guard has it, by what is known of it now.
    pub(super) fn lend_out(&mut self, news: News) {
        let held = self.validity.as_ref().filter(|validity| self.reply.is_none() && validity.check().is_ok());
        let (Some(validity), Some(session)) = (held, &self.session) else { return };
        self.resting.get_or_insert_with(|| Holding::new(session.clone()));
        self.slot.lend(Loan {
            guard: self.guard,
            validity: validity.clone(),
            course: self.course.hand_over(),
            lending: self.lending.clone(),
            news,
            tenancy: self.tenancy.clone(),
            token: self.token,
            session: session.clone(),
            resource_id: self.resource_id.clone(),
            request: self.request.subscribe(),
        });
    }

    /// From now on it is the driver's to pass it on. What was said of a guard before says nothing of the one that has it now.
    pub(super) fn take_back(&mut self) {
        if self.shared {
            return;
        }
        let Some(loan) = self.slot.take_back() else { return };
        if loan.guard != self.guard {
            (self.guard, self.validity) = (loan.guard, Some(loan.validity));
            (self.at_most_until, self.stay_until, self.watch_for_loss) = (None, None, false);
        }
        (self.course, self.lending) = (loan.course, loan.lending);
    }

    /// Gives a guard of it to whoever asked.
    pub(super) fn hand_out(&mut self) {
        let validity = match (self.deadline, &self.session) {
            (Some(deadline), _) => Validity::until(deadline),
            (None, Some(session)) => Validity::within(session.validity().clone()),
            (None, None) => return,
        };
        let wanted = self.stay.at_most.map(|at_most| clock::moment() + at_most);
        self.at_most_until = wanted.into_iter().chain(self.allowed_until).min();
        let validity = match self.at_most_until {
            Some(until) => validity.at_most_until(until),
            None => validity,
        };
        let validity = Arc::new(validity.kept_at_most_until(self.allowed_until));
        self.validity = Some(validity.clone());
        self.course.acquired();
        if self.shared {
            self.turn = None;
        }
        let grant = Grant {
            guard: self.guard,
            tenancy: self.tenancy.clone(),
            token: self.token,
            validity,
            slot: self.slot.clone(),
            request: self.request.subscribe(),
            stay_until: None,
            released: false,
        };
        // If nobody wants it any more, it is dropped, and so released.
        self.reply.take().map(|reply| reply.send(Ok(grant)));
    }
}
