//! Whole-system tests: they start the real binary and speak to it as a person, a script or another machine would.
//!
//! `cargo xtask test` builds the binary first. Everything runs on the loopback, on ports that the system chooses, in
//! folders that go afterwards.

#[cfg(test)]
mod cli;
#[cfg(test)]
mod collectives;
#[cfg(test)]
mod daemon;
#[cfg(test)]
mod launch;
#[cfg(test)]
mod process;
#[cfg(test)]
mod resume;
#[cfg(test)]
mod simulate;
#[cfg(test)]
mod soak;
#[cfg(test)]
mod swarm;
#[cfg(test)]
mod tasks;
