//! `fraction_simplification`: a fraction in lowest terms.

use serde_json::{Value, json};

use crate::config::{Fields, wrong};
use crate::expression::gcd;
use crate::item::{Facts, Item};
use crate::puzzle::{Bounds, Drawn, Kind, Puzzle};
use crate::python::number::{Int, int};
use crate::python::text::{digit, is_space, strip};
use crate::random::PyRandom;
use crate::{Mode, TaskError};

pub(crate) const KIND: Kind = Kind {
    name: "fraction_simplification",
    description: "reduce a fraction to lowest terms",
    read: |fields, mode| Ok(Box::new(FractionSimplification::read(fields, mode)?)),
};

const STYLES: [&str; 4] = ["plain", "latex_inline", "latex_frac", "latex_dfrac"];
/// Values and factors: products fit 64 bits.
const LARGEST: i64 = 1_000_000_000;

#[derive(Debug)]
struct FractionSimplification {
    value: [i64; 2],
    factor: [i64; 2],
    styles: Vec<usize>,
    mode: Mode,
}

/// `numerator / denominator`, which is `simple[0] / simple[1]` times `factor / factor`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fraction {
    simple: [i64; 2],
    factor: i64,
    style: usize,
}

impl Fraction {
    fn numerator(&self) -> i64 {
        self.simple[0] * self.factor
    }

    fn denominator(&self) -> i64 {
        self.simple[1] * self.factor
    }

    fn write(&self, text: &mut String, numerator: i64, denominator: i64) {
        let [before, between, after] = match STYLES[self.style] {
            "plain" => ["", "/", ""],
            "latex_inline" => ["$", "/", "$"],
            "latex_frac" => ["$\\frac{", "}{", "}$"],
            _ => ["$\\dfrac{", "}{", "}$"],
        };
        for part in [before, &numerator.to_string(), between, &denominator.to_string(), after] {
            text.push_str(part);
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "numerator": self.numerator(),
            "denominator": self.denominator(),
            "simplified_numerator": self.simple[0],
            "simplified_denominator": self.simple[1],
            "reduction_factor": self.factor,
            "style": STYLES[self.style],
            "factor": self.factor,
        })
    }
}

impl FractionSimplification {
    fn read(fields: &mut Fields, mode: Mode) -> Result<Self, TaskError> {
        let value = fields.span(["min_value", "max_value"], [1, 100], 1..=LARGEST)?;
        if value[0] == value[1] {
            return Err(wrong("max_value", "it must be more than `min_value`"));
        }
        let factor = fields.span(["min_factor", "max_factor"], [2, 100], 1..=LARGEST)?;
        let styles = fields.choices("styles", &["plain", "latex_frac", "latex_dfrac"], &STYLES, 16)?;
        Ok(Self { value, factor, styles, mode })
    }

    fn pair(&self, rng: &mut PyRandom) -> [i64; 2] {
        [rng.randint(self.value[0], self.value[1]), rng.randint(self.value[0], self.value[1])]
    }
}

impl Puzzle for FractionSimplification {
    fn draw(&self, rng: &mut PyRandom) -> Option<Drawn> {
        let coprime = (0..10).find_map(|_| {
            let pair = self.pair(rng);
            let divisor = gcd(pair[0].unsigned_abs().into(), pair[1].unsigned_abs().into()) as i64;
            let pair = pair.map(|number| number / divisor);
            pair.iter().all(|&number| number >= self.value[0]).then_some(pair)
        });
        // After ten attempts reasoning-gym takes any pair, which may have a common divisor.
        let mut simple = match (coprime, self.mode) {
            (Some(pair), _) => pair,
            (None, Mode::Exact) => self.pair(rng),
            (None, Mode::Hardened) => return None,
        };
        simple.sort_unstable();
        let factor = rng.randint(self.factor[0], self.factor[1]);
        let style = self.styles[rng.randint(0, self.styles.len() as i64 - 1) as usize];
        let fraction = Fraction { simple, factor, style };
        let mut question = String::with_capacity(160);
        question.push_str("Simplify the fraction ");
        fraction.write(&mut question, fraction.numerator(), fraction.denominator());
        question.push_str(" to its lowest terms. Give only the simplified fraction as your final answer.");
        let mut answer = String::with_capacity(32);
        fraction.write(&mut answer, simple[0], simple[1]);
        Some(Drawn { question, answer: Some(answer), facts: Facts::Fraction(fraction) })
    }

