//! Tokens of service accounts, signed with the cluster's own key.

use anyhow::{Context as _, Result, ensure};
use rcgen::{KeyPair, SigningKey as _};
use serde_json::{Value, json};

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A token with these claims, signed by this ECDSA key (PEM).
pub(crate) fn sign(key: &str, claims: &Value) -> Result<String> {
    let key = KeyPair::from_pem(key).context("the key that signs tokens cannot be read")?;
    let header = json!({ "alg": "ES256", "typ": "JWT" });
    let signed = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
    let signature = fixed(&key.sign(signed.as_bytes())?)?;
    Ok(format!("{signed}.{}", encode(&signature)))
}

/// What a token claims.
pub(crate) fn claims(token: &str) -> Result<Value> {
    let claims = token.split('.').nth(1).context("a token without claims")?;
    Ok(serde_json::from_slice(&decode(claims)?)?)
}

/// The two numbers of a P-256 signature, 32 bytes each, from their DER form.
fn fixed(der: &[u8]) -> Result<[u8; 64]> {
    let mut out = [0; 64];
    ensure!(der.first() == Some(&0x30), "a signature is a sequence");
    let mut rest = der.get(2..).context("a signature that is cut off")?;
    for place in [0, 32] {
        ensure!(rest.first() == Some(&0x02), "a signature holds integers");
        let length = usize::from(*rest.get(1).context("an integer without length")?);
        let bytes = rest.get(2..2 + length).context("an integer that is cut off")?;
        rest = &rest[2 + length..];
        // A leading zero keeps it positive; leading zeros of the number itself are left out.
        let bytes = &bytes[bytes.len().saturating_sub(32)..];
        out[place + 32 - bytes.len()..place + 32].copy_from_slice(bytes);
    }
    Ok(out)
}

/// Base64 as in URLs, without padding.
fn encode(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0, |group, &byte| group << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            out.push(char::from(LETTERS[(group >> (18 - 6 * place)) as usize & 63]));
        }
    }
    out
}

fn decode(text: &str) -> Result<Vec<u8>> {
    let (mut out, mut group, mut bits) = (Vec::new(), 0_u32, 0);
    for letter in text.bytes() {
        let value = LETTERS.iter().position(|&known| known == letter).context("not base64")?;
        group = group << 6 | u32::try_from(value)?;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push(u8::try_from(group >> bits & 0xff)?);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_is_decoded() {
        for text in ["", "a", "ab", "abc", "{\"sub\":\"system:serviceaccount\"}", "\u{fffd}\u{ff}~~~"] {
            assert_eq!(decode(&encode(text.as_bytes())).unwrap(), text.as_bytes());
        }
        assert_eq!(encode(b"any carnal pleas"), "YW55IGNhcm5hbCBwbGVhcw");
    }

    #[test]
    fn short_and_long_numbers_fill_their_places() {
        let der = [&[0x30, 37, 0x02, 0x01, 0x05, 0x02, 0x21, 0x00][..], &[0xff; 32]].concat();
        let fixed = fixed(&der).unwrap();
        assert_eq!(fixed[..32], [&[0; 31][..], &[5]].concat());
        assert_eq!(fixed[32..], [0xff; 32]);
    }
}
