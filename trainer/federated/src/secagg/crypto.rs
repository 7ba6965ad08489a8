//! Keys, seals and masks, by `ring`.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::SecureRandom;

use super::SecAggError;
use super::shamir::Secret;

/// Bytes that a seal adds.
pub(super) const TAG: usize = 16;

/// A public key of X25519.
pub(super) type PublicKey = [u8; 32];

/// What two neighbours agree on: the seed of their shared mask, and a key for each direction, from the one with the lesser name
/// first.
#[derive(Debug, Clone)]
pub(super) struct Agreed {
    pub(super) mask: Secret,
    pub(super) up: Secret,
    pub(super) down: Secret,
}

/// 32 bytes that nobody knows.
pub(super) fn secret(random: &dyn SecureRandom) -> Result<Secret, SecAggError> {
    let mut secret = [0; 32];
    random.fill(&mut secret).map_err(|_| SecAggError::Random)?;
    Ok(secret)
}

/// A fresh pair of keys.
pub(super) fn pair(random: &dyn SecureRandom) -> Result<(EphemeralPrivateKey, PublicKey), SecAggError> {
    let private = EphemeralPrivateKey::generate(&X25519, random).map_err(|_| SecAggError::Random)?;
    let public = private.compute_public_key().map_err(|_| SecAggError::Random)?;
    let mut bytes = [0; 32];
    bytes.copy_from_slice(public.as_ref());
    Ok((private, bytes))
}

/// Agrees with a neighbour in a round. `names` and `keys` are those of both, the lesser name first: they are bound to what
/// comes of it (HKDF, RFC 5869).
pub(super) fn agree(
    private: EphemeralPrivateKey,
    theirs: &PublicKey,
    round: u64,
    names: [u32; 2],
    keys: [&PublicKey; 2],
) -> Option<Agreed> {
    let derive = |shared: &[u8]| {
        let key = Salt::new(HKDF_SHA256, b"swarmloom secure aggregation 1").extract(shared);
        let make = |what: &[u8]| {
            let [first, second] = names.map(u32::to_le_bytes);
            let info = [what, &round.to_le_bytes(), &first, &second, keys[0], keys[1]];
            let mut secret = [0; 32];
            key.expand(&info, HKDF_SHA256).and_then(|bytes| bytes.fill(&mut secret)).ok()?;
            Some(secret)
        };
        Some(Agreed { mask: make(b"mask")?, up: make(b"up")?, down: make(b"down")? })
    };
    agree_ephemeral(private, &UnparsedPublicKey::new(&X25519, theirs), derive).ok().flatten()
}

/// Seals a message with a key that seals nothing else, bound to what `about` says.
pub(super) fn seal(key: &Secret, about: &[u8], mut message: Vec<u8>) -> Option<Vec<u8>> {
    cipher(key)?.seal_in_place_append_tag(first_nonce(), Aad::from(about), &mut message).ok()?;
    Some(message)
}

/// Opens a seal; `None` where it was not made with that key about that.
pub(super) fn open(key: &Secret, about: &[u8], mut sealed: Vec<u8>) -> Option<Vec<u8>> {
    let length = cipher(key)?.open_in_place(first_nonce(), Aad::from(about), &mut sealed).ok()?.len();
    sealed.truncate(length);
    Some(sealed)
}

/// Adds a seed's mask to a vector, or takes it off: ChaCha20's stream, as little-endian integers modulo 2^32.
pub(super) fn mask(seed: &Secret, values: &mut [u32], add: bool) -> Option<()> {
    // What is sealed here is zeros: what comes of it is the stream. The seed seals nothing else.
    let mut stream = vec![0; 4 * values.len()];
    // The stream is all that is wanted; nobody opens it.
    let _tag = cipher(seed)?.seal_in_place_separate_tag(first_nonce(), Aad::empty(), &mut stream).ok()?;
    for (value, bytes) in values.iter_mut().zip(stream.as_chunks().0) {
        let mask = u32::from_le_bytes(*bytes);
        *value = if add { value.wrapping_add(mask) } else { value.wrapping_sub(mask) };
    }
    Some(())
}

fn cipher(key: &Secret) -> Option<LessSafeKey> {
    Some(LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).ok()?))
}

/// Every key is used once.
fn first_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::rand::SystemRandom;

    #[test]
    fn both_agree_on_the_same_and_others_do_not() {
        let random = SystemRandom::new();
        let [(one, one_public), (other, other_public)] = [(); 2].map(|()| pair(&random).expect("a pair"));
        let keys = [&one_public, &other_public];
        let mine = agree(one, &other_public, 7, [1, 2], keys).expect("agreed");
        let theirs = agree(other, &one_public, 7, [1, 2], keys).expect("agreed");
        assert_eq!((mine.mask, mine.up, mine.down), (theirs.mask, theirs.up, theirs.down));
        assert!(mine.mask != mine.up && mine.up != mine.down && mine.mask != mine.down);
        let (third, _) = pair(&random).expect("a pair");
        assert_ne!(agree(third, &one_public, 7, [1, 2], keys).expect("agreed").mask, mine.mask);
        // A point of small order is refused.
        assert!(agree(pair(&random).expect("a pair").0, &[0; 32], 7, [1, 2], keys).is_none());
    }

    #[test]
    fn seals_hold_and_masks_cancel() {
        let key = [5; 32];
        let sealed = seal(&key, b"round 3", b"message".to_vec()).expect("sealed");
        assert_eq!(sealed.len(), 7 + TAG);
        assert_eq!(open(&key, b"round 3", sealed.clone()).expect("opened"), b"message");
        assert!(open(&key, b"round 4", sealed.clone()).is_none() && open(&[6; 32], b"round 3", sealed).is_none());
        let mut values = [1, u32::MAX, 7];
        mask(&key, &mut values, true).expect("masked");
        assert_ne!(values, [1, u32::MAX, 7]);
        mask(&key, &mut values, false).expect("masked");
        assert_eq!(values, [1, u32::MAX, 7]);
    }

    /// RFC 8439, section 2.3.2 has a block of this stream, but with another nonce; with zeros as key and nonce, test vector 2
    /// of appendix A.1 has block 1, the first after the one that Poly1305 takes.
    #[test]
    fn masks_are_the_stream_of_chacha20() {
        let mut values = [0; 2];
        mask(&[0; 32], &mut values, true).expect("masked");
        let expected = [0x9f, 0x07, 0xe7, 0xbe, 0x55, 0x51, 0x38, 0x7a];
        assert_eq!(values.map(u32::to_le_bytes).concat(), expected);
    }
}
