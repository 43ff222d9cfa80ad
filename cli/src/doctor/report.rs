//! What was found: verdicts, findings, and all of them together.

use std::collections::BTreeMap;

use serde::Serialize;

use super::site::Site;

/// Of each check so many findings are told one by one, besides what is in order.
const TOLD: usize = 20;

/// What is to be thought of something. The order is that of gravity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// As it should be.
    Ok,
    /// Good to know, and nothing has to be done.
    Note,
    /// This caller may not look.
    Skipped,
    /// Something does less than it should, or will.
    Warning,
    /// Something does not work.
    Failed,
}

impl Verdict {
    pub(super) const ALL: [Self; 5] = [Self::Ok, Self::Note, Self::Warning, Self::Failed, Self::Skipped];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Skipped => "skipped",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

/// What a finding is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Object {
    pub(super) kind: &'static str,
    pub(super) name: String,
    /// `None`: it is in no namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) namespace: Option<String>,
}

impl Object {
    pub(super) fn new(kind: &'static str, name: impl Into<String>) -> Self {
        Self { kind, name: name.into(), namespace: None }
    }

    pub(super) fn namespaced(kind: &'static str, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind, name: name.into(), namespace: Some(namespace.into()) }
    }

    /// Something of the namespace that is looked at, or of all of them.
    pub(super) fn of_site(kind: &'static str, site: &Site, name: &str) -> Self {
        match (site.all, name) {
            (false, name) => Self::namespaced(kind, &site.namespace, name),
            (true, "") => Self::new(kind, "in all namespaces"),
            (true, name) => Self::new(kind, format!("{name} in all namespaces")),
        }
    }

    pub(super) fn lease(namespace: &str, name: &str) -> Self {
        Self::namespaced("Lease", namespace, name)
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) verdict: Verdict,
    pub(super) object: Object,
    /// What there is to say of the object, on one line.
    pub(super) says: String,
    /// What to do about it.
    pub(super) fix: Option<String>,
    /// What to type for that. `None` also where nobody can tell what to type.
    pub(super) command: Option<String>,
}

impl Finding {
    pub(super) fn new(check: &'static str, verdict: Verdict, object: Object, says: impl Into<String>) -> Self {
        Self { check, verdict, object, says: says.into(), fix: None, command: None }
    }

    pub(super) fn ok(check: &'static str, object: Object, says: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, object, says)
    }

    #[must_use]
    pub(super) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    #[must_use]
    pub(super) fn command(mut self, command: impl Into<Option<String>>) -> Self {
        self.command = command.into();
        self
    }

    /// Without what to type, where that would be for something else.
    #[must_use]
    pub(super) fn typed_only_if(mut self, sure: bool) -> Self {
        self.command = self.command.filter(|_| sure);
        self
    }

    /// In strict mode only the operator may do what was to be typed.
    #[must_use]
    pub(super) fn for_the_operator(mut self, site: &Site) -> Self {
        if self.object.namespace.as_deref().is_some_and(|namespace| site.is_strict(namespace)) {
            self.command = None;
            self.fix = Some("in strict mode only the operator may take that off: see that it acts".to_owned());
        }
        self
    }

    /// On one line: what, where, and what about it. Others wrote some of it: it does nothing to a terminal.
    fn message(&self, site: &Site) -> String {
        let Object { kind, name, namespace } = &self.object;
        let of_context = site.of_context();
        let place = match namespace {
            Some(namespace) => format!(" in namespace {namespace}{of_context}"),
            None => of_context,
        };
        let name = if name.is_empty() { String::new() } else { format!(" {name}") };
        crate::view::printable(&format!("{kind}{name}{place}: {}", self.says))
    }
}

/// All that was found, as it is shown. The shape is documented in `docs/cli.md`, and only ever gets more fields.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<String>,
    server: String,
    /// `None`: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    all_namespaces: bool,
    operator_namespace: String,
    /// This program's.
    version: &'static str,
    /// The gravest of all.
    pub(super) verdict: Verdict,
    pub(super) counts: BTreeMap<&'static str, usize>,
    pub(super) findings: Vec<Told>,
}

