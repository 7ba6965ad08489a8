//! One rank of a measured program: ours, or what it is compared with.
//!
//! `swarmloom bench collectives` starts these in processes of their own, and the peers' programs between them. All are
//! measured by one rule (that of `xtask/peers/collectives/grid.h`, so that ours and C programs differ in nothing else):
//!
//! - Every iteration each rank writes fresh values into its input, so that caches hold what a producer leaves there.
//! - The ranks meet at a spinning barrier that does not belong to what is measured ([`clock`]).
//! - An operation takes the largest of its ranks' times, end minus start.
//! - The whole first result is checked, and one element of every later one.
//! - The one-way time of a cache line between ranks 0 and 1 stands beside each figure, taken just before and just after:
//!   on virtual machines it changes, and figures with different ones do not compare.

mod buffer;
mod clock;
mod floor;
mod grid;
mod limits;
mod ours;
mod parts;
mod record;
mod sockets;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

pub use grid::{Op, Point};
pub use record::{Limit, Record, Said};

use crate::bootstrap::Rendezvous;
use crate::error::CollectiveError;
use crate::fault::Fault;
use crate::group::{Group, GroupConfig, Transport};
use clock::Clock;

/// What a rank runs.
#[derive(Debug, Clone)]
pub enum Program {
    /// Ours.
    Ours {
        /// Transport, algorithms and the rest.
        config: Box<GroupConfig>,
        /// Input and output in registered memory.
        registered: bool,
    },
    /// Two ranks and shared memory, and nothing else: no errors, no deadlines, no groups.
    Floor {
        /// How.
        way: FloorWay,
        /// Stores that other cores read, and large results, pass the cache by.
        streaming: bool,
    },
    /// Two ranks, two connections, and nothing else.
    FloorSockets,
    /// Not collectives: what copies, cache lines and sockets can do.
    Limits,
}

impl Program {
    /// All that have a name: two ways of ours over shared memory and one over TCP, the bare programs (`-nt`: stores past
    /// the cache), and the limits.
    pub const NAMES: [&str; 11] = [
        "shm",
        "registered",
        "tcp",
        "floor-one-shot",
        "floor-one-shot-nt",
        "floor-two-shot",
        "floor-two-shot-nt",
        "floor-direct",
        "floor-direct-nt",
        "floor-tcp",
        "limits",
    ];

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        let ours = |transport, registered| Self::Ours {
            config: Box::new(GroupConfig { transport, ..GroupConfig::default() }),
            registered,
        };
        let (bare, streaming) = name.strip_suffix("-nt").map_or((name, false), |bare| (bare, true));
        match bare {
            "floor-one-shot" => Some(Self::Floor { way: FloorWay::OneShot, streaming }),
            "floor-two-shot" => Some(Self::Floor { way: FloorWay::TwoShot, streaming }),
            "floor-direct" => Some(Self::Floor { way: FloorWay::Direct, streaming }),
            _ if streaming => None,
            "shm" => Some(ours(Transport::Shm, false)),
            "registered" => Some(ours(Transport::Shm, true)),
            "tcp" => Some(ours(Transport::Tcp, false)),
            "floor-tcp" => Some(Self::FloorSockets),
            "limits" => Some(Self::Limits),
            _ => None,
        }
    }
}

/// How the bare program goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloorWay {
    /// Any buffers; everything goes to the other rank through a ring of chunks.
    OneShot,
    /// Any buffers; each rank reduces its half. All-reduce only.
    TwoShot,
    /// Buffers in shared memory; ranks read each other's.
    Direct,
}

