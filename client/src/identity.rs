//! In which Pod this process runs, where its credentials tell.

use kube::Config;
use kube::config::AuthInfo;
use secrecy::ExposeSecret as _;
use serde::Deserialize;

use crate::protocol::record::Pod;

/// What the claims of a service account's token say of the Pod that it is bound to.
#[derive(Deserialize)]
struct Claims {
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<Bound>,
}

#[derive(Deserialize)]
struct Bound {
    pod: Option<ObjectClaim>,
}

#[derive(Deserialize)]
struct ObjectClaim {
    name: String,
    uid: String,
}

/// The Pod to which the token of this configuration is bound: by that the API server knows this process. `None` where it has
/// no such token.
///
/// The token is read and not checked: the API server does that.
pub(crate) fn pod_of(config: &Config) -> Option<Pod> {
    pod_of_token(&token(&config.auth_info)?)
}

fn token(auth: &AuthInfo) -> Option<String> {
    let file = auth.token_file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
    file.or_else(|| auth.token.as_ref().map(|token| token.expose_secret().to_owned()))
}

fn pod_of_token(token: &str) -> Option<Pod> {
    let claims: Claims = serde_json::from_slice(&decode(token.trim().split('.').nth(1)?)?).ok()?;
    let ObjectClaim { name, uid } = claims.kubernetes?.pod?;
    Some(Pod { name, uid })
}

/// Base64 as in URLs, without padding.
fn decode(text: &str) -> Option<Vec<u8>> {
    let (mut out, mut group, mut bits) = (Vec::with_capacity(text.len()), 0_u32, 0);
    for letter in text.bytes().filter(|&letter| letter != b'=') {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'-' | b'+' => 62,
            b'_' | b'/' => 63,
            _ => return None,
        };
        group = group << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((group >> bits & 0xff).to_le_bytes()[0]);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_token_tells_its_pod_and_any_other_nothing() {
        // {"kubernetes.io":{"namespace":"n","pod":{"name":"web-0","uid":"1a2b3c4d-5e6f"}}}
        let bound = "eyJrdWJlcm5ldGVzLmlvIjp7Im5hbWVzcGFjZSI6Im4iLCJwb2QiOnsibmFtZSI6IndlYi0wIiwidWlkIjoiMWEyYjNjNGQtNWU2ZiJ9fX0";
        let pod = Pod { name: "web-0".to_owned(), uid: "1a2b3c4d-5e6f".to_owned() };
        assert_eq!(pod_of_token(&format!("e30.{bound}.c2ln\n")), Some(pod));
        // {"kubernetes.io":{"namespace":"n"}}, {}
        for other in
            ["e30.eyJrdWJlcm5ldGVzLmlvIjp7Im5hbWVzcGFjZSI6Im4ifX0.x", "e30.e30.x", "opaque", "", "a.b", "a.~.c"]
        {
            assert_eq!(pod_of_token(other), None, "{other}");
        }
    }
}
