//! What cannot be combined, and why.

use std::fmt;

use crate::combine::{Combine, Weights};
use crate::compress::Compression;
use crate::privacy::Protection;
use crate::rule::Rule;
use crate::secagg;

/// All that one simulation uses.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// Its mean.
    pub combine: &'a Combine,
    /// Differential privacy.
    pub protection: Option<&'a Protection>,
    /// Compression.
    pub compression: Option<&'a Compression>,
    /// Secure aggregation.
    pub secure: Option<&'a secagg::Settings>,
}

/// Two that exclude each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The one.
    pub one: &'static str,
    /// The other.
    pub other: &'static str,
    /// Why.
    pub why: &'static str,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { one, other, why } = self;
        write!(f, "{one} cannot be combined with {other}: {why}")
    }
}

/// Every conflict in a choice. What a rule's own settings exclude, [`strategy`](crate::strategy()) says.
///
/// # Errors
/// All conflicts, where there is one.
pub fn check(choice: &Choice<'_>) -> Result<(), Vec<Conflict>> {
    let Choice { rule, combine, protection, compression, secure } = *choice;
    let mut found = Vec::new();
    let mut conflict = |one, other, why: Option<&'static str>| {
        if let Some(why) = why {
            found.push(Conflict { one, other, why });
        }
    };
    if secure.is_some() {
        conflict(rule.name(), "secure aggregation", hidden(rule));
        let chooses = combine.individual().then_some("it compares single updates, and only their sum is known");
        conflict(combine.name(), "secure aggregation", chooses);
        let coded = compression.map(|_| "codes cannot be added up: each update's stand for other values");
        conflict("compression", "secure aggregation", coded);
    }
    if let Some(Protection::Central { .. }) = protection {
        let one = "central privacy";
        conflict(one, rule.name(), uncovered(rule));
        let chooses =
            combine.individual().then_some("its noise covers what one update does to a mean, not to a choice");
        conflict(one, combine.name(), chooses);
        let own = matches!(rule, Rule::FedBuff(_) | Rule::Fadas(_)).then_some(Weights::Uniform);
        let uneven = combine.weights.or(own) != Some(Weights::Uniform);
        let why = "its noise covers one of equal parts of the mean: set weights = \"uniform\"";
        conflict(one, "weights by samples", uneven.then_some(why));
    }
    if found.is_empty() { Ok(()) } else { Err(found) }
}

/// Why a rule needs more than a sum of what clients can compute themselves.
fn hidden(rule: &Rule) -> Option<&'static str> {
    match rule {
        Rule::Inversion(_) => Some("each update is inverted for itself, and only their sum is known"),
        Rule::Port(_) => Some("an update's weight follows from its direction, and only the sum is known"),
        Rule::Ca2Fl(_) => Some("every client's last update is kept, and only their sum is known"),
        Rule::FirstOrder(_) => Some("each update is squared and corrected at the server, and only their sum is known"),
        Rule::FedAsync(_) => Some("updates are taken one by one: there is no sum to hide in"),
        Rule::Scaffold(_) => Some("the server keeps every client's control variate, and they are not summed securely"),
        Rule::FedAt(_) => Some("every tier has a sum of its own, and they are not summed securely"),
        _ => None,
    }
}

/// Why central noise does not cover what a rule learns of one update.
fn uncovered(rule: &Rule) -> Option<&'static str> {
    match rule {
        Rule::Inversion(_) => Some("the inversion recovers data from single updates, before any noise"),
        Rule::Port(_) => Some("an update's weight follows from its direction, without noise"),
        Rule::Ca2Fl(_) => Some("an update is used again in later aggregations"),
        Rule::FirstOrder(_) => Some("the correction makes updates longer than the bound"),
        Rule::FedAsync(_) => Some("updates are taken one by one, without a mean that gets the noise"),
        Rule::Scaffold(_) => Some("control variates get no noise"),
        Rule::FedAt(_) => Some("tiers get no noise of their own"),
        Rule::Weighted(rule) if rule.normalise => Some("normalised weights let one update be more than its part"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::combine::By;

    const NEED_SINGLE: [&str; 7] = ["scaffold", "fedasync", "ca2fl", "fedat", "port", "first-order", "inversion"];

    /// Rules that are refused where the rest of a choice is this.
    fn refused(rest: Choice<'_>) -> Vec<&'static str> {
        let conflict = |rule: &&Rule| check(&Choice { rule, ..rest }).is_err();
        Rule::all().iter().filter(conflict).map(Rule::name).collect()
    }

    #[test]
    fn what_needs_single_updates_is_refused_under_secure_aggregation() {
        let (mean, settings) = (Combine::default(), secagg::Settings::default());
        let rules = Rule::all();
        let inversion = rules.last().expect("the last rule");
        let choice =
            Choice { rule: inversion, combine: &mean, protection: None, compression: None, secure: Some(&settings) };
        assert_eq!(refused(choice), NEED_SINGLE);
        let why = check(&choice).expect_err("refused")[0].to_string();
        let text = "inversion cannot be combined with secure aggregation: each update is inverted for itself, and only \
                    their sum is known";
        assert_eq!(why, text);
        // Everything that is wrong is told at once.
        let median = Combine::by(By::Median);
        let sign = Compression::Sign { block: 64 };
        let all = check(&Choice { combine: &median, compression: Some(&sign), ..choice }).expect_err("refused");
        assert_eq!(all.iter().map(|one| one.one).collect::<Vec<_>>(), ["inversion", "median", "compression"]);
    }

    #[test]
    fn what_central_noise_does_not_cover_is_refused() {
        let (by_source, rules) = (Combine::default(), Rule::all());
        let uniform = Combine { weights: Some(Weights::Uniform), ..Combine::default() };
        let central = Protection::Central { clip: 1.0, noise: 1.0, delta: 1e-5, adaptive: None };
        let local = Protection::Local { clip: 1.0, epsilon: 1.0, delta: 1e-5 };
        let choice =
            Choice { rule: &rules[0], combine: &uniform, protection: Some(&central), compression: None, secure: None };
        assert_eq!(refused(choice), NEED_SINGLE);
        let few = refused(Choice { combine: &by_source, ..choice });
        assert!(!few.contains(&"fedbuff") && !few.contains(&"fadas") && few.len() == rules.len() - 2, "{few:?}");
        assert!(refused(Choice { protection: Some(&local), ..choice }).is_empty());
        let median = Combine::by(By::Median);
        assert!(check(&Choice { combine: &median, ..choice }).is_err());
    }
}
