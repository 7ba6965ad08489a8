//! CPython's `random.Random`: the Mersenne Twister and the few methods that reasoning-gym's generators call.
//!
//! Bit-exact with CPython 3.11: `Modules/_randommodule.c` for the generator, `Lib/random.py` for what is drawn from it.
//! The generator itself is Matsumoto and Nishimura's MT19937 ("Mersenne Twister", 1998).
//!
//! Seeding is 1247 steps, each waiting for the one before: 2.5 us, more than most items cost otherwise. Two things
//! help. The first 624 numbers of CPython's seeding are the same for every seed, so they are a table; and [`Abreast`]
//! seeds 16 generators side by side, whose chains of steps do not wait for one another.

use std::sync::Arc;

const WORDS: usize = 624;
const SHIFT: usize = 397;
/// Words made ready at a time: most items need a few, not 624.
const CHUNK: usize = 32;
/// The first words of a round need nothing but the round before.
const FREE: usize = WORDS - SHIFT;
/// Generators that are seeded side by side.
pub(crate) const ABREAST: usize = 16;
/// The longest seed, in 32-bit limbs.
const LIMBS: usize = 4;

/// What `init_genrand(19650218)` leaves: where `init_by_array` starts from.
static START: [u32; WORDS] = {
    let mut state = [0_u32; WORDS];
    state[0] = 19_650_218;
    let mut i = 1;
    while i < WORDS {
        let before = state[i - 1];
        state[i] = 1_812_433_253_u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(i as u32);
        i += 1;
    }
    state
};

/// A `random.Random` that was seeded with a non-negative integer.
#[derive(Clone)]
pub(crate) struct PyRandom {
    /// Words before `ready` belong to the current round of 624, the others to the one before.
    state: [u32; WORDS],
    next: usize,
    ready: usize,
    /// Where the rest of the state is: of a generator seeded abreast it comes here as it is needed.
    elsewhere: Option<(Arc<Abreast>, usize)>,
}

impl std::fmt::Debug for PyRandom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PyRandom").field("next", &self.next).finish_non_exhaustive()
    }
}

impl PyRandom {
    /// `Random(seed)`.
    pub(crate) fn new(seed: u128) -> Self {
        let mut state = [0; WORDS];
        let (key, len) = limbs(seed);
        let (lanes, _) = state.as_chunks_mut::<1>();
        init_by_array(lanes, &key.map(|limb| [limb])[..len]);
        Self { state, next: 0, ready: 0, elsewhere: None }
    }

    /// Becomes generator `lane` of `seeded`.
    pub(crate) fn take_lane(&mut self, seeded: &Arc<Abreast>, lane: usize) {
        (self.next, self.ready) = (0, 0);
        self.elsewhere = Some((Arc::clone(seeded), lane));
    }

    /// Lets go of the generators it was seeded with, which makes it useless until [`take_lane`](Self::take_lane).
    pub(crate) fn let_go(&mut self) {
        self.elsewhere = None;
    }

    /// The next 32 bits.
    #[inline]
    pub(crate) fn word(&mut self) -> u32 {
        if self.next == self.ready {
            self.make_ready();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    #[inline(never)]
    fn make_ready(&mut self) {
        let from = if self.ready == WORDS { 0 } else { self.ready };
        let mut end = (from + CHUNK).min(WORDS);
        match self.elsewhere.take() {
            Some((seeded, lane)) if from < FREE => {
                end = end.min(FREE);
                copy_lane(&mut self.state[from..end], &seeded.first[from..end], lane);
                self.elsewhere = Some((seeded, lane));
            }
            elsewhere => {
                if let Some((seeded, lane)) = elsewhere {
                    copy_lane(&mut self.state[FREE..], &seeded.state[FREE..], lane);
                }
                twist(&mut self.state, from..end);
            }
        }
        (self.next, self.ready) = (from, end);
    }

    /// `random()`: uniform in `[0, 1)` with 53 bits.
    pub(crate) fn random(&mut self) -> f64 {
        let (high, low) = (self.word() >> 5, self.word() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }

    /// `_randbelow(bound)`: uniform in `0..bound`; `bound` is at least 1. Draws again until the bits fit.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        debug_assert!(bound > 0, "below: nothing to draw from");
        let bits = 64 - bound.leading_zeros();
        loop {
            let drawn = self.bits(bits);
            if drawn < bound {
                return drawn;
            }
        }
    }

    /// `getrandbits(bits)` for 1 to 64 bits.
    fn bits(&mut self, bits: u32) -> u64 {
        if bits <= 32 {
            return u64::from(self.word() >> (32 - bits));
        }
        let low = u64::from(self.word());
        low | u64::from(self.word() >> (64 - bits)) << 32
    }

    /// `randint(low, high)`: uniform, both ends included; `low <= high`.
    pub(crate) fn randint(&mut self, low: i64, high: i64) -> i64 {
        let span = high.wrapping_sub(low) as u64;
        low.wrapping_add(self.below(span.wrapping_add(1)) as i64)
    }

    /// `choice(items)`; `items` is not empty.
    pub(crate) fn choice<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// `choice([True, False])`.
    pub(crate) fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    /// `shuffle(items)`.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i as u64 + 1) as usize;
            items.swap(i, j);
        }
    }
}

