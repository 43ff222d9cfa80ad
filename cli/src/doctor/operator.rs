//! The operator: whether one acts, how its Deployment does, and whether it is of this release.

use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::ListParams;
use leasehold::clock;
use leasehold::protocol::{Holder, LONGEST_SESSION, Liveness, Record};

use super::census::{SLACK, place_of, told};
use super::fetch::{Look, Miss, api, ask, list};
use super::report::{Finding, Object, Verdict};
use super::server::Clock;
use super::site::Site;

pub(super) const CHECK: &str = "operator";

/// The Deployment, and the Lease by which its replicas elect the one that acts.
const NAME: &str = "leasehold-operator";
const PODS: &str = "app.kubernetes.io/name=leasehold-operator";

/// What is to be seen of it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// The election; `None` where nobody ever held one there.
    pub(super) lease: Look<Option<Lease>>,
    pub(super) deployment: Look<Option<Deployment>>,
    pub(super) pods: Look<Vec<Pod>>,
    /// Elections of that name in other namespaces, where the caller may look there.
    pub(super) elsewhere: Vec<Lease>,
    /// This machine's time when it was looked at.
    pub(super) at: jiff::Timestamp,
    /// The election as it was before, and for how long this watched since.
    pub(super) before: Option<(Lease, Duration)>,
}

/// What depends on it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    /// The custom resources are defined.
    pub(super) defined: bool,
    /// Strict mode counts in a namespace that was looked at.
    pub(super) strict: bool,
}

/// One look, or two where it is to be watched.
pub(super) async fn look(client: &Client, namespace: &str, watch_for: Option<Duration>) -> Seen {
    let first = look_once(client, namespace).await;
    let (Some(time), Ok(Some(lease))) = (watch_for, &first.lease) else { return first };
    let Some((_, Some(lives_for), _)) = elected(lease) else { return first };
    let since = clock::moment();
    clock::sleep_until(since + time.min(lives_for)).await;
    let time = clock::moment().since(since);
    let before = Some((lease.clone(), time));
    Seen { before, ..look_once(client, namespace).await }
}

/// Who is elected, for how long each renewal counts (where it lives by those), and the last, by its own timestamp.
fn elected(lease: &Lease) -> Option<(String, Option<Duration>, Option<jiff::Timestamp>)> {
    let Holder { identity, renewed, liveness, .. } = Record::parse(lease.clone()).ok()?.holder?;
    let lives_for = match liveness {
        Liveness::Own(duration) => Some(duration),
        Liveness::Session(_) => None,
    };
    Some((identity, lives_for, renewed))
}

async fn look_once(client: &Client, namespace: &str) -> Seen {
    let at = leasehold::clock::now().stamp;
    let (leases, deployments) = (api::<Lease>(client, Some(namespace)), api::<Deployment>(client, Some(namespace)));
    let (pods, all) = (api::<Pod>(client, Some(namespace)), api::<Lease>(client, None));
    let (lease, deployment, pods, elsewhere) = tokio::join!(
        ask(leases.get_opt(NAME)),
        ask(deployments.get_opt(NAME)),
        list(&pods, ListParams::default().labels(PODS)),
        list(&all, ListParams::default().fields(&format!("metadata.name={NAME}"))),
    );
    let mut elsewhere = elsewhere.unwrap_or_default();
    elsewhere.retain(|lease| lease.metadata.namespace.as_deref() != Some(namespace));
    Seen { lease, deployment, pods, elsewhere, at, before: None }
}

