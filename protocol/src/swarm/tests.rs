//! Tests of the swarm's state machine, with peers made by hand or other swarms.

mod blame;
mod exchange;
mod honest;

use super::*;
use crate::group::tests::group;
use crate::run::tests::spec;
use crate::wire::{Announced, Announcement};

/// When the tests begin: far enough from 0 for times before it.
const START: u64 = 1_700_000_000_000;

fn signer(seed: u8) -> Signer {
    Signer::from_seed(&[seed; 32])
}

/// The swarm under test: peer 0, with small bounds.
fn swarm() -> Swarm {
    with_config(config())
}

fn config() -> SwarmConfig {
    SwarmConfig { flights: 4, accounts: 20, wanted: 40, wanted_per_author: 20, ..SwarmConfig::default() }
}

fn with_config(config: SwarmConfig) -> Swarm {
    Swarm::new(config, spec(), signer(0), 1).expect("a valid run")
}

/// A signed group of 8 completions, all different and unlike those of other groups.
fn signed(author: &Signer, counter: u64) -> SignedGroup {
    let texts: Vec<String> = (0..8).map(|at| format!("{counter}.{at}.{}", author.key())).collect();
    SignedGroup::sign(&group(author, counter, &texts.iter().map(String::as_str).collect::<Vec<_>>()), author)
}

fn announced(signed: &SignedGroup) -> Announced {
    Announced {
        id: signed.id(),
        counter: signed.counter(),
        task: signed.task(),
        policy_version: signed.policy_version(),
        bytes: signed.encode().len() as u32,
    }
}

/// An announcement of groups with policy 3 by an author whose newest is 5.
fn announcement(author: &Signer, sent_ms: u64, groups: &[Announced]) -> Vec<u8> {
    Announcement { run: spec().id(), author: author.key(), sent_ms, newest_version: 5, groups: groups.to_vec() }
        .sign(author)
}

fn announce_all(author: &Signer, sent_ms: u64, groups: &[SignedGroup]) -> Vec<u8> {
    announcement(author, sent_ms, &groups.iter().map(announced).collect::<Vec<_>>())
}

/// A judgement of eight completions, of which one is correct.
fn scored(prompt: u8) -> Judgement {
    let rewards = vec![0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    Judgement::Scored { rewards, prompt_hash: [prompt; 32] }
}

/// Takes a group of a connected author all the way to a judgement.
fn take(swarm: &mut Swarm, author: &Signer, signed: &SignedGroup, judgement: Judgement, now_ms: u64) -> Admission {
    swarm.on_connected(author.key());
    swarm.on_announcement(&announce_all(author, now_ms, std::slice::from_ref(signed)), author.key(), now_ms);
    let fetch = swarm.next_fetches(now_ms).pop().expect("a fetch");
    assert_eq!(fetch.ids, [signed.id()]);
    let checked = swarm.on_fetched(fetch.number, vec![signed.encode()], fetch.from[0], now_ms);
    assert!(matches!(&checked[..], [Checked::Judge { id, .. }] if *id == signed.id()), "{checked:?}");
    swarm.on_judged(signed.id(), judgement, now_ms)
}

fn offences(swarm: &Swarm, peer: &Signer) -> Vec<(Offence, u64)> {
    swarm.accounts().get(&peer.key()).map(|account| account.offences().collect()).unwrap_or_default()
}