/// Sixteen generators that were seeded side by side: `Random(first)`, `Random(first + 1)` and so on.
#[derive(Clone)]
pub(crate) struct Abreast {
    /// The seeded states.
    state: [[u32; ABREAST]; WORDS],
    /// The first words of their first round.
    first: [[u32; ABREAST]; FREE],
}

impl std::fmt::Debug for Abreast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Abreast").finish_non_exhaustive()
    }
}

impl Abreast {
    /// Unseeded.
    pub(crate) fn new() -> Self {
        Self { state: [[0; ABREAST]; WORDS], first: [[0; ABREAST]; FREE] }
    }

    /// Seeds all; `first + 15` is less than 2^128.
    pub(crate) fn seed(&mut self, first: u128) {
        let mut keys = [[0; ABREAST]; LIMBS];
        let mut lens = [0; ABREAST];
        for lane in 0..ABREAST {
            let (key, len) = limbs(first + lane as u128);
            lens[lane] = len;
            for (limbs, limb) in keys.iter_mut().zip(key) {
                limbs[lane] = limb;
            }
        }
        if lens.iter().all(|&len| len == lens[0]) {
            init_by_array(&mut self.state, &keys[..lens[0]]);
        } else {
            // A longer seed has another order of steps.
            for lane in 0..ABREAST {
                let alone = PyRandom::new(first + lane as u128);
                for (words, word) in self.state.iter_mut().zip(alone.state) {
                    words[lane] = word;
                }
            }
        }
        let shifted = &self.state[SHIFT..];
        for ((words, pair), shifted) in self.first.iter_mut().zip(self.state.windows(2)).zip(shifted) {
            for lane in 0..ABREAST {
                words[lane] = twisted(pair[0][lane], pair[1][lane], shifted[lane]);
            }
        }
    }
}

fn copy_lane(words: &mut [u32], lanes: &[[u32; ABREAST]], lane: usize) {
    for (word, lanes) in words.iter_mut().zip(lanes) {
        *word = lanes[lane];
    }
}

/// The 32-bit limbs of a seed, the lowest first, and how many CPython takes: none that is zero at the top.
fn limbs(seed: u128) -> ([u32; LIMBS], usize) {
    let limbs = [seed as u32, (seed >> 32) as u32, (seed >> 64) as u32, (seed >> 96) as u32];
    let len = limbs.iter().rposition(|&limb| limb != 0).map_or(1, |last| last + 1);
    (limbs, len)
}

