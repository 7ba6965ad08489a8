//! How ranks find each other: a rendezvous that rank 0 keeps, then one connection between every two ranks.
//!
//! Whoever connects proves that it knows the group's token before it is listened to, and the other side proves it too:
//! both answer the other's random challenge with HMAC-SHA256 under the token. Nothing is encrypted: this is for networks
//! whose wires are trusted.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use rustix::event::{PollFd, PollFlags, poll};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::plan::{MAX_RANKS, Rank};

/// How a rank comes to its group.
#[derive(Debug, Clone)]
pub struct Rendezvous {
    /// Where rank 0 listens and the others connect.
    pub address: SocketAddr,
    /// Known to the group's ranks only.
    pub token: Vec<u8>,
    /// This rank.
    pub rank: Rank,
    /// How many there are.
    pub ranks: usize,
    /// How long the whole set-up may take.
    pub timeout: Duration,
}

/// Why a group did not come together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// Rank or ranks make no sense.
    #[error("rank {rank} of {ranks}: ranks count from 0, and a group has 1 to {MAX_RANKS}")]
    Rank {
        /// As given.
        rank: Rank,
        /// As given.
        ranks: usize,
    },
    /// The rendezvous address cannot be used.
    #[error("{what} {address}: {source}")]
    Address {
        /// What was tried.
        what: &'static str,
        /// At which address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Somebody did not come.
    #[error("{missing:?} of {ranks} ranks have not come within {} s: are they started, with the same address and token?", .after.as_secs_f64())]
    Missing {
        /// Who.
        missing: Vec<Rank>,
        /// Of how many.
        ranks: usize,
        /// How long it was waited.
        after: Duration,
    },
    /// Two processes have the same rank, or another count.
    #[error("rank {rank} of {ranks} came, but {why}")]
    Twice {
        /// Who.
        rank: Rank,
        /// Of how many, as it says.
        ranks: usize,
        /// What is wrong with that.
        why: &'static str,
    },
    /// The other side gave up or does not know the token.
    #[error("{with} does not go on: {why}")]
    Refused {
        /// Who.
        with: String,
        /// What was seen.
        why: String,
    },
    /// The system refused something.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: std::io::Error,
    },
}

/// What every rank knows of every other one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Card {
    /// Equal for processes that can share memory.
    pub(crate) host: String,
    /// Where it takes connections.
    pub(crate) listen: SocketAddr,
}

/// What a connection is for: the first thing said on it after the proof.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Purpose {
    Register { rank: u32, ranks: u32, card: Card },
    Control { rank: u32 },
    Data { rank: u32, epoch: u64, index: u32 },
}

/// Where a rank takes connections. Others may be further on than this rank: what comes early is kept.
#[derive(Debug)]
pub(crate) struct Door {
    listener: TcpListener,
    early: Mutex<Vec<(TcpStream, Purpose)>>,
}

/// Connections that may wait to be asked for: more than a group has for one epoch.
const MAX_EARLY: usize = 2 * MAX_RANKS * 16;

/// A rank that has met the others.
#[derive(Debug)]
pub(crate) struct Met {
    /// Where connections of later epochs come in.
    pub(crate) door: Door,
    /// By rank.
    pub(crate) cards: Vec<Card>,
    /// A connection to every other rank.
    pub(crate) control: Vec<Option<TcpStream>>,
}

const MAGIC: [u8; 8] = *b"swlmcol1";
/// Strangers that connect and say nothing, or say it slowly, cost no more than this each; they are heard one by one.
const PROOF_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_FRAME: usize = 1 << 20;
const RETRY: Duration = Duration::from_millis(20);

