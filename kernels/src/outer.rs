//! Optimizer steps on flat buffers, for the outer loop of local training: the mean of what the workers changed is
//! taken as a gradient.
//!
//! With `p` the parameters, `g` the mean gradient (old parameters minus new ones), `m` and `v` the state, all element
//! by element:
//!
//! | rule | state and parameters | source |
//! |---|---|---|
//! | [`Rule::Sgd`] | `m = momentum m + g`; `p -= lr m` | Polyak 1964, in PyTorch's form (`torch.optim.SGD`) |
//! | with `nesterov` | `m = momentum m + g`; `p -= lr (g + momentum m)` | Sutskever et al. 2013, in PyTorch's form; the outer step of DiLoCo (Douillard et al. 2023, section 2: lr 0.7, momentum 0.9) |
//! | [`Rule::Adam`] | `m = b1 m + (1 - b1) g`; `v = b2 v + (1 - b2) g^2`; `p -= lr m' / (sqrt(v') + eps)` with `m' = m / (1 - b1^t)`, `v' = v / (1 - b2^t)` | Kingma and Ba 2015, algorithm 1. Without `bias_correction`, `m' = m` and `v' = v`: FedAdam (Reddi et al. 2021, algorithm 2) |
//! | with `weight_decay` | first `p -= lr weight_decay p` | AdamW: Loshchilov and Hutter 2019, algorithm 2, in PyTorch's form |
//! | [`Rule::Adagrad`] | `m = b1 m + (1 - b1) g`; `v = v + g^2`; `p -= lr m / (sqrt(v) + eps)` | Duchi, Hazan and Singer 2011 with `b1 = 0`; FedAdagrad (Reddi et al. 2021, algorithm 2) |
//! | [`Rule::Yogi`] | `m = b1 m + (1 - b1) g`; `v = v - (1 - b2) g^2 sign(v - g^2)`; `p -= lr m / (sqrt(v) + eps)` | Zaheer et al. 2018, algorithm 2; FedYogi (Reddi et al. 2021, algorithm 2) |
//!
//! Everything is `f32`. Where a formula has a product and then a sum, the product is not rounded; the order is that of
//! the code and the same on every instruction set. A NaN or an infinity goes through the arithmetic: check
//! [`max_abs`](crate::norms::max_abs) of the gradient beforehand where that must not be.

use crate::isa::{Isa, Kernel, detected};
use crate::simd::{LANES, Simd, divide, load_partial, store_partial};

/// How a gradient changes parameters, with its constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Gradient descent with momentum. Its state is `m` alone.
    Sgd {
        /// The share of `m` that stays; zero for plain descent.
        momentum: f32,
        /// Looks ahead by one step of the momentum.
        nesterov: bool,
    },
    /// Adam, and AdamW with a decay.
    Adam {
        /// The share of `m` that stays.
        beta1: f32,
        /// The share of `v` that stays.
        beta2: f32,
        /// Keeps the quotient finite.
        eps: f32,
        /// Decay of the parameters, a share of the learning rate; zero for Adam.
        weight_decay: f32,
        /// Divides by what the first steps lack.
        bias_correction: bool,
    },
    /// Adagrad, with momentum for FedAdagrad.
    Adagrad {
        /// The share of `m` that stays; zero for plain Adagrad.
        beta1: f32,
        /// Keeps the quotient finite.
        eps: f32,
    },
    /// Yogi.
    Yogi {
        /// The share of `m` that stays.
        beta1: f32,
        /// How slowly `v` follows.
        beta2: f32,
        /// Keeps the quotient finite.
        eps: f32,
    },
}

impl Rule {
    /// Whether the rule has a second state, `v`. It has always a first one, `m`.
    pub const fn has_second(self) -> bool {
        !matches!(self, Rule::Sgd { .. })
    }

