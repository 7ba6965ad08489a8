//! Names of peers, runs and groups, and the signatures that bind them.

use std::fmt;
use std::str::FromStr;

use ring::digest;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;

/// Begins everything that is hashed or signed, so that nothing of another program can pass for ours.
const PREFIX: &[u8] = b"swarmloom 1 ";

/// Why a text is not an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("64 hexadecimal digits are needed")]
pub struct ParseIdError;

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// As text it is 64 lower-case hexadecimal digits.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "("))?;
                self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str("…)")
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_hex(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    return serializer.collect_str(self);
                }
                self.0.serialize(serializer)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    return crate::codec::Text::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom);
                }
                Deserialize::deserialize(deserializer).map(Self)
            }
        }
    };
}

identifier!(
    /// A peer: its ed25519 public key.
    PeerKey
);
identifier!(
    /// A run: the hash of its [`RunSpec`](crate::run::RunSpec).
    RunId
);
identifier!(
    /// A rollout group: the hash of what its author signed.
    GroupId
);

impl PeerKey {
    /// Whether this peer signed `bytes` in `domain`.
    pub fn verify(&self, domain: &str, bytes: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(&hash(domain, &[bytes]), signature).is_ok()
    }
}

/// A peer's secret key.
pub struct Signer {
    pair: Ed25519KeyPair,
    key: PeerKey,
}

impl Signer {
    /// The key pair of an ed25519 seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        match Ed25519KeyPair::from_seed_unchecked(seed) {
            Ok(pair) => {
                let mut key = [0; 32];
                key.copy_from_slice(pair.public_key().as_ref());
                Self { pair, key: PeerKey(key) }
            }
            // ring refuses nothing but another length.
            Err(error) => unreachable!("32 bytes are a seed: {error}"),
        }
    }

    /// The public half.
    pub fn key(&self) -> PeerKey {
        self.key
    }

    /// Signs `bytes`. A signature made in one `domain` (at most 255 bytes) is worth nothing in another.
    pub fn sign(&self, domain: &str, bytes: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let mut signature = [0; SIGNATURE_BYTES];
        signature.copy_from_slice(self.pair.sign(&hash(domain, &[bytes])).as_ref());
        signature
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("key", &self.key).finish_non_exhaustive()
    }
}

/// SHA-256 of `parts`, one after the other, in a domain: `"swarmloom 1 "`, the domain's length as one byte,
/// the domain, the parts.
pub(crate) fn hash(domain: &str, parts: &[&[u8]]) -> [u8; 32] {
    debug_assert!(domain.len() <= 255, "a domain's length is one byte");
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(PREFIX);
    context.update(&[domain.len() as u8]);
    context.update(domain.as_bytes());
    for part in parts {
        context.update(part);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// The first eight bytes of a hash as a number, little end first.
pub(crate) fn leading_u64(hash: &[u8; 32]) -> u64 {
    hash[..8].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn parse_hex(text: &str) -> Result<[u8; 32], ParseIdError> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return Err(ParseIdError);
    }
    let value = |digit: u8| (digit as char).to_digit(16).ok_or(ParseIdError);
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (value(pair[0])? << 4 | value(pair[1])?) as u8;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_identifier_agree() {
        let id = GroupId(std::array::from_fn(|at| at as u8 * 8));
        let text = "0008101820283038404850586068707880889098a0a8b0b8c0c8d0d8e0e8f0f8";
        assert_eq!(id.to_string(), text);
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(text.to_uppercase().parse(), Ok(id));
        assert_eq!(format!("{id:?}"), "GroupId(00081018…)");
        assert_eq!(text[1..].parse::<GroupId>(), Err(ParseIdError));
        assert_eq!(text.replacen('0', "g", 1).parse::<GroupId>(), Err(ParseIdError));
        assert_eq!(leading_u64(&id.0), 0x3830_2820_1810_0800);
    }

    #[test]
    fn the_public_key_is_the_one_of_rfc_8032() {
        // RFC 8032, section 7.1, test 1.
        let seed: RunId = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60".parse().expect("hex");
        let key = Signer::from_seed(&seed.0).key();
        assert_eq!(key.to_string(), "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
    }

    #[test]
    fn a_signature_holds_for_one_key_one_domain_and_one_text() {
        let (signer, other) = (Signer::from_seed(&[1; 32]), Signer::from_seed(&[2; 32]));
        let signature = signer.sign("a", b"text");
        assert!(signer.key().verify("a", b"text", &signature));
        assert!(!signer.key().verify("b", b"text", &signature));
        assert!(!signer.key().verify("a", b"texT", &signature));
        assert!(!other.key().verify("a", b"text", &signature));
        assert!(!signer.key().verify("a", b"text", &signature[..63]));
        // Neither do domain and text run into each other.
        assert!(!signer.key().verify("at", b"ext", &signature));
    }
}
