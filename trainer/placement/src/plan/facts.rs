//! What a mesh on given machines is like, whatever the model: speeds, links and who shares them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Collective, Layout, PlanError, Traffic};
use crate::mesh::{Mesh, order_across, order_inside};
use crate::topology::{LinkClass, Topology};

/// A mesh in a layout.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) mesh: Mesh,
    pub(super) order: Vec<usize>,
    /// By stage, of the slowest rank.
    pub(super) speeds: Vec<f64>,
    /// By stage, of the rank with the least.
    pub(super) memory: Vec<f64>,
    /// By stage, the way to the next; the last one's leads to the first.
    pub(super) boundaries: Vec<Boundary>,
    /// By stage, exchange along the tensor axis.
    pub(super) tensor: Vec<Reduction>,
    /// By stage, over the replicas in one ring.
    pub(super) ring: Vec<Reduction>,
    /// The same by levels; none where hosts or clusters have unequal parts.
    pub(super) levels: Option<Vec<Reduction>>,
}

impl Facts {
    pub(super) fn new(topology: &Topology, mesh: &Mesh, layout: Layout) -> Result<Self, PlanError> {
        let order = match layout {
            Layout::PipelineAcross => order_across(topology, mesh)?,
            Layout::PipelineInside => order_inside(topology, mesh)?,
        };
        let size = mesh.stage_size();
        let of = |value: &dyn Fn(usize) -> f64| -> Vec<f64> {
            order
                .chunks(size)
                .map(|stage| stage.iter().map(|&rank| value(rank)).fold(f64::INFINITY, f64::min))
                .collect()
        };
        let data: Vec<Vec<Vec<usize>>> = (0..mesh.pipeline)
            .map(|i| {
                let group = |j| (0..mesh.data).map(|k| order[i * size + j + k * mesh.tensor]).collect();
                (0..mesh.tensor).map(group).collect()
            })
            .collect();
        let tensor: Vec<Vec<Vec<usize>>> =
            order.chunks(size).map(|stage| stage.chunks(mesh.tensor).map(<[usize]>::to_vec).collect()).collect();
        Ok(Self {
            mesh: *mesh,
            speeds: of(&|rank| topology.ranks[rank].speed),
            memory: of(&|rank| topology.ranks[rank].memory_bytes as f64),
            boundaries: boundaries(topology, mesh, &order),
            tensor: one_ring(topology, &tensor),
            ring: one_ring(topology, &data),
            levels: by_levels(topology, &data),
            order,
        })
    }

    /// By stage, how gradients are summed; none if it cannot be done so.
    pub(super) fn reductions(&self, collective: Collective) -> Option<&[Reduction]> {
        match collective {
            Collective::Ring => Some(&self.ring),
            Collective::Hierarchical => self.levels.as_deref(),
        }
    }
}

/// The links between the ranks of two stages.
#[derive(Debug, Clone, Default)]
pub(super) struct Boundary {
    pub(super) latency_s: f64,
    /// Of one rank, when all send at once.
    pub(super) bandwidth: f64,
    /// How many ranks send over which links.
    pub(super) crossing: BTreeMap<Place, f64>,
}

/// An all-reduce over each group of a stage, all at once.
#[derive(Debug, Clone, Default)]
pub(super) struct Reduction {
    pub(super) rings: Vec<Ring>,
    /// Bytes over which links for each byte that is summed.
    pub(super) crossing: BTreeMap<Place, f64>,
}

/// One ring of an all-reduce.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ring {
    size: usize,
    latency_s: f64,
    bandwidth: f64,
    /// Which part of all bytes passes it.
    share: f64,
}

impl Reduction {
    /// Seconds to sum so many bytes: `2 (n - 1)` steps on a ring of `n`, each with an `n`th of its bytes (Thakur et al. 2005).
    pub(super) fn seconds(&self, bytes: f64) -> f64 {
        let ring = |ring: &Ring| {
            let (steps, n) = (2.0 * (ring.size as f64 - 1.0), ring.size as f64);
            steps * (ring.latency_s + ring.share * bytes / n / ring.bandwidth)
        };
        self.rings.iter().map(ring).sum()
    }
}

