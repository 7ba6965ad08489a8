//! Learning rates as a pure function of the step.

/// The learning rate of step `step` (the first is 0): grows linearly over the first `steps` steps, then
/// stays at `peak`. A warm-up of zero steps is none.
pub fn warm_up(peak: f64, step: u64, steps: u64) -> f64 {
    if step >= steps { peak } else { peak * (step + 1) as f64 / steps as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_linearly_to_the_peak_and_stays() {
        let rates: Vec<f64> = (0..6).map(|step| warm_up(0.8, step, 4)).collect();
        assert_eq!(rates, [0.2, 0.4, 0.6000000000000001, 0.8, 0.8, 0.8]);
        assert_eq!(warm_up(0.5, 0, 0), 0.5);
        assert_eq!(warm_up(0.5, u64::MAX, 10), 0.5);
    }
}
