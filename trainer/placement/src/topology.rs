//! What trains: ranks on hosts in clusters, and the links between them.

mod file;
mod measured;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use file::{BetweenFile, ClusterFile, LinkFile, TopologyFile};

/// The kind of a link, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkClass {
    /// Memory that processes of one host share.
    Shm,
    /// NVLink between the GPUs of one host.
    Nvlink,
    /// InfiniBand.
    Infiniband,
    /// Remote direct memory access over converged Ethernet.
    Roce,
    /// Ethernet, spoken to by TCP.
    Ethernet,
    /// Wide-area network, spoken to by TCP.
    Wan,
}

impl LinkClass {
    /// The name in files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shm => "shm",
            Self::Nvlink => "nvlink",
            Self::Infiniband => "infiniband",
            Self::Roce => "roce",
            Self::Ethernet => "ethernet",
            Self::Wan => "wan",
        }
    }

    /// Whether such links join the ranks of one host.
    pub fn inside_host(self) -> bool {
        self <= Self::Nvlink
    }
}

/// A link, or links that are alike.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Its kind.
    pub class: LinkClass,
    /// Bytes a second, each way.
    pub bandwidth: f64,
    /// Seconds from one end to the other.
    pub latency_s: f64,
    /// All ranks behind the link on one side share its bandwidth: a router's uplink, a host's network card. Otherwise each
    /// rank has it for itself.
    pub shared: bool,
}

impl Link {
    /// Seconds until `bytes` have arrived, with the link to oneself.
    pub fn seconds(&self, bytes: f64) -> f64 {
        self.latency_s + bytes / self.bandwidth
    }

    /// What can be relied on where both links are crossed: the worse class, the lower bandwidth, the higher latency.
    pub fn worst(self, other: Self) -> Self {
        let slower = if other.bandwidth < self.bandwidth { other } else { self };
        Self {
            class: self.class.max(other.class),
            bandwidth: slower.bandwidth,
            latency_s: self.latency_s.max(other.latency_s),
            shared: slower.shared,
        }
    }
}

/// Where a rank runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Index of the host, counted over all clusters.
    pub host: usize,
    /// Index of the cluster.
    pub cluster: usize,
    /// How fast it computes, relative to the machine on which the times of layers were measured.
    pub speed: f64,
    /// What the rank may use.
    pub memory_bytes: u64,
    /// What it computes on, for people.
    pub device: String,
}

/// A cluster, and the link between its hosts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterNet {
    /// For people.
    pub name: String,
    /// Between two of its hosts. Shared: by the ranks of one host.
    pub link: Link,
}

/// Ranks on hosts in clusters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// By rank.
    pub ranks: Vec<Machine>,
    /// By host: the link between two of its ranks. Shared: by all of them.
    pub hosts: Vec<Link>,
    /// By cluster.
    pub clusters: Vec<ClusterNet>,
    /// By pair of clusters, from the row's to the column's; the diagonal is not read. Shared: by the ranks of one cluster.
    pub between: Vec<Vec<Link>>,
}

