//! Verifiable reasoning tasks: items drawn from a seed, answers scored without running anything.
//!
//! The generators and scorers are those of [reasoning-gym](https://github.com/open-thought/reasoning-gym) 0.1.25
//! (Apache-2.0), written anew: an item depends on task, configuration, mode, seed and index alone, so that whoever is
//! told these has question and answer, and need not take them from a stranger. A configuration may come from a
//! stranger too; its fields have ranges that bound what an item costs.
//!
//! ```
//! use swarmloom_tasks::{Mode, Task};
//! let task = Task::new("binary_matrix/3x3", None, Mode::Hardened)?;
//! let item = task.sample(42, 0)?;
//! assert_eq!(task.prompt(&item), "m:101\n111\n000=");
//! assert_eq!(task.reward(&item, "101\n111\n000"), 1.0);
//! # Ok::<(), swarmloom_tasks::TaskError>(())
//! ```
//!
//! # Modes
//!
//! [`Mode::Exact`] is reasoning-gym: question, answer, metadata and score are the same, bit for bit, for the same
//! configuration. Where reasoning-gym raises or never returns, which leaves nothing to be equal to, the next draw from
//! the same generator follows, and a score is 0. Scores differ in what would cost too much or run code: text that
//! reasoning-gym evaluates as Python earns its .1 for a matrix only where it is a literal; a formula of more than 16
//! variables or 900 levels scores 0; and where spell_backward's sum of shares rounds to a little more than 1, it is 1.
//! [`Mode::Hardened`] differs as follows.
//!
//! | task | reasoning-gym, exact mode | hardened mode |
//! |---|---|---|
//! | all | long answers are read | an answer of more than 64 KiB scores 0 |
//! | arc_1d, base_conversion, basic_arithmetic, bf, count_bits | a text that contains the answer earns the answer's share of it | only the answer scores, white space around it aside |
//! | base_conversion | 0 has no digits in most bases; source and target may have the same text | 0 is `0`; items whose two texts are equal are drawn again |
//! | basic_arithmetic | the label is Python's floor division, unsaid in the question; without parentheses the label may belong to another expression | items whose label is not the expression's exact value are drawn again |
//! | binary_matrix | the right matrix as a Python list earns .1 | the same: only its form is wrong |
//! | calendar_arithmetic | .1 or .05 for any weekday; `exp(-5 error)` for any count; three years of four are no leap years | only the right answer scores, whatever its case; half of the years are leap years |
//! | decimal_arithmetic | absolute tolerance, whatever the answer's size | the same, but items for which 0 would do are drawn again |
//! | fraction_simplification | .1 for a part copied from the question, .05 for any fraction, .01 for anything; rarely the label is not in lowest terms | only the right fraction scores; the label is in lowest terms |
//! | number_sorting | numbers may be off by 1; NaN passes | the numbers must be the question's |
//! | propositional_logic | contradictory premises, from which everything follows; .05 for any text, .25 for a tautology; a conclusion may repeat a premise; no answer | premises can be true together, and half of the variables are negated throughout, so that no constant is often right; 1 for a conclusion that follows, but from no single premise, is no tautology, and has at most two occurrences of variables; the answer is one |
//! | spell_backward | each letter in its place earns its share | the same, as a share of the longer of both words |
//!
//! # Prompts
//!
//! The field `prompt` is ours and leaves items as they are. `question`, the default, is the question and a line
//! end; `compact` a few characters, where the task has such a form (each preset shows one); `tagged` reasoning-gym's
//! default system prompt before the question, with the answer in `<answer>` tags. A compact answer is short as well
//! and is written out before it is scored, so that the scorer is the same.

mod arc_1d;
mod base_conversion;
mod basic_arithmetic;
mod bf;
mod binary_matrix;
mod calendar_arithmetic;
mod config;
mod count_bits;
mod decimal;
mod decimal_arithmetic;
mod divisors;
mod error;
mod expression;
mod fraction_simplification;
mod item;
mod number_sorting;
mod presets;
mod prompt;
mod propositional_logic;
mod puzzle;
mod python;
mod random;
mod spell_backward;
mod task;

pub use error::TaskError;
pub use item::{Item, Metadata};
pub use presets::{Preset, presets};
pub use task::{Mode, Samples, Task, TaskInfo, list};
