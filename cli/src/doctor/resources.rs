//! The custom resources: what their conditions say that somebody has to do something about.

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client};

use super::definitions::KINDS;
use super::fetch::{Look, Miss, list};
use super::report::{Finding, Object, Verdict};
use super::site::Site;

pub(super) const CHECK: &str = "resources";

/// A resource that has no status by then has been seen by no operator.
const UNSEEN: SignedDuration = SignedDuration::from_mins(1);

/// What the API server has of each kind, in the order of [`KINDS`].
pub(super) type Seen = Vec<Look<Vec<DynamicObject>>>;

pub(super) async fn look(client: &Client, namespace: Option<&str>) -> Seen {
    join_all(KINDS.map(|(plural, kind, _)| async move {
        let kind = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("leasehold.dev", "v1alpha1", kind), plural);
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &kind),
            None => Api::all_with(client.clone(), &kind),
        };
        list(&api, ListParams::default()).await
    }))
    .await
}

pub(super) fn judge(site: &Site, seen: &Seen, now: Timestamp) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut count = 0;
    for ((plural, kind, _), resources) in KINDS.iter().zip(seen) {
        match resources {
            Ok(resources) => {
                count += resources.len();
                found.extend(resources.iter().flat_map(|one| of_one(site, kind, one, now)));
            }
            // The definitions are told of elsewhere.
            Err(Miss::Absent) => {}
            Err(miss) => found.push(miss.finding(CHECK, Object::new("resources", *plural))),
        }
    }
    if found.is_empty() {
        let object = match site.all {
            true => Object::new("resources", "in all namespaces"),
            false => Object::namespaced("resources", &site.namespace, ""),
        };
        found.push(Finding::ok(CHECK, object, format!("{count} of them, none of which has anything to complain of")));
    }
    found
}

fn of_one(site: &Site, kind: &'static str, resource: &DynamicObject, now: Timestamp) -> Vec<Finding> {
    let meta = &resource.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let namespace = meta.namespace.clone().unwrap_or_default();
    let of = |verdict, says: String| Finding::new(CHECK, verdict, Object::namespaced(kind, &namespace, &name), says);
    let kubectl = |words: &[&str]| site.kubectl(Some(&namespace), words);
    let describe = kubectl(&["describe", &kind.to_lowercase(), &name]);
    let conditions = resource.data.pointer("/status/conditions").cloned().unwrap_or_default();
    let conditions: Vec<Condition> = serde_json::from_value(conditions).unwrap_or_default();
    if conditions.is_empty() {
        let age = meta.creation_timestamp.as_ref().map(|time| now.duration_since(time.0));
        if age.is_none_or(|age| age < UNSEEN) {
            return Vec::new();
        }
        let says = "it has no status: no operator has looked at it";
        return vec![
            of(Verdict::Warning, says.to_owned())
                .fix("see that an operator runs, and watches this namespace (--namespace)")
                .command(
                    site.kubectl(
                        Some(&site.operator_namespace),
                        &["get", "deploy", "leasehold-operator", "-o", "yaml"],
                    ),
                ),
        ];
    }
    let mut found = Vec::new();
    for condition in conditions {
        let Condition { type_, status, reason, message, .. } = &condition;
        let says =
            |what: &str| format!("it {what} ({reason}): {}", message.split_whitespace().collect::<Vec<_>>().join(" "));
        match (&**type_, &**status) {
            ("Ready", "True") => {}
            ("Ready", _) => {
                let fix = match &**reason {
                    "LeaseForbidden" => "let the operator write it: apply config/rbac, or see to the policy that refuses it",
                    "LeaseOwnedByOther" | "LeaseOfOtherKind" => "give one of the two another name, or do as the message says",
                    "LeaseUnreadable" => "upgrade the operator",
                    _ => "do as the message says",
                };
                found.push(of(Verdict::Failed, says("is not ready")).fix(fix).command(describe.clone()));
            }
            ("Deadlocked", "True") => found.push(
                of(Verdict::Failed, says("is part of a deadlock"))
                    .fix("end one of those named, or ask it to let go; then let all take their locks in one order (docs/guide.md)")
                    .command(kubectl(&["leasehold", "ask", &name, "--reason", "it is part of a deadlock"])),
            ),
            ("Abandoned", "True") => found.push(
                of(Verdict::Warning, says("is held by somebody dead"))
                    .fix("see that what it did is whole, then break it")
                    .command(kubectl(&["leasehold", "break", &name, "--reason", "its holder is dead"])),
            ),
            ("Terminating", "True") => found.push(
                of(Verdict::Note, says("is deleted, and waits for its users"))
                    .fix("wait for them, or ask them to let go")
                    .command(kubectl(&["leasehold", "ask", &name, "--reason", "it is being removed"])),
            ),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn judged(status: Value) -> Vec<Finding> {
        let resource = json!({
            "apiVersion": "leasehold.dev/v1alpha1", "kind": "DistributedLock",
            "metadata": {"name": "a", "namespace": "ops", "creationTimestamp": "2026-11-22T05:00:00Z"},
            "status": status,
        });
        let seen = vec![Ok(vec![serde_json::from_value(resource).unwrap()]), Ok(Vec::new()), Err(Miss::Absent)];
        judge(&Site::example(), &seen, "2026-11-22T06:00:00Z".parse().unwrap())
    }

    fn condition(type_: &str, status: &str, reason: &str) -> Value {
        json!({"type": type_, "status": status, "reason": reason, "message": "so\nit is",
            "lastTransitionTime": "2026-11-22T05:00:00Z"})
    }

    #[test]
    fn conditions_are_told_with_their_messages() {
        let ready = condition("Ready", "True", "LeaseReady");
        let good = judged(json!({"conditions": [ready, condition("Deadlocked", "False", "Over")]}));
        assert_eq!((good.len(), good[0].verdict), (1, Verdict::Ok));
        let bad = [
            condition("Ready", "False", "LeaseForbidden"),
            condition("Deadlocked", "True", "Circle"),
            condition("Abandoned", "True", "NeverReclaimed"),
            condition("Terminating", "True", "InUse"),
        ];
        let found = judged(json!({ "conditions": bad }));
        use Verdict::{Failed, Note, Warning};
        assert_eq!(found.iter().map(|one| one.verdict).collect::<Vec<_>>(), [Failed, Failed, Warning, Note]);
        assert_eq!(found[0].says, "it is not ready (LeaseForbidden): so it is");
        assert_eq!(found[0].command.as_deref().unwrap(), "kubectl describe distributedlock a -n ops --context dev");
    }

    #[test]
    fn one_that_no_operator_has_seen_is_told() {
        let [one] = &judged(Value::Null)[..] else { panic!() };
        assert!(one.says.contains("no operator has looked at it"), "{one:?}");
    }
}
