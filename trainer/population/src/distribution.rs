//! How a quantity is spread over clients: what one client's is follows from seed, purpose and client.

use serde::{Deserialize, Serialize};

use crate::check::{FieldError, within, wrong};
use crate::random::{Purpose, Stream};
use crate::trace::Deal;

/// A distribution of a number that is not negative: seconds, or bytes per second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Distribution {
    /// The same for all.
    Constant {
        /// What it is.
        value: f64,
    },
    /// Evenly between two numbers.
    Uniform {
        /// The least.
        low: f64,
        /// The most.
        high: f64,
    },
    /// Normal, and what comes out at 0 or below is drawn again.
    Normal {
        /// Mean before that; above 0.
        mean: f64,
        /// Standard deviation before that.
        deviation: f64,
    },
    /// The logarithm is normal. `FedScale`'s devices without a trace: 5 ms a sample times a log-normal with `mu = 1`
    /// and `sigma = 0.6`, which is `median = 0.0136`.
    Lognormal {
        /// Half of all are below; `e^mu`.
        median: f64,
        /// Standard deviation of the natural logarithm.
        sigma: f64,
    },
    /// Exponential.
    Exponential {
        /// Its mean.
        mean: f64,
    },
    /// Pareto, as Plato's clients sleep: `least = 1`, `shape = 1`, `most = 30`.
    Pareto {
        /// The least value.
        least: f64,
        /// The tail's exponent: at `x` times the least a share of `x^-shape` is left.
        shape: f64,
        /// What is above counts as this.
        #[serde(default)]
        most: Option<f64>,
    },
    /// A list, as from a trace. It is dealt out like cards: with as many clients as values each value is used once, with
    /// more they are used equally often, give or take one, and with fewer each client has another one.
    Values {
        /// The values.
        values: Vec<f64>,
        /// Whether client 0 has the first one, client 1 the second and so on, from the beginning again at the end of
        /// the list, and nothing is left to chance.
        #[serde(default)]
        in_order: bool,
    },
}

/// Longest list of values.
const VALUES_MOST: usize = 10_000_000;
/// A normal draw above 0 is found in one of these, all but surely: half of them are, at least.
const NORMAL_DRAWS: u32 = 128;

impl Distribution {
    /// Checks every parameter, which has to be from `least` to `most`.
    pub(crate) fn check(&self, field: &str, least: f64, most: f64) -> Result<(), FieldError> {
        let path = |name: &str| format!("{field}.{name}");
        let inside = |name: &str, value: f64| within(&path(name), value, least..=most);
        // A logarithm's deviation past this gives nothing but the ends of the range.
        let sigma = |name: &str, value: f64| within(&path(name), value, 0.0..=10.0);
        match self {
            Self::Constant { value } => inside("value", *value),
            Self::Uniform { low, high } => {
                inside("low", *low)?;
                within(&path("high"), *high, *low..=most)
            }
            Self::Normal { mean, deviation } => {
                within(&path("mean"), *mean, least.max(1e-9)..=most)?;
                within(&path("deviation"), *deviation, 0.0..=most)
            }
            Self::Lognormal { median, sigma: spread } => {
                inside("median", *median)?;
                sigma("sigma", *spread)
            }
            Self::Exponential { mean } => inside("mean", *mean),
            Self::Pareto { least: lowest, shape, most: cap } => {
                inside("least", *lowest)?;
                within(&path("shape"), *shape, 0.01..=1e3)?;
                cap.map_or(Ok(()), |cap| within(&path("most"), cap, *lowest..=most))
            }
            Self::Values { values, .. } => {
                if values.is_empty() || values.len() > VALUES_MOST {
                    let message = format!("{} values; it takes 1 to {VALUES_MOST}", values.len());
                    return Err(wrong(&path("values"), message));
                }
                for (i, &value) in values.iter().enumerate() {
                    within(&format!("{field}.values[{i}]"), value, least..=most)?;
                }
                Ok(())
            }
        }
    }

