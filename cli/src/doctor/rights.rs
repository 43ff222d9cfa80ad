//! What the caller may do with Leases and resources, and what he cannot use for want of it.

use futures::future::join_all;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};

use super::definitions::KINDS;
use super::fetch::{Look, Miss, ask};
use super::report::{Finding, Object, Verdict};
use super::site::Site;

pub(super) const CHECK: &str = "rights";

/// Verbs on Leases that `run` and every client needs, and what does not work without each.
const NEEDED: [(&str, &str); 6] = [
    ("get", "nothing works: not even status can read a Lease"),
    ("watch", "whoever waits is not told of its turn: run, elect, acquire, wait and -w do not work"),
    ("create", "no session can be opened: run, elect and acquire do not work"),
    ("update", "no session can be renewed: whatever is acquired is lost when its session has run out"),
    ("patch", "nobody can join a queue or hand on: run, acquire, ask, break and renew do not work where anybody waits"),
    ("delete", "Leases of locks made on the spot and of sessions stay when they are over"),
];
const LIST: &str = "list, completion, this check and the search for deadlocks do not work";
const WRITES: [&str; 4] = ["create", "update", "patch", "delete"];

/// What the API server says of every right.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// On Leases: each verb of [`NEEDED`], in that order.
    pub(super) leases: Vec<Look<bool>>,
    pub(super) list: Look<bool>,
    /// `list` on the resources, in the order of [`KINDS`].
    pub(super) resources: Vec<Look<bool>>,
    /// `break` on the resources, in the same order.
    pub(super) breaks: Vec<Look<bool>>,
}

pub(super) async fn look(client: &Client, namespace: Option<&str>) -> Seen {
    let may = |verb, group, resource| may(client, namespace, verb, group, resource);
    let leases = join_all(NEEDED.map(|(verb, _)| may(verb, "coordination.k8s.io", "leases")));
    let list = may("list", "coordination.k8s.io", "leases");
    let resources = join_all(KINDS.map(|(plural, ..)| may("list", "leasehold.dev", plural)));
    let breaks = join_all(KINDS.map(|(plural, ..)| may("break", "leasehold.dev", plural)));
    let (leases, list, resources, breaks) = tokio::join!(leases, list, resources, breaks);
    Seen { leases, list, resources, breaks }
}

async fn may(client: &Client, namespace: Option<&str>, verb: &str, group: &str, resource: &str) -> Look<bool> {
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                namespace: namespace.map(str::to_owned),
                verb: Some(verb.to_owned()),
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let answer = ask(api.create(&PostParams::default(), &review)).await?;
    answer.status.map(|status| status.allowed).ok_or(Miss::Absent)
}

/// `caller` is the user's name, where it is known; `strict` whether strict mode counts here, `defined` whether there are
/// resources at all.
pub(super) fn judge(site: &Site, seen: &Seen, caller: Option<&str>, strict: bool, defined: bool) -> Vec<Finding> {
    let place = if site.all { "every namespace".to_owned() } else { format!("namespace {}", site.namespace) };
    let object = |what: &str| Object::of_site("rights on", site, what);
    let grant = |finding: Finding| {
        finding
            .fix(format!("bind the ClusterRole leasehold-user (config/rbac), or a Role with this verb, in {place}"))
            .command(bind(site, "leasehold-user", caller))
    };
    let mut found = Vec::new();
    let all = NEEDED.iter().zip(&seen.leases);
    if let Some(miss) = unknown(&seen.leases) {
        found.push(miss.finding(CHECK, object("leases")));
    }
    let missing: Vec<_> =
        all.filter(|(_, may)| **may == Ok(false)).map(|((verb, without), _)| (*verb, *without)).collect();
    let cannot_write = WRITES.iter().all(|verb| missing.iter().any(|(missing, _)| missing == verb));
    if missing.is_empty() {
        if found.is_empty() {
            found.push(Finding::ok(
                CHECK,
                object("leases"),
                "get, watch, create, update, patch, delete: all that clients need",
            ));
        }
    } else if cannot_write && !missing.iter().any(|(verb, _)| *verb == "get") {
        let says =
            "this caller may look at them and not write any: status, list and wait work, nothing can be acquired";
        found.push(grant(Finding::new(CHECK, Verdict::Note, object("leases"), says)));
    } else {
        for (verb, without) in &missing {
            found.push(grant(Finding::new(
                CHECK,
                Verdict::Failed,
                object("leases"),
                format!("{verb} is missing: {without}"),
            )));
        }
    }
    if let Err(miss) = &seen.list {
        found.push(miss.finding(CHECK, object("leases (list)")));
    } else if seen.list == Ok(false) {
        found.push(grant(Finding::new(CHECK, Verdict::Note, object("leases"), format!("list is missing: {LIST}"))));
    }
    if defined {
        let missing = absent(&seen.resources);
        found.push(if let Some(miss) = unknown(&seen.resources) {
            miss.finding(CHECK, object("leasehold.dev"))
        } else if missing.is_empty() {
            Finding::ok(CHECK, object("leasehold.dev"), "the custom resources can be listed")
        } else {
            let says =
                format!("list is missing on {}: kubectl get shows none; clients do not need it", missing.join(", "));
            Finding::new(CHECK, Verdict::Note, object("leasehold.dev"), says)
                .fix(format!("bind the ClusterRole leasehold-view or leasehold-user in {place}"))
                .command(bind(site, "leasehold-view", caller))
        });
    }
    if let Some(miss) = unknown(&seen.breaks).filter(|_| strict) {
        found.push(miss.finding(CHECK, object("leasehold.dev (break)")));
    }
    let cannot = absent(&seen.breaks);
    if strict && !cannot.is_empty() {
        let says = format!(
            "break is missing on {}: in strict mode kubectl leasehold break is refused there",
            cannot.join(", ")
        );
        found.push(
            Finding::new(CHECK, Verdict::Note, object("leasehold.dev"), says)
                .fix("bind the ClusterRole leasehold-breaker if this caller is to break what others hold")
                .command(bind(site, "leasehold-breaker", caller)),
        );
    }
    found
}

