//! Collectives as a person meets them: measured, drawn, and called from Python through the C library.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::process::{binary, json, output, text};

#[test]
fn a_measurement_has_a_row_with_a_time_for_each_program() {
    let home = tempfile::tempdir().expect("a folder");
    let records = home.path().join("records.jsonl").display().to_string();
    let only = ["--only", "shm,floor-one-shot", "--collectives", "all_reduce", "--sizes", "8"];
    let short = ["--rounds", "1", "--budget-ms", "5", "--json", "--records", &records];
    let found = json(home.path(), &[&["bench", "collectives"][..], &only, &short].concat());
    assert_eq!(found["failed"], Value::Array(Vec::new()), "{found}");
    let rows = found["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 1, "{found}");
    let row = &rows[0];
    assert_eq!((&row["op"], &row["bytes"], &row["ranks"]), (&"all_reduce".into(), &8.into(), &2.into()), "{row}");
    assert_eq!((&row["transport"], &row["wrong"]), (&"shm".into(), &0.into()), "{row}");
    for time in ["ours", "p10_us", "p90_us", "floor_us"] {
        let time = row[time].as_f64().unwrap_or_else(|| panic!("no {time} in {row}"));
        assert!(time > 0.0 && time < 1e6, "{row}");
    }
    let records = fs::read_to_string(records).expect("records");
    let records: Vec<Value> = records.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(records.len() >= 2, "{records:?}");
}

#[test]
fn a_plan_is_printed_and_drawn_and_a_wrong_word_named() {
    let home = tempfile::tempdir().expect("a folder");
    let drawing = home.path().join("plan.svg").display().to_string();
    let plan = ["collective", "plan", "all-reduce", "--ranks", "4", "--bytes", "4096", "--hosts", "2,2"];
    let hierarchical = [&plan[..], &["--algorithm", "hierarchical"]].concat();
    let printed = output(home.path(), &[&hierarchical[..], &["--draw", &drawing]].concat());
    assert!(printed.status.success(), "{}", text(&printed.stderr));
    let said = text(&printed.stdout);
    for part in ["all_reduce by hierarchical", "proved: every element is right", "rank 3", "wait", &drawing] {
        assert!(said.contains(part), "no {part:?} in:\n{said}");
    }
    let drawn = fs::read_to_string(&drawing).expect("a drawing");
    assert!(drawn.starts_with("<svg") && drawn.trim_end().ends_with("</svg>"), "{drawn}");
    let document = json(home.path(), &[&hierarchical[..], &["--json"]].concat());
    assert_eq!((&document["ranks"], &document["guarantee"]), (&4.into(), &"identical".into()));
    assert!(document["steps"].as_array().is_some_and(|steps| steps.len() > 8), "{document}");

    let wrong: [(&[&str], &str); 6] = [
        (&["all-produce"], "all-produce"),
        (&["all-reduce", "--algorithm", "two-shoot"], "two-shoot"),
        (&["all-reduce", "--ranks", "65"], "1 to 64"),
        (&["all-reduce", "--ranks", "4", "--hosts", "2,1"], "--hosts has 3 ranks"),
        (&["all-reduce", "--bytes", "10", "--element-bytes", "4"], "--bytes 10"),
        (&["all-reduce", "--over", "pigeon"], "pigeon"),
    ];
    for (arguments, named) in wrong {
        let refused = output(home.path(), &[&["collective", "plan"], arguments].concat());
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}: {}", text(&refused.stderr));
        assert!(text(&refused.stderr).contains(named), "{arguments:?}: {}", text(&refused.stderr));
    }
}

#[test]
fn the_python_example_survives_the_death_of_a_rank() {
    if Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: there is no python3");
        return;
    }
    let library = binary().with_file_name("libswarmloom_collectives_c.so");
    assert!(library.exists(), "{} is not there: run `cargo xtask test`, which builds it", library.display());
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/collectives.py");
    let ran = Command::new("python3").arg(example).arg(&library).output().expect("python3 starts");
    let (said, errors) = (text(&ran.stdout), text(&ran.stderr));
    assert!(ran.status.success(), "{errors}\n{said}");
    // 1 + 2 + 3 + 4, and without rank 1's 2.
    for line in ["rank 0: 1 here, 10 in all", "rank 1: 2 here, 10 in all", "rank 3: 4 here, 10 in all"] {
        assert!(said.contains(line), "no {line:?} in:\n{said}");
    }
    for line in ["rank 0 is rank 0 of 3 now: 8 in all", "rank 2 is rank 1 of 3", "rank 3 is rank 2 of 3"] {
        assert!(said.contains(line), "no {line:?} in:\n{said}");
    }
}
