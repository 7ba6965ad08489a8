//! How a plan looks: steps as words, a table for each rank, and a picture.

mod picture;

use std::fmt::{self, Write as _};

use super::{Buffer, Place, Plan, Slice, Step};

pub use picture::svg;

/// The steps of every rank, one a line, up to `max_steps` of each rank.
pub fn table(plan: &Plan, max_steps: usize) -> String {
    let mut text = headline(plan);
    text.push('\n');
    for (rank, program) in plan.programs.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\nrank {rank}: {}", amount(program.len(), "step"));
        let width = program.len().min(max_steps).saturating_sub(1).to_string().len();
        for (index, step) in program.iter().take(max_steps).enumerate() {
            let _ = writeln!(text, "  {index:width$}  {step}");
        }
        if program.len() > max_steps {
            let _ = writeln!(text, "  and {} more", program.len() - max_steps);
        }
    }
    text
}

/// What a plan is, in one line.
fn headline(plan: &Plan) -> String {
    format!(
        "{} by {}, {}, elements of {}, scratch of {}",
        plan.collective.name(),
        plan.algorithm.name(),
        amount(plan.ranks(), "rank"),
        amount(plan.element_bytes, "byte"),
        amount(plan.scratch, "element"),
    )
}

fn amount(count: usize, of: &str) -> String {
    format!("{count} {of}{}", if count == 1 { "" } else { "s" })
}

impl fmt::Display for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input => f.write_str("input"),
            Self::Output => f.write_str("output"),
            Self::Scratch => f.write_str("scratch"),
            Self::Packet(from) => write!(f, "packet of {from}"),
        }
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}..{}]", self.buffer, self.start, self.start.saturating_add(self.len))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.rank, self.slice)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { from, to, signal } => {
                write!(f, "put {from} -> {to}{}", if *signal { ", signal" } else { "" })
            }
            Self::Signal { to } => write!(f, "signal {to}"),
            Self::Wait { from } => write!(f, "wait {from}"),
            Self::Packet { from, to } => write!(f, "packet {from} -> {to}"),
            Self::WaitPacket { from } => write!(f, "wait packet {from}"),
            Self::Expose { to } => write!(f, "expose {to}"),
            Self::Meet { from } => write!(f, "meet {from}"),
            Self::Copy { from, to } => write!(f, "copy {from} -> {to}"),
            Self::Reduce { from, to } => {
                f.write_str("reduce ")?;
                list(f, from)?;
                f.write_str(" -> ")?;
                list(f, to)
            }
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, places: &[Place]) -> fmt::Result {
    for (i, place) in places.iter().enumerate() {
        write!(f, "{}{place}", if i == 0 { "" } else { " + " })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
