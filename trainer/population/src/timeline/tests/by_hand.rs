//! Small timelines, worked out by hand: clients take their turns in order.

use super::*;

/// A round as `version @ seconds: client/base ...`, with what was dropped and late where anything was.
fn show(round: &Round) -> String {
    let mut text = format!("{} @ {}:", round.version, round.seconds);
    for arrival in &round.arrivals {
        text += &format!(" {}/{}", arrival.client, arrival.base);
    }
    if round.dropped > 0 {
        text += &format!(" dropped {}", round.dropped);
    }
    if round.late > 0 {
        text += &format!(" late {}", round.late);
    }
    text
}

fn shown(timeline: &mut Timeline) -> Vec<String> {
    timeline.map(|round| show(&round)).collect()
}

#[test]
fn a_synchronous_round_waits_for_the_slowest() {
    let population = population(&[1.0, 2.0, 0.5], "");
    let mut timeline = timeline(&population, "kind = 'synchronous'\nper_round = 2", 3);
    assert_eq!(shown(&mut timeline), ["0 @ 2: 0/0 1/0", "1 @ 3: 2/1 0/1", "2 @ 5: 2/2 1/2"]);
    assert_eq!(timeline.error(), None);
    assert_eq!(timeline.advance(), Ok(None));
}

#[test]
fn over_selection_gives_the_last_ones_up() {
    let population = population(&[4.0, 1.0, 3.0, 2.0], "");
    let mut timeline = timeline(&population, "kind = 'synchronous'\nper_round = 2\nover_selection = 1.0", 2);
    let round = timeline.next().unwrap();
    assert_eq!(show(&round), "0 @ 2: 1/0 3/0 late 2");
    assert_eq!((round.bytes_down, round.bytes_up), (4 * DOWN, 2 * UP));
    assert_eq!(
        round.arrivals[1],
        Arrival { task: 3, client: 3, base: 0, started_s: 0.0, arrived_s: 2.0, tier: 0, share: 1.0 }
    );
    assert_eq!(show(&timeline.next().unwrap()), "1 @ 4: 1/1 3/1 late 2");
    assert_eq!(timeline.in_flight(), 0);
}

#[test]
fn a_tenth_more_than_fifty_is_fifty_five() {
    // 50 * 1.1 is a little more than 55 in binary.
    let population = population(&[1.0; 60], "");
    let round = timeline(&population, "kind = 'synchronous'\nper_round = 50\nover_selection = 0.1", 1).next().unwrap();
    assert_eq!((round.arrivals.len(), round.late), (50, 5));
}

#[test]
fn of_equals_the_first_to_begin_is_in_time() {
    let population = population(&[1.0; 4], "");
    let mut timeline = timeline(&population, "kind = 'synchronous'\nper_round = 3\nover_selection = 0.3", 2);
    assert_eq!(shown(&mut timeline), ["0 @ 1: 0/0 1/0 2/0 late 1", "1 @ 2: 0/1 1/1 2/1 late 1"]);
}

#[test]
fn a_deadline_ends_a_round_with_what_is_there() {
    let population = population(&[1.0, 1.5, 2.0], "");
    let rounds = |deadline| {
        let text = format!("kind = 'synchronous'\nper_round = 3\ndeadline_s = {deadline}");
        shown(&mut timeline(&population, &text, 2))
    };
    assert_eq!(rounds(1.25), ["0 @ 1.25: 0/0 late 2", "1 @ 2.5: 0/1 late 2"]);
    // At the deadline is in time.
    assert_eq!(rounds(1.5), ["0 @ 1.5: 0/0 1/0 late 1", "1 @ 3: 0/1 1/1 late 1"]);
    assert_eq!(rounds(9.0), ["0 @ 2: 0/0 1/0 2/0", "1 @ 4: 0/1 1/1 2/1"]);
    // A round without an update is one as well.
    assert_eq!(rounds(0.5), ["0 @ 0.5: late 3", "1 @ 1: late 3"]);
}

