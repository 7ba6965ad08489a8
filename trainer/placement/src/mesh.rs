//! Ranks along the axes of a mesh, and the groups that follow from it.
//!
//! Axes from slow to fast: pipeline, data, tensor (Holmes, Megatron). The place of a rank in the order of the mesh is its
//! logical rank. A context axis would stand between data and tensor; there is none yet.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::topology::{Link, LinkClass, Topology};

/// How many ranks along each axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mesh {
    /// Stages of the pipeline.
    pub pipeline: usize,
    /// Replicas of each stage.
    pub data: usize,
    /// Parts of each layer.
    pub tensor: usize,
}

impl Mesh {
    /// How many ranks it has.
    pub fn size(&self) -> usize {
        self.pipeline * self.data * self.tensor
    }

    /// How many ranks work on one stage.
    pub fn stage_size(&self) -> usize {
        self.data * self.tensor
    }
}

impl std::fmt::Display for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pp{} dp{} tp{}", self.pipeline, self.data, self.tensor)
    }
}

/// What a group talks over, the best that all of its members have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// Memory that processes share.
    Shm,
    /// NCCL inside one host.
    Nccl,
    /// Remote direct memory access: libfabric, or NCCL over it.
    Rdma,
    /// TCP.
    Tcp,
}

impl Transport {
    /// What the ranks of a group with this worst class have in common.
    pub fn of(class: LinkClass) -> Self {
        match class {
            LinkClass::Shm => Self::Shm,
            LinkClass::Nvlink => Self::Nccl,
            LinkClass::Infiniband | LinkClass::Roce => Self::Rdma,
            LinkClass::Ethernet | LinkClass::Wan => Self::Tcp,
        }
    }

    /// The name in files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shm => "shm",
            Self::Nccl => "nccl",
            Self::Rdma => "rdma",
            Self::Tcp => "tcp",
        }
    }
}

/// Ranks that exchange something with each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Physical ranks, in the order of the mesh.
    pub ranks: Vec<usize>,
    /// The worst that lies between any two of them.
    pub link: Link,
    /// Its class; [`LinkClass::Shm`] of a single rank.
    pub class: LinkClass,
    /// What all of them can talk over.
    pub transport: Transport,
}

/// All groups of a mesh.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Groups {
    /// Group `i`: logical ranks `i t` to `(i + 1) t`.
    pub tensor: Vec<Group>,
    /// Group `i t + j`, of stage `i` and part `j`: logical ranks `i n + j + k t`, where `n` ranks work on a stage.
    pub data: Vec<Group>,
    /// Group `i`: logical ranks `i + k n`.
    pub pipeline: Vec<Group>,
}

/// Why there are no such groups.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MeshError {
    /// The mesh has another number of ranks.
    #[error("mesh {mesh} has {size} ranks, the machines have {ranks}", size = mesh.size())]
    Size {
        /// Asked for.
        mesh: Mesh,
        /// There are.
        ranks: usize,
    },
    /// The order leaves a rank out or has it twice.
    #[error("the order of {ranks} ranks is no permutation of them: rank {rank} is missing")]
    Order {
        /// How many there are.
        ranks: usize,
        /// The first that is missing.
        rank: usize,
    },
}

/// Physical ranks by the class of their cluster's network, cluster, host and number: position is logical rank (Holmes).
pub fn order(topology: &Topology) -> Vec<usize> {
    let mut ranks: Vec<usize> = (0..topology.ranks.len()).collect();
    ranks.sort_by_key(|&rank| {
        let machine = &topology.ranks[rank];
        (topology.clusters[machine.cluster].link.class, machine.cluster, machine.host, rank)
    });
    ranks
}

