//! Where this process stands among the ranks, and what of its machine is its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use anyhow::Context;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use swarmloom_collectives::bootstrap::Rendezvous;
use swarmloom_sites::place as sites;

use crate::runs::Usage;

/// The variable with a secret that all ranks know.
pub(crate) const TOKEN: &str = "SWARMLOOM_TOKEN";
/// What ranks that share memory have in common, where that is not the machine.
pub(crate) const HOST: &str = "SWARMLOOM_HOST";

/// A rank's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) rank: usize,
    pub(crate) ranks: usize,
    /// Of this host.
    pub(crate) local_rank: usize,
    pub(crate) local_ranks: usize,
    /// Where all meet.
    pub(crate) address: SocketAddr,
    pub(crate) token: Vec<u8>,
    /// The name of its host, where that is given.
    pub(crate) host: Option<String>,
    /// How often the ranks were started before.
    pub(crate) attempt: u32,
    /// Who said so.
    pub(crate) by: &'static str,
}

/// The value of a variable that is set and not empty.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Place {
    /// The only rank.
    pub(crate) fn alone() -> Self {
        Self {
            rank: 0,
            ranks: 1,
            local_rank: 0,
            local_ranks: 1,
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            token: b"swarmloom".to_vec(),
            host: None,
            attempt: 0,
            by: "nobody",
        }
    }

    /// What the variables of a launcher or scheduler say; none where there are no such.
    ///
    /// # Errors
    /// [`Usage`] where they do not fit together, or other machines could take part and there is no secret.
    pub(crate) fn find(variable: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Option<Self>> {
        let found = sites::find(variable).map_err(|error| Usage(error.to_string()))?;
        let Some(found) = found else { return Ok(None) };
        let Some(meeting) = found.rendezvous.as_ref().filter(|_| found.ranks > 1) else {
            if found.ranks == 1 {
                return Ok(Some(Self { attempt: found.attempt, by: found.by.name(), ..Self::alone() }));
            }
            let message = format!(
                "{} does not say where rank 0 is: set MASTER_ADDR and MASTER_PORT, the same for all ranks",
                found.by.name()
            );
            return Err(Usage(message).into());
        };
        // Ranks of one machine meet where nobody else can come in.
        let ip = match found.local_ranks == found.ranks {
            true => IpAddr::V4(Ipv4Addr::LOCALHOST),
            false => resolve(&meeting.host, meeting.port)?,
        };
        let token = match variable(TOKEN) {
            Some(token) => token.into_bytes(),
            // Other machines cannot reach it. No secret: it keeps other programs away that chance has brought to this port.
            None if ip.is_loopback() => b"swarmloom".to_vec(),
            None => {
                let host = &meeting.host;
                let message = format!(
                    "ranks meet at {host}, which other machines can reach: set {TOKEN} to a secret, the same for all \
                     ranks, so that nobody else takes part; `export {TOKEN}=$(openssl rand -hex 16)` makes one"
                );
                return Err(Usage(message).into());
            }
        };
        Ok(Some(Self {
            rank: found.rank,
            ranks: found.ranks,
            local_rank: found.local_rank,
            local_ranks: found.local_ranks,
            address: SocketAddr::new(ip, meeting.port),
            token,
            host: variable(HOST),
            attempt: found.attempt,
            by: found.by.name(),
        }))
    }

    /// Where and how this rank meets the others.
    pub(crate) fn rendezvous(&self, timeout: Duration) -> Rendezvous {
        let Self { address, rank, ranks, .. } = *self;
        Rendezvous { address, token: self.token.clone(), rank, ranks, timeout }
    }

    /// Keeps this process to its share of the cores that it may use, and says how many threads that is worth. Where there are
    /// more ranks than cores, the system shares them out.
    pub(crate) fn bind(&self, threads: Option<usize>) -> usize {
        let all = sched_getaffinity(None).map(|set| (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect());
        let all: Vec<usize> = all.unwrap_or_default();
        let own = cores(&all, self.local_rank, self.local_ranks);
        if !own.is_empty() && own.len() < all.len() {
            let mut set = CpuSet::new();
            own.iter().for_each(|core| set.set(*core));
            if let Err(error) = sched_setaffinity(None, &set) {
                tracing::warn!(%error, "this rank could not be bound to its cores");
            }
        }
        threads.unwrap_or(own.len()).max(1)
    }
}

/// A rank's share of a host's cores: contiguous, so that what they share is shared; none where there are fewer cores than ranks.
fn cores(all: &[usize], local_rank: usize, local_ranks: usize) -> Vec<usize> {
    let each = all.len() / local_ranks.max(1);
    all.iter().skip(local_rank * each).take(each).copied().collect()
}

fn resolve(host: &str, port: u16) -> anyhow::Result<IpAddr> {
    let found = (host, port).to_socket_addrs().with_context(|| format!("ranks meet at {host}"))?;
    let all: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    let first = all.iter().find(|ip| ip.is_ipv4()).or(all.first());
    first.copied().with_context(|| format!("ranks meet at {host}, which has no address"))
}
