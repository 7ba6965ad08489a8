//! What can be said of each step alone: lengths, bounds, and what the layout allows.

use super::order::Kind;
use super::refusal::Refusal;
use crate::plan::{Buffer, Collective, Layout, MAX_RANKS, Place, Plan, Rank, Slice, Step};

/// Elements of the buffers of each rank.
#[derive(Debug)]
pub(super) struct Lengths {
    pub(super) inputs: Vec<usize>,
    pub(super) outputs: Vec<usize>,
    pub(super) scratch: usize,
    /// By sender and receiver: of the packet, 0 where there is none.
    pub(super) packets: Vec<usize>,
}

/// Checks the plan as a whole and every step of it.
pub(super) fn check(plan: &Plan, layout: &Layout) -> Result<Lengths, Refusal> {
    let ranks = plan.ranks();
    whole(plan, layout)?;
    let mut lengths = Lengths {
        inputs: (0..ranks).map(|rank| plan.collective.input_len(rank)).collect(),
        outputs: (0..ranks).map(|rank| plan.collective.output_len(rank)).collect(),
        scratch: plan.scratch,
        packets: vec![0; ranks * ranks],
    };
    for (rank, program) in plan.programs.iter().enumerate() {
        for step in program {
            if let Step::Packet { from, to } = step
                && *to < ranks
            {
                lengths.packets[rank * ranks + to] = from.len;
            }
        }
    }
    for rank in 0..ranks {
        Reader::new(plan, layout, &lengths, rank).program()?;
    }
    Ok(lengths)
}

/// The group, the layout and the collective fit together, and no length overflows.
fn whole(plan: &Plan, layout: &Layout) -> Result<(), Refusal> {
    let ranks = plan.ranks();
    let malformed = |why: String| Err(Refusal::Malformed { why });
    if !(1..=MAX_RANKS).contains(&ranks) {
        return malformed(format!("it has {ranks} ranks, and 1 to {MAX_RANKS} are possible"));
    }
    if layout.ranks() != ranks {
        return malformed(format!("it has {ranks} ranks, and the layout has {}", layout.ranks()));
    }
    if plan.element_bytes == 0 {
        return malformed("its elements have no bytes".to_owned());
    }
    if plan.programs.iter().any(|program| program.len() >= u32::MAX as usize) {
        return malformed("a program is too long".to_owned());
    }
    well_formed(&plan.collective, ranks, plan.element_bytes).or_else(malformed)?;
    let needed = plan.scratch.saturating_mul(plan.element_bytes);
    if needed > layout.scratch_bytes || needed > isize::MAX as usize {
        return Err(Refusal::Scratch { elements: plan.scratch, needed, available: layout.scratch_bytes });
    }
    Ok(())
}

/// Whether `collective` is one of `ranks` ranks, and its buffers have sizes that an address can span; else why not.
pub(in crate::plan) fn well_formed(collective: &Collective, ranks: usize, element_bytes: usize) -> Result<(), String> {
    let fits = |lengths: &mut dyn Iterator<Item = usize>| {
        let total = lengths.map(Some).reduce(|sum, len| sum?.checked_add(len?)).unwrap_or(Some(0));
        let bytes = total.and_then(|total| total.checked_mul(element_bytes));
        if bytes.is_some_and(|bytes| bytes <= isize::MAX as usize) { Ok(()) } else { Err("it is too large".to_owned()) }
    };
    let member = |rank: Rank| if rank < ranks { Ok(()) } else { Err(format!("there is no rank {rank}")) };
    let each = |list: usize, of: &str| {
        if list == ranks { Ok(()) } else { Err(format!("{ranks} ranks and {list} {of}")) }
    };
    match collective {
        Collective::AllReduce { count } => fits(&mut std::iter::once(*count)),
        Collective::ReduceScatter { parts } | Collective::AllGather { parts } => {
            each(parts.len(), "parts")?;
            fits(&mut parts.iter().copied())
        }
        Collective::Broadcast { root, count } | Collective::Reduce { root, count } => {
            member(*root)?;
            fits(&mut std::iter::once(*count))
        }
        Collective::AllToAll { counts } => {
            each(counts.len(), "rows of counts")?;
            counts.iter().try_for_each(|row| each(row.len(), "counts in a row"))?;
            fits(&mut counts.iter().flatten().copied())
        }
        Collective::Barrier => Ok(()),
        Collective::Send { from, to, count } => {
            member(*from)?;
            member(*to)?;
            fits(&mut std::iter::once(*count))
        }
    }
}

/// Reads the program of one rank, in order.
struct Reader<'a> {
    plan: &'a Plan,
    layout: &'a Layout,
    lengths: &'a Lengths,
    rank: Rank,
    step: usize,
    /// Ranks whose input and output are known, and whose packets have come.
    met: Vec<bool>,
    received: Vec<bool>,
}

