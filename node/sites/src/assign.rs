//! Which rank goes to which host.

use crate::hosts::Host;
use crate::place::{Launcher, Meeting, Place};

/// Where a rank goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assigned {
    /// Index of its host.
    pub host: usize,
    /// Which of the ranks of that host it is, from 0.
    pub local_rank: usize,
}

/// Why ranks do not fit on hosts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AssignError {
    /// Nothing is to be started.
    #[error("0 ranks; at least one has to be started")]
    Nothing,
    /// There are too few slots.
    #[error("{ranks} ranks, but the hosts have {slots} slots together; name more hosts, or give them more `slots=`")]
    TooFew {
        /// How many ranks there are.
        ranks: usize,
        /// How many fit.
        slots: usize,
    },
}

/// A host and a local rank for each of `ranks`, in their order: hosts are filled one after the other, so that neighbours are
/// near each other. Hosts at the end may get none.
///
/// # Errors
/// [`AssignError`]: there are no ranks, or more than slots.
pub fn assign(hosts: &[Host], ranks: usize) -> Result<Vec<Assigned>, AssignError> {
    let slots = hosts.iter().fold(0_usize, |sum, host| sum.saturating_add(host.slots));
    if ranks == 0 {
        return Err(AssignError::Nothing);
    }
    if ranks > slots {
        return Err(AssignError::TooFew { ranks, slots });
    }
    let all = hosts.iter().enumerate();
    let all = all.flat_map(|(host, of)| (0..of.slots).map(move |local_rank| Assigned { host, local_rank }));
    Ok(all.take(ranks).collect())
}

/// The place of each rank that [`assign`] has put somewhere. Nodes are numbered as hosts are; all that have ranks count.
pub fn places(assigned: &[Assigned], rendezvous: Option<&Meeting>, attempt: u32) -> Vec<Place> {
    let nodes = assigned.iter().map(|at| at.host + 1).max().unwrap_or(0);
    let mut local_ranks = vec![0; nodes];
    for at in assigned {
        local_ranks[at.host] += 1;
    }
    let place = |(rank, at): (usize, &Assigned)| Place {
        rank,
        ranks: assigned.len(),
        local_rank: at.local_rank,
        local_ranks: local_ranks[at.host],
        node: at.host,
        nodes,
        nodes_told: true,
        rendezvous: rendezvous.cloned(),
        attempt,
        by: Launcher::Own,
    };
    assigned.iter().enumerate().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::short;
    use crate::place::find;

    #[test]
    fn hosts_are_filled_one_after_the_other() {
        let hosts = short("a:2,b:1,c:3").expect("hosts");
        let at = |ranks| {
            let all = assign(&hosts, ranks).expect("fit");
            all.iter().map(|at| (at.host, at.local_rank)).collect::<Vec<_>>()
        };
        assert_eq!(at(1), [(0, 0)]);
        assert_eq!(at(4), [(0, 0), (0, 1), (1, 0), (2, 0)]);
        assert_eq!(at(6), [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2)]);
        assert_eq!(assign(&hosts, 0), Err(AssignError::Nothing));
        assert_eq!(assign(&hosts, 7), Err(AssignError::TooFew { ranks: 7, slots: 6 }));
        assert_eq!(assign(&[], 1), Err(AssignError::TooFew { ranks: 1, slots: 0 }));
    }

    #[test]
    fn places_count_the_ranks_that_a_host_has_got() {
        let hosts = short("a:2,b:3,c:3").expect("hosts");
        let meeting = Meeting { host: "a".into(), port: 7000 };
        let places = places(&assign(&hosts, 4).expect("fit"), Some(&meeting), 1);
        let told: Vec<_> = places.iter().map(|place| (place.local_rank, place.local_ranks, place.node)).collect();
        assert_eq!(told, [(0, 2, 0), (1, 2, 0), (0, 2, 1), (1, 2, 1)]);
        for (rank, place) in places.iter().enumerate() {
            assert_eq!((place.rank, place.ranks, place.nodes, place.attempt), (rank, 4, 2, 1));
            let set = place.variables();
            let get = |name: &str| set.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
            assert_eq!(find(&get), Ok(Some(place.clone())));
        }
    }
}
