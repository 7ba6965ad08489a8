//! A description of clusters as people write it.

use serde::{Deserialize, Serialize};

use super::{ClusterNet, Link, LinkClass, Machine, Topology, TopologyError, positive, size};

/// Clusters, and the links between them. In TOML, `[[cluster]]`, `[[between]]` and `[between_all]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopologyFile {
    /// The clusters; ranks are counted through them in this order, host by host.
    pub cluster: Vec<ClusterFile>,
    /// Links between pairs of clusters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub between: Vec<BetweenFile>,
    /// The link of all pairs that are not in `between`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub between_all: Option<LinkFile>,
}

/// A cluster of hosts that are alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterFile {
    /// Its name, of which there is one.
    pub name: String,
    /// How many hosts.
    pub hosts: usize,
    /// How many ranks on each.
    pub ranks_per_host: usize,
    /// Relative to the machine on which the times of layers were measured; 1 if left out.
    #[serde(default = "one")]
    pub speed: f64,
    /// What each rank may use, in 2^30 bytes.
    pub memory_gib: f64,
    /// What the ranks compute on, for people.
    #[serde(default)]
    pub device: String,
    /// Between two ranks of a host.
    pub inside_host: LinkFile,
    /// Between two hosts.
    pub between_hosts: LinkFile,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkFile {
    /// Its kind.
    pub class: LinkClass,
    /// 10^9 bits a second, each way.
    pub gbit_s: f64,
    /// Microseconds from one end to the other.
    pub latency_us: f64,
    /// Whether all ranks behind it share it. If left out: Ethernet and wide-area links are, others are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<bool>,
}

/// A link between two clusters, the same both ways.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BetweenFile {
    /// The names of both.
    pub clusters: [String; 2],
    /// As in [`LinkFile`].
    pub class: LinkClass,
    /// As in [`LinkFile`].
    pub gbit_s: f64,
    /// As in [`LinkFile`].
    pub latency_us: f64,
    /// As in [`LinkFile`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<bool>,
}

impl LinkFile {
    /// In bytes and seconds.
    pub fn link(&self) -> Link {
        Link {
            class: self.class,
            bandwidth: self.gbit_s * 1e9 / 8.0,
            latency_s: self.latency_us / 1e6,
            shared: self.shared.unwrap_or(self.class >= LinkClass::Ethernet),
        }
    }
}

impl TopologyFile {
    /// The ranks, hosts and links described.
    ///
    /// # Errors
    /// If a name stands for nothing or for two clusters, a pair of clusters has no link, or a number cannot be.
    pub fn topology(&self) -> Result<Topology, TopologyError> {
        let named = |name: &str| {
            let found = self.cluster.iter().position(|cluster| cluster.name == name);
            found.ok_or(TopologyError::Name { name: name.into(), what: "no [[cluster]] has this name" })
        };
        let (mut ranks, mut hosts, mut clusters) = (Vec::new(), Vec::new(), Vec::new());
        for (index, cluster) in self.cluster.iter().enumerate() {
            if named(&cluster.name)? != index {
                return Err(TopologyError::Name { name: cluster.name.clone(), what: "two clusters have this name" });
            }
            positive(&format!("cluster {}: memory_gib", cluster.name), cluster.memory_gib)?;
            for _ in 0..cluster.hosts {
                let machine = Machine {
                    host: hosts.len(),
                    cluster: index,
                    speed: cluster.speed,
                    memory_bytes: (cluster.memory_gib * f64::from(1 << 30)) as u64,
                    device: cluster.device.clone(),
                };
                hosts.push(cluster.inside_host.link());
                ranks.extend(std::iter::repeat_n(machine, cluster.ranks_per_host));
            }
            clusters.push(ClusterNet { name: cluster.name.clone(), link: cluster.between_hosts.link() });
        }
        let count = clusters.len();
        let mut between: Vec<Vec<Option<Link>>> =
            vec![vec![self.between_all.as_ref().map(LinkFile::link); count]; count];
        for pair in &self.between {
            let (a, b) = (named(&pair.clusters[0])?, named(&pair.clusters[1])?);
            if a == b {
                return Err(TopologyError::Name { name: pair.clusters[0].clone(), what: "linked with itself" });
            }
            let file =
                LinkFile { class: pair.class, gbit_s: pair.gbit_s, latency_us: pair.latency_us, shared: pair.shared };
            between[a][b] = Some(file.link());
            between[b][a] = Some(file.link());
        }
        let mut rows = Vec::with_capacity(count);
        for (a, row) in between.into_iter().enumerate() {
            let mut links = Vec::with_capacity(count);
            for (b, link) in row.into_iter().enumerate() {
                // The diagonal is not read; the cluster's own link is what fits best there.
                let own = if a == b { Some(clusters[a].link) } else { None };
                links.push(own.or(link).ok_or_else(|| TopologyError::Unlinked {
                    a: clusters[a].name.clone(),
                    b: clusters[b].name.clone(),
                })?);
            }
            size("links from a cluster", count, links.len())?;
            rows.push(links);
        }
        let topology = Topology { ranks, hosts, clusters, between: rows };
        topology.validate()?;
        Ok(topology)
    }
}

fn one() -> f64 {
    1.0
}
