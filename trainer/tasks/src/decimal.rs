//! Decimal numbers as Python's `decimal` computes with them: a context of some precision, rounding half to even.
//!
//! After "General Decimal Arithmetic Specification" (Cowlishaw, version 1.70), in as much of it as the tasks need:
//! finite numbers whose coefficients and exact products fit `u128`, and exponents that never reach a limit.

use std::cmp::Ordering;

use crate::expression::Numbers;
use crate::python::text::{digit, strip};

/// Significant digits of a result; at most [`MAX_PRECISION`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context {
    pub(crate) precision: u32,
}

/// Products and dividends of numbers of this many digits fit 128 bits.
pub(crate) const MAX_PRECISION: i64 = 18;

/// `(-1)^negative * coefficient * 10^exponent`. Zeros have a sign and an exponent too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decimal {
    negative: bool,
    coefficient: u128,
    exponent: i32,
}

impl Decimal {
    /// `Decimal(str(value))` for the float of this literal, which has digits with or without a point, at most 15 of
    /// them: the zeros at the end of a float are gone but for the one after the point.
    pub(crate) fn of_literal(text: &str) -> Option<Self> {
        let Some((whole, fraction)) = text.split_once('.') else {
            return Some(Self { negative: false, coefficient: text.parse().ok()?, exponent: 0 });
        };
        let kept = fraction.trim_end_matches('0');
        let kept = if kept.is_empty() { "0" } else { kept };
        let exponent = -i32::try_from(kept.len()).ok()?;
        Some(Self { negative: false, coefficient: format!("{whole}{kept}").parse().ok()?, exponent })
    }

    fn digits(&self) -> u32 {
        self.coefficient.checked_ilog10().map_or(1, |log| log + 1)
    }

    fn is_zero(&self) -> bool {
        self.coefficient == 0
    }
}

/// `to-scientific-string`, which is Python's `str`.
impl std::fmt::Display for Decimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = self.coefficient.to_string();
        let sign = if self.negative { "-" } else { "" };
        let adjusted = self.exponent + digits.len() as i32 - 1;
        if self.exponent <= 0 && adjusted >= -6 {
            let places = self.exponent.unsigned_abs() as usize;
            if places == 0 {
                return write!(f, "{sign}{digits}");
            }
            let padded = format!("{digits:0>width$}", width = places + 1);
            let (whole, fraction) = padded.split_at(padded.len() - places);
            return write!(f, "{sign}{whole}.{fraction}");
        }
        let (first, others) = digits.split_at(1);
        let point = if others.is_empty() { "" } else { "." };
        write!(f, "{sign}{first}{point}{others}E{adjusted:+}")
    }
}

impl Context {
    /// Rounds half to even; `more` says that the exact value lies a little beyond the coefficient.
    fn rounded(self, value: Decimal, more: bool) -> Decimal {
        let excess = value.digits().saturating_sub(self.precision);
        if excess == 0 {
            return value;
        }
        let unit = 10_u128.pow(excess);
        let (mut coefficient, rest) = (value.coefficient / unit, value.coefficient % unit);
        let mut exponent = value.exponent + excess as i32;
        let up = match rest.cmp(&(unit / 2)) {
            Ordering::Less => false,
            Ordering::Equal => more || coefficient % 2 == 1,
            Ordering::Greater => true,
        };
        coefficient += u128::from(up);
        if coefficient == 10_u128.pow(self.precision) {
            coefficient /= 10;
            exponent += 1;
        }
        Decimal { negative: value.negative, coefficient, exponent }
    }
}

impl Numbers for Context {
    type Number = Decimal;

    fn literal(&self, text: &str) -> Option<Decimal> {
        Decimal::of_literal(text)
    }

    fn negate(&self, a: Decimal) -> Option<Decimal> {
        Some(Decimal { negative: !a.negative, ..a })
    }

    fn add(&self, a: Decimal, b: Decimal) -> Option<Decimal> {
        let (high, low) = if a.exponent >= b.exponent { (a, b) } else { (b, a) };
        if high.is_zero() && low.is_zero() {
            return Some(Decimal { negative: a.negative && b.negative, coefficient: 0, exponent: low.exponent });
        }
        if high.is_zero() {
            return Some(self.rounded(low, false));
        }
        let gap = high.exponent.abs_diff(low.exponent);
        // How far the larger coefficient can be spread out, and what is needed to round correctly.
        let room = 37 - high.digits();
        let (high_part, low_part, exponent) = if gap <= room {
            (high.coefficient * 10_u128.pow(gap), low.coefficient, low.exponent)
        } else if low.is_zero() {
            // The exponent comes as close to the smaller one as the precision allows.
            let shift = self.precision.saturating_sub(high.digits());
            return Some(self.rounded(
                Decimal {
                    coefficient: high.coefficient * 10_u128.pow(shift),
                    exponent: high.exponent - shift as i32,
                    ..high
                },
                false,
            ));
        } else {
            // Far below the last digit: that there is something is all that matters.
            (high.coefficient * 10_u128.pow(room), 1, high.exponent - room as i32)
        };
        let (negative, coefficient) = if high.negative == low.negative {
            (high.negative, high_part.checked_add(low_part)?)
        } else if high_part >= low_part {
            (high.negative, high_part - low_part)
        } else {
            (low.negative, low_part - high_part)
        };
        let negative = negative && coefficient != 0;
        Some(self.rounded(Decimal { negative, coefficient, exponent }, false))
    }

