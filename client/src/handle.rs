//! Holds that outlive the process which took them, by a text that names them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;

use crate::client::Client;
use crate::clock;
use crate::error::{ApiError, Lost, OptionsError};
use crate::protocol::write::kept;
use crate::protocol::{HolderId, Malformed, Moment, Record, deadline};
use crate::store::{Failure, within};

mod guards;

/// With this every handle begins.
const FORM: &str = "v1";
/// What stands in a handle where nothing is known.
const UNKNOWN: &str = "-";
/// The shortest and the longest term.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_hours(10 * 366 * 24);
/// The pause before a request is sent again that was refused or not answered.
const PAUSE: Duration = Duration::from_millis(50);

/// The name of a hold that stands on its Lease for a fixed term, whatever becomes of the process that took it.
///
/// [`LockGuard::into_handle`](crate::LockGuard::into_handle) and its like make one. It is a text without spaces or characters that a shell knows, so that
/// scripts can carry it ([`Display`](fmt::Display), [`FromStr`]); who has it renews the hold
/// ([`Client::renew_handle`]) or ends it ([`Client::release_handle`]), from any process and machine. It is no secret: it says
/// which hold is meant, and the API server says who may write the Lease.
///
/// The term counts from the time at which the request for it was *sent*, and [`remaining`](Self::remaining) ends before
/// anybody else can have it. Nothing tells of a loss before (somebody breaks it): look by `status()`, or renew. So it is for
/// work whose length is known, and that compares [tokens](crate::Hold::token) where it matters.
///
/// # When to use something else
/// A guard, wherever one process does the work: it is renewed by itself, and tells when it is lost.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use leasehold::{Client, Handle};
///
/// let client = Client::in_memory(); // in production: Client::try_default().await?
/// let guard = client.lock("invoice-run").build()?.acquire().await?;
/// let text = guard.into_handle(Duration::from_secs(600)).await?.to_string();
///
/// // Elsewhere, later.
/// let handle: Handle = text.parse()?;
/// let handle = client.renew_handle(&handle, Duration::from_secs(600)).await?;
/// client.release_handle(&handle).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Handle {
    namespace: String,
    lease: String,
    uid: String,
    /// The tenancy, of an exclusive hold. A share is named by its id alone.
    transitions: Option<i32>,
    id: HolderId,
    /// Until when it may be believed in, by the clock of the machine on which it was made.
    until: Option<(String, Moment)>,
    /// Until when the custom resource lets anybody have it, by the same clock.
    allowed: Option<Moment>,
}

/// A text that is no [`Handle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a handle: v1/<namespace>/<Lease>/<uid>/<tenancy>/<holder>/<boot>/<until>[/<allowed>] is expected")]
pub struct BadHandle;

/// Why a hold was not left under a [`Handle`], renewed, or released.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError {
    /// It is over: its term has ended and somebody else may have it, or it was released or broken.
    #[error("what was held on Lease {lease:?} in namespace {namespace:?} is over: {why}; acquire it anew")]
    Over {
        /// The Lease's name.
        lease: String,
        /// Its namespace.
        namespace: String,
        /// How that is known.
        why: String,
    },
    /// It was lost before it could be left there.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// The term, or the namespace, will not do.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The API server did not do it.
    #[error("Lease {lease:?} in namespace {namespace:?} was not changed: {source}")]
    Api {
        /// The Lease's name.
        lease: String,
        /// Its namespace.
        namespace: String,
        /// What it had against it.
        source: ApiError,
    },
    /// No clear answer came. It may have been carried out; trying again does no harm.
    #[error("Lease {lease:?} in namespace {namespace:?}: it is not clear whether that was carried out; try again")]
    Unsettled {
        /// The Lease's name.
        lease: String,
        /// Its namespace.
        namespace: String,
    },
}

impl HandleError {
    /// Whether the same call may succeed later with nothing changed by the caller.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Over { .. } | Self::Lost(_) | Self::Options(_) => false,
            Self::Api { source, .. } => source.is_retryable(),
            Self::Unsettled { .. } => true,
        }
    }
}

impl Handle {
    /// The namespace of the Lease.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name of the Lease.
    #[must_use]
    pub fn lease_name(&self) -> &str {
        &self.lease
    }

    /// The holder's identity, as it stands on the Lease.
    #[must_use]
    pub fn holder_identity(&self) -> String {
        self.id.to_string()
    }