/// Links that are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// Inside the hosts of a cluster.
    Hosts(usize),
    /// Between the hosts of a cluster.
    Cluster(usize),
    /// Between two clusters, the lower index first.
    Between(usize, usize),
}

impl Place {
    fn of(topology: &Topology, a: usize, b: usize) -> Self {
        let (a, b) = (&topology.ranks[a], &topology.ranks[b]);
        if a.host == b.host {
            Self::Hosts(a.cluster)
        } else if a.cluster == b.cluster {
            Self::Cluster(a.cluster)
        } else {
            Self::Between(a.cluster.min(b.cluster), a.cluster.max(b.cluster))
        }
    }

    pub(super) fn traffic(self, topology: &Topology, bytes: f64) -> Traffic {
        let name = |cluster: usize| topology.clusters[cluster].name.as_str();
        let (over, class, clusters) = match self {
            Self::Hosts(a) => {
                let host = topology.ranks.iter().find(|rank| rank.cluster == a).map(|rank| rank.host);
                let class = host.map_or(LinkClass::Shm, |host| topology.hosts[host].class);
                (format!("inside hosts of {}", name(a)), class, (a, a))
            }
            Self::Cluster(a) => (format!("between hosts of {}", name(a)), topology.clusters[a].link.class, (a, a)),
            Self::Between(a, b) => (format!("{} – {}", name(a), name(b)), topology.between[a][b].class, (a, b)),
        };
        Traffic { over, class, clusters, bytes }
    }
}

/// What several ranks may have to share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Resource {
    Host(usize),
    Out(usize),
    In(usize),
    Uplink(usize, usize),
}

/// Who sends to whom at the same time.
#[derive(Debug)]
struct Senders<'a> {
    topology: &'a Topology,
    users: HashMap<Resource, usize>,
}

impl<'a> Senders<'a> {
    fn new(topology: &'a Topology, pairs: impl Iterator<Item = (usize, usize)>) -> Self {
        let mut users = HashMap::new();
        for (a, b) in pairs {
            shared(topology, a, b).into_iter().flatten().for_each(|it| *users.entry(it).or_default() += 1);
        }
        Self { topology, users }
    }

    /// Latency, and the bandwidth that is left for one.
    fn link(&self, a: usize, b: usize) -> (f64, f64) {
        let link = self.topology.link(a, b);
        let resources = shared(self.topology, a, b).into_iter().flatten();
        let users = resources.filter_map(|it| self.users.get(&it)).max().copied().unwrap_or(1).max(1);
        (link.latency_s, link.bandwidth / users as f64)
    }
}

fn shared(topology: &Topology, a: usize, b: usize) -> [Option<Resource>; 2] {
    if a == b || !topology.link(a, b).shared {
        return [None, None];
    }
    let (a, b) = (&topology.ranks[a], &topology.ranks[b]);
    if a.host == b.host {
        [Some(Resource::Host(a.host)), None]
    } else if a.cluster == b.cluster {
        [Some(Resource::Out(a.host)), Some(Resource::In(b.host))]
    } else {
        [Some(Resource::Uplink(a.cluster, b.cluster)), None]
    }
}

fn boundaries(topology: &Topology, mesh: &Mesh, order: &[usize]) -> Vec<Boundary> {
    let size = mesh.stage_size();
    let pair = |stage: usize, at: usize| {
        let next = (stage + 1) % mesh.pipeline;
        (order[stage * size + at], order[next * size + at])
    };
    let last = mesh.pipeline - 1;
    let forward = (0..last).flat_map(|stage| (0..size).map(move |at| (stage, at)));
    let forward = Senders::new(topology, forward.map(|(stage, at)| pair(stage, at)));
    let around = Senders::new(topology, (0..size).map(|at| pair(last, at)));
    let boundary = |stage: usize| {
        let senders = if stage == last { &around } else { &forward };
        let mut boundary = Boundary { bandwidth: f64::INFINITY, ..Boundary::default() };
        for (a, b) in (0..size).map(|at| pair(stage, at)) {
            let (latency_s, bandwidth) = senders.link(a, b);
            boundary.latency_s = boundary.latency_s.max(latency_s);
            boundary.bandwidth = boundary.bandwidth.min(bandwidth);
            *boundary.crossing.entry(Place::of(topology, a, b)).or_default() += 1.0;
        }
        boundary
    };
    (0..mesh.pipeline).map(boundary).collect()
}