pub(super) fn judge(site: &Site, seen: &Seen, wanted: Wanted, clock: Option<Clock>) -> Vec<Finding> {
    let now = clock.map_or(seen.at, |clock| clock.at(seen.at));
    let mut found = vec![of_election(site, seen, wanted, now)];
    match &seen.deployment {
        Ok(Some(deployment)) => found.extend(of_deployment(site, deployment)),
        Ok(None) | Err(Miss::Absent) => {}
        Err(miss) => found.push(miss.finding(CHECK, of_operator(site, "Deployment"))),
    }
    match &seen.pods {
        Ok(pods) => found.extend(pods.iter().filter_map(|pod| of_pod(site, pod))),
        Err(Miss::Absent) => {}
        Err(miss) => found.push(miss.finding(CHECK, Object::namespaced("Pods", &site.operator_namespace, NAME))),
    }
    for lease in &seen.elsewhere {
        if let Election::Acts(holder, _) = Election::of(lease, None, now) {
            let (namespace, name) = place_of(lease);
            let says = format!("{holder} acts there as well: that does no harm to locks, but two write status");
            found.push(
                Finding::new(CHECK, Verdict::Note, Object::lease(&namespace, &name), says)
                    .fix("let them watch different namespaces (--namespace), or share one election (--leader-election-namespace)")
                    .command(site.kubectl(Some(&namespace), &["get", "lease", &name, "-o", "yaml"])),
            );
        }
    }
    found
}

fn of_operator(site: &Site, kind: &'static str) -> Object {
    Object::namespaced(kind, &site.operator_namespace, NAME)
}

/// Who is elected, as the Lease says.
#[derive(Debug, PartialEq, Eq)]
enum Election {
    /// Renewed so long ago, by its own timestamp.
    Acts(String, SignedDuration),
    Silent(String, SignedDuration),
    /// Not renewed for so long while this watched, which is for as long as it counts.
    Dead(String, Duration),
    Nobody,
    Unreadable(String),
}

impl Election {
    /// `before`: what stood there before, and how long ago that is.
    fn of(lease: &Lease, before: Option<&(Lease, Duration)>, now: jiff::Timestamp) -> Self {
        if let Err(error) = Record::parse(lease.clone()) {
            return Self::Unreadable(error.to_string());
        }
        let Some((identity, lives_for, renewed)) = elected(lease) else { return Self::Nobody };
        let age = renewed.map_or(SignedDuration::MAX, |renewed| now.duration_since(renewed));
        if let Some((before, time)) = before {
            if before.metadata.uid != lease.metadata.uid || elected(before) != elected(lease) {
                return Self::Acts(identity, age);
            }
            if lives_for.is_some_and(|lives_for| *time >= lives_for) {
                return Self::Dead(identity, *time);
            }
        }
        let lives_for = SignedDuration::try_from(lives_for.unwrap_or(LONGEST_SESSION)).unwrap_or(SignedDuration::MAX);
        if age > lives_for.saturating_add(SLACK) { Self::Silent(identity, age) } else { Self::Acts(identity, age) }
    }
}

fn of_election(site: &Site, seen: &Seen, wanted: Wanted, now: jiff::Timestamp) -> Finding {
    let object = of_operator(site, "Lease");
    let grave = if wanted.strict {
        Verdict::Failed
    } else if wanted.defined {
        Verdict::Warning
    } else {
        Verdict::Note
    };
    let without = if wanted.strict {
        "in strict mode nothing that a dead holder had passes on"
    } else {
        "locks work; dead holders stay until somebody wants what they hold, and no resource has a status"
    };
    let logs = site.kubectl(Some(&site.operator_namespace), &["logs", "deploy/leasehold-operator"]);
    let lease = match &seen.lease {
        Ok(Some(lease)) => lease,
        Ok(None) | Err(Miss::Absent) if matches!(seen.deployment, Ok(Some(_))) => {
            let says = "nobody was ever elected there, though there is a Deployment; it may elect elsewhere, or by no election";
            return Finding::new(CHECK, grave, object, says).fix("see what it says").command(logs);
        }
        Ok(None) | Err(Miss::Absent) => {
            let says = format!("there is no operator: {without}");
            return Finding::new(CHECK, grave, object, says)
                .fix("install it, or say where it is (--operator-namespace)")
                .command(site.kubectl(None, &["apply", "-k", "config/default"]));
        }
        Err(miss) => return miss.finding(CHECK, object),
    };
    match Election::of(lease, seen.before.as_ref(), now) {
        Election::Acts(holder, age) => {
            let age = told(age.max(SignedDuration::ZERO));
            Finding::ok(CHECK, object, format!("{holder} acts, last renewed {age} ago by its own timestamp"))
        }
        Election::Silent(holder, age) => {
            let says = format!(
                "{holder} was elected, and was last renewed {} ago by its own timestamp: most likely none acts, and {without}",
                if age == SignedDuration::MAX { "never".to_owned() } else { told(age) }
            );
            // Its clock may be wrong, or ours.
            Finding::new(CHECK, Verdict::Warning, object, says)
                .fix("see whether its Pods run, and watch it (--watch-for 1m); another replica takes over within 20 s where there is one")
                .command(site.kubectl(Some(&site.operator_namespace), &["get", "pods", "-l", PODS]))
        }
        Election::Dead(holder, time) => {
            let says = format!(
                "{holder} was elected, and did not renew that while this watched for {}s: none acts, and {without}",
                time.as_secs()
            );
            Finding::new(CHECK, grave.max(Verdict::Warning), object, says)
                .fix("see whether its Pods run; another replica takes over within 20 s where there is one")
                .command(site.kubectl(Some(&site.operator_namespace), &["get", "pods", "-l", PODS]))
        }
        Election::Nobody => {
            Finding::new(CHECK, grave.max(Verdict::Warning), object, format!("nobody is elected: {without}"))
                .fix("see whether its Pods run, and what they say")
                .command(logs)
        }
        Election::Unreadable(why) => Finding::new(CHECK, Verdict::Warning, object, why).fix("upgrade this program"),
    }
}