impl<'a> Reader<'a> {
    fn new(plan: &'a Plan, layout: &'a Layout, lengths: &'a Lengths, rank: Rank) -> Self {
        let none = vec![false; plan.ranks()];
        Self { plan, layout, lengths, rank, step: 0, met: none.clone(), received: none }
    }

    fn program(&mut self) -> Result<(), Refusal> {
        let plan = self.plan;
        let program = &plan.programs[self.rank];
        let mut packets = vec![false; plan.ranks()];
        let mut exposed = vec![false; plan.ranks()];
        for (index, step) in program.iter().enumerate() {
            self.step = index;
            match step {
                Step::Put { from, to, .. } => self.put(*from, *to)?,
                Step::Signal { to } => self.other(*to)?,
                Step::Wait { from } => self.other(*from)?,
                Step::Packet { from, to } => {
                    self.other(*to)?;
                    self.packet(*from, *to)?;
                    self.once(&mut packets, *to, Kind::Packet)?;
                }
                Step::WaitPacket { from } => {
                    self.other(*from)?;
                    self.received[*from] = true;
                }
                Step::Expose { to } => {
                    self.other(*to)?;
                    self.exposes(*to)?;
                    self.once(&mut exposed, *to, Kind::Expose)?;
                }
                Step::Meet { from } => {
                    self.other(*from)?;
                    self.exposes(*from)?;
                    self.met[*from] = true;
                }
                Step::Copy { from, to } => {
                    let to = to.of(self.rank);
                    self.source(*from, false)?;
                    self.destination(to)?;
                    self.same(from.slice, to.slice)?;
                    self.apart(*from, to, false)?;
                }
                Step::Reduce { from, to } => self.reduce(from, to)?,
            }
        }
        self.signalled()
    }

    fn put(&self, from: Slice, to: Place) -> Result<(), Refusal> {
        let (rank, step) = (self.rank, self.step);
        self.other(to.rank)?;
        self.sendable(from)?;
        self.bounds(to)?;
        match to.slice.buffer {
            Buffer::Scratch => {}
            Buffer::Output if self.layout.reach(rank, to.rank).put_output => {}
            Buffer::Output => return self.unreachable(to, "a put can write only the scratch there"),
            Buffer::Input | Buffer::Packet(_) => return Err(Refusal::ReadOnly { rank, step, place: to }),
        }
        self.same(from, to.slice)
    }

    fn packet(&self, from: Slice, to: Rank) -> Result<(), Refusal> {
        self.sendable(from)?;
        let limit = self.layout.reach(self.rank, to).packet_bytes;
        let bytes = from.len.saturating_mul(self.plan.element_bytes);
        if bytes > limit {
            return self.channel(format!("a packet to rank {to} has at most {limit} bytes, this one {bytes}"));
        }
        Ok(())
    }

    fn exposes(&self, other: Rank) -> Result<(), Refusal> {
        let reach = self.layout.reach(self.rank, other);
        if reach.copy_user || reach.reduce_user {
            return Ok(());
        }
        self.channel(format!("nothing is to be exposed between ranks {} and {other}", self.rank))
    }

    fn reduce(&self, from: &[Place], to: &[Place]) -> Result<(), Refusal> {
        let (rank, step) = (self.rank, self.step);
        let (Some(first), 1 | 2) = (to.first(), to.len()) else {
            return Err(Refusal::Arity { rank, step, sources: from.len(), destinations: to.len() });
        };
        if !(1..=MAX_RANKS).contains(&from.len()) {
            return Err(Refusal::Arity { rank, step, sources: from.len(), destinations: to.len() });
        }
        for place in from {
            self.source(*place, true)?;
            self.same(place.slice, first.slice)?;
        }
        for place in to {
            self.destination(*place)?;
            self.same(place.slice, first.slice)?;
            // In place is possible, where it is exactly in place.
            from.iter().try_for_each(|source| self.apart(*source, *place, true))?;
        }
        if let [one, other] = to {
            self.apart(*one, *other, false)?;
        }
        Ok(())
    }

    /// A place that a copy or a reduction reads.
    fn source(&self, place: Place, reduces: bool) -> Result<(), Refusal> {
        let (rank, step) = (self.rank, self.step);
        self.bounds(place)?;
        if place.rank == rank {
            return match place.slice.buffer {
                Buffer::Packet(from) if !self.received[from] => {
                    Err(Refusal::Unmet { rank, step, place, missing: "its wait-packet" })
                }
                _ => Ok(()),
            };
        }
        let reach = self.layout.reach(rank, place.rank);
        match place.slice.buffer {
            Buffer::Scratch if reach.load_scratch => Ok(()),
            Buffer::Scratch => self.unreachable(place, "others' scratch cannot be read there"),
            Buffer::Packet(_) => self.unreachable(place, "packets are for the rank that they came to"),
            Buffer::Input | Buffer::Output => {
                if !(if reduces { reach.reduce_user } else { reach.copy_user }) {
                    return self.unreachable(place, "others' inputs and outputs cannot be read so there");
                }
                self.known(place)
            }
        }
    }