/// CPython's `init_by_array` for `N` generators at once. `state` has 624 entries; `key` has 1 to 4 limbs.
#[inline(always)]
fn init_by_array<const N: usize>(state: &mut [[u32; N]], key: &[[u32; N]]) {
    // What a step adds: a limb and its place.
    let mut added = [[0; N]; LIMBS];
    for (j, (added, limb)) in added.iter_mut().zip(key).enumerate() {
        *added = limb.map(|limb| limb.wrapping_add(j as u32));
    }
    let mut before = [START[0]; N];
    let mut j = 0;
    for (entry, &start) in state.iter_mut().zip(&START).skip(1) {
        before = step(before, [start; N], added[j % LIMBS], 1_664_525);
        *entry = before;
        j = if j + 1 == key.len() { 0 } else { j + 1 };
    }
    before = step(before, state[1], added[j % LIMBS], 1_664_525);
    state[1] = before;
    for (i, entry) in state.iter_mut().enumerate().skip(2) {
        before = step(before, *entry, [(i as u32).wrapping_neg(); N], 1_566_083_941);
        *entry = before;
    }
    state[1] = step(before, state[1], [1_u32.wrapping_neg(); N], 1_566_083_941);
    state[0] = [0x8000_0000; N];
}

#[inline(always)]
fn step<const N: usize>(before: [u32; N], entry: [u32; N], added: [u32; N], factor: u32) -> [u32; N] {
    let mut after = [0; N];
    for lane in 0..N {
        let mixed = (before[lane] ^ (before[lane] >> 30)).wrapping_mul(factor);
        after[lane] = (entry[lane] ^ mixed).wrapping_add(added[lane]);
    }
    after
}

#[inline(always)]
fn twisted(word: u32, next: u32, shifted: u32) -> u32 {
    let y = (word & 0x8000_0000) | (next & 0x7fff_ffff);
    let odd = (y & 1).wrapping_neg() & 0x9908_b0df;
    shifted ^ (y >> 1) ^ odd
}

/// The next round of the words in `range`, in place; those before it have been done.
fn twist(state: &mut [u32; WORDS], range: std::ops::Range<usize>) {
    for k in range {
        let next = if k + 1 == WORDS { 0 } else { k + 1 };
        let shifted = if k < FREE { k + SHIFT } else { k - FREE };
        state[k] = twisted(state[k], state[next], state[shifted]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded from CPython 3.11.
    #[test]
    fn draws_equal_cpython() {
        let mut rng = PyRandom::new(42);
        assert_eq!([rng.word(), rng.word(), rng.word()], [2_746_317_213, 478_163_327, 107_420_369]);
        let mut rng = PyRandom::new(42);
        assert_eq!([rng.random(), rng.random()], [0.639_426_798_457_883_7, 0.025_010_755_222_666_936]);
        let mut rng = PyRandom::new(42);
        let drawn: Vec<i64> = (0..6).map(|_| rng.randint(0, 1000)).collect();
        assert_eq!(drawn, [654, 114, 25, 759, 281, 250]);
        let mut items: Vec<u8> = (0..10).collect();
        PyRandom::new(42).shuffle(&mut items);
        assert_eq!(items, [7, 3, 2, 8, 5, 6, 9, 4, 0, 1]);
        let mut rng = PyRandom::new(42);
        let text: String = (0..8).map(|_| *rng.choice(&['a', 'b', 'c', 'd', 'e', 'f', 'g'])).collect();
        assert_eq!(text, "faafcbbb");
        let mut rng = PyRandom::new((1 << 64) + 5);
        assert_eq!((rng.word(), rng.randint(0, 1_000_000_000_000)), (2_192_917_427, 969_452_914_784));
        let mut rng = PyRandom::new(42);
        let last = (0..2000).map(|_| rng.word()).last();
        assert_eq!(last, Some(LAST_OF_2000));
    }

    /// `Random(42)`'s 2000th `getrandbits(32)`: past three rounds of 624.
    const LAST_OF_2000: u32 = 1_557_724_698;

    /// Also past the first chunk, past the round, and where the seeds of a batch have different lengths.
    #[test]
    fn generators_seeded_abreast_are_the_same() {
        let mut rng = PyRandom::new(0);
        for first in [0, 42, (1 << 32) - 5, 1 << 40, (1 << 64) - 3] {
            let mut seeded = Abreast::new();
            seeded.seed(first);
            let seeded = Arc::new(seeded);
            for lane in 0..ABREAST {
                let mut alone = PyRandom::new(first + lane as u128);
                rng.take_lane(&seeded, lane);
                for draw in 0..1500 {
                    assert_eq!(rng.word(), alone.word(), "seed {first} + {lane}, word {draw}");
                }
            }
        }
    }
}
