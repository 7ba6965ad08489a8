//! What every transport has to do, whatever it is made of: [`all`] drives one through the contract of [`Fabric`].
//!
//! Each rank is a thread with a fabric of its own and, as it would have in a process, its own [`Abort`].

mod failure;
mod memory;
mod order;
mod shm;
mod side;

pub(crate) use self::side::{Ends, Op, SplitMix, bytes_of, copy, run};

use std::time::Instant;

use super::Fabric;

/// Makes the fabrics of a group by rank, each with [`SCRATCH`] bytes in a half of its scratch.
pub(crate) type Make<'a> = &'a dyn Fn(usize) -> Ends;

/// Bytes of a half of scratch that the suite wants.
pub(crate) const SCRATCH: usize = 1 << 20;

/// One thing that is checked.
type Case = (&'static str, fn(Make<'_>));

/// All that is checked, by name.
const CASES: &[Case] = &[
    ("puts of all sizes arrive where they belong", memory::sizes_and_offsets),
    ("puts leave their neighbours alone", memory::neighbours),
    ("many puts, one signal", memory::many_puts_one_signal),
    ("puts of nothing", memory::nothing),
    ("a flushed source may change", memory::flushed_sources),
    ("an ended operation's sources may change", memory::ended_sources),
    ("puts into outputs", memory::outputs),
    ("exposed memory", memory::exposed),
    ("signals are counted", order::signals_are_counted),
    ("looking consumes nothing", order::looking),
    ("packets of all sizes", order::packets),
    ("chains of signals", order::chains),
    ("a slow reader's data stays", order::slow_reader),
    ("nobody writes two operations ahead", order::run_ahead),
    ("everybody to everybody", order::storm),
    ("another tag", failure::mismatch),
    ("targets out of range", failure::out_of_range),
    ("a silent peer", failure::silence),
    ("an abort from another thread", failure::abort),
    ("a lost peer", failure::lost),
    ("a peer that leaves in order", failure::leaving),
];

/// Drives a transport through all of the contract. Panics where it falls short; the last name printed says at what.
pub(crate) fn all(make: &dyn Fn(usize) -> Vec<Box<dyn Fabric>>) {
    each(&|ranks| make(ranks).into());
}

/// The same for a transport that cannot notice by itself that a peer has gone, as memory cannot: what a group's control
/// connections say, each rank hears from the suite.
pub(crate) fn all_told(make: &dyn Fn(usize) -> Vec<Box<dyn Fabric>>) {
    each(&|ranks| Ends { fabrics: make(ranks), told: true });
}

fn each(make: Make<'_>) {
    for (name, case) in CASES {
        let begun = Instant::now();
        print!("{name} ... ");
        case(make);
        println!("{:?}", begun.elapsed());
    }
}
