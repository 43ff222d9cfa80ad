//! Where this looks, and how somebody else is told to type a command there.

use std::collections::BTreeSet;

/// Which cluster, and which namespaces.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) context: Option<String>,
    /// As it was given on the command line.
    pub(super) kubeconfig: Option<String>,
    pub(super) server: String,
    pub(super) namespace: String,
    pub(super) all: bool,
    pub(super) operator_namespace: String,
    /// Namespaces in strict mode, as far as can be told.
    pub(super) strict: BTreeSet<String>,
}

impl Site {
    /// ` of context dev`, or nothing where there is no context.
    pub(super) fn of_context(&self) -> String {
        self.context.as_ref().map_or(String::new(), |context| format!(" of context {context}"))
    }

    /// Only the operator may end what others have there.
    pub(super) fn is_strict(&self, namespace: &str) -> bool {
        self.strict.contains(namespace)
    }

    /// A call of kubectl. What stands behind two dashes stays there.
    pub(super) fn kubectl<S: AsRef<str>>(&self, namespace: Option<&str>, words: &[S]) -> String {
        let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        let end = words.iter().position(|word| *word == "--").unwrap_or(words.len());
        let mut all = vec!["kubectl"];
        all.extend(&words[..end]);
        let given = [("-n", namespace), ("--context", self.context.as_deref())];
        let given = given.into_iter().chain([("--kubeconfig", self.kubeconfig.as_deref())]);
        all.extend(given.filter_map(|(option, value)| Some([option, value?])).flatten());
        all.extend(&words[end..]);
        all.into_iter().map(quoted).collect::<Vec<_>>().join(" ")
    }

    #[cfg(test)]
    pub(super) fn example() -> Self {
        Self {
            context: Some("dev".to_owned()),
            kubeconfig: None,
            server: "https://10.0.0.1:6443/".to_owned(),
            namespace: "ops".to_owned(),
            all: false,
            operator_namespace: "leasehold-system".to_owned(),
            strict: BTreeSet::new(),
        }
    }
}

/// A word as a shell has to be given it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_for_the_same_place_and_for_a_shell() {
        let site = Site::example();
        assert_eq!(
            site.kubectl(Some("ops"), &["leasehold", "break", "order no. 5", "--reason", "it's dead"]),
            r"kubectl leasehold break 'order no. 5' --reason 'it'\''s dead' -n ops --context dev"
        );
        assert_eq!(
            site.kubectl(None, &["leasehold", "run", "a", "--", "true"]),
            "kubectl leasehold run a --context dev -- true"
        );
        let site = Site { kubeconfig: Some("/my config".to_owned()), context: None, ..site };
        assert_eq!(site.kubectl(None, &["version"]), "kubectl version --kubeconfig '/my config'");
    }
}
