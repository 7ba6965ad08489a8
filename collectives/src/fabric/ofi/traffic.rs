//! What comes in and goes out: completions, messages and puts, one attempt at a time.

use super::endpoint::{Event, Flight, Refused};
use super::offer::packet_place;
use super::peer::{Item, What, owed};
use super::wire::{HEAD, Kind, Message, Note};
use super::{Data, OfiFabric};
use crate::fabric::Raw;
use crate::fault::Fault;
use crate::plan::Rank;

impl OfiFabric {
    /// Takes in what has come, and sends what is owed.
    pub(super) fn look(&mut self) -> Result<(), Fault> {
        let mut events = std::mem::take(&mut self.events);
        let looked = self.endpoint.look(&mut events);
        // All of them, also after a fault: what has been sent is what a farewell waits for.
        let mut taken = Ok(());
        for event in events.drain(..) {
            taken = taken.and(self.take_in(event));
        }
        self.events = events;
        looked?;
        taken?;
        if self.owing != 0 { self.pay() } else { Ok(()) }
    }

    fn take_in(&mut self, event: Event) -> Result<(), Fault> {
        match event {
            Event::Sent(Flight { peer, put }) => {
                self.puts -= u64::from(put);
                self.peer_mut(peer).puts -= u64::from(put);
                Ok(())
            }
            Event::Landed(data) => self.landed(data),
            Event::Message { slot, bytes } => {
                let taken = self.message(slot, bytes);
                self.endpoint.repost(slot)?;
                taken
            }
            Event::Failed { flight: Some(Flight { peer, put }), why } => {
                self.puts -= u64::from(put);
                self.peer_mut(peer).puts -= u64::from(put);
                self.lose(peer, format!("a transfer to it failed: {why}"));
                Ok(())
            }
            Event::Failed { flight: None, why } => Err(Fault::System { what: "a transfer", why }),
        }
    }

    /// A put has landed.
    fn landed(&mut self, data: u64) -> Result<(), Fault> {
        let (note, tag) = (Note::unpack(data as u32), (data >> 32) as u32);
        let Some(Some(peer)) = self.peers.get(note.from) else { return Ok(()) };
        if !note.is_of(self.epoch) {
            return Ok(());
        }
        let item = Item {
            what: What::Put { signal: note.signal },
            sequence: note.full_sequence(self.sequence),
            tag: (self.data == Data::Tagged).then_some(tag),
        };
        self.arrived(note.from, note.full_index(peer.got()), item)
    }

    /// A message has come.
    fn message(&mut self, slot: usize, bytes: usize) -> Result<(), Fault> {
        let at = self.endpoint.message(slot);
        // SAFETY: a slot has place for a message, and nobody writes to it before it is posted again. It was zeroed
        // once.
        let head = unsafe { at.cast::<[u8; HEAD]>().read() };
        let Some(message) = Message::decode(&head).filter(|message| HEAD + message.bytes == bytes) else {
            tracing::debug!(bytes, "a message that is none of ours");
            return Ok(());
        };
        let Some(Some(peer)) = self.peers.get_mut(message.from) else { return Ok(()) };
        if message.epoch != self.epoch as u32 {
            return Ok(());
        }
        if !peer.acknowledge(message.got) {
            return Err(broken(message.from, "it has got more than it was sent"));
        }
        let index = message.full_index(peer.got());
        if message.kind == Kind::Packet {
            let place = packet_place(self.packets.raw(), message.from, message.sequence);
            // SAFETY: the slot has so many bytes, and so has the place, which is for this operation of this sender: it
            // has heard that we have ended the one that used the place before.
            unsafe { place.copy_from_nonoverlapping(at.add(HEAD), message.bytes) };
        }
        let item = Item { what: What::Message(message.kind), sequence: message.sequence, tag: Some(message.tag) };
        self.arrived(message.from, index, item)
    }