fn of_deployment(site: &Site, deployment: &Deployment) -> Vec<Finding> {
    let object = || of_operator(site, "Deployment");
    let namespace = Some(&*site.operator_namespace);
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    let says = format!("{ready} of {wanted} replicas are ready");
    let mut found = vec![match ready {
        _ if wanted == 0 => Finding::new(CHECK, Verdict::Warning, object(), "it is scaled to 0 replicas")
            .fix("scale it up")
            .command(site.kubectl(namespace, &["scale", "deploy/leasehold-operator", "--replicas=2"])),
        0 => Finding::new(CHECK, Verdict::Failed, object(), says)
            .fix("see what its Pods wait for")
            .command(site.kubectl(namespace, &["describe", "pods", "-l", PODS])),
        ready if ready < wanted => Finding::new(CHECK, Verdict::Warning, object(), says)
            .fix("see what the others wait for; one that is ready is enough to act")
            .command(site.kubectl(namespace, &["describe", "pods", "-l", PODS])),
        _ => Finding::ok(CHECK, object(), says),
    }];
    let spec = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let containers = spec.map(|spec| &spec.containers[..]).unwrap_or_default();
    let Some(container) = containers.iter().find(|one| one.name == "operator").or(containers.first()) else {
        return found;
    };
    let args = container.args.iter().chain(&container.command).flatten();
    let args: Vec<&str> = args.map(String::as_str).collect();
    let without =
        args.contains(&"--leader-election=false")
            || args.windows(2).any(|two| two == ["--leader-election", "false"])
            || container.env.iter().flatten().any(|variable| {
                variable.name == "LEASEHOLD_LEADER_ELECTION" && variable.value.as_deref() == Some("false")
            });
    if without && wanted > 1 {
        let says =
            format!("{wanted} replicas act at once (--leader-election=false): no harm to locks, but all write status");
        found.push(Finding::new(CHECK, Verdict::Note, object(), says).fix("let them elect one, or run one"));
    }
    found.extend(of_image(site, container.image.as_deref().unwrap_or_default()));
    found
}

fn of_image(site: &Site, image: &str) -> Option<Finding> {
    let ours = env!("CARGO_PKG_VERSION");
    let object = of_operator(site, "Deployment");
    let tag = image.split('@').next()?.rsplit_once(':').map(|(_, tag)| tag).filter(|tag| !tag.contains('/'));
    let version = tag.map(|tag| tag.trim_start_matches('v'));
    let is_version = |text: &str| text.split('.').count() >= 3 && text.starts_with(|c: char| c.is_ascii_digit());
    Some(match version.filter(|version| is_version(version)) {
        Some(version) if version == ours => {
            Finding::ok(CHECK, object, format!("its version is {version}, as this program's"))
        }
        Some(version) => {
            let says = format!("its version is {version}, and this program's is {ours}");
            Finding::new(CHECK, Verdict::Note, object, says)
                .fix("upgrade the older of the two (docs/operations.md#upgrade)")
        }
        None => Finding::new(CHECK, Verdict::Note, object, format!("its image {image:?} does not tell its version"))
            .fix("see that it is of this program's release, or name it by a tag that is one"),
    })
}

