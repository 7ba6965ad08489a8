//! `bench rollouts`: completions per second of a peer that trains, and where the time of a step goes. There is no peer
//! program that does the same on a CPU, so the numbers stand beside the time that the whole step takes.

use std::sync::Arc;

use anyhow::Context;
use serde_json::Value;
use swarmloom_protocol::id::PeerKey;

use super::{Row, median, spread};
use crate::book::TaskBook;
use crate::cli::BenchArgs;
use crate::config::RunFile;
use crate::daemon::board::Board;
use crate::daemon::course::Course;
use crate::daemon::training::Thread;
use crate::events::EventLog;
use crate::folder::Folder;
use crate::status::Status;
use crate::template;

/// Steps that are not counted: buffers grow and caches fill.
const WARM: usize = 5;

pub(super) fn run(args: &BenchArgs) -> anyhow::Result<(Vec<Row>, Vec<String>)> {
    let steps: u64 = if args.quick { 40 } else { 200 };
    let mut rows = Vec::new();
    for model in ["pico", "nano", "micro"] {
        let events = train(model, steps)?;
        let steps: Vec<&Value> = events.iter().filter(|event| event["event"] == "step").skip(WARM).collect();
        let part = |name: &str| -> Vec<f64> {
            steps.iter().map(|step| step["seconds"][name].as_f64().unwrap_or(0.0)).collect()
        };
        let parts = ["select", "generate", "score", "publish", "train", "pack"].map(|name| (name, part(name)));
        let whole: Vec<f64> = (0..steps.len()).map(|at| parts.iter().map(|(_, seconds)| seconds[at]).sum()).collect();
        let completions: Vec<f64> = steps
            .windows(2)
            .map(|pair| pair[1]["completions"].as_f64().unwrap_or(0.0) - pair[0]["completions"].as_f64().unwrap_or(0.0))
            .collect();
        let rates: Vec<f64> = completions.iter().zip(&whole[1..]).map(|(made, seconds)| made / seconds).collect();
        rows.push(Row {
            what: format!("{model}: completions in training"),
            ours: median(rates.clone()),
            theirs: None,
            peer: "none".into(),
            ratio: None,
            unit: "completions/s",
            spread: spread(&rates),
        });
        for (name, seconds) in parts {
            let shares: Vec<f64> = seconds.iter().zip(&whole).map(|(part, whole)| part / whole).collect();
            rows.push(Row {
                what: format!("{model}: {name}"),
                ours: median(seconds) * 1e3,
                theirs: Some(median(whole.clone()) * 1e3),
                peer: "the whole step".into(),
                ratio: Some(median(shares.clone())),
                unit: "ms",
                spread: spread(&shares),
            });
        }
    }
    let notes = vec![
        "one thread, alone, the four small tasks of `run new`: 8 groups of 8 completions a step, after the warm start"
            .into(),
        "ratio: the part's share of its step".into(),
    ];
    Ok((rows, notes))
}

/// Trains alone in a folder that goes afterwards; returns its events.
fn train(model: &str, steps: u64) -> anyhow::Result<Vec<Value>> {
    let text = template::run_file("bench", "000102030405060708090a0b0c0d0e0f");
    let mut file = RunFile::parse("the template", &text)?;
    file.peer.model = model.into();
    file.peer.device = "cpu".into();
    file.sharing.enabled = false;
    file.limits.threads = Some(1);
    file.training.stop_after_steps = Some(steps);
    file.training.evaluate_every = 0;
    let table = file.run.as_ref().context("the template has no [run]")?;
    let (spec, book) = TaskBook::from_table("the template", &text, table)?;
    let course =
        Course::settle(&file, &spec, PeerKey([1; 32]), book, 1).map_err(|wrong| anyhow::anyhow!("{wrong:?}"))?;
    let home = std::env::temp_dir().join(format!("swarmloom-bench-{}", std::process::id()));
    let folder = Folder::at(&home);
    let lock = folder.take()?;
    let events = Arc::new(EventLog::open(&folder.events(), 64 << 20)?);
    let thread = Thread {
        course,
        folder: folder.clone(),
        events,
        board: Board::new(Status::default()),
        gate: Arc::default(),
        rollouts: None,
        first_counter: 0,
        checkpoints_bytes: u64::MAX,
        memory_bytes: None,
    };
    let trained = thread.run();
    let text = std::fs::read_to_string(folder.events());
    drop(lock);
    // What is left of it lies in the temporary folder.
    let _ = std::fs::remove_dir_all(&home);
    trained?;
    Ok(text?.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}
