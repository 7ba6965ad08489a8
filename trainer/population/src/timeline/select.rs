//! Whom a round takes.

use std::collections::BTreeSet;

use super::Selection;
use crate::random::{Purpose, Stream};

/// Chooses clients, each time by a stream of its own.
#[derive(Debug, Clone)]
pub(super) struct Chooser {
    selection: Selection,
    seed: u64,
    count: u64,
}

/// Of whom.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pool<'a> {
    /// Of all clients.
    All(u32),
    /// Of these.
    Some(&'a [u32]),
}

impl Pool<'_> {
    pub(super) fn len(self) -> usize {
        match self {
            Self::All(clients) => clients as usize,
            Self::Some(clients) => clients.len(),
        }
    }

    fn get(self, index: usize) -> Option<u32> {
        match self {
            Self::All(clients) => u32::try_from(index).ok().filter(|&client| client < clients),
            Self::Some(clients) => clients.get(index).copied(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

impl Chooser {
    pub(super) fn new(selection: Selection, seed: u64) -> Self {
        Self { selection, seed, count: 0 }
    }

    /// Up to `want` clients of `pool` that are `eligible`, no two the same; fewer only where no more are. `cursor` is
    /// where the next turn begins.
    pub(super) fn choose(
        &mut self,
        pool: Pool<'_>,
        cursor: &mut usize,
        want: usize,
        eligible: impl Fn(u32) -> bool,
    ) -> Vec<u32> {
        match self.selection {
            Selection::Uniform => {
                let stream = Stream::new(self.seed, Purpose::Selection, self.count, 0);
                self.count += 1;
                uniform(stream, pool, want, eligible)
            }
            Selection::RoundRobin => {
                let (len, start) = (pool.len(), *cursor);
                let mut chosen = Vec::new();
                for step in 0..len {
                    if chosen.len() == want {
                        break;
                    }
                    let at = (start + step) % len;
                    if let Some(client) = pool.get(at).filter(|&client| eligible(client)) {
                        chosen.push(client);
                        *cursor = (at + 1) % len;
                    }
                }
                chosen
            }
        }
    }
}

/// Draws one after the other, so that the eligible ones have equal chances each time: first by trying, which does not
/// look at every client, then, where few are eligible, from the list of those that are left.
fn uniform(mut stream: Stream, pool: Pool<'_>, want: usize, eligible: impl Fn(u32) -> bool) -> Vec<u32> {
    let mut chosen = Vec::new();
    let mut taken = BTreeSet::new();
    // So many cost less than to look at every client.
    let tries = if 2 * want > pool.len() { 0 } else { pool.len() / 2 };
    for _ in 0..tries {
        if chosen.len() == want {
            return chosen;
        }
        let client = pool.get(stream.below(pool.len() as u64) as usize);
        if let Some(client) = client.filter(|client| !taken.contains(client) && eligible(*client)) {
            taken.insert(client);
            chosen.push(client);
        }
    }
    let mut left: Vec<u32> = pool.iter().filter(|client| !taken.contains(client) && eligible(*client)).collect();
    for start in 0..left.len().min(want - chosen.len()) {
        let other = start + stream.below((left.len() - start) as u64) as usize;
        left.swap(start, other);
        chosen.extend(left.get(start));
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_are_eligible_have_equal_chances() {
        // Client 7 of 10 is not eligible; 3 of the other 9 by trying, 6 from the list.
        for want in [3, 6] {
            let mut chooser = Chooser::new(Selection::Uniform, 5);
            let mut counts = [0u32; 10];
            for _ in 0..9_000 {
                let chosen = chooser.choose(Pool::All(10), &mut 0, want, |client| client != 7);
                assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), want);
                chosen.iter().for_each(|&client| counts[client as usize] += 1);
            }
            assert_eq!(counts[7], 0);
            // Five standard deviations of the binomial, sqrt(9,000 p (1 - p)), are 224 and 236 at most.
            let expected = 1_000 * want as u32;
            assert!((0..10).filter(|&c| c != 7).all(|c| counts[c].abs_diff(expected) < 236), "{counts:?}");
        }
    }

    #[test]
    fn takes_fewer_only_where_no_more_are() {
        let mut chooser = Chooser::new(Selection::Uniform, 1);
        let mut chosen = chooser.choose(Pool::All(100_000), &mut 0, 5, |client| client % 40_000 == 17);
        chosen.sort_unstable();
        assert_eq!(chosen, [17, 40_017, 80_017]);
        assert_eq!(chooser.choose(Pool::Some(&[4, 9]), &mut 0, 3, |client| client == 9), [9]);
        assert_eq!(chooser.choose(Pool::Some(&[]), &mut 0, 3, |_| true), []);
    }

    #[test]
    fn turns_go_round_and_skip_who_is_not_eligible() {
        let mut chooser = Chooser::new(Selection::RoundRobin, 1);
        let mut cursor = 0;
        let mut next = |eligible: fn(u32) -> bool| chooser.choose(Pool::All(5), &mut cursor, 2, eligible);
        assert_eq!(next(|_| true), [0, 1]);
        assert_eq!(next(|client| client != 2), [3, 4]);
        assert_eq!(next(|_| false), []);
        assert_eq!(next(|client| client != 0), [1, 2]);
        assert_eq!(next(|client| client == 4), [4]);
        assert_eq!(next(|_| true), [0, 1]);
    }
}
