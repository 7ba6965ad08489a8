//! Who is blamed for what, and what follows.

use super::*;
use crate::group::Completion;
use crate::id::SIGNATURE_BYTES;
use crate::run::{MAX_INDICES, question_seed};
use crate::wire::{Request, Response};

#[test]
fn bytes_that_are_no_announcement_are_the_forwarders_fault() {
    let (author, forwarder) = (signer(1), signer(2));
    let mut swarm = swarm();
    let said = announce_all(&author, START, &[signed(&author, 0)]);
    let mut spoilt = said.clone();
    spoilt[40] ^= 1;
    for bytes in [&b""[..], b"garbage", &spoilt, &said[..said.len() - 1], &[1; 5000]] {
        assert_eq!(swarm.on_announcement(bytes, forwarder.key(), START), Gossip::Reject);
    }
    assert_eq!(offences(&swarm, &forwarder), [(Offence::Malformed, 5)]);
    assert_eq!(offences(&swarm, &author), []);
    assert_eq!(swarm.on_announcement(&said, forwarder.key(), START), Gossip::Accept);
}

#[test]
fn what_an_announcement_says_is_its_authors_fault() {
    let (author, forwarder) = (signer(1), signer(2));
    let good = announced(&signed(&author, 0));
    let of_other = announced(&signed(&signer(3), 0));
    let cases: [(Vec<Announced>, Offence); 7] = [
        (vec![Announced { task: 2, ..good }], Offence::Misannounced),
        (vec![Announced { policy_version: 6, ..good }], Offence::Misannounced),
        (vec![Announced { bytes: 63, ..good }], Offence::Misannounced),
        (vec![Announced { bytes: spec().limits.max_group_bytes() as u32 + 1, ..good }], Offence::Misannounced),
        (vec![good, good], Offence::Duplicate),
        (vec![good, Announced { id: GroupId([1; 32]), ..good }], Offence::Equivocation),
        (vec![of_other], Offence::Misannounced),
    ];
    for (groups, offence) in cases {
        let mut swarm = swarm();
        take(&mut swarm, &signer(3), &signed(&signer(3), 0), scored(1), START);
        let said = announcement(&author, START, &groups);
        let expected = if offence == Offence::Equivocation { Gossip::Accept } else { Gossip::Ignore };
        assert_eq!(swarm.on_announcement(&said, forwarder.key(), START), expected);
        assert_eq!(offences(&swarm, &author), [(offence, 1)]);
        // Whoever says it again harms nobody.
        for at in 1..100 {
            swarm.on_announcement(&said, forwarder.key(), START + at * 11_000);
        }
        assert_eq!(offences(&swarm, &author), [(offence, 1)]);
        assert_eq!(offences(&swarm, &forwarder), []);
    }
    let mut swarm = swarm();
    let elsewhere =
        Announcement { run: RunId([1; 32]), author: author.key(), sent_ms: 1, newest_version: 1, groups: vec![] };
    assert_eq!(swarm.on_announcement(&elsewhere.sign(&author), forwarder.key(), START), Gossip::Ignore);
    let echo = announce_all(&signer(0), START, &[signed(&signer(0), 0)]);
    assert_eq!(swarm.on_announcement(&echo, forwarder.key(), START), Gossip::Ignore);
    assert!(offences(&swarm, &author).is_empty() && offences(&swarm, &forwarder).is_empty());
    assert!(swarm.accounts().get(&signer(0).key()).is_none(), "no account of its own");
}

