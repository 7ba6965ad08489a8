//! Clients that do harm: what they send instead of what they learned.
//!
//! Attackers know the round's honest updates, as the papers on robust rules assume; that is the worst case. Who attacks, and
//! from when on, is the caller's.

use serde::{Deserialize, Serialize};

use crate::normal;
use crate::rule::{RuleError, check};
use crate::update::{Server, Update};
use swarmloom_kernels::random;

/// What attackers do.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "attack", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Attack {
    /// They train on wrong labels: class `y` becomes `classes - 1 - y` (Fang, Cao, Jia and Gong, arXiv 1911.11815), or only one class becomes another (Tolpegin et al., arXiv 2007.08432). What they send is what they learned.
    LabelFlip {
        /// The class that is flipped; without it, all are.
        #[serde(default)]
        from: Option<u8>,
        /// What it becomes; without it, `classes - 1 - from`.
        #[serde(default)]
        to: Option<u8>,
    },
    /// They send `-scale` times what they learned (Li et al., "RSA", arXiv 1811.03761).
    SignFlip {
        /// How much of it.
        #[serde(default = "one")]
        scale: f64,
    },
    /// "A Little Is Enough", Baruch, Baruch and Goldberg (arXiv 1902.06156), algorithm 3: all send `mean - z deviation` of the
    /// honest updates, in each coordinate.
    Alie {
        /// The paper's `z`; without it, the largest that still hides behind the honest updates it needs for a majority.
        #[serde(default)]
        z: Option<f64>,
    },
    /// Inner-product manipulation: all send `-epsilon` times the mean of the honest updates (Xie, Koyejo and Gupta, "Fall of
    /// Empires", arXiv 1903.03936).
    InnerProduct {
        /// Small ones pass Krum, large ones pull a mean back. The paper tries 0.1 to 100; the default is ours.
        #[serde(default = "half")]
        epsilon: f64,
    },
    /// They learn nothing and pretend.
    FreeRider {
        /// What they send.
        #[serde(default)]
        send: Pretence,
    },
}

fn one() -> f64 {
    1.0
}

fn half() -> f64 {
    0.5
}

/// What a free rider sends.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Pretence {
    /// The parameters that it was given: an update of zeros (Fraboni, Vidal and Lorenzi, arXiv 2006.11901, plain).
    #[default]
    Nothing,
    /// That with noise, as disguise.
    Noise {
        /// Its length over that of the server's last step (our definition; zero where the version before is kept no longer).
        #[serde(default = "one")]
        scale: f64,
    },
    /// The server's last step (Lin, Du and Liu, "Free-riders in Federated Learning", arXiv 1911.12560: delta weights).
    LastStep,
}

impl Attack {
    /// Refuses settings that make no sense.
    ///
    /// # Errors
    /// [`RuleError`] with the setting.
    pub fn check(&self) -> Result<(), RuleError> {
        let (what, value) = match *self {
            Self::SignFlip { scale } | Self::FreeRider { send: Pretence::Noise { scale } } => ("scale", scale),
            Self::Alie { z: Some(z) } => ("z", z),
            Self::InnerProduct { epsilon } => ("epsilon", epsilon),
            Self::LabelFlip { from: None, to: Some(to) } => {
                return check("label-flip", "to", to.into(), false, "it needs a class that is flipped: `from`");
            }
            Self::LabelFlip { .. } | Self::Alie { z: None } | Self::FreeRider { .. } => return Ok(()),
        };
        check("attack", what, value, value >= 0.0 && value.is_finite(), "it is not negative")
    }

    /// Whether old versions are asked for.
    pub fn history(&self) -> bool {
        matches!(self, Self::FreeRider { send: Pretence::Noise { .. } | Pretence::LastStep })
    }

    /// Whether attackers train at all.
    pub fn trains(&self) -> bool {
        matches!(self, Self::LabelFlip { .. } | Self::SignFlip { .. })
    }

    /// The label that an attacker trains on in place of the right one.
    pub fn label(&self, label: u8, classes: u8) -> u8 {
        let opposite = |label: u8| classes.saturating_sub(1).saturating_sub(label);
        match *self {
            Self::LabelFlip { from: None, .. } => opposite(label),
            Self::LabelFlip { from: Some(from), to } if from == label => to.unwrap_or_else(|| opposite(label)),
            _ => label,
        }
    }

