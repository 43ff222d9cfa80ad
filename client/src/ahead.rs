//! Who is ahead of somebody who waits.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// Who holds it and how many wait ahead, as far as known: told by the driver to the one who waits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ahead(Arc<Place>);

#[derive(Debug, Default)]
struct Place {
    known: Mutex<(String, usize)>,
    changed: Notify,
}

impl Ahead {
    /// Says how it is now.
    pub(crate) fn tell(&self, now: (String, usize)) {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != now {
            *known = now;
            self.0.changed.notify_one();
        }
    }

    /// What was said last.
    pub(crate) fn known(&self) -> (String, usize) {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until something has been said that was not known before. What is known by then may be what it was when the
    /// last wait ended. For one listener.
    pub(crate) async fn changed(&self) -> (String, usize) {
        self.0.changed.notified().await;
        self.known()
    }
}