#[test]
fn two_groups_under_one_counter_are_held_against_their_author_once() {
    let (author, forwarder) = (signer(1), signer(2));
    let mut swarm = swarm();
    let (first, second) = (signed(&author, 4), SignedGroup::sign(&group(&author, 4, &["other"]), &author));
    let (said, contradiction) = (announce_all(&author, START, &[first]), announce_all(&author, START + 1, &[second]));
    swarm.on_announcement(&said, forwarder.key(), START);
    assert_eq!(swarm.on_announcement(&contradiction, forwarder.key(), START + 1), Gossip::Accept, "others should know");
    for at in 2..50 {
        swarm.on_announcement(&said, forwarder.key(), START + at * 20_000);
        swarm.on_announcement(&contradiction, forwarder.key(), START + at * 20_000);
    }
    assert_eq!(offences(&swarm, &author), [(Offence::Equivocation, 1)]);
    assert_eq!(offences(&swarm, &forwarder), []);
}

#[test]
fn a_stale_offer_is_an_offence_and_a_late_arrival_is_not() {
    let (author, forwarder) = (signer(1), signer(2));
    let mut swarm = swarm();
    swarm.on_connected(author.key());
    let fresh = signed(&author, 0);
    let say = |sent_ms, newest_version, groups: Vec<Announced>| {
        Announcement { run: spec().id(), author: author.key(), sent_ms, newest_version, groups }.sign(&author)
    };
    swarm.on_announcement(&say(START, 13, vec![announced(&fresh)]), forwarder.key(), START);
    let fetch = swarm.next_fetches(START).pop().expect("a fetch");
    // While it is on its way, the author moves on: 14 - 3 is beyond the run's 10.
    swarm.on_announcement(&say(START + 1, 14, vec![]), forwarder.key(), START + 1);
    let checked = swarm.on_fetched(fetch.number, vec![fresh.encode()], author.key(), START + 2);
    let refused = Checked::Refused { id: fresh.id(), author: author.key(), reason: Reason::Stale };
    assert_eq!((checked, offences(&swarm, &author)), (vec![refused], vec![]));
    let stale = say(START + 3, 14, vec![announced(&signed(&author, 1))]);
    assert_eq!(swarm.on_announcement(&stale, forwarder.key(), START + 3), Gossip::Ignore);
    assert_eq!(offences(&swarm, &author), [(Offence::Stale, 1)]);
    assert_eq!(swarm.waiting(START + 3).wanted, 0);
}

#[test]
fn a_stored_group_goes_when_it_is_too_old_or_too_stale() {
    let author = signer(1);
    for (newest_version, at_ms, expected) in [
        (13, START + 900_000, None),
        (14, START + 1, Some(DropReason::Stale)),
        (13, START + 900_001, Some(DropReason::Aged)),
    ] {
        let mut swarm = swarm();
        let group = signed(&author, 0);
        take(&mut swarm, &author, &group, scored(1), START);
        let said =
            Announcement { run: spec().id(), author: author.key(), sent_ms: START + 1, newest_version, groups: vec![] };
        swarm.on_announcement(&said.sign(&author), author.key(), START + 1);
        let dropped = swarm.expire(at_ms);
        assert_eq!(dropped.first().copied(), expected.map(|reason| Dropped { id: group.id(), reason }));
        assert_eq!(swarm.buffer().len(), usize::from(expected.is_none()));
    }
}

/// Has `group` announced and delivered as `body` by `from`.
fn deliver(swarm: &mut Swarm, author: &Signer, announced: Announced, body: Vec<u8>, from: &Signer) -> Vec<Checked> {
    swarm.on_connected(from.key());
    swarm.on_announcement(&announcement(author, START, &[announced]), from.key(), START);
    let fetch = swarm.next_fetches(START).pop().expect("a fetch");
    assert_eq!(fetch.from, [from.key()]);
    swarm.on_fetched(fetch.number, vec![body], from.key(), START)
}