#[test]
fn by_the_clock_updates_arrive_when_they_arrive() {
    let population = population(&[0.4, 0.8, 1.0, 2.5], "");
    let rounds = |more: &str| {
        let text = format!("kind = 'semi_asynchronous'\nper_round = 4\nperiod_s = 1\n{more}");
        shown(&mut timeline(&population, &text, 4))
    };
    assert_eq!(
        rounds(""),
        ["0 @ 1: 0/0 1/0 2/0", "1 @ 2: 0/1 1/1 2/1", "2 @ 3: 0/2 3/0 1/2 2/2", "3 @ 4: 0/3 1/3 2/3"]
    );
    assert_eq!(rounds("max_staleness = 1")[2], "2 @ 3: 0/2 1/2 2/2 late 1");
    assert_eq!(rounds("max_staleness = 2")[2], "2 @ 3: 0/2 3/0 1/2 2/2");
    // Client 3 would miss two versions; so it reports after the first, and begins anew.
    assert_eq!(
        rounds("force_after = 1")[1..],
        ["1 @ 2: 0/1 1/1 2/1 3/0", "2 @ 3: 0/2 1/2 2/2", "3 @ 4: 0/3 1/3 2/3 3/2"]
    );
    let mut forced =
        timeline(&population, "kind = 'semi_asynchronous'\nper_round = 4\nperiod_s = 1\nforce_after = 1", 2);
    let last = forced.nth(1).unwrap().arrivals[3];
    assert_eq!((last.share, last.arrived_s, last.started_s), (0.8, 2.0, 0.0));
    assert_eq!(forced.oldest(), 2);
}

#[test]
fn a_clock_that_nobody_needs_stands_still() {
    // All can be reached from second 100 to 200 of 1,000 only.
    let more = "availability = { kind = 'trace', rows = [[[100, 200]]], period_s = 1000 }";
    let population = population(&[30.0, 60.0], more);
    let text = "kind = 'semi_asynchronous'\nper_round = 2\nperiod_s = 40";
    // The clock ticks at 120 and 160. What client 1 begins at 160 is lost at 200.
    assert_eq!(
        shown(&mut timeline(&population, text, 5)),
        ["0 @ 160: 0/0", "1 @ 200: 1/0 0/1", "2 @ 1160: 0/2", "3 @ 1200: 1/2 0/3", "4 @ 2160: 0/4"]
    );
}

#[test]
fn a_fixed_staleness_is_counted_in_rounds() {
    let slow = |overlap| format!("slow = {{ classes = [0], count = 1, staleness = 2, overlap = {overlap} }}");
    let text = "kind = 'semi_asynchronous'\nper_round = 3";
    // Of equals the first is slow: client 0, whose device is the slowest, which does not matter.
    let rounds = |overlap, text: &str| shown(&mut timeline(&population(&[9.0, 1.0, 2.0], &slow(overlap)), text, 6));
    assert_eq!(
        rounds(true, text),
        [
            "0 @ 2: 1/0 2/0",
            "1 @ 4: 1/1 2/1",
            "2 @ 6: 1/2 2/2 0/0",
            "3 @ 8: 1/3 2/3 0/1",
            "4 @ 10: 1/4 2/4 0/2",
            "5 @ 12: 1/5 2/5 0/3"
        ]
    );
    // Without overlap it can take part again in the round after its arrival.
    assert_eq!(
        rounds(false, text),
        [
            "0 @ 2: 1/0 2/0",
            "1 @ 4: 1/1 2/1",
            "2 @ 6: 1/2 2/2 0/0",
            "3 @ 8: 1/3 2/3",
            "4 @ 10: 1/4 2/4",
            "5 @ 12: 1/5 2/5 0/3"
        ]
    );
    assert_eq!(rounds(true, &format!("{text}\nperiod_s = 1.5"))[2], "2 @ 4.5: 1/2 2/2 0/0");
    assert_eq!(rounds(true, &format!("{text}\nmax_staleness = 1"))[2], "2 @ 6: 1/2 2/2 late 1");
    assert_eq!(rounds(true, &format!("{text}\nforce_after = 1"))[1], "1 @ 4: 1/1 2/1 0/0");
    let mut forced = timeline(&population(&[1.0, 1.0, 1.0], &slow(true)), &format!("{text}\nforce_after = 1"), 6);
    let arrival = forced.nth(1).unwrap().arrivals[2];
    assert_eq!((arrival.share, arrival.tier, arrival.client), (0.5, 1, 0));
    assert_eq!(forced.oldest(), 1);
}

