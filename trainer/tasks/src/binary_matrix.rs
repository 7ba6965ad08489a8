//! `binary_matrix`: each cell's taxicab distance to the nearest 0.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::config::Fields;
use crate::item::{Facts, Item};
use crate::prompt::spaced_digits;
use crate::puzzle::{Bounds, Drawn, Kind, Puzzle};
use crate::python::literal::joined_rows;
use crate::random::PyRandom;
use crate::{Mode, TaskError};

pub(crate) const KIND: Kind = Kind {
    name: "binary_matrix",
    description: "distance of each cell of a 0/1 matrix to the nearest 0",
    read: |fields, _mode: Mode| Ok(Box::new(BinaryMatrix::read(fields)?)),
};

#[derive(Debug)]
struct BinaryMatrix {
    n: [i64; 2],
    p_zero: f64,
}

/// The matrix and the distances, both `[n, n]` by rows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Matrix {
    n: usize,
    cells: Vec<u8>,
    distances: Vec<u8>,
}

impl Matrix {
    fn new(n: usize, cells: Vec<u8>) -> Self {
        // Two sweeps are enough for this distance: the nearest 0 above or to the left, then below or to the right.
        let mut distances: Vec<u8> = cells.iter().map(|&cell| if cell == 0 { 0 } else { u8::MAX / 2 }).collect();
        for at in 0..n * n {
            let above = if at >= n { distances[at - n] } else { u8::MAX / 2 };
            let left = if at % n > 0 { distances[at - 1] } else { u8::MAX / 2 };
            distances[at] = distances[at].min(above + 1).min(left + 1);
        }
        for at in (0..n * n).rev() {
            let below = if at + n < n * n { distances[at + n] } else { u8::MAX / 2 };
            let right = if (at + 1) % n > 0 { distances[at + 1] } else { u8::MAX / 2 };
            distances[at] = distances[at].min(below + 1).min(right + 1);
        }
        Self { n, cells, distances }
    }

    pub(crate) fn to_json(&self) -> Value {
        let rows = |cells: &[u8]| cells.chunks(self.n).map(Value::from).collect::<Vec<_>>();
        json!({ "matrix": rows(&self.cells), "solution": rows(&self.distances), "n": self.n })
    }

    fn push(&self, text: &mut String, cells: &[u8], between: &str) {
        for (i, &cell) in cells.iter().enumerate() {
            if i > 0 {
                text.push_str(if i % self.n == 0 { "\n" } else { between });
            }
            if cell >= 10 {
                text.push(char::from(b'0' + cell / 10));
            }
            text.push(char::from(b'0' + cell % 10));
        }
    }
}

impl BinaryMatrix {
    fn read(fields: &mut Fields) -> Result<Self, TaskError> {
        Ok(Self {
            n: fields.span(["min_n", "max_n"], [3, 10], 1..=30)?,
            p_zero: fields.float("p_zero", 0.25, 0.001..=1.0)?,
        })
    }
}

impl Puzzle for BinaryMatrix {
    fn draw(&self, rng: &mut PyRandom) -> Option<Drawn> {
        const HEAD: &str = "Given a square matrix, your job is to find the taxicab (Manhattan) distance of the nearest \
            0 for each cell.\n\nThe output should be a matrix of the same size as the input matrix, where each cell \
            contains the distance to the nearest 0.\n\nFind the distance to the nearest 0 for each cell in the matrix \
            below:\n";
        let n = rng.randint(self.n[0], self.n[1]) as usize;
        let mut cells = vec![0; n * n];
        for cell in &mut cells[1..] {
            *cell = u8::from(rng.random() >= self.p_zero);
        }
        rng.shuffle(&mut cells);
        let matrix = Matrix::new(n, cells);
        let mut question = String::with_capacity(HEAD.len() + 2 * n * n);
        question.push_str(HEAD);
        matrix.push(&mut question, &matrix.cells, " ");
        question.push('\n');
        let mut answer = String::with_capacity(2 * n * n);
        matrix.push(&mut answer, &matrix.distances, " ");
        Some(Drawn { question, answer: Some(answer), facts: Facts::BinaryMatrix(matrix) })
    }

    /// The right matrix as a Python list of lists earns .1, in both modes: it is all right but for its form.
    fn score(&self, item: &Item, answer: &str) -> f64 {
        let Some(oracle) = item.answer.as_deref() else { return 0.0 };
        if answer == oracle {
            return 1.0;
        }
        if joined_rows(answer, oracle.len()).is_some_and(|rows| rows == oracle) { 0.1 } else { 0.0 }
    }

    fn difficulty(&self) -> Value {
        json!({ "n": self.n, "p_zero": self.p_zero })
    }

    fn bounds(&self) -> Bounds {
        let cells = (self.n[1] * self.n[1]) as usize;
        // A distance is at most 2 (n - 1): two digits from n = 6 on.
        let width = if self.n[1] > 5 { 3 } else { 2 };
        Bounds { prompt: 311 + 2 * cells, answer: width * cells - 1 }
    }

    fn compact_bounds(&self) -> Result<Bounds, &'static str> {
        if self.n[1] > 5 {
            return Err("a compact answer has one digit a cell: `max_n` must be at most 5");
        }
        let n = self.n[1] as usize;
        Ok(Bounds { prompt: 3 + n * (n + 1) - 1, answer: n * (n + 1) - 1 })
    }

    /// `m:011\n111\n111=`.
    fn compact_prompt(&self, item: &Item) -> Option<String> {
        let Facts::BinaryMatrix(matrix) = &item.metadata.facts else { return None };
        let mut text = String::from("m:");
        matrix.push(&mut text, &matrix.cells, "");
        text.push('=');
        Some(text)
    }

    /// The digits without the spaces between them.
    fn compact_answer(&self, item: &Item, oracle: String) -> String {
        let Facts::BinaryMatrix(matrix) = &item.metadata.facts else { return oracle };
        let mut text = String::new();
        matrix.push(&mut text, &matrix.distances, "");
        text
    }

    fn expand<'a>(&self, answer: &'a str) -> Cow<'a, str> {
        spaced_digits(answer)
    }
}
