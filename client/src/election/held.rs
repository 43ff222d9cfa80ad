//! The label of a leader's Pod, on the Pod of whoever holds a lock.

use super::pod_label::{LabelState, Labeller, PodLabel};
use crate::error::OptionsError;
use crate::hold::Hold;

/// The prefix of labels' keys, where none is said.
const PREFIX: &str = "held.leasehold.dev/";

/// A Pod is labelled as long as this is kept and what it was made for is not [lost](Hold::lost).
///
/// Dropping it removes the label in the background. [`remove`](Self::remove) waits for that.
#[must_use = "the label goes as soon as this is dropped"]
#[derive(Debug)]
pub struct LabelledPod(Labeller);

impl Hold {
    /// Labels the Pod that this runs in while this is held, so that a Service or a person can select it.
    ///
    /// The key is `held.leasehold.dev/<name>` where none is said. What a label is worth, and which Pod is meant, is said by
    /// [`PodLabel`]. It needs the verb `patch` on `pods`; where the label cannot be set that is told in the log and by
    /// [`LabelledPod::state`], and tried again.
    ///
    /// # Errors
    /// [`OptionsError`] where the Pod is not known, or the name cannot be part of a label's key and none was said.
    pub fn label_pod(&self, label: PodLabel) -> Result<LabelledPod, OptionsError> {
        let labeller = Labeller::new(label, &self.access().client, PREFIX, self.name())?;
        labeller.lead(self);
        labeller.begin();
        Ok(LabelledPod(labeller))
    }
}

impl LabelledPod {
    /// How the label stands.
    #[must_use]
    pub fn state(&self) -> LabelState {
        self.0.state()
    }

    /// Removes the label, and waits for that, though not for longer than two seconds. Call it before the release, so that
    /// no two Pods have it.
    ///
    /// # Cancel safety
    /// Cancelled, it goes on in the background.
    pub async fn remove(self) {
        self.0.withdraw_all();
        self.0.withdrawn().await;
    }
}

impl Drop for LabelledPod {
    fn drop(&mut self) {
        self.0.withdraw_all();
    }
}