    fn arrived(&mut self, from: Rank, index: u64, item: Item) -> Result<(), Fault> {
        let peer = self.peer_mut(from);
        if !peer.arrive(index, item) {
            return Err(broken(from, "something came twice, or too early"));
        }
        while let Some(item) = self.peer_mut(from).take() {
            self.take_item(from, item)?;
        }
        let from_it = self.peer(from);
        let owes = from_it.owes != 0 && !from_it.gone;
        self.owing |= u64::from(owes) << from;
        Ok(())
    }

    /// The next thing from a peer, in the order in which it was sent.
    fn take_item(&mut self, from: Rank, item: Item) -> Result<(), Fault> {
        let (here, ended) = (self.sequence, self.ended);
        let peer = self.peer_mut(from);
        let Item { what, sequence, tag } = item;
        match what {
            What::Put { signal } => {
                if signal {
                    peer.signal(sequence, here);
                }
                peer.hear(sequence, tag);
            }
            What::Message(Kind::Signal) => {
                peer.signal(sequence, here);
                peer.hear(sequence, tag);
            }
            What::Message(Kind::Packet) => {
                peer.packets[(sequence % 2) as usize] = sequence;
                peer.hear(sequence, tag);
            }
            What::Message(Kind::Refuse) => peer.hear(sequence, tag),
            What::Message(Kind::Hello) => peer.greeted = true,
            What::Message(Kind::Ended) => peer.ended = peer.ended.max(sequence),
            What::Message(Kind::Ask) => peer.ask(sequence, ended),
            What::Message(Kind::Credit) => {}
            What::Message(Kind::Leave) => {
                peer.left = Some(sequence);
                // It waits until all it sent has come.
                peer.owes = owed::CREDIT;
            }
            What::Message(Kind::Gone) => {
                self.lose(from, "it gave up in the middle of an operation".into());
                self.blame(from, tag);
                // In this one: what it put may have changed before it was taken.
                if self.open
                    && sequence <= here
                    && let Some(fault) = &self.lost
                {
                    return Err(fault.clone());
                }
            }
        }
        if self.open { self.same_operation(from) } else { Ok(()) }
    }

    /// A peer has gone, and not in order. What it sent before still counts: only a wait that is not over is.
    fn lose(&mut self, rank: Rank, how: String) {
        let peer = self.peer_mut(rank);
        peer.owes = 0;
        peer.gone = true;
        if peer.left.is_none() {
            self.lost.get_or_insert(Fault::Lost { rank, how });
        }
    }

    /// A peer has gone because of another one: it is that which is lost.
    fn blame(&mut self, from: Rank, whom: Option<u32>) {
        let whom = self.others().find(|other| Some(*other as u32) == whom && *other != from);
        if let Some(rank) = whom
            && let Some(Fault::Lost { rank: lost, how }) = &mut self.lost
            && *lost == from
        {
            (*lost, *how) = (rank, format!("rank {from} says so, and has given up"));
        }
    }

    /// Whether the peer is in the same operation and calls it something else.
    pub(super) fn same_operation(&self, peer: Rank) -> Result<(), Fault> {
        match self.peer(peer).other_tag(self.sequence, self.tag) {
            Some(theirs) => Err(Fault::Mismatch { rank: peer, ours: self.tag, theirs }),
            None => Ok(()),
        }
    }

    /// Sends what is owed, as far as that goes now.
    pub(super) fn pay(&mut self) -> Result<(), Fault> {
        for peer in self.others() {
            while self.owing >> peer & 1 == 1 {
                let owes = self.peer(peer).owes;
                let asked = self.sequence.saturating_sub(2);
                let (what, kind, sequence) = match owes {
                    0 => {
                        self.owing &= !(1 << peer);
                        break;
                    }
                    owes if owes & owed::ENDED != 0 => (owed::ENDED, Kind::Ended, self.ended),
                    owes if owes & owed::ASK != 0 => (owed::ASK, Kind::Ask, asked),
                    _ => (owed::CREDIT, Kind::Credit, 0),
                };
                match self.send(peer, kind, sequence) {
                    Ok(true) => self.peer_mut(peer).owes &= !what,
                    Ok(false) => break,
                    Err(Fault::Lost { rank, how }) => self.lose(rank, how),
                    Err(fault) => return Err(fault),
                }
            }
        }
        Ok(())
    }

