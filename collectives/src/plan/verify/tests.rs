//! The verifier, judged by hand-made plans and by an independent interpreter.

mod golden;
mod interpreter;
mod mutants;
