//! Groups of some of a group's ranks.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Group, GroupConfig};
use crate::bootstrap::{BootstrapError, Rendezvous, listen_beside};
use crate::control::Control;
use crate::error::CollectiveError;
use crate::fabric::region::Regions;

/// The colour of a rank that takes part in no group.
const NONE: i64 = -1;

impl Group {
    /// Groups of the ranks that say the same colour, as `MPI_Comm_split` makes them: ranks keep their order. A collective
    /// call; a rank without a colour is in none of the new groups, and gets `None`. The new group has connections of its
    /// own, so that it fails, shrinks and is used on other threads by itself; `config` is the same on all of its ranks.
    ///
    /// # Errors
    /// [`CollectiveError`]; a failure of the new group leaves this one as it is.
    pub fn split(
        &mut self,
        colour: Option<usize>,
        config: GroupConfig,
        timeout: Duration,
    ) -> Result<Option<Self>, CollectiveError> {
        let (rank, ranks) = (self.rank, self.ranks());
        let own = colour.map_or(NONE, |colour| colour as i64);
        let mut colours = vec![0_i64; ranks];
        self.all_gather(&[own], &mut colours, &vec![1; ranks])?;
        let members: Vec<usize> = (0..ranks).filter(|other| own != NONE && colours[*other] == own).collect();
        // Whoever leads the new group listens before anybody is told where: no port is given away in between.
        let leads = members.first() == Some(&rank);
        let opened = leads.then(|| self.listen()).transpose();
        let port = match &opened {
            Ok(Some((_, address))) => i32::from(address.port()),
            _ => 0,
        };
        let mut ports = vec![0_i32; ranks];
        self.all_gather(&[port], &mut ports, &vec![1; ranks])?;
        let listening = opened?;
        let Some(leader) = members.first().copied() else { return Ok(None) };
        let port = u16::try_from(ports[leader]).unwrap_or(0);
        let address = SocketAddr::new(self.control.address(self.members[leader]), port);
        let at = Rendezvous {
            address,
            token: self.control.token().to_vec(),
            rank: members.iter().position(|member| *member == rank).unwrap_or(0),
            ranks: members.len(),
            timeout,
        };
        let (listener, _) = listening.unzip();
        let deadline = Instant::now() + timeout;
        let control = Arc::new(Control::start(at, config.host.as_deref(), listener)?);
        Self::enter(control, config, (0..members.len()).collect(), 1, Regions::default(), deadline).map(Some)
    }

    /// A port beside the one that other ranks reach this one at.
    fn listen(&self) -> Result<(TcpListener, SocketAddr), BootstrapError> {
        let listener = listen_beside(SocketAddr::new(self.control.address(self.control.rank()), 0))?;
        let address = listener.local_addr();
        let address = address.map_err(|source| BootstrapError::System { what: "the own address", source })?;
        Ok((listener, address))
    }
}

#[cfg(test)]
mod tests {
    use swarmloom_kernels::reduce::ReduceOp;

    use super::super::tests::{config, with_group};
    use super::*;
    use crate::Transport;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn ranks_of_one_colour_are_a_group_of_their_own() {
        for transport in [Transport::Shm, Transport::Tcp] {
            with_group(5, &config(transport), |mut group| {
                let rank = group.rank();
                // 0, 2 and 3 together, 1 alone, 4 in none.
                let colour = [Some(7), Some(1), Some(7), Some(7), None][rank];
                let part = group.split(colour, config(transport), SOON).expect("split");
                let expected = [Some((0, 3)), Some((0, 1)), Some((1, 3)), Some((2, 3)), None][rank];
                assert_eq!(part.as_ref().map(|part| (part.rank(), part.ranks())), expected);
                if let Some(mut part) = part {
                    let mut sum = vec![0_i32; 3];
                    part.all_reduce(&[1_i32, rank as i32, 10], &mut sum, ReduceOp::Sum).expect("reduced");
                    let wanted = if rank == 1 { vec![1, 1, 10] } else { vec![3, 5, 30] };
                    assert_eq!(sum, wanted);
                }
                // The whole goes on beside its parts.
                group.barrier().expect("all");
            });
        }
    }

    #[test]
    fn a_part_that_fails_leaves_the_whole_alone() {
        with_group(4, &config(Transport::Tcp), |mut group| {
            let rank = group.rank();
            let mut part = group.split(Some(rank / 2), config(Transport::Tcp), SOON).expect("split").expect("a part");
            if rank < 2 {
                part.abort("no longer wanted");
                part.barrier().expect_err("aborted");
            } else {
                part.barrier().expect("the other part works");
            }
            group.barrier().expect("so does the whole");
        });
    }
}
