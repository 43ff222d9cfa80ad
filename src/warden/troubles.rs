//! What people should know of a lock, and who is told.

use leasehold::protocol::deadlock::Deadlock;

use super::Place;
use super::state::Warden;

/// What people should know of a lock, for as long as it is so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Troubles {
    /// Some who wait for it, and others, wait for each other.
    pub deadlock: Option<Deadlock>,
    /// Holders that are dead, and that nobody but a person may evict.
    pub abandoned: Vec<String>,
}

impl Warden {
    /// What people should know of a followed lock, for as long as it is so.
    pub fn troubles(&self, place: &Place) -> Troubles {
        let name = place.to_string();
        let mut deadlocks = self.deadlocks.iter();
        Troubles {
            deadlock: deadlocks.find(|one| one.steps.iter().any(|step| step.name == name)).cloned(),
            abandoned: self.locks.get(place).map(|lock| lock.abandoned.clone()).unwrap_or_default(),
        }
    }
}
