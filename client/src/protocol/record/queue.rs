//! The folded part of a lock's queue.
//!
//! Each key of an object costs the API server something in every write: it is validated, sorted and copied several times.
//! A hundred waiters with a key each make a write twice as dear. So whoever hands a lock on folds the keys of those
//! who have waited into one, if there are many. They join by keys of their own as ever, so that joins do not conflict.

use std::collections::BTreeMap;

use super::super::{HolderId, Ticket, Version};
use super::Waiter;

/// Annotation of a lock: `queue.leasehold.dev/<version>`, its value are waiters, as `<id>=<ticket>`, with spaces between.
///
/// Whoever changes it removes it, and adds another under the version that it has seen. No name comes twice, so that the
/// removal of one is the condition that it is as seen.
pub const QUEUE: &str = "queue.leasehold.dev/";

/// The waiters of one such annotation.
#[derive(Clone, Debug, Default)]
pub struct Queue<'a> {
    /// Its whole key, if there is one.
    pub key: Option<&'a str>,
    /// Its value.
    pub text: &'a str,
    waiters: Vec<(HolderId, Ticket)>,
}

impl<'a> Queue<'a> {
    /// What of the queue is folded. An entry that cannot be read is passed over.
    #[must_use]
    pub fn of(annotations: &'a BTreeMap<String, String>) -> Self {
        let found = annotations.range(QUEUE.to_owned()..).next().filter(|(key, _)| key.starts_with(QUEUE));
        let Some((key, text)) = found else { return Self::default() };
        Self { key: Some(key), text, waiters: text.split(' ').filter_map(entry).collect() }
    }

    /// Whether it tells of this waiter.
    #[must_use]
    pub fn has(&self, id: &HolderId) -> bool {
        self.waiters.iter().any(|(has, _)| has == id)
    }

    /// Who waits, as far as it is told here.
    pub(super) fn waiters(&self) -> impl Iterator<Item = &(HolderId, Ticket)> {
        self.waiters.iter()
    }

    /// The key and value without these, and with those; `None`: nobody is left. `seen` is the version of the Lease.
    pub(in super::super) fn changed(
        &self,
        without: &[&Waiter],
        with: &[&Waiter],
        seen: Version,
    ) -> Option<(String, String)> {
        let stay = self.waiters.iter().filter(|(id, _)| !without.iter().any(|gone| gone.id == *id));
        let stay = stay.map(|(id, ticket)| format!("{id}={ticket}"));
        let come = with.iter().map(|waiter| format!("{}={}", waiter.id, waiter.ticket));
        let all: Vec<_> = stay.chain(come).collect();
        (!all.is_empty()).then(|| (format!("{QUEUE}{seen}"), all.join(" ")))
    }
}

/// One entry, if it can be read.
#[must_use]
pub fn entry(text: &str) -> Option<(HolderId, Ticket)> {
    let (id, ticket) = text.split_once('=')?;
    Some((id.parse().ok()?, ticket.parse().ok()?))
}