/// Meets all other ranks. Rank 0 may listen at the rendezvous' address already.
///
/// # Errors
/// [`BootstrapError`], at the latest when the time is over.
pub(crate) fn meet(at: &Rendezvous, host: Option<&str>, listening: Option<TcpListener>) -> Result<Met, BootstrapError> {
    let host = host.map_or_else(self::host, str::to_owned);
    let Rendezvous { rank, ranks, .. } = *at;
    if ranks == 0 || ranks > MAX_RANKS || rank >= ranks {
        return Err(BootstrapError::Rank { rank, ranks });
    }
    let deadline = Instant::now() + at.timeout;
    let (listener, cards) =
        if rank == 0 { gather(at, host, listening, deadline)? } else { register(at, &host, deadline)? };
    let door = Door { listener, early: Mutex::default() };
    let control = connect_all(
        at,
        &door,
        &cards,
        (0..ranks).collect::<Vec<_>>().as_slice(),
        deadline,
        &|me| Purpose::Control { rank: me as u32 },
        &|purpose| match purpose {
            Purpose::Control { rank } => Some(*rank as usize),
            _ => None,
        },
    )?;
    Ok(Met { door, cards, control })
}

/// One connection between every two of `members` (ranks of the bootstrap), for one epoch. The result is by member.
pub(crate) fn connect_data(
    at: &Rendezvous,
    door: &Door,
    cards: &[Card],
    members: &[Rank],
    (epoch, index): (u64, u32),
    deadline: Instant,
) -> Result<Vec<Option<TcpStream>>, BootstrapError> {
    let say = |me: Rank| Purpose::Data { rank: me as u32, epoch, index };
    let hear = |purpose: &Purpose| match purpose {
        Purpose::Data { rank, epoch: theirs, index: number } if (*theirs, *number) == (epoch, index) => {
            Some(*rank as usize)
        }
        _ => None,
    };
    connect_all(at, door, cards, members, deadline, &say, &hear)
}

fn connect_all(
    at: &Rendezvous,
    door: &Door,
    cards: &[Card],
    members: &[Rank],
    deadline: Instant,
    say: &(dyn Fn(Rank) -> Purpose + Sync),
    hear: &(dyn Fn(&Purpose) -> Option<Rank> + Sync),
) -> Result<Vec<Option<TcpStream>>, BootstrapError> {
    let me = at.rank;
    let below: Vec<Rank> = members.iter().copied().filter(|other| *other < me).collect();
    let mut above: Vec<Rank> = members.iter().copied().filter(|other| *other > me).collect();
    let mut links: Vec<Option<TcpStream>> = members.iter().map(|_| None).collect();
    let place = |rank: Rank| members.iter().position(|member| *member == rank);
    // Both at once: whoever dials waits for an answer from somebody who may be dialling too.
    let (dialled, accepted) = std::thread::scope(|scope| {
        let dialling = scope.spawn(|| {
            below
                .iter()
                .map(|rank| Ok((*rank, dial(at, cards[*rank].listen, &say(me), deadline)?)))
                .collect::<Result<Vec<_>, BootstrapError>>()
        });
        let accepted = admit(at, door, &mut above, deadline, hear);
        let dialled = dialling.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (dialled, accepted)
    });
    for (rank, stream) in dialled?.into_iter().chain(accepted?) {
        if let Some(at) = place(rank) {
            links[at] = Some(stream);
        }
    }
    Ok(links)
}

/// Takes one connection of each awaited rank.
fn admit(
    at: &Rendezvous,
    door: &Door,
    awaited: &mut Vec<Rank>,
    deadline: Instant,
    hear: &(dyn Fn(&Purpose) -> Option<Rank> + Sync),
) -> Result<Vec<(Rank, TcpStream)>, BootstrapError> {
    let mut accepted = Vec::new();
    let mut early = door.early.lock().unwrap_or_else(PoisonError::into_inner);
    let mut come: Vec<(TcpStream, Purpose)> = std::mem::take(&mut *early);
    loop {
        for (stream, purpose) in come.drain(..) {
            let place = hear(&purpose).and_then(|rank| awaited.iter().position(|other| *other == rank));
            match place {
                Some(place) => accepted.push((awaited.swap_remove(place), stream)),
                // For later, or for an epoch that nobody wants any more: that one makes room in the end.
                None => {
                    if early.len() == MAX_EARLY {
                        early.remove(0);
                    }
                    early.push((stream, purpose));
                }
            }
        }
        if awaited.is_empty() {
            return Ok(accepted);
        }
        match accept(at, &door.listener, deadline)? {
            Some(one) => come.push(one),
            None => {
                let missing = std::mem::take(awaited);
                return Err(BootstrapError::Missing { missing, ranks: at.ranks, after: at.timeout });
            }
        }
    }
}

