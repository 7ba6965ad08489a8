//! One encoding for all that is signed, sent or stored: a format version byte, then bincode.
//!
//! Every value has exactly one encoding: a decoder accepts only what encoding its result gives back. And a
//! decoder allocates in proportion to the bytes it was given, never to a length that they claim: the types
//! here replace serde's own decoding of texts, byte strings and lists.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// First byte of every encoding.
pub const FORMAT_VERSION: u8 = 1;

/// What bincode may claim while decoding. Numbers claim their full width whatever they take on the wire, so
/// this is several times the largest message ([`crate::wire::MAX_RESPONSE_BYTES`]).
const CLAIM_LIMIT: usize = 16 << 20;

/// Why bytes are not an encoding of what they should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// Too long to be looked at.
    #[error("{bytes} bytes, where at most {limit} are allowed")]
    TooLarge {
        /// Bytes given.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Too short to hold even the fixed parts.
    #[error("cut short")]
    Short,
    /// Written by another version of this format.
    #[error("format version {0}, where {FORMAT_VERSION} is known; one of the two peers needs an update")]
    Version(u8),
    /// Not the structure expected.
    #[error("malformed: {0}")]
    Malformed(#[from] bincode::error::DecodeError),
    /// A second spelling of a value, or bytes after its end.
    #[error("not the canonical encoding of its value")]
    NotCanonical,
    /// The value itself breaks a bound.
    #[error("{0}")]
    OutOfBounds(&'static str),
}

/// Encodes a value.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    match bincode::serde::encode_to_vec(value, bincode::config::standard()) {
        Ok(mut bytes) => {
            bytes.insert(0, FORMAT_VERSION);
            bytes
        }
        // Writing to memory cannot fail, and no type of this crate refuses to be serialized.
        Err(error) => unreachable!("encoding to memory: {error}"),
    }
}

/// Decodes a value from all of `bytes`, at most `limit` of them.
pub(crate) fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, CodecError> {
    if bytes.len() > limit {
        return Err(CodecError::TooLarge { bytes: bytes.len(), limit });
    }
    let (&version, content) = bytes.split_first().ok_or(CodecError::Short)?;
    if version != FORMAT_VERSION {
        return Err(CodecError::Version(version));
    }
    let config = bincode::config::standard().with_limit::<CLAIM_LIMIT>();
    let (value, used) = bincode::serde::decode_from_slice::<T, _>(content, config)?;
    // Numbers have longer spellings too; a value that is signed and named by its hash must have one only.
    if used != content.len() || encode(&value) != bytes {
        return Err(CodecError::NotCanonical);
    }
    Ok(value)
}

/// `#[serde(with = "Text")]`: a `String`, copied from the input once it is known to be there.
pub(crate) struct Text;

impl Text {
    pub(crate) fn serialize<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
        struct Copy;
        impl Visitor<'_> for Copy {
            type Value = String;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
                Ok(text.to_owned())
            }
        }
        deserializer.deserialize_str(Copy)
    }
}

/// `#[serde(with = "Bytes")]`: a `Vec<u8>`, copied from the input once it is known to be there.
pub(crate) struct Bytes;

impl Bytes {
    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Copy;
        impl Visitor<'_> for Copy {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        deserializer.deserialize_bytes(Copy)
    }
}

/// `#[serde(with = "List::<N>")]`: a `Vec` of at most `N` items, grown as they arrive.
pub(crate) struct List<const N: usize>;

impl<const N: usize> List<N> {
    pub(crate) fn serialize<T: Serialize, S: Serializer>(items: &[T], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(items)
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
    where
        T: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        struct Grow<T, const N: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for Grow<T, N> {
            type Value = Vec<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {N} items")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    if list.len() == N {
                        return Err(A::Error::invalid_length(N + 1, &self));
                    }
                    list.push(item);
                }
                Ok(list)
            }
        }
        deserializer.deserialize_seq(Grow::<T, N>(PhantomData))
    }
}

/// `#[serde(with = "BytesList::<N>")]`: at most `N` byte strings.
pub(crate) struct BytesList<const N: usize>;

impl<const N: usize> BytesList<N> {
    pub(crate) fn serialize<S: Serializer>(items: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Item<'a>(#[serde(serialize_with = "Bytes::serialize")] &'a [u8]);
        serializer.collect_seq(items.iter().map(|item| Item(item)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<u8>>, D::Error> {
        #[derive(Deserialize)]
        struct Item(#[serde(with = "Bytes")] Vec<u8>);
        let items: Vec<Item> = List::<N>::deserialize(deserializer)?;
        Ok(items.into_iter().map(|item| item.0).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        number: u64,
        #[serde(with = "Text")]
        text: String,
        #[serde(with = "Bytes")]
        bytes: Vec<u8>,
        #[serde(with = "List::<3>")]
        list: Vec<u16>,
        #[serde(with = "BytesList::<2>")]
        blobs: Vec<Vec<u8>>,
    }

    fn sample() -> Sample {
        Sample { number: 5, text: "hé".into(), bytes: vec![1, 2], list: vec![7, 300], blobs: vec![vec![], vec![9, 9]] }
    }

    #[test]
    fn a_value_has_these_bytes_and_no_others() {
        let bytes = encode(&sample());
        assert_eq!(
            bytes,
            [1, 5, 3, b'h', 0xc3, 0xa9, 2, 1, 2, 2, 7, 251, 44, 1, 2, 0, 2, 9, 9],
            "version, number, text, bytes, list, blobs"
        );
        assert_eq!(decode::<Sample>(&bytes, 19).expect("decodes"), sample());
        let mut longer = bytes.clone();
        longer.splice(1..2, [251, 5, 0]);
        assert!(matches!(decode::<Sample>(&longer, 99), Err(CodecError::NotCanonical)));
        longer = bytes.clone();
        longer.push(0);
        assert!(matches!(decode::<Sample>(&longer, 99), Err(CodecError::NotCanonical)));
        assert!(matches!(decode::<Sample>(&bytes, 18), Err(CodecError::TooLarge { bytes: 19, limit: 18 })));
        assert!(matches!(decode::<Sample>(&[], 99), Err(CodecError::Short)));
        assert!(matches!(decode::<Sample>(&[2, 0], 99), Err(CodecError::Version(2))));
        for cut in 1..bytes.len() {
            assert!(matches!(decode::<Sample>(&bytes[..cut], 99), Err(CodecError::Malformed(_))), "{cut}");
        }
    }

    #[test]
    fn claimed_lengths_and_long_lists_are_refused() {
        // A text of 2^63 bytes, of which none is there.
        let claim = [1, 5, 253, 0, 0, 0, 0, 0, 0, 0, 0x80];
        assert!(matches!(decode::<Sample>(&claim, 99), Err(CodecError::Malformed(_))));
        let mut many = sample();
        many.list = vec![0; 4];
        assert!(matches!(decode::<Sample>(&encode(&many), 99), Err(CodecError::Malformed(_))));
        let mut many = sample();
        many.blobs = vec![Vec::new(); 3];
        assert!(matches!(decode::<Sample>(&encode(&many), 99), Err(CodecError::Malformed(_))));
    }
}
