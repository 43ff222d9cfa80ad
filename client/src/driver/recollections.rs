//! What is remembered of locks with which nobody here has to do just now.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::protocol::Moment;
use crate::protocol::contender::Recollection;

/// Of how many locks at most.
const MOST: usize = 4096;

/// What drivers had seen of holders that live by their own records, when they ended: one that begins anew would have to
/// watch these for all of their time again.
#[derive(Debug, Default)]
pub(crate) struct Recollections(Mutex<BTreeMap<String, Recollection>>);

impl Recollections {
    pub(super) fn keep(&self, name: &str, seen: Recollection, now: Moment) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.is_of_use(now) {
            if all.len() >= MOST {
                all.retain(|_, seen| seen.is_of_use(now));
            }
            if all.len() < MOST {
                all.insert(name.to_owned(), seen);
            }
        }
    }

    pub(super) fn take(&self, name: &str) -> Option<Recollection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name)
    }
}
