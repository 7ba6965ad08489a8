//! What peers give each other, and what becomes of it.

use super::*;
use crate::selection::{AnyCorrect, PaperUniform};
use crate::wire::{MAX_RESPONSE_BYTES, Receipt, Request, Response, Verdict};

#[test]
fn a_group_goes_from_its_author_into_anothers_training() {
    let mut author = Swarm::new(config(), spec(), signer(1), 1).expect("a valid run");
    let mut reader = swarm();
    author.on_connected(reader.key());
    reader.on_connected(author.key());
    let groups: Vec<SignedGroup> = (0..3).map(|counter| signed(&signer(1), counter)).collect();
    let said = author.publish(groups.clone(), 5, START);
    assert_eq!(said.len(), 1);
    assert_eq!(reader.on_announcement(&said[0], author.key(), START + 5), Gossip::Accept);
    assert_eq!((reader.waiting(START + 10).wanted, reader.waiting(START + 10).oldest_ms), (3, 5));

    let fetches = reader.next_fetches(START + 10);
    assert_eq!(fetches.len(), 1);
    // The newest come first, in case there is no time for all.
    assert_eq!(fetches[0].ids, [groups[2].id(), groups[1].id(), groups[0].id()]);
    assert_eq!((&fetches[0].from[..], fetches[0].deadline_ms), (&[author.key()][..], START + 10_010));
    assert_eq!((reader.waiting(START).wanted, reader.waiting(START).fetching), (0, 3));

    let request = Request::Groups { run: spec().id(), ids: fetches[0].ids.clone() };
    let response = author.serve(&request, reader.key(), START + 11);
    assert!(response.encode().len() <= fetches[0].max_bytes);
    let Response::Groups(bodies) = response else { panic!("{response:?}") };
    let checked = reader.on_fetched(fetches[0].number, bodies, author.key(), START + 20);
    assert_eq!((checked.len(), reader.waiting(START).judging), (3, 3));
    let mut verdicts = Vec::new();
    for (checked, prompt) in checked.into_iter().zip(1..) {
        let Checked::Judge { id, group, body } = checked else { panic!("{checked:?}") };
        let signed = &groups[group.counter as usize];
        assert_eq!((id, &body), (signed.id(), signed.bytes()));
        match reader.on_judged(id, scored(prompt), START + 30) {
            Admission::Store { group, evicted } => {
                assert_eq!((group.id, group.received_ms, group.uses, evicted.len()), (id, START + 20, 0, 0));
                verdicts.push((id, Verdict::Stored));
            }
            refused => panic!("{refused:?}"),
        }
    }
    let receipt = Receipt { verdicts: verdicts.clone() };
    assert_eq!(author.on_receipt(reader.key(), &receipt).len(), 3);
    assert_eq!(author.on_receipt(reader.key(), &receipt).len(), 0);
    assert_eq!((author.tally().shared, author.tally().acknowledged, author.tally().served_bytes > 2000), (3, 3, true));
    assert_eq!((reader.tally().stored, reader.tally().received_bytes), (3, author.tally().served_bytes));
    let account = reader.accounts().get(&author.key()).expect("an account");
    assert_eq!((account.groups_in(), account.newest_version(), account.score(START)), (3, 5, 0.0));

    // Two uses each, then they are gone.
    reader.buffer = rebuffer(&reader, 2);
    let (first, dropped) = reader.select(&PaperUniform, 2, START + 40, 7);
    assert_eq!((first.len(), dropped.len(), first[0].uses), (2, 0, 1));
    let (second, dropped) = reader.select(&AnyCorrect, 9, START + 50, 8);
    let used_up: Vec<_> = first.iter().map(|group| Dropped { id: group.id, reason: DropReason::UsedUp }).collect();
    assert_eq!((second.len(), dropped.len()), (3, 2));
    assert!(used_up.iter().all(|gone| dropped.contains(gone)));
    assert_eq!((reader.buffer().len(), reader.tally().used, reader.tally().dropped[&DropReason::UsedUp]), (1, 5, 2));
    assert_eq!(reader.accounts().get(&author.key()).expect("an account").used(), 5);

    // What is kept of others is served too; what was dropped is not.
    let response = reader.serve(&request, signer(2).key(), START + 60);
    let left = reader.buffer().iter().next().expect("one").body.to_vec();
    assert_eq!(response, Response::Groups(vec![left]));
}

/// The same groups in a buffer that lets each be used so often.
fn rebuffer(swarm: &Swarm, max_uses: u32) -> ReplayBuffer {
    let mut buffer = ReplayBuffer::new(BufferLimits { max_uses, ..config().buffer });
    swarm.buffer().iter().for_each(|group| drop(buffer.insert(group.clone())));
    buffer
}

