//! `bf`: the output of a program of eight symbols.
//!
//! reasoning-gym writes a small C-like program, has BF-it (github.com/elikaski/BF-it, MIT) compile it and runs the
//! result. Only three programs occur, with numbers and a word that vary; `data/bf_while.txt` and `data/bf_while_if.txt`
//! are what the compiler makes of the two with a loop, one line for each stretch between two numbers.

use serde_json::{Value, json};

use crate::Mode;
use crate::item::{Facts, Item};
use crate::puzzle::{Bounds, Drawn, Kind, Puzzle, default_score};
use crate::random::PyRandom;

pub(crate) const KIND: Kind = Kind {
    name: "bf",
    description: "predict what a BF program prints",
    read: |fields, mode| Ok(Box::new(Bf { difficulty: fields.int("difficulty", 1, 1..=3)?, mode })),
};

/// Words of five letters, one a line.
static WORDS: &str = include_str!("../data/wordle_words.txt");
const WORD_LEN: usize = 5;
static WHILE: &str = include_str!("../data/bf_while.txt");
static WHILE_IF: &str = include_str!("../data/bf_while_if.txt");

#[derive(Debug)]
struct Bf {
    difficulty: i64,
    mode: Mode,
}

/// A program before and after compilation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Program {
    source: Source,
    compiled: String,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Source {
    Print { word: &'static str },
    While { target: u32, x: u32, y: u32 },
    WhileIf { target: u32, x: u32, y: u32, conditional: u32 },
}

impl Source {
    fn draw(difficulty: i64, rng: &mut PyRandom) -> Self {
        let mut upto = |high: i64| rng.randint(1, high) as u32;
        match difficulty {
            1 => {
                let place = rng.below((WORDS.len() / (WORD_LEN + 1)) as u64) as usize * (WORD_LEN + 1);
                Self::Print { word: &WORDS[place..place + WORD_LEN] }
            }
            2 => {
                let (x, y) = (upto(4), upto(5));
                let target = x * y * upto(9) + upto(9);
                Self::While { target, x, y }
            }
            _ => {
                let (x, y) = (upto(7), upto(9));
                let target = x * y * upto(9) + upto(9) + 50;
                let conditional = target - upto(40);
                Self::WhileIf { target, x, y, conditional }
            }
        }
    }

    fn text(self) -> String {
        match self {
            Self::Print { word } => format!("\nint main() {{\n    print(\"{word}\");\n}}\n"),
            Self::While { target, x, y } => {
                format!("{}        acc = acc + y;\n    }}\n    printint(acc);\n}}\n", loop_head(target, x, y))
            }
            Self::WhileIf { target, x, y, conditional } => format!(
                "{}        if (acc > {conditional}) {{\n            acc = acc + y;\n        }}\n    }}\n    \
                 printint(acc);\n}}\n",
                loop_head(target, x, y)
            ),
        }
    }

    fn compiled(self) -> String {
        let mut code = String::with_capacity(1536);
        match self {
            Self::Print { word } => {
                code.push_str("[-]>[-]<");
                let mut before = 0;
                for letter in word.bytes() {
                    push_change(&mut code, before, letter.into(), "");
                    code.push('.');
                    before = letter.into();
                }
                return [">", &code, "<"].concat();
            }
            Self::While { target, x, y } => push_loop(&mut code, WHILE, &[target, x, y]),
            Self::WhileIf { target, x, y, conditional } => {
                push_loop(&mut code, WHILE_IF, &[target, x, y, conditional]);
            }
        }
        code
    }

    /// What the program prints; `None` if it never ends. Cells are bytes, so that numbers wrap around.
    fn output(self) -> Option<String> {
        let (target, x, y, conditional) = match self {
            Self::Print { word } => return Some(word.to_owned()),
            Self::While { target, x, y } => (target as u8, x as u8, y as u8, None),
            Self::WhileIf { target, x, y, conditional } => (target as u8, x as u8, y as u8, Some(conditional as u8)),
        };
        let mut acc = 0_u8;
        // After as many rounds as a byte has values, some value has come again.
        for _ in 0..=256 {
            if acc >= target {
                return Some(acc.to_string());
            }
            acc = acc.wrapping_add(x);
            if conditional.is_none_or(|conditional| acc > conditional) {
                acc = acc.wrapping_add(y);
            }
        }
        None
    }
}

impl Program {
    pub(crate) fn to_json(&self) -> Value {
        json!({ "bfit_code": self.source.text(), "bf_program": self.compiled })
    }
}

impl Puzzle for Bf {
    fn draw(&self, rng: &mut PyRandom) -> Option<Drawn> {
        let source = Source::draw(self.difficulty, rng);
        // On a program that never ends reasoning-gym never returns; here the next draw follows.
        let output = source.output()?;
        let compiled = source.compiled();
        let [before, after] = rng.choice(&TEMPLATES);
        Some(Drawn {
            question: [before, compiled.as_str(), after].concat(),
            answer: Some(output),
            facts: Facts::Bf(Program { source, compiled }),
        })
    }

    fn score(&self, item: &Item, answer: &str) -> f64 {
        default_score(item, answer, self.mode)
    }

    fn difficulty(&self) -> Value {
        json!({ "difficulty": self.difficulty })
    }

    fn bounds(&self) -> Bounds {
        // A number's code is no longer than the loop form of a three-digit number; a test holds this against all.
        let program = match self.difficulty {
            1 => 11 + WORD_LEN * (LONGEST_CHANGE + 1),
            2 => WHILE.len() + 3 * LONGEST_CHANGE,
            _ => WHILE_IF.len() + 4 * LONGEST_CHANGE,
        };
        Bounds { prompt: 123 + program, answer: WORD_LEN }
    }
}

/// Bytes of code that sets a cell to anything up to 700.
const LONGEST_CHANGE: usize = 72;

const TEMPLATES: [[&str; 2]; 2] = [
    [
        "This is a BF (Brainf*ck) computer program. What is the output?\n\n",
        "\n\nRespond only with the exact output of the program.",
    ],
    [
        "Consider the following BF (Brainf*ck) code. What would it output?\n\n",
        "\n\nProvide only the exact output of the code.",
    ],
];

fn loop_head(target: u32, x: u32, y: u32) -> String {
    format!(
        "\nint main() {{\n    int acc = 0;\n    int target = {target};\n    int x = {x};\n    int y = {y};\n    \
         while (acc < target) {{\n        acc = acc + x;\n"
    )
}

/// The lines of a compiled loop with the numbers between them.
fn push_loop(code: &mut String, lines: &str, numbers: &[u32]) {
    let mut numbers = numbers.iter();
    for line in lines.lines() {
        code.push_str(line);
        if let Some(&number) = numbers.next() {
            push_change(code, 0, number, "[-]");
        }
    }
}

/// BF-it's code for a cell that holds `before` and is to hold `after`: plain steps, or a loop where that is shorter.
/// `clear` makes the cell of the loop's counter zero.
fn push_change(code: &mut String, before: u32, after: u32, clear: &str) {
    let offset = before.abs_diff(after);
    let (step, back) = if after > before { ('+', '-') } else { ('-', '+') };
    let (rounds, steps, rest) = loop_sizes(i64::from(offset));
    let looped = clear.len() as i64 + 7 + rounds + steps + rest.abs();
    let mut push = |symbol: char, count: i64| (0..count).for_each(|_| code.push(symbol));
    if i64::from(offset) <= looped {
        return push(step, offset.into());
    }
    push('>', 1);
    clear.chars().for_each(|symbol| push(symbol, 1));
    push('+', rounds);
    "[<".chars().for_each(|symbol| push(symbol, 1));
    push(step, steps);
    ">-]<".chars().for_each(|symbol| push(symbol, 1));
    push(if rest > 0 { step } else { back }, rest.abs());
}

/// BF-it's `a`, `b` and `c` with `a * b + c = offset`: the least `a + b + |c|` that its walk over the pairs meets.
fn loop_sizes(offset: i64) -> (i64, i64, i64) {
    let mut best = (offset, 1, 0);
    let mut least = offset + 1;
    let (mut left, mut right) = (1, offset / 2 - 1);
    while right >= left {
        let (a, b) = (left + 1, right + 1);
        let c = offset - a * b;
        if a + b + c.abs() < least {
            best = (a, b, c);
            least = a + b + c.abs();
        }
        if a * b > offset {
            right -= 1;
        } else {
            left += 1;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program that reads nothing and ends.
    fn run(code: &str) -> String {
        let (code, mut tape, mut at, mut pc) = (code.as_bytes(), [0_u8; 64], 0, 0);
        let mut out = String::new();
        while pc < code.len() {
            let skips = (code[pc] == b'[' && tape[at] == 0) || (code[pc] == b']' && tape[at] != 0);
            match code[pc] {
                b'+' => tape[at] = tape[at].wrapping_add(1),
                b'-' => tape[at] = tape[at].wrapping_sub(1),
                b'>' => at += 1,
                b'<' => at -= 1,
                b'.' => out.push(char::from(tape[at])),
                b'[' | b']' if skips => {
                    let forward = code[pc] == b'[';
                    let mut depth = 0;
                    loop {
                        depth += i32::from(code[pc] == b'[') - i32::from(code[pc] == b']');
                        if depth == 0 {
                            break;
                        }
                        pc = if forward { pc + 1 } else { pc - 1 };
                    }
                }
                _ => {}
            }
            pc += 1;
        }
        out
    }

    #[test]
    fn programs_print_what_is_said() {
        let mut ended = 0;
        for difficulty in 1..=3 {
            for seed in 0..150 {
                let source = Source::draw(difficulty, &mut PyRandom::new(seed));
                let Some(output) = source.output() else { continue };
                assert_eq!(run(&source.compiled()), output, "{source:?}");
                ended += 1;
            }
        }
        assert!(ended > 440, "{ended}");
    }

    #[test]
    fn changes_are_as_short_as_stated() {
        for after in 0..=700 {
            let mut code = String::new();
            push_change(&mut code, 0, after, "[-]");
            assert!(code.len() <= LONGEST_CHANGE, "{after}: {}", code.len());
        }
    }

    #[test]
    fn words_are_a_table() {
        assert_eq!(WORDS.lines().count(), 2315);
        assert!(WORDS.lines().all(|word| word.len() == WORD_LEN));
    }
}
