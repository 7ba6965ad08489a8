//! Tables and pictures of small plans, and of plans that cannot end.

use super::{svg, table};
use crate::plan::build::{Tuning, build};
use crate::plan::{Algorithm, Collective, Layout, Plan, Reach, Step};

fn plan(ranks: usize, count: usize, algorithm: Algorithm, reach: Reach) -> Plan {
    let layout = Layout::single(ranks, reach, 1 << 20);
    build(&Collective::AllReduce { count }, algorithm, &layout, 4, &Tuning::default()).unwrap()
}

const SHM: Reach =
    Reach { load_scratch: true, copy_user: false, reduce_user: false, put_output: false, packet_bytes: 56 };

#[test]
fn a_table_reads_like_this() {
    let expected = "\
all_reduce by one-shot, 2 ranks, elements of 4 bytes, scratch of 10 elements

rank 0: 4 steps
  0  copy 0:input[0..10] -> scratch[0..10]
  1  signal 1
  2  wait 1
  3  reduce 0:input[0..10] + 1:scratch[0..10] -> 0:output[0..10]

rank 1: 4 steps
  0  copy 1:input[0..10] -> scratch[0..10]
  1  signal 0
  2  wait 0
  3  reduce 0:scratch[0..10] + 1:input[0..10] -> 1:output[0..10]
";
    let plan = plan(2, 10, Algorithm::OneShot, SHM);
    assert_eq!(table(&plan, 4), expected);
    let short = table(&plan, 1);
    assert!(short.contains("  0  copy 1:input[0..10] -> scratch[0..10]\n  and 3 more\n"), "{short}");
}

/// Elements of the picture that begin so.
fn count(picture: &str, begin: &str) -> usize {
    picture.matches(begin).count()
}

#[test]
fn a_picture_has_a_box_for_each_step_and_an_arrow_for_each_wait() {
    let plan = plan(3, 1000, Algorithm::TwoShot, Reach { put_output: true, ..Reach::default() });
    let picture = svg(&plan);
    let steps: usize = plan.programs.iter().map(Vec::len).sum();
    let waits = plan.programs.iter().flatten().filter(|step| matches!(step, Step::Wait { .. })).count();
    assert_eq!(count(&picture, "<title>"), steps);
    assert_eq!(count(&picture, "marker-end"), waits);
    assert!(waits >= 12 && !picture.contains("left out"), "{waits}");
    assert_eq!(count(&picture, "#f2a0a0"), 1, "only the legend has red");
    assert_eq!(count(&picture, "<g>"), count(&picture, "</g>"));
}

#[test]
fn a_wait_stands_behind_what_it_waits_for() {
    let plan = plan(2, 10, Algorithm::OneShot, SHM);
    let times = super::picture::columns(&plan);
    assert_eq!(times, [[0, 1, 2, 3], [0, 1, 2, 3]]);
    // The root copies, signals two others, and copies to its output; the other two wait, one for the second signal.
    let layout = Layout::single(3, SHM, 1 << 20);
    let collective = Collective::Broadcast { root: 0, count: 10 };
    let plan = build(&collective, Algorithm::OneShot, &layout, 4, &Tuning::default()).unwrap();
    assert_eq!(super::picture::columns(&plan), [vec![0, 1, 2, 3], vec![2, 3], vec![3, 4]]);
}

#[test]
fn large_plans_are_drawn_in_part_and_blocked_ones_in_red() {
    let large = svg(&plan(20, 100, Algorithm::OneShot, SHM));
    assert!(large.contains("steps are left out: shown are ranks 0 to 15"));
    assert!(!large.contains(">rank 16<"));
    let mut blocked = plan(2, 10, Algorithm::OneShot, SHM);
    blocked.programs[1].remove(1);
    let picture = svg(&blocked);
    // The legend, the wait and the reduction that never come.
    assert_eq!(count(&picture, "#f2a0a0"), 3);
    assert_eq!(count(&picture, "<title>"), 7);
    // A rank that does not exist is waited for in vain, but drawn.
    blocked.programs[1][1] = Step::Wait { from: 9 };
    assert_eq!(count(&svg(&blocked), "<title>"), 7);
}
