//! From ranks that have met to a transport between them.

use std::time::Instant;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::control::Control;
use crate::error::CollectiveError;
use crate::fabric::mixed::MixedFabric;
use crate::fabric::ofi::{self, OfiFabric};
use crate::fabric::region::Regions;
use crate::fabric::shm::{Card, Offer, ShmFabric};
use crate::fabric::tcp::{TcpFabric, Tuning};
use crate::fabric::{Carrier, Fabric};
use crate::fault::Fault;
use crate::group::{GroupConfig, Transport};
use crate::plan::{Collective, Layout, Rank, Reach};

/// Numbers of the exchanges of a set-up.
const CARDS: u64 = 1;
const CONNECTED: u64 = 2;
const REACH: u64 = 3;

/// Who takes part in one epoch, and how long its set-up may take.
pub(crate) struct Epoch<'a> {
    pub(crate) control: &'a Control,
    pub(crate) config: &'a GroupConfig,
    pub(crate) members: &'a [Rank],
    pub(crate) number: u64,
    pub(crate) deadline: Instant,
}

impl Epoch<'_> {
    fn rank(&self) -> Rank {
        self.members.iter().position(|member| *member == self.control.rank()).unwrap_or(0)
    }

    /// Hosts by rank of the group. A host is named by the first rank on it, so that all ranks use the same names.
    fn hosts(&self) -> Vec<usize> {
        let all = self.control.hosts();
        let host = |member: &Rank| self.members.iter().position(|other| all[*other] == all[*member]).unwrap_or(0);
        self.members.iter().map(host).collect()
    }

    fn exchange(&self, number: u64, blob: Vec<u8>) -> Result<Vec<Vec<u8>>, Fault> {
        self.control.exchange((self.number, number), self.members, blob, self.deadline)
    }
}

/// The transport of one epoch, connected, and what its ranks can do to each other: the same on all of them.
pub(crate) fn connect(epoch: &Epoch<'_>, regions: &Regions) -> Result<(Carrier, Layout), CollectiveError> {
    let setup = |what: &'static str| move |fault| CollectiveError::Setup { what, fault };
    let fabric = fabric(epoch, regions)?;
    let layout = layout(epoch, fabric.get()).map_err(setup("agreeing on what ranks can do"))?;
    Ok((fabric, layout))
}

fn fabric(epoch: &Epoch<'_>, regions: &Regions) -> Result<Carrier, CollectiveError> {
    let setup = |what: &'static str| move |fault| CollectiveError::Setup { what, fault };
    let Epoch { control, config, members, number, deadline } = *epoch;
    let (rank, hosts) = (epoch.rank(), epoch.hosts());
    let together = hosts.iter().all(|host| *host == hosts[0]);
    // Somebody shares a host with somebody.
    let shared = hosts.iter().enumerate().any(|(rank, host)| *host != rank);
    let mut near = None;
    if config.transport == Transport::Ofi {
        let fabric = libfabric(epoch).and_then(|made| made);
        return Ok(Carrier::Any(Box::new(fabric.map_err(setup("setting up libfabric"))?)));
    }
    if config.transport == Transport::Shm && !together {
        let fault = Fault::System { what: "shared memory", why: "the ranks are not all on one host".into() };
        return Err(setup("setting up shared memory")(fault));
    }
    if config.transport != Transport::Tcp && (shared || together) {
        match shm(epoch, &hosts, regions).map_err(setup("setting up shared memory"))? {
            Ok(fabric) if together => return Ok(Carrier::Shm(Box::new(fabric))),
            Ok(fabric) => near = Some(fabric),
            Err(fault) if config.transport == Transport::Shm => return Err(setup("setting up shared memory")(fault)),
            Err(fault) => tracing::warn!(%fault, "shared memory is not to be had: TCP is used within hosts"),
        }
    }
    let peers = control.connect(number, members, config.connections.clamp(1, 16), deadline)?;
    let far = TcpFabric::new(rank, number, peers, config.scratch_bytes, Tuning::default());
    let far = far.map_err(setup("setting up TCP"))?;
    Ok(match near {
        Some(near) => {
            let local = hosts.iter().map(|host| *host == hosts[rank]).collect();
            Carrier::Any(Box::new(MixedFabric::new(near, far, local)))
        }
        None => Carrier::Any(Box::new(far)),
    })
}

