//! What a test can make an API server do.

use std::collections::VecDeque;

use super::status::{self, Refused};

/// How requests are turned away, see [`ApiServer::refuse`](super::ApiServer::refuse).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 429: there are too many requests. It was not carried out.
    TooManyRequests,
    /// 503: it was not carried out. Who hears it cannot know.
    Unavailable,
    /// 503: but it was carried out.
    UnavailableAfterwards,
}

/// How many requests came, by verb. Those that were turned away count too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Requests {
    /// GET of one Lease.
    pub get: u64,
    /// GET of many.
    pub list: u64,
    /// Watches that were begun.
    pub watch: u64,
    /// POST.
    pub create: u64,
    /// PUT.
    pub replace: u64,
    /// PATCH.
    pub patch: u64,
    /// DELETE.
    pub delete: u64,
}

impl Requests {
    /// Those that write.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.create + self.replace + self.patch + self.delete
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.writes() + self.get + self.list + self.watch
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Replace,
    Patch,
    Delete,
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) requests: Requests,
    pub(super) refusals: VecDeque<Refusal>,
}

/// What is to become of a request that is carried out.
pub(super) struct Taken {
    unavailable_afterwards: bool,
}

impl Faults {
    /// Counts a request, and turns it away if that is to be.
    pub(super) fn take(&mut self, verb: Verb) -> Result<Taken, Refused> {
        let count = match verb {
            Verb::Get => &mut self.requests.get,
            Verb::List => &mut self.requests.list,
            Verb::Watch => &mut self.requests.watch,
            Verb::Create => &mut self.requests.create,
            Verb::Replace => &mut self.requests.replace,
            Verb::Patch => &mut self.requests.patch,
            Verb::Delete => &mut self.requests.delete,
        };
        *count += 1;
        match self.refusals.pop_front() {
            None => Ok(Taken { unavailable_afterwards: false }),
            Some(Refusal::TooManyRequests) => Err(status::too_many_requests()),
            Some(Refusal::Unavailable) => Err(status::unavailable()),
            Some(Refusal::UnavailableAfterwards) => Ok(Taken { unavailable_afterwards: true }),
        }
    }
}

impl Taken {
    /// The answer that is given, after this one was found.
    pub(super) fn answer<T>(self, answer: Result<T, Refused>) -> Result<T, Refused> {
        if self.unavailable_afterwards { Err(status::unavailable()) } else { answer }
    }
}