/// By stage, rings, each with which part of the bytes passes it.
type Rings = Vec<Vec<(Vec<usize>, f64)>>;

fn one_ring(topology: &Topology, groups: &[Vec<Vec<usize>>]) -> Vec<Reduction> {
    let rings = groups.iter().map(|stage| stage.iter().map(|ranks| (ranks.clone(), 1.0)).collect()).collect();
    let mut reductions = vec![Reduction::default(); groups.len()];
    add_rings(topology, &rings, &mut reductions);
    reductions
}

fn by_levels(topology: &Topology, groups: &[Vec<Vec<usize>>]) -> Option<Vec<Reduction>> {
    let (mut inside, mut hosts, mut clusters): (Rings, Rings, Rings) = Default::default();
    for stage in groups {
        let (mut in_host, mut in_cluster, mut between) = (Vec::new(), Vec::new(), Vec::new());
        for group in stage {
            // Ranks by cluster, host and place in it.
            let mut by_host: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
            for &rank in group {
                let machine = &topology.ranks[rank];
                by_host.entry((machine.cluster, machine.host)).or_default().push(rank);
            }
            let mut by_cluster: BTreeMap<usize, Vec<&Vec<usize>>> = BTreeMap::new();
            by_host.iter().for_each(|(place, ranks)| by_cluster.entry(place.0).or_default().push(ranks));
            let per_host = alike(by_host.values().map(Vec::len))?;
            let per_cluster = alike(by_cluster.values().map(Vec::len))?;
            let share = 1.0 / per_host as f64;
            in_host.extend(by_host.values().map(|ranks| (ranks.clone(), 1.0)));
            for at in 0..per_host {
                for hosts in by_cluster.values() {
                    in_cluster.push((hosts.iter().map(|ranks| ranks[at]).collect(), share));
                }
                for host in 0..per_cluster {
                    let ring = by_cluster.values().map(|hosts| hosts[host][at]).collect();
                    between.push((ring, share / per_cluster as f64));
                }
            }
        }
        inside.push(in_host);
        hosts.push(in_cluster);
        clusters.push(between);
    }
    let mut reductions = vec![Reduction::default(); groups.len()];
    for rings in [&inside, &hosts, &clusters] {
        add_rings(topology, rings, &mut reductions);
    }
    Some(reductions)
}

/// The one value that all have.
fn alike(values: impl Iterator<Item = usize>) -> Option<usize> {
    let values: BTreeSet<usize> = values.collect();
    if values.len() == 1 { values.first().copied() } else { None }
}

/// Adds one level to the reductions of all stages, whose rings turn at the same time. The slowest of a stage counts.
fn add_rings(topology: &Topology, rings: &Rings, reductions: &mut [Reduction]) {
    let edges = |ranks: &Vec<usize>| {
        let ranks = ranks.clone();
        (0..if ranks.len() > 1 { ranks.len() } else { 0 }).map(move |at| (ranks[at], ranks[(at + 1) % ranks.len()]))
    };
    let senders = Senders::new(topology, rings.iter().flatten().flat_map(|(ranks, _)| edges(ranks)));
    for (stage, reduction) in rings.iter().zip(reductions) {
        let mut slowest: Option<Ring> = None;
        for (ranks, share) in stage {
            let size = ranks.len();
            if size < 2 {
                continue;
            }
            let mut ring = Ring { size, latency_s: 0.0, bandwidth: f64::INFINITY, share: *share };
            let each = 2.0 * (size as f64 - 1.0) / size as f64 * share;
            for (a, b) in edges(ranks) {
                let (latency_s, bandwidth) = senders.link(a, b);
                ring.latency_s = ring.latency_s.max(latency_s);
                ring.bandwidth = ring.bandwidth.min(bandwidth);
                *reduction.crossing.entry(Place::of(topology, a, b)).or_default() += each;
            }
            slowest = Some(slowest.map_or(ring, |slowest| Ring {
                latency_s: slowest.latency_s.max(ring.latency_s),
                bandwidth: slowest.bandwidth.min(ring.bandwidth),
                ..ring
            }));
        }
        reduction.rings.extend(slowest);
    }
}