#[test]
fn a_fixed_staleness_does_not_ask_the_calendar_and_early_reports_escape_loss() {
    // Half of all tasks are lost, at a moment drawn evenly. Who reports after a quarter of it is lost in an eighth of
    // them. Nobody can be reached for longer than half a task.
    let more = "dropout = 0.5\navailability = { kind = 'trace', rows = [[[0, 5]]], period_s = 10 }
        slow = { count = 2, staleness = 4 }";
    let population = population(&[10.0, 10.0], more);
    let arrived = |more: &str| {
        let text = format!("kind = 'semi_asynchronous'\nper_round = 2\nperiod_s = 10\n{more}");
        timeline(&population, &text, 2_000).map(|round| round.arrivals.len()).sum::<usize>()
    };
    // Five deviations of the binomial: sqrt(4,000 / 4) = 31.6 and sqrt(4,000 * 7/64) = 20.9.
    assert!(arrived("").abs_diff(2_000) < 160, "{}", arrived(""));
    assert!(arrived("force_after = 1").abs_diff(3_500) < 110, "{}", arrived("force_after = 1"));
}

#[test]
fn a_staleness_of_none_is_none() {
    let population = population(&[1.0, 2.0], "slow = { classes = [0], count = 1, staleness = 0 }");
    let text = "kind = 'semi_asynchronous'\nper_round = 2";
    assert_eq!(shown(&mut timeline(&population, text, 2)), ["0 @ 2: 1/0 0/0", "1 @ 4: 1/1 0/1"]);
}

#[test]
fn rounds_of_slow_clients_only_take_their_time() {
    let population = population(&[1.0, 2.0, 5.0, 6.0], "slow = { classes = [0], count = 2, staleness = 3 }");
    let text = "kind = 'semi_asynchronous'\nper_round = 2";
    assert_eq!(
        shown(&mut timeline(&population, text, 5)),
        ["0 @ 2:", "1 @ 8: 2/1 3/1", "2 @ 10:", "3 @ 16: 2/3 3/3 0/0 1/0", "4 @ 18:"]
    );
}

#[test]
fn when_all_are_slow_rounds_go_on_without_them() {
    let population = population(&[1.0, 2.0], "slow = { classes = [0], count = 2, staleness = 2, overlap = false }");
    let text = "kind = 'semi_asynchronous'\nper_round = 2";
    assert_eq!(shown(&mut timeline(&population, text, 4)), ["0 @ 2:", "1 @ 4:", "2 @ 6: 0/0 1/0", "3 @ 8:"]);
}

#[test]
fn every_arrival_makes_a_version() {
    let population = population(&[1.0, 2.5, 10.0], "");
    let mut timeline = timeline(&population, "kind = 'asynchronous'\nconcurrency = 2", 7);
    // At 1 client 2 begins, at 2.5 client 0, at 3.5 client 1, at 6, 7, 8 and 9 client 0 and 1 by turns: client 2 is
    // busy.
    assert_eq!(
        shown(&mut timeline),
        ["0 @ 1: 0/0", "1 @ 2.5: 1/0", "2 @ 3.5: 0/2", "3 @ 6: 1/3", "4 @ 7: 0/4", "5 @ 9.5: 1/5", "6 @ 10.5: 0/6"]
    );
    assert_eq!(timeline.oldest(), 1);
}

#[test]
fn who_is_too_stale_is_late_and_who_must_reports() {
    let population = population(&[1.0, 2.5, 10.0], "");
    let rounds = |more: &str| {
        let text = format!("kind = 'asynchronous'\nconcurrency = 2\n{more}");
        shown(&mut timeline(&population, &text, 8))
    };
    // Client 2 began at 1 with version 1 and is done at 11, when version 7 is there.
    assert_eq!(rounds("")[7], "7 @ 11: 2/1");
    assert_eq!(rounds("max_staleness = 6")[7], "7 @ 11: 2/1");
    assert_eq!(rounds("max_staleness = 5")[7], "7 @ 13: 1/7 late 1");
    let forced = rounds("force_after = 4");
    assert_eq!(forced[5], "5 @ 9.5: 1/5 2/1");
    let mut timeline = timeline(&population, "kind = 'asynchronous'\nconcurrency = 2\nforce_after = 4", 6);
    assert_eq!(timeline.nth(5).unwrap().arrivals[1].share, 0.85);
}