    /// What step `t` (counted from one) has in common for all elements.
    pub fn scales(self, lr: f32, t: u64) -> Scales {
        let Rule::Adam { beta1, beta2, weight_decay, bias_correction, .. } = self else {
            return Scales { rate: lr, root: 1.0, keep: 1.0 };
        };
        let (first, second) =
            if bias_correction { (1.0 - power(beta1.into(), t), 1.0 - power(beta2.into(), t)) } else { (1.0, 1.0) };
        Scales {
            rate: (f64::from(lr) / first) as f32,
            root: (1.0 / second.sqrt()) as f32,
            keep: (1.0 - f64::from(lr) * f64::from(weight_decay)) as f32,
        }
    }
}

/// Factors of one step, for whoever carries a [`Rule`] out elsewhere. All but `rate` are one where a rule does not use them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scales {
    /// The learning rate, for Adam over the correction of `m`.
    pub rate: f32,
    /// One over the root of Adam's correction of `v`.
    pub root: f32,
    /// The share of the parameters that the decay leaves.
    pub keep: f32,
}

/// What a rule keeps from step to step. All zeros before the first one (for Yogi, `v` may start at a small
/// positive number, as its authors advise).
#[derive(Debug)]
pub struct State<'a> {
    /// `m`, of the parameters' length.
    pub first: &'a mut [f32],
    /// `v`, of the parameters' length, or empty where the rule has none.
    pub second: &'a mut [f32],
}

/// One step with a gradient. `t` counts the steps from one and matters to the bias correction alone.
///
/// # Panics
///
/// If lengths differ, or `t` is zero.
pub fn step(rule: Rule, lr: f32, t: u64, gradient: &[f32], parameters: &mut [f32], state: State<'_>) {
    mean_step_on(detected(), rule, lr, t, &[gradient], 1, parameters, state);
}

/// One step with the mean of several gradients: their sum in the order of `sources`, divided by `divisor`.
///
/// Every buffer is read once and the mean is written nowhere. The result is bit for bit that of
/// [`reduce_slices`](crate::reduce::reduce_slices), [`divide_slice`](crate::reduce::divide_slice) and [`step`].
///
/// # Panics
///
/// If there is no source, lengths differ, or `t` or `divisor` is zero.
pub fn mean_step(
    rule: Rule,
    lr: f32,
    t: u64,
    sources: &[&[f32]],
    divisor: u32,
    parameters: &mut [f32],
    state: State<'_>,
) {
    mean_step_on(detected(), rule, lr, t, sources, divisor, parameters, state);
}

/// [`mean_step`] on a given instruction set.
///
/// # Panics
///
/// As [`mean_step`].
#[expect(clippy::too_many_arguments, reason = "the arguments of `mean_step`, and the instruction set")]
pub fn mean_step_on(
    isa: Isa,
    rule: Rule,
    lr: f32,
    t: u64,
    sources: &[&[f32]],
    divisor: u32,
    parameters: &mut [f32],
    state: State<'_>,
) {
    assert!(!sources.is_empty(), "mean_step: there is no source");
    assert!(divisor > 0, "mean_step: the divisor is zero");
    assert!(t > 0, "mean_step: steps are counted from one");
    for source in sources {
        assert_eq!(source.len(), parameters.len(), "mean_step: a source and the parameters differ in length");
    }
    assert_eq!(state.first.len(), parameters.len(), "mean_step: the first state does not fit");
    let second = if rule.has_second() { parameters.len() } else { 0 };
    assert_eq!(state.second.len(), second, "mean_step: the second state does not fit");

    let buffers = Buffers { sources, divisor, parameters, state };
    match rule {
        Rule::Sgd { momentum, nesterov: false } => isa.run(Step(Sgd::<false> { lr, momentum }, buffers)),
        Rule::Sgd { momentum, nesterov: true } => isa.run(Step(Sgd::<true> { lr, momentum }, buffers)),
        Rule::Adam { beta1, beta2, eps, .. } => {
            let Scales { rate, root, keep } = rule.scales(lr, t);
            isa.run(Step(Adam { beta1, beta2, rate, root, eps, keep }, buffers));
        }
        Rule::Adagrad { beta1, eps } => isa.run(Step(Adagrad { lr, beta1, eps }, buffers)),
        Rule::Yogi { beta1, beta2, eps } => isa.run(Step(Yogi { lr, beta1, beta2, eps }, buffers)),
    }
}