/// The resources on which a right is missing.
fn absent(may: &[Look<bool>]) -> Vec<&'static str> {
    KINDS.iter().zip(may).filter(|(_, may)| **may == Ok(false)).map(|((plural, ..), _)| *plural).collect()
}

/// Why it is not known of one of them.
fn unknown(may: &[Look<bool>]) -> Option<&Miss> {
    may.iter().find_map(|may| may.as_ref().err())
}

fn bind(site: &Site, role: &str, caller: Option<&str>) -> String {
    let subject = match caller.map(|name| (name, name.strip_prefix("system:serviceaccount:"))) {
        Some((_, Some(account))) => format!("--serviceaccount={account}"),
        Some((name, None)) => format!("--user={name}"),
        None => "--user=NAME".to_owned(),
    };
    let role_option = format!("--clusterrole={role}");
    let (kind, namespace) =
        if site.all { ("clusterrolebinding", None) } else { ("rolebinding", Some(&*site.namespace)) };
    // Several may have it.
    let name = caller.map_or("NAME", |name| name.rsplit(':').next().unwrap_or(name));
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    site.kubectl(namespace, &["create", kind, &format!("{role}-{name}"), &role_option, &subject])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(without: &[&str]) -> Seen {
        Seen {
            leases: NEEDED.map(|(verb, _)| Ok(!without.contains(&verb))).into(),
            list: Ok(!without.contains(&"list")),
            resources: vec![Ok(!without.contains(&"resources")); 3],
            breaks: vec![Ok(!without.contains(&"break")); 3],
        }
    }

    fn judged(without: &[&str], strict: bool) -> Vec<(Verdict, String)> {
        let found = judge(&Site::example(), &seen(without), Some("system:serviceaccount:ops:worker"), strict, true);
        found.into_iter().filter(|one| one.verdict != Verdict::Ok).map(|one| (one.verdict, one.says)).collect()
    }

    #[test]
    fn whoever_may_do_all_is_told_so() {
        assert!(judged(&[], true).is_empty());
        // Only strict mode asks for it.
        assert!(judged(&["break"], false).is_empty());
        let [(verdict, says)] = &judged(&["break"], true)[..] else { panic!() };
        assert!(*verdict == Verdict::Note && says.starts_with("break is missing on distributedlocks, "), "{says}");
    }

    #[test]
    fn what_was_not_answered_is_not_in_order() {
        let of = |change: fn(&mut Seen, Miss)| {
            let mut seen = seen(&[]);
            change(&mut seen, Miss::Failed("etcd is slow".to_owned()));
            let found = judge(&Site::example(), &seen, None, true, true);
            found
                .into_iter()
                .filter(|one| one.verdict != Verdict::Ok)
                .map(|one| (one.verdict, one.says))
                .collect::<Vec<_>>()
        };
        let told = [(Verdict::Warning, "it could not be looked at: etcd is slow".to_owned())];
        assert_eq!(of(|seen, miss| seen.leases[4] = Err(miss)), told);
        assert_eq!(of(|seen, miss| seen.list = Err(miss)), told);
        assert_eq!(of(|seen, miss| seen.resources[1] = Err(miss)), told);
        assert_eq!(of(|seen, miss| seen.breaks[2] = Err(miss)), told);
    }

    #[test]
    fn a_missing_verb_says_what_does_not_work() {
        let [(verdict, says)] = &judged(&["update"], false)[..] else { panic!() };
        assert_eq!(
            (*verdict, says.starts_with("update is missing: no session can be renewed")),
            (Verdict::Failed, true)
        );
        let [(verdict, says)] = &judged(&["list"], false)[..] else { panic!() };
        assert!(*verdict == Verdict::Note && says.contains("deadlocks"), "{says}");
    }

    #[test]
    fn whoever_only_looks_is_not_told_that_something_is_broken() {
        let [(verdict, says)] = &judged(&["create", "update", "patch", "delete"], false)[..] else { panic!() };
        assert!(*verdict == Verdict::Note && says.starts_with("this caller may look"), "{says}");
        assert_eq!(judged(&["get", "create", "update", "patch", "delete"], false).len(), 5);
    }

    #[test]
    fn the_command_grants_it_to_this_caller_here() {
        let site = Site::example();
        assert_eq!(
            bind(&site, "leasehold-user", Some("system:serviceaccount:ops:worker")),
            "kubectl create rolebinding leasehold-user-worker --clusterrole=leasehold-user --serviceaccount=ops:worker -n ops \
             --context dev"
        );
        let site = Site { all: true, ..site };
        assert_eq!(
            bind(&site, "leasehold-user", Some("jane@example.com")),
            "kubectl create clusterrolebinding leasehold-user-jane-example-com --clusterrole=leasehold-user \
             --user=jane@example.com --context dev"
        );
    }
}
