//! Network namespaces and slow links between them, for tests and benchmarks.
//!
//! A [`Lab`] is some clusters of hosts on this machine. Each host is a network namespace with one interface, `eth0`; each
//! cluster has a router; one link with a rate, a delay and losses joins the routers. Programs start on a host with
//! [`Lab::command`], closures with [`Lab::inside`]. Dropping the lab ends what runs in it and removes it.
//!
//! ```no_run
//! use netlab::{Between, Lab};
//!
//! if let Err(reason) = netlab::available() {
//!     println!("skipped: {reason}");
//!     return Ok(());
//! }
//! let lab = Lab::clusters("example", &[2, 2], Between { rate_mbit: Some(100.0), delay_ms: 5.0, ..Between::default() })?;
//! let server = lab.command(0, 0, "iperf3").args(["-s", "-1"]).spawn();
//! let client = lab.command(1, 0, "iperf3").arg("-c").arg(lab.address(0, 0).to_string()).status();
//! let (sent_bytes, received_bytes) = lab.bytes_on_link()?;
//! # drop((server, client));
//! # Ok::<(), netlab::LabError>(())
//! ```
//!
//! Rates are done by the kernel's token bucket (`tbf`). Delays and losses are done by `netem` where the kernel has it, and
//! otherwise by a thread of this process between two TUN devices. It needs root, `ip` and `tc` (Debian: `iproute2`).

#![deny(unsafe_code)]

mod command;
mod lab;
mod link;
mod namespace;
mod queue;
mod tun;
mod wan;

pub use lab::{Between, Lab, available};

/// Why a lab could not be made or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// The clusters or the link asked for cannot be made.
    #[error("the lab cannot be made: {0}")]
    Shape(String),
    /// A program ended with an error.
    #[error("`{command}` failed: {found}")]
    Command {
        /// Its words, and what it was told on its standard input.
        command: String,
        /// What it said, or else how it ended.
        found: String,
    },
    /// A program did not end in time and was killed.
    #[error("`{command}` did not end within {seconds} s and was killed")]
    Late {
        /// Its words, and what it was told on its standard input.
        command: String,
        /// The deadline.
        seconds: u64,
    },
    /// The operating system refused something.
    #[error("{tried}: {source}")]
    System {
        /// What was tried.
        tried: String,
        /// Its answer.
        source: std::io::Error,
    },
    /// An interface is not among those of its namespace.
    #[error("there is no interface {interface} in namespace {namespace}; /proc/thread-self/net/dev has no such line")]
    Interface {
        /// The interface's name.
        interface: String,
        /// The namespace's name.
        namespace: String,
    },
}

impl LabError {
    /// For `map_err`: what the system said to `tried`.
    fn system<E: Into<std::io::Error>>(tried: impl Into<String>) -> impl FnOnce(E) -> Self {
        let tried = tried.into();
        move |source| Self::System { tried, source: source.into() }
    }
}
