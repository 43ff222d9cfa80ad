//! What is installed beside: strict mode, fencing, and a place of its own for lock traffic in a busy API server.

use std::collections::BTreeSet;

use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use kube::api::ListParams;
use kube::{Api, Client};

use super::fetch::{Look, Miss, ask, list};
use super::report::{Finding, Object, Verdict};
use super::site::Site;

pub(super) const STRICT: &str = "strict";
pub(super) const FENCING: &str = "fencing";
pub(super) const FLOW: &str = "flow";

const STRICT_POLICIES: [&str; 3] = ["leasehold-strict-sessions", "leasehold-strict-locks", "leasehold-strict-shared"];
const FENCING_POLICY: &str = "leasehold-fencing";
/// The FlowSchema, and its priority level.
const FLOW_NAME: &str = "leasehold-locks";
/// Namespaces in which strict mode is to count.
const STRICT_LABEL: (&str, &str) = ("leasehold.dev/strict", "enabled");

#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// The names of all policies.
    pub(super) policies: Look<BTreeSet<String>>,
    pub(super) bindings: Look<Vec<ValidatingAdmissionPolicyBinding>>,
    pub(super) schema: Look<Option<FlowSchema>>,
    pub(super) level: Look<Option<PriorityLevelConfiguration>>,
    /// Those that were looked at and are labelled for strict mode.
    pub(super) strict: Look<Vec<String>>,
}

pub(super) async fn look(client: &Client, namespace: Option<&str>) -> Seen {
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(client.clone());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(client.clone());
    let schemas: Api<FlowSchema> = Api::all(client.clone());
    let levels: Api<PriorityLevelConfiguration> = Api::all(client.clone());
    let (policies, bindings, schema, level, strict) = tokio::join!(
        list(&policies, ListParams::default()),
        list(&bindings, ListParams::default()),
        ask(schemas.get_opt(FLOW_NAME)),
        ask(levels.get_opt(FLOW_NAME)),
        strict_namespaces(client, namespace),
    );
    let policies = policies.map(|all| all.into_iter().filter_map(|policy| policy.metadata.name).collect());
    Seen { policies, bindings, schema, level, strict }
}

async fn strict_namespaces(client: &Client, namespace: Option<&str>) -> Look<Vec<String>> {
    let api: Api<Namespace> = Api::all(client.clone());
    let all = match namespace {
        Some(name) => vec![ask(api.get(name)).await?],
        None => {
            let (label, value) = STRICT_LABEL;
            list(&api, ListParams::default().labels(&format!("{label}={value}"))).await?
        }
    };
    let strict = all.into_iter().filter(|one| {
        one.metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(STRICT_LABEL.0))
            .is_some_and(|it| it == STRICT_LABEL.1)
    });
    Ok(strict.filter_map(|one| one.metadata.name).collect())
}

impl Seen {
    /// Whether strict mode is meant to count where this looks, as far as can be told.
    pub(super) fn is_strict(&self) -> bool {
        self.strict.as_ref().is_ok_and(|strict| !strict.is_empty())
    }
}

pub(super) fn judge(site: &Site, seen: &Seen) -> Vec<Finding> {
    let mut found = of_strict(site, seen);
    found.extend(of_policies(site, seen, FENCING, &[FENCING_POLICY], "config/fencing"));
    found.extend(of_flow(site, seen));
    found
}

fn of_strict(site: &Site, seen: &Seen) -> Vec<Finding> {
    let mut found = of_policies(site, seen, STRICT, &STRICT_POLICIES, "config/strict");
    let namespace = |name: &str| Object::new("Namespace", name);
    let none = match &seen.policies {
        Ok(policies) => STRICT_POLICIES.iter().all(|policy| !policies.contains(*policy)),
        Err(_) => false,
    };
    match &seen.strict {
        Ok(strict) => found.extend(strict.iter().map(|name| match none {
            true => {
                let says = format!(
                    "it is labelled {}={}, and there are no policies: strict mode does not count",
                    STRICT_LABEL.0, STRICT_LABEL.1
                );
                Finding::new(STRICT, Verdict::Failed, namespace(name), says)
                    .fix("install the policies, or take off the label")
                    .command(site.kubectl(None, &["apply", "-k", "config/strict"]))
            }
            false => Finding::ok(STRICT, namespace(name), "it is labelled for strict mode"),
        })),
        Err(Miss::Absent) => found.push(
            Finding::new(STRICT, Verdict::Failed, namespace(&site.namespace), "there is no such namespace")
                .fix("create it, or name another (-n)")
                .command(site.kubectl(None, &["create", "namespace", &site.namespace])),
        ),
        Err(miss) => found.push(miss.finding(STRICT, namespace(if site.all { "" } else { &site.namespace }))),
    }
    found
}