#[test]
fn a_group_that_is_not_what_was_announced_is_its_authors_fault() {
    let (author, server) = (signer(1), signer(2));
    let sign = |change: fn(&mut Group)| {
        let mut group = group(&author, 7, &["1", "2"]);
        change(&mut group);
        SignedGroup::sign(&group, &author)
    };
    let good = sign(|_| {});
    let by_other = signed(&signer(3), 7);
    let mut garbage = vec![1; 200];
    garbage.extend([0; SIGNATURE_BYTES]);
    let garbage_id = SignedGroup::id_of(&garbage, &spec()).expect("long enough");
    let cases = [
        (Announced { counter: 8, ..announced(&good) }, good.encode(), Offence::Misannounced, Reason::Misannounced),
        (Announced { task: 1, ..announced(&good) }, good.encode(), Offence::Misannounced, Reason::Misannounced),
        (
            Announced { policy_version: 4, ..announced(&good) },
            good.encode(),
            Offence::Misannounced,
            Reason::Misannounced,
        ),
        (Announced { bytes: 100, ..announced(&good) }, good.encode(), Offence::Misannounced, Reason::Misannounced),
        (announced(&by_other), by_other.encode(), Offence::Misannounced, Reason::Misannounced),
        (Announced { id: garbage_id, ..announced(&good) }, garbage, Offence::Misannounced, Reason::Malformed),
    ];
    let lies: [fn(&mut Group); 4] = [
        |group| group.seed += 1,
        |group| group.config_hash[0] ^= 1,
        |group| group.index = MAX_INDICES,
        |group| group.completions[0].logprob = Some(f32::INFINITY),
    ];
    let lies = lies.map(sign).map(|lie| (announced(&lie), lie.encode(), Offence::Unverifiable, Reason::Unverifiable));
    for (announced, body, offence, reason) in cases.into_iter().chain(lies) {
        let mut swarm = swarm();
        let checked = deliver(&mut swarm, &author, announced, body, &server);
        assert_eq!(checked, [Checked::Refused { id: announced.id, author: author.key(), reason }]);
        assert_eq!((offences(&swarm, &author), offences(&swarm, &server)), (vec![(offence, 1)], vec![]));
        // It is never asked for again.
        swarm.on_announcement(&announcement(&author, START + 1, &[announced]), server.key(), START + 1);
        assert!(swarm.next_fetches(START + 60_000).is_empty());
    }
}

#[test]
fn bytes_that_nobody_asked_for_are_the_senders_fault() {
    let (author, server) = (signer(1), signer(2));
    let good = signed(&author, 0);
    let mut spoilt = good.encode();
    *spoilt.last_mut().expect("a signature") ^= 1;
    let cases = [
        (vec![0; 10], Offence::Malformed),
        (vec![0; 5000], Offence::Malformed),
        (spoilt, Offence::Malformed),
        (signed(&author, 1).encode(), Offence::Unrequested),
    ];
    for (body, offence) in cases {
        let mut swarm = swarm();
        let checked = deliver(&mut swarm, &author, announced(&good), body, &server);
        assert_eq!((checked, offences(&swarm, &server)), (vec![], vec![(offence, 1)]));
        assert_eq!(offences(&swarm, &author), []);
        // The group itself is still wanted, from anybody.
        swarm.on_connected(author.key());
        let fetch = swarm.next_fetches(START + 1000).pop().expect("another fetch");
        assert_eq!(fetch.from[0], author.key());
        let bodies = vec![good.encode(), good.encode()];
        let checked = swarm.on_fetched(fetch.number, bodies, author.key(), START + 1000);
        assert!(matches!(&checked[..], [Checked::Judge { .. }]));
        assert_eq!(offences(&swarm, &author), [(Offence::Duplicate, 1)]);
        assert!(swarm.on_fetched(fetch.number, vec![vec![]], server.key(), START).is_empty(), "too late, so no fault");
        assert_eq!(offences(&swarm, &server), [(offence, 1)]);
    }
}

