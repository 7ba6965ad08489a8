//! `int(text)` and `float(text)`, and a float's text.

use super::text::digit;

/// CPython refuses to read longer integers (`sys.get_int_max_str_digits()`).
const MAX_DIGITS: usize = 4300;

/// An integer of any size, as far as scorers care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Int {
    /// One that fits.
    Small(i64),
    /// One that does not.
    Large,
}

impl Int {
    /// Whether it is this number.
    pub(crate) fn is(self, number: i64) -> bool {
        self == Self::Small(number)
    }
}

/// `int(text)`; `None` where Python raises `ValueError`.
pub(crate) fn int(text: &str) -> Option<Int> {
    let text = text.trim_matches(is_number_space);
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let mut count = 0;
    let mut value: Option<i64> = Some(0);
    let mut after_digit = false;
    for c in digits.chars() {
        match digit(c) {
            Some(digit) => {
                count += 1;
                value = value.and_then(|value| value.checked_mul(10)?.checked_add(i64::from(digit)));
                after_digit = true;
            }
            None if c == '_' && after_digit => after_digit = false,
            None => return None,
        }
    }
    if !after_digit || count > MAX_DIGITS {
        return None;
    }
    Some(value.map_or(Int::Large, |value| Int::Small(if negative { -value } else { value })))
}

/// `float(text)`; `None` where Python raises `ValueError`.
pub(crate) fn float(text: &str) -> Option<f64> {
    let text = text.trim_matches(is_number_space);
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '_' {
            let between = plain.ends_with(|c: char| c.is_ascii_digit())
                && chars.peek().is_some_and(|&next| digit(next).is_some());
            if !between {
                return None;
            }
        } else {
            plain.push(digit(c).map_or(c, |digit| char::from(b'0' + digit)));
        }
    }
    let unsigned = plain.strip_prefix(['+', '-']).unwrap_or(&plain);
    let is_name = ["inf", "infinity", "nan"].iter().any(|name| unsigned.eq_ignore_ascii_case(name));
    // Rust's own grammar is Python's, but for the names above.
    let is_number = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    if is_name || is_number { plain.parse().ok() } else { None }
}

/// `repr` of a float, which numpy prints the same: the shortest digits that read back the same, scientific notation
/// below 1e-4 and from 1e16.
pub(crate) fn repr(value: f64) -> String {
    let size = value.abs();
    if let Some(text) = short_repr(value) {
        return text;
    }
    if !value.is_finite() {
        return if value.is_nan() {
            "nan".into()
        } else if value > 0.0 {
            "inf".into()
        } else {
            "-inf".into()
        };
    }
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{value:e}");
        return match text.split_once('e') {
            Some((digits, exponent)) => match exponent.strip_prefix('-') {
                Some(exponent) => format!("{digits}e-{exponent:0>2}"),
                None => format!("{digits}e+{exponent:0>2}"),
            },
            None => text,
        };
    }
    format!("{value:?}")
}

/// `repr` of a number of at most two decimals, many times as fast. A decimal number of up to 15 digits is the only one
/// of its length that reads back as its float, so that no search is needed.
fn short_repr(value: f64) -> Option<String> {
    let hundredths = (value.abs() * 100.0).round();
    if hundredths >= 1e15 || hundredths / 100.0 != value.abs() {
        return None;
    }
    let mut rest = hundredths as u64;
    let mut text = [0_u8; 20];
    let mut at = text.len();
    let mut push = |digit: u8| {
        at -= 1;
        text[at] = digit;
    };
    if !rest.is_multiple_of(10) {
        push(b'0' + (rest % 10) as u8);
    }
    rest /= 10;
    push(b'0' + (rest % 10) as u8);
    rest /= 10;
    push(b'.');
    loop {
        push(b'0' + (rest % 10) as u8);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value.is_sign_negative() {
        push(b'-');
    }
    Some(text[at..].iter().map(|&byte| char::from(byte)).collect())
}

/// What `int` and `float` strip: not the separators of ASCII, which `str.strip` takes.
fn is_number_space(c: char) -> bool {
    c.is_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded from CPython 3.11.
    #[test]
    fn integers() {
        let cases = [
            (" 13 ", Some(Int::Small(13))),
            ("+1_3", Some(Int::Small(13))),
            ("-007", Some(Int::Small(-7))),
            ("١٣", Some(Int::Small(13))),
            ("\u{2003}5\u{a0}", Some(Int::Small(5))),
            ("99999999999999999999", Some(Int::Large)),
            ("\x1c1", None),
            ("1__3", None),
            ("_1", None),
            ("1_", None),
            ("+ 1", None),
            ("--1", None),
            ("1.0", None),
            ("0x10", None),
            ("²", None),
            ("", None),
            ("-", None),
        ];
        for (text, value) in cases {
            assert_eq!(int(text), value, "{text:?}");
        }
        assert_eq!(int(&"9".repeat(4300)), Some(Int::Large));
        assert_eq!(int(&"0".repeat(4301)), None);
    }

    /// Recorded from CPython 3.11.
    #[test]
    fn floats() {
        let cases = [
            (" 1_0.5_0e1_0 ", Some(10.5e10)),
            ("+.5", Some(0.5)),
            ("-5.", Some(-5.0)),
            ("١.٥", Some(1.5)),
            ("1e999", Some(f64::INFINITY)),
            ("-INFinity", Some(f64::NEG_INFINITY)),
            ("1_.5", None),
            ("1._5", None),
            ("1e_5", None),
            (".", None),
            ("e5", None),
            ("1e", None),
            ("infin", None),
            ("0x1", None),
            ("\x1c1", None),
            ("1 2", None),
            ("", None),
        ];
        for (text, value) in cases {
            assert_eq!(float(text), value, "{text:?}");
        }
        assert!(float("+NaN").is_some_and(f64::is_nan));
    }

    #[test]
    fn shortest_texts() {
        let cases = [
            (-69.0, "-69.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (123456789.123, "123456789.123"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.25e100, "1.25e+100"),
        ];
        for (value, text) in cases {
            assert_eq!(repr(value), text);
        }
        for hundredths in -30_000..30_000 {
            let value = f64::from(hundredths) / 100.0;
            assert_eq!(repr(value), format!("{value:?}"));
        }
    }
}
