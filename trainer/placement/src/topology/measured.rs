//! Hosts and clusters from links that were measured between ranks.

use super::{ClusterNet, Link, LinkClass, Machine, Topology, TopologyError, check_link, size};

/// Bandwidths of one class that differ by this factor or more are of two kinds.
const GAP: f64 = 4.0;

/// The link of a host with one rank: never used between two ranks.
const ALONE: Link = Link { class: LinkClass::Shm, bandwidth: 10e9, latency_s: 1e-6, shared: true };

/// See [`Topology::from_pairs`].
pub(super) fn topology(mut machines: Vec<Machine>, pairs: &[Vec<Link>]) -> Result<Topology, TopologyError> {
    let count = machines.len();
    if count == 0 {
        return Err(TopologyError::Empty);
    }
    size("rows of measured links", count, pairs.len())?;
    for (a, row) in pairs.iter().enumerate() {
        size(&format!("links measured from rank {a}"), count, row.len())?;
        for (b, link) in row.iter().enumerate().filter(|(b, _)| *b != a) {
            check_link(&format!("rank {a} to rank {b}"), link)?;
        }
    }
    let host_of = components(count, |a, b| pairs[a][b].worst(pairs[b][a]).class.inside_host());
    let members = members(&host_of);
    let links: Vec<Vec<Option<Link>>> = members
        .iter()
        .map(|from| members.iter().map(|to| median(from.iter().flat_map(|&a| each(pairs, a, to)))).collect())
        .collect();
    let cluster_of = clusters(&links);
    let in_cluster = self::members(&cluster_of);

    for (rank, machine) in machines.iter_mut().enumerate() {
        machine.host = host_of[rank];
        machine.cluster = cluster_of[host_of[rank]];
    }
    let hosts: Vec<Link> = (0..members.len()).map(|host| links[host][host].unwrap_or(ALONE)).collect();
    let over = |from: &[usize], to: &[usize]| {
        let pairs = from.iter().flat_map(|&a| to.iter().map(move |&b| (a, b))).filter(|(a, b)| a != b);
        median(pairs.filter_map(|(a, b)| links[a][b]))
    };
    let nets: Vec<ClusterNet> = in_cluster
        .iter()
        .enumerate()
        .map(|(index, inside)| ClusterNet {
            name: format!("cluster-{index}"),
            link: over(inside, inside).unwrap_or_else(|| inside.first().map_or(ALONE, |&host| hosts[host])),
        })
        .collect();
    let between = in_cluster
        .iter()
        .enumerate()
        .map(|(a, from)| in_cluster.iter().map(|to| over(from, to).unwrap_or(nets[a].link)).collect())
        .collect();
    let topology = Topology { ranks: machines, hosts, clusters: nets, between };
    topology.validate()?;
    Ok(topology)
}

fn each<'a>(pairs: &'a [Vec<Link>], a: usize, to: &'a [usize]) -> impl Iterator<Item = Link> + 'a {
    to.iter().filter(move |&&b| b != a).map(move |&b| pairs[a][b])
}

/// The cluster of each host, counted in the order of hosts.
fn clusters(links: &[Vec<Option<Link>>]) -> Vec<usize> {
    let count = links.len();
    let worst = |a: usize, b: usize| match (links[a][b], links[b][a]) {
        (Some(there), Some(back)) => Some(there.worst(back)),
        _ => None,
    };
    let mut sorted: Vec<Link> = (0..count).flat_map(|a| (0..a).filter_map(move |b| worst(a, b))).collect();
    sorted.sort_by(|a, b| a.class.cmp(&b.class).then(b.bandwidth.total_cmp(&a.bandwidth)));
    // Where a slower kind begins, slowest last: links at least as good as the one before stay.
    let mut kept: Vec<Option<Link>> = sorted
        .windows(2)
        .filter(|pair| pair[0].class != pair[1].class || pair[0].bandwidth >= GAP * pair[1].bandwidth)
        .map(|pair| Some(pair[0]))
        .collect();
    if sorted.first().is_some_and(|best| best.class == LinkClass::Wan) {
        // All that there is separates.
        kept.insert(0, None);
    }
    for last in kept.into_iter().rev() {
        let good = |link: Link| {
            last.is_some_and(|last| {
                (link.class, -link.bandwidth).partial_cmp(&(last.class, -last.bandwidth))
                    != Some(std::cmp::Ordering::Greater)
            })
        };
        let found = components(count, |a, b| worst(a, b).is_some_and(good));
        if found.iter().any(|&cluster| cluster > 0) {
            return together(found, worst);
        }
    }
    vec![0; count]
}

/// Hosts that are alone though a link without [`LinkClass::Wan`] joins them, together.
fn together(cluster_of: Vec<usize>, worst: impl Fn(usize, usize) -> Option<Link>) -> Vec<usize> {
    let alone: Vec<bool> = members(&cluster_of).iter().map(|hosts| hosts.len() == 1).collect();
    components(cluster_of.len(), |a, b| {
        let near = worst(a, b).is_some_and(|link| link.class < LinkClass::Wan);
        cluster_of[a] == cluster_of[b] || (alone[cluster_of[a]] && alone[cluster_of[b]] && near)
    })
}

/// The number of each one's connected component, counted in the order of their first members.
fn components(count: usize, joined: impl Fn(usize, usize) -> bool) -> Vec<usize> {
    let mut of = vec![usize::MAX; count];
    let mut found = 0;
    for start in 0..count {
        if of[start] != usize::MAX {
            continue;
        }
        of[start] = found;
        let mut open = vec![start];
        while let Some(a) = open.pop() {
            for (b, of) in of.iter_mut().enumerate() {
                if *of == usize::MAX && joined(a, b) {
                    *of = found;
                    open.push(b);
                }
            }
        }
        found += 1;
    }
    of
}

fn members(of: &[usize]) -> Vec<Vec<usize>> {
    let mut members = vec![Vec::new(); of.iter().max().map_or(0, |last| last + 1)];
    of.iter().enumerate().for_each(|(it, &group)| members[group].push(it));
    members
}

/// The median of each property; shared if most are.
fn median(links: impl Iterator<Item = Link>) -> Option<Link> {
    let links: Vec<Link> = links.collect();
    let middle = links.len() / 2;
    let mut classes: Vec<LinkClass> = links.iter().map(|link| link.class).collect();
    classes.sort_unstable();
    let number = |of: fn(&Link) -> f64| {
        let mut all: Vec<f64> = links.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        let upper = all.get(middle).copied();
        if all.len() % 2 == 1 { upper } else { upper.map(|upper| (upper + all[middle - 1]) / 2.0) }
    };
    Some(Link {
        class: *classes.get(middle)?,
        bandwidth: number(|link| link.bandwidth)?,
        latency_s: number(|link| link.latency_s)?,
        shared: links.iter().filter(|link| link.shared).count() * 2 > links.len(),
    })
}