/// Shared memory between the members of each host, or on every rank a refusal.
fn shm(epoch: &Epoch<'_>, hosts: &[usize], regions: &Regions) -> Result<Result<ShmFabric, Fault>, Fault> {
    let rank = epoch.rank();
    let made = Offer::new(epoch.number, epoch.members.len(), epoch.config.scratch_bytes, regions.clone());
    deal(epoch, "shared memory", made, |offer, cards: Vec<Card>| {
        let near = cards.into_iter().zip(hosts).map(|(card, host)| (*host == hosts[rank]).then_some(card));
        offer.connect(rank, &near.collect::<Vec<_>>())
    })
}

/// libfabric between all members, or on every rank a refusal.
fn libfabric(epoch: &Epoch<'_>) -> Result<Result<OfiFabric, Fault>, Fault> {
    let Epoch { config, members, number, deadline, .. } = *epoch;
    let made = ofi::Offer::new(number, members.len(), config.scratch_bytes, config.provider.as_deref());
    deal(epoch, "libfabric", made, |offer, cards: Vec<ofi::Card>| offer.connect(epoch.rank(), &cards, deadline))
}

/// Everybody says by a card what it has made, and connects it to that of the others: on all ranks, or on none.
fn deal<Offer, Card: Serialize + DeserializeOwned, Made>(
    epoch: &Epoch<'_>,
    what: &'static str,
    made: Result<(Offer, Card), Fault>,
    connect: impl FnOnce(Offer, Vec<Card>) -> Result<Made, Fault>,
) -> Result<Result<Made, Fault>, Fault> {
    let (offer, card) = match made {
        Ok((offer, card)) => (Ok(offer), Some(card)),
        Err(fault) => (Err(fault), None),
    };
    let blobs = epoch.exchange(CARDS, encode(&card))?;
    let cards: Option<Vec<Card>> = blobs.iter().map(|blob| decode::<Option<Card>>(blob)?).collect();
    let connected = match (offer, cards) {
        (Ok(offer), Some(cards)) => connect(offer, cards),
        (Err(fault), _) => Err(fault),
        (_, None) => Err(Fault::System { what, why: "another rank has none".into() }),
    };
    let everywhere = epoch.exchange(CONNECTED, vec![u8::from(connected.is_ok())])?.iter().all(|blob| blob == &[1]);
    Ok(match connected {
        Ok(_) if !everywhere => Err(Fault::System { what, why: "another rank cannot connect to it".into() }),
        connected => connected,
    })
}

/// What the ranks of a group can do to each other: what all of them can.
fn layout(epoch: &Epoch<'_>, fabric: &dyn Fabric) -> Result<Layout, Fault> {
    let (rank, hosts) = (epoch.rank(), epoch.hosts());
    let example = |same: bool| {
        let found = (0..hosts.len()).find(|other| *other != rank && (hosts[*other] == hosts[rank]) == same);
        found.map(|other| fabric.reach(other))
    };
    let own = (example(true), example(false), fabric.scratch_bytes() as u64);
    let blobs = epoch.exchange(REACH, encode(&own))?;
    let all: Vec<(Option<Reach>, Option<Reach>, u64)> = blobs
        .iter()
        .map(|blob| {
            decode(blob).ok_or_else(|| Fault::System { what: "a rank's reach", why: "it cannot be read".into() })
        })
        .collect::<Result<_, _>>()?;
    let near = all.iter().filter_map(|one| one.0).reduce(both).unwrap_or_default();
    let far = all.iter().filter_map(|one| one.1).reduce(both).unwrap_or_default();
    let scratch_bytes = all.iter().map(|one| one.2).min().unwrap_or(0) as usize;
    Ok(Layout { hosts, near, far, scratch_bytes })
}

fn both(one: Reach, other: Reach) -> Reach {
    Reach {
        load_scratch: one.load_scratch && other.load_scratch,
        copy_user: one.copy_user && other.copy_user,
        reduce_user: one.reduce_user && other.reduce_user,
        put_output: one.put_output && other.put_output,
        packet_bytes: one.packet_bytes.min(other.packet_bytes),
    }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // These values have nothing that cannot be encoded.
    bincode::serde::encode_to_vec(value, bincode::config::standard()).unwrap_or_default()
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let config = bincode::config::standard().with_limit::<1024>();
    Some(bincode::serde::decode_from_slice(bytes, config).ok()?.0)
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
