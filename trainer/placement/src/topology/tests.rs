//! Files and measurements become hosts and clusters.

use super::*;

const SLOW: Link = Link { class: LinkClass::Ethernet, bandwidth: 12.5e6, latency_s: 5e-3, shared: true };
const FAST: Link = Link { class: LinkClass::Ethernet, bandwidth: 1.25e9, latency_s: 5e-5, shared: true };
const SHM: Link = Link { class: LinkClass::Shm, bandwidth: 8e9, latency_s: 1e-6, shared: true };

fn machine() -> Machine {
    Machine { host: 9, cluster: 9, speed: 1.0, memory_bytes: 1 << 30, device: "cpu".into() }
}

/// A measured link, off by up to a tenth.
fn noisy(link: Link, a: usize, b: usize) -> Link {
    let off = 0.9 + 0.02 * ((a * 7 + b * 3) % 11) as f64;
    Link { bandwidth: link.bandwidth * off, latency_s: link.latency_s / off, ..link }
}

fn measured(count: usize, link: impl Fn(usize, usize) -> Link) -> Topology {
    let pairs: Vec<Vec<Link>> = (0..count).map(|a| (0..count).map(|b| noisy(link(a, b), a, b)).collect()).collect();
    Topology::from_pairs(vec![machine(); count], &pairs).unwrap()
}

fn places(topology: &Topology) -> Vec<(usize, usize)> {
    topology.ranks.iter().map(|rank| (rank.cluster, rank.host)).collect()
}

#[test]
fn clusters_of_ethernet_hosts_are_told_apart_by_the_bandwidth() {
    // Ranks 0, 2 and 1, 3 are near each other.
    let topology = measured(4, |a, b| if a % 2 == b % 2 { FAST } else { SLOW });
    assert_eq!(places(&topology), [(0, 0), (1, 1), (0, 2), (1, 3)]);
    assert!((topology.between[0][1].bandwidth / 12.5e6 - 1.0).abs() < 0.1);
    assert!((topology.clusters[1].link.bandwidth / 1.25e9 - 1.0).abs() < 0.11);
    assert_eq!(topology.class_within(&[0, 1]), LinkClass::Ethernet);
}

#[test]
fn what_is_alike_is_one_cluster_and_wide_area_links_always_separate() {
    assert_eq!(places(&measured(3, |_, _| FAST)), [(0, 0), (0, 1), (0, 2)]);
    let wan = Link { class: LinkClass::Wan, ..SLOW };
    assert_eq!(places(&measured(3, |_, _| wan)), [(0, 0), (1, 1), (2, 2)]);
    let joined = measured(4, |a, b| if a / 2 == b / 2 { SHM } else { wan });
    assert_eq!(places(&joined), [(0, 0), (0, 0), (1, 1), (1, 1)]);
}

#[test]
fn the_slowest_class_separates_and_lonely_hosts_of_one_network_stay_together() {
    let ib = Link { class: LinkClass::Infiniband, bandwidth: 25e9, latency_s: 2e-6, shared: false };
    let roce = Link { class: LinkClass::Roce, bandwidth: 12e9, latency_s: 4e-6, shared: false };
    let holmes = measured(6, |a, b| match (a < 3, b < 3) {
        (true, true) => ib,
        (false, false) => roce,
        _ => FAST,
    });
    assert_eq!(places(&holmes), [(0, 0), (0, 1), (0, 2), (1, 3), (1, 4), (1, 5)]);
    assert_eq!(holmes.clusters[0].link.class, LinkClass::Infiniband);
    assert_eq!(holmes.clusters[1].link.class, LinkClass::Roce);
    assert_eq!(holmes.link(0, 5).class, LinkClass::Ethernet);
    // Only ranks 0 and 1 have InfiniBand: the other two have what all have.
    let half = measured(4, |a, b| if a < 2 && b < 2 { ib } else { FAST });
    assert_eq!(places(&half), [(0, 0), (0, 1), (1, 2), (1, 3)]);
}