    /// For how long it may be believed in from now on, zero when its term has ended. `None` on another machine than the one
    /// on which it was made or renewed last, or where that was started since: nobody's clock tells there.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        let (boot, until) = self.until.as_ref()?;
        (clock::boot().as_deref() == Some(boot)).then(|| until.since(clock::moment()))
    }

    /// Its times are by the clock of this machine, as it runs now.
    fn is_of_here(&self) -> bool {
        let here = clock::boot();
        self.until.as_ref().is_some_and(|(boot, _)| here.as_ref() == Some(boot))
    }

    /// For how long it may stay there from then on, by a clock of this machine.
    fn left_at(&self, moment: Moment) -> Duration {
        self.allowed.map_or(Duration::MAX, |allowed| allowed.since(moment))
    }

    /// The same hold, with a term that was asked for at this moment.
    fn sent(mut self, at: Moment, time: Duration) -> Self {
        self.until = clock::boot().map(|boot| (boot, deadline(at, time, Duration::ZERO)));
        self
    }

    fn over(&self, why: impl Into<String>) -> HandleError {
        HandleError::Over { lease: self.lease.clone(), namespace: self.namespace.clone(), why: why.into() }
    }

    /// The hold as it stands there, or why it does not any more.
    fn find<'a>(&self, record: &'a Record) -> Result<&'a crate::protocol::Holder, String> {
        if record.uid != self.uid {
            return Err("the Lease was removed, and made anew since".to_owned());
        }
        let same = self.transitions.is_none_or(|transitions| transitions == record.transitions);
        kept::find(record, &self.id).filter(|_| same).ok_or_else(|| match &record.holder {
            Some(holder) => format!("it is held by {} now", holder.identity),
            None => "it is not held by this handle any more".to_owned(),
        })
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, lease, uid, transitions, id, until, allowed } = self;
        write!(f, "{FORM}/{namespace}/{lease}/{uid}/")?;
        match transitions {
            Some(transitions) => write!(f, "{transitions}/{id}/")?,
            None => write!(f, "{UNKNOWN}/{id}/")?,
        }
        match until {
            Some((boot, until)) => write!(f, "{boot}/{}", until.since_start().as_millis())?,
            None => return write!(f, "{UNKNOWN}/{UNKNOWN}"),
        }
        allowed.iter().try_for_each(|allowed| write!(f, "/{}", allowed.since_start().as_millis()))
    }
}

impl FromStr for Handle {
    type Err = BadHandle;

    fn from_str(text: &str) -> Result<Self, BadHandle> {
        let parts: Vec<&str> = text.trim().split('/').collect();
        let [FORM, namespace, lease, uid, transitions, id, boot, until, ref allowed @ ..] = parts[..] else {
            return Err(BadHandle);
        };
        let moment = |text: &str| {
            text.parse().map(|millis| Moment::from_start(Duration::from_millis(millis))).map_err(|_| BadHandle)
        };
        let allowed = match allowed {
            [] => None,
            [allowed] => Some(moment(allowed)?),
            _ => return Err(BadHandle),
        };
        let name = |text: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            (!text.is_empty() && text != UNKNOWN && text.chars().all(known)).then(|| text.to_owned()).ok_or(BadHandle)
        };
        let unless_unknown = |text: &'_ str| (text != UNKNOWN).then(|| text.to_owned());
        let boot = unless_unknown(boot).map(|boot| name(&boot)).transpose()?;
        let until = unless_unknown(until).map(|until| moment(&until)).transpose()?;
        let transitions = unless_unknown(transitions);
        Ok(Self {
            namespace: name(namespace)?,
            lease: name(lease)?,
            uid: name(uid)?,
            transitions: transitions.map(|number| number.parse().map_err(|_| BadHandle)).transpose()?,
            id: id.parse().map_err(|_| BadHandle)?,
            until: boot.zip(until),
            allowed,
        })
    }
}

fn checked(time: Duration) -> Result<Duration, OptionsError> {
    if time < SHORTEST || time > LONGEST {
        return Err(OptionsError::new("time", format!("{time:?} will not do: 1 s to 10 years are possible")));
    }
    // A Lease counts whole seconds.
    Ok(Duration::from_secs(time.as_secs() + u64::from(time.subsec_nanos() > 0)))
}

