//! A million mutations of valid messages, signed again where a signature covers them: whatever arrives, nothing
//! panics, what decodes has one encoding, and memory stays within its bounds.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::account::{Account, Offence, Standing};
use crate::buffer::StoredGroup;
use crate::buffer::tests::stored;
use crate::codec;
use crate::group::{self, SignedGroup};
use crate::id::{GroupId, PeerKey, RunId, Signer};
use crate::run::tests::spec;
use crate::run::{Invite, RunSpec};
use crate::selection::{AdvantageWeighted, AnyCorrect, PaperUniform, PeerQuota, Selection, TopK};
use crate::swarm::{Admission, Checked, Judgement, Swarm, SwarmConfig};
use crate::wire::{self, Announced, Announcement, Reason, Receipt, Request, Response, Verdict};

/// What a whole peer's state may take, whatever others do.
const MEMORY_BOUND: usize = 64 << 20;
const START: u64 = 1_700_000_000_000;

/// Changes bytes as a fuzzer does.
struct Mutator(ChaCha8Rng);

impl Mutator {
    /// Zero to three changes, mostly one; `other` lends parts.
    fn mutate(&mut self, mut bytes: Vec<u8>, other: &[u8]) -> Vec<u8> {
        for _ in 0..[0, 1, 1, 1, 1, 2, 3][self.0.random_range(0..7)] {
            self.change(&mut bytes, other);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let rng = &mut self.0;
        let at = rng.random_range(0..=bytes.len());
        let end = rng.random_range(at..=bytes.len().min(at + 40));
        match rng.random_range(0..9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            // Markers of long numbers, and the edges of short ones.
            1 if at < bytes.len() => bytes[at] = [0, 1, 2, 127, 250, 251, 252, 253, 254, 255][rng.random_range(0..10)],
            2 => drop(bytes.drain(at..end)),
            3 => bytes.truncate(at),
            4 => drop(bytes.splice(at..at, [rng.random()])),
            5 => {
                // A number near 2^16, 2^32 or 2^64.
                let (marker, width) = [(251, 2), (252, 4), (253, 8)][rng.random_range(0..3)];
                let high = [0xff; 8];
                drop(bytes.splice(at..end.min(at + 1), std::iter::once(marker).chain(high[..width].iter().copied())));
            }
            6 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
            7 if !other.is_empty() => {
                let from = rng.random_range(0..other.len());
                let part = other[from..(from + 40).min(other.len())].to_vec();
                drop(bytes.splice(at..end, part));
            }
            _ => {
                let mut noise = [0; 8];
                rng.fill_bytes(&mut noise);
                drop(bytes.splice(at..end, noise));
            }
        }
    }
}

fn signer(number: u64) -> Signer {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    Signer::from_seed(&seed)
}

fn announcement(author: &Signer, sent_ms: u64, newest_version: u64, groups: Vec<Announced>) -> Announcement {
    Announcement { run: spec().id(), author: author.key(), sent_ms, newest_version, groups }
}

fn announced(signed: &SignedGroup) -> Announced {
    Announced {
        id: signed.id(),
        counter: signed.counter(),
        task: signed.task(),
        policy_version: signed.policy_version(),
        bytes: signed.bytes().len() as u32,
    }
}

/// Every decoder, and the handlers of what needs no signature: 600 000 mutations.
#[test]
fn decoders_take_anything() {
    let mut mutator = Mutator(ChaCha8Rng::seed_from_u64(1));
    let (spec, me, peer) = (spec(), signer(0), signer(1));
    let kept = stored(&peer, 3, START, &[1.0, 0.0, 0.5]);
    let mut account = Account::new(peer.key(), START);
    for counter in 0..20 {
        account.see(counter * 3, GroupId([counter as u8; 32]));
        account.charge(Offence::ALL[counter as usize % 10], START + counter);
    }
    let ids: Vec<GroupId> = (0..4).map(|byte| GroupId([byte; 32])).chain([kept.id]).collect();
    let verdicts = ids.iter().map(|&id| (id, Verdict::Stored)).chain([(ids[0], Verdict::Refused(Reason::Stale))]);
    let said = announcement(
        &peer,
        START,
        5,
        vec![Announced { id: ids[0], counter: 9, task: 1, policy_version: 4, bytes: 300 }; 3],
    );
    let invite = Invite {
        run: spec.id(),
        addresses: vec!["/ip4/1.2.3.4/tcp/5".into(), "/dns4/é.example/udp/6/quic-v1".into()],
    };
    let valid: [Vec<u8>; 12] = [
        spec.encode(),
        Request::Spec(spec.id()).encode(),
        Request::Groups { run: spec.id(), ids: ids.clone() }.encode(),
        Response::Spec(spec.encode()).encode(),
        Response::Groups(vec![kept.body.to_vec(), vec![1, 2, 3], vec![]]).encode(),
        Response::refused("not now").encode(),
        Receipt { verdicts: verdicts.collect() }.encode(),
        account.encode(),
        kept.encode(),
        kept.body.to_vec(),
        said.sign(&peer),
        invite.to_string().into_bytes(),
    ];
    let mut swarm = Swarm::new(SwarmConfig::default(), spec.clone(), signer(0), 1).expect("a valid run");
    swarm.restore([account.encode()], [kept.encode()], [stored(&me, 1, START, &[1.0]).body.to_vec()], START);
    // How often each kind decoded although it had been changed.
    let mut decoded = [0u32; 12];
    for turn in 0..600_000usize {
        let (kind, now_ms) = (turn % 12, START + turn as u64 * 10);
        let other = &valid[mutator.0.random_range(0..12)];
        let bytes = mutator.mutate(valid[kind].clone(), other);
        let one_encoding = |encoded: Vec<u8>| assert_eq!(encoded, bytes, "kind {kind}");
        let from = PeerKey([turn as u8; 32]);
        let fine = match kind {
            0 => RunSpec::decode(&bytes).map(|spec| one_encoding(spec.encode())).is_ok(),
            1 | 2 => Request::decode(&bytes)
                .map(|request| {
                    one_encoding(request.encode());
                    Response::decode(&swarm.serve(&request, from, now_ms).encode()).expect("own responses are valid");
                })
                .is_ok(),
            3..=5 => Response::decode(&bytes).map(|response| one_encoding(response.encode())).is_ok(),
            6 => Receipt::decode(&bytes)
                .map(|receipt| {
                    one_encoding(receipt.encode());
                    swarm.on_receipt(from, &receipt);
                })
                .is_ok(),
            7 => Account::decode(&bytes)
                .map(|mut account| {
                    one_encoding(account.encode());
                    account.see(now_ms, ids[1]);
                    account.charge(Offence::Stale, now_ms);
                    assert!(account.score(now_ms).is_finite());
                    account.withheld();
                })
                .is_ok(),
            8 => StoredGroup::decode(&bytes, &spec).map(|group| one_encoding(group.encode())).is_ok(),
            9 => SignedGroup::open(&bytes, &spec).map(|(signed, _)| one_encoding(signed.encode())).is_ok(),
            10 => Announcement::open(&bytes).map(|said| one_encoding(said.sign(&peer))).is_ok(),
            _ => {
                let text = String::from_utf8_lossy(&bytes);
                let _ = (text.parse::<RunId>(), text.parse::<PeerKey>());
                text.parse::<Invite>()
                    .map(|invite| assert_eq!(invite.to_string().parse::<Invite>().expect("reads back"), invite))
                    .is_ok()
            }
        };
        decoded[kind] += u32::from(fine && bytes != valid[kind]);
    }
    // Nobody forges what is signed; all else survives some change.
    assert_eq!((decoded[9], decoded[10]), (0, 0));
    assert!((0..12).all(|kind| [9, 10].contains(&kind) || decoded[kind] > 100), "{decoded:?}");
    assert!(swarm.memory_bytes() < MEMORY_BOUND);
}

/// Announcements changed and signed again by their authors: 200 000 mutations.
#[test]
fn a_swarm_takes_any_signed_announcement() {
    let mut mutator = Mutator(ChaCha8Rng::seed_from_u64(2));
    let mut swarm = Swarm::new(SwarmConfig::default(), spec(), signer(0), 1).expect("a valid run");
    let mut now_ms = START;
    let mut next_author = 1;
    let mut authors: Vec<Signer> = Vec::new();
    let mut offences = BTreeSet::new();
    let mut verdicts = BTreeMap::new();
    let mut most = 0;
    for turn in 0..200_000u64 {
        now_ms += mutator.0.random_range(0..100);
        if turn % 2000 == 0 {
            // Banned and bored authors leave; new ones come.
            authors = (0..4).map(|at| signer(next_author + at)).collect();
            next_author += 4;
            authors.iter().for_each(|author| swarm.on_connected(author.key()));
        }
        let author = &authors[mutator.0.random_range(0..4)];
        let rng = &mut mutator.0;
        let groups = (0..rng.random_range(0..4)).map(|_| {
            let mut id = GroupId([0; 32]);
            rng.fill_bytes(&mut id.0[..2]);
            let counter = if rng.random_bool(0.1) { rng.random() } else { rng.random_range(0..40_000) };
            let policy_version = turn % 2000 + rng.random_range(0..4);
            Announced { id, counter, task: turn as u16 % 2, policy_version, bytes: rng.random_range(60..1500) }
        });
        let said = announcement(author, now_ms, turn % 2000 + 3, groups.collect());
        let content = mutator.mutate(codec::encode(&said), &author.key().0);
        let mut bytes = content.clone();
        bytes.extend(author.sign(wire::DOMAIN, &content));
        // Whoever forwards rubbish is soon banned: there is always another.
        let forwarder = PeerKey(std::array::from_fn(|at| ((turn / 16) >> (at % 4 * 8)) as u8));
        *verdicts.entry(format!("{:?}", swarm.on_announcement(&bytes, forwarder, now_ms))).or_insert(0) += 1;
        let fetches = swarm.next_fetches(now_ms);
        let mut asked = fetches.iter().flat_map(|fetch| &fetch.from);
        assert!(asked.all(|peer| swarm.accounts().standing(peer, now_ms) == Standing::Good));
        for fetch in fetches {
            match mutator.0.random_range(0..3) {
                0 => swarm.on_fetch_failed(fetch.number, now_ms),
                1 => drop(swarm.on_fetched(fetch.number, vec![content.clone()], fetch.from[0], now_ms)),
                _ => {}
            }
        }
        if turn % 256 == 0 {
            swarm.expire(now_ms);
            most = most.max(swarm.memory_bytes());
            offences.extend(swarm.accounts().iter().flat_map(Account::offences).map(|(offence, _)| offence));
            drop(swarm.take_changed_accounts());
        }
    }
    assert!(most < MEMORY_BOUND, "{most}");
    assert!(verdicts.len() == 3 && verdicts.values().all(|&count| count > 1000), "{verdicts:?}");
    use Offence::{Equivocation, Malformed, Misannounced, OverQuota, Stale, Unrequested};
    for expected in [Malformed, Misannounced, Equivocation, Stale, OverQuota, Unrequested] {
        assert!(offences.contains(&expected), "{expected:?} never happened");
    }
}

/// Groups changed and signed again by their authors, announced, fetched in changed responses, and judged
/// anyhow: 200 000 mutations.
#[test]
fn a_swarm_takes_any_signed_group() {
    let mut mutator = Mutator(ChaCha8Rng::seed_from_u64(3));
    let config = SwarmConfig { judge_timeout_ms: 5000, ..SwarmConfig::default() };
    let mut swarm = Swarm::new(config, spec(), signer(0), 1).expect("a valid run");
    let policies: [&dyn Selection; 5] = [&PaperUniform, &AnyCorrect, &TopK, &PeerQuota, &AdvantageWeighted];
    let mut now_ms = START;
    let mut most = 0;
    let mut used = 0;
    let mut mutations = 0;
    let mut last: Vec<u8> = Vec::new();
    for round in 0.. {
        if mutations >= 200_000 {
            break;
        }
        now_ms += mutator.0.random_range(0..9000);
        let author = signer(1 + round / 20);
        let peer = author.key();
        swarm.on_connected(peer);
        let mut bodies = BTreeMap::new();
        let mut groups = Vec::new();
        for at in 0..15 {
            let counter = round * 15 + at;
            let texts: Vec<String> = (0..mutator.0.random_range(1..5)).map(|text| (text * text).to_string()).collect();
            let mut group =
                group::tests::group(&author, counter, &texts.iter().map(String::as_str).collect::<Vec<_>>());
            group.policy_version = 3 + round % 20;
            let content = mutator.mutate(codec::encode(&group), &last);
            let mut body = content.clone();
            body.extend(author.sign(group::DOMAIN, &content));
            mutations += 1;
            if let Some(id) = SignedGroup::id_of(&body, swarm.spec()) {
                groups.push(Announced {
                    id,
                    bytes: body.len() as u32,
                    counter,
                    task: group.task,
                    policy_version: group.policy_version,
                });
                bodies.insert(id, body);
            }
            last = content;
        }
        let said = announcement(&author, now_ms, 3 + round % 20, groups).sign(&author);
        swarm.on_announcement(&said, peer, now_ms);
        for fetch in swarm.next_fetches(now_ms) {
            let mut response: Vec<Vec<u8>> = fetch.ids.iter().filter_map(|id| bodies.get(id).cloned()).collect();
            if mutator.0.random_bool(0.2) && !response.is_empty() {
                let at = mutator.0.random_range(0..response.len());
                match mutator.0.random_range(0..4) {
                    0 => drop(response.remove(at)),
                    1 => response.push(response[at].clone()),
                    2 => response[at] = mutator.mutate(response[at].clone(), &last),
                    _ => response[at] = last.clone(),
                }
            }
            for checked in swarm.on_fetched(fetch.number, response, fetch.from[0], now_ms) {
                let Checked::Judge { id, group, body } = checked else { continue };
                assert_eq!(SignedGroup::open(&body, swarm.spec()).expect("opens").1, group);
                let rewards: Vec<f32> =
                    group.completions.iter().map(|_| mutator.0.random_range(0..3) as f32 / 2.0).collect();
                let judgement = match mutator.0.random_range(0..20) {
                    0 => Judgement::Unverifiable(String::new()),
                    1 => Judgement::HeldOut,
                    2 => Judgement::Scored { rewards: vec![f32::NAN], prompt_hash: [0; 32] },
                    3 => continue,
                    _ => Judgement::Scored { rewards, prompt_hash: [group.seed as u8; 32] },
                };
                if let Admission::Store { group, .. } = swarm.on_judged(id, judgement, now_ms) {
                    assert_eq!(&StoredGroup::decode(&group.encode(), swarm.spec()).expect("reads back"), &*group);
                }
            }
        }
        used += swarm.select(policies[round as usize % 5], 4, now_ms, round).0.len();
        most = most.max(swarm.memory_bytes());
        drop(swarm.take_changed_accounts());
    }
    assert!(most < MEMORY_BOUND, "{most}");
    assert!(used > 1000 && swarm.tally().stored > 1000, "{used} uses of {} groups", swarm.tally().stored);
    use Reason::{Duplicate, HeldOut, Malformed, Misannounced, Unrequested, Unscored, Unverifiable};
    for expected in [Malformed, Misannounced, Unverifiable, HeldOut, Duplicate, Unrequested, Unscored] {
        assert!(swarm.tally().refused.contains_key(&expected), "{expected} never happened: {:?}", swarm.tally());
    }
}

/// A run of the largest groups there can be, everything full: the bounds hold in bytes, too.
#[test]
fn a_swarm_full_of_the_largest_groups_stays_within_its_memory() {
    let mut spec = spec();
    spec.tasks.truncate(1);
    (spec.limits.max_completions, spec.limits.max_completion_bytes) = (8, 65_000);
    spec.limits.groups_per_minute = 6000;
    let run = spec.id();
    let mut swarm = Swarm::new(SwarmConfig::default(), spec.clone(), signer(0), 1).expect("a valid run");
    let largest = |author: &Signer, counter: u64| {
        let mut group = group::tests::group(author, counter, &[""; 8]);
        group.run = run;
        group.seed = crate::run::question_seed(&run, &author.key(), counter);
        group.completions.iter_mut().for_each(|completion| completion.text = vec![counter as u8; 65_000]);
        SignedGroup::sign(&group, author)
    };
    let mut most = 0;
    for round in 0..60u64 {
        let now_ms = START + round * 1000;
        swarm.publish(vec![largest(&signer(0), round)], 5, now_ms);
        let author = signer(1 + round % 3);
        swarm.on_connected(author.key());
        let signed: Vec<SignedGroup> = (0..3).map(|at| largest(&author, round * 3 + at)).collect();
        let said = Announcement { run, ..announcement(&author, now_ms, 5, signed.iter().map(announced).collect()) };
        swarm.on_announcement(&said.sign(&author), author.key(), now_ms);
        for fetch in swarm.next_fetches(now_ms) {
            let bodies = signed.iter().filter(|signed| fetch.ids.contains(&signed.id())).map(SignedGroup::encode);
            for checked in swarm.on_fetched(fetch.number, bodies.collect(), fetch.from[0], now_ms) {
                let Checked::Judge { id, .. } = checked else { panic!("{checked:?}") };
                if round >= 2 {
                    let judgement = Judgement::Scored { rewards: vec![1.0; 8], prompt_hash: [round as u8; 32] };
                    assert!(matches!(swarm.on_judged(id, judgement, now_ms), Admission::Store { .. }));
                }
            }
        }
        most = most.max(swarm.memory_bytes());
    }
    assert!((24 << 20..40 << 20).contains(&most), "{most}");
    assert!(swarm.tally().stored > 30 && swarm.tally().dropped.len() == 1, "{:?}", swarm.tally());
}
