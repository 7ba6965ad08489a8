//! `spell_backward`: a word's letters in reverse.

use serde_json::{Value, json};

use crate::config::Fields;
use crate::item::{Facts, Item};
use crate::puzzle::{Bounds, Drawn, Kind, Puzzle};
use crate::random::PyRandom;
use crate::{Mode, TaskError};

pub(crate) const KIND: Kind = Kind {
    name: "spell_backward",
    description: "spell a word backward",
    read: |fields, mode| Ok(Box::new(SpellBackward::read(fields, mode)?)),
};

/// Words of ASCII letters, one a line, sorted by length.
static WORDS: &str = include_str!("../data/words3to10.txt");

/// Where the words of 3 letters begin in [`WORDS`], those of 4, and so on to the end; checked by a test.
const STARTS: [usize; 9] = [0, 5480, 31590, 92670, 216262, 406814, 676265, 999795, 1338903];
const SHORTEST: usize = 3;

#[derive(Debug)]
struct SpellBackward {
    word_len: [i64; 2],
    /// Words of a length that is neither too short nor too long.
    count: u64,
    mode: Mode,
}

impl SpellBackward {
    fn read(fields: &mut Fields, mode: Mode) -> Result<Self, TaskError> {
        let word_len = fields.span(["min_word_len", "max_word_len"], [3, 10], 1..=10)?;
        if word_len[1] < SHORTEST as i64 {
            return Err(crate::config::wrong("max_word_len", "there is no word of fewer than 3 letters"));
        }
        Ok(Self::new(word_len, mode))
    }

    fn new(word_len: [i64; 2], mode: Mode) -> Self {
        let mut puzzle = Self { word_len, count: 0, mode };
        puzzle.count = puzzle.lists().map(|(len, words)| words.len() as u64 / (len as u64 + 1)).sum();
        puzzle
    }

    /// The word at a place in the list of those that are neither too short nor too long.
    fn word(&self, mut place: usize) -> &'static str {
        for (len, words) in self.lists() {
            let size = len + 1;
            match words.get(place * size..place * size + len) {
                Some(word) => return word,
                None => place -= words.len() / size,
            }
        }
        // Only for a place beyond the list.
        ""
    }

    /// The lengths and the lines of the words of each.
    fn lists(&self) -> impl Iterator<Item = (usize, &'static str)> {
        let allowed = self.word_len[0] as usize..=self.word_len[1] as usize;
        let lists = STARTS.windows(2).enumerate().map(|(i, bounds)| (i + SHORTEST, &WORDS[bounds[0]..bounds[1]]));
        lists.filter(move |(len, _)| allowed.contains(len))
    }
}

impl Puzzle for SpellBackward {
    fn draw(&self, rng: &mut PyRandom) -> Option<Drawn> {
        let word = self.word(rng.below(self.count) as usize);
        Some(Drawn {
            question: ["Spell this word backward (example: sun -> nus): ", word].concat(),
            answer: Some(word.bytes().rev().map(char::from).collect()),
            facts: Facts::SpellBackward { word },
        })
    }

    /// Letters in their places count, whatever their case. reasoning-gym's sum of shares is repeated as it is: where
    /// they sum to exactly 1, which means that something follows the right answer, it takes .2 off. In hardened mode
    /// the answer's own length divides where it is the greater one.
    fn score(&self, item: &Item, answer: &str) -> f64 {
        let Some(oracle) = item.answer.as_deref() else { return 0.0 };
        let answer = if self.mode == Mode::Hardened { answer.trim() } else { answer };
        if answer.eq_ignore_ascii_case(oracle) {
            return 1.0;
        }
        let mut letters = answer.chars().flat_map(char::to_lowercase);
        let (mut hits, mut share) = (0_usize, 0.0);
        for wanted in oracle.chars().flat_map(char::to_lowercase) {
            match letters.next() {
                None => break,
                Some(letter) if letter == wanted => {
                    hits += 1;
                    share += 1.0 / oracle.len() as f64;
                }
                Some(_) => {}
            }
        }
        let is_longer = letters.next().is_some();
        if hits == oracle.len() && !is_longer {
            return 1.0;
        }
        match self.mode {
            Mode::Exact if share == 1.0 => 0.8,
            // Nine ninths sum to a little more than 1.
            Mode::Exact => share.min(1.0),
            Mode::Hardened => hits as f64 / oracle.len().max(answer.chars().count()) as f64,
        }
    }

    fn difficulty(&self) -> Value {
        json!({ "word_len": self.word_len })
    }

    fn bounds(&self) -> Bounds {
        let longest = self.word_len[1] as usize;
        Bounds { prompt: 48 + longest, answer: longest }
    }

    fn compact_bounds(&self) -> Result<Bounds, &'static str> {
        let longest = self.word_len[1] as usize;
        Ok(Bounds { prompt: 3 + longest, answer: longest })
    }

    /// `r:prog=`.
    fn compact_prompt(&self, item: &Item) -> Option<String> {
        let Facts::SpellBackward { word } = item.metadata.facts else { return None };
        Some(["r:", word, "="].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_by_length() {
        assert_eq!(STARTS[8], WORDS.len());
        let all = SpellBackward::new([1, 10], Mode::Exact);
        let words: Vec<&str> = WORDS.lines().collect();
        assert_eq!(all.count as usize, words.len());
        assert_eq!((words.len(), words[0], words[151_366]), (151_367, "aal", "Zyzzogeton"));
        assert!(words.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_alphabetic())));
        for (place, word) in words.iter().enumerate().step_by(97) {
            assert_eq!(all.word(place), *word);
        }
        let four = SpellBackward::new([4, 4], Mode::Exact);
        assert_eq!((four.count, four.word(0).len(), four.word(5221).len()), (5222, 4, 4));
    }
}
