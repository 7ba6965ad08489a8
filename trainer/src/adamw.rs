//! AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2) on one flat
//! tensor, with its state in the open so that it can be saved and restored to the bit.

use tch::{TchError, Tensor};

/// Added to the root of the second moment.
const EPSILON: f64 = 1e-8;

/// The settings of an update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Settings {
    pub(crate) learning_rate: f64,
    pub(crate) betas: (f64, f64),
    pub(crate) weight_decay: f64,
    /// Elements at the start of the parameters that decay.
    pub(crate) decaying: i64,
}

/// The optimizer's state.
#[derive(Debug)]
pub(crate) struct AdamW {
    /// Running mean of the gradient.
    pub(crate) first: Tensor,
    /// Running mean of its square.
    pub(crate) second: Tensor,
    /// Updates made.
    pub(crate) updates: u64,
}

/// What an update leads to, before anything is overwritten: running out of memory on the way leaves
/// parameters and state as they were.
pub(crate) struct Next {
    pub(crate) parameters: Tensor,
    state: AdamW,
}

impl AdamW {
    /// At the start: all zero.
    pub(crate) fn new(parameters: &Tensor) -> Result<Self, TchError> {
        let parameters = parameters.f_detach()?;
        Ok(Self { first: parameters.f_zeros_like()?, second: parameters.f_zeros_like()?, updates: 0 })
    }

    /// Computes the update for `gradient * scale`. Allocates; changes nothing.
    pub(crate) fn next(
        &self,
        parameters: &Tensor,
        gradient: &Tensor,
        scale: f64,
        settings: &Settings,
    ) -> Result<Next, TchError> {
        let _no_grad = tch::no_grad_guard();
        let (beta1, beta2) = settings.betas;
        let updates = self.updates + 1;
        let gradient = if scale == 1.0 { gradient.shallow_clone() } else { gradient.f_mul_scalar(scale)? };
        let first = self.first.f_lerp(&gradient, 1.0 - beta1)?;
        let second = self.second.f_lerp(&gradient.f_square()?, 1.0 - beta2)?;
        let root = (1.0 - beta2.powf(updates as f64)).sqrt();
        let step = settings.learning_rate * root / (1.0 - beta1.powf(updates as f64));
        // The correction of the second moment is moved out of the root, and of epsilon with it.
        let mut denominator = second.f_sqrt()?;
        let _ = denominator.f_add_scalar_(EPSILON * root)?;
        let mut change = first.f_div(&denominator)?;
        let _ = change.f_mul_scalar_(-step)?;
        let parameters = parameters.f_detach()?;
        if settings.weight_decay > 0.0 {
            let decayed = parameters.f_narrow(0, 0, settings.decaying)?;
            let shrink = decayed.f_mul_scalar(-settings.learning_rate * settings.weight_decay)?;
            let _ = change.f_narrow(0, 0, settings.decaying)?.f_add_(&shrink)?;
        }
        let _ = change.f_add_(&parameters)?;
        Ok(Next { parameters: change, state: Self { first, second, updates } })
    }

    /// Takes over the state of an update whose parameters have been taken over.
    pub(crate) fn commit(&mut self, next: Next) {
        *self = next.state;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The algorithm, element by element, in f64.
    fn reference(x: &mut [f64], state: &mut [(f64, f64)], gradient: &[f64], t: i32, settings: &Settings) {
        let (b1, b2) = settings.betas;
        for (i, ((x, (m, v)), g)) in x.iter_mut().zip(state).zip(gradient).enumerate() {
            *m = b1 * *m + (1.0 - b1) * g;
            *v = b2 * *v + (1.0 - b2) * g * g;
            let decay = if (i as i64) < settings.decaying { settings.weight_decay * *x } else { 0.0 };
            let step = (*m / (1.0 - b1.powi(t))) / ((*v / (1.0 - b2.powi(t))).sqrt() + EPSILON);
            *x -= settings.learning_rate * (step + decay);
        }
    }

    #[test]
    fn updates_follow_the_algorithm_and_wait_for_the_commit() {
        let settings = Settings { learning_rate: 0.1, betas: (0.9, 0.95), weight_decay: 0.5, decaying: 2 };
        let mut x = [1.0, -2.0, 3.0];
        let mut state = [(0.0, 0.0); 3];
        let mut parameters = Tensor::from_slice(&x);
        let mut optimizer = AdamW::new(&parameters).expect("state");
        for (t, gradient) in [[0.3, -0.1, 0.0], [-0.2, 0.4, 1e-9], [5.0, 0.0, -1.0]].into_iter().enumerate() {
            let twice: Vec<f64> = gradient.iter().map(|g| 2.0 * g).collect();
            let next = optimizer.next(&parameters, &Tensor::from_slice(&twice), 0.5, &settings).expect("next");
            assert_eq!(optimizer.updates, t as u64);
            assert_eq!(Vec::<f64>::try_from(&parameters).expect("values"), x);
            parameters = next.parameters.shallow_clone();
            optimizer.commit(next);
            reference(&mut x, &mut state, &gradient, t as i32 + 1, &settings);
            let got = Vec::<f64>::try_from(&parameters).expect("values");
            assert!(got.iter().zip(&x).all(|(a, b)| (a - b).abs() < 1e-12), "{got:?} {x:?}");
            x.copy_from_slice(&got);
        }
        assert_eq!(optimizer.updates, 3);
    }
}
