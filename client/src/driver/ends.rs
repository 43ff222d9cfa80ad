//! When something that is held may end by itself.

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};

use super::Engaged;
use crate::clock;
use crate::protocol::{Moment, SessionId};

/// The sessions whose end is waited for: one or two, whatever is held by them. They are the same from one time to the next,
/// as a rule.
#[derive(Default)]
pub(super) struct Ends {
    sessions: Vec<SessionId>,
    lost: FuturesUnordered<BoxFuture<'static, SessionId>>,
}

impl Ends {
    /// Sees by which sessions something is held or waited for by now.
    pub(super) fn look(&mut self, engaged: &[Engaged]) {
        let lives_by = |engaged: &Engaged, session: &SessionId| !engaged.session_over && engaged.lives_by(session);
        let live =
            engaged.iter().filter(|engaged| !engaged.session_over).filter_map(|engaged| engaged.session.as_ref());
        let gone = self.sessions.iter().any(|session| !engaged.iter().any(|engaged| lives_by(engaged, session)));
        if gone {
            self.sessions.clear();
            self.lost.clear();
        }
        for session in live {
            if !self.sessions.contains(session.id()) {
                self.sessions.push(session.id().clone());
                let (lost, id) = (session.validity().lost().clone(), session.id().clone());
                self.lost.push(lost.cancelled_owned().map(|()| id).boxed());
            }
        }
    }

    pub(super) async fn session_lost(&mut self) -> SessionId {
        match self.lost.next().await {
            Some(session) => session,
            None => std::future::pending().await,
        }
    }
}

/// Of what lives by its own record, or not beyond a certain time.
pub(super) fn deadline(engaged: &[Engaged]) -> Option<Moment> {
    let there = engaged.iter().filter(|engaged| !engaged.is_lost());
    there.flat_map(|engaged| [engaged.deadline, engaged.at_most_until]).flatten().min()
}

pub(super) async fn passed(deadline: Option<Moment>) {
    match deadline {
        Some(deadline) => clock::sleep_until_deadline(deadline).await,
        None => std::future::pending().await,
    }
}
