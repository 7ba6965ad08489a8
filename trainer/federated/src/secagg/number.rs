//! Numbers as integers modulo 2^32.

use super::SecAggError;

/// A fixed point whose sums do not overflow: a value is rounded to a multiple of a power of two, and the sum of all clients'
/// values is below 2^31 of those. What is beyond the limit is an error, never cut off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FixedPoint {
    limit: f64,
    scale: f64,
}

impl FixedPoint {
    /// For values up to that magnitude of as many clients.
    ///
    /// # Errors
    /// [`SecAggError::Value`] where the limit is not positive or nothing is left of a value.
    pub fn new(limit: f64, clients: usize) -> Result<Self, SecAggError> {
        let refuse = |allowed| Err(SecAggError::Value { what: "limit", found: limit, allowed });
        if !(limit > 0.0 && limit.is_finite()) {
            return refuse("it is positive");
        }
        // Each value may be rounded up by a half.
        let most = (f64::from(1_u32 << 31) - 1.0) / clients.max(1) as f64 - 0.5;
        let scale = (most / limit).log2().floor().exp2();
        if scale * limit < 256.0 {
            refuse("so many clients leave less than eight bits")
        } else {
            Ok(Self { limit, scale })
        }
    }

    /// The distance between two numbers that can be told apart.
    pub fn step(&self) -> f64 {
        1.0 / self.scale
    }

    /// Integers.
    ///
    /// # Errors
    /// [`SecAggError::Saturated`], with the client's name, where a value is beyond the limit or no number.
    pub fn encode(&self, client: u32, values: &[f32]) -> Result<Vec<u32>, SecAggError> {
        let encode = |(index, value): (usize, &f32)| {
            let value = f64::from(*value);
            if value.is_nan() || value.abs() > self.limit {
                return Err(SecAggError::Saturated { client, index, value, limit: self.limit });
            }
            Ok(((value * self.scale).round() as i32).cast_unsigned())
        };
        values.iter().enumerate().map(encode).collect()
    }

    /// Numbers.
    pub fn decode(&self, sum: &[u32]) -> Vec<f64> {
        sum.iter().map(|value| f64::from(value.cast_signed()) / self.scale).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_do_not_overflow_and_values_are_not_cut_off() {
        // 2^31 / 1000 / 8 is 268,435.456: a scale of 2^18.
        let number = FixedPoint::new(8.0, 1000).expect("a fixed point");
        assert_eq!(number.step(), 2.0_f64.powi(-18));
        let one = number.encode(3, &[8.0, -8.0, 0.1]).expect("within");
        let sum: Vec<u32> = one.iter().map(|value| value.wrapping_mul(1000)).collect();
        let found = number.decode(&sum);
        assert_eq!(found[..2], [8000.0, -8000.0]);
        assert!((found[2] - 100.0).abs() <= 1000.0 * number.step() / 2.0);
        for value in [8.001, -9.0, f32::NAN, f32::INFINITY] {
            let Err(SecAggError::Saturated { client: 3, index: 1, .. }) = number.encode(3, &[0.0, value]) else {
                panic!("{value} was cut off");
            };
        }
        assert!(FixedPoint::new(8.0, 1 << 23).is_err() && FixedPoint::new(0.0, 2).is_err());
    }
}