#[cfg(feature = "blocking")]
impl Client {
    /// [`renew_handle`](Self::renew_handle) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_renew_handle(&self, handle: &Handle, time: Duration) -> Result<Handle, HandleError> {
        crate::blocking::wait(self.renew_handle(handle, time))
    }

    /// [`release_handle`](Self::release_handle) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_release_handle(&self, handle: &Handle) -> Result<(), HandleError> {
        crate::blocking::wait(self.release_handle(handle))
    }
}

fn unreadable(lease: &str, namespace: &str, malformed: &Malformed) -> HandleError {
    let source = ApiError::Invalid { message: malformed.to_string() };
    HandleError::Api { lease: lease.to_owned(), namespace: namespace.to_owned(), source }
}

/// What a handle is used for.
#[derive(Clone, Copy)]
enum Use {
    Renew(Duration),
    Release,
}

impl Client {
    /// Lets what this handle names stay for so long from now on (1 s to 10 years, rounded up to whole seconds), and returns the
    /// handle with its new term. It costs a read and a write.
    ///
    /// Where the custom resource bounds for how long it may be held (`maxHoldSeconds`), it stays no longer than that in all,
    /// counted from when it was acquired, and the handle says so. Only the machine on which it was acquired knows.
    ///
    /// It cannot bring back what somebody else has taken over: its condition is the same tenancy. And by the clock of the
    /// machine on which the handle was made (or last renewed), one whose term has ended is over, even if nobody has taken it
    /// since: use the handle that the last renewal returned.
    ///
    /// # Cancel safety
    /// Cancelled, it may or may not be carried out.
    ///
    /// # Errors
    /// [`HandleError::Over`] where it is over; [`HandleError::Api`], [`HandleError::Unsettled`] where the API server did not do
    /// it, or it is not known whether it did.
    pub async fn renew_handle(&self, handle: &Handle, time: Duration) -> Result<Handle, HandleError> {
        let time = checked(time)?;
        if handle.remaining().is_some_and(|left| left.is_zero()) {
            return Err(handle.over("its term has ended, by this machine's clock"));
        }
        // What another machine's clock says is nothing to this one.
        let mut handle = handle.clone();
        handle.allowed = handle.allowed.filter(|_| handle.is_of_here());
        if handle.left_at(clock::moment()).is_zero() {
            return Err(handle.over("its custom resource lets nobody hold it for longer (maxHoldSeconds)"));
        }
        let sent = self.use_handle(&handle, Use::Renew(time)).await?;
        let left = handle.left_at(sent);
        let renewed = handle.sent(sent, time.min(left));
        // The way there and back may have taken longer than all of it.
        match renewed.remaining() {
            Some(left) if left.is_zero() => Err(renewed.over("the new term has ended before the answer came")),
            _ => Ok(renewed),
        }
    }

    /// Ends what this handle names, and hands it to whoever is first in the queue. It costs a read and a write.
    ///
    /// It never ends another's hold: its condition is the same tenancy.
    ///
    /// # Cancel safety
    /// Cancelled, it may or may not be carried out.
    ///
    /// # Errors
    /// As [`renew_handle`](Self::renew_handle). [`HandleError::Over`] where it was over already.
    pub async fn release_handle(&self, handle: &Handle) -> Result<(), HandleError> {
        self.use_handle(handle, Use::Release).await.map(drop)
    }