    /// A place that a copy or a reduction writes.
    fn destination(&self, place: Place) -> Result<(), Refusal> {
        let (rank, step) = (self.rank, self.step);
        self.bounds(place)?;
        match place.slice.buffer {
            Buffer::Input | Buffer::Packet(_) => Err(Refusal::ReadOnly { rank, step, place }),
            Buffer::Output | Buffer::Scratch if place.rank == rank => Ok(()),
            Buffer::Scratch => self.unreachable(place, "only a put writes others' scratch"),
            Buffer::Output if self.layout.reach(rank, place.rank).reduce_user => self.known(place),
            Buffer::Output => self.unreachable(place, "others' outputs cannot be written so there"),
        }
    }

    fn known(&self, place: Place) -> Result<(), Refusal> {
        if self.met[place.rank] {
            return Ok(());
        }
        Err(Refusal::Unmet { rank: self.rank, step: self.step, place, missing: "a meet" })
    }

    /// A slice that a put or a packet sends.
    fn sendable(&self, from: Slice) -> Result<(), Refusal> {
        let place = from.of(self.rank);
        self.bounds(place)?;
        match from.buffer {
            Buffer::Packet(_) => self.unreachable(place, "a packet is read by copies and reductions only"),
            _ => Ok(()),
        }
    }

    fn bounds(&self, place: Place) -> Result<(), Refusal> {
        let (rank, step) = (self.rank, self.step);
        let Lengths { inputs, outputs, scratch, packets } = self.lengths;
        let ranks = self.plan.ranks();
        let member = |other| if other < ranks { Ok(()) } else { Err(Refusal::NoRank { rank, step, other }) };
        member(place.rank)?;
        let len = match place.slice.buffer {
            Buffer::Input => inputs[place.rank],
            Buffer::Output => outputs[place.rank],
            Buffer::Scratch => *scratch,
            Buffer::Packet(from) => {
                member(from)?;
                packets[from * ranks + place.rank]
            }
        };
        match place.slice.start.checked_add(place.slice.len) {
            Some(_) if place.slice.len == 0 => Err(Refusal::Empty { rank, step }),
            Some(end) if end <= len => Ok(()),
            _ => Err(Refusal::Outside { rank, step, place, len }),
        }
    }

    fn same(&self, from: Slice, to: Slice) -> Result<(), Refusal> {
        if from.len == to.len {
            return Ok(());
        }
        Err(Refusal::Lengths { rank: self.rank, step: self.step, from: from.len, to: to.len })
    }

    /// The two do not overlap; or, where `allowed`, are the same.
    fn apart(&self, one: Place, other: Place, allowed: bool) -> Result<(), Refusal> {
        let (a, b) = (one.slice, other.slice);
        let same_buffer = one.rank == other.rank && a.buffer == b.buffer;
        let overlap = same_buffer && a.start < b.start + b.len && b.start < a.start + a.len;
        if overlap && !(allowed && a == b) {
            return Err(Refusal::Overlap { rank: self.rank, step: self.step, one, other });
        }
        Ok(())
    }

    /// Another member of the group.
    fn other(&self, other: Rank) -> Result<(), Refusal> {
        let (rank, step) = (self.rank, self.step);
        if other >= self.plan.ranks() {
            return Err(Refusal::NoRank { rank, step, other });
        }
        if other == rank { Err(Refusal::Itself { rank, step }) } else { Ok(()) }
    }

    fn once(&self, seen: &mut [bool], other: Rank, kind: Kind) -> Result<(), Refusal> {
        if std::mem::replace(&mut seen[other], true) {
            return Err(Refusal::Twice { rank: self.rank, step: self.step, what: kind.name(), other });
        }
        Ok(())
    }

    /// Every put has a signal to the same rank, its own or a later one.
    fn signalled(&self) -> Result<(), Refusal> {
        let mut last = vec![None; self.plan.ranks()];
        for (step, it) in self.plan.programs[self.rank].iter().enumerate() {
            match it {
                Step::Put { to, signal: false, .. } => last[to.rank] = Some(step),
                Step::Put { to: Place { rank: to, .. }, .. } | Step::Signal { to } => last[*to] = None,
                _ => {}
            }
        }
        match last.iter().enumerate().find_map(|(to, step)| step.map(|step| (to, step))) {
            Some((to, step)) => Err(Refusal::Unsignalled { rank: self.rank, step, to }),
            None => Ok(()),
        }
    }

    fn unreachable(&self, place: Place, why: &'static str) -> Result<(), Refusal> {
        Err(Refusal::Unreachable { rank: self.rank, step: self.step, place, why })
    }

    fn channel(&self, why: String) -> Result<(), Refusal> {
        Err(Refusal::Channel { rank: self.rank, step: self.step, why })
    }
}
