//! A collective as data: what each rank does, step by step, over slices of named buffers.
//!
//! A [`Plan`] holds one program for each rank. [`build`] makes plans, [`verify`] proves of any plan that it computes what
//! its [`Collective`] says and cannot block, and an executor carries out the program of one rank. Nothing here knows a
//! transport: what a transport can do is stated by [`Reach`].

pub mod build;
pub mod draw;
pub mod verify;

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// A position in a group, from 0.
pub type Rank = usize;

/// The largest group that plans are made for.
pub const MAX_RANKS: usize = 64;

/// What is to be computed. Lengths are in elements.
///
/// `Input` and `Output` of rank `r` have [`Collective::input_len`] and [`Collective::output_len`] elements.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Collective {
    /// Every output is the reduction of all inputs.
    AllReduce {
        /// Elements of every input and output.
        count: usize,
    },
    /// Rank `r` gets part `r` of the reduction of all inputs.
    ReduceScatter {
        /// Elements of each part, by rank.
        parts: Vec<usize>,
    },
    /// Every output is the inputs, one after the other.
    AllGather {
        /// Elements of each rank's input.
        parts: Vec<usize>,
    },
    /// Every output (the root's too) is the root's input. Other ranks have no input.
    Broadcast {
        /// Whose input it is.
        root: Rank,
        /// Elements.
        count: usize,
    },
    /// The root's output is the reduction of all inputs. Other ranks have no output.
    Reduce {
        /// Whose output it is.
        root: Rank,
        /// Elements.
        count: usize,
    },
    /// Piece `j` of rank `i`'s input becomes piece `i` of rank `j`'s output.
    AllToAll {
        /// `counts[i][j]`: elements that rank `i` has for rank `j`.
        counts: Vec<Vec<usize>>,
    },
    /// No rank ends before all have begun.
    Barrier,
    /// The output of `to` is the input of `from`. Other ranks do nothing.
    Send {
        /// Who has the input.
        from: Rank,
        /// Who has the output.
        to: Rank,
        /// Elements.
        count: usize,
    },
}

impl Collective {
    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self {
            Self::AllReduce { .. } => "all_reduce",
            Self::ReduceScatter { .. } => "reduce_scatter",
            Self::AllGather { .. } => "all_gather",
            Self::Broadcast { .. } => "broadcast",
            Self::Reduce { .. } => "reduce",
            Self::AllToAll { .. } => "all_to_all",
            Self::Barrier => "barrier",
            Self::Send { .. } => "send",
        }
    }

    /// Elements of the input of `rank`.
    pub fn input_len(&self, rank: Rank) -> usize {
        match self {
            Self::AllReduce { count } | Self::Reduce { count, .. } => *count,
            Self::ReduceScatter { parts } => parts.iter().sum(),
            Self::AllGather { parts } => parts[rank],
            Self::Broadcast { root: one, count } | Self::Send { from: one, count, .. } => {
                if *one == rank {
                    *count
                } else {
                    0
                }
            }
            Self::AllToAll { counts } => counts[rank].iter().sum(),
            Self::Barrier => 0,
        }
    }

    /// Elements of the output of `rank`.
    pub fn output_len(&self, rank: Rank) -> usize {
        match self {
            Self::AllReduce { count } | Self::Broadcast { count, .. } => *count,
            Self::ReduceScatter { parts } => parts[rank],
            Self::AllGather { parts } => parts.iter().sum(),
            Self::Reduce { root: one, count } | Self::Send { to: one, count, .. } => {
                if *one == rank {
                    *count
                } else {
                    0
                }
            }
            Self::AllToAll { counts } => counts.iter().map(|row| row[rank]).sum(),
            Self::Barrier => 0,
        }
    }

    /// Whether elements are combined, so that dtype and operation matter.
    pub fn reduces(&self) -> bool {
        matches!(self, Self::AllReduce { .. } | Self::ReduceScatter { .. } | Self::Reduce { .. })
    }
}

/// How a collective is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Algorithm {
    /// Inputs of a few bytes ride in the signal itself; everybody reduces everything.
    Packet,
    /// Everybody gives everybody its whole input and reduces all of them.
    OneShot,
    /// Everybody reduces its own part of all inputs, then everybody collects the parts.
    TwoShot,
    /// Reduce-scatter and all-gather around a ring, `ranks - 1` hops each.
    Ring,
    /// Recursive halving, then recursive doubling.
    HalvingDoubling,
    /// Inside each host first, then between hosts, then inside again.
    Hierarchical,
    /// Reads the others' inputs and writes the others' outputs in place: user memory is reachable.
    Direct,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 7] = [
        Self::Packet,
        Self::OneShot,
        Self::TwoShot,
        Self::Ring,
        Self::HalvingDoubling,
        Self::Hierarchical,
        Self::Direct,
    ];

    /// What it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Packet => "packet",
            Self::OneShot => "one-shot",
            Self::TwoShot => "two-shot",
            Self::Ring => "ring",
            Self::HalvingDoubling => "halving-doubling",
            Self::Hierarchical => "hierarchical",
            Self::Direct => "direct",
        }
    }
}