/// One rank of a program.
#[derive(Debug, Clone)]
pub struct RankArgs {
    /// The name in its records.
    pub name: String,
    /// What it runs.
    pub program: Program,
    /// Which rank.
    pub rank: usize,
    /// Of how many.
    pub ranks: usize,
    /// An empty file that all ranks of this program share.
    pub clock: PathBuf,
    /// Where ranks of ours meet.
    pub address: SocketAddr,
    /// Processors by rank; empty where nothing is to be pinned.
    pub cpus: Vec<usize>,
    /// What to measure, in this order.
    pub points: Vec<Point>,
    /// Time for each point.
    pub budget: Duration,
    /// How long any wait may last.
    pub patience: Duration,
}

/// Why a measurement failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The shared clock or a buffer.
    #[error("{what}: {why}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What was said.
        why: String,
    },
    /// Another rank did not come.
    #[error("rank {rank} did not come to the start line within {} s", .after.as_secs_f64())]
    Missing {
        /// Who.
        rank: usize,
        /// How long was waited.
        after: Duration,
    },
    /// The program cannot do this.
    #[error("{what} is not for {ranks} ranks and {point}")]
    Unfit {
        /// Which program.
        what: &'static str,
        /// How many.
        ranks: usize,
        /// What was asked.
        point: Point,
    },
    /// Ours failed.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// Shared memory.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// A socket of the bare program.
    #[error("the bare socket program: {0}")]
    Socket(#[from] std::io::Error),
}

/// Runs one rank to the end; rank 0 hands every finished line to `say`.
///
/// # Errors
/// [`BenchError`]. The other ranks notice it by their patience.
pub fn rank(args: &RankArgs, say: &mut dyn FnMut(&Said)) -> Result<(), BenchError> {
    let system = |what| move |error: rustix::io::Errno| BenchError::System { what, why: error.to_string() };
    // Before pinning: afterwards the system says that there is one.
    let cores = processors().map_err(system("asking for processors"))?.len();
    if !args.cpus.is_empty() {
        let mut set = CpuSet::new();
        set.set(args.cpus[args.rank % args.cpus.len()]);
        sched_setaffinity(None, &set).map_err(system("pinning this rank"))?;
    }
    let crowded = args.ranks > args.cpus.len().max(cores);
    let mut clock = Clock::open(&args.clock, (args.rank, args.ranks), crowded, args.patience)?;
    match &args.program {
        Program::Ours { config, registered } => {
            let config =
                GroupConfig { cores: cores.max(args.cpus.len()), timeout: args.patience, ..(**config).clone() };
            let at = Rendezvous {
                address: args.address,
                token: b"swarmloom bench collectives".to_vec(),
                rank: args.rank,
                ranks: args.ranks,
                timeout: args.patience,
            };
            let group = Group::join(at, config)?;
            let mut ours = ours::Ours::new(group, *registered, largest(&args.points))?;
            grid::run(args, &mut clock, &mut ours, say)
        }
        Program::Floor { way, streaming } => {
            let mut floor = floor::Floor::new(&mut clock, *way, *streaming, largest(&args.points))?;
            grid::run(args, &mut clock, &mut floor, say)
        }
        Program::FloorSockets => {
            let mut sockets = sockets::Sockets::new(&mut clock, largest(&args.points))?;
            grid::run(args, &mut clock, &mut sockets, say)
        }
        Program::Limits => limits::run(args, &mut clock, say),
    }
}

/// The processors that this process may use.
///
/// # Errors
/// What the system says.
pub fn processors() -> Result<Vec<usize>, rustix::io::Errno> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

fn largest(points: &[Point]) -> usize {
    points.iter().map(|point| point.bytes).max().unwrap_or(0).max(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_program_and_no_other_name_has_one() {
        assert!(Program::NAMES.iter().all(|name| Program::named(name).is_some()));
        assert!(["shm-nt", "floor", "limits-nt", ""].iter().all(|name| Program::named(name).is_none()));
        assert!(matches!(Program::named("registered"), Some(Program::Ours { registered: true, .. })));
        let floor = Program::named("floor-two-shot-nt");
        assert!(matches!(floor, Some(Program::Floor { way: FloorWay::TwoShot, streaming: true })));
    }
}
