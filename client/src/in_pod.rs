//! In which Pod this process runs, as far as that is known for certain.
//!
//! Whoever is named here loses what it holds when that Pod's containers have ended. So nothing is guessed: not from the
//! host's name, and not where two sources contradict each other.

use kube::Config;
use secrecy::ExposeSecret as _;
use serde_json::Value;
use tracing::{debug, warn};

use crate::error::OptionsError;
use crate::protocol::record::Pod;

/// What was said of the Pod in which this process runs.
#[derive(Clone, Debug, Default)]
pub(crate) enum InPod {
    /// Nothing: look what is known.
    #[default]
    Unsaid,
    /// This one.
    Said(Pod),
    /// Nobody is to be told.
    Nowhere,
}

impl InPod {
    pub(crate) fn check(&self) -> Result<(), OptionsError> {
        match self {
            Self::Said(Pod { name, uid }) if name.is_empty() || uid.is_empty() => {
                Err(OptionsError::new("pod", "both are needed, the Pod's name and its uid (metadata.uid)"))
            }
            _ => Ok(()),
        }
    }

    /// The Pod, for locks in this namespace. Whatever cannot be read is not known.
    pub(crate) fn find(self, cluster: Option<&Config>, namespace: &str) -> Option<Pod> {
        match self {
            Self::Said(pod) => Some(pod),
            Self::Nowhere => None,
            // Without a cluster there are no Pods.
            Self::Unsaid => known(&token(cluster?), |name| std::env::var(name).ok(), namespace),
        }
    }
}

/// The token that the client logs in with; empty if it has none.
fn token(config: &Config) -> String {
    let auth = &config.auth_info;
    match (&auth.token, &auth.token_file) {
        (Some(token), _) => token.expose_secret().to_owned(),
        (None, Some(file)) => std::fs::read_to_string(file).unwrap_or_else(|error| {
            debug!(file, %error, "the token cannot be read, so it does not tell this process's Pod");
            String::new()
        }),
        (None, None) => String::new(),
    }
}

/// What a token and the environment say together.
fn known(token: &str, variable: impl Fn(&str) -> Option<String>, namespace: &str) -> Option<Pod> {
    let variable = |name| variable(name).filter(|value| !value.is_empty());
    let named = variable("POD_NAME").zip(variable("POD_UID")).map(|(name, uid)| Pod { name, uid });
    let elsewhere = variable("POD_NAMESPACE").is_some_and(|other| other != namespace);
    match (bound_to(token), named) {
        (Some((other, _)), _) if other != namespace => None,
        (Some((_, pod)), Some(named)) if named != pod => {
            warn!(
                token = ?pod, environment = ?named,
                "the token and the environment name different Pods: nobody is told in which one this process runs"
            );
            None
        }
        (Some((_, pod)), _) => Some(pod),
        (None, named) => named.filter(|_| !elsewhere),
    }
}

/// The namespace and the Pod to which a service account's token is bound.
///
/// The signature is not looked at: the API server does that, and who forges his own token harms only himself.
fn bound_to(token: &str) -> Option<(String, Pod)> {
    let claims = base64(token.trim().split('.').nth(1)?)?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    let claims = &claims["kubernetes.io"];
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let pod = Pod { name: text(&claims["pod"]["name"])?, uid: text(&claims["pod"]["uid"])? };
    Some((text(&claims["namespace"])?, pod))
}

/// Base64 as in URLs, without padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let (mut out, mut group, mut bits) = (Vec::with_capacity(text.len() * 3 / 4), 0_u32, 0);
    for letter in text.bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        group = group << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push(u8::try_from(group >> bits & 0xff).ok()?);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn encode(bytes: &[u8]) -> String {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let bit = |at: usize| bytes.get(at / 8).is_some_and(|byte| byte >> (7 - at % 8) & 1 == 1);
        let letter = |place| (0..6).fold(0, |value, n| value << 1 | usize::from(bit(place * 6 + n)));
        (0..(bytes.len() * 8).div_ceil(6)).map(|place| char::from(LETTERS[letter(place)])).collect()
    }

    fn token(claims: &Value) -> String {
        format!("e30.{}.c2ln", encode(claims.to_string().as_bytes()))
    }

    fn bound(namespace: &str, name: &str, uid: &str) -> String {
        token(&json!({ "kubernetes.io": { "namespace": namespace, "pod": { "name": name, "uid": uid } } }))
    }

    #[test]
    fn only_what_is_certain_is_told() {
        let unbound = token(&json!({ "kubernetes.io": { "namespace": "ns" }, "sub": "\u{ff}\u{fffd}" }));
        let (own, other) = (bound("ns", "a-1", "u1"), bound("elsewhere", "a-1", "u1"));
        let (name, uid) = (("POD_NAME", "a-1"), ("POD_UID", "u1"));
        for (what, token, variables, told) in [
            ("nothing", "", vec![], false),
            ("no token at all", "not.base64!.x", vec![], false),
            ("a token without claims", "abc", vec![], false),
            ("a token of no Pod", &unbound, vec![], false),
            ("a name alone", "", vec![name], false),
            ("an empty uid", "", vec![name, ("POD_UID", "")], false),
            ("another namespace's Pod", "", vec![name, uid, ("POD_NAMESPACE", "elsewhere")], false),
            ("another namespace's token", &other, vec![], false),
            ("another namespace's token beside the environment", &other, vec![name, uid], false),
            ("two that differ", &own, vec![name, ("POD_UID", "u2")], false),
            ("by the environment", "", vec![name, uid], true),
            ("by the environment in full", &unbound, vec![name, uid, ("POD_NAMESPACE", "ns")], true),
            ("by the token", &own, vec![], true),
            ("by the token, with a line's end", &format!("{own}\n"), vec![("POD_NAME", "b")], true),
            ("by both", &own, vec![name, uid], true),
        ] {
            let variable =
                |wanted: &str| variables.iter().find(|(name, _)| *name == wanted).map(|(_, value)| (*value).to_owned());
            let pod = Pod { name: "a-1".to_owned(), uid: "u1".to_owned() };
            assert_eq!(known(token, variable, "ns"), told.then_some(pod), "{what}");
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(base64(&encode(&bytes)), Some(bytes));
        }

        #[test]
        fn no_token_makes_it_panic(text in ".*") {
            let _ = bound_to(&text);
        }
    }
}
