//! From guards to handles.

use std::time::Duration;

use super::{Handle, HandleError, checked, unreadable};
use crate::access::Access;
use crate::clock;
use crate::error::{LossReason, ReadError, ReleaseError};
use crate::hold::Hold;
use crate::lock::LockGuard;
use crate::multi::MultiGuard;
use crate::rwlock::{ReadGuard, WriteGuard};
use crate::semaphore::Permits;

impl Hold {
    /// Leaves it on the Lease for so long from now on, under a handle.
    pub(crate) async fn into_handle(self, time: Duration) -> Result<Handle, HandleError> {
        let time = checked(time)?;
        let access: Access = self.access().clone();
        let namespace = access.client.namespace().to_owned();
        let record = access.read().await.map_err(|error| match error {
            ReadError::Api { source, .. } => {
                HandleError::Api { lease: access.lease.to_string(), namespace: namespace.clone(), source }
            }
            ReadError::Malformed(malformed) => unreadable(&access.lease, &namespace, &malformed),
        })?;
        self.check()?;
        let handle = record.as_ref().and_then(|record| {
            let holder = record.holding(self.id())?;
            Some(Handle {
                namespace: namespace.clone(),
                lease: access.lease.to_string(),
                uid: record.uid.clone(),
                transitions: holder.granted.is_none().then_some(record.transitions),
                id: self.id().clone(),
                until: None,
                allowed: self.allowed_until(),
            })
        });
        let handle = handle.ok_or_else(|| self.loss(LossReason::Broken))?;
        let sent = clock::moment();
        let time = time.min(handle.left_at(sent));
        if time.is_zero() {
            return Err(self.loss(LossReason::HeldTooLong).into());
        }
        self.keep(time).await.map_err(|error| match error {
            ReleaseError::Lost(lost) => HandleError::Lost(lost),
            ReleaseError::Unsettled { .. } => HandleError::Unsettled { lease: access.lease.to_string(), namespace },
        })?;
        Ok(handle.sent(sent, time))
    }
}

macro_rules! into_handle {
    ($guard:ident, $hold:ident => $into:expr) => {
        impl $guard {
            /// Leaves it on the Lease for so long from now on, whatever becomes of this process, under a [`Handle`] by which
            /// it can be renewed and released: 1 s to 10 years, rounded up to whole seconds, and no longer than the custom resource
            /// lets anybody hold it (`maxHoldSeconds`, counted from when this process had it). It costs a read and a write.
            ///
            /// # Cancel safety
            /// Cancelled, it is released, or stays for that time.
            ///
            /// # Errors
            /// [`HandleError::Lost`] where it was not held any more; [`HandleError::Api`] where the Lease could not be read:
            /// it is released then. [`HandleError::Unsettled`]: it may stand there for that time.
            pub async fn into_handle(self, time: Duration) -> Result<Handle, HandleError> {
                let $hold = self;
                $into.into_handle(time).await
            }

            /// [`into_handle`](Self::into_handle) without async.
            ///
            /// # Errors
            /// As there.
            #[cfg(feature = "blocking")]
            pub fn blocking_into_handle(self, time: Duration) -> Result<Handle, HandleError> {
                crate::blocking::wait(self.into_handle(time))
            }
        }
    };
}

into_handle!(LockGuard, guard => guard.0);
into_handle!(Permits, permits => permits.hold);
into_handle!(ReadGuard, guard => guard.0);
into_handle!(WriteGuard, guard => guard.0);

impl MultiGuard {
    /// Leaves all of it on the Leases for so long from now on, each under a [`Handle`], by namespace and name. Where one
    /// cannot be, those before it are released.
    ///
    /// # Cancel safety
    /// Cancelled, some are released, and some stay for that time.
    ///
    /// # Errors
    /// As [`LockGuard::into_handle`].
    pub async fn into_handles(self, time: Duration) -> Result<Vec<Handle>, HandleError> {
        let client = self.holds().first().map(|hold| hold.access().client.clone());
        let mut handles = Vec::with_capacity(self.holds().len());
        for hold in self.holds {
            match hold.into_handle(time).await {
                Ok(handle) => handles.push(handle),
                Err(error) => {
                    for handle in &handles {
                        if let Some(client) = &client {
                            let _ = client.release_handle(handle).await;
                        }
                    }
                    return Err(error);
                }
            }
        }
        Ok(handles)
    }
}
