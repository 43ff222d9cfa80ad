//! Requests, and what came of them. Nothing here judges.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt::Debug;
use std::future::pending;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::api::{ListParams, ObjectList};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout};

use super::report::{Finding, Object, Verdict};
use crate::exit::{chain, say};
use crate::forbidden;

/// How long to wait for one answer.
const LIMIT: Duration = Duration::from_secs(15);
/// How many objects to ask for at a time.
const PAGE: u32 = 500;
/// How many pages to ask for at most: more than any cluster has of what is looked at here.
const PAGES: usize = 400;
/// A look shorter than this is not worth a word.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often to say what is still looked at.
const AGAIN: Duration = Duration::from_secs(5);

/// Why something was not seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Miss {
    /// RBAC does not let this caller look: the message of the API server.
    Forbidden(String),
    /// The credentials are not accepted.
    Rejected(String),
    /// There is no such thing.
    Absent,
    Failed(String),
}

pub(super) type Look<T> = Result<T, Miss>;

impl Miss {
    fn of(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 401 => Self::Rejected(status.message.clone()),
            kube::Error::Api(status) if status.code == 403 => Self::Forbidden(status.message.clone()),
            kube::Error::Api(status) if status.code == 404 => Self::Absent,
            kube::Error::Api(status) => Self::Failed(status.message.clone()),
            error => Self::Failed(chain(error)),
        }
    }

    /// That this was not looked at, and why.
    pub(super) fn finding(&self, check: &'static str, object: Object) -> Finding {
        match self {
            Self::Forbidden(message) => {
                let why = forbidden::explain(message, &[]);
                let why = why.lines().next().unwrap_or_default().trim_start_matches("forbidden: ");
                let says = format!("it was not looked at: {why}");
                Finding::new(check, Verdict::Skipped, object, says)
                    .fix("let somebody look who may, or have this granted if it is for you to see")
            }
            Self::Absent => Finding::new(check, Verdict::Skipped, object, "the API server does not know such a thing")
                .fix("none is needed where it is not meant to be there"),
            Self::Rejected(why) | Self::Failed(why) => {
                Finding::new(check, Verdict::Warning, object, format!("it could not be looked at: {}", one_line(why)))
                    .fix("look again; where this stays, see to the API server first")
            }
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// One request, within a limit.
pub(super) async fn ask<T>(request: impl Future<Output = kube::Result<T>>) -> Look<T> {
    match timeout(LIMIT, request).await {
        Ok(answer) => answer.map_err(|error| Miss::of(&error)),
        Err(_) => Err(Miss::Failed(format!("no answer within {LIMIT:?}"))),
    }
}

/// All of a kind, page by page.
pub(super) async fn list<K>(api: &Api<K>, mut params: ListParams) -> Look<Vec<K>>
where
    K: Clone + Debug + DeserializeOwned,
{
    params = params.limit(PAGE);
    let mut all = Vec::new();
    for _ in 0..PAGES {
        let page: ObjectList<K> = ask(api.list(&params)).await?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(all),
        }
    }
    Err(Miss::Failed(format!("there are more than {}: look at one namespace", all.len())))
}

/// The API of a kind, in one namespace or in all.
pub(super) fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// What is being looked at.
#[derive(Debug, Default)]
pub(super) struct Stages(Mutex<BTreeSet<&'static str>>);

impl Stages {
    /// Does this, and knows of it meanwhile.
    pub(super) async fn at<T>(&self, what: &'static str, work: impl Future<Output = T>) -> T {
        self.set().insert(what);
        let done = work.await;
        self.set().remove(what);
        done
    }

    /// Says what is looked at while that takes long.
    pub(super) async fn tell(&self, quiet: bool) -> Infallible {
        if quiet {
            return pending().await;
        }
        sleep(PATIENCE).await;
        loop {
            let stages: Vec<&str> = self.set().iter().copied().collect();
            if !stages.is_empty() {
                say(format_args!("still at: {}", stages.join(", ")));
            }
            sleep(AGAIN).await;
        }
    }

    fn set(&self) -> std::sync::MutexGuard<'_, BTreeSet<&'static str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_look_is_told_what_is_missing() {
        let message = "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the \
                       namespace \"leasehold-system\"";
        let finding = Miss::Forbidden(message.to_owned()).finding("operator", Object::new("Pods", ""));
        assert_eq!(finding.verdict, Verdict::Skipped);
        assert!(finding.says.contains("user \"jane\" may not list pods"), "{finding:?}");
        assert!(!finding.says.contains('\n'));
        let failed = Miss::Failed("a\nb".to_owned()).finding("operator", Object::new("Pods", ""));
        assert_eq!((failed.verdict, failed.says.as_str()), (Verdict::Warning, "it could not be looked at: a b"));
    }
}