    fn subtract(&self, a: Decimal, b: Decimal) -> Option<Decimal> {
        self.add(a, self.negate(b)?)
    }

    fn multiply(&self, a: Decimal, b: Decimal) -> Option<Decimal> {
        let product = Decimal {
            negative: a.negative != b.negative,
            coefficient: a.coefficient.checked_mul(b.coefficient)?,
            exponent: a.exponent.checked_add(b.exponent)?,
        };
        Some(self.rounded(product, false))
    }

    fn divide(&self, a: Decimal, b: Decimal) -> Option<Decimal> {
        if b.is_zero() {
            return None;
        }
        let negative = a.negative != b.negative;
        let ideal = a.exponent.checked_sub(b.exponent)?;
        if a.is_zero() {
            return Some(Decimal { negative, coefficient: 0, exponent: ideal });
        }
        // One digit more than is kept, and whether anything follows it.
        let shift = (self.precision + 1 + b.digits()).saturating_sub(a.digits());
        let dividend = a.coefficient.checked_mul(10_u128.checked_pow(shift)?)?;
        let (mut coefficient, rest) = (dividend / b.coefficient, dividend % b.coefficient);
        let mut exponent = ideal - shift as i32;
        if rest == 0 {
            // Exact: zeros go until the exponent is the ideal one.
            while exponent < ideal && coefficient % 10 == 0 {
                coefficient /= 10;
                exponent += 1;
            }
        }
        Some(self.rounded(Decimal { negative, coefficient, exponent }, rest != 0))
    }
}

/// Whether `abs(Decimal(answer) - oracle) <= Decimal(10) ** -places` in this context.
///
/// The difference is rounded to the precision before it is compared. The bound has the coefficient 1, an even one, so
/// what rounds to the bound is at most half a unit of its last place more, that half included: the comparison is with
/// `10^-places + 5 * 10^-(places + precision)`, exactly. Time is linear in the answer's length.
pub(crate) fn is_close(context: Context, answer: &str, oracle: Decimal, places: u32) -> bool {
    let Some(answer) = Digits::parse(answer) else { return false };
    let oracle = Digits {
        negative: oracle.negative,
        digits: oracle.coefficient.to_string().bytes().map(|byte| byte - b'0').collect(),
        exponent: oracle.exponent.into(),
    };
    // Far larger than anything near the oracle: also what no array of digits should be made of.
    let reach = oracle.top().max(0) + 2;
    if !answer.is_zero() && answer.top() > reach {
        return false;
    }
    // Below this place a digit matters only by being there.
    let last = oracle.exponent.min(-i64::from(places + context.precision)) - 2;
    let width = usize::try_from(reach - last + 1).unwrap_or(usize::MAX);
    if width > MAX_WIDTH {
        return false;
    }
    let place = |number: &Digits| {
        let mut row = vec![0_u8; width];
        let mut sticky = false;
        for (i, &digit) in number.digits.iter().enumerate() {
            let position = number.exponent + (number.digits.len() - 1 - i) as i64;
            match usize::try_from(reach - position).ok().filter(|&column| column < width) {
                Some(column) => row[column] = digit,
                None => sticky |= digit != 0,
            }
        }
        if sticky {
            row[width - 1] = 1;
        }
        row
    };
    let (a, b) = (place(&answer), place(&oracle));
    let difference = if answer.negative != oracle.negative {
        sum(&a, &b)
    } else if a >= b {
        minus(&a, &b)
    } else {
        minus(&b, &a)
    };
    let bound = Digits {
        negative: false,
        digits: [1].into_iter().chain((1..context.precision).map(|_| 0)).chain([5]).collect(),
        exponent: -i64::from(places + context.precision),
    };
    difference <= place(&bound)
}

/// More columns than any configuration needs.
const MAX_WIDTH: usize = 4096;

/// A decimal number of any length.
struct Digits {
    negative: bool,
    /// The highest first.
    digits: Vec<u8>,
    exponent: i64,
}

