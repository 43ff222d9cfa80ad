//! The folded part of a lock's queue.
//!
//! Each key of an object costs the API server something in every write: it is validated, sorted and copied several times.
//! A hundred waiters with a key each make a write twice as dear. So whoever hands a lock on folds the keys of those
//! who have waited into one, if there are many. They join by keys of their own as ever, so that joins do not conflict.

use std::collections::BTreeMap;

use super::super::{HolderId, Kind, Ticket, Version};
use super::{DEADLOCK, HOLDS, JOIN, WANT, Waiter, beside};

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

/// The queue, first come first.
pub(super) fn waiters(kind: Kind, annotations: &BTreeMap<String, String>) -> Vec<Waiter> {
    // In a long queue hardly anybody says anything, and each look costs.
    let said =
        |prefix: &str| annotations.range(prefix.to_owned()..).next().is_some_and(|(key, _)| key.starts_with(prefix));
    let (wants, holds, circles) = (said(WANT), said(HOLDS), said(DEADLOCK));
    let waiter = |id: HolderId, ticket: Ticket| {
        let of = |prefix: &str| beside(annotations, prefix, &id.to_string());
        let want = wants.then(|| of(WANT)).flatten().and_then(|want| want.parse().ok());
        let holds = holds.then(|| of(HOLDS)).flatten().unwrap_or_default();
        Waiter {
            ticket,
            want: want.unwrap_or_default(),
            holds: holds.split(' ').filter_map(|id| id.parse().ok()).collect(),
            told_to_give_up: circles.then(|| of(DEADLOCK)).flatten(),
            id,
        }
    };
    let folded = if kind == Kind::Lock { Queue::of(annotations) } else { Queue::default() };
    let joins = annotations.range(JOIN.to_owned()..).map_while(|(key, value)| Some((key.strip_prefix(JOIN)?, value)));
    let joins = joins.filter_map(|(id, ticket)| Some((id.parse().ok()?, ticket.parse().ok()?)));
    // A join that is carried out once more when its key has been folded changes nothing.
    let joins = joins.filter(|(id, _)| !folded.has(id));
    let mut waiters: Vec<_> = folded.waiters.iter().cloned().chain(joins).map(|(id, at)| waiter(id, at)).collect();
    waiters.sort_by(|a, b| (a.ticket, &a.id).cmp(&(b.ticket, &b.id)));
    waiters
}
