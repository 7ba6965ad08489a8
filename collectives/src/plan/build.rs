//! Makes plans: one file for each family of algorithms.
//!
//! All of them are pure functions of what is to be computed, who can reach whom, and a few sizes. Every plan that comes
//! out of here passes [`verify`](super::verify::verify) for the layout it was made for.

mod direct;
mod draft;
mod exchange;
mod halving_doubling;
mod hierarchical;
mod one_shot;
mod packet;
mod ring;
mod tree;
mod two_shot;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use self::draft::{Draft, Grid, Spot};
use super::verify::well_formed;
use super::{Algorithm, Buffer, Collective, Layout, MAX_RANKS, Plan};

/// Cells of scratch begin at multiples of so many bytes.
pub const ALIGN_BYTES: usize = 64;

/// How many rounds, times ranks squared, a plan may have: a few million steps.
const MOST_ROUNDS: usize = 1 << 20;

/// Sizes that depend on the machine and not on the collective. The defaults are a start; measuring is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tuning {
    /// What is larger is cut into chunks of about so many bytes, so that moving one overlaps with reducing another.
    pub chunk_bytes: usize,
    /// Chunks that are sent before the first one is waited for.
    pub ahead: usize,
    /// Chunks become larger where there would be more than so many, if there is scratch for that.
    pub rounds: usize,
    /// From so many bytes on, `Direct` has each rank reduce only its part.
    pub direct_two_shot_bytes: usize,
    /// What `Direct` copies before it reduces it, in bytes from each rank: it should stay in the cache.
    pub cache_bytes: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { chunk_bytes: 64 << 10, ahead: 8, rounds: 256, direct_two_shot_bytes: 1 << 10, cache_bytes: 128 << 10 }
    }
}

/// Why there is no such plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The collective makes no sense for this group.
    #[error("{collective} of {ranks} ranks makes no sense: {why}")]
    Malformed {
        /// Its name.
        collective: &'static str,
        /// Ranks of the layout.
        ranks: usize,
        /// What does not fit.
        why: String,
    },
    /// The algorithm does not do this collective, or not with this layout.
    #[error("{collective} by {algorithm} is not possible: {why}")]
    Undefined {
        /// The collective's name.
        collective: &'static str,
        /// The algorithm's name.
        algorithm: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// There is too little scratch for even the smallest chunks.
    #[error("{collective} by {algorithm} needs {needed} bytes of scratch at least, and there are {available}")]
    Scratch {
        /// The collective's name.
        collective: &'static str,
        /// The algorithm's name.
        algorithm: &'static str,
        /// Bytes that would do.
        needed: usize,
        /// Bytes that there are.
        available: usize,
    },
    /// The scratch is so small for the input that the plan would have millions of steps.
    #[error("{collective} by {algorithm} takes {rounds} rounds with so little scratch")]
    TooLong {
        /// The collective's name.
        collective: &'static str,
        /// The algorithm's name.
        algorithm: &'static str,
        /// Rounds that it would take.
        rounds: usize,
    },
}

/// Makes the plan of `collective` by `algorithm`, for elements of `element_bytes` bytes.
///
/// # Errors
/// Where the algorithm is not defined for this collective and layout, or the scratch is too small.
pub fn build(
    collective: &Collective,
    algorithm: Algorithm,
    layout: &Layout,
    element_bytes: usize,
    tuning: &Tuning,
) -> Result<Plan, BuildError> {
    let task = Task { collective, algorithm, layout, element_bytes, tuning };
    Ok(prepare(&task)?())
}

/// The algorithms that [`build`] has a plan for, with the default tuning. Does not build them.
pub fn algorithms(collective: &Collective, layout: &Layout, element_bytes: usize) -> Vec<Algorithm> {
    let tuning = &Tuning::default();
    let task = |algorithm| Task { collective, algorithm, layout, element_bytes, tuning };
    Algorithm::ALL.into_iter().filter(|&algorithm| prepare(&task(algorithm)).is_ok()).collect()
}

/// What is left to do once a plan is known to be possible.
type Ready<'a> = Box<dyn FnOnce() -> Plan + 'a>;

fn prepare<'a>(task: &'a Task<'a>) -> Result<Ready<'a>, BuildError> {
    task.check()?;
    if task.ranks() == 1 {
        return Ok(Box::new(|| alone(task)));
    }
    match task.algorithm {
        Algorithm::Packet => packet::prepare(task),
        Algorithm::OneShot => one_shot::prepare(task),
        Algorithm::TwoShot => two_shot::prepare(task),
        Algorithm::Ring => ring::prepare(task),
        Algorithm::HalvingDoubling => halving_doubling::prepare(task),
        Algorithm::Hierarchical => hierarchical::prepare(task),
        Algorithm::Direct => direct::prepare(task),
    }
}

/// What is to be built.
#[derive(Debug, Clone, Copy)]
struct Task<'a> {
    collective: &'a Collective,
    algorithm: Algorithm,
    layout: &'a Layout,
    element_bytes: usize,
    tuning: &'a Tuning,
}

impl<'a> Task<'a> {
    fn ranks(&self) -> usize {
        self.layout.ranks()
    }

