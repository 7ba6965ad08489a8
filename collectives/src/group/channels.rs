//! Channels by hand: one operation of puts, signals, packets and waits between the ranks of a group, without a plan.
//!
//! For patterns that no collective has: a halo exchange, a pipeline's stages, a lock. Everything that holds for
//! collectives holds here: the deadline, the abort, the names of the missing, the intact memory.

use super::Group;
use crate::error::CollectiveError;
use crate::fabric::{Entry, Fabric, Raw, Target};
use crate::fault::Fault;
use crate::patience::Patience;
use crate::plan::Rank;

/// One rank's channels to the others, for one operation. `'data` outlives the operation: what is put may be read until
/// it ends.
///
/// The semantics are those of [`Fabric`]: puts to a peer land in any order; a signal is a release of all puts before it,
/// and waiting for it an acquire; signals are counted, and one wait consumes one.
#[derive(Debug)]
pub struct Channels<'a, 'data> {
    fabric: &'a mut dyn Fabric,
    patience: Patience<'a>,
    rank: Rank,
    /// By peer: signals and packets that were sent, and that were waited for.
    sent: Vec<[u64; 2]>,
    taken: Vec<[u64; 2]>,
    /// What was done last, for errors.
    last: (&'static str, Option<Rank>),
    /// The first fault: everything fails after it, whatever the body makes of it.
    fault: Option<Fault>,
    /// Of every rank: they may have been given different amounts.
    scratch_bytes: usize,
    data: std::marker::PhantomData<&'data [u8]>,
}

/// Which of a pair is counted.
const SIGNALS: usize = 0;
const PACKETS: usize = 1;

impl<'data> Channels<'_, 'data> {
    /// This rank.
    pub fn rank(&self) -> Rank {
        self.rank
    }

    /// How many there are.
    pub fn ranks(&self) -> usize {
        self.sent.len()
    }

    /// Bytes of scratch of each rank that puts of this operation may write to. It is not zeroed.
    pub fn scratch_bytes(&self) -> usize {
        self.scratch_bytes
    }

    /// Bytes of a packet to `peer` at most.
    ///
    /// # Errors
    /// Where there is no such peer.
    pub fn packet_bytes(&self, peer: Rank) -> Result<usize, Fault> {
        self.other(peer)?;
        Ok(self.fabric.reach(peer).packet_bytes)
    }

    /// Writes `from` into the peer's scratch, `to` bytes from its start.
    ///
    /// # Errors
    /// A [`Fault`]; after one, the operation is over.
    pub fn put(&mut self, peer: Rank, from: &'data [u8], to: usize) -> Result<(), Fault> {
        self.write(peer, from, to, false)
    }

    /// [`Channels::put`], and a signal after it.
    ///
    /// # Errors
    /// As [`Channels::put`].
    pub fn put_with_signal(&mut self, peer: Rank, from: &'data [u8], to: usize) -> Result<(), Fault> {
        self.write(peer, from, to, true)
    }

    fn write(&mut self, peer: Rank, from: &'data [u8], to: usize, signal: bool) -> Result<(), Fault> {
        self.will("room for data", peer)?;
        if to.checked_add(from.len()).is_none_or(|end| end > self.scratch_bytes) {
            let why = format!("{} bytes at {to} are outside {} bytes of scratch", from.len(), self.scratch_bytes());
            return Err(Fault::System { what: "a put", why });
        }
        self.sent[peer][SIGNALS] += u64::from(signal);
        // SAFETY: `from` lives longer than the operation, and is not written to while it is borrowed.
        let done = unsafe {
            self.fabric.put(peer, from.as_ptr(), from.len(), Target::Scratch(to), signal, &mut self.patience)
        };
        self.noted(done)
    }

    /// Raises the peer's count of this rank's signals by one, after all earlier puts to it.
    ///
    /// # Errors
    /// As [`Channels::put`].
    pub fn signal(&mut self, peer: Rank) -> Result<(), Fault> {
        self.will("room for a signal", peer)?;
        self.sent[peer][SIGNALS] += 1;
        let done = self.fabric.signal(peer, &mut self.patience);
        self.noted(done)
    }

    /// Waits for the next signal of `peer` and consumes it.
    ///
    /// # Errors
    /// As [`Channels::put`].
    pub fn wait(&mut self, peer: Rank) -> Result<(), Fault> {
        self.will("a signal", peer)?;
        self.taken[peer][SIGNALS] += 1;
        let done = self.fabric.wait(peer, &mut self.patience);
        self.noted(done)
    }

