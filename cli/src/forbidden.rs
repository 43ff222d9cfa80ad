//! What to grant to somebody whom the API server refused.

use std::fmt::Write as _;

/// A refusal by RBAC, taken apart.
///
/// The API server tells it only as text:
/// `leases.coordination.k8s.io "x" is forbidden: User "u" cannot get resource "leases" in API group
/// "coordination.k8s.io" in the namespace "n"`.
#[derive(Debug, PartialEq, Eq)]
struct Refusal<'a> {
    user: &'a str,
    verb: &'a str,
    resource: &'a str,
    group: &'a str,
    /// `None`: in the whole cluster.
    namespace: Option<&'a str>,
}

impl<'a> Refusal<'a> {
    /// `None` for what is no refusal by RBAC, for instance one by an admission policy.
    fn parse(message: &'a str) -> Option<Self> {
        let (_, rest) = message.split_once("User \"")?;
        let (user, rest) = rest.split_once("\" cannot ")?;
        let (verb, rest) = rest.split_once(" resource \"")?;
        let (resource, rest) = rest.split_once('"')?;
        let (_, rest) = rest.split_once("in API group \"")?;
        let (group, rest) = rest.split_once('"')?;
        let namespace = rest.split_once("in the namespace \"").and_then(|(_, rest)| Some(rest.split_once('"')?.0));
        Some(Self { user, verb, resource, group, namespace })
    }
}

/// What to tell somebody whose request was refused: the missing rule, and all that the command needs.
///
/// `user` and `namespace` are what this program knows itself, for a message that does not tell.
pub(crate) fn explain(message: &str, needed: &[&str]) -> String {
    let Some(refusal) = Refusal::parse(message) else {
        return format!("forbidden: {message}");
    };
    let Refusal { user, verb, resource, group, namespace } = refusal;
    let place = namespace.map_or("in the whole cluster".to_owned(), |name| format!("in namespace \"{name}\""));
    let kind = if namespace.is_some() { "Role" } else { "ClusterRole" };
    let mut verbs = needed.to_vec();
    if !verbs.contains(&verb) {
        verbs.push(verb);
    }
    let quoted: Vec<String> = verbs.iter().map(|verb| format!("\"{verb}\"")).collect();
    let mut text = format!("forbidden: user \"{user}\" may not {verb} {resource} of API group \"{group}\" {place}\n");
    let _ = write!(
        text,
        "This needs a {kind} with the rule\n  - apiGroups: [\"{group}\"]\n    resources: [\"{resource}\"]\n    verbs: [{}]",
        quoted.join(", ")
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const IN_NAMESPACE: &str = "leases.coordination.k8s.io \"backup\" is forbidden: User \
        \"system:serviceaccount:ops:worker\" cannot patch resource \"leases\" in API group \"coordination.k8s.io\" in \
        the namespace \"ops\"";
    const IN_CLUSTER: &str = "leases.coordination.k8s.io is forbidden: User \"jane\" cannot list resource \"leases\" \
        in API group \"coordination.k8s.io\" at the cluster scope: RBAC: clusterrole.rbac.authorization.k8s.io \"x\" \
        not found";

    #[test]
    fn refusals_name_the_missing_rule() {
        insta::assert_snapshot!("forbidden_in_namespace", explain(IN_NAMESPACE, &["get", "watch", "create", "patch"]));
        insta::assert_snapshot!("forbidden_in_cluster", explain(IN_CLUSTER, &["list"]));
    }

    #[test]
    fn other_refusals_are_passed_on() {
        let message = "leases \"x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no";
        assert_eq!(explain(message, &["get"]), format!("forbidden: {message}"));
    }
}