#[test]
fn a_full_buffer_makes_a_version() {
    let population = population(&[1.0, 2.5, 10.0], "");
    let mut timeline = timeline(&population, "kind = 'buffered'\nconcurrency = 2\nbuffer = 2", 4);
    // At 1 client 2 begins with version 0, at 2.5 client 0 with version 1, at 3.5 client 1, at 6 client 0, at 7 client
    // 1, at 9.5 client 0, at 10.5 client 1, and at 11 client 2 is done.
    assert_eq!(shown(&mut timeline), ["0 @ 2.5: 0/0 1/0", "1 @ 6: 0/1 1/1", "2 @ 9.5: 0/2 1/2", "3 @ 11: 0/3 2/0"]);
}

#[test]
fn tiers_have_rounds_of_their_own() {
    let population = population(&[3.0, 1.0, 3.0, 1.0], "");
    let mut timeline = timeline(&population, "kind = 'tiered'\ntiers = 2\nper_tier = 2", 5);
    let rounds: Vec<Round> = timeline.by_ref().collect();
    let shown: Vec<String> = rounds.iter().map(show).collect();
    // At 3 the slow tier's tasks are first because they began first.
    assert_eq!(shown, ["0 @ 1: 1/0 3/0", "1 @ 2: 1/1 3/1", "2 @ 3: 0/0 2/0", "3 @ 3: 1/2 3/2", "4 @ 4: 1/4 3/4"]);
    let tiers: Vec<u32> = rounds.iter().map(|round| round.arrivals[0].tier).collect();
    assert_eq!(tiers, [0, 0, 1, 0, 0]);
}

#[test]
fn who_goes_away_loses_its_work_or_goes_on_later() {
    let rounds = |leaving| {
        let more =
            format!("leaving = '{leaving}'\navailability = {{ kind = 'trace', rows = [[[0, 1]]], period_s = 4 }}");
        shown(&mut timeline(&population(&[0.75], &more), "kind = 'synchronous'\nper_round = 1", 3))
    };
    assert_eq!(rounds("lost"), ["0 @ 0.75: 0/0", "1 @ 1: dropped 1", "2 @ 4.75: 0/2"]);
    assert_eq!(rounds("resumed"), ["0 @ 0.75: 0/0", "1 @ 4.5: 0/1", "2 @ 8.25: 0/2"]);
}

#[test]
fn an_asynchronous_server_waits_for_who_can_be_reached() {
    // Client 0 from 0 to 2 of 10, client 1 from 5 to 9.
    let more = "availability = { kind = 'trace', rows = [[[0, 2]], [[5, 9]]], period_s = 10 }";
    let population = population(&[1.0, 1.0], more);
    let early = (0..2).find(|&client| population.reachable(client, 0.0)).unwrap();
    let late = 1 - early;
    let mut timeline = timeline(&population, "kind = 'asynchronous'\nconcurrency = 2", 8);
    let expected: Vec<String> =
        [(1, early), (2, early), (6, late), (7, late), (8, late), (9, late), (11, early), (12, early)]
            .iter()
            .zip(0..)
            .map(|((second, client), version)| format!("{version} @ {second}: {client}/{version}"))
            .collect();
    assert_eq!(shown(&mut timeline), expected);
}

#[test]
fn who_can_be_reached_while_others_work_begins_at_once() {
    // One client from 0 to 15 of 20, who works for ten seconds, the other from 5 to 9, who works one second.
    let more = "leaving = 'resumed'\navailability = { kind = 'trace', rows = [[[0, 15]], [[5, 9]]], period_s = 20 }";
    let first = population(&[1.0, 1.0], more).reachable(0, 0.0);
    let seconds = if first { [10.0, 1.0] } else { [1.0, 10.0] };
    let population = population(&seconds, more);
    let (long, short) = if first { (0, 1) } else { (1, 0) };
    let expected = [format!("0 @ 6: {short}/0"), format!("1 @ 7: {short}/1"), format!("2 @ 8: {short}/2")];
    assert_eq!(shown(&mut timeline(&population, "kind = 'asynchronous'\nconcurrency = 2", 3)), expected);
    assert_eq!(shown(&mut timeline(&population, "kind = 'tiered'\ntiers = 2\nper_tier = 1", 3)), expected);
    let mut timeline = timeline(&population, "kind = 'tiered'\ntiers = 2\nper_tier = 1", 5);
    assert_eq!(show(&timeline.nth(4).unwrap()), format!("4 @ 10: {long}/0"));
}
