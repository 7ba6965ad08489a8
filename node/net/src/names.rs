//! The names of a run's protocols. The run's id is in each, so peers of different runs share none.

use libp2p::StreamProtocol;

/// Longest run id, in characters: a SHA-256 in hex.
pub(crate) const MAX_RUN: usize = 64;

/// Protocol names of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    /// What identify calls the protocol's version; the mark of a member.
    pub(crate) member: String,
    /// Request, response, receipt.
    pub(crate) exchange: StreamProtocol,
    /// Kademlia.
    pub(crate) table: StreamProtocol,
    /// Gossipsub.
    pub(crate) mesh: String,
    /// Gossipsub's only topic.
    pub(crate) topic: String,
    /// Key of Kademlia's provider record: who takes part in the run.
    pub(crate) providers: Vec<u8>,
}

impl Names {
    /// The names of a run; `None` where the id is not 1 to [`MAX_RUN`] hex digits.
    pub(crate) fn of(run: &str) -> Option<Self> {
        let run = run.to_ascii_lowercase();
        if run.is_empty() || run.len() > MAX_RUN || !run.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let protocol = |what: &str| StreamProtocol::try_from_owned(format!("/swarmloom/{run}/{what}/1")).ok();
        Some(Self {
            member: format!("/swarmloom/{run}/1"),
            exchange: protocol("exchange")?,
            table: protocol("kad")?,
            mesh: format!("/swarmloom/{run}/gossip/1"),
            topic: format!("swarmloom/{run}/announce/1"),
            providers: format!("swarmloom/{run}").into_bytes(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_holds_the_run() {
        let names = Names::of("00FF").expect("hex");
        assert_eq!(names.member, "/swarmloom/00ff/1");
        assert_eq!(names.exchange.as_ref(), "/swarmloom/00ff/exchange/1");
        assert_eq!(names.table.as_ref(), "/swarmloom/00ff/kad/1");
        for name in [names.mesh, names.topic, String::from_utf8(names.providers).expect("ASCII")] {
            assert!(name.contains("00ff"), "{name}");
        }
    }

    #[test]
    fn a_run_is_hex() {
        for run in ["", "xyz", "ab/cd", &"a".repeat(65)] {
            assert_eq!(Names::of(run), None, "{run}");
        }
    }
}
