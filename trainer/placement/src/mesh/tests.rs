//! Groups by their formulae, for every order of the ranks.

use super::*;
use crate::topology::{BetweenFile, ClusterFile, LinkFile, TopologyFile};

fn link(class: LinkClass, gbit_s: f64) -> LinkFile {
    LinkFile { class, gbit_s, latency_us: 10.0, shared: None }
}

/// Clusters of so many hosts with so many ranks each, of falling class.
fn clusters(hosts: &[(usize, usize)]) -> Topology {
    let classes = [LinkClass::Infiniband, LinkClass::Roce, LinkClass::Ethernet];
    let cluster = |(index, &(hosts, ranks_per_host)): (usize, &(usize, usize))| ClusterFile {
        name: format!("c{index}"),
        hosts,
        ranks_per_host,
        speed: 1.0,
        memory_gib: 1.0,
        device: String::new(),
        inside_host: link(LinkClass::Nvlink, 2400.0),
        between_hosts: link(classes[index % 3], 100.0),
    };
    let file = TopologyFile {
        cluster: hosts.iter().enumerate().map(cluster).collect(),
        between: Vec::<BetweenFile>::new(),
        between_all: Some(link(LinkClass::Ethernet, 25.0)),
    };
    file.topology().unwrap()
}

/// The same machines with their ranks in another order, which a seed decides.
fn shuffled(topology: &Topology, seed: u64) -> Topology {
    let mut shuffled = topology.clone();
    let mut state = seed;
    for last in (1..shuffled.ranks.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        shuffled.ranks.swap(last, (state >> 33) as usize % (last + 1));
    }
    shuffled
}

fn mesh(pipeline: usize, data: usize, tensor: usize) -> Mesh {
    Mesh { pipeline, data, tensor }
}

fn crossing(topology: &Topology, groups: &[Group]) -> usize {
    let cluster = |rank: &usize| topology.ranks[*rank].cluster;
    groups.iter().filter(|group| group.ranks.iter().any(|rank| cluster(rank) != cluster(&group.ranks[0]))).count()
}

/// Read: Holmes' formulae, for 16 ranks with pipeline 2, data 4, tensor 2.
#[test]
fn groups_follow_the_formulae() {
    let topology = clusters(&[(1, 8), (1, 8)]);
    let groups = groups(&topology, &mesh(2, 4, 2), &order(&topology)).unwrap();
    let ranks = |groups: &[Group]| groups.iter().map(|group| group.ranks.clone()).collect::<Vec<_>>();
    assert_eq!(ranks(&groups.tensor)[..3], [vec![0, 1], vec![2, 3], vec![4, 5]]);
    assert_eq!(ranks(&groups.data), [[0, 2, 4, 6], [1, 3, 5, 7], [8, 10, 12, 14], [9, 11, 13, 15]]);
    assert_eq!(ranks(&groups.pipeline)[..2], [vec![0, 8], vec![1, 9]]);
    assert_eq!((groups.tensor.len(), groups.pipeline.len()), (8, 8));
    assert_eq!(groups.data[0].transport, Transport::Nccl);
    assert_eq!(groups.pipeline[0].transport, Transport::Tcp);
    assert_eq!(groups.pipeline[0].link.bandwidth, 25e9 / 8.0);
}

/// Whatever the order in which the ranks are known: with clusters of multiples of a stage's size, only pipelines cross.
#[test]
fn data_and_tensor_groups_stay_in_their_class() {
    for hosts in [vec![(2, 4), (2, 4)], vec![(4, 4), (2, 4), (2, 4)], vec![(1, 8), (3, 8), (4, 4)]] {
        let topology = clusters(&hosts);
        for seed in 0..40 {
            let topology = shuffled(&topology, seed);
            let count = topology.ranks.len();
            for pipeline in (1..=count).filter(|pipeline| count.is_multiple_of(*pipeline)) {
                let size = count / pipeline;
                if hosts.iter().any(|(hosts, ranks)| hosts * ranks % size != 0) {
                    continue;
                }
                for tensor in [1, 2, 4].into_iter().filter(|tensor| size.is_multiple_of(*tensor)) {
                    let mesh = mesh(pipeline, size / tensor, tensor);
                    let order = order_across(&topology, &mesh).unwrap();
                    assert_eq!(order, super::order(&topology));
                    let groups = groups(&topology, &mesh, &order).unwrap();
                    assert_eq!(crossing(&topology, &groups.data), 0, "{hosts:?} {mesh} {seed}");
                    assert_eq!(crossing(&topology, &groups.tensor), 0, "{hosts:?} {mesh} {seed}");
                    assert!(groups.tensor.iter().all(|group| group.class <= LinkClass::Nvlink));
                    assert!(groups.data.iter().all(|group| {
                        let own = topology.clusters[topology.ranks[group.ranks[0]].cluster].link.class;
                        group.class <= own
                    }));
                }
            }
        }
    }
}

#[test]
fn clusters_of_unequal_size_share_as_few_stages_as_can_be() {
    // Sizes 6, 4, 6 with stages of four: one stage has to be shared.
    let topology = clusters(&[(3, 2), (2, 2), (3, 2)]);
    let mesh = mesh(4, 2, 2);
    let across = groups(&topology, &mesh, &order_across(&topology, &mesh).unwrap()).unwrap();
    let plain = groups(&topology, &mesh, &order(&topology)).unwrap();
    assert_eq!(crossing(&topology, &across.data), 2);
    assert_eq!(crossing(&topology, &plain.data), 4);
    assert_eq!(crossing(&topology, &across.tensor), 0);
}

#[test]
fn the_other_way_round_pipelines_stay_inside() {
    let topology = clusters(&[(2, 4), (2, 4)]);
    let mesh = mesh(4, 2, 2);
    let groups = groups(&topology, &mesh, &order_inside(&topology, &mesh).unwrap()).unwrap();
    assert_eq!(crossing(&topology, &groups.pipeline), 0);
    assert_eq!(crossing(&topology, &groups.data), 8);
    assert_eq!(crossing(&topology, &groups.tensor), 0);
}

#[test]
fn wrong_sizes_and_orders_are_refused() {
    let topology = clusters(&[(2, 2)]);
    let error = order_across(&topology, &mesh(3, 1, 1)).unwrap_err();
    assert_eq!(error.to_string(), "mesh pp3 dp1 tp1 has 3 ranks, the machines have 4");
    let error = groups(&topology, &mesh(4, 1, 1), &[0, 1, 3, 3]).unwrap_err();
    assert_eq!(error, MeshError::Order { ranks: 4, rank: 2 });
}
