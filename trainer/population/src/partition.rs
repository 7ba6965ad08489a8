//! Who holds which samples.

mod deal;

use serde::{Deserialize, Serialize};

use crate::check::{FieldError, within, wrong};

/// How samples are shared out among clients.
///
/// Without a number of samples per client every sample is given to exactly one client ([`Partition::Natural`] and
/// [`Partition::Sorted`] aside, which see). With a number each client gets that many, whatever the data set has:
/// samples of a class are dealt in random order, and once all are dealt, in a new random order from the beginning. A
/// client gets none of them twice unless it gets more than there are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Partition {
    /// At random. Sizes differ by one at most.
    Iid {},
    /// Each client holds the same number of classes: "quantity-based label imbalance" of Li et al., "Federated Learning
    /// on Non-IID Data Silos", 2022. Each class is held by equally many clients, give or take one, who share
    /// its samples evenly.
    Classes {
        /// Classes of a client.
        per_client: u32,
    },
    /// Unlike shares of the classes, from a symmetric Dirichlet distribution with concentration `alpha` for each
    /// component: 100 is nearly IID, 0.1 is one or two classes a client.
    Dirichlet {
        /// Concentration.
        alpha: f64,
        /// Which of the two kinds.
        #[serde(default)]
        over: Over,
        /// With [`Over::Clients`]: no client has fewer samples than this.
        #[serde(default = "one")]
        least: u32,
    },
    /// Unlike numbers of samples, classes alike: "quantity skew" of Li et al., 2022. The clients' shares of all
    /// samples are drawn from a symmetric Dirichlet distribution. A number of samples per client is their mean.
    Quantity {
        /// Concentration.
        alpha: f64,
        /// No client has fewer samples than this.
        #[serde(default = "one")]
        least: u32,
    },
    /// Samples sorted by class and cut into shards of consecutive ones, which are dealt out at random. One shard a
    /// client is what the paper's reference does (100 clients with 600 samples of MNIST each, nearly all of one class);
    /// two are the pathological split of `McMahan` et al., "Communication-Efficient Learning of Deep Networks from
    /// Decentralized Data", 2017, section 3. With a number of samples per client shards have that many, divided by
    /// their number, and begin at even distances: they overlap if there are too few samples, and leave some out if
    /// there are too many.
    Sorted {
        /// Shards of a client.
        #[serde(default = "one")]
        shards: u32,
        /// Whether shards are dealt at random. If not, client 0 has the first ones, client 1 the next, and so on.
        #[serde(default = "yes")]
        shuffle: bool,
    },
    /// As the data set says: a group (a writer, a role of a play) is a client. If there are more groups than clients,
    /// which are taken is drawn at random. A number of samples per client is the most that is taken of a group.
    Natural {
        /// Groups with fewer samples are left out.
        #[serde(default = "one")]
        least: u32,
    },
}

/// Which shares a Dirichlet distribution gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Over {
    /// Each client draws its own shares of the classes; all have equally many samples. Hsu, Qi and Brown, "Measuring
    /// the Effects of Non-Identical Data Distribution for Federated Visual Classification", 2019 (their `alpha` is
    /// ours times the number of classes), and the paper's reference. Without a number of samples per client, a class
    /// whose samples have all been given away drops out of the shares of the clients that follow.
    #[default]
    Classes,
    /// Each class is split among the clients with shares of its own, so that sizes differ as well. Yurochkin et al.,
    /// "Bayesian Nonparametric Federated Learning of Neural Networks", 2019; "distribution-based label imbalance" of Li
    /// et al., 2022. A client with fewer than `least` samples takes some from the one that has most (our definition;
    /// others draw anew until all have enough, which with many clients never happens). A number of samples per client
    /// is their mean; what moves to a client then may be something that it has.
    Clients,
}

/// Why there is no partition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PartitionError {
    /// A field is out of its range.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// Clients that have no samples cannot train.
    #[error(
        "{empty} of {clients} clients would hold no sample, client {client} among them; take fewer clients, or set a number \
         of samples per client, which lets several hold the same one"
    )]
    Empty {
        /// The first of them.
        client: u32,
        /// How many.
        empty: u32,
        /// Of how many.
        clients: u32,
    },
    /// A client's index is past the labels.
    #[error("client {client} holds sample {index}, but there are {samples} samples, counted from 0")]
    Index {
        /// The client.
        client: u32,
        /// The sample.
        index: u32,
        /// Number of samples.
        samples: usize,
    },
}

/// Samples that all clients hold together, at most: 1 GiB of indices.
const SAMPLES_MOST: u64 = 1 << 28;
/// Clients, at most.
pub(crate) const CLIENTS_MOST: u32 = 10_000_000;
/// Concentrations, at least and at most.
const ALPHA: std::ops::RangeInclusive<f64> = 1e-3..=1e6;

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

/// Shares samples out: for each client the indices into `labels` of what it holds, at least one. `groups` has each
/// sample's group, for [`Partition::Natural`].
///
/// # Errors
/// [`PartitionError`] where a field is out of range, or a client would hold nothing.
pub fn partition(
    spec: &Partition,
    labels: &[u8],
    groups: Option<&[u32]>,
    clients: u32,
    samples_per_client: Option<u32>,
    seed: u64,
) -> Result<Vec<Vec<u32>>, PartitionError> {
    within("clients", clients, 1..=CLIENTS_MOST)?;
    if labels.is_empty() || labels.len() as u64 > SAMPLES_MOST {
        return Err(wrong("labels", format!("{} samples; it takes 1 to {SAMPLES_MOST}", labels.len())).into());
    }
    if let Some(samples) = samples_per_client {
        within("samples_per_client", samples, 1..=(SAMPLES_MOST / u64::from(clients)) as u32)?;
    }
    let dealer = deal::Dealer { labels, clients, samples_per_client, seed };
    let parts = match spec {
        Partition::Iid {} => dealer.iid(),
        Partition::Classes { per_client } => dealer.classes(*per_client)?,
        Partition::Dirichlet { alpha, over, least } => {
            within("partition.alpha", *alpha, ALPHA)?;
            match over {
                Over::Classes => dealer.dirichlet_over_classes(*alpha),
                Over::Clients => dealer.dirichlet_over_clients(*alpha, dealer.checked_least(*least)?),
            }
        }
        Partition::Quantity { alpha, least } => {
            within("partition.alpha", *alpha, ALPHA)?;
            dealer.quantity(*alpha, dealer.checked_least(*least)?)
        }
        Partition::Sorted { shards, shuffle } => {
            let most = samples_per_client.unwrap_or((labels.len() / clients as usize).max(1) as u32);
            within("partition.shards", *shards, 1..=most)?;
            dealer.sorted(*shards, *shuffle)
        }
        Partition::Natural { least } => {
            let groups = groups.ok_or_else(|| {
                wrong("partition.kind", "natural, but this data set has no groups; take another partition")
            })?;
            if groups.len() != labels.len() {
                return Err(wrong("groups", format!("{} for {} samples", groups.len(), labels.len())).into());
            }
            within("partition.least", *least, 1..=u32::MAX)?;
            dealer.natural(groups, *least)?
        }
    };
    let empty = parts.iter().filter(|part| part.is_empty()).count() as u32;
    match parts.iter().position(Vec::is_empty) {
        Some(client) => Err(PartitionError::Empty { client: client as u32, empty, clients }),
        None => Ok(parts),
    }
}

#[cfg(test)]
mod tests;
