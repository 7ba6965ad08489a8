//! Arithmetic expressions of Python, in whichever numbers: `+ - * /`, signs, brackets.

/// Operations on some numbers; `None` where there is no result.
pub(crate) trait Numbers {
    /// A number.
    type Number;
    /// A literal: digits, perhaps with a point.
    fn literal(&self, text: &str) -> Option<Self::Number>;
    /// `-a`.
    fn negate(&self, a: Self::Number) -> Option<Self::Number>;
    /// `a + b`.
    fn add(&self, a: Self::Number, b: Self::Number) -> Option<Self::Number>;
    /// `a - b`.
    fn subtract(&self, a: Self::Number, b: Self::Number) -> Option<Self::Number>;
    /// `a * b`.
    fn multiply(&self, a: Self::Number, b: Self::Number) -> Option<Self::Number>;
    /// `a / b`.
    fn divide(&self, a: Self::Number, b: Self::Number) -> Option<Self::Number>;
}

/// The value of `text`, or `None` if some operation has no result or the text is no expression.
///
/// Brackets nest as deep as the stack allows: expressions come from generators here, never from answers.
pub(crate) fn evaluate<N: Numbers>(numbers: &N, text: &str) -> Option<N::Number> {
    let mut reader = Reader { numbers, text: text.as_bytes(), at: 0 };
    let value = reader.sum()?;
    reader.peek().is_none().then_some(value)
}

struct Reader<'a, N> {
    numbers: &'a N,
    text: &'a [u8],
    at: usize,
}

impl<N: Numbers> Reader<'_, N> {
    fn peek(&mut self) -> Option<u8> {
        while self.text.get(self.at) == Some(&b' ') {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn sum(&mut self) -> Option<N::Number> {
        let mut value = self.product()?;
        while let Some(operator @ (b'+' | b'-')) = self.peek() {
            self.at += 1;
            let other = self.product()?;
            value = match operator {
                b'+' => self.numbers.add(value, other)?,
                _ => self.numbers.subtract(value, other)?,
            };
        }
        Some(value)
    }

    fn product(&mut self) -> Option<N::Number> {
        let mut value = self.signed()?;
        while let Some(operator @ (b'*' | b'/')) = self.peek() {
            self.at += 1;
            let other = self.signed()?;
            value = match operator {
                b'*' => self.numbers.multiply(value, other)?,
                _ => self.numbers.divide(value, other)?,
            };
        }
        Some(value)
    }

    fn signed(&mut self) -> Option<N::Number> {
        match self.peek()? {
            b'-' => {
                self.at += 1;
                let value = self.signed()?;
                self.numbers.negate(value)
            }
            b'(' => {
                self.at += 1;
                let value = self.sum()?;
                if self.peek() != Some(b')') {
                    return None;
                }
                self.at += 1;
                Some(value)
            }
            _ => {
                let start = self.at;
                while self.text.get(self.at).is_some_and(|byte| byte.is_ascii_digit() || *byte == b'.') {
                    self.at += 1;
                }
                // The text is ASCII up to here.
                self.numbers.literal(std::str::from_utf8(&self.text[start..self.at]).ok()?)
            }
        }
    }
}

/// Integers with Python's floor division. No result: division by zero, or beyond `i128`.
#[derive(Debug)]
pub(crate) struct Floor;

impl Numbers for Floor {
    type Number = i128;

    fn literal(&self, text: &str) -> Option<i128> {
        text.parse().ok()
    }

    fn negate(&self, a: i128) -> Option<i128> {
        a.checked_neg()
    }

    fn add(&self, a: i128, b: i128) -> Option<i128> {
        a.checked_add(b)
    }

    fn subtract(&self, a: i128, b: i128) -> Option<i128> {
        a.checked_sub(b)
    }

    fn multiply(&self, a: i128, b: i128) -> Option<i128> {
        a.checked_mul(b)
    }

    fn divide(&self, a: i128, b: i128) -> Option<i128> {
        let quotient = a.checked_div(b)?;
        let rounds_up = a % b != 0 && (a < 0) != (b < 0);
        Some(quotient - i128::from(rounds_up))
    }
}

/// Fractions: `(numerator, denominator)` in lowest terms, the denominator positive. No result as in [`Floor`].
#[derive(Debug)]
pub(crate) struct Exact;

impl Exact {
    fn reduced(numerator: i128, denominator: i128) -> Option<(i128, i128)> {
        let divisor = gcd(numerator.unsigned_abs(), denominator.unsigned_abs());
        let divisor = i128::try_from(divisor).ok().filter(|&divisor| divisor != 0)?;
        let sign = denominator.signum();
        Some(((numerator / divisor).checked_mul(sign)?, (denominator / divisor).checked_mul(sign)?))
    }
}

impl Numbers for Exact {
    type Number = (i128, i128);

    fn literal(&self, text: &str) -> Option<(i128, i128)> {
        Some((text.parse().ok()?, 1))
    }

    fn negate(&self, a: (i128, i128)) -> Option<(i128, i128)> {
        Some((a.0.checked_neg()?, a.1))
    }

    fn add(&self, a: (i128, i128), b: (i128, i128)) -> Option<(i128, i128)> {
        let sum = a.0.checked_mul(b.1)?.checked_add(b.0.checked_mul(a.1)?)?;
        Self::reduced(sum, a.1.checked_mul(b.1)?)
    }

    fn subtract(&self, a: (i128, i128), b: (i128, i128)) -> Option<(i128, i128)> {
        self.add(a, self.negate(b)?)
    }

    fn multiply(&self, a: (i128, i128), b: (i128, i128)) -> Option<(i128, i128)> {
        Self::reduced(a.0.checked_mul(b.0)?, a.1.checked_mul(b.1)?)
    }

    fn divide(&self, a: (i128, i128), b: (i128, i128)) -> Option<(i128, i128)> {
        if b.0 == 0 {
            return None;
        }
        self.multiply(a, (b.1, b.0))
    }
}

/// The greatest common divisor; `gcd(0, n)` is `n`.
pub(crate) fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        // Most numbers are small, and narrow division is several times faster.
        if let (Ok(mut x), Ok(mut y)) = (u64::try_from(a), u64::try_from(b)) {
            while y != 0 {
                (x, y) = (y, x % y);
            }
            return x.into();
        }
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precedence_signs_and_floors_are_pythons() {
        let cases = [
            ("2 + 3 * 4", 14),
            ("20 / 3 / 2", 3),
            ("-7 / 2", -4),
            ("7 / -2", -4),
            ("-7 / -2", 3),
            ("-( 1 - 5 ) * 2--3", 11),
            ("-(-(-5))", -5),
        ];
        for (text, value) in cases {
            assert_eq!(evaluate(&Floor, text), Some(value), "{text}");
        }
        for text in ["1 / 0", "", "1 +", "(1", "1)", "1 2", &format!("1{}", " * 10".repeat(39))] {
            assert_eq!(evaluate(&Floor, text), None, "{text}");
        }
    }

    #[test]
    fn fractions_are_exact() {
        assert_eq!(evaluate(&Exact, "-7 / 2 + 3 / -4"), Some((-17, 4)));
        assert_eq!(evaluate(&Exact, "6 / 4 * 2"), Some((3, 1)));
        assert_eq!(evaluate(&Exact, "1 / (2 - 2)"), None);
    }
}