#[test]
fn one_badly_measured_pair_does_not_hide_the_clusters() {
    let topology = measured(6, |a, b| match (a.min(b), a.max(b)) {
        (0, 1) => Link { bandwidth: 1e6, ..FAST },
        (a, b) if (a < 3) == (b < 3) => FAST,
        _ => SLOW,
    });
    assert_eq!(places(&topology).iter().map(|place| place.0).collect::<Vec<_>>(), [0, 0, 0, 1, 1, 1]);
}

const FILE: &str = r#"
[[cluster]]
name = "a"
hosts = 2
ranks_per_host = 2
memory_gib = 80
device = "A100"
inside_host = { class = "nvlink", gbit_s = 2400, latency_us = 3 }
between_hosts = { class = "infiniband", gbit_s = 200, latency_us = 5 }

[[cluster]]
name = "b"
hosts = 1
ranks_per_host = 4
speed = 0.5
memory_gib = 40
inside_host = { class = "shm", gbit_s = 80, latency_us = 1 }
between_hosts = { class = "ethernet", gbit_s = 25, latency_us = 50 }

[[between]]
clusters = ["b", "a"]
class = "wan"
gbit_s = 0.1
latency_us = 5000
"#;

#[test]
fn a_file_is_read() {
    let file: TopologyFile = toml::from_str(FILE).unwrap();
    let topology = file.topology().unwrap();
    assert_eq!(places(&topology), [(0, 0), (0, 0), (0, 1), (0, 1), (1, 2), (1, 2), (1, 2), (1, 2)]);
    assert_eq!(topology.link(0, 1).class, LinkClass::Nvlink);
    assert_eq!(topology.link(0, 2).bandwidth, 25e9);
    assert!(!topology.link(0, 2).shared);
    assert_eq!(topology.link(0, 4), Link { class: LinkClass::Wan, bandwidth: 12.5e6, latency_s: 5e-3, shared: true });
    assert_eq!(topology.link(0, 4), topology.link(7, 3));
    assert_eq!(topology.ranks[4].memory_bytes, 40 << 30);
    assert_eq!(topology.ranks[4].speed, 0.5);
    let again: Topology = serde_json::from_str(&serde_json::to_string(&topology).unwrap()).unwrap();
    assert_eq!(again, topology);
}

#[test]
fn mistakes_in_a_file_are_named() {
    let error = |from: &str, to: &str| {
        let file: TopologyFile = toml::from_str(&FILE.replace(from, to)).unwrap();
        file.topology().unwrap_err().to_string()
    };
    assert!(error("clusters = [\"b\"", "clusters = [\"c\"").contains("\"c\": no [[cluster]]"));
    assert!(error("name = \"b\"", "name = \"a\"").contains("two clusters"));
    assert!(error("gbit_s = 25,", "gbit_s = 0,").contains("cluster b: bandwidth is 0"));
    assert!(error("speed = 0.5", "speed = -1.0").contains("speed is -1"));
    assert!(toml::from_str::<TopologyFile>(&FILE.replace("speed", "sped")).is_err());
    let unlinked = FILE.split("[[between]]").next().unwrap().to_owned();
    let file: TopologyFile = toml::from_str(&unlinked).unwrap();
    assert!(matches!(file.topology(), Err(TopologyError::Unlinked { .. })));
    let all = unlinked + "[between_all]\nclass = \"ethernet\"\ngbit_s = 1\nlatency_us = 9\n";
    assert!(toml::from_str::<TopologyFile>(&all).unwrap().topology().is_ok());
}

#[test]
fn the_worst_class_is_found_without_looking_at_pairs() {
    let topology = toml::from_str::<TopologyFile>(FILE).unwrap().topology().unwrap();
    let count = topology.ranks.len();
    for set in 1_usize..1 << count {
        let ranks: Vec<usize> = (0..count).filter(|rank| set >> rank & 1 == 1).collect();
        let pairs = ranks.iter().flat_map(|&a| ranks.iter().filter(move |&&b| b != a).map(move |&b| (a, b)));
        let expected = pairs.map(|(a, b)| topology.link(a, b).class).max().unwrap_or(LinkClass::Shm);
        assert_eq!(topology.class_within(&ranks), expected, "{ranks:?}");
    }
}