/// Rank 0: waits for everybody's card, then gives everybody all cards.
fn gather(
    at: &Rendezvous,
    host: String,
    listening: Option<TcpListener>,
    deadline: Instant,
) -> Result<(TcpListener, Vec<Card>), BootstrapError> {
    let address = at.address;
    let rendezvous = listening
        .map_or_else(|| TcpListener::bind(address), Ok)
        .map_err(|source| BootstrapError::Address { what: "cannot listen at", address, source })?;
    let listener = listen_beside(address)?;
    let mut cards: Vec<Option<Card>> = vec![None; at.ranks];
    cards[0] = Some(Card { host, listen: own_address(&listener, address)? });
    let mut waiting = Vec::new();
    while cards.iter().any(Option::is_none) {
        let Some((stream, purpose)) = accept(at, &rendezvous, deadline)? else {
            let missing = (0..at.ranks).filter(|rank| cards[*rank].is_none()).collect();
            return Err(BootstrapError::Missing { missing, ranks: at.ranks, after: at.timeout });
        };
        let Purpose::Register { rank, ranks, card } = purpose else { continue };
        let (rank, ranks) = (rank as usize, ranks as usize);
        let twice = |why| BootstrapError::Twice { rank, ranks, why };
        if ranks != at.ranks {
            return Err(twice("this group has another number of ranks"));
        }
        match cards.get_mut(rank) {
            Some(slot @ None) => *slot = Some(card),
            Some(Some(_)) => return Err(twice("that rank is here already")),
            None => return Err(twice("there is no such rank")),
        }
        waiting.push(stream);
    }
    let cards: Vec<Card> = cards.into_iter().flatten().collect();
    for mut stream in waiting {
        write_frame(&mut stream, &cards, deadline)
            .map_err(|source| BootstrapError::System { what: "telling a rank of the others", source })?;
    }
    Ok((listener, cards))
}

/// Everybody else: gives its card and gets all.
fn register(at: &Rendezvous, host: &str, deadline: Instant) -> Result<(TcpListener, Vec<Card>), BootstrapError> {
    let mut last = None;
    while Instant::now() < deadline {
        // Rank 0 may not be there yet.
        let stream = match TcpStream::connect_timeout(&at.address, left(deadline)) {
            Ok(stream) => stream,
            Err(error) => {
                last = Some(error);
                pause();
                continue;
            }
        };
        let io = |what| move |source| BootstrapError::System { what, source };
        let local = stream.local_addr().map_err(io("the own address"))?;
        let listener = listen_beside(local)?;
        let card = Card { host: host.to_owned(), listen: own_address(&listener, local)? };
        let purpose = Purpose::Register { rank: at.rank as u32, ranks: at.ranks as u32, card };
        let mut stream = introduce(at, stream, &purpose, deadline)?;
        let cards: Vec<Card> = read_frame(&mut stream, deadline).map_err(|error| BootstrapError::Refused {
            with: format!("rank 0 at {}", at.address),
            why: format!("it sent no list of ranks ({error}); its own output says why"),
        })?;
        if cards.len() == at.ranks {
            return Ok((listener, cards));
        }
        let why = format!("it listed {} ranks, not {}", cards.len(), at.ranks);
        return Err(BootstrapError::Refused { with: format!("rank 0 at {}", at.address), why });
    }
    let source = last.unwrap_or_else(|| std::io::ErrorKind::TimedOut.into());
    Err(BootstrapError::Address { what: "rank 0 cannot be reached at", address: at.address, source })
}

