//! Who is whose neighbour.
//!
//! Clients stand on a circle in an order that the seed decides, each next to the `k / 2` that stand nearest on both sides: a
//! Harary graph, as Bell et al. have it (eprint 2020/704).

use super::SecAggError;
use swarmloom_kernels::random;

/// A client's neighbours at most: Shamir's places are bytes but zero.
const MOST_NEIGHBOURS: usize = 254;
/// What may go wrong with a probability of less than 2 to this power.
const RISK: f64 = -40.0;

/// How many neighbours, and how many of their shares make a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Degree {
    /// Neighbours of each client.
    pub neighbours: usize,
    /// Shares that make a secret.
    pub threshold: usize,
}

/// The least even number of neighbours such that with a part of corrupt and of lost clients, chosen at random, with a
/// probability of all but 2^-40 no client has `threshold` corrupt neighbours, every client keeps `threshold` that are not
/// lost, and the honest ones that finish are connected. The three are those of Bell et al. (section 3), by exact
/// hypergeometric tails and, for the last, `clients (corrupt + lost)^(k / 2)`: half a client's neighbours stand side by side.
/// Where the clients are too few for that, all are neighbours and the threshold is in the middle of what may be known and
/// what is left.
///
/// # Errors
/// [`SecAggError::Value`] where the parts leave nobody, or more neighbours are needed than there may be.
pub fn degree(clients: usize, corrupt: f64, lost: f64) -> Result<Degree, SecAggError> {
    for (what, found) in [("corrupt", corrupt), ("lost", lost)] {
        if !(0.0..1.0).contains(&found) {
            return Err(SecAggError::Value { what, found, allowed: "a part is at least 0 and below 1" });
        }
    }
    if 2.0 * corrupt + lost >= 1.0 {
        let allowed = "with `lost`, corrupt clients have to be less than those that are neither";
        return Err(SecAggError::Value { what: "corrupt", found: corrupt, allowed });
    }
    let others = clients.saturating_sub(1);
    let of = |part: f64| (part * clients as f64).ceil() as usize;
    // In the middle of what may be known and what is left.
    let threshold = |neighbours: usize| {
        let middle = (neighbours as f64 * (1.0 + corrupt - lost) / 2.0).round() as usize;
        // One share alone would be the secret.
        middle.clamp(2, neighbours.max(2))
    };
    let each = (clients as f64).log2();
    for neighbours in (2..others.min(MOST_NEIGHBOURS + 1)).step_by(2) {
        let threshold = threshold(neighbours);
        let apart = each + neighbours as f64 / 2.0 * (corrupt + lost).log2();
        if apart < RISK
            && each + tail(others, of(corrupt), neighbours, threshold) < RISK
            && each + tail(others, of(lost), neighbours, neighbours - threshold + 1) < RISK
        {
            return Ok(Degree { neighbours, threshold });
        }
    }
    if others > MOST_NEIGHBOURS {
        let allowed = "so many corrupt and lost clients need more than 254 neighbours each";
        return Err(SecAggError::Value { what: "clients", found: clients as f64, allowed });
    }
    Ok(Degree { neighbours: others, threshold: threshold(others) })
}

/// The logarithm (to base 2) of the probability that of `drawn` of `all`, of which `marked` are marked, `least` or more are.
fn tail(all: usize, marked: usize, drawn: usize, least: usize) -> f64 {
    let marked = marked.min(all);
    let choose = |from: usize, take: usize| -> f64 {
        (0..take).map(|at| ((from - at) as f64 / (take - at) as f64).log2()).sum()
    };
    let total = choose(all, drawn);
    let chance = |found: usize| {
        let rest = drawn - found;
        if rest > all - marked { 0.0 } else { (choose(marked, found) + choose(all - marked, rest) - total).exp2() }
    };
    (least..=drawn.min(marked)).map(chance).sum::<f64>().log2()
}

/// The neighbours of all.
#[derive(Debug, Clone)]
pub(super) struct Graph {
    clients: Vec<u32>,
    neighbours: Vec<Vec<u32>>,
}

