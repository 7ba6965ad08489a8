//! Checks against items recorded from reasoning-gym 0.1.25 under CPython 3.11, and of every task by itself.

use std::collections::HashSet;

use serde_json::json;

use super::tasks::TASKS;
use super::{Config, Drawn, answer, draw, example, metadata, question};
use crate::random::PyRandom;

const DEFAULT: Config = Config { min_size: 10, max_size: 30, num_train: 3 };

fn item(seed: u64, config: &Config) -> Drawn {
    draw(&mut PyRandom::new(seed.into()), config).expect("rules accept rows of this size")
}

fn digits(row: &[u8]) -> String {
    row.iter().map(|&colour| char::from(b'0' + colour)).collect()
}

/// Seed 42: the name, and per pair input and output, the test last.
#[test]
fn items_equal_recorded_ones() {
    let recorded = [
        (
            0,
            "move_3pix_colorful_left",
            ["0002923440 2923440000", "0000442110 0442110000", "0007949100 7949100000", "0000015000 0015000000"],
        ),
        (
            5,
            "block_touch_dot_3pix",
            [
                "000020777777 000027777770",
                "206666666666 266666666660",
                "820000000000 820000000000",
                "999999990002 000999999992",
            ],
        ),
        (
            6,
            "gravity_one_step_left",
            [
                "21009400300000 02100940030000",
                "00773001406903 00077300140693",
                "57601066000520 05760106600052",
                "08000000730046 00800000073046",
            ],
        ),
        (
            10,
            "gravity_antigravity_right",
            [
                "00010200121 22000000111",
                "12210000000 22000000011",
                "12200110010 22000001111",
                "01210010102 22000001111",
            ],
        ),
        (
            19,
            "color_left_half_blocks",
            [
                "002222002222000 008822008822000",
                "002200002222200 008200008822200",
                "222220222200000 882220882200000",
                "002222222000222 008882222000822",
            ],
        ),
        (
            20,
            "move_3pix_colorful_wrapped_right",
            [
                "000000056390 390000000056",
                "001530000000 000001530000",
                "880000000000 000880000000",
                "634269817000 000634269817",
            ],
        ),
        (
            22,
            "recolor_blocks_by_size",
            [
                "3333303333330 2222201111110",
                "3333033333330 2222011111110",
                "0330033333333 0220011111111",
                "3330333333300 2220111111100",
            ],
        ),
        (
            32,
            "sort_complete_sequence",
            [
                "6660660600000 6066066600000",
                "3330330300000 3033033300000",
                "2022202200000 2022022200000",
                "9099909900000 9099099900000",
            ],
        ),
        (
            52,
            "mark_size_two_blocks",
            [
                "880011008800700 883311338830700",
                "100000110006600 100003113036630",
                "550022006000110 553322306003113",
                "400550009990000 403553009990000",
            ],
        ),
    ];
    for (index, name, pairs) in recorded {
        let drawn = item(42 + index, &DEFAULT);
        let got: Vec<String> = drawn
            .train
            .iter()
            .chain([&drawn.test])
            .map(|(input, output)| format!("{} {}", digits(input), digits(output)))
            .collect();
        assert_eq!((drawn.task_name, got.as_slice()), (name, pairs.map(String::from).as_slice()), "item {index}");
        assert_eq!(drawn.size, drawn.test.0.len());
    }
}

#[test]
fn texts_and_metadata_equal_recorded_ones() {
    let drawn = item(42, &DEFAULT);
    assert_eq!(
        question(&drawn),
        "Find the common rule that maps an input grid to an output grid, given the examples below.\n\n\
         Example 1:\nInput:  0 0 0 2 9 2 3 4 4 0\nOutput: 2 9 2 3 4 4 0 0 0 0\n\n\
         Example 2:\nInput:  0 0 0 0 4 4 2 1 1 0\nOutput: 0 4 4 2 1 1 0 0 0 0\n\n\
         Example 3:\nInput:  0 0 0 7 9 4 9 1 0 0\nOutput: 7 9 4 9 1 0 0 0 0 0\n\n\
         Below is a test input grid. Predict the corresponding output grid by applying the rule you found. \
         Describe how you derived the rule and your overall reasoning process in detail before you submit your \
         answer. Your final answer should be just the test output grid itself.\n\nInput:\n0 0 0 0 0 1 5 0 0 0"
    );
    assert_eq!(answer(&drawn), "0 0 1 5 0 0 0 0 0 0");
    assert_eq!(
        metadata(&drawn),
        json!({
            "task_name": "move_3pix_colorful_left",
            "size": 10,
            "train_examples": [
                {"input": [0, 0, 0, 2, 9, 2, 3, 4, 4, 0], "output": [2, 9, 2, 3, 4, 4, 0, 0, 0, 0]},
                {"input": [0, 0, 0, 0, 4, 4, 2, 1, 1, 0], "output": [0, 4, 4, 2, 1, 1, 0, 0, 0, 0]},
                {"input": [0, 0, 0, 7, 9, 4, 9, 1, 0, 0], "output": [7, 9, 4, 9, 1, 0, 0, 0, 0, 0]},
            ],
            "test_example": {"input": [0, 0, 0, 0, 0, 1, 5, 0, 0, 0], "output": [0, 0, 1, 5, 0, 0, 0, 0, 0, 0]},
        })
    );
}