    /// Sends a message without a packet. False: not now.
    pub(super) fn send(&mut self, peer: Rank, kind: Kind, sequence: u64) -> Result<bool, Fault> {
        // SAFETY: no bytes are read.
        unsafe { self.send_with(peer, kind, sequence, self.tag, Raw::EMPTY.at, 0) }
    }

    /// Says that this rank goes in the middle of an operation, because of that rank. False: not now.
    pub(super) fn send_gone(&mut self, peer: Rank, because_of: Rank) -> Result<bool, Fault> {
        let operation = if self.open { self.sequence } else { self.sequence + 1 };
        // SAFETY: no bytes are read.
        unsafe { self.send_with(peer, Kind::Gone, operation, because_of as u32, Raw::EMPTY.at, 0) }
    }

    /// Sends a message with a packet. False: not now.
    ///
    /// # Safety
    /// `bytes` from `from` are readable, and at most [`PACKET_BYTES`].
    pub(super) unsafe fn send_with(
        &mut self,
        peer: Rank,
        kind: Kind,
        sequence: u64,
        tag: u32,
        from: *const u8,
        bytes: usize,
    ) -> Result<bool, Fault> {
        let (rank, epoch) = (self.rank, self.epoch as u32);
        let to = self.peer(peer);
        let of_operation = matches!(kind, Kind::Signal | Kind::Packet);
        if !to.has_room(of_operation) {
            return Ok(false);
        }
        let (remote, index, got) = (to.remote, to.index() as u32, to.got() as u32);
        let head = Message { kind, from: rank, bytes, epoch, sequence, tag, index, got }.encode();
        // SAFETY: readable, says the caller.
        let sent = unsafe { self.endpoint.send(peer, remote, &head, from, bytes) };
        if !sent.map_err(|refused| unsent(peer, refused))? {
            return Ok(false);
        }
        let to = self.peer_mut(peer);
        to.sent_message();
        if of_operation {
            to.wrote(sequence);
        }
        Ok(true)
    }

    /// Begins a put that is short enough for the provider. False: not now.
    ///
    /// # Safety
    /// `bytes` from `from` stay readable until it has left.
    pub(super) unsafe fn write(
        &mut self,
        peer: Rank,
        from: *const u8,
        bytes: usize,
        offset: usize,
        signal: bool,
    ) -> Result<bool, Fault> {
        let to = self.peer(peer);
        let remote = to.remote;
        let data = if self.data == Data::None {
            None
        } else if to.has_room(true) {
            let (index, from) = (to.index(), self.rank);
            let note = Note { epoch: self.epoch, from, index, sequence: self.sequence, signal }.pack();
            Some(u64::from(note) | if self.data == Data::Tagged { u64::from(self.tag) << 32 } else { 0 })
        } else {
            return Ok(false);
        };
        // SAFETY: stays, says the caller.
        let written = unsafe { self.endpoint.write(peer, remote, from, bytes, offset, data) };
        if !written.map_err(|refused| unsent(peer, refused))? {
            return Ok(false);
        }
        let sequence = self.sequence;
        self.puts += 1;
        let to = self.peer_mut(peer);
        to.puts += 1;
        if data.is_some() {
            to.sent(sequence);
        }
        Ok(true)
    }
}

fn broken(rank: Rank, what: &str) -> Fault {
    Fault::Protocol { rank, what: what.to_owned() }
}

fn unsent(rank: Rank, refused: Refused) -> Fault {
    if refused.peer {
        Fault::Lost { rank, how: format!("nothing can be sent to it: {}", refused.why) }
    } else {
        Fault::System { what: "a transfer", why: refused.why }
    }
}