    /// Whether [`Channels::wait`] would return at once. A peer whose body has ended signals that, too: wait as often as
    /// something is to come, not as long as something is there.
    ///
    /// # Errors
    /// As [`Channels::put`].
    pub fn poll(&mut self, peer: Rank) -> Result<bool, Fault> {
        self.will("a look at the signals", peer)?;
        let there = self.fabric.poll(peer);
        self.noted(there)
    }

    /// Sends a packet: at most one to each peer, of at most [`Channels::packet_bytes`]. It needs no signal.
    ///
    /// # Errors
    /// As [`Channels::put`].
    pub fn packet(&mut self, peer: Rank, from: &[u8]) -> Result<(), Fault> {
        self.will("room for a packet", peer)?;
        if from.len() > self.packet_bytes(peer)? || self.sent[peer][PACKETS] > 0 {
            let why = format!("at most one of {} bytes goes to each peer", self.packet_bytes(peer)?);
            return Err(Fault::System { what: "a packet", why });
        }
        self.sent[peer][PACKETS] += 1;
        // SAFETY: a slice, and within the limit.
        let done = unsafe { self.fabric.packet(peer, from.as_ptr(), from.len(), &mut self.patience) };
        self.noted(done)
    }

    /// Waits for the packet of `peer`, and copies its first bytes out.
    ///
    /// # Errors
    /// As [`Channels::put`].
    pub fn wait_packet(&mut self, peer: Rank, into: &mut [u8]) -> Result<(), Fault> {
        self.will("the packet", peer)?;
        if into.len() > self.packet_bytes(peer)? {
            let why = format!("{} bytes are more than a packet's {}", into.len(), self.packet_bytes(peer)?);
            return Err(Fault::System { what: "a packet", why });
        }
        self.taken[peer][PACKETS] = 1;
        let from = self.fabric.wait_packet(peer, &mut self.patience);
        let from = self.noted(from)?;
        // SAFETY: a packet's place has as many bytes as a packet may have, and stays until the operation ends.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    /// Copies out of this rank's scratch, from `from` on. What a peer has put is there once its signal was waited for.
    ///
    /// # Errors
    /// [`Fault::System`] outside the scratch.
    pub fn read(&self, from: usize, into: &mut [u8]) -> Result<(), Fault> {
        let scratch = self.fabric.scratch();
        if from.checked_add(into.len()).is_none_or(|end| end > self.scratch_bytes) {
            let why = format!("{} bytes at {from} are outside {} bytes of scratch", into.len(), self.scratch_bytes());
            return Err(Fault::System { what: "reading scratch", why });
        }
        // SAFETY: within the scratch. A peer that writes there meanwhile, against the rules, may tear the bytes, which
        // are plain data.
        unsafe { std::ptr::copy_nonoverlapping(scratch.at.add(from).cast_const(), into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    /// Returns once all puts to `peer` have been taken out of this rank's memory.
    ///
    /// # Errors
    /// As [`Channels::put`].
    pub fn flush(&mut self, peer: Rank) -> Result<(), Fault> {
        self.will("puts to be taken", peer)?;
        let done = self.fabric.flush(peer, &mut self.patience);
        self.noted(done)
    }

    fn will(&mut self, what: &'static str, peer: Rank) -> Result<(), Fault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let other = self.other(peer);
        self.noted(other)?;
        self.last = (what, Some(peer));
        Ok(())
    }

    fn noted<T>(&mut self, done: Result<T, Fault>) -> Result<T, Fault> {
        done.inspect_err(|fault| _ = self.fault.get_or_insert_with(|| fault.clone()))
    }

    fn other(&self, peer: Rank) -> Result<(), Fault> {
        if peer < self.ranks() && peer != self.rank {
            return Ok(());
        }
        let why = format!("rank {} has one to every other of {} ranks, not to {peer}", self.rank, self.ranks());
        Err(Fault::System { what: "a channel", why })
    }

    fn others(&self) -> impl Iterator<Item = Rank> + use<> {
        let rank = self.rank;
        (0..self.ranks()).filter(move |peer| *peer != rank)
    }

    /// One last signal to and of everybody: all puts have landed, and all bodies have ended.
    fn settle(&mut self) -> Result<(), Fault> {
        self.others().try_for_each(|peer| self.signal(peer))?;
        self.others().try_for_each(|peer| self.wait(peer))
    }

    /// Every signal and packet that was sent must have been waited for: what is left over would be taken for that of a
    /// later operation. Ranks tell each other how many there were.
    fn close(&mut self) -> Result<(), Fault> {
        for peer in self.others() {
            self.last = ("room for the counts", Some(peer));
            let counts = self.sent[peer];
            // SAFETY: sixteen bytes of this stack; every transport's packets are larger.
            unsafe { self.fabric.packet(peer, counts.as_ptr().cast(), size_of_val(&counts), &mut self.patience)? };
        }
        for peer in self.others() {
            self.last = ("the counts", Some(peer));
            let at = self.fabric.wait_packet(peer, &mut self.patience)?;
            // SAFETY: the packet of a peer that is in the same operation: two counts.
            let [signals, packets] = unsafe { at.cast::<[u64; 2]>().read_unaligned() };
            let taken = self.taken[peer];
            if [signals, packets] != taken {
                let what = format!(
                    "it sent {} signals and {packets} packets, and {} and {} were waited for",
                    signals.saturating_sub(1),
                    taken[SIGNALS].saturating_sub(1),
                    taken[PACKETS]
                );
                return Err(Fault::Protocol { rank: peer, what });
            }
        }
        Ok(())
    }
}

impl Group {
    /// An operation by hand: `body` uses the channels, every rank under the same `name`, and the operation ends when all
    /// ranks' bodies have.
    ///
    /// ```no_run
    /// # fn example(group: &mut swarmloom_collectives::Group) -> Result<(), swarmloom_collectives::CollectiveError> {
    /// // Everybody gives its right neighbour a halo.
    /// let halo = vec![group.rank() as u8; 4096];
    /// let mut from_left = vec![0; 4096];
    /// group.channels("halo", |channels| {
    ///     let (rank, ranks) = (channels.rank(), channels.ranks());
    ///     channels.put_with_signal((rank + 1) % ranks, &halo, 0)?;
    ///     channels.wait((rank + ranks - 1) % ranks)?;
    ///     channels.read(0, &mut from_left)
    /// })
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`CollectiveError::Failed`] with the body's fault, or with [`Fault::Protocol`] where a rank has not waited for
    /// all that was sent to it. The group then does nothing more until it has shrunk.
    pub fn channels<'data, T>(
        &mut self,
        name: &str,
        body: impl FnOnce(&mut Channels<'_, 'data>) -> Result<T, Fault>,
    ) -> Result<T, CollectiveError> {
        self.usable()?;
        // Until it is over, this call has it: a body that panics takes it along, and with it whatever is under way.
        let mut carrier = self.carrier.take().ok_or_else(super::gone)?;
        // FNV-1a; never 0.
        let hash = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        let tag = name.as_bytes().iter().fold(0x811c_9dc5, hash) | 1;
        let first = self.sequence + 1;
        self.sequence += 2;
        let entry = |sequence| Entry { sequence, tag, input: Raw::EMPTY, output: Raw::EMPTY };
        let ranks = self.members.len();
        let mut channels = Channels {
            fabric: carrier.get_mut(),
            patience: Patience::new(&self.abort, self.config.timeout, self.ladder),
            rank: self.rank,
            sent: vec![[0; 2]; ranks],
            taken: vec![[0; 2]; ranks],
            last: ("room in the scratch", None),
            fault: None,
            scratch_bytes: self.layout.scratch_bytes,
            data: std::marker::PhantomData,
        };
        let done = (|| {
            // All of its half.
            channels.fabric.use_scratch(0, false);
            // SAFETY: no memory of the caller's.
            unsafe { channels.fabric.begin(&entry(first), &mut channels.patience)? };
            let value = body(&mut channels)?;
            if let Some(fault) = channels.fault.take() {
                return Err(fault);
            }
            channels.settle()?;
            channels.last = ("puts to be taken", None);
            channels.fabric.end(&mut channels.patience)?;
            channels.last = ("room in the scratch", None);
            // SAFETY: no memory of the caller's.
            unsafe { channels.fabric.begin(&entry(first + 1), &mut channels.patience)? };
            channels.close()?;
            channels.fabric.end(&mut channels.patience)?;
            Ok(value)
        })();
        let (what, on) = channels.last;
        self.carrier = Some(carrier);
        done.map_err(|fault| {
            let awaited = on.map_or_else(|| what.to_owned(), |peer| format!("{what} (rank {peer})"));
            self.fail("channels", awaited, on, fault)
        })
    }
}

#[cfg(test)]
mod tests {
    use swarmloom_kernels::reduce::ReduceOp;

    use super::super::tests::{config, with_group};
    use super::*;
    use crate::Transport;

    const EVERY: [Transport; 2] = [Transport::Shm, Transport::Tcp];

    #[test]
    fn a_halo_goes_around_and_collectives_go_on() {
        for transport in EVERY {
            with_group(3, &config(transport), |mut group| {
                for round in 0..20_u8 {
                    let (rank, ranks) = (group.rank(), group.ranks());
                    let halo = vec![rank as u8 * 50 + round; 5000];
                    let (right, left) = ((rank + 1) % ranks, (rank + ranks - 1) % ranks);
                    let (mut from_left, mut mail) = (vec![0; 5000], [0; 3]);
                    let looked = group.channels("halo", |channels| {
                        channels.packet(left, &[rank as u8, round, 7])?;
                        channels.put(right, &halo[..2500], 100)?;
                        channels.put_with_signal(right, &halo[2500..], 2600)?;
                        channels.signal(right)?;
                        channels.flush(right)?;
                        channels.wait(left)?;
                        channels.wait(left)?;
                        channels.read(100, &mut from_left)?;
                        channels.wait_packet(right, &mut mail)?;
                        channels.poll(left)
                    });
                    // The closing signal may be there already.
                    looked.expect("a halo");
                    assert_eq!(from_left, vec![left as u8 * 50 + round; 5000]);
                    assert_eq!(mail, [right as u8, round, 7]);
                    let mut sum = [0_i64];
                    group.all_reduce(&[rank as i64], &mut sum, ReduceOp::Sum).expect("a sum");
                    assert_eq!(sum, [3]);
                }
            });
        }
    }

    #[test]
    fn what_was_not_waited_for_is_told_and_nothing_later_takes_it() {
        for transport in EVERY {
            let errors = with_group(2, &config(transport), |mut group| {
                let peer = 1 - group.rank();
                let careless = group.rank() == 0;
                let error = group.channels("one too many", |channels| {
                    if careless {
                        channels.signal(peer)?;
                    }
                    Ok(())
                });
                // Who sent one too many may have ended before it hears of it.
                (error.err().map(|error| error.to_string()).unwrap_or_default(), group.barrier().is_err())
            });
            // TCP may see the signal itself first, in an operation that it is not of.
            let said = errors[1].0.split_once("rank 0 broke the protocol: ").map_or("", |(_, said)| said);
            let counted = said == "it sent 1 signals and 0 packets, and 0 and 0 were waited for";
            let seen = transport == Transport::Tcp && said == "a frame of operation 1 in operation 2";
            assert!(counted || seen, "{errors:?}");
            assert!(errors.iter().all(|(_, poisoned)| *poisoned));
        }
    }

    #[test]
    fn mistakes_are_faults() {
        type Mistake = fn(&mut Channels<'_, 'static>) -> Result<(), Fault>;
        let mistakes: [(&str, Mistake); 5] = [
            ("to itself", |channels| channels.signal(channels.rank())),
            ("to nobody", |channels| channels.wait(9)),
            ("outside", |channels| channels.put(1 - channels.rank(), &[1; 8], usize::MAX - 3)),
            ("too long", |channels| channels.packet(1 - channels.rank(), &[0; 100_000])),
            ("beyond", |channels| channels.read(channels.scratch_bytes() - 1, &mut [0; 2])),
        ];
        for (what, mistake) in mistakes {
            with_group(2, &config(Transport::Shm), |mut group| {
                let error = group.channels("mistakes", mistake).expect_err(what);
                assert!(matches!(error, CollectiveError::Failed { collective: "channels", .. }), "{what}: {error}");
            });
        }
    }

    #[test]
    fn other_names_are_other_operations() {
        for transport in EVERY {
            let errors = with_group(2, &config(transport), |mut group| {
                let (name, peer) = (if group.rank() == 0 { "one" } else { "other" }, 1 - group.rank());
                let error = group.channels(name, |channels| channels.signal(peer).and_then(|()| channels.wait(peer)));
                error.expect_err("they differ").to_string()
            });
            assert!(errors.iter().any(|error| error.contains("called something else")), "{errors:?}");
        }
    }
}
