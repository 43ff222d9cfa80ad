//! What is told of changes.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use k8s_openapi::api::coordination::v1::Lease;
use kube::core::Status;

use super::ApiServer;

/// Something that a watch tells.
#[derive(Clone, Debug)]
pub enum Event {
    /// A Lease is there now that is among those watched.
    Added(Arc<Lease>),
    /// It has changed.
    Modified(Arc<Lease>),
    /// It is gone, or no longer among those watched. What is told is how it was *before* that, with the version of the
    /// change.
    Deleted(Arc<Lease>),
    /// Everything up to this version has been told.
    Bookmark {
        /// The version.
        version: u64,
        /// What was there at the beginning has been told: the answer to `sendInitialEvents`.
        initial: bool,
    },
    /// The watch cannot go on. It ends with this.
    Error(Box<Status>),
}

/// The events of a watch, in their order. It ends when the API server is restarted, and after an [`Event::Error`].
#[derive(Debug)]
pub struct Watch {
    server: ApiServer,
    life: u64,
    /// What is told before anything that happens.
    first: VecDeque<Event>,
    /// `None`: nothing but the first events is ever told.
    id: Option<u64>,
}

impl Watch {
    pub(super) fn new(server: ApiServer, life: u64, first: VecDeque<Event>, id: Option<u64>) -> Self {
        Self { server, life, first, id }
    }
}

impl Stream for Watch {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let server = self.server.clone();
        let mut state = server.state();
        if state.life != self.life {
            return Poll::Ready(None);
        }
        if let Some(event) = self.first.pop_front() {
            return Poll::Ready(Some(event));
        }
        let Some(id) = self.id else {
            return Poll::Ready(None);
        };
        match state.next_event(id, cx.waker()) {
            Some(event) => Poll::Ready(Some(event)),
            None => Poll::Pending,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.server.state().unwatch(id);
        }
    }
}