    /// Replaces what attackers send in a round, `lies` saying of each update whether it is one of theirs. Where an attack needs
    /// honest updates and there are none, the attackers' own stay as they are. Deltas have the model's length.
    pub fn carry_out(&self, server: &Server<'_>, updates: &mut [Update], lies: impl Fn(&Update) -> bool) {
        let (attackers, honest): (Vec<usize>, Vec<usize>) = (0..updates.len()).partition(|at| lies(&updates[*at]));
        let length = server.parameters.len();
        let moments = || moments(honest.iter().map(|at| updates[*at].delta.as_slice()), honest.len(), length);
        let common = match *self {
            Self::LabelFlip { .. } => return,
            Self::SignFlip { scale } => {
                for at in attackers {
                    updates[at].delta.iter_mut().for_each(|value| *value *= -(scale as f32));
                }
                return;
            }
            Self::Alie { .. } | Self::InnerProduct { .. } if honest.is_empty() => return,
            Self::Alie { z } => {
                let z = z.unwrap_or_else(|| largest_z(updates.len(), attackers.len()));
                let (mean, deviation) = moments();
                mean.iter().zip(&deviation).map(|(mean, deviation)| (mean - z * deviation) as f32).collect()
            }
            Self::InnerProduct { epsilon } => moments().0.iter().map(|mean| (-epsilon * mean) as f32).collect(),
            Self::FreeRider { send: Pretence::Nothing } => vec![0.0; length],
            Self::FreeRider { send: Pretence::LastStep } => last_step(server),
            Self::FreeRider { send: Pretence::Noise { scale } } => {
                let deviation =
                    scale * swarmloom_kernels::norms::l2(&last_step(server)) / (length.max(1) as f64).sqrt();
                for at in attackers {
                    let seed = random::bits(server.seed ^ server.version, u64::from(updates[at].client));
                    let noise = |index| (deviation * normal::draw(seed, index)) as f32;
                    updates[at].delta = (0..length as u64).map(noise).collect();
                }
                return;
            }
        };
        for at in attackers {
            updates[at].delta.clone_from(&common);
        }
    }
}

/// The `z` of "A Little Is Enough": `s = floor(n / 2 + 1) - m` honest updates have to look further away than the lies for a
/// majority, and so `z` is the quantile at `(n - m - s) / (n - m)`. Where that is below a half, there is no room: 0.
fn largest_z(count: usize, attackers: usize) -> f64 {
    let honest = (count - attackers) as f64;
    let needed = (count / 2 + 1) as f64 - attackers as f64;
    let part = (honest - needed) / honest;
    if part >= 1.0 {
        // Attackers are the majority; nothing limits them but what we take for the far end.
        return normal::quantile(1.0 - 1e-9);
    }
    if part > 0.5 { normal::quantile(part) } else { 0.0 }
}