/// A Pod that is not ready, and why.
fn of_pod(site: &Site, pod: &Pod) -> Option<Finding> {
    let status = pod.status.as_ref()?;
    let conditions = status.conditions.iter().flatten();
    if conditions.clone().any(|one| one.type_ == "Ready" && one.status == "True") {
        return None;
    }
    let waiting = status.container_statuses.iter().flatten().filter_map(|one| one.state.as_ref()?.waiting.as_ref());
    let reasons = waiting.filter_map(|one| one.reason.clone());
    let unmet = conditions.filter(|one| one.status == "False").filter_map(|one| one.reason.clone());
    let mut why: Vec<String> = reasons.chain(unmet).collect();
    why.dedup();
    let phase = status.phase.as_deref().unwrap_or("of no phase");
    let why = if why.is_empty() { String::new() } else { format!(": {}", why.join(", ")) };
    let name = pod.metadata.name.clone().unwrap_or_default();
    let object = Object::namespaced("Pod", &site.operator_namespace, &name);
    Some(
        Finding::new(CHECK, Verdict::Warning, object, format!("it is {phase} and not ready{why}"))
            .fix("see why")
            .command(site.kubectl(Some(&site.operator_namespace), &["describe", "pod", &name])),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const DEFINED: Wanted = Wanted { defined: true, strict: false };

    fn election(namespace: &str, holder: &str, renewed: &str) -> Lease {
        serde_json::from_value(json!({
            "metadata": {
                "name": NAME, "namespace": namespace, "uid": "u", "resourceVersion": "5",
                "annotations": {"leasehold.dev/liveness": "own"},
            },
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": renewed},
        }))
        .unwrap()
    }

    fn acting() -> Lease {
        election("leasehold-system", "op-1_a.1", "2026-11-22T05:59:57.000000Z")
    }

    fn deployment(change: impl FnOnce(&mut Value)) -> Deployment {
        let yaml = include_str!("../../../config/manager/deployment.yaml");
        let mut value: Value = serde_yaml_ng::from_str(yaml).unwrap();
        value["status"] = json!({"readyReplicas": 2});
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    fn seen() -> Seen {
        Seen {
            lease: Ok(Some(acting())),
            deployment: Ok(Some(deployment(|_| {}))),
            pods: Ok(Vec::new()),
            elsewhere: Vec::new(),
            at: "2026-11-22T06:00:00Z".parse().unwrap(),
            before: None,
        }
    }

    fn bad(seen: &Seen, wanted: Wanted) -> Vec<(Verdict, String)> {
        let found = judge(&Site::example(), seen, wanted, None).into_iter().filter(|one| one.verdict != Verdict::Ok);
        found.map(|one| (one.verdict, one.says)).collect()
    }

    #[test]
    fn the_shipped_deployment_is_in_order() {
        assert_eq!(bad(&seen(), DEFINED), []);
    }

    #[test]
    fn without_an_operator_it_depends_on_who_needs_one() {
        let none = Seen { lease: Ok(None), deployment: Ok(None), ..seen() };
        let verdict = |wanted| bad(&none, wanted)[0].0;
        assert_eq!(verdict(Wanted::default()), Verdict::Note);
        assert_eq!(verdict(DEFINED), Verdict::Warning);
        assert_eq!(verdict(Wanted { defined: true, strict: true }), Verdict::Failed);
    }

    #[test]
    fn one_that_is_silent_or_not_elected_is_told() {
        let stale = election("leasehold-system", "op-1_a.1", "2026-11-22T05:57:00.000000Z");
        let [(verdict, says)] = &bad(&Seen { lease: Ok(Some(stale)), ..seen() }, Wanted::default())[..] else {
            panic!()
        };
        assert!(*verdict == Verdict::Warning && says.contains("was last renewed 3m ago"), "{says}");
        let nobody = election("leasehold-system", "", "2026-11-22T05:57:00.000000Z");
        assert!(bad(&Seen { lease: Ok(Some(nobody)), ..seen() }, DEFINED)[0].1.starts_with("nobody is elected"));
        assert!(bad(&Seen { lease: Ok(None), ..seen() }, DEFINED)[0].1.starts_with("nobody was ever elected"));
    }

    #[test]
    fn only_watching_tells_for_certain_that_none_acts() {
        let strict = Wanted { defined: true, strict: true };
        let stale = || election("leasehold-system", "op-1_a.1", "2026-11-22T05:57:00.000000Z");
        let of = |lease: Lease, before: Option<(Lease, u64)>| {
            let before = before.map(|(lease, seconds)| (lease, Duration::from_secs(seconds)));
            bad(&Seen { lease: Ok(Some(lease)), before, ..seen() }, strict)
        };
        let verdict = |found: Vec<(Verdict, String)>| found.first().map(|one| one.0);
        assert_eq!(verdict(of(stale(), None)), Some(Verdict::Warning));
        assert_eq!(verdict(of(stale(), Some((stale(), 14)))), Some(Verdict::Warning));
        let [(Verdict::Failed, says)] = &of(stale(), Some((stale(), 15)))[..] else { panic!() };
        assert!(says.contains("while this watched for 15s: none acts"), "{says}");
        // Whatever its clock says, it was renewed in between; and whatever its clock says, it was not.
        assert_eq!(of(stale(), Some((acting(), 15))), []);
        assert_eq!(verdict(of(acting(), Some((acting(), 15)))), Some(Verdict::Failed));
    }

    #[test]
    fn two_that_act_are_told() {
        let other = election("default", "op-2_b.1", "2026-11-22T05:59:57.000000Z");
        let over = election("old", "op-3_c.1", "2026-11-22T05:00:00.000000Z");
        let [(verdict, says)] = &bad(&Seen { elsewhere: vec![other, over], ..seen() }, DEFINED)[..] else { panic!() };
        assert!(*verdict == Verdict::Note && says.starts_with("op-2_b.1 acts there as well"), "{says}");
        let all = deployment(|value| {
            value["spec"]["template"]["spec"]["containers"][0]["args"] = json!(["run", "--leader-election=false"]);
        });
        assert!(bad(&Seen { deployment: Ok(Some(all)), ..seen() }, DEFINED)[0].1.starts_with("2 replicas act at once"));
    }

    #[test]
    fn replicas_and_versions_are_told() {
        let of = |change: fn(&mut Value)| bad(&Seen { deployment: Ok(Some(deployment(change))), ..seen() }, DEFINED);
        assert_eq!(
            of(|value| value["status"] = json!({})),
            [(Verdict::Failed, "0 of 2 replicas are ready".to_owned())]
        );
        assert_eq!(of(|value| value["status"]["readyReplicas"] = 1.into())[0].0, Verdict::Warning);
        assert!(of(|value| value["spec"]["replicas"] = 0.into())[0].1.contains("scaled to 0"));
        let image = |image: &str| of_image(&Site::example(), image).unwrap().verdict;
        assert_eq!(image(&format!("r:5000/x:v{}@sha256:abc", env!("CARGO_PKG_VERSION"))), Verdict::Ok);
        for other in ["x:v0.0.9", "x:latest", "r:5000/x", ""] {
            assert_eq!(image(other), Verdict::Note, "{other}");
        }
    }

    #[test]
    fn a_pod_says_what_it_waits_for() {
        let pod = json!({
            "metadata": {"name": "leasehold-operator-1"},
            "status": {
                "phase": "Pending",
                "containerStatuses": [{"name": "operator", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"waiting": {"reason": "ImagePullBackOff"}}}],
            },
        });
        let pods = Ok(vec![serde_json::from_value(pod).unwrap()]);
        let found = bad(&Seen { pods, ..seen() }, DEFINED);
        assert_eq!(found, [(Verdict::Warning, "it is Pending and not ready: ImagePullBackOff".to_owned())]);
        let forbidden = Seen { pods: Err(Miss::Forbidden("no".to_owned())), ..seen() };
        assert_eq!(bad(&forbidden, DEFINED)[0].0, Verdict::Skipped);
    }
}