/// A finding as it is shown.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Told {
    pub(super) check: &'static str,
    pub(super) verdict: Verdict,
    object: Object,
    pub(super) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) command: Option<String>,
}

impl Report {
    /// Of each check the gravest first, and no more than people can read. The counts are of all.
    pub(super) fn new(site: &Site, findings: &[Finding]) -> Self {
        let mut counts: BTreeMap<_, _> = Verdict::ALL.map(|verdict| (verdict.name(), 0)).into();
        let mut order = Vec::new();
        for finding in findings {
            debug_assert!(finding.verdict == Verdict::Ok || finding.fix.is_some(), "what to do about it? {finding:?}");
            *counts.entry(finding.verdict.name()).or_default() += 1;
            if !order.contains(&finding.check) {
                order.push(finding.check);
            }
        }
        let verdict = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
        let mut told = Vec::new();
        for check in order {
            let mut of_check: Vec<_> = findings.iter().filter(|finding| finding.check == check).collect();
            of_check.sort_by_key(|finding| std::cmp::Reverse(finding.verdict));
            let left = of_check.split_off(of_check.len().min(TOLD));
            told.extend(of_check.into_iter().map(|finding| Told::of(finding, site)));
            if let Some(gravest) = left.iter().map(|finding| finding.verdict).max() {
                let says = format!("there are {} more of this check that are not told one by one", left.len());
                let more = Finding::new(check, gravest, Object::new("and so on", ""), says);
                told.push(Told::of(&more.fix("look again when these have been seen to"), site));
            }
        }
        Self {
            context: site.context.clone(),
            server: site.server.clone(),
            namespace: (!site.all).then(|| site.namespace.clone()),
            all_namespaces: site.all,
            operator_namespace: site.operator_namespace.clone(),
            version: env!("CARGO_PKG_VERSION"),
            verdict,
            counts,
            findings: told,
        }
    }

    /// Leaves only what somebody has to do something about.
    pub(super) fn only_bad(&mut self) {
        self.findings.retain(|finding| finding.verdict >= Verdict::Warning);
    }
}

impl Told {
    fn of(finding: &Finding, site: &Site) -> Self {
        Self {
            check: finding.check,
            verdict: finding.verdict,
            object: finding.object.clone(),
            message: finding.message(site),
            fix: finding.fix.clone(),
            command: finding.command.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_says_what_and_where() {
        let site = Site::example();
        let of = |object| Finding::ok("x", object, "it\u{7} is").message(&site);
        assert_eq!(of(Object::lease("ops", "a")), "Lease a in namespace ops of context dev: it\\u{7} is");
        assert_eq!(of(Object::new("FlowSchema", "b")), "FlowSchema b of context dev: it\\u{7} is");
        let site = Site { context: None, ..site };
        assert_eq!(Finding::ok("x", Object::new("caller", ""), "y").message(&site), "caller: y");
    }

    #[test]
    fn many_are_counted_and_the_gravest_are_told() {
        let finding =
            |n: usize, verdict| Finding::new("a", verdict, Object::lease("ops", &n.to_string()), "bad").fix("mend it");
        let mut all: Vec<_> = (0..100).map(|n| finding(n, Verdict::Note)).collect();
        all.push(finding(100, Verdict::Failed));
        all.push(Finding::ok("b", Object::new("c", ""), "fine"));
        let report = Report::new(&Site::example(), &all);
        assert_eq!((report.verdict, report.counts["note"], report.counts["failed"]), (Verdict::Failed, 100, 1));
        let [first, .., more, last] = &report.findings[..] else { panic!() };
        assert_eq!((first.verdict, report.findings.len()), (Verdict::Failed, TOLD + 2));
        assert!(more.message.contains("81 more") && more.verdict == Verdict::Note, "{more:?}");
        assert_eq!(last.check, "b");
    }
}