    /// What it is for `client`, one of `clients`, not below `least` nor above `most`.
    pub(crate) fn draw(&self, seed: u64, purpose: Purpose, client: u32, clients: u32, least: f64, most: f64) -> f64 {
        let mut stream = Stream::new(seed, purpose, u64::from(client), 0);
        let value = match self {
            Self::Constant { value } => *value,
            Self::Uniform { low, high } => low + (high - low) * stream.unit(),
            Self::Normal { mean, deviation } => (0..NORMAL_DRAWS)
                .map(|_| mean + deviation * stream.normal())
                .find(|&value| value > 0.0)
                .unwrap_or(*mean),
            Self::Lognormal { median, sigma } => median * (sigma * stream.normal()).exp(),
            Self::Exponential { mean } => mean * stream.exponential(),
            Self::Pareto { least, shape, most } => (least * stream.pareto(*shape)).min(most.unwrap_or(f64::INFINITY)),
            Self::Values { values, in_order } => {
                let deal = if *in_order { Deal::InOrder } else { Deal::Shuffled };
                values.get(deal.row(seed, purpose, client, clients, values.len())).copied().unwrap_or(least)
            }
        };
        value.clamp(least, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(distribution: &Distribution, clients: u32) -> Vec<f64> {
        let mut all: Vec<f64> =
            (0..clients).map(|client| distribution.draw(1, Purpose::Compute, client, clients, 0.0, 1e9)).collect();
        all.sort_unstable_by(f64::total_cmp);
        all
    }

    #[test]
    fn quantiles_are_those_of_each_distribution() {
        // At 1/4, 1/2 and 3/4, from the inverse distribution functions: the normal's quartile is 0.67449 deviations;
        // cut off at 0, mean 1 and deviation 1 have those of (1 - p) Phi(-1) + p, Phi(-1) = 0.158655.
        let cases = [
            (Distribution::Uniform { low: 1.0, high: 3.0 }, [1.5, 2.0, 2.5]),
            (Distribution::Normal { mean: 1.0, deviation: 0.1 }, [0.932551, 1.0, 1.067449]),
            (Distribution::Normal { mean: 1.0, deviation: 1.0 }, [0.665474, 1.200174, 1.805255]),
            (Distribution::Lognormal { median: 2.0, sigma: 0.5 }, [1.427468, 2.0, 2.802164]),
            (Distribution::Exponential { mean: 2.0 }, [0.575364, 1.386294, 2.772589]),
            (Distribution::Pareto { least: 1.0, shape: 1.0, most: None }, [4.0 / 3.0, 2.0, 4.0]),
            (Distribution::Pareto { least: 1.0, shape: 1.0, most: Some(3.0) }, [4.0 / 3.0, 2.0, 3.0]),
        ];
        for (distribution, expected) in cases {
            distribution.check("x", 0.0, 1e9).unwrap();
            let all = draws(&distribution, 40_000);
            assert!(all[0] >= 0.0);
            for (quarter, expected) in [10_000, 20_000, 30_000].into_iter().zip(expected) {
                assert!((all[quarter] / expected - 1.0).abs() < 0.03, "{distribution:?}: {} {expected}", all[quarter]);
            }
        }
    }

    #[test]
    fn values_are_dealt_out_evenly() {
        let values = Distribution::Values { values: vec![1.0, 2.0, 3.0], in_order: false };
        assert_eq!(draws(&values, 7), [1.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0]);
        let values = Distribution::Values { values: vec![1.0, 2.0, 3.0], in_order: true };
        assert_eq!(values.draw(1, Purpose::Compute, 4, 7, 0.0, 9.0), 2.0);
        // Three clients have three of a hundred values, and not the first ones.
        let values = Distribution::Values { values: (0..100).map(f64::from).collect(), in_order: false };
        let drawn = draws(&values, 3);
        assert!(drawn[0] < drawn[1] && drawn[1] < drawn[2] && drawn[2] > 2.0, "{drawn:?}");
    }

    #[test]
    fn every_wrong_parameter_is_named_with_what_it_may_be() {
        let cases = [
            ("kind = 'constant'\nvalue = -1", "`d.value`: -1 is not a number from 0 to 100"),
            ("kind = 'uniform'\nlow = 101\nhigh = 3", "`d.low`: 101 is not a number from 0 to 100"),
            ("kind = 'uniform'\nlow = 4\nhigh = 3", "`d.high`: 3 is not a number from 4 to 100"),
            ("kind = 'normal'\nmean = nan\ndeviation = 1", "`d.mean`: NaN is not a number"),
            ("kind = 'normal'\nmean = 1\ndeviation = -1", "`d.deviation`: -1 is not a number from 0 to 100"),
            ("kind = 'lognormal'\nmedian = inf\nsigma = 1", "`d.median`: inf is not a number from 0 to 100"),
            ("kind = 'lognormal'\nmedian = 1\nsigma = 11", "`d.sigma`: 11 is not a number from 0 to 10"),
            ("kind = 'exponential'\nmean = 1e9", "`d.mean`: 1000000000 is not a number from 0 to 100"),
            ("kind = 'pareto'\nleast = -1\nshape = 1", "`d.least`: -1 is not a number from 0 to 100"),
            ("kind = 'pareto'\nleast = 1\nshape = 0", "`d.shape`: 0 is not a number from 0.01 to 1000"),
            ("kind = 'pareto'\nleast = 2\nshape = 1\nmost = 1", "`d.most`: 1 is not a number from 2 to 100"),
            ("kind = 'values'\nvalues = []", "`d.values`: 0 values; it takes 1 to 10000000"),
            ("kind = 'values'\nvalues = [1, -2]", "`d.values[1]`: -2 is not a number from 0 to 100"),
        ];
        for (text, expected) in cases {
            let error = toml::from_str::<Distribution>(text).unwrap().check("d", 0.0, 100.0).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
        let error = toml::from_str::<Distribution>("kind = 'constant'\nvalue = 1\nmean = 2").unwrap_err();
        assert!(error.message().contains("unknown field `mean`"), "{error}");
    }
}