/// `base^exponent` by squaring, always in the same order; [`f64::powi`] may differ between platforms.
fn power(mut base: f64, mut exponent: u64) -> f64 {
    let mut result = 1.0;
    while exponent > 0 {
        if exponent % 2 == 1 {
            result *= base;
        }
        base *= base;
        exponent /= 2;
    }
    result
}

/// A rule with its constants for one step.
trait Update: Copy {
    /// Whether there is a second state.
    const SECOND: bool;

    /// New values of `[p, m, v]`.
    fn apply<S: Simd>(self, simd: S, g: S::V, old: [S::V; 3]) -> [S::V; 3];
}

#[derive(Clone, Copy)]
struct Sgd<const NESTEROV: bool> {
    lr: f32,
    momentum: f32,
}

impl<const NESTEROV: bool> Update for Sgd<NESTEROV> {
    const SECOND: bool = false;

    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, g: S::V, [p, m, v]: [S::V; 3]) -> [S::V; 3] {
        let momentum = simd.splat(self.momentum);
        let m = simd.mul_add(momentum, m, g);
        let direction = if NESTEROV { simd.mul_add(momentum, m, g) } else { m };
        [simd.neg_mul_add(simd.splat(self.lr), direction, p), m, v]
    }
}

#[derive(Clone, Copy)]
struct Adam {
    beta1: f32,
    beta2: f32,
    /// The learning rate over the correction of `m`.
    rate: f32,
    /// One over the root of the correction of `v`.
    root: f32,
    eps: f32,
    /// The share of the parameters that the decay leaves.
    keep: f32,
}

impl Update for Adam {
    const SECOND: bool = true;

    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, g: S::V, [p, m, v]: [S::V; 3]) -> [S::V; 3] {
        let m = average(simd, self.beta1, m, g);
        let v = average(simd, self.beta2, v, simd.mul(g, g));
        let root = simd.mul_add(simd.sqrt(v), simd.splat(self.root), simd.splat(self.eps));
        let direction = simd.div(m, root);
        let p = simd.mul(p, simd.splat(self.keep));
        [simd.neg_mul_add(simd.splat(self.rate), direction, p), m, v]
    }
}

#[derive(Clone, Copy)]
struct Adagrad {
    lr: f32,
    beta1: f32,
    eps: f32,
}

impl Update for Adagrad {
    const SECOND: bool = true;

    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, g: S::V, [p, m, v]: [S::V; 3]) -> [S::V; 3] {
        let m = average(simd, self.beta1, m, g);
        let v = simd.mul_add(g, g, v);
        [scaled_step(simd, self.lr, self.eps, p, m, v), m, v]
    }
}

#[derive(Clone, Copy)]
struct Yogi {
    lr: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
}

impl Update for Yogi {
    const SECOND: bool = true;

    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, g: S::V, [p, m, v]: [S::V; 3]) -> [S::V; 3] {
        let m = average(simd, self.beta1, m, g);
        let square = simd.mul(g, g);
        let change = simd.bits(simd.mul(simd.splat(1.0 - self.beta2), square));
        // The change gets the sign of the difference, and is zero where that is zero.
        let difference = simd.bits(simd.sub(v, square));
        let signed = simd.xor(change, simd.and(difference, simd.splat_bits(0x8000_0000)));
        let magnitude = simd.and(difference, simd.splat_bits(0x7fff_ffff));
        let change = simd.and(signed, simd.above(magnitude, simd.splat_bits(0)));
        let v = simd.sub(v, simd.floats(change));
        [scaled_step(simd, self.lr, self.eps, p, m, v), m, v]
    }
}

