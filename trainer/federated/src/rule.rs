//! All rules by name, as a file says them.

use serde::{Deserialize, Serialize};

use crate::inversion::Decisions;
use crate::strategy::adaptive::{Fadas, FedAdagrad, FedAdam, FedYogi};
use crate::strategy::asynchronous::{FedAsync, FedBuff, Port};
use crate::strategy::average::{Direct, FedAvg, FedProx, FirstOrder, Weighted};
use crate::strategy::nova::FedNova;
use crate::strategy::prediction::WeightPrediction;
use crate::strategy::tiers::FedAt;
use crate::strategy::variates::{Ca2Fl, Scaffold};

/// How the server makes its next version. In a file: a table with the key `rule`, the rule's name without capitals, and
/// what the rule's settings are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Rule {
    /// The mean of the updates.
    FedAvg(FedAvg),
    /// FedAvg of clients that are drawn back to where they started.
    FedProx(FedProx),
    /// Clients correct their drift by control variates.
    Scaffold(Scaffold),
    /// Updates are divided by the steps that they took.
    FedNova(FedNova),
    /// Adam on the mean.
    FedAdam(FedAdam),
    /// Yogi on the mean.
    FedYogi(FedYogi),
    /// Adagrad on the mean.
    FedAdagrad(FedAdagrad),
    /// Each update is mixed in when it arrives.
    FedAsync(FedAsync),
    /// The mean of a buffer, discounted by staleness.
    FedBuff(FedBuff),
    /// AMSGrad on a buffer's mean, slower where updates are late.
    Fadas(Fadas),
    /// A buffer's mean, corrected by cached updates.
    Ca2Fl(Ca2Fl),
    /// Synchronous in a tier, asynchronous across.
    FedAt(FedAt),
    /// Updates weigh by their direction and freshness.
    Port(Port),
    /// Stale updates as if they were fresh.
    Direct(Direct),
    /// Stale updates weigh less.
    Weighted(Weighted),
    /// Stale updates are corrected by a Taylor term.
    #[serde(rename = "first-order")]
    FirstOrder(FirstOrder),
    /// Clients start from where the server is expected to be when they come back.
    #[serde(rename = "weight-prediction")]
    WeightPrediction(WeightPrediction),
    /// Stale updates are turned fresh by gradient inversion.
    Inversion(Decisions),
}

/// Why a rule cannot be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// A setting is out of range.
    #[error("{rule}: `{what}` is {found}, but {allowed}")]
    Value {
        /// The rule.
        rule: &'static str,
        /// The setting.
        what: &'static str,
        /// Its value.
        found: f64,
        /// What it may be.
        allowed: &'static str,
    },
    /// The rule takes no such mean.
    #[error("{rule} takes updates one by one: there is nothing that {by} could choose from")]
    Combine {
        /// The rule.
        rule: &'static str,
        /// What was to stand for the mean.
        by: &'static str,
    },
}

impl Rule {
    /// Its name, as files have it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::FedAvg(_) => "fedavg",
            Self::FedProx(_) => "fedprox",
            Self::Scaffold(_) => "scaffold",
            Self::FedNova(_) => "fednova",
            Self::FedAdam(_) => "fedadam",
            Self::FedYogi(_) => "fedyogi",
            Self::FedAdagrad(_) => "fedadagrad",
            Self::FedAsync(_) => "fedasync",
            Self::FedBuff(_) => "fedbuff",
            Self::Fadas(_) => "fadas",
            Self::Ca2Fl(_) => "ca2fl",
            Self::FedAt(_) => "fedat",
            Self::Port(_) => "port",
            Self::Direct(_) => "direct",
            Self::Weighted(_) => "weighted",
            Self::FirstOrder(_) => "first-order",
            Self::WeightPrediction(_) => "weight-prediction",
            Self::Inversion(_) => "inversion",
        }
    }

    /// Every rule with its defaults.
    pub fn all() -> Vec<Self> {
        vec![
            Self::FedAvg(FedAvg::default()),
            Self::FedProx(FedProx::default()),
            Self::Scaffold(Scaffold::default()),
            Self::FedNova(FedNova::default()),
            Self::FedAdam(FedAdam::default()),
            Self::FedYogi(FedYogi::default()),
            Self::FedAdagrad(FedAdagrad::default()),
            Self::FedAsync(FedAsync::default()),
            Self::FedBuff(FedBuff::default()),
            Self::Fadas(Fadas::default()),
            Self::Ca2Fl(Ca2Fl::default()),
            Self::FedAt(FedAt::default()),
            Self::Port(Port::default()),
            Self::Direct(Direct::default()),
            Self::Weighted(Weighted::default()),
            Self::FirstOrder(FirstOrder::default()),
            Self::WeightPrediction(WeightPrediction::default()),
            Self::Inversion(Decisions::default()),
        ]
    }
}

/// Refuses a value that `holds` is false for.
pub(crate) fn check(
    rule: &'static str,
    what: &'static str,
    found: f64,
    holds: bool,
    allowed: &'static str,
) -> Result<(), RuleError> {
    // A NaN makes no comparison true, and so holds nowhere.
    if holds { Ok(()) } else { Err(RuleError::Value { rule, what, found, allowed }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Rule, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn files_name_every_rule_and_settings_have_defaults() {
        for rule in Rule::all() {
            assert_eq!(read(&format!("rule = {:?}", rule.name())).expect("read"), rule);
        }
        let weighted = read("rule = \"weighted\"\nhalf_life = 10.0").expect("read");
        assert_eq!(weighted, Rule::Weighted(Weighted { half_life: 10.0, ..Weighted::default() }));
    }

    #[test]
    fn unknown_names_and_settings_are_refused() {
        let error = read("rule = \"fedavgg\"").expect_err("no such rule").to_string();
        assert!(error.contains("fedavgg") && error.contains("weight-prediction"), "{error}");
        for rule in Rule::all() {
            let error =
                read(&format!("rule = {:?}\nhalf_lief = 1", rule.name())).expect_err("no such field").to_string();
            assert!(error.contains("half_lief"), "{error}");
        }
    }
}