impl Graph {
    /// With as many neighbours for each.
    pub(super) fn new(clients: &[u32], neighbours: usize, seed: u64) -> Result<Self, SecAggError> {
        let mut sorted = clients.to_vec();
        sorted.sort_unstable();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(SecAggError::Message { client: twice[0], what: "is there twice" });
        }
        let count = sorted.len();
        let mut circle: Vec<usize> = (0..count).collect();
        for at in (1..count).rev() {
            circle.swap(at, (random::unit(seed, at as u64) * (at + 1) as f64) as usize);
        }
        let mut all = vec![Vec::new(); count];
        for (at, client) in circle.iter().enumerate() {
            // All others, where the circle is too small for two sides.
            let steps = if neighbours + 1 >= count { count - 1 } else { neighbours / 2 };
            for step in 1..=steps {
                all[*client].push(sorted[circle[(at + step) % count]]);
                all[*client].push(sorted[circle[(at + count - step) % count]]);
            }
            all[*client].sort_unstable();
            all[*client].dedup();
        }
        Ok(Self { clients: sorted, neighbours: all })
    }

    pub(super) fn clients(&self) -> &[u32] {
        &self.clients
    }

    pub(super) fn neighbours(&self, client: u32) -> &[u32] {
        self.clients.binary_search(&client).map_or(&[], |at| &self.neighbours[at])
    }

    /// Whether these clients, ascending, are connected without the others.
    pub(super) fn connected(&self, among: &[u32]) -> bool {
        let Some(first) = among.first() else { return false };
        let mut seen = vec![false; among.len()];
        let mut next = vec![*first];
        seen[0] = true;
        while let Some(client) = next.pop() {
            for neighbour in self.neighbours(client) {
                if let Ok(at) = among.binary_search(neighbour)
                    && !std::mem::replace(&mut seen[at], true)
                {
                    next.push(*neighbour);
                }
            }
        }
        seen.iter().all(|seen| *seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_as_many_neighbours_and_is_theirs() {
        let clients: Vec<u32> = (0..31).map(|client| 3 * client).collect();
        let graph = Graph::new(&clients, 6, 1).expect("a graph");
        for client in &clients {
            let neighbours = graph.neighbours(*client);
            assert_eq!(neighbours.len(), 6);
            assert!(!neighbours.contains(client));
            assert!(neighbours.iter().all(|other| graph.neighbours(*other).contains(client)));
        }
        assert!(graph.connected(&clients));
        assert_ne!(graph.neighbours(0), Graph::new(&clients, 6, 2).expect("a graph").neighbours(0));
        assert_eq!(Graph::new(&clients[..5], 4, 1).expect("a graph").neighbours(3), [0, 6, 9, 12]);
        assert!(Graph::new(&[1, 2, 1], 2, 1).is_err());
    }

    #[test]
    fn three_gaps_of_one_side_each_leave_parts() {
        let clients: Vec<u32> = (0..12).collect();
        let graph = Graph::new(&clients, 4, 5).expect("a graph");
        // Without the neighbours of one, it stands alone.
        let mut left: Vec<u32> = clients.iter().copied().filter(|other| !graph.neighbours(0).contains(other)).collect();
        assert!(!graph.connected(&left));
        left.retain(|client| *client != 0);
        assert!(graph.connected(&left));
        assert!(!graph.connected(&[]));
    }

    /// Tails by scipy's `hypergeom.sf`.
    #[test]
    fn tails_are_those_of_scipy() {
        for (all, marked, drawn, least, wanted) in TAILS {
            let found = tail(all, marked, drawn, least);
            assert!(found == wanted || (found - wanted).abs() < 1e-6, "{found} {wanted}");
        }
    }

    const TAILS: [(usize, usize, usize, usize, f64); 4] = [
        (99, 10, 40, 12, f64::NEG_INFINITY),
        (999, 200, 60, 30, -23.72016321279154),
        (50, 10, 20, 3, -0.2159796331813536),
        (9999, 1000, 100, 40, -48.983065671265365),
    ];

    #[test]
    fn more_clients_need_hardly_more_neighbours() {
        let found = [100, 1000, 10_000].map(|clients| degree(clients, 0.1, 0.2).expect("a degree").neighbours);
        // Ten times as many clients need about 20 more.
        assert!(found[0] < 60 && found[1] - found[0] < 40 && found[2] - found[1] < 25, "{found:?}");
        // Few are all neighbours.
        assert_eq!(degree(8, 0.1, 0.2), Ok(Degree { neighbours: 7, threshold: 3 }));
        assert!(degree(100, 0.4, 0.2).is_err() && degree(100, -0.1, 0.0).is_err());
        assert!(degree(100_000, 0.3, 0.3).is_err());
    }
}
