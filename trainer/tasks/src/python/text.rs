//! `str.strip` and the characters that it knows.

/// `str.isspace` of one character: Unicode's white space and the four separators of ASCII.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// `str.strip()`.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// The value of a decimal digit of any script, as `int` and `\d` take it.
pub(crate) fn digit(c: char) -> Option<u8> {
    if c.is_ascii() {
        return c.is_ascii_digit().then_some(c as u8 & 15);
    }
    let after = ZEROS.partition_point(|&zero| zero <= c as u32);
    let value = c as u32 - ZEROS[after.checked_sub(1)?];
    (value < 10).then_some(value as u8)
}

/// The zeros of Unicode 14's category Nd, which CPython 3.11 has: nine more digits follow each.
const ZEROS: [u32; 66] = [
    0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0,
    0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620,
    0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0,
    0x112f0, 0x11450, 0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50, 0x11d50, 0x11da0, 0x16a60,
    0x16ac0, 0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e950, 0x1fbf0,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_and_unicode_are_space() {
        assert_eq!(strip("\u{2003}\x1c a b \u{a0}\x0b\x1f"), "a b");
        assert!(!is_space('\u{200b}') && !is_space('\x00'));
    }

    #[test]
    fn digits_of_all_scripts() {
        let digits: Vec<Option<u8>> = "7٣９𝟗²½x".chars().map(digit).collect();
        assert_eq!(digits, [Some(7), Some(3), Some(9), Some(9), None, None, None]);
    }
}