    fn check(&self) -> Result<(), BuildError> {
        let ranks = self.ranks();
        let check = if !(1..=MAX_RANKS).contains(&ranks) {
            Err(format!("1 to {MAX_RANKS} ranks are possible"))
        } else if self.element_bytes == 0 {
            Err("its elements have no bytes".to_owned())
        } else {
            well_formed(self.collective, ranks, self.element_bytes)
        };
        check.map_err(|why| BuildError::Malformed { collective: self.collective.name(), ranks, why })
    }

    fn undefined(&self, why: &'static str) -> BuildError {
        BuildError::Undefined { collective: self.collective.name(), algorithm: self.algorithm.name(), why }
    }

    fn finish(&self, draft: Draft<'_>) -> Plan {
        draft.finish(self.collective, self.algorithm, self.element_bytes)
    }

    /// Elements that begin at a multiple of [`ALIGN_BYTES`] are multiples of this.
    fn align(&self) -> usize {
        let (mut a, mut b) = (ALIGN_BYTES, self.element_bytes);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        ALIGN_BYTES / a
    }

    /// Elements in so many bytes, at least one.
    fn elements(&self, bytes: usize) -> usize {
        (bytes / self.element_bytes).max(1)
    }

    /// Cuts `total` elements into rounds. A chunk of `n` elements takes `need(n)` elements of scratch in a slot.
    ///
    /// Where one round does, there are `once` slots; else the first of `options` slots that leaves chunks of a
    /// reasonable size.
    fn cut(
        &self,
        total: usize,
        need: impl Fn(usize) -> usize,
        once: usize,
        options: &[usize],
    ) -> Result<Cut, BuildError> {
        let wanted = self.elements(self.tuning.chunk_bytes).max(total.div_ceil(self.tuning.rounds.max(1)));
        self.cut_to(wanted, total, need, once, options)
    }

    /// The same with chunks of `wanted` elements.
    fn cut_to(
        &self,
        wanted: usize,
        total: usize,
        need: impl Fn(usize) -> usize,
        once: usize,
        options: &[usize],
    ) -> Result<Cut, BuildError> {
        let align = self.align();
        let room = self.layout.scratch_bytes / self.element_bytes;
        let fits = |chunk: usize, slots: usize| need(chunk).checked_mul(slots).is_some_and(|all| all <= room);
        let whole = total.next_multiple_of(align);
        if total == 0 || need(align) == 0 || total <= wanted && fits(whole, once) {
            return Ok(Cut { chunk: total, rounds: total.min(1), ahead: 0, slots: once, stride: whole });
        }
        for (i, &slots) in options.iter().enumerate() {
            let most = largest(wanted.min(total).div_ceil(align), |units| fits(units * align, slots)) * align;
            let last = i + 1 == options.len();
            if most == 0 || !last && most < wanted.min(total) / 4 {
                continue;
            }
            // Of equal length, as far as the alignment allows.
            let chunk = total.div_ceil(total.div_ceil(most)).next_multiple_of(align);
            let rounds = total.div_ceil(chunk);
            if rounds.saturating_mul(self.ranks() * self.ranks()) > MOST_ROUNDS {
                let (collective, algorithm) = (self.collective.name(), self.algorithm.name());
                return Err(BuildError::TooLong { collective, algorithm, rounds });
            }
            let ahead = (slots.saturating_sub(2) / 2).min(rounds - 1);
            return Ok(Cut { chunk, rounds, ahead, slots, stride: chunk });
        }
        let least = options.last().copied().unwrap_or(once);
        Err(BuildError::Scratch {
            collective: self.collective.name(),
            algorithm: self.algorithm.name(),
            needed: need(align).saturating_mul(least * self.element_bytes),
            available: self.layout.scratch_bytes,
        })
    }
}

/// The largest number up to `most` for which `holds` does, given that it holds for all smaller ones; 0 where there is none.
fn largest(most: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        (low, high) = if holds(middle) { (middle, high) } else { (low, middle - 1) };
    }
    low
}

/// How something is cut into rounds.
#[derive(Debug, Clone, Copy)]
struct Cut {
    /// Elements of a round.
    chunk: usize,
    rounds: usize,
    /// Rounds that begin before the first is finished.
    ahead: usize,
    /// How many rounds have scratch of their own.
    slots: usize,
    /// Elements of a chunk, as a multiple of the alignment.
    stride: usize,
}

impl Cut {
    /// What round `round` takes of `len` elements.
    fn round(&self, round: usize, len: usize) -> Range<usize> {
        (round * self.chunk).min(len)..((round + 1) * self.chunk).min(len)
    }

    /// Scratch of so many cells of a chunk in every slot.
    fn grid(&self, areas: usize) -> Grid {
        Grid { slots: self.slots, areas, stride: self.stride }
    }
}

/// One rank copies its input to its output, whatever the algorithm.
fn alone(task: &Task<'_>) -> Plan {
    let mut draft = Draft::new(task.layout, Grid::default());
    let user = |buffer| Spot::user(0, buffer, 0, task.collective.output_len(0));
    draft.copy(0, user(Buffer::Input), user(Buffer::Output));
    task.finish(draft)
}

/// Part `index` of `parts` of `range`: of equal length as far as multiples of `align` allow, the last ones shorter.
fn part(range: Range<usize>, index: usize, parts: usize, align: usize) -> Range<usize> {
    let each = range.len().div_ceil(parts).next_multiple_of(align);
    let at = |index: usize| (range.start + index * each).min(range.end);
    at(index)..at(index + 1)
}

#[cfg(test)]
pub(super) mod tests;
