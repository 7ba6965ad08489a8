//! From ranks that have met to a transport between them.

use std::time::Instant;

use crate::control::Control;
use crate::error::CollectiveError;
use crate::fabric::Fabric;
use crate::fabric::region::Regions;
use crate::fabric::shm::{Card, Offer};
use crate::fabric::tcp::{TcpFabric, Tuning};
use crate::fault::Fault;
use crate::group::{GroupConfig, Transport};
use crate::plan::{Collective, Layout, Rank};

/// Numbers of the exchanges of a set-up.
const CARDS: u64 = 1;
const MAPPED: u64 = 2;

/// The transport of one epoch, connected.
pub(crate) fn fabric(
    control: &Control,
    config: &GroupConfig,
    members: &[Rank],
    epoch: u64,
    regions: &Regions,
    deadline: Instant,
) -> Result<Box<dyn Fabric>, CollectiveError> {
    let rank = members.iter().position(|member| *member == control.rank()).unwrap_or(0);
    let hosts = control.hosts();
    let together = members.iter().all(|member| hosts[*member] == hosts[members[0]]);
    let setup = |what: &'static str| move |fault| CollectiveError::Setup { what, fault };
    if config.transport != Transport::Tcp && together {
        match shm(control, config, members, rank, epoch, regions, deadline)
            .map_err(setup("setting up shared memory"))?
        {
            Ok(fabric) => return Ok(fabric),
            Err(fault) if config.transport == Transport::Shm => {
                return Err(CollectiveError::Setup { what: "setting up shared memory", fault });
            }
            Err(fault) => tracing::warn!(%fault, "shared memory is not to be had: TCP is used within this host"),
        }
    } else if config.transport == Transport::Shm {
        let fault = Fault::System { what: "shared memory", why: "the ranks are not all on one host".into() };
        return Err(CollectiveError::Setup { what: "setting up shared memory", fault });
    }
    let peers = control.connect(epoch, members, config.connections.clamp(1, 64), deadline)?;
    let fabric =
        TcpFabric::new(rank, epoch, peers, config.scratch_bytes, Tuning::default()).map_err(setup("setting up TCP"))?;
    Ok(Box::new(fabric))
}

/// Shared memory between all members, or on every rank the same refusal.
fn shm(
    control: &Control,
    config: &GroupConfig,
    members: &[Rank],
    rank: Rank,
    epoch: u64,
    regions: &Regions,
    deadline: Instant,
) -> Result<Result<Box<dyn Fabric>, Fault>, Fault> {
    let made = Offer::new(epoch, members.len(), config.scratch_bytes, regions.clone());
    let (offer, card) = match made {
        Ok((offer, card)) => (Ok(offer), Some(card)),
        Err(fault) => (Err(fault), None),
    };
    let blob = bincode::serde::encode_to_vec(&card, bincode::config::standard()).unwrap_or_default();
    let blobs = control.exchange((epoch, CARDS), members, blob, deadline)?;
    let cards: Option<Vec<Card>> = blobs
        .iter()
        .map(|blob| {
            let config = bincode::config::standard().with_limit::<1024>();
            bincode::serde::decode_from_slice::<Option<Card>, _>(blob, config).ok()?.0
        })
        .collect();
    let connected = match (offer, cards) {
        (Ok(offer), Some(cards)) => offer.connect(rank, &cards.into_iter().map(Some).collect::<Vec<_>>()),
        (Err(fault), _) => Err(fault),
        (_, None) => Err(Fault::System { what: "shared memory", why: "another rank has none".into() }),
    };
    let mapped = control.exchange((epoch, MAPPED), members, vec![u8::from(connected.is_ok())], deadline)?;
    let everywhere = mapped.iter().all(|blob| blob == &[1]);
    Ok(match connected {
        Ok(fabric) if everywhere => Ok(Box::new(fabric)),
        Ok(_) => Err(Fault::System { what: "shared memory", why: "another rank cannot map it".into() }),
        Err(fault) => Err(fault),
    })
}

/// What the ranks of a group can do to each other, as far as `fabric` shows it.
pub(crate) fn layout(fabric: &dyn Fabric, hosts: &[usize], rank: Rank) -> Layout {
    let reach = |same: bool| {
        (0..hosts.len())
            .find(|other| *other != rank && (hosts[*other] == hosts[rank]) == same)
            .map(|other| fabric.reach(other))
            .unwrap_or_default()
    };
    // Hosts are numbered by their first rank here, so that every rank has the same numbers.
    let hosts = hosts.iter().map(|host| hosts.iter().position(|other| other == host).unwrap_or(0)).collect();
    Layout { hosts, near: reach(true), far: reach(false), scratch_bytes: fabric.scratch_bytes() }
}

/// The layout for a call: user memory is within reach of a reduction only where it is registered.
pub(crate) fn layout_for(layout: &Layout, registered: bool) -> Layout {
    let mut layout = layout.clone();
    layout.near.reduce_user &= registered;
    layout.far.reduce_user &= registered;
    layout
}

/// More would not be addressable.
const MAX_ELEMENTS: usize = 1 << 48;

/// Whether a collective makes sense for a group.
pub(crate) fn check(collective: &Collective, ranks: usize) -> Result<(), CollectiveError> {
    let refuse = |why: String| Err(CollectiveError::Usage { collective: collective.name(), why });
    let in_group = |rank: Rank| rank < ranks;
    let fits = |counts: &[usize]| {
        let sum = counts.iter().try_fold(0_usize, |sum, count| sum.checked_add(*count));
        sum.is_some_and(|sum| sum <= MAX_ELEMENTS)
    };
    let sizes_fit = match collective {
        Collective::AllReduce { count }
        | Collective::Broadcast { count, .. }
        | Collective::Reduce { count, .. }
        | Collective::Send { count, .. } => *count <= MAX_ELEMENTS,
        Collective::ReduceScatter { parts } | Collective::AllGather { parts } => fits(parts),
        Collective::AllToAll { counts } => fits(&counts.concat()),
        Collective::Barrier => true,
    };
    if !sizes_fit {
        return refuse(format!("more than {MAX_ELEMENTS} elements"));
    }
    match collective {
        Collective::ReduceScatter { parts } | Collective::AllGather { parts } if parts.len() != ranks => {
            refuse(format!("{} parts for {ranks} ranks", parts.len()))
        }
        Collective::AllToAll { counts } if counts.len() != ranks || counts.iter().any(|row| row.len() != ranks) => {
            refuse(format!("counts for {ranks} ranks are {ranks} rows of {ranks}"))
        }
        Collective::Broadcast { root, .. } | Collective::Reduce { root, .. } if !in_group(*root) => {
            refuse(format!("root {root} of {ranks} ranks"))
        }
        Collective::Send { from, to, .. } if !in_group(*from) || !in_group(*to) || from == to => {
            refuse(format!("from rank {from} to rank {to} of {ranks}"))
        }
        _ => Ok(()),
    }
}