fn dial(at: &Rendezvous, to: SocketAddr, purpose: &Purpose, deadline: Instant) -> Result<TcpStream, BootstrapError> {
    let stream = TcpStream::connect_timeout(&to, left(deadline)).map_err(|source| BootstrapError::Address {
        what: "a rank cannot be reached at",
        address: to,
        source,
    })?;
    introduce(at, stream, purpose, deadline)
}

/// The dialling side of the proof, then what the connection is for.
fn introduce(
    at: &Rendezvous,
    mut stream: TcpStream,
    purpose: &Purpose,
    deadline: Instant,
) -> Result<TcpStream, BootstrapError> {
    let with = || stream.peer_addr().map_or_else(|_| "the other side".to_owned(), |address| address.to_string());
    let with = with();
    let refused = |why: String| BootstrapError::Refused { with: with.clone(), why };
    let io = |error: std::io::Error| refused(error.to_string());
    let ours = nonce()?;
    set_deadline(&stream, deadline).map_err(io)?;
    stream.set_nodelay(true).map_err(io)?;
    stream.write_all(&MAGIC).and_then(|()| stream.write_all(&ours)).map_err(io)?;
    let (mut theirs, mut proof) = ([0; 32], [0; 32]);
    read(&mut stream, &mut theirs, deadline).and_then(|()| read(&mut stream, &mut proof, deadline)).map_err(io)?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &at.token);
    hmac::verify(&key, &said(b"accept", &ours, &theirs), &proof).map_err(|_| refused("it has another token".into()))?;
    let own = hmac::sign(&key, &said(b"dial", &theirs, &ours));
    stream.write_all(own.as_ref()).map_err(io)?;
    write_frame(&mut stream, purpose, deadline).map_err(io)?;
    Ok(stream)
}

/// The next connection whose other side knows the token; `None` when the time is over.
fn accept(
    at: &Rendezvous,
    listener: &TcpListener,
    deadline: Instant,
) -> Result<Option<(TcpStream, Purpose)>, BootstrapError> {
    loop {
        let time = left(deadline);
        if time.is_zero() {
            return Ok(None);
        }
        let timeout =
            rustix::event::Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() };
        let mut fds = [PollFd::new(listener, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(BootstrapError::System { what: "waiting for ranks", source: error.into() }),
        }
        let Ok((stream, _)) = listener.accept() else { continue };
        // A stranger, or somebody who went away: the next one, please.
        match answer(at, stream, deadline) {
            Ok(come) => return Ok(Some(come)),
            Err(error) => tracing::debug!(%error, "a connection was not taken"),
        }
    }
}

/// The accepting side of the proof.
fn answer(at: &Rendezvous, mut stream: TcpStream, deadline: Instant) -> std::io::Result<(TcpStream, Purpose)> {
    let soon = deadline.min(Instant::now() + PROOF_TIMEOUT);
    set_deadline(&stream, soon)?;
    stream.set_nodelay(true)?;
    let (mut magic, mut theirs, mut proof) = ([0; 8], [0; 32], [0; 32]);
    read(&mut stream, &mut magic, soon)?;
    if magic != MAGIC {
        return Err(std::io::Error::other("it speaks something else"));
    }
    read(&mut stream, &mut theirs, soon)?;
    let ours = nonce().map_err(std::io::Error::other)?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &at.token);
    stream.write_all(&ours)?;
    stream.write_all(hmac::sign(&key, &said(b"accept", &theirs, &ours)).as_ref())?;
    read(&mut stream, &mut proof, soon)?;
    hmac::verify(&key, &said(b"dial", &ours, &theirs), &proof)
        .map_err(|_| std::io::Error::other("it has another token"))?;
    let purpose = read_frame(&mut stream, soon)?;
    Ok((stream, purpose))
}