/// `beta old + (1 - beta) new`.
#[inline(always)]
fn average<S: Simd>(simd: S, beta: f32, old: S::V, new: S::V) -> S::V {
    simd.mul_add(simd.splat(beta), old, simd.mul(simd.splat(1.0 - beta), new))
}

/// `p - lr m / (sqrt(v) + eps)`.
#[inline(always)]
fn scaled_step<S: Simd>(simd: S, lr: f32, eps: f32, p: S::V, m: S::V, v: S::V) -> S::V {
    let direction = simd.div(m, simd.add(simd.sqrt(v), simd.splat(eps)));
    simd.neg_mul_add(simd.splat(lr), direction, p)
}

struct Buffers<'a> {
    sources: &'a [&'a [f32]],
    divisor: u32,
    parameters: &'a mut [f32],
    state: State<'a>,
}

struct Step<'a, U>(U, Buffers<'a>);

impl<U: Update> Kernel for Step<'_, U> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Step(update, Buffers { sources, divisor, parameters, state }) = self;
        let Some((first_source, rest)) = sources.split_first() else { return };
        let (p, p_end) = parameters.as_chunks_mut::<{ 2 * LANES }>();
        let (m, m_end) = state.first.as_chunks_mut::<{ 2 * LANES }>();
        let (v, v_end) = state.second.as_chunks_mut::<{ 2 * LANES }>();
        let whole = p.len() * 2 * LANES;
        // Two vectors at a time: a cache line of every buffer.
        for (i, (p, m)) in p.iter_mut().zip(m).enumerate() {
            let at = i * 2 * LANES;
            let mut g = line(simd, first_source, at);
            for source in rest {
                let line = line(simd, source, at);
                g = [simd.add(g[0], line[0]), simd.add(g[1], line[1])];
            }
            for (half, (p, m)) in p.as_chunks_mut().0.iter_mut().zip(m.as_chunks_mut().0).enumerate() {
                let g = divide(simd, g[half], divisor);
                let old = [simd.load(p), simd.load(m)];
                if U::SECOND {
                    let v = &mut v[i].as_chunks_mut().0[half];
                    let new = update.apply(simd, g, [old[0], old[1], simd.load(v)]);
                    simd.store(new[0], p);
                    simd.store(new[1], m);
                    simd.store(new[2], v);
                } else {
                    let new = update.apply(simd, g, [old[0], old[1], simd.splat(0.0)]);
                    simd.store(new[0], p);
                    simd.store(new[1], m);
                }
            }
        }

        let mut at = whole;
        let mut v_end = v_end.chunks_mut(LANES);
        for (p, m) in p_end.chunks_mut(LANES).zip(m_end.chunks_mut(LANES)) {
            let mut g = load_partial(simd, &first_source[at..at + p.len()], 0.0);
            for source in rest {
                g = simd.add(g, load_partial(simd, &source[at..at + p.len()], 0.0));
            }
            at += p.len();
            let v = v_end.next().unwrap_or_default();
            let old = [load_partial(simd, p, 0.0), load_partial(simd, m, 0.0), load_partial(simd, v, 0.0)];
            let new = update.apply(simd, divide(simd, g, divisor), old);
            store_partial(simd, new[0], p);
            store_partial(simd, new[1], m);
            store_partial(simd, new[2], v);
        }
    }
}

/// Two vectors of a gradient.
#[inline(always)]
fn line<S: Simd>(simd: S, x: &[f32], at: usize) -> [S::V; 2] {
    match x[at..at + 2 * LANES].as_chunks().0 {
        [a, b] => [simd.load(a), simd.load(b)],
        _ => unreachable!("a line is two vectors"),
    }
}

#[cfg(test)]
mod tests;
