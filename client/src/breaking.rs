//! Breaking what others hold.

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::Api;
use kube::api::PostParams;

use crate::access::Access;
use crate::client::Client;
use crate::clock;
use crate::error::{ApiError, BreakError, OptionsError, ReadError};
use crate::protocol::record::LONGEST_REASON;
use crate::protocol::write::breaking::break_hold;
use crate::protocol::{Holder, Record};
use crate::store::kube::{causes, connect};
use crate::store::{Failure, within};

impl Client {
    /// Breaks holds of this lock, semaphore or read-write lock: takes them from their holders, who may be alive. Whose
    /// identities were broken.
    ///
    /// `of` names one holder by its identity; `None` means everybody who holds it now. A lock goes to its first waiter, or is
    /// free. What is shared is free, and the first in the queue is told. It costs a read, a question to the API server as
    /// whom it knows this client, and a write for each holder.
    ///
    /// **The former holder may still be at work**: it hears of it within a renew interval, and at once where it watches.
    /// Until then only what compares [fencing tokens](crate::Hold::token) is safe. Where that does no harm,
    /// [`request_release`](crate::Lock::request_release) is better: it asks.
    ///
    /// Who broke it, when and why stands on the Lease from then on ([`Broken`](crate::protocol::record::Broken)), and the
    /// operator tells it as an Event. Where strict mode is on (`config/strict`) it takes the verb `break` on the resource
    /// of this name, and the API server vouches for who did it; elsewhere whoever may write the Lease may.
    ///
    /// `reason` is for people: 1 to 256 bytes without control characters.
    ///
    /// # Cancel safety
    /// Cancelled, some may have been broken.
    ///
    /// # Errors
    /// [`BreakError`] where the name or the reason will not do, or the API server did not do it.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example(client: leasehold::Client) -> Result<(), leasehold::BreakError> {
    /// for holder in client.break_holds("nightly-report", None, "its node does not answer").await? {
    ///     println!("{holder} has lost it");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn break_holds(&self, name: &str, of: Option<&str>, reason: &str) -> Result<Vec<String>, BreakError> {
        let access = Access::new(self.clone(), name)?;
        let reason = reason.trim();
        if reason.is_empty() || reason.len() > LONGEST_REASON || reason.contains(char::is_control) {
            let problem = format!("{reason:?} will not do: 1 to {LONGEST_REASON} bytes without control characters");
            return Err(OptionsError::new("reason", problem).into());
        }
        let Some(mut record) = access.read().await? else { return Ok(Vec::new()) };
        let concerned = |holder: &&Holder| of.is_none_or(|of| of == holder.identity);
        // Whoever comes later is not meant.
        let all: Vec<Holder> = record.holders().filter(concerned).cloned().collect();
        if all.is_empty() {
            return Ok(Vec::new());
        }
        let by = self.username().await.map_err(|source| BreakError::Api { name: name.to_owned(), source })?;
        let mut broken = Vec::new();
        let tenancy = record.tenancy();
        for meant in all {
            loop {
                // Other clients' identities come again, in another tenancy.
                let is_same = |holder: &&Holder| {
                    holder.identity == meant.identity && (holder.id.is_some() || record.tenancy() == tenancy)
                };
                let Some(holder) = record.holders().find(is_same) else { break };
                let write = break_hold(&record, holder, &by, reason, clock::now().stamp);
                match access.write(write).await {
                    Ok(lease) => {
                        broken.push(meant.identity.clone());
                        record = lease.map(Record::parse).transpose().map_err(ReadError::from)?.unwrap_or(record);
                        break;
                    }
                    // Something has changed since, or nobody knows: a read tells.
                    Err(Failure::Refused | Failure::Absent) => match access.read().await? {
                        Some(now) => record = now,
                        None => return Ok(broken),
                    },
                    Err(Failure::Unclear(_)) => return Err(BreakError::Unsettled { name: name.to_owned() }),
                    Err(failure) => {
                        let source = api_error(failure);
                        return Err(BreakError::Api { name: name.to_owned(), source });
                    }
                }
            }
        }
        Ok(broken)
    }

    /// As whom the API server knows this client. One without a cluster is known by its host's name.
    async fn username(&self) -> Result<String, ApiError> {
        let inner = self.inner();
        let Some(config) = inner.config.clone() else { return Ok(inner.host.clone()) };
        let ask = Box::pin(async move {
            let client = connect(config).map_err(|error| Failure::Invalid(causes(&error)))?;
            let reviews: Api<SelfSubjectReview> = Api::all(client);
            match reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await {
                Ok(review) => Ok(review.status.and_then(|status| status.user_info?.username).unwrap_or_default()),
                Err(kube::Error::Api(status)) => Err(Failure::of(&status)),
                Err(error) => Err(Failure::Unclear(causes(&error))),
            }
        });
        let limit = inner.shared.request_timeout;
        let answer = inner.shared.tasks.run(async move { within(limit, ask).await }).await;
        answer.map_err(api_error)
    }
}

fn api_error(failure: Failure) -> ApiError {
    match failure {
        Failure::Forbidden(message) => ApiError::Forbidden { message },
        Failure::Invalid(message) => ApiError::Invalid { message },
        failure => ApiError::Unavailable { message: failure.to_string() },
    }
}
