//! FNV-1a on numbers of 64 bits, to tell what differs. It keeps nothing from anybody: whoever wants two things with one value
//! finds them.

/// What a value begins with.
pub(crate) const BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// The value after one more number.
pub(crate) fn mixed(hash: u64, number: u64) -> u64 {
    (hash ^ number).wrapping_mul(0x0100_0000_01b3)
}