/// The order in which as few stages as possible have ranks of several clusters. Where the sizes of all clusters are multiples
/// of that of a stage, it is [`order`] and none has. Otherwise every cluster has as many stages as fit; the ranks left over make up
/// the others, which stand behind the first of the clusters that have some.
///
/// # Errors
/// If the mesh has another number of ranks.
pub fn order_across(topology: &Topology, mesh: &Mesh) -> Result<Vec<usize>, MeshError> {
    check_size(topology, mesh)?;
    let sorted = order(topology);
    let size = mesh.stage_size();
    let clusters: Vec<&[usize]> =
        sorted.chunk_by(|&a, &b| topology.ranks[a].cluster == topology.ranks[b].cluster).collect();
    if clusters.iter().all(|ranks| ranks.len() % size == 0) {
        return Ok(sorted);
    }
    let whole = |ranks: &&[usize]| ranks.len() / size * size;
    let (even, odd): (Vec<&[usize]>, Vec<&[usize]>) = clusters.iter().partition(|ranks| ranks.len() % size == 0);
    let mut ranks = even.concat();
    if let Some((first, others)) = odd.split_first() {
        ranks.extend(&first[..whole(first)]);
        odd.iter().for_each(|cluster| ranks.extend(&cluster[whole(cluster)..]));
        others.iter().for_each(|cluster| ranks.extend(&cluster[..whole(cluster)]));
    }
    Ok(ranks)
}

/// The other way round: each pipeline lies inside one cluster where sizes allow, and replicas in different ones.
///
/// # Errors
/// If the mesh has another number of ranks.
pub fn order_inside(topology: &Topology, mesh: &Mesh) -> Result<Vec<usize>, MeshError> {
    check_size(topology, mesh)?;
    let sorted = order(topology);
    let mut ranks = Vec::with_capacity(sorted.len());
    for stage in 0..mesh.pipeline {
        for replica in 0..mesh.data {
            let start = (replica * mesh.pipeline + stage) * mesh.tensor;
            ranks.extend(&sorted[start..start + mesh.tensor]);
        }
    }
    Ok(ranks)
}

/// The groups of a mesh whose logical rank `i` is physical rank `order[i]`.
///
/// # Errors
/// If the mesh has another number of ranks, or the order is no permutation of them.
pub fn groups(topology: &Topology, mesh: &Mesh, order: &[usize]) -> Result<Groups, MeshError> {
    check_size(topology, mesh)?;
    let count = topology.ranks.len();
    let mut seen = vec![false; count];
    order.iter().filter(|&&rank| rank < count).for_each(|&rank| seen[rank] = true);
    if let Some(rank) = seen.iter().position(|seen| !seen) {
        return Err(MeshError::Order { ranks: count, rank });
    }
    if order.len() != count {
        return Err(MeshError::Order { ranks: count, rank: count });
    }
    let Mesh { pipeline, data, tensor } = *mesh;
    let size = mesh.stage_size();
    let group = |logical: &mut dyn Iterator<Item = usize>| {
        let ranks: Vec<usize> = logical.map(|rank| order[rank]).collect();
        let class = topology.class_within(&ranks);
        // A group has at least one member.
        let link = topology.link_within(&ranks).unwrap_or(topology.hosts[0]);
        Group { ranks, link, class, transport: Transport::of(class) }
    };
    Ok(Groups {
        tensor: (0..count / tensor).map(|i| group(&mut (i * tensor..(i + 1) * tensor))).collect(),
        data: (0..pipeline * tensor)
            .map(|it| (it / tensor, it % tensor))
            .map(|(i, j)| group(&mut (0..data).map(|k| i * size + j + k * tensor)))
            .collect(),
        pipeline: (0..size).map(|i| group(&mut (0..pipeline).map(|k| i + k * size))).collect(),
    })
}

fn check_size(topology: &Topology, mesh: &Mesh) -> Result<(), MeshError> {
    let ranks = topology.ranks.len();
    if mesh.size() == ranks && ranks > 0 { Ok(()) } else { Err(MeshError::Size { mesh: *mesh, ranks }) }
}
