//! The supervised warm start: right answers that a new policy sees before it learns from reward, so that it is weak but
//! not silent.

use rand::RngCore;
use rand_chacha::ChaCha8Rng;
use swarmloom_trainer::learner::Example;

use super::curriculum::{below, warm_start};
use crate::book::TaskBook;

/// Draws for one wanted example: some tasks have questions without a right answer to show.
const DRAWS_PER_EXAMPLE: u64 = 4;

/// Right examples, `counts[task]` of each task; a task of few questions repeats them. Held-out questions are never among
/// them.
pub(crate) fn examples(book: &TaskBook, counts: &[u32], seed: u64) -> Vec<Example> {
    let mut examples = Vec::new();
    for (task, (entry, count)) in book.entries().iter().zip(counts).enumerate() {
        let mut random = warm_start(seed, task as u64);
        let whole = examples.len() + *count as usize;
        for _ in 0..u64::from(*count) * DRAWS_PER_EXAMPLE {
            if examples.len() == whole {
                break;
            }
            let Ok(question) = book.question(task as u16, random.next_u64()) else { continue };
            let Some(target) = entry.target(&question) else { continue };
            examples.push(Example { prompt: question.prompt.into_bytes(), completion: target.into_bytes() });
        }
    }
    examples
}

/// The examples of one step: `batch` of them, drawn with replacement.
pub(crate) fn draw<'a>(examples: &'a [Example], batch: usize, random: &mut ChaCha8Rng) -> Vec<&'a Example> {
    if examples.is_empty() {
        return Vec::new();
    }
    (0..batch).map(|_| &examples[below(random, examples.len() as u64) as usize]).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::book::tests::small_run;

    #[test]
    fn examples_are_right_and_never_held_out() {
        let (_, book) = small_run();
        let shown = examples(&book, &[600, 40], 3);
        assert_eq!(shown.len(), 640);
        assert_eq!(shown, examples(&book, &[600, 40], 3));
        assert_ne!(shown, examples(&book, &[600, 40], 4));
        let prompts: HashSet<&[u8]> = shown.iter().map(|example| example.prompt.as_slice()).collect();
        for entry in book.entries() {
            assert!(entry.held_out().iter().all(|question| !prompts.contains(question.prompt.as_bytes())));
        }
        let example = &shown[0];
        let seed = warm_start(3, 0).next_u64();
        let question = book.question(0, seed).expect("the first question");
        assert_eq!(question.prompt.as_bytes(), example.prompt);
        assert_eq!(book.rewards(&question, std::iter::once(example.completion.as_slice())), [1.0]);
    }

    #[test]
    fn steps_draw_all_examples_sooner_or_later() {
        let (_, book) = small_run();
        let shown = examples(&book, &[3, 2], 3);
        let mut random = warm_start(3, 99);
        let drawn: HashSet<&[u8]> = draw(&shown, 64, &mut random).iter().map(|one| one.prompt.as_slice()).collect();
        assert_eq!(drawn.len(), 5);
        assert!(draw(&[], 64, &mut random).is_empty());
    }
}