/// FNV-1a over name, question and answer of many items, each run covering all tasks.
#[test]
fn digests_equal_recorded_ones() {
    let recorded = [
        (42, 2000, DEFAULT, 0x6c98_6e8d_45ce_b09b),
        (0, 1000, Config { min_size: 8, max_size: 12, num_train: 1 }, 0xb3b9_f354_e09d_9ba4),
        (7, 500, Config { min_size: 40, max_size: 40, num_train: 2 }, 0x1019_cdb3_e3a6_1c6f),
    ];
    for (seed, count, config, digest) in recorded {
        let mut names = HashSet::new();
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for index in 0..count {
            let drawn = item(seed + index, &config);
            names.insert(drawn.task_name);
            for byte in [drawn.task_name, &question(&drawn), &answer(&drawn)].concat().bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
            }
        }
        assert_eq!((hash, names.len()), (digest, TASKS.len()), "seed {seed}");
    }
}

#[test]
fn every_task_keeps_the_length_and_changes_something() {
    for task in &TASKS {
        let mut rng = PyRandom::new(1);
        let mut changed = false;
        for size in 8..=60 {
            let (input, output) = example(&mut rng, task, size).expect("rules accept rows of this size");
            assert_eq!((input.len(), output.len()), (size, size), "{}", task.name);
            assert!(input.iter().chain(&output).all(|&colour| colour <= 9), "{}", task.name);
            assert!(input.iter().any(|&colour| colour != 0), "{} shows nothing", task.name);
            changed |= input != output;
        }
        assert!(changed, "{} changes nothing", task.name);
    }
}

/// What the bound on attempts rests on.
#[test]
fn rules_accept_more_than_one_draw_in_forty_up_to_60_cells() {
    for task in &TASKS {
        let mut rng = PyRandom::new(2);
        for size in [8, 9, 10, 11, 12, 16, 24, 32, 40, 50, 60] {
            let accepted = (0..400).filter(|_| task.draw(&mut rng, size).is_some()).count();
            assert!(accepted > 10, "{} at {size}: {accepted} of 400", task.name);
        }
    }
}

#[test]
fn drawing_ends_where_no_example_can_be_found() {
    let paint_biggest = TASKS.iter().find(|task| task.name == "paint_biggest_block").expect("a task");
    assert_eq!(example(&mut PyRandom::new(3), paint_biggest, 1000), None);
}

/// In wide rows more than nine blocks are common, and there are only nine colours.
#[test]
fn palettes_have_at_most_nine_colours() {
    let palette = TASKS.iter().find(|task| task.name == "recolor_blocks_from_palette").expect("a task");
    let mut rng = PyRandom::new(4);
    for _ in 0..200 {
        let (input, output) = example(&mut rng, palette, 60).expect("one draw in some suffices");
        let shown = input.iter().take_while(|&&colour| colour != 0).count();
        let distinct: HashSet<_> = input[..shown].iter().collect();
        assert!((1..=9).contains(&shown) && distinct.len() == shown);
        let mut taken: Vec<u8> = output[shown..].iter().copied().filter(|&colour| colour != 0).collect();
        taken.dedup();
        assert_eq!(taken, input[..shown]);
    }
}

#[test]
fn configurations_outside_the_ranges_draw_nothing() {
    for config in
        [Config { min_size: 7, ..DEFAULT }, Config { max_size: 9, ..DEFAULT }, Config { num_train: 0, ..DEFAULT }]
    {
        assert_eq!(draw(&mut PyRandom::new(42), &config), None, "{config:?}");
    }
}