/// A named buffer of one rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Buffer {
    /// The caller's, read only. It stays as it is whatever happens.
    Input,
    /// The caller's, written.
    Output,
    /// The group's own, of [`Plan::scratch`] elements; others may write to it. Its content at the start is undefined.
    Scratch,
    /// The packet that came from that rank, readable once it was waited for.
    Packet(Rank),
}

/// Elements of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Slice {
    /// Which buffer.
    pub buffer: Buffer,
    /// First element.
    pub start: usize,
    /// How many.
    pub len: usize,
}

impl Slice {
    /// `range` of `buffer`.
    pub fn new(buffer: Buffer, range: Range<usize>) -> Self {
        Self { buffer, start: range.start, len: range.end.saturating_sub(range.start) }
    }

    /// The elements.
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.len
    }

    /// It, as a place of `rank`.
    pub fn of(self, rank: Rank) -> Place {
        Place { rank, slice: self }
    }
}

/// Elements of a buffer of some rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Whose.
    pub rank: Rank,
    /// What of it.
    pub slice: Slice,
}

/// One thing that one rank does. Steps of a rank happen in order; between ranks only signals and packets order anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Step {
    /// Writes a local slice to another rank's `Scratch` or `Output`. With `signal`, signals after the data.
    Put {
        /// What (own input, output or scratch).
        from: Slice,
        /// Where. As long as `from`.
        to: Place,
        /// Whether one signal follows.
        signal: bool,
    },
    /// Raises the other rank's counter by one, after everything this rank wrote to it or to its own memory.
    Signal {
        /// Who is signalled.
        to: Rank,
    },
    /// Waits for the next signal of that rank. What it wrote before is visible then.
    Wait {
        /// Who signals.
        from: Rank,
    },
    /// Sends a few elements with their signal in one: at most one packet a pair and direction in a plan.
    Packet {
        /// What, at most [`Reach::packet_bytes`].
        from: Slice,
        /// To whom.
        to: Rank,
    },
    /// Waits for the packet of that rank; [`Buffer::Packet`] is readable then.
    WaitPacket {
        /// Who sends it.
        from: Rank,
    },
    /// Lets the other rank know where this rank's input and output are; orders like a signal. At most once a pair and
    /// direction in a plan.
    Expose {
        /// Who may reach them.
        to: Rank,
    },
    /// Waits for the other rank's `Expose`; its input and output can be reached then.
    Meet {
        /// Whose.
        from: Rank,
    },
    /// Copies into a local slice.
    Copy {
        /// From here, or from another rank's memory where [`Reach`] allows it.
        from: Place,
        /// As long as `from`.
        to: Slice,
    },
    /// Reduces, in the order given, into one or two places of the same length.
    Reduce {
        /// At least one source; others' where [`Reach`] allows it.
        from: Vec<Place>,
        /// Local, or others' where [`Reach`] allows it.
        to: Vec<Place>,
    },
}

/// What a rank can do to the memory of another one, beyond `Put` into its scratch and signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Reach {
    /// `Copy` and `Reduce` may read the other's scratch.
    pub load_scratch: bool,
    /// `Copy` may read the other's input and output, once met.
    pub copy_user: bool,
    /// `Reduce` may read the other's input and output and write its output, once met.
    pub reduce_user: bool,
    /// `Put` may write the other's output.
    pub put_output: bool,
    /// Largest packet in bytes; 0 where there are none.
    pub packet_bytes: usize,
}

/// Which ranks share a host, and what pairs can do. The same on every rank of a group.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Layout {
    /// Host of each rank: ranks with equal numbers share memory.
    pub hosts: Vec<usize>,
    /// What ranks of one host can do.
    pub near: Reach,
    /// What ranks of different hosts can do.
    pub far: Reach,
    /// Bytes of scratch that one rank's program may use.
    pub scratch_bytes: usize,
}

impl Layout {
    /// `ranks` on one host.
    pub fn single(ranks: usize, reach: Reach, scratch_bytes: usize) -> Self {
        Self { hosts: vec![0; ranks], near: reach, far: reach, scratch_bytes }
    }

    /// Ranks in the group.
    pub fn ranks(&self) -> usize {
        self.hosts.len()
    }

    /// What `one` can do to `other`.
    pub fn reach(&self, one: Rank, other: Rank) -> Reach {
        if self.hosts[one] == self.hosts[other] { self.near } else { self.far }
    }
}

/// What a plan promises of the bits of a reduction. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guarantee {
    /// Every rank gets the same bits.
    Identical,
    /// Every element is `((input 0 + input 1) + input 2) ...`, rounded once for halves: the same bits whatever the size,
    /// the algorithm or the transport, as long as it promises this too.
    RankOrder,
}

/// A collective as steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What it computes.
    pub collective: Collective,
    /// How.
    pub algorithm: Algorithm,
    /// Bytes of an element: packets and alignment depend on it.
    pub element_bytes: usize,
    /// Elements of scratch that each rank needs.
    pub scratch: usize,
    /// What each rank does.
    pub programs: Vec<Vec<Step>>,
}

impl Plan {
    /// Ranks that take part.
    pub fn ranks(&self) -> usize {
        self.programs.len()
    }
}