impl Digits {
    /// `Decimal(text)` where that is finite; `None` otherwise, and where Python raises.
    fn parse(text: &str) -> Option<Self> {
        // Underscores are ignored wherever they are, unlike in `int` and `float`.
        let mut chars = strip(text).chars().filter(|&c| c != '_').peekable();
        let negative = chars.peek() == Some(&'-');
        chars.next_if(|c| matches!(c, '-' | '+'));
        let (mut digits, mut places, mut any, mut point) = (Vec::new(), 0_i64, false, false);
        while let Some(c) = chars.next_if(|&c| digit(c).is_some() || (c == '.' && !point)) {
            match digit(c) {
                None => point = true,
                Some(digit) => {
                    any = true;
                    places += i64::from(point);
                    if digit != 0 || !digits.is_empty() {
                        digits.push(digit);
                    }
                }
            }
        }
        let mut exponent = 0_i64;
        if any && chars.next_if(|c| matches!(c, 'e' | 'E')).is_some() {
            let down = chars.peek() == Some(&'-');
            chars.next_if(|c| matches!(c, '-' | '+'));
            digit(*chars.peek()?)?;
            while let Some(digit) = chars.peek().and_then(|&c| digit(c)) {
                chars.next();
                exponent = exponent * 10 + i64::from(digit);
                if exponent > MAX_EXPONENT {
                    return None;
                }
            }
            exponent = if down { -exponent } else { exponent };
        }
        if !any || chars.next().is_some() {
            return None;
        }
        Some(Self { negative, digits, exponent: exponent - places })
    }

    fn is_zero(&self) -> bool {
        self.digits.iter().all(|&digit| digit == 0)
    }

    /// The position of the first digit: 0 for ones, 1 for tens.
    fn top(&self) -> i64 {
        self.exponent + self.digits.len() as i64 - 1
    }
}

/// Python's `MAX_EMAX`; larger exponents do not make a number.
const MAX_EXPONENT: i64 = 999_999_999_999_999_999;

fn sum(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut carry = 0;
    let mut row: Vec<u8> = a
        .iter()
        .zip(b)
        .rev()
        .map(|(a, b)| {
            let digit = a + b + carry;
            carry = digit / 10;
            digit % 10
        })
        .collect();
    row.reverse();
    row
}

/// `a - b` for `a >= b`.
fn minus(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut borrow = 0;
    let mut row: Vec<u8> = a
        .iter()
        .zip(b)
        .rev()
        .map(|(a, b)| {
            let digit = 10 + a - b - borrow;
            borrow = u8::from(digit < 10);
            digit % 10
        })
        .collect();
    row.reverse();
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expression::evaluate;

    /// Recorded from CPython 3.11, `getcontext().prec = 5`.
    #[test]
    fn results_equal_python() {
        let cases = [
            ("9.5*2.9", "27.55"),
            ("1.0/3.0", "0.33333"),
            ("2.0/3.0", "0.66667"),
            ("1.5-1.5", "0.0"),
            ("0.001*0.001*0.5", "5E-7"),
            ("0.001*0.001", "0.000001"),
            ("10.0*10.0*10.0*10.0*10.0*10.0", "1.0000E+6"),
            ("10.0/4.0", "2.5"),
            ("5.00*2.0", "10.00"),
            ("(1.5-1.5)/3.125", "0E+2"),
            ("(1.5-1.5)*-2.0", "-0.00"),
            ("9999.5+0.05", "9999.6"),
            ("9999.5+0.045", "9999.5"),
            ("1.0/0.008", "125"),
            ("100000.0+0.0", "1.0000E+5"),
            ("6+1", "7"),
        ];
        for (text, result) in cases {
            let value = evaluate(&Context { precision: 5 }, text).map(|value| value.to_string());
            assert_eq!(value.as_deref(), Some(result), "{text}");
        }
        assert_eq!(evaluate(&Context { precision: 5 }, "1.0/(2.0-2.0)"), None);
    }

    #[test]
    fn closeness_is_exact() {
        let context = Context { precision: 5 };
        let oracle = Decimal { negative: false, coefficient: 2755, exponent: -2 };
        let close = |answer: &str| is_close(context, answer, oracle, 3);
        for answer in ["27.55", " +2_7.551 ", "27.549", "2755e-2", "٢٧.55", "27.55100000", "27.55100005", "0027.55"] {
            assert!(close(answer), "{answer}");
        }
        let bad = [
            "27.551000051",
            "27.548",
            "-27.55",
            "27,55",
            "nan",
            "inf",
            "1e999999999",
            "1e-999999999",
            "",
            ".",
            "27.55e",
            "27.5.5",
            "1e9999999999999999999",
            "27. 55",
        ];
        for answer in bad {
            assert!(!close(answer), "{answer}");
        }
        let zero = Decimal { negative: true, coefficient: 0, exponent: -1 };
        assert!(is_close(context, "1e-999999999", zero, 3));
        assert!(is_close(context, "-.001", zero, 3) && !is_close(context, "-.0011", zero, 3));
        let long = format!("27.55{}1", "0".repeat(1_000_000));
        assert!(close(&long));
    }
}