fn said(role: &[u8], first: &[u8; 32], second: &[u8; 32]) -> Vec<u8> {
    [role, first, second].concat()
}

fn nonce() -> Result<[u8; 32], BootstrapError> {
    let mut nonce = [0; 32];
    SystemRandom::new()
        .fill(&mut nonce)
        .map_err(|_| BootstrapError::System { what: "randomness", source: std::io::ErrorKind::Other.into() })?;
    Ok(nonce)
}

pub(crate) fn listen_beside(address: SocketAddr) -> Result<TcpListener, BootstrapError> {
    let address = SocketAddr::new(address.ip(), 0);
    TcpListener::bind(address).map_err(|source| BootstrapError::Address { what: "cannot listen at", address, source })
}

fn own_address(listener: &TcpListener, reached: SocketAddr) -> Result<SocketAddr, BootstrapError> {
    let port =
        listener.local_addr().map_err(|source| BootstrapError::System { what: "the own address", source })?.port();
    Ok(SocketAddr::new(reached.ip(), port))
}

/// Equal for processes of one user that see each other's: then memory can be shared.
fn host() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let space = fs::metadata("/proc/self/ns/pid").map_or(0, |meta| meta.ino());
    format!("{}/{space}/{}", boot.trim(), rustix::process::getuid().as_raw())
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

fn set_deadline(stream: &TcpStream, deadline: Instant) -> std::io::Result<()> {
    // Zero would mean for ever.
    let time = left(deadline).max(Duration::from_millis(1));
    stream.set_read_timeout(Some(time))?;
    stream.set_write_timeout(Some(time))
}

/// Fills `into` before the deadline, however slowly the bytes come.
fn read(stream: &mut TcpStream, into: &mut [u8], deadline: Instant) -> std::io::Result<()> {
    let mut done = 0;
    while done < into.len() {
        if left(deadline).is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        set_deadline(stream, deadline)?;
        match stream.read(&mut into[done..]) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => done += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            // What the system calls the end of the time that a read has.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "it gave no answer in time"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "another process gives no event to wait for")]
fn pause() {
    std::thread::sleep(RETRY);
}

/// Writes a length and that many bytes.
pub(crate) fn write_frame<T: Serialize>(stream: &mut TcpStream, value: &T, deadline: Instant) -> std::io::Result<()> {
    let bytes = encode(value)?;
    set_deadline(stream, deadline)?;
    stream.write_all(&bytes)
}

/// A length and the value's bytes, to be written at once.
pub(crate) fn encode<T: Serialize>(value: &T) -> std::io::Result<Vec<u8>> {
    let body = bincode::serde::encode_to_vec(value, bincode::config::standard()).map_err(std::io::Error::other)?;
    let length = u32::try_from(body.len()).ok().filter(|length| *length as usize <= MAX_FRAME);
    let length = length.ok_or_else(|| std::io::Error::other("a message is too long"))?;
    Ok([&length.to_le_bytes()[..], &body].concat())
}

/// Reads what [`write_frame`] wrote.
pub(crate) fn read_frame<T: DeserializeOwned>(stream: &mut TcpStream, deadline: Instant) -> std::io::Result<T> {
    let mut length = [0; 4];
    read(stream, &mut length, deadline)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(std::io::Error::other("a message is too long"));
    }
    let mut body = vec![0; length];
    read(stream, &mut body, deadline)?;
    decode(&body)
}

/// The value of a frame's body.
pub(crate) fn decode<T: DeserializeOwned>(body: &[u8]) -> std::io::Result<T> {
    let config = bincode::config::standard().with_limit::<MAX_FRAME>();
    let (value, used) = bincode::serde::decode_from_slice(body, config).map_err(std::io::Error::other)?;
    if used == body.len() { Ok(value) } else { Err(std::io::Error::other("a message has more than it should")) }
}

/// The longest frame's body.
pub(crate) const fn max_frame() -> usize {
    MAX_FRAME
}
