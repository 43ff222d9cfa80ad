//! Fenced writes to Kubernetes objects.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use kube::Resource;

use crate::error::Lost;
use crate::hold::Hold;

/// The annotation of a protected object on which the fence of the last write stands: `<token>.<n>`.
pub const FENCE: &str = "leasehold.dev/fence";

/// The label that protects an object, if its value is `true` and the policy of `config/fencing` is bound where it is.
pub const FENCED: &str = "leasehold.dev/fenced";

impl Hold {
    /// Puts a fence on an object that is about to be written: the annotation `leasehold.dev/fence`.
    ///
    /// Its value is `<token>.<n>`: the [token](Self::token) of this hold, and a number that begins with 1 and counts up with
    /// every fence of it. So each is greater than all before it, of this holder and of earlier ones, and with the policy of
    /// `config/fencing` the API server refuses every write to a protected object (label `leasehold.dev/fenced: "true"`)
    /// whose fence is not greater than the one that stands there. A holder that was paused after this call, and writes
    /// when somebody else has long been at work, is refused then. It costs no request.
    ///
    /// Take a new fence for every attempt: also where a write is sent again because the object had changed, or because no
    /// answer came. Where tasks of one process write the same object at the same time, one that overtakes another makes
    /// the other's fence too small.
    ///
    /// # When to use something else
    /// [`next_fence`](Self::next_fence) for a patch; [`token`](Self::token) for a database. Several who hold at the same
    /// time (permits of a semaphore, readers) would fence each other off: this is for who holds alone.
    ///
    /// # Errors
    /// [`Lost`] where it is not held any more. The object is as it was then.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = leasehold::Client::builder().store(std::sync::Arc::new(leasehold::MemoryStore::new())).build()?;
    /// use k8s_openapi::api::core::v1::ConfigMap;
    ///
    /// let guard = client.lock("settings").build()?.acquire().await?;
    /// let mut settings = ConfigMap::default(); // in production: read from the API server
    /// guard.fence(&mut settings)?;
    /// // Now write it: api.replace("settings", &PostParams::default(), &settings).await?
    /// assert_eq!(settings.metadata.annotations.unwrap()["leasehold.dev/fence"], format!("{}.1", guard.token()));
    /// # guard.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn fence(&self, object: &mut impl Resource) -> Result<(), Lost> {
        let fence = self.next_fence()?;
        object.meta_mut().annotations.get_or_insert_with(BTreeMap::new).insert(FENCE.to_owned(), fence);
        Ok(())
    }

    /// The value of the annotation `leasehold.dev/fence` for the next write, where that is a patch. See
    /// [`fence`](Self::fence).
    ///
    /// # Errors
    /// [`Lost`] where it is not held any more.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = leasehold::Client::builder().store(std::sync::Arc::new(leasehold::MemoryStore::new())).build()?;
    /// let guard = client.lock("settings").build()?.acquire().await?;
    /// let patch = kube::api::Patch::Merge(serde_json::json!({
    ///     "metadata": { "annotations": { leasehold::FENCE: guard.next_fence()? } },
    ///     "data": { "colour": "blue" },
    /// }));
    /// # let _ = patch;
    /// # guard.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn next_fence(&self) -> Result<String, Lost> {
        self.check()?;
        // More of these than there are numbers take some centuries.
        let n = self.fences().fetch_add(1, Ordering::Relaxed) + 1;
        Ok(format!("{}.{n}", self.token()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::ConfigMap;
    use proptest::prelude::*;

    use super::*;
    use crate::{Client, LossReason, MemoryStore};

    fn client(store: &MemoryStore) -> Client {
        Client::builder().store(Arc::new(store.clone())).build().unwrap()
    }

    fn parse(fence: &str) -> (u64, u64) {
        let (token, n) = fence.split_once('.').unwrap();
        (token.parse().unwrap(), n.parse().unwrap())
    }

    fn on(object: &ConfigMap) -> Option<&String> {
        object.metadata.annotations.as_ref()?.get(FENCE)
    }

    #[tokio::test]
    async fn it_begins_with_one_and_leaves_all_else_as_it_is() {
        let guard = client(&MemoryStore::new()).lock("a").build().unwrap().acquire().await.unwrap();
        let mut object: ConfigMap = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "c", "annotations": { "other": "kept", FENCE: "1.1" } }, "data": { "a": "b" },
        }))
        .unwrap();
        let mut wanted = object.clone();
        guard.fence(&mut object).unwrap();
        wanted.metadata.annotations.as_mut().unwrap().insert(FENCE.to_owned(), format!("{}.1", guard.token()));
        assert_eq!(object, wanted);
        assert_eq!(guard.next_fence().unwrap(), format!("{}.2", guard.token()));
        let mut bare = ConfigMap::default();
        guard.fence(&mut bare).unwrap();
        assert_eq!(on(&bare), Some(&format!("{}.3", guard.token())));
    }

    #[tokio::test]
    async fn who_has_lost_gets_none_and_leaves_the_object_alone() {
        let client = client(&MemoryStore::new());
        let guard = client.lock("a").build().unwrap().acquire().await.unwrap();
        client.shutdown().await;
        let mut object = ConfigMap::default();
        assert_eq!(guard.fence(&mut object).unwrap_err().reason, LossReason::Released);
        assert_eq!(object, ConfigMap::default());
        guard.next_fence().unwrap_err();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn no_two_threads_get_the_same() {
        let guard = client(&MemoryStore::new()).lock("a").build().unwrap().acquire().await.unwrap();
        let take = || (0..500).map(|_| parse(&guard.next_fence().unwrap()).1).collect::<Vec<_>>();
        let mut all = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        all.sort_unstable();
        assert!(all.into_iter().eq(1..=2000));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whoever holds, and however many fences each takes, also over deletions of the Lease: they only grow.
        #[test]
        fn fences_only_grow(holds in prop::collection::vec((0_usize..3, 0_u32..4, any::<bool>()), 1..12)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let store = MemoryStore::new();
                let clients = [client(&store), client(&store), client(&store)];
                let mut last = (0, 0);
                for (who, fences, upgraded) in holds {
                    let lock = clients[who].read_write_lock("a").unwrap();
                    let mut taken = Vec::new();
                    if upgraded {
                        let guard = lock.upgradeable_read().await.unwrap();
                        taken.push(guard.next_fence().unwrap());
                        let guard = guard.upgrade().await.unwrap();
                        (0..fences).for_each(|_| taken.push(guard.next_fence().unwrap()));
                        guard.release().await.unwrap();
                    } else {
                        let guard = lock.write().await.unwrap();
                        (0..fences).for_each(|_| taken.push(guard.next_fence().unwrap()));
                        guard.release().await.unwrap();
                    }
                    for fence in taken.iter().map(|fence| parse(fence)) {
                        assert!(fence > last, "{fence:?} after {last:?}");
                        last = fence;
                    }
                }
            });
        }
    }
}