    /// When the request was sent that was carried out.
    async fn use_handle(&self, handle: &Handle, what: Use) -> Result<Moment, HandleError> {
        if handle.namespace != self.namespace() {
            let problem =
                format!("the handle is of namespace {:?}, this client of {:?}", handle.namespace, self.namespace());
            return Err(OptionsError::new("namespace", problem).into());
        }
        let shared = self.inner().shared.clone();
        let handle = handle.clone();
        let request = async move {
            let limit = shared.request_timeout;
            let until = clock::moment() + limit * 3;
            let (mut unclear, mut keep_lease) = (None, false);
            loop {
                let read = within(limit, shared.store.read(&handle.lease)).await;
                let record = match read.and_then(parse) {
                    Ok(record) => record,
                    // What this has sent before may have removed it.
                    Err(Failure::Absent) => return gone(&handle, what, unclear, "the Lease was removed"),
                    Err(Failure::Unclear(_) | Failure::Throttled(_)) if clock::moment() < until => {
                        clock::sleep(PAUSE).await;
                        continue;
                    }
                    Err(failure) => return Err(refused(&handle, failure)),
                };
                let holder = match handle.find(&record) {
                    Ok(holder) => holder,
                    Err(why) => return gone(&handle, what, unclear, &why),
                };
                let now = clock::now();
                let write = match what {
                    Use::Renew(_) if record.policy.max_hold.is_some() && handle.allowed.is_none() => {
                        let problem = "its custom resource bounds for how long it may be held (maxHoldSeconds), and how much \
                                       of that is left is known only to the handle of a process that acquired it under that \
                                       bound, on the same machine: acquire it for as long as it takes, or acquire it anew";
                        return Err(OptionsError::new("time", problem).into());
                    }
                    Use::Renew(time) => kept::renew(&record, holder, time.min(handle.left_at(now.moment)), now.stamp),
                    Use::Release => kept::release(&record, holder, keep_lease, now.stamp),
                };
                match within(limit, shared.store.write(&handle.lease, &write)).await {
                    Ok(_) => return Ok(now.moment),
                    Err(Failure::Refused | Failure::Absent) => {}
                    Err(Failure::Forbidden(_)) if matches!(write, crate::protocol::Write::Delete { .. }) => {
                        keep_lease = true;
                    }
                    Err(Failure::Unclear(_)) => unclear = Some(now.moment),
                    Err(Failure::Throttled(_)) if clock::moment() < until => {}
                    Err(failure) => return Err(refused(&handle, failure)),
                }
                if clock::moment() >= until {
                    let (lease, namespace) = (handle.lease.clone(), handle.namespace.clone());
                    return Err(HandleError::Unsettled { lease, namespace });
                }
                clock::sleep(PAUSE).await;
            }
        };
        self.inner().shared.tasks.run(request).await
    }
}

/// It does not stand there: a release whose answer never came did that, or it is over.
fn gone(handle: &Handle, what: Use, unclear: Option<Moment>, why: &str) -> Result<Moment, HandleError> {
    match (what, unclear) {
        (Use::Release, Some(sent)) => Ok(sent),
        _ => Err(handle.over(why)),
    }
}

fn parse(lease: Lease) -> Result<Record, Failure> {
    Record::parse(lease).map_err(|malformed| Failure::Invalid(malformed.to_string()))
}

fn refused(handle: &Handle, failure: Failure) -> HandleError {
    let source = match failure {
        Failure::Forbidden(message) => ApiError::Forbidden { message },
        Failure::Invalid(message) => ApiError::Invalid { message },
        failure => ApiError::Unavailable { message: failure.to_string() },
    };
    HandleError::Api { lease: handle.lease.clone(), namespace: handle.namespace.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_written_and_read() {
        let text = "v1/ops/nightly/6f1c-1/7/web-0_k3j9x2m1qa.7/0a1b-2/123456";
        let handle: Handle = text.parse().unwrap();
        assert_eq!(handle.to_string(), text);
        assert_eq!((handle.namespace(), handle.lease_name()), ("ops", "nightly"));
        assert_eq!(handle.holder_identity(), "web-0_k3j9x2m1qa.7");
        // Of another start of the machine nobody's clock tells.
        assert_eq!(handle.remaining(), None);
        let bounded = format!("{text}/234567");
        assert_eq!(bounded.parse::<Handle>().unwrap().to_string(), bounded);
        assert!(format!("{bounded}/1").parse::<Handle>().is_err());
        let share = "v1/ops/db/6f1c-1/-/web-0_k3j9x2m1qa.7/-/-";
        assert_eq!(share.parse::<Handle>().unwrap().to_string(), share);
        for bad in [
            "",
            "nightly",
            "v2/ops/nightly/u/7/web-0_k3j9x2m1qa.7/-/-",
            "v1/ops/night ly/u/7/web-0_k3.7/-/-",
            "v1/ops/nightly/u/x/web-0_k3.7/-/-",
            "v1/ops/nightly/u/7/web-0/-/-",
            "v1//nightly/u/7/web-0_k3.7/-/-",
            "v1/ops/nightly/u/7/web-0_k3.7/-/-/",
        ] {
            assert_eq!(bad.parse::<Handle>(), Err(BadHandle), "{bad}");
        }
    }

    #[test]
    fn a_term_counts_from_the_sending() {
        let handle: Handle = "v1/ops/nightly/u/7/web-0_k3j9x2m1qa.7/-/-".parse().unwrap();
        let handle = handle.sent(clock::moment() - Duration::from_secs(40), Duration::from_secs(60));
        if let Some(left) = handle.remaining() {
            assert!(left < Duration::from_secs(20), "{left:?}");
        }
    }
}