/// Why a description of machines is none.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// Nothing to train on.
    #[error("there is no rank: describe at least one cluster with one host and one rank")]
    Empty,
    /// A table has the wrong size.
    #[error("{what}: {expected} expected, {found} found")]
    Size {
        /// Which table.
        what: String,
        /// Entries that it should have.
        expected: usize,
        /// Entries that it has.
        found: usize,
    },
    /// A rank names a host or cluster that is not there, or a host lies in two clusters.
    #[error("rank {rank}: {what}")]
    Rank {
        /// Which one.
        rank: usize,
        /// What is wrong with it.
        what: String,
    },
    /// A number that cannot be.
    #[error("{what} is {found}: {expected}")]
    Number {
        /// What it belongs to.
        what: String,
        /// Its value.
        found: f64,
        /// What is allowed.
        expected: &'static str,
    },
    /// A pair of clusters without a link.
    #[error(
        "no link between clusters {a} and {b}: add [[between]] with clusters = [\"{a}\", \"{b}\"], or [between_all]"
    )]
    Unlinked {
        /// One cluster.
        a: String,
        /// The other.
        b: String,
    },
    /// A name that stands for nothing, or for two things.
    #[error("cluster {name:?}: {what}")]
    Name {
        /// As written.
        name: String,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl Topology {
    /// From links that were measured between all pairs of ranks: who shares a host, and which hosts form a cluster.
    /// `pairs[a][b]` is the link from `a` to `b`; the diagonal is not read, nor are `host` and `cluster` of the machines.
    ///
    /// One host is where the class is [`LinkClass::Shm`] or [`LinkClass::Nvlink`]. The links between hosts fall into kinds:
    /// another class, or a bandwidth lower by a factor of four or more. Clusters are what remains connected without the
    /// slowest kind that separates anything; links of class [`LinkClass::Wan`] always separate. Hosts left alone that have
    /// no worse link among them than to the others form a cluster together. Each link of the result is the median of those
    /// measured.
    ///
    /// # Errors
    /// If the matrix is not square, or a number cannot be.
    pub fn from_pairs(machines: Vec<Machine>, pairs: &[Vec<Link>]) -> Result<Self, TopologyError> {
        measured::topology(machines, pairs)
    }

    /// Checks sizes, indices and numbers.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), TopologyError> {
        if self.ranks.is_empty() {
            return Err(TopologyError::Empty);
        }
        size("rows of links between clusters", self.clusters.len(), self.between.len())?;
        let mut home = vec![None; self.hosts.len()];
        for (rank, machine) in self.ranks.iter().enumerate() {
            let wrong = |what: String| Err(TopologyError::Rank { rank, what });
            if machine.cluster >= self.clusters.len() {
                return wrong(format!("cluster {} of {}", machine.cluster, self.clusters.len()));
            }
            match home.get_mut(machine.host) {
                None => return wrong(format!("host {} of {}", machine.host, self.hosts.len())),
                Some(home) => {
                    if home.replace(machine.cluster).is_some_and(|cluster| cluster != machine.cluster) {
                        return wrong(format!("its host {} lies in two clusters", machine.host));
                    }
                }
            }
            positive(&format!("rank {rank}: speed"), machine.speed)?;
            if machine.memory_bytes == 0 {
                return wrong("no memory".into());
            }
        }
        for (host, link) in self.hosts.iter().enumerate() {
            check_link(&format!("host {host}"), link)?;
        }
        for (a, cluster) in self.clusters.iter().enumerate() {
            check_link(&format!("cluster {}", cluster.name), &cluster.link)?;
            size("links from a cluster", self.clusters.len(), self.between[a].len())?;
            for (b, link) in self.between[a].iter().enumerate().filter(|(b, _)| *b != a) {
                check_link(&format!("{} to {}", cluster.name, self.clusters[b].name), link)?;
            }
        }
        Ok(())
    }

    /// The link from one rank to another; of a rank to itself, its host's.
    pub fn link(&self, a: usize, b: usize) -> Link {
        let (a, b) = (&self.ranks[a], &self.ranks[b]);
        if a.host == b.host {
            self.hosts[a.host]
        } else if a.cluster == b.cluster {
            self.clusters[a.cluster].link
        } else {
            self.between[a.cluster][b.cluster]
        }
    }

    /// What all of the given ranks can rely on between any two of them: of one rank, its host's link. Looks at hosts and
    /// clusters rather than pairs of ranks.
    pub fn link_within(&self, ranks: &[usize]) -> Option<Link> {
        let mut hosts: Vec<(usize, usize)> =
            ranks.iter().map(|&rank| (self.ranks[rank].cluster, self.ranks[rank].host)).collect();
        hosts.sort_unstable();
        let mut worst: Option<Link> = None;
        let mut add = |link: Link| worst = Some(worst.map_or(link, |worst| worst.worst(link)));
        for pair in hosts.windows(2) {
            if pair[0] == pair[1] {
                add(self.hosts[pair[0].1]);
            } else if pair[0].0 == pair[1].0 {
                add(self.clusters[pair[0].0].link);
            }
        }
        let clusters: BTreeSet<usize> = hosts.iter().map(|host| host.0).collect();
        for &a in &clusters {
            clusters.iter().filter(|&&b| b != a).for_each(|&b| add(self.between[a][b]));
        }
        worst.or_else(|| hosts.first().map(|host| self.hosts[host.1]))
    }

    /// The worst class between any two of the given ranks; of one rank or none, [`LinkClass::Shm`].
    pub fn class_within(&self, ranks: &[usize]) -> LinkClass {
        if ranks.len() < 2 { LinkClass::Shm } else { self.link_within(ranks).map_or(LinkClass::Shm, |link| link.class) }
    }
}

fn size(what: &str, expected: usize, found: usize) -> Result<(), TopologyError> {
    if expected == found { Ok(()) } else { Err(TopologyError::Size { what: what.into(), expected, found }) }
}

fn positive(what: &str, found: f64) -> Result<(), TopologyError> {
    if found > 0.0 && found.is_finite() {
        Ok(())
    } else {
        Err(TopologyError::Number { what: what.into(), found, expected: "a positive number is needed" })
    }
}

fn check_link(what: &str, link: &Link) -> Result<(), TopologyError> {
    positive(&format!("{what}: bandwidth"), link.bandwidth)?;
    if link.latency_s >= 0.0 && link.latency_s.is_finite() {
        Ok(())
    } else {
        let expected = "a latency is zero or more";
        Err(TopologyError::Number { what: format!("{what}: latency"), found: link.latency_s, expected })
    }
}
