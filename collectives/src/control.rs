//! What ranks say to each other beside collectives, and how a death is noticed.
//!
//! Every two ranks keep one connection for as long as both live. A thread looks after all of them: when one closes, the
//! group is aborted with the name of who is gone, within the time that the system takes to say so, whatever the rank's
//! own thread is doing. The same connections carry aborts, the small exchanges of set-up, and the agreement of survivors.

use std::collections::VecDeque;
use std::io::Write;
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvFlags, recv, sockopt};
use serde::{Deserialize, Serialize};

use crate::bootstrap::{self, BootstrapError, Card, Door, Met, Rendezvous};
use crate::fault::Fault;
use crate::patience::Abort;
use crate::plan::Rank;

/// What is said. Ranks are those of the bootstrap: they stay the same over epochs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Message {
    /// The group of that epoch is of no use any more.
    Abort { epoch: u64, lost: Option<u32>, why: String },
    /// A part of an exchange.
    Share { epoch: u64, number: u64, blob: Vec<u8> },
    /// Who is out, as this rank sees it in a round of the agreement that follows an epoch.
    View { epoch: u64, round: u32, out: u64 },
    /// The agreement that follows an epoch has ended: who is in.
    Decided { epoch: u64, members: u64 },
    /// This rank has ended its last operation of that epoch and goes.
    Leave { epoch: u64 },
    /// The sender goes on without the one who is told, and closes the connection.
    Out,
}

/// The connections to all other ranks, and what came over them.
#[derive(Debug)]
pub(crate) struct Control {
    at: Rendezvous,
    door: Door,
    cards: Vec<Card>,
    links: Vec<Option<Mutex<TcpStream>>>,
    shared: Arc<Shared>,
    wake: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Ranks whose connection has closed, as bits.
    lost: u64,
    /// Somebody has gone on without this rank. It never comes back: all that it could still agree on is to be alone, which
    /// nobody wants who was left behind.
    left_out: bool,
    epoch: u64,
    /// Ranks of this epoch, in its order.
    members: Vec<Rank>,
    abort: Option<Arc<Abort>>,
    inbox: Vec<VecDeque<Message>>,
    /// Aborts of epochs that this rank has not come to yet.
    early: Vec<(Rank, Message)>,
    ended: bool,
}

/// Messages of one rank that may wait to be read: exchanges go in step, so more is a mistake of that rank.
const MAX_WAITING: usize = 64;
const MAX_WHY: usize = 400;
/// A connection that is silent for so long is asked by the system whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

