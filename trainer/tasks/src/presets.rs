//! Configurations with names: tasks that a small policy learns in minutes.
//!
//! Generator and scorer stay the task's own; parameters, prompt and the form of the answer are smaller.

use serde_json::{Value, json};

/// A named configuration of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Preset {
    /// What [`Task::new`](crate::Task::new) takes, such as `binary_matrix/3x3`.
    pub name: &'static str,
    /// The task.
    pub task: &'static str,
    /// What is small about it, with a prompt and its answer.
    pub description: &'static str,
    /// The fields that differ from the task's defaults.
    pub config: Value,
}

/// All presets.
pub fn presets() -> Vec<Preset> {
    let preset = |entry: &Entry| Preset {
        name: entry.name,
        task: entry.task(),
        description: entry.description,
        config: entry.config(),
    };
    PRESETS.iter().map(preset).collect()
}

/// A preset before its configuration is made.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    description: &'static str,
    config: fn() -> Value,
}

impl Entry {
    pub(crate) fn task(&self) -> &'static str {
        self.name.split_once('/').map_or(self.name, |(task, _)| task)
    }

    pub(crate) fn config(&self) -> Value {
        let mut config = (self.config)();
        config["prompt"] = "compact".into();
        config
    }
}

pub(crate) static PRESETS: [Entry; 9] = [
    Entry {
        name: "binary_matrix/3x3",
        description: r"3 by 3 cells: `m:101\n111\n111=` wants `101\n212\n323`",
        config: || json!({ "min_n": 3, "max_n": 3 }),
    },
    Entry {
        name: "binary_matrix/4x4",
        description: "the same with 4 by 4 cells",
        config: || json!({ "min_n": 4, "max_n": 4 }),
    },
    Entry {
        name: "spell_backward/short",
        description: "words of 3 to 5 letters: `r:prog=` wants `gorp`",
        config: || json!({ "min_word_len": 3, "max_word_len": 5 }),
    },
    Entry {
        name: "count_bits/byte",
        description: "1 to 255, shown in binary, which makes it easier: `k:1011=` wants `3`",
        config: || json!({ "min_n": 1, "max_n": 255 }),
    },
    Entry {
        name: "number_sorting/4",
        description: "3 or 4 whole numbers from 0 to 99: `s:31,7,25=` wants `7,25,31`, `z:31,7,25=` the reverse",
        config: || {
            json!({
                "min_numbers": 3, "max_numbers": 4, "min_decimals": 0, "max_decimals": 0, "min_value": 0.0,
                "max_value": 99.0,
            })
        },
    },
    Entry {
        name: "calendar_arithmetic/leap_year",
        description: "years from 1923 to 2123: `y:1984=` wants `Yes`",
        config: || json!({ "tasks": ["is_leap_year"] }),
    },
    Entry {
        name: "basic_arithmetic/sums",
        description: "two numbers up to 10, + or -: `c:3-4=` wants `-1`",
        config: || {
            json!({
                "min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1, "operators": ["+", "-"],
                "allow_parentheses": false,
            })
        },
    },
    Entry {
        name: "base_conversion/small",
        description: "1 to 63 between bases 2 to 4: `b:3>2:11=` wants `100`",
        config: || json!({ "min_base": 2, "max_base": 4, "min_value": 1, "max_value": 63 }),
    },
    Entry {
        name: "fraction_simplification/small",
        description: "numbers up to 9 times 2 to 9: `f:6/8=` wants `3/4`",
        config: || json!({ "min_value": 1, "max_value": 9, "min_factor": 2, "max_factor": 9, "styles": ["plain"] }),
    },
];
