//! `count_bits`: how many ones a number has in binary.

use serde_json::{Value, json};

use crate::config::Fields;
use crate::item::{Facts, Item};
use crate::puzzle::{Bounds, Drawn, Kind, Puzzle, default_score};
use crate::random::PyRandom;
use crate::{Mode, TaskError};

pub(crate) const KIND: Kind = Kind {
    name: "count_bits",
    description: "count the ones in a number's binary representation",
    read: |fields, mode| Ok(Box::new(CountBits::read(fields, mode)?)),
};

#[derive(Debug)]
struct CountBits {
    n: [i64; 2],
    mode: Mode,
}

impl CountBits {
    fn read(fields: &mut Fields, mode: Mode) -> Result<Self, TaskError> {
        Ok(Self { n: fields.span(["min_n", "max_n"], [1, (1 << 31) - 1], 1..=1 << 62)?, mode })
    }
}

impl Puzzle for CountBits {
    fn draw(&self, rng: &mut PyRandom) -> Option<Drawn> {
        let number = rng.randint(self.n[0], self.n[1]).unsigned_abs();
        let question =
            ["How many 1 bits are there in the binary representation of the number ", &number.to_string(), "?"];
        Some(Drawn {
            question: question.concat(),
            answer: Some(number.count_ones().to_string()),
            facts: Facts::CountBits { number },
        })
    }

    fn score(&self, item: &Item, answer: &str) -> f64 {
        default_score(item, answer, self.mode)
    }

    fn difficulty(&self) -> Value {
        json!({ "n": self.n })
    }

    fn bounds(&self) -> Bounds {
        Bounds { prompt: 71 + 19, answer: 2 }
    }

    fn compact_bounds(&self) -> Result<Bounds, &'static str> {
        Ok(Bounds { prompt: 3 + self.n[1].ilog2() as usize + 1, answer: 2 })
    }

    /// `k:1011=`: the number in binary, which makes this an easier task than the question.
    fn compact_prompt(&self, item: &Item) -> Option<String> {
        let Facts::CountBits { number } = item.metadata.facts else { return None };
        Some(format!("k:{number:b}="))
    }
}
