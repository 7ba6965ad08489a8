//! A peer's name: its ed25519 public key, and libp2p's text for it.

use libp2p::PeerId;
use libp2p::identity::Keypair;
use libp2p::multihash::Multihash;

/// The ed25519 public key of a peer.
pub type Key = [u8; 32];

/// What stands before an ed25519 key in libp2p's protobuf: field 1, the key's type, and field 2, its 32 bytes.
/// Source: libp2p's peer id specification, "Keys" and "Ed25519".
const PREFIX: [u8; 4] = [0x08, 0x01, 0x12, 0x20];
/// Multihash code of "the data itself", which short keys use instead of a digest.
const IDENTITY: u64 = 0;

/// The public key that belongs to a secret seed.
pub fn key_of_seed(seed: &[u8; 32]) -> Key {
    match keypair(seed).public().try_into_ed25519() {
        Ok(key) => key.to_bytes(),
        Err(_) => unreachable!("an ed25519 pair has an ed25519 key"),
    }
}

/// libp2p's text for a peer, as in `/p2p/12D3KooW...`.
pub fn peer_text(key: &Key) -> String {
    peer_of_key(key).to_base58()
}

/// The key in libp2p's text for a peer. `None` where it is no peer id, or not that of an ed25519 key.
pub fn key_of_text(text: &str) -> Option<Key> {
    key_of_peer(&text.trim().parse().ok()?)
}

pub(crate) fn keypair(seed: &[u8; 32]) -> Keypair {
    match Keypair::ed25519_from_bytes(*seed) {
        Ok(pair) => pair,
        Err(_) => unreachable!("any 32 bytes are an ed25519 seed"),
    }
}

pub(crate) fn peer_of_key(key: &Key) -> PeerId {
    let mut encoded = [0; 36];
    encoded[..4].copy_from_slice(&PREFIX);
    encoded[4..].copy_from_slice(key);
    match Multihash::wrap(IDENTITY, &encoded).map(PeerId::from_multihash) {
        Ok(Ok(peer)) => peer,
        _ => unreachable!("36 bytes fit a peer id"),
    }
}

pub(crate) fn key_of_peer(peer: &PeerId) -> Option<Key> {
    let hash: &Multihash<64> = peer.as_ref();
    let key = hash.digest().strip_prefix(&PREFIX)?;
    (hash.code() == IDENTITY).then_some(key)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_and_its_text_belong_together() {
        let key = key_of_seed(&[7; 32]);
        assert_eq!(peer_of_key(&key), keypair(&[7; 32]).public().to_peer_id());
        assert!(peer_text(&key).starts_with("12D3KooW"));
        assert_eq!(key_of_text(&peer_text(&key)), Some(key));
        assert_eq!(key_of_text(&format!(" {}\n", peer_text(&key))), Some(key));
        assert_ne!(key_of_seed(&[8; 32]), key);
    }

    #[test]
    fn what_is_no_ed25519_peer_has_no_key() {
        // A peer id of a hashed (RSA) key, from libp2p's specification.
        assert_eq!(key_of_text("QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"), None);
        assert_eq!(key_of_text("12D3KooW"), None);
        assert_eq!(key_of_text(""), None);
    }
}