#[test]
fn judgements_decide() {
    let author = signer(1);
    let cases = [
        (Judgement::Unverifiable("no such question".into()), Reason::Unverifiable, Some(Offence::Unverifiable)),
        (Judgement::HeldOut, Reason::HeldOut, Some(Offence::HeldOut)),
        (Judgement::Scored { rewards: vec![1.0; 7], prompt_hash: [1; 32] }, Reason::Unscored, None),
        (Judgement::Scored { rewards: vec![f32::NAN; 8], prompt_hash: [1; 32] }, Reason::Unscored, None),
    ];
    for (judgement, reason, offence) in cases {
        let mut swarm = swarm();
        let admission = take(&mut swarm, &author, &signed(&author, 0), judgement, START);
        assert_eq!(admission, Admission::Refuse { reason });
        assert_eq!(offences(&swarm, &author), offence.map(|offence| (offence, 1)).into_iter().collect::<Vec<_>>());
        assert_eq!((swarm.tally().refused[&reason], swarm.buffer().len()), (1, 0));
    }
}

#[test]
fn a_liar_is_muted_then_banned_and_its_groups_go() {
    let (liar, other) = (signer(1), signer(2));
    let mut swarm = swarm();
    assert!(matches!(take(&mut swarm, &liar, &signed(&liar, 0), scored(1), START), Admission::Store { .. }));
    let request = Request::Groups { run: spec().id(), ids: vec![] };
    let mut standings = Vec::new();
    for at in 1..200 {
        let now_ms = START + at * 2000;
        let standing = swarm.accounts().standing(&liar.key(), now_ms);
        if standings.last() != Some(&standing) {
            standings.push(standing);
        }
        let served = matches!(swarm.serve(&request, liar.key(), now_ms), Response::Groups(_));
        assert_eq!(served, standing == Standing::Good);
        assert!(matches!(swarm.serve(&request, other.key(), now_ms), Response::Groups(_)));
        if standing == Standing::Good {
            take(&mut swarm, &liar, &signed(&liar, at), Judgement::Unverifiable("lies".into()), now_ms);
        } else {
            let said = announce_all(&liar, now_ms, &[signed(&liar, at)]);
            assert_eq!(swarm.on_announcement(&said, other.key(), now_ms), Gossip::Ignore);
            assert!(swarm.next_fetches(now_ms).is_empty());
        }
    }
    use Standing::{Banned, Good, Muted};
    assert_eq!(standings, [Good, Muted, Good, Muted, Good, Banned]);
    assert_eq!(swarm.banned(), [liar.key()]);
    assert_eq!(swarm.on_announcement(b"", liar.key(), START), Gossip::Ignore);
    let dropped = swarm.expire(START + 400_000);
    assert_eq!(dropped, [Dropped { id: signed(&liar, 0).id(), reason: DropReason::Banned }]);
    assert_eq!(offences(&swarm, &other), []);
}

#[test]
fn a_flood_is_cut_off_and_nobody_can_use_up_anothers_allowance() {
    let (author, enemy) = (signer(1), signer(2));
    let mut swarm = with_config(SwarmConfig { wanted_per_author: 1000, wanted: 1000, ..config() });
    // The run allows 60 groups a minute.
    let batch = |from: u64| (from..from + 20).map(|counter| announced(&signed(&author, counter))).collect::<Vec<_>>();
    let old: Vec<Vec<u8>> = (0..10).map(|at| announcement(&author, START + at, &batch(1000 + 20 * at))).collect();
    let first = announcement(&author, START + 100, &batch(0));
    assert_eq!(swarm.on_announcement(&first, enemy.key(), START + 100), Gossip::Accept);
    assert_eq!(swarm.waiting(START).wanted, 20);
    // Earlier announcements, brought up by somebody else: half of the allowance stays, and no blame.
    for said in &old {
        swarm.on_announcement(said, enemy.key(), START + 100);
    }
    assert_eq!((swarm.waiting(START).wanted, offences(&swarm, &author)), (30, vec![]));
    let second = announcement(&author, START + 101, &batch(20));
    assert_eq!(swarm.on_announcement(&second, enemy.key(), START + 101), Gossip::Accept);
    let third = announcement(&author, START + 102, &batch(40));
    assert_eq!(swarm.on_announcement(&third, enemy.key(), START + 102), Gossip::Ignore);
    assert_eq!((swarm.waiting(START).wanted, swarm.tally().refused[&Reason::OverQuota]), (60, 200));
    assert_eq!((offences(&swarm, &author), offences(&swarm, &enemy)), (vec![(Offence::OverQuota, 1)], vec![]));
    // Signs of life count too.
    for at in 0..100 {
        swarm.on_announcement(&announcement(&author, START + 200 + at, &[]), enemy.key(), START + 200);
    }
    assert_eq!(offences(&swarm, &author), [(Offence::OverQuota, 101)]);
    let fourth = announcement(&author, START + 20_000, &batch(60)[..10]);
    assert_eq!(swarm.on_announcement(&fourth, enemy.key(), START + 20_000), Gossip::Accept);
}