#[test]
fn a_request_is_answered_within_bounds() {
    let mut swarm = with_config(SwarmConfig { serve_bytes_per_minute: 10_000, ..config() });
    let groups: Vec<SignedGroup> = (0..10).map(|counter| signed(&signer(0), counter)).collect();
    swarm.publish(groups.clone(), 5, START);
    let ask = |at: &[usize]| Request::Groups { run: spec().id(), ids: at.iter().map(|&at| groups[at].id()).collect() };
    let (peer, other) = (signer(1).key(), signer(2).key());
    assert_eq!(swarm.serve(&Request::Spec(spec().id()), peer, START), Response::Spec(spec().encode()));
    let wrong = Request::Spec(RunId([1; 32]));
    assert!(matches!(swarm.serve(&wrong, peer, START), Response::Refused(why) if why.contains("another run")));
    let expected = Response::Groups(vec![groups[7].encode(), groups[2].encode()]);
    assert_eq!(swarm.serve(&ask(&[7, 2]), peer, START), expected);
    let unknown = Request::Groups { run: spec().id(), ids: vec![GroupId([1; 32])] };
    assert_eq!(swarm.serve(&unknown, peer, START), Response::Groups(vec![]));
    // About 10 kB a minute for each peer, whoever else asks.
    let all = ask(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let served = |response: Response| match response {
        Response::Groups(bodies) => bodies.len(),
        _ => 0,
    };
    let mut total = 0;
    for _ in 0..100 {
        total += served(swarm.serve(&all, peer, START));
    }
    assert_eq!(total, (10_000 - spec().encode().len()) / groups[0].encode().len() - 2);
    assert!(matches!(swarm.serve(&all, peer, START), Response::Refused(why) if why.contains("minute")));
    assert_eq!(served(swarm.serve(&ask(&[1, 2]), other, START)), 2);
    assert!(served(swarm.serve(&all, peer, START + 60_000)) > 5);
}

#[test]
fn a_response_never_outgrows_its_limit() {
    let mut spec = spec();
    (spec.limits.max_completions, spec.limits.max_completion_bytes) = (8, 60_000);
    let (run, author) = (spec.id(), signer(0));
    let mut swarm = Swarm::new(SwarmConfig::default(), spec, signer(0), 1).expect("a valid run");
    let groups: Vec<SignedGroup> = (0..8)
        .map(|counter| {
            let mut group = group(&author, counter, &["x"; 8]);
            group.run = run;
            group.completions.iter_mut().for_each(|completion| completion.text = vec![0; 60_000]);
            SignedGroup::sign(&group, &author)
        })
        .collect();
    swarm.publish(groups.clone(), 5, START);
    let request = Request::Groups { run, ids: groups.iter().map(SignedGroup::id).collect() };
    let Response::Groups(bodies) = swarm.serve(&request, signer(1).key(), START) else { panic!("refused") };
    assert_eq!(bodies.len(), 4);
    assert!(Response::Groups(bodies).encode().len() <= MAX_RESPONSE_BYTES);
}

#[test]
fn the_author_is_asked_first_and_then_whoever_forwarded() {
    let [author, near, far] = [1, 2, 3].map(signer);
    let mut swarm = swarm();
    let group = signed(&author, 0);
    let said = announce_all(&author, START, std::slice::from_ref(&group));
    swarm.on_announcement(&said, near.key(), START);
    swarm.on_announcement(&said, far.key(), START);
    assert!(swarm.next_fetches(START).is_empty(), "nobody is connected");
    assert_eq!(swarm.waiting(START).out_of_reach, 1);
    [&author, &near].iter().for_each(|peer| swarm.on_connected(peer.key()));
    assert_eq!(swarm.waiting(START).out_of_reach, 0);
    let asked = |swarm: &mut Swarm, now_ms| swarm.next_fetches(now_ms).pop().map(|fetch| (fetch.number, fetch.from));
    assert_eq!(asked(&mut swarm, START), Some((0, vec![author.key(), near.key()])));
    swarm.on_connected(far.key());
    assert_eq!(asked(&mut swarm, START), None, "one fetch at a time");
    swarm.on_fetch_failed(0, START);
    assert_eq!(asked(&mut swarm, START + 999), None);
    assert_eq!(asked(&mut swarm, START + 1000), Some((1, vec![near.key(), far.key(), author.key()])));
    // It has nothing: no blame, but somebody else is next, and there is an end to it.
    assert!(swarm.on_fetched(1, vec![], near.key(), START + 1000).is_empty());
    assert_eq!(asked(&mut swarm, START + 3000), Some((2, vec![far.key(), author.key(), near.key()])));
    swarm.on_disconnected(far.key(), START + 3000);
    assert_eq!(asked(&mut swarm, START + 99_000), None);
    assert_eq!((swarm.tally().undelivered, swarm.waiting(START).wanted), (1, 0));
    assert!([&author, &near, &far].iter().all(|peer| offences(&swarm, peer).is_empty()));
    // Announced again, it is wanted again.
    let again = announce_all(&author, START + 99_000, std::slice::from_ref(&group));
    assert_eq!(swarm.on_announcement(&again, near.key(), START + 99_000), Gossip::Accept);
    let (number, from) = asked(&mut swarm, START + 99_000).expect("a fetch");
    assert_eq!(from[0], author.key());
    assert_eq!(swarm.on_fetched(number, vec![group.encode()], from[0], START + 99_000).len(), 1);
}

#[test]
fn fetches_are_bounded_in_all_and_for_each_peer() {
    let authors: Vec<Signer> = (1..6).map(signer).collect();
    let mut swarm = swarm();
    let hub = signer(99).key();
    swarm.on_connected(hub);
    for author in &authors {
        let groups: Vec<SignedGroup> = (0..18).map(|counter| signed(author, counter)).collect();
        swarm.on_announcement(&announce_all(author, START, &groups), hub, START);
    }
    assert_eq!(swarm.waiting(START).wanted, 40, "bounded, and the larger made room");
    let fetches = swarm.next_fetches(START);
    assert_eq!(fetches.iter().map(|fetch| fetch.from[0]).collect::<Vec<_>>(), [hub, hub]);
    for author in &authors {
        swarm.on_connected(author.key());
    }
    let more = swarm.next_fetches(START);
    assert_eq!(more.len(), 2, "four in all");
    assert!(more.iter().all(|fetch| fetch.from[0] != hub && fetch.ids.len() <= 16));
    assert!(swarm.next_fetches(START).is_empty());
    // What is never reported is taken for failed after a while.
    assert!(swarm.next_fetches(START + 15_000).is_empty());
    let asked: usize = fetches.iter().chain(&more).map(|fetch| fetch.ids.len()).sum();
    let next = swarm.next_fetches(START + 15_001);
    assert_eq!(next.iter().map(|fetch| fetch.ids.len()).sum::<usize>(), 40 - asked, "the others wait a second first");
    assert_eq!(swarm.next_fetches(START + 16_001).len(), 4 - next.len());
}

#[test]
fn what_is_being_judged_is_bounded() {
    let author = signer(1);
    let mut swarm = with_config(SwarmConfig { undecided_groups: 5, ..config() });
    swarm.on_connected(author.key());
    let groups: Vec<SignedGroup> = (0..12).map(|counter| signed(&author, counter)).collect();
    swarm.on_announcement(&announce_all(&author, START, &groups), author.key(), START);
    let fetch = swarm.next_fetches(START).pop().expect("a fetch");
    assert_eq!(fetch.ids.len(), 5);
    assert!(swarm.next_fetches(START).is_empty());
    let bodies = groups[7..].iter().map(SignedGroup::encode).collect();
    assert_eq!(swarm.on_fetched(fetch.number, bodies, author.key(), START).len(), 5);
    assert!(swarm.next_fetches(START).is_empty());
    swarm.on_judged(groups[9].id(), scored(1), START);
    assert_eq!(swarm.next_fetches(START).pop().expect("a fetch").ids, [groups[6].id()]);
    // A judgement that never comes is not waited for.
    swarm.expire(START + 120_001);
    assert_eq!(swarm.waiting(START).judging, 0);
    let late = swarm.on_judged(groups[8].id(), scored(2), START + 120_001);
    assert_eq!(late, Admission::Refuse { reason: Reason::Unscored });
    assert_eq!(swarm.tally().refused[&Reason::Unscored], 5);
    assert!(offences(&swarm, &author).is_empty());
}

#[test]
fn nobody_crowds_out_the_others_announcements() {
    let mut swarm = swarm();
    let (loud, quiet) = (signer(1), signer(2));
    let few: Vec<SignedGroup> = (0..3).map(|counter| signed(&quiet, counter)).collect();
    swarm.on_announcement(&announce_all(&quiet, START, &few), quiet.key(), START);
    let mut own = Vec::new();
    for at in 0..6 {
        let many: Vec<SignedGroup> = (10 * at..10 * at + 10).map(|counter| signed(&loud, counter)).collect();
        swarm.on_announcement(&announce_all(&loud, START + at, &many), loud.key(), START + at);
        own.extend(many);
    }
    assert_eq!(swarm.waiting(START).wanted, 20 + 3);
    swarm.on_connected(loud.key());
    swarm.on_connected(quiet.key());
    let fetches = swarm.next_fetches(START + 9);
    let of_quiet = fetches.iter().find(|fetch| fetch.from[0] == quiet.key()).expect("a fetch");
    assert_eq!(of_quiet.ids.len(), 3);
    assert!(fetches.iter().any(|fetch| fetch.ids.contains(&own[59].id())));
}

#[test]
fn a_peer_that_only_gives_wants_nothing() {
    let mut swarm = with_config(SwarmConfig { takes: false, ..config() });
    let author = signer(1);
    swarm.on_connected(author.key());
    let said = announce_all(&author, START, &[signed(&author, 0)]);
    assert_eq!(swarm.on_announcement(&said, author.key(), START), Gossip::Accept);
    assert!(swarm.next_fetches(START).is_empty());
}

#[test]
fn own_announcements_are_split_and_told_apart_by_time() {
    let mut wide = spec();
    wide.limits.groups_per_minute = 1000;
    let run = wide.id();
    let mut swarm = Swarm::new(SwarmConfig::default(), wide, signer(0), 1).expect("a valid run");
    let groups: Vec<SignedGroup> = (0..150)
        .map(|counter| {
            let mut group = group(&signer(0), counter, &["1", "2"]);
            group.run = run;
            SignedGroup::sign(&group, &signer(0))
        })
        .collect();
    let said = swarm.publish(groups.clone(), 9, START);
    let opened: Vec<Announcement> = said.iter().map(|bytes| Announcement::open(bytes).expect("opens")).collect();
    let shape = |said: &Announcement| (said.groups.len(), said.sent_ms - START, said.newest_version);
    assert_eq!(opened.iter().map(shape).collect::<Vec<_>>(), [(64, 0, 9), (64, 1, 9), (22, 2, 9)]);
    assert_eq!(opened[2].groups[21], announced(&groups[149]));
    assert!(swarm.publish(groups, 9, START).len() == 1, "known ones are not announced again, but a sign of life is");
    let again = Announcement::open(&swarm.reannounce(START).expect("some")).expect("opens");
    assert_eq!((again.groups.len(), again.groups[0].counter, again.sent_ms - START), (64, 149, 4));
    swarm.publish(vec![], 14, START + 10);
    assert_eq!(swarm.reannounce(START + 20), None, "all are stale by now");
    assert_eq!(swarm.lowest_own_counter(), Some(0));
}

#[test]
fn a_restart_forgets_nothing_that_matters() {
    let mut before = swarm();
    let [liar, author] = [1, 2].map(signer);
    let stored = signed(&author, 5);
    let Admission::Store { group, .. } = take(&mut before, &author, &stored, scored(1), START) else {
        panic!("refused")
    };
    for at in 0..20 {
        before.on_announcement(b"garbage", liar.key(), START + at * 10_000);
    }
    assert_eq!(before.banned(), [liar.key()]);
    let own = signed(&signer(0), 3);
    before.publish(vec![own.clone()], 4, START);
    let accounts: Vec<Vec<u8>> = before.take_changed_accounts().into_iter().filter_map(|(_, bytes)| bytes).collect();
    assert_eq!(accounts.len(), 2);

    // With its accounts, and without them as after a crash.
    for accounts in [accounts, vec![]] {
        let known = !accounts.is_empty();
        let mut after = swarm();
        let damaged = vec![vec![1, 2, 3]];
        let groups = vec![group.encode(), b"damaged".to_vec()];
        let restored =
            after.restore(accounts.into_iter().chain(damaged), groups, vec![own.encode(), stored.encode()], START);
        assert_eq!((restored.damaged, restored.dropped.len()), (3, 0));
        assert_eq!(after.banned().len(), usize::from(known));
        assert_eq!(after.buffer().get(&stored.id()), Some(&*group));
        let request = Request::Groups { run: spec().id(), ids: vec![own.id(), stored.id()] };
        let expected = Response::Groups(vec![own.encode(), stored.encode()]);
        assert_eq!(after.serve(&request, signer(7).key(), START), expected);
        // The same group is not fetched again, and another under its counter shows.
        after.on_connected(author.key());
        let again = announce_all(&author, START + 1, std::slice::from_ref(&stored));
        after.on_announcement(&again, author.key(), START + 1);
        assert!(after.next_fetches(START + 1).is_empty());
        let other = SignedGroup::sign(&crate::group::tests::group(&author, 5, &["other"]), &author);
        after.on_announcement(&announce_all(&author, START + 2, &[other]), author.key(), START + 2);
        assert_eq!(offences(&after, &author), [(Offence::Equivocation, 1)]);
        // Copies of what was stored are still recognised.
        let copier = signer(9);
        let mut copy = group.group.clone();
        (copy.author, copy.counter) = (copier.key(), 1);
        copy.seed = crate::run::question_seed(&spec().id(), &copier.key(), 1);
        let copied = take(&mut after, &copier, &SignedGroup::sign(&copy, &copier), scored(1), START + 3);
        assert_eq!(copied, Admission::Refuse { reason: Reason::Copied });
    }
}
