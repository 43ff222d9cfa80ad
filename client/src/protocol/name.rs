//! Under which name the Lease of a resource stands.
//!
//! What locks are named after (*resource ids*) is text such as `order:payment:4711`; what an object can be named is
//! much less. An id that can be a Lease's name is one. Any other stands under `<readable part>--<hash>`, and is written
//! beside it (annotation [`ID`](super::record::ID)).

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use super::record::SESSION_PREFIX;

/// Of how many bytes at most a resource id is.
pub const LONGEST_ID: usize = 1024;

/// Of how many bytes at most the name of an object is.
const LONGEST_NAME: usize = 253;
/// Of how many letters the readable part is at most. With it a mapped name is no longer than a label's value may be.
const LONGEST_SLUG: usize = 35;
/// Between the readable part and the hash.
const SEPARATOR: &str = "--";
/// Of how many letters the hash is: 130 bits.
const HASH: usize = 26;
/// Of base32 (RFC 4648), as an object's name may have them.
const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// A text that cannot be a resource id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadResourceId {
    /// There is nothing.
    #[error("an empty name will not do: 1 to {LONGEST_ID} bytes are possible")]
    Empty,
    /// It is too long.
    #[error(
        "a name of {bytes} bytes is too long: 1 to {LONGEST_ID} bytes are possible (name what is longer by a hash of it)"
    )]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// It has a character that does something to a terminal or a log.
    #[error("{id:?} will not do: the character at byte {at} is a control character")]
    Control {
        /// The id.
        id: String,
        /// Where the first of them is.
        at: usize,
    },
}

/// The name of the Lease of this resource id: 1 to 1024 bytes of UTF-8 text without control characters.
///
/// - An id that can be a Lease's name is that name: up to 253 lower-case letters, digits, `-` and `.`, each part between
///   dots beginning and ending with a letter or digit; not beginning with `session-`, which are the Leases of sessions;
///   and not ending as mapped names do.
/// - Any other is mapped to `<readable part>--<hash>`. The readable part is at most 35 of its ASCII letters (in lower case)
///   and digits, with a `-` for whatever stands between them, or `id` where there are none. The hash is 26 letters
///   (130 bits) of SHA-256 in base32.
///
/// So two ids have one name only if their hashes agree, which nobody can bring about. Text is compared byte by byte: upper
/// and lower case differ, and so do the two ways of writing `é`. The mapping is the same in every release.
///
/// # Errors
/// [`BadResourceId`] where the id is empty, too long, or has control characters.
///
/// # Examples
///
/// ```
/// use leasehold::protocol::name::lease_name;
///
/// assert_eq!(lease_name("nightly-report")?, "nightly-report");
/// assert_eq!(lease_name("order:payment:4711")?, "order-payment-4711--u5aja2xsokmdklzq54c4iifvzd");
/// # Ok::<(), leasehold::protocol::name::BadResourceId>(())
/// ```
pub fn lease_name(id: &str) -> Result<Cow<'_, str>, BadResourceId> {
    if id.is_empty() {
        return Err(BadResourceId::Empty);
    }
    if id.len() > LONGEST_ID {
        return Err(BadResourceId::TooLong { bytes: id.len() });
    }
    if let Some(at) = id.find(char::is_control) {
        return Err(BadResourceId::Control { id: id.to_owned(), at });
    }
    if is_object_name(id) && !id.starts_with(SESSION_PREFIX) && !looks_mapped(id) {
        return Ok(Cow::Borrowed(id));
    }
    Ok(Cow::Owned(format!("{}{SEPARATOR}{}", slug(id), hash(id))))
}

/// Whether a name ends as those do to which ids are mapped. As an id it is mapped itself.
#[must_use]
pub fn looks_mapped(name: &str) -> bool {
    let hash = name.len().checked_sub(HASH).and_then(|at| name.split_at_checked(at));
    hash.is_some_and(|(rest, hash)| rest.ends_with(SEPARATOR) && hash.bytes().all(|letter| LETTERS.contains(&letter)))
}

/// Whether an object can have this name (a DNS subdomain of RFC 1123).
fn is_object_name(name: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let part = |part: &str| part.starts_with(edge) && part.ends_with(edge) && part.chars().all(|c| edge(c) || c == '-');
    name.len() <= LONGEST_NAME && name.split('.').all(part)
}

/// What can be read of an id in a name.
fn slug(id: &str) -> String {
    let words = id.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let mut slug = words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-");
    if slug.is_empty() || format!("{slug}-").starts_with(SESSION_PREFIX) {
        slug = if slug.is_empty() { "id".to_owned() } else { format!("id-{slug}") };
    }
    slug.truncate(LONGEST_SLUG);
    slug.truncate(slug.trim_end_matches('-').len());
    slug
}