#[test]
fn own_groups_beyond_the_allowance_are_held_back() {
    let mut swarm = swarm();
    let said = swarm.publish((0..50).map(|counter| signed(&signer(0), counter)).collect(), 5, START);
    assert_eq!(Announcement::open(&said[0]).expect("opens").groups.len(), 30);
    assert_eq!((swarm.tally().shared, swarm.tally().held_back), (30, 20));
    assert!(swarm.publish(vec![], 5, START).is_empty());
    let said = swarm.publish(vec![signed(&signer(0), 50)], 5, START + 1000);
    assert_eq!(Announcement::open(&said[0]).expect("opens").groups.len(), 1);
}

/// Copies a group of another as its own: completions and all.
fn copy_of(original: &Group, copier: &Signer, counter: u64) -> SignedGroup {
    let completions: Vec<Completion> = original.completions.clone();
    let seed = question_seed(&original.run, &copier.key(), counter);
    SignedGroup::sign(&Group { author: copier.key(), counter, seed, completions, ..original.clone() }, copier)
}

#[test]
fn a_copier_is_found_out_and_the_copied_are_not_blamed() {
    let (author, copier) = (signer(1), signer(2));
    let mut swarm = swarm();
    let mut accused_at = None;
    for at in 0..9 {
        let now_ms = START + at * 20_000;
        let texts: Vec<String> = (0..8).map(|text| format!("{}", text * (at + 1))).collect();
        let original = group(&author, at, &texts.iter().map(String::as_str).collect::<Vec<_>>());
        let signed = SignedGroup::sign(&original, &author);
        assert!(matches!(take(&mut swarm, &author, &signed, scored(at as u8), now_ms), Admission::Store { .. }));
        let copy = copy_of(&original, &copier, at);
        if swarm.accounts().standing(&copier.key(), now_ms) == Standing::Good {
            let admission = take(&mut swarm, &copier, &copy, scored(at as u8), now_ms);
            assert_eq!(admission, Admission::Refuse { reason: Reason::Copied });
            accused_at = accused_at.or((offences(&swarm, &copier).len() == 1).then_some(at));
        }
    }
    assert_eq!(accused_at, Some(2));
    assert_eq!(offences(&swarm, &copier), [(Offence::Copied, 3)]);
    assert_eq!(swarm.accounts().standing(&copier.key(), START + 8 * 20_000), Standing::Muted);
    assert_eq!(offences(&swarm, &author), []);
    assert_eq!(swarm.tally().stored, 9);
}

#[test]
fn a_copy_of_an_own_group_is_recognised() {
    let (own, copier) = (signer(0), signer(2));
    let mut swarm = swarm();
    let original = group(&own, 0, &["1", "2", "3", "4", "5", "6", "7", "8"]);
    let signed = SignedGroup::sign(&original, &own);
    swarm.publish(vec![signed.clone()], 3, START);
    swarm.remember_own(&signed.id(), [1; 32], START);
    let admission = take(&mut swarm, &copier, &copy_of(&original, &copier, 0), scored(1), START + 1);
    assert_eq!(admission, Admission::Refuse { reason: Reason::Copied });
}
