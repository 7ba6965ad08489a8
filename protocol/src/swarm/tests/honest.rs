//! A whole swarm of honest peers on a bad network.

use rand::Rng;

use super::*;
use crate::selection::PeerQuota;
use crate::wire::{Receipt, Request, Response, Verdict};

/// What is on its way.
enum Message {
    Announcement(Vec<u8>),
    Request(u64, Request),
    /// Also when it was asked for: a lost request becomes a failure.
    Response(u64, Option<Vec<Vec<u8>>>),
    Receipt(Receipt),
}

/// Six peers of equal skill share a domain of 16 questions for an hour, over links that delay, reorder and lose
/// a tenth of all messages; one restarts from its store every few minutes. Nobody is ever charged with anything,
/// everybody learns from everybody, and memory stays bounded.
#[test]
fn honest_peers_charge_each_other_with_nothing() {
    const PEERS: u8 = 6;
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let buffer = BufferLimits { max_groups: 60, max_bytes: 1 << 20, max_uses: 4 };
    let config = SwarmConfig { buffer, own_groups: 40, wanted: 60, wanted_per_author: 30, ..SwarmConfig::default() };
    let start = |seed: u8| {
        let mut swarm = Swarm::new(config.clone(), spec(), signer(seed), seed.into()).expect("a valid run");
        (0..PEERS).filter(|&other| other != seed).for_each(|other| swarm.on_connected(signer(other).key()));
        swarm
    };
    let mut swarms: Vec<Swarm> = (0..PEERS).map(start).collect();
    let keys: Vec<PeerKey> = swarms.iter().map(Swarm::key).collect();
    let mut counters = [0u64; PEERS as usize];
    // By time of arrival and number.
    let mut wire: BTreeMap<(u64, u64), (usize, usize, Message)> = BTreeMap::new();
    let mut sent = 0;
    let mut acknowledged = 0;
    let mut used = [0u32; PEERS as usize];
    for second in 0..3600u64 {
        let now_ms = START + second * 1000;
        let mut outbox: Vec<(usize, usize, Message)> = Vec::new();
        let due: Vec<_> = wire.range(..(now_ms, 0)).map(|(key, _)| *key).collect();
        for key in due {
            let Some((from, to, message)) = wire.remove(&key) else { continue };
            match message {
                Message::Announcement(bytes) => {
                    let verdict = swarms[to].on_announcement(&bytes, keys[from], now_ms);
                    // Each passes on what it accepts, to one more peer.
                    if verdict == Gossip::Accept && rng.random_bool(0.5) {
                        outbox.push((to, (to + 1) % PEERS as usize, Message::Announcement(bytes)));
                    }
                }
                Message::Request(number, request) => match swarms[to].serve(&request, keys[from], now_ms) {
                    Response::Groups(bodies) => outbox.push((to, from, Message::Response(number, Some(bodies)))),
                    other => panic!("{other:?}"),
                },
                Message::Response(number, None) => swarms[to].on_fetch_failed(number, now_ms),
                Message::Response(number, Some(bodies)) => {
                    let mut verdicts = Vec::new();
                    for checked in swarms[to].on_fetched(number, bodies, keys[from], now_ms) {
                        let Checked::Judge { id, group, .. } = checked else { continue };
                        let question = (group.seed % 16) as u8;
                        let rewards =
                            group.completions.iter().map(|c| f32::from(u8::from(c.text == [question]))).collect();
                        let judgement = Judgement::Scored { rewards, prompt_hash: [question; 32] };
                        let verdict = match swarms[to].on_judged(id, judgement, now_ms) {
                            Admission::Store { .. } => Verdict::Stored,
                            Admission::Refuse { reason } => Verdict::Refused(reason),
                        };
                        verdicts.push((id, verdict));
                    }
                    outbox.push((to, from, Message::Receipt(Receipt { verdicts })));
                }
                Message::Receipt(receipt) => acknowledged += swarms[to].on_receipt(keys[from], &receipt).len(),
            }
        }
        for (at, swarm) in swarms.iter_mut().enumerate() {
            let author = signer(at as u8);
            let mut said = Vec::new();
            if second % 4 == at as u64 % 4 {
                let groups = (0..rng.random_range(0..5)).map(|_| {
                    counters[at] += 1;
                    let mut group = group(&author, counters[at], &["x"; 8]);
                    group.policy_version = second / 30;
                    let question = (group.seed % 16) as u8;
                    for completion in &mut group.completions {
                        let wrong = rng.random_range(0..12u8);
                        completion.text = vec![if wrong < 3 { 100 + wrong } else { question }];
                    }
                    SignedGroup::sign(&group, &author)
                });
                let groups = groups.collect();
                said = swarm.publish(groups, second / 30, now_ms);
            }
            if second % 97 == 0 {
                said.extend(swarm.reannounce(now_ms));
            }
            for bytes in said {
                (0..PEERS as usize)
                    .filter(|&other| other != at)
                    .for_each(|other| outbox.push((at, other, Message::Announcement(bytes.clone()))));
            }
            for fetch in swarm.next_fetches(now_ms) {
                let to = keys.iter().position(|key| *key == fetch.from[0]).expect("a peer");
                let request = Request::Groups { run: spec().id(), ids: fetch.ids };
                outbox.push((at, to, Message::Request(fetch.number, request)));
            }
            for group in swarm.select(&PeerQuota, 8, now_ms, second).0 {
                used[keys.iter().position(|key| *key == group.group.author).expect("a peer")] += 1;
            }
            assert!(swarm.memory_bytes() < 2 << 20, "{}", swarm.memory_bytes());
        }
        if second % 200 == 199 {
            let at = (second / 200) as usize % PEERS as usize;
            let accounts: Vec<Vec<u8>> = swarms[at].accounts().iter().map(Account::encode).collect();
            let groups: Vec<Vec<u8>> = swarms[at].buffer().iter().map(StoredGroup::encode).collect();
            let own: Vec<Vec<u8>> = swarms[at].own.latest().map(|(signed, _)| signed.encode()).collect();
            let mut fresh = start(at as u8);
            let restored = fresh.restore(accounts, groups, own.into_iter().rev().collect::<Vec<_>>(), now_ms);
            assert_eq!(restored, Restored::default());
            swarms[at] = fresh;
            // What was on its way to it is lost with its connections.
            wire.retain(|_, (_, to, _)| *to != at);
        }
        for (from, to, message) in outbox {
            sent += 1;
            let arrives = (now_ms + rng.random_range(1..2500), sent);
            match message {
                // A lost exchange shows at its deadline.
                Message::Request(number, _) if rng.random_bool(0.1) => {
                    wire.insert((now_ms + 10_000, sent), (to, from, Message::Response(number, None)));
                }
                _ if rng.random_bool(0.1) => {}
                message => drop(wire.insert(arrives, (from, to, message))),
            }
        }
    }
    for swarm in &swarms {
        for account in swarm.accounts().iter() {
            assert_eq!(account.offences().collect::<Vec<_>>(), [], "{:?} of {:?}", swarm.key(), account.key());
            assert!(account.evidence_bits() < 20.0, "{}", account.evidence_bits());
        }
        assert_eq!(swarm.accounts().iter().count(), PEERS as usize - 1);
    }
    let shared: u64 = counters.iter().sum();
    assert!(shared > 10_000 / 2, "{shared} groups");
    assert!(acknowledged as u64 > shared * 3, "{acknowledged} acknowledgements of {shared} groups");
    assert!(used.iter().all(|&used| used > 5000), "{used:?}");
}