fn hash(id: &str) -> String {
    let digest = Sha256::digest(id.as_bytes());
    let bit = |at: usize| usize::from(digest[at / 8] >> (7 - at % 8) & 1);
    let letter = |n: usize| (n * 5..n * 5 + 5).fold(0, |value, at| value * 2 + bit(at));
    (0..HASH).map(|n| char::from(LETTERS[letter(n)])).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn name(id: &str) -> String {
        lease_name(id).unwrap().into_owned()
    }

    /// Two releases that map an id differently do not exclude each other: what stands here must never change.
    #[test]
    fn known_names_stay_as_they_are() {
        let known = [
            ("order:payment:4711", "order-payment-4711--u5aja2xsokmdklzq54c4iifvzd"),
            ("Übung №5", "bung-5--34j64yqlvpfa5evejcrbxf7zuo"),
            ("🦀", "id--oismlch2tcdvig7kn7bxuubwht"),
            ("session-x", "id-session-x--wai7zttxclm5wgrv57r2w4szv5"),
            ("session", "session"),
            ("session:x", "id-session-x--ttdmiond3h3rnwpakjrb34v5he"),
            ("team-a/db", "team-a-db--7nuwwsdclcmq724myzhwmc3sf4"),
            ("a_b", "a-b--msh2tmy3y77x5oiu46trqdyh4d"),
            ("-a", "a--yj2isf4qgrofntxtwu6ae264ja"),
            ("a.b-c.9", "a.b-c.9"),
            ("a--b", "a--b"),
        ];
        for (id, expected) in known {
            assert_eq!(name(id), expected, "{id}");
        }
        assert_eq!(name(&"x".repeat(253)), "x".repeat(253));
        assert_eq!(name(&"x".repeat(254)), "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx--v6l2djwkm3pqxqgqvybeha7n5i");
        assert_eq!(name(&"Ab ".repeat(341)), "ab-ab-ab-ab-ab-ab-ab-ab-ab-ab-ab-ab--gwctk2gjo7fgupo7ghvevf4hga");
        // As RFC 4648 says of the digest of "abc" in FIPS 180-4: ba7816bf 8f01cfea 414140de 5dae2223 b0…
        assert_eq!(hash("abc"), "xj4bnp4pahh6uqkbidpf3lrceo");
    }

    #[test]
    fn what_cannot_be_an_id_is_told_so() {
        assert_eq!(lease_name(""), Err(BadResourceId::Empty));
        assert_eq!(lease_name(&"é".repeat(513)), Err(BadResourceId::TooLong { bytes: 1026 }));
        assert!(lease_name(&"é".repeat(512)).is_ok());
        for bad in ["a\0b", "a\nb", "a\u{1b}[2Jb", "a\u{85}b"] {
            let error = lease_name(bad).unwrap_err();
            assert!(error.to_string().contains("the character at byte 1 is a control character"), "{error}");
            assert!(!error.to_string().contains(char::is_control), "{error:?}");
        }
    }

    #[test]
    fn a_mapped_name_is_not_an_id_of_its_own() {
        let mapped = name("order:payment:4711");
        assert!(looks_mapped(&mapped));
        let again = name(&mapped);
        assert_ne!(again, mapped);
        assert!(looks_mapped(&again) && again.starts_with("order-payment-4711-"), "{again}");
        // One letter more or less, or one that is not of base32, and it is a name like any other.
        for other in [format!("{mapped}a"), mapped[..mapped.len() - 1].to_owned(), mapped.replace("--", "--1")] {
            assert!(!looks_mapped(&other) && name(&other) == other, "{other}");
        }
    }

    #[test]
    fn no_mapped_name_is_that_of_a_sessions_lease() {
        for id in ["session-x", "Session:1", "session", "SESSION", ":session:", "session--a", "session-host.k3j9x2m1qa"]
        {
            assert!(!name(id).starts_with(SESSION_PREFIX), "{id}: {}", name(id));
        }
    }

    /// Ids near to each other and to what is reserved.
    fn ids() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            "[a-zA-Z0-9:._/ -]{1,40}",
            "(session|order|a)?[-:.]{0,3}[a-b]{0,2}--[a-z2-7]{26}",
            "[a-z2-7.-]{20,60}",
            "\\PC{1,300}",
        ]
    }

    proptest! {
        #[test]
        fn every_name_is_valid_and_stable(id in ids()) {
            match lease_name(&id) {
                Ok(name) => {
                    prop_assert!(is_object_name(&name), "{id:?}: {name}");
                    prop_assert!(!name.starts_with(SESSION_PREFIX), "{id:?}: {name}");
                    prop_assert_eq!(name == id, !looks_mapped(&name), "{:?}: {}", id, name);
                    prop_assert!(name == id || name.len() <= 63, "{id:?}: {name}");
                    prop_assert_eq!(lease_name(&id), Ok(name));
                }
                Err(_) => prop_assert!(id.is_empty() || id.len() > LONGEST_ID || id.contains(char::is_control)),
            }
        }

        #[test]
        fn different_ids_have_different_names(
            ids in prop::collection::vec("[ab:A]{0,3}(--[a-b]{26})?", 1..60), again in any::<prop::sample::Index>(),
        ) {
            // Also the names of ids are ids.
            let names: Vec<_> = ids.iter().filter_map(|id| lease_name(id).ok().map(Cow::into_owned)).collect();
            let mut by_name = HashMap::new();
            let picked = names.get(again.index(names.len().max(1))).cloned();
            for id in ids.into_iter().chain(names).chain(picked.map(|name| name.to_uppercase())) {
                let Ok(name) = lease_name(&id).map(Cow::into_owned) else { continue };
                let other = by_name.entry(name).or_insert_with(|| id.clone());
                prop_assert_eq!(&id, other);
            }
        }
    }
}