impl Control {
    /// Meets all ranks and starts to look after them. Rank 0 may listen at the rendezvous' address already.
    pub(crate) fn start(
        at: Rendezvous,
        host: Option<&str>,
        listening: Option<TcpListener>,
    ) -> Result<Self, BootstrapError> {
        let io = |what| move |source| BootstrapError::System { what, source };
        let Met { door, cards, control } = bootstrap::meet(&at, host, listening)?;
        let shared = Arc::new(Shared::default());
        shared.lock().inbox = (0..at.ranks).map(|_| VecDeque::new()).collect();
        let (wake_end, wake) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| BootstrapError::System { what: "a pipe", source: error.into() })?;
        let mut watched = Vec::new();
        for (rank, stream) in control.iter().enumerate() {
            let Some(stream) = stream else { continue };
            stream.set_read_timeout(None).map_err(io("a connection"))?;
            keep_alive(stream);
            watched.push((rank, stream.try_clone().map_err(io("a connection"))?));
        }
        let thread = std::thread::Builder::new()
            .name("collectives".into())
            .spawn({
                let shared = shared.clone();
                move || watch(watched, &wake_end, &shared)
            })
            .map_err(io("starting a thread"))?;
        let links = control.into_iter().map(|stream| stream.map(Mutex::new)).collect();
        Ok(Self { at, door, cards, links, shared, wake, thread: Some(thread) })
    }

    /// This rank, as at the bootstrap.
    pub(crate) fn rank(&self) -> Rank {
        self.at.rank
    }

    /// All ranks of the bootstrap.
    pub(crate) fn ranks(&self) -> usize {
        self.at.ranks
    }

    /// Where a rank of the bootstrap takes connections.
    pub(crate) fn address(&self, rank: Rank) -> IpAddr {
        self.cards[rank].listen.ip()
    }

    /// What only the ranks know.
    pub(crate) fn token(&self) -> &[u8] {
        &self.at.token
    }

    /// A number for each host, by rank of the bootstrap.
    pub(crate) fn hosts(&self) -> Vec<usize> {
        let first = |card: &Card| self.cards.iter().position(|other| other.host == card.host).unwrap_or(0);
        self.cards.iter().map(first).collect()
    }

    /// Begins an epoch: from now on, the end of a member aborts it.
    pub(crate) fn enter(&self, epoch: u64, members: &[Rank], abort: &Arc<Abort>) {
        let mut state = self.shared.lock();
        state.epoch = epoch;
        state.members = members.to_vec();
        state.abort = Some(abort.clone());
        let gone = state.lost;
        for rank in members.iter().copied().filter(|rank| gone >> rank & 1 == 1) {
            state.raise_lost(rank, "its connection has closed");
        }
        for (rank, message) in std::mem::take(&mut state.early) {
            state.take(rank, message);
        }
    }

    /// Gives every member this rank's blob; theirs, in the order of `members`.
    pub(crate) fn exchange(
        &self,
        (epoch, number): (u64, u64),
        members: &[Rank],
        blob: Vec<u8>,
        deadline: Instant,
    ) -> Result<Vec<Vec<u8>>, Fault> {
        let message = Message::Share { epoch, number, blob: blob.clone() };
        for rank in members.iter().filter(|rank| **rank != self.at.rank) {
            self.send(*rank, &message, deadline);
        }
        let mut blobs = Vec::with_capacity(members.len());
        for rank in members {
            if *rank == self.at.rank {
                blobs.push(blob.clone());
                continue;
            }
            let found = self.receive(*rank, deadline, |message| match message {
                Message::Share { epoch: theirs, number: which, blob } if (*theirs, *which) == (epoch, number) => {
                    Some(std::mem::take(blob))
                }
                _ => None,
            })?;
            blobs.push(found);
        }
        Ok(blobs)
    }

    /// Tells everybody that the epoch has failed, and why.
    pub(crate) fn abort(&self, epoch: u64, lost: Option<Rank>, why: &str) {
        let why = why.chars().take(MAX_WHY).collect();
        let message = Message::Abort { epoch, lost: lost.map(|rank| rank as u32), why };
        let members = self.shared.lock().members.clone();
        let deadline = Instant::now() + Duration::from_millis(500);
        for rank in members.into_iter().filter(|rank| *rank != self.at.rank) {
            self.send(rank, &message, deadline);
        }
    }

    /// Agrees with all who live on who goes on after `epoch`. Whoever gives no answer within two thirds of the time is out.
    ///
    /// Rounds of flooding: in each, everybody says whom it takes to be out, and whoever hears only its own view decides.
    /// A rank sends one view a round and a decision instead of any later view, so no two decisions differ. Whoever is out
    /// and lives is told so before the connection to it closes, and fails for good: closed connections would look to it
    /// as if all others had died.
    pub(crate) fn agree(&self, epoch: u64, members: &[Rank], timeout: Duration) -> Result<Vec<Rank>, Fault> {
        let all = members.iter().fold(0_u64, |bits, rank| bits | 1 << rank);
        let mut out = 0_u64;
        let end = Instant::now() + timeout;
        if self.shared.lock().left_out {
            return Err(self.without_this_rank());
        }
        // Less for the later rounds, so that a rank that hangs cannot use up the others' time.
        let mut patience = timeout * 2 / 3;
        for round in 0..=2 * members.len() as u32 {
            out |= self.shared.lock().lost & all;
            let deadline = end.min(Instant::now() + patience);
            patience = (patience / 4).max(Duration::from_millis(200));
            let others: Vec<Rank> =
                members.iter().copied().filter(|rank| *rank != self.at.rank && out >> rank & 1 == 0).collect();
            for rank in &others {
                self.send(*rank, &Message::View { epoch, round, out }, deadline);
            }
            let mut agreed = true;
            let mut heard = out;
            for rank in others {
                let pick = |message: &mut Message| match message {
                    Message::View { epoch: theirs, round: when, out } if (*theirs, *when) == (epoch, round) => {
                        Some((*out, None))
                    }
                    Message::Decided { epoch: theirs, members } if *theirs == epoch => Some((0, Some(*members))),
                    _ => None,
                };
                // Somebody is further and has given it up: who began earlier does not wait for who waits as long as that.
                let given_up = |state: &State| {
                    state.inbox.iter().flatten().any(|message| {
                        matches!(message, Message::View { epoch: theirs, round: when, out }
                            if *theirs == epoch && *when > round && out >> rank & 1 == 1)
                    })
                };
                match self.receive_unless(rank, deadline, given_up, pick) {
                    Ok((_, Some(decided))) => return self.decide(epoch, decided, members),
                    Ok((theirs, None)) => {
                        agreed &= theirs == out;
                        heard |= theirs;
                    }
                    Err(_) => {
                        // It may only hang: then it finds out that it is out.
                        self.leave_out(rank);
                        agreed = false;
                        heard |= 1 << rank;
                    }
                }
            }
            out = heard;
            if out >> self.at.rank & 1 == 1 || self.shared.lock().left_out {
                return Err(self.without_this_rank());
            }
            if agreed {
                return self.decide(epoch, all & !out, members);
            }
            if Instant::now() >= end {
                break;
            }
        }
        Err(Fault::Timeout { after: timeout })
    }

    fn without_this_rank(&self) -> Fault {
        Fault::Lost { rank: self.at.rank, how: "the others go on without this rank, which came too late".into() }
    }

    fn decide(&self, epoch: u64, decided: u64, members: &[Rank]) -> Result<Vec<Rank>, Fault> {
        let deadline = Instant::now() + Duration::from_millis(500);
        for rank in members.iter().copied().filter(|rank| *rank != self.at.rank && decided >> rank & 1 == 1) {
            self.send(rank, &Message::Decided { epoch, members: decided }, deadline);
        }
        if decided >> self.at.rank & 1 == 0 {
            return Err(self.without_this_rank());
        }
        Ok(members.iter().copied().filter(|rank| decided >> rank & 1 == 1).collect())
    }

    /// Connections for data between members, `count` to each; by member, then by connection.
    pub(crate) fn connect(
        &self,
        epoch: u64,
        members: &[Rank],
        count: usize,
        deadline: Instant,
    ) -> Result<Vec<Vec<TcpStream>>, BootstrapError> {
        let mut links: Vec<Vec<TcpStream>> = members.iter().map(|_| Vec::with_capacity(count)).collect();
        for index in 0..count {
            let one =
                bootstrap::connect_data(&self.at, &self.door, &self.cards, members, (epoch, index as u32), deadline)?;
            for (to, stream) in links.iter_mut().zip(one) {
                to.extend(stream);
            }
        }
        Ok(links)
    }

    fn send(&self, rank: Rank, message: &Message, deadline: Instant) {
        let Some(link) = &self.links[rank] else { return };
        let mut stream = link.lock().unwrap_or_else(PoisonError::into_inner);
        let time = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let sent = bootstrap::encode(message).and_then(|bytes| {
            stream.set_write_timeout(Some(time))?;
            stream.write_all(&bytes)
        });
        if let Err(error) = sent {
            tracing::debug!(rank, %error, "a message could not be sent");
            // Half a message may have gone out: nothing after it would be understood. The watching thread sees the end.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Tells a rank that it is out, and hangs up.
    fn leave_out(&self, rank: Rank) {
        self.send(rank, &Message::Out, Instant::now() + Duration::from_millis(200));
        if let Some(link) = &self.links[rank] {
            // It is gone already where this fails.
            let _ = link.lock().unwrap_or_else(PoisonError::into_inner).shutdown(Shutdown::Both);
        }
    }

    fn receive<T>(
        &self,
        rank: Rank,
        deadline: Instant,
        pick: impl FnMut(&mut Message) -> Option<T>,
    ) -> Result<T, Fault> {
        self.receive_unless(rank, deadline, |_| false, pick)
    }

    fn receive_unless<T>(
        &self,
        rank: Rank,
        deadline: Instant,
        given_up: impl Fn(&State) -> bool,
        mut pick: impl FnMut(&mut Message) -> Option<T>,
    ) -> Result<T, Fault> {
        let began = Instant::now();
        let mut state = self.shared.lock();
        loop {
            let inbox = &mut state.inbox[rank];
            for at in 0..inbox.len() {
                if let Some(found) = pick(&mut inbox[at]) {
                    // Others of its kind may follow; what came before it for something else stays.
                    inbox.remove(at);
                    return Ok(found);
                }
            }
            if state.lost >> rank & 1 == 1 {
                return Err(Fault::Lost { rank, how: "its connection has closed".into() });
            }
            if state.left_out {
                return Err(self.without_this_rank());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || given_up(&state) {
                return Err(Fault::Timeout { after: began.elapsed() });
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let (epoch, members) = {
            let state = self.shared.lock();
            (state.epoch, state.members.clone())
        };
        let deadline = Instant::now() + Duration::from_millis(200);
        for rank in members.into_iter().filter(|rank| *rank != self.at.rank) {
            self.send(rank, &Message::Leave { epoch }, deadline);
        }
        self.shared.lock().ended = true;
        // The thread ends with the pipe in any case.
        let _ = rustix::io::write(&self.wake, &[0]);
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported where it happened.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn position(&self, rank: Rank) -> Option<Rank> {
        self.members.iter().position(|member| *member == rank)
    }

    fn raise_lost(&mut self, rank: Rank, how: &str) {
        if let (Some(at), Some(abort)) = (self.position(rank), &self.abort) {
            abort.raise(Fault::Lost { rank: at, how: how.into() });
        }
    }

    fn take(&mut self, from: Rank, message: Message) {
        match message {
            Message::Abort { epoch, .. } if epoch > self.epoch => {
                if self.early.len() < MAX_WAITING {
                    self.early.push((from, message));
                }
            }
            Message::Abort { epoch, lost, why } => {
                let (Some(by), Some(abort)) = (self.position(from), &self.abort) else { return };
                if epoch != self.epoch {
                    return;
                }
                let lost = lost.and_then(|rank| self.position(rank as usize));
                abort.raise(match lost {
                    Some(rank) => Fault::Lost { rank, how: why },
                    None => Fault::Aborted { by, why },
                });
            }
            Message::Leave { epoch } => {
                if epoch == self.epoch
                    && let (Some(at), Some(abort)) = (self.position(from), &self.abort)
                {
                    abort.leave(at);
                }
            }
            Message::Out => {
                self.left_out = true;
                self.raise_lost(from, "it goes on without this rank, which came too late");
            }
            other => {
                let inbox = &mut self.inbox[from];
                if inbox.len() == MAX_WAITING {
                    inbox.pop_front();
                }
                inbox.push_back(other);
            }
        }
    }
}

fn keep_alive(stream: &TcpStream) {
    // Where the system cannot, a host that vanishes is noticed by the deadlines of operations.
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, KEEP_ALIVE);
    let _ = sockopt::set_tcp_keepintvl(stream, KEEP_ALIVE);
    let _ = sockopt::set_tcp_keepcnt(stream, 3);
}

/// One connection's bytes that make no whole message yet.
#[derive(Debug)]
struct Incoming {
    rank: Rank,
    stream: TcpStream,
    bytes: Vec<u8>,
}

/// Reads all connections until told to end.
fn watch(streams: Vec<(Rank, TcpStream)>, wake: &OwnedFd, shared: &Shared) {
    let mut open: Vec<Incoming> =
        streams.into_iter().map(|(rank, stream)| Incoming { rank, stream, bytes: Vec::new() }).collect();
    loop {
        let mut fds = vec![PollFd::new(wake, PollFlags::IN)];
        fds.extend(open.iter().map(|incoming| PollFd::new(&incoming.stream, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "connections can no longer be watched");
                return;
            }
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        if shared.lock().ended {
            return;
        }
        let mut ready = ready.into_iter().skip(1);
        open.retain_mut(|incoming| !ready.next().unwrap_or(false) || read_some(incoming, shared));
    }
}

/// False where the connection has ended.
fn read_some(incoming: &mut Incoming, shared: &Shared) -> bool {
    let mut chunk = [0; 16 << 10];
    let (why, goes_on) = match recv(&incoming.stream, &mut chunk, RecvFlags::DONTWAIT) {
        Ok((0, _)) => ("its process has ended or its connection has closed".to_owned(), false),
        Ok((read, _)) => {
            incoming.bytes.extend_from_slice(&chunk[..read]);
            match take_messages(incoming, shared) {
                Ok(()) => (String::new(), true),
                Err(error) => (format!("it sent what cannot be read: {error}"), false),
            }
        }
        Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => (String::new(), true),
        Err(error) => (format!("its connection failed: {error}"), false),
    };
    if !goes_on {
        let mut state = shared.lock();
        state.lost |= 1 << incoming.rank;
        let left = state.position(incoming.rank);
        let left = left.is_some_and(|at| state.abort.as_ref().is_some_and(|abort| abort.has_left(at)));
        if !left {
            state.raise_lost(incoming.rank, &why);
        }
        shared.changed.notify_all();
    }
    goes_on
}

fn take_messages(incoming: &mut Incoming, shared: &Shared) -> std::io::Result<()> {
    let mut used = 0;
    while let Some(length) = incoming.bytes.get(used..used + 4) {
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
        if length > bootstrap::max_frame() {
            return Err(std::io::Error::other("a message is too long"));
        }
        let Some(body) = incoming.bytes.get(used + 4..used + 4 + length) else { break };
        let message = bootstrap::decode(body)?;
        used += 4 + length;
        shared.lock().take(incoming.rank, message);
        shared.changed.notify_all();
    }
    incoming.bytes.drain(..used);
    Ok(())
}
