//! libp2p's dial errors, in words for people.

use std::error::Error;

use libp2p::swarm::{ConnectionDenied, DialError};
use libp2p_allow_block_list::{Blocked, NotAllowed};
use libp2p_connection_limits::Exceeded;

pub(super) fn explain(error: &DialError) -> String {
    match error {
        DialError::LocalPeerId { .. } => "a process with this peer's own identity answers there".into(),
        DialError::NoAddresses => "no address of it is known".into(),
        DialError::DialPeerConditionFalse(_) => "it is connected, or being dialled".into(),
        DialError::Aborted => "the dial was given up".into(),
        DialError::WrongPeerId { obtained, .. } => format!("another peer answers there: {obtained}"),
        DialError::Denied { cause } => denied(cause),
        DialError::Transport(errors) => {
            let mut texts: Vec<_> =
                errors.iter().map(|(address, error)| format!("{address}: {}", chain(error))).collect();
            texts.dedup();
            texts.join("; ")
        }
    }
}

fn denied(cause: &ConnectionDenied) -> String {
    if cause.downcast_ref::<NotAllowed>().is_some() {
        "it is not on this peer's allow list".into()
    } else if cause.downcast_ref::<Blocked>().is_some() {
        "it is banned".into()
    } else if let Some(exceeded) = cause.downcast_ref::<Exceeded>() {
        format!("this peer has as many connections as it may ({})", exceeded.limit())
    } else {
        chain(cause)
    }
}

/// An error and what caused it, without what repeats the line before.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer: {0}")]
        struct Outer(#[source] std::io::Error);
        #[derive(Debug, thiserror::Error)]
        #[error("dial failed")]
        struct Dial(#[source] Outer);
        let error = Dial(Outer(std::io::Error::other("refused")));
        assert_eq!(chain(&error), "dial failed: outer: refused");
    }
}