/// Policies that belong together, and their bindings.
fn of_policies(site: &Site, seen: &Seen, check: &'static str, names: &[&str], from: &str) -> Vec<Finding> {
    let object = |kind, name: &str| Object::new(kind, name);
    let apply = site.kubectl(None, &["apply", "-k", from]);
    let policies = match &seen.policies {
        Ok(policies) => policies,
        Err(miss) => return vec![miss.finding(check, object("ValidatingAdmissionPolicies", ""))],
    };
    let bindings = match &seen.bindings {
        Ok(bindings) => bindings,
        Err(miss) => return vec![miss.finding(check, object("ValidatingAdmissionPolicyBindings", ""))],
    };
    let of = |policy: &str| -> Vec<&ValidatingAdmissionPolicyBinding> {
        let is_of = |one: &&ValidatingAdmissionPolicyBinding| {
            one.spec.as_ref().and_then(|spec| spec.policy_name.as_deref()) == Some(policy)
        };
        bindings.iter().filter(is_of).collect()
    };
    if names.iter().all(|name| !policies.contains(*name) && of(name).is_empty()) {
        let says = format!(
            "not installed: {}",
            match check {
                FENCING => "no object is protected by fencing tokens",
                _ => "whoever may write Leases in a namespace may write all of them",
            }
        );
        return vec![
            Finding::new(check, Verdict::Note, object("ValidatingAdmissionPolicy", names[0]), says)
                .fix("install it if you want it (docs/security.md, docs/fencing.md)")
                .command(apply),
        ];
    }
    let mut found = Vec::new();
    for name in names {
        let bound = of(name);
        match (policies.contains(*name), &bound[..]) {
            (false, []) => {
                let says = "it is missing, while others of the same mode are there: what it refuses is not refused";
                found.push(
                    Finding::new(check, Verdict::Failed, object("ValidatingAdmissionPolicy", name), says)
                        .fix("install it")
                        .command(apply.clone()),
                );
            }
            (true, []) => {
                let says = "no binding names it: it counts nowhere";
                found.push(
                    Finding::new(check, Verdict::Warning, object("ValidatingAdmissionPolicy", name), says)
                        .fix("install the binding")
                        .command(apply.clone()),
                );
            }
            (there, bound) => {
                for binding in bound {
                    let of = || {
                        object("ValidatingAdmissionPolicyBinding", binding.metadata.name.as_deref().unwrap_or_default())
                    };
                    let actions =
                        binding.spec.as_ref().and_then(|spec| spec.validation_actions.clone()).unwrap_or_default();
                    if !there {
                        let says = format!("its policy {name} is not there: it does nothing");
                        found.push(
                            Finding::new(check, Verdict::Failed, of(), says)
                                .fix("install the policy")
                                .command(apply.clone()),
                        );
                    } else if !actions.iter().any(|action| action == "Deny") {
                        let says = format!("it only says {}: nothing is refused", actions.join(", "));
                        found.push(
                            Finding::new(check, Verdict::Warning, of(), says)
                                .fix("let it say Deny")
                                .command(apply.clone()),
                        );
                    } else {
                        found.push(Finding::ok(check, of(), format!("policy {name} is installed, and bound")));
                    }
                }
            }
        }
    }
    found
}