/// Mean and standard deviation (of the population) of each coordinate.
fn moments<'a>(vectors: impl Iterator<Item = &'a [f32]> + Clone, count: usize, length: usize) -> (Vec<f64>, Vec<f64>) {
    let mut mean = vec![0.0_f64; length];
    let mut deviation = vec![0.0_f64; length];
    for vector in vectors.clone() {
        mean.iter_mut().zip(vector).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    mean.iter_mut().for_each(|sum| *sum /= count as f64);
    for vector in vectors {
        for ((sum, mean), value) in deviation.iter_mut().zip(&mean).zip(vector) {
            *sum += (f64::from(*value) - mean).powi(2);
        }
    }
    deviation.iter_mut().for_each(|sum| *sum = (*sum / count as f64).sqrt());
    (mean, deviation)
}

/// What the server moved by from the version before; zeros where that is not known.
fn last_step(server: &Server<'_>) -> Vec<f32> {
    let before = server.version.checked_sub(1).and_then(|version| (server.history)(version));
    let moved = before.map(|before| server.parameters.iter().zip(before).map(|(now, before)| now - before).collect());
    moved.unwrap_or_else(|| vec![0.0; server.parameters.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Attack {
        toml::from_str(text).expect(text)
    }

    /// Three honest clients, and two that are not.
    fn round(attack: &str) -> Vec<Vec<f32>> {
        let deltas = [[1.0, 0.0], [2.0, 0.0], [6.0, 3.0], [1.0, -2.0], [0.5, 0.5]];
        let mut updates: Vec<Update> = deltas
            .iter()
            .zip(0..)
            .map(|(delta, client)| Update {
                client,
                base: 0,
                tier: 0,
                samples: 1,
                steps: 1,
                delta: delta.to_vec(),
                control: None,
            })
            .collect();
        let before = [1.0, 1.0];
        let history = |version| (version == 4).then_some(&before[..]);
        let server = Server { version: 5, parameters: &[4.0, 5.0], history: &history, clients: 9, seed: 1 };
        read(attack).carry_out(&server, &mut updates, |update| update.client >= 3);
        assert_eq!(updates[2].delta, deltas[2]);
        updates.into_iter().skip(3).map(|update| update.delta).collect()
    }

    #[test]
    fn attacks_by_hand() {
        assert_eq!(round("attack = \"label-flip\""), [[1.0, -2.0], [0.5, 0.5]]);
        assert_eq!(round("attack = \"sign-flip\"\nscale = 2.0"), [[-2.0, 4.0], [-1.0, -1.0]]);
        // The honest mean is (3, 1), their variances 14/3 and 2.
        assert_eq!(round("attack = \"inner-product\"\nepsilon = 0.5"), [[-1.5, -0.5]; 2]);
        let expected = [3.0 - 1.5 * (14.0_f64 / 3.0).sqrt(), 1.0 - 1.5 * 2.0_f64.sqrt()].map(|value| value as f32);
        assert_eq!(round("attack = \"alie\"\nz = 1.5"), [expected; 2]);
        assert_eq!(round("attack = \"free-rider\""), [[0.0, 0.0]; 2]);
        assert_eq!(round("attack = \"free-rider\"\nsend = \"last-step\""), [[3.0, 4.0]; 2]);
        let noise = round("attack = \"free-rider\"\nsend = { noise = { scale = 0.1 } }");
        // The last step has a length of 5: each value a deviation of 0.5 over root 2.
        assert!(noise[0] != noise[1] && noise.iter().flatten().all(|value| value.abs() < 2.0 && *value != 0.0));
    }

    #[test]
    fn a_little_is_what_the_paper_takes() {
        // 50 of which 12 lie: s = 26 - 12 = 14, and 24 / 38 of the honest; scipy's norm.ppf.
        assert!((largest_z(50, 12) - 0.336_038_140_9).abs() < 1e-6, "{}", largest_z(50, 12));
        assert!((largest_z(10, 4) - 0.430_727_299_3).abs() < 1e-6);
        // 4 of 8 honest ones are needed.
        assert_eq!(largest_z(10, 2), 0.0);
        assert!(largest_z(10, 6) > 5.0);
    }

    #[test]
    fn labels_are_flipped() {
        let all = read("attack = \"label-flip\"");
        assert_eq!([0, 4, 9].map(|label| all.label(label, 10)), [9, 5, 0]);
        let one = read("attack = \"label-flip\"\nfrom = 5\nto = 3");
        assert_eq!([5, 3].map(|label| one.label(label, 10)), [3, 3]);
        assert_eq!(read("attack = \"label-flip\"\nfrom = 1").label(1, 10), 8);
        assert_eq!(read("attack = \"alie\"").label(4, 10), 4);
    }

    #[test]
    fn settings_are_checked() {
        for text in [
            "attack = \"sign-flip\"\nscale = -1.0",
            "attack = \"alie\"\nz = nan",
            "attack = \"inner-product\"\nepsilon = inf",
            "attack = \"label-flip\"\nto = 3",
            "attack = \"free-rider\"\nsend = { noise = { scale = -1.0 } }",
        ] {
            assert!(read(text).check().is_err(), "{text}");
        }
        assert!(read("attack = \"free-rider\"").check().is_ok());
        assert!(toml::from_str::<Attack>("attack = \"alie\"\nx = 1.0").is_err());
    }
}