    /// reasoning-gym pays .1 for a numerator or denominator copied from the question, .05 for any fraction and .01
    /// for anything.
    fn score(&self, item: &Item, answer: &str) -> f64 {
        let Facts::Fraction(fraction) = &item.metadata.facts else { return 0.0 };
        let found = fraction_in(answer);
        let is_right = found.is_some_and(|[n, d]| n.is(fraction.simple[0]) && d.is(fraction.simple[1]));
        match (self.mode, found) {
            _ if is_right => 1.0,
            (Mode::Hardened, _) => 0.0,
            (Mode::Exact, None) => 0.01,
            (Mode::Exact, Some([n, d])) if n.is(fraction.numerator()) || d.is(fraction.denominator()) => 0.1,
            (Mode::Exact, Some(_)) => 0.05,
        }
    }

    fn score_of_none(&self) -> f64 {
        if self.mode == Mode::Exact { 0.01 } else { 0.0 }
    }

    fn difficulty(&self) -> Value {
        json!({ "value": self.value, "factor": self.factor })
    }

    fn bounds(&self) -> Bounds {
        let digits = |number: i64| number.ilog10() as usize + 1;
        let (simple, product) = (digits(self.value[1]), digits(self.value[1] * self.factor[1]));
        // "$\dfrac{}{}$" has 12 characters, the rest of the question 99.
        Bounds { prompt: 99 + 12 + 2 * product, answer: 12 + 2 * simple }
    }

    fn compact_bounds(&self) -> Result<Bounds, &'static str> {
        let Bounds { prompt, answer } = self.bounds();
        Ok(Bounds { prompt: prompt - 99 - 12 + 4, answer: answer - 12 + 1 })
    }

    /// `f:75/410=`, in whichever style the question is.
    fn compact_prompt(&self, item: &Item) -> Option<String> {
        let Facts::Fraction(fraction) = &item.metadata.facts else { return None };
        Some(format!("f:{}/{}=", fraction.numerator(), fraction.denominator()))
    }

    /// `15/82`, which the scorer takes in all styles.
    fn compact_answer(&self, item: &Item, oracle: String) -> String {
        match &item.metadata.facts {
            Facts::Fraction(Fraction { simple: [numerator, denominator], .. }) => format!("{numerator}/{denominator}"),
            _ => oracle,
        }
    }
}

/// Numerator and denominator of `\frac{a}{b}` or `\dfrac{a}{b}` at the start, whatever follows, or of `a/b`; dollars
/// and white space around it do not count.
fn fraction_in(answer: &str) -> Option<[Int; 2]> {
    let cleaned = strip(strip(answer).trim_matches('$'));
    if let Some([numerator, denominator]) = latex(cleaned) {
        return Some([int(numerator)?, int(denominator)?]);
    }
    let (numerator, denominator) = cleaned.split_once('/')?;
    Some([int(strip(numerator))?, int(strip(denominator))?])
}

/// `\\(?:frac|dfrac)\s*{\s*(\d+)\s*}\s*{\s*(\d+)\s*}` at the start, without regard to case: its two groups.
fn latex(text: &str) -> Option<[&str; 2]> {
    let after = |text: &'static str, rest: &mut &str| -> Option<()> {
        let found = rest.get(..text.len())?.eq_ignore_ascii_case(text);
        *rest = &rest[text.len()..];
        found.then_some(())
    };
    let mut rest = text.strip_prefix('\\')?;
    if rest.starts_with(['d', 'D']) {
        rest = &rest[1..];
    }
    after("frac", &mut rest)?;
    let mut group = || {
        rest = rest.trim_start_matches(is_space);
        after("{", &mut rest)?;
        rest = rest.trim_start_matches(is_space);
        let end = rest.find(|c| digit(c).is_none()).unwrap_or(rest.len());
        let (digits, others) = rest.split_at(end);
        rest = others.trim_start_matches(is_space);
        after("}", &mut rest)?;
        (!digits.is_empty()).then_some(digits)
    };
    Some([group()?, group()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_found() {
        let small = |a, b| Some([Int::Small(a), Int::Small(b)]);
        let cases = [
            (" $ \\DFRAC { 15 } {82}$ and more", small(15, 82)),
            ("15 / 82", small(15, 82)),
            ("-1_5/+82", small(-15, 82)),
            ("$\\frac{١٥}{82}", small(15, 82)),
            ("\\frac{15}{x}", None),
            ("\\frac{15}{x}/3", None),
            ("15/82/1", None),
            ("15", None),
            ("/", None),
            ("$$", None),
            ("\\frac15", None),
            ("\\frac{1/2", None),
        ];
        for (text, fraction) in cases {
            assert_eq!(fraction_in(text), fraction, "{text}");
        }
        assert_eq!(fraction_in(&format!("{}/1", "9".repeat(4300))), Some([Int::Large, Int::Small(1)]));
        assert_eq!(fraction_in(&format!("{}/1", "9".repeat(4301))), None);
    }
}