fn of_flow(site: &Site, seen: &Seen) -> Vec<Finding> {
    let schema = || Object::new("FlowSchema", FLOW_NAME);
    let (there, level) = match (&seen.schema, &seen.level) {
        (Ok(schema), Ok(level)) => (schema, level.is_some()),
        (Err(miss), _) => return vec![miss.finding(FLOW, schema())],
        (_, Err(miss)) => return vec![miss.finding(FLOW, Object::new("PriorityLevelConfiguration", FLOW_NAME))],
    };
    let apply = site.kubectl(None, &["apply", "-k", "config/flowcontrol"]);
    let Some(there) = there else {
        let says = "not installed: in a busy API server heartbeats wait among all that service accounts ask for";
        return vec![
            Finding::new(FLOW, Verdict::Note, schema(), says)
                .fix("install it if the API server is busy (docs/operations.md#a-busy-api-server)")
                .command(apply),
        ];
    };
    let conditions = there.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let dangling = conditions
        .filter(|one| one.type_.as_deref() == Some("Dangling"))
        .any(|one| one.status.as_deref() == Some("True"));
    vec![if dangling || !level {
        let says = "its priority level is not there: it does nothing";
        Finding::new(FLOW, Verdict::Warning, schema(), says).fix("install both").command(apply)
    } else {
        Finding::ok(FLOW, schema(), "lock traffic of service accounts has a place of its own")
    }]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn binding(name: &str, action: &str) -> ValidatingAdmissionPolicyBinding {
        let spec = json!({"policyName": name, "validationActions": [action]});
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    }

    fn installed() -> Seen {
        let names: Vec<&str> = STRICT_POLICIES.into_iter().chain([FENCING_POLICY]).collect();
        Seen {
            policies: Ok(names.iter().map(|name| (*name).to_owned()).collect()),
            bindings: Ok(names.iter().map(|name| binding(name, "Deny")).collect()),
            schema: Ok(Some(FlowSchema::default())),
            level: Ok(Some(PriorityLevelConfiguration::default())),
            strict: Ok(vec!["ops".to_owned()]),
        }
    }

    fn bad(change: impl FnOnce(&mut Seen)) -> Vec<(&'static str, Verdict, String)> {
        let mut seen = installed();
        change(&mut seen);
        let found = judge(&Site::example(), &seen).into_iter().filter(|one| one.verdict != Verdict::Ok);
        found.map(|one| (one.check, one.verdict, format!("{}: {}", one.object.name, one.says))).collect()
    }

    #[test]
    fn what_is_whole_is_in_order() {
        assert_eq!(bad(|_| {}), []);
        assert!(installed().is_strict());
    }

    #[test]
    fn what_is_not_installed_is_noted() {
        let found = bad(|seen| {
            *seen = Seen {
                policies: Ok(BTreeSet::new()),
                bindings: Ok(Vec::new()),
                schema: Ok(None),
                level: Ok(None),
                strict: Ok(Vec::new()),
            };
        });
        assert_eq!(
            found.iter().map(|(check, verdict, _)| (*check, *verdict)).collect::<Vec<_>>(),
            [(STRICT, Verdict::Note), (FENCING, Verdict::Note), (FLOW, Verdict::Note)]
        );
    }

    #[test]
    fn halves_are_told() {
        let one = |change: fn(&mut Seen)| {
            let mut found = bad(change);
            assert_eq!(found.len(), 1, "{found:?}");
            let (_, verdict, says) = found.remove(0);
            (verdict, says)
        };
        let (verdict, says) = one(|seen| seen.bindings = Ok(seen.bindings.clone().unwrap().split_off(1)));
        assert_eq!(
            (verdict, &*says),
            (Verdict::Warning, "leasehold-strict-sessions: no binding names it: it counts nowhere")
        );
        let (verdict, says) = one(|seen| assert!(seen.policies.as_mut().unwrap().remove(FENCING_POLICY)));
        assert_eq!(
            (verdict, &*says),
            (Verdict::Failed, "leasehold-fencing: its policy leasehold-fencing is not there: it does nothing")
        );
        let (verdict, says) = one(|seen| {
            seen.policies.as_mut().unwrap().remove("leasehold-strict-locks");
            seen.bindings
                .as_mut()
                .unwrap()
                .retain(|one| one.metadata.name.as_deref() != Some("leasehold-strict-locks"));
        });
        assert!(verdict == Verdict::Failed && says.starts_with("leasehold-strict-locks: it is missing"), "{says}");
        let (verdict, says) = one(|seen| seen.bindings.as_mut().unwrap()[3] = binding(FENCING_POLICY, "Audit"));
        assert_eq!((verdict, &*says), (Verdict::Warning, "leasehold-fencing: it only says Audit: nothing is refused"));
        let (verdict, _) = one(|seen| seen.level = Ok(None));
        assert_eq!(verdict, Verdict::Warning);
    }

    #[test]
    fn a_label_without_policies_counts_for_nothing() {
        let found = bad(|seen| {
            seen.policies = Ok(BTreeSet::new());
            seen.bindings = Ok(Vec::new());
        });
        assert!(
            found.iter().any(|(check, verdict, says)| {
                (*check, *verdict) == (STRICT, Verdict::Failed)
                    && says.starts_with("ops: it is labelled leasehold.dev/strict=enabled")
            }),
            "{found:?}"
        );
    }

    #[test]
    fn who_may_not_look_is_told_so_once_for_each() {
        let no = || Miss::Forbidden("no".to_owned());
        let found = bad(|seen| {
            *seen = Seen {
                policies: Err(no()),
                bindings: Err(no()),
                schema: Err(no()),
                level: Err(no()),
                strict: Err(no()),
            }
        });
        assert!(found.iter().all(|(_, verdict, _)| *verdict == Verdict::Skipped), "{found:?}");
        assert_eq!(found.len(), 4);
    }
}
