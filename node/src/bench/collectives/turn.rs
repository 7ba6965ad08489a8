//! One turn of a program: its processes, what they say, and an end in any case.

use std::fmt::Display;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use swarmloom_collectives::bench::{Point, Said};

use super::entrants::Entrant;
use crate::supervisor::{ChildError, ChildSpec, Supervised};

/// What is asked of a program.
#[derive(Debug, Clone)]
pub(super) struct Turn<'a> {
    pub(super) ranks: usize,
    /// Processors by rank; empty where there are more ranks than processors.
    pub(super) cpus: &'a [usize],
    pub(super) points: &'a [Point],
    /// Time for each point.
    pub(super) budget: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) said: Vec<Said>,
    /// Its last words, where it failed.
    pub(super) failure: Option<String>,
}

/// Where the clock and the logs of this run are; gone with it.
#[derive(Debug)]
pub(super) struct Desk {
    logs: PathBuf,
    clock: PathBuf,
}

impl Desk {
    /// In memory where the system offers that: a page that goes to a disk would disturb.
    ///
    /// # Errors
    /// Where no folder can be made.
    pub(super) fn new() -> anyhow::Result<Self> {
        let name = format!("swarmloom-bench-{}", std::process::id());
        let shared = Path::new("/dev/shm");
        let clock = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() }.join(&name);
        let logs = std::env::temp_dir().join(format!("{name}-logs"));
        fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
        Ok(Self { logs, clock })
    }

    /// Runs a program to its end, or to its deadline.
    ///
    /// # Errors
    /// Where it cannot even be tried.
    pub(super) async fn take(&self, entrant: &Entrant, turn: &Turn<'_>) -> anyhow::Result<Taken> {
        // Empty for everybody: it counts barriers.
        drop(fs::remove_file(self.store()));
        fs::write(&self.clock, "").with_context(|| self.clock.display().to_string())?;
        let deadline = deadline(turn);
        let mut children = Vec::new();
        for spec in self.specs(entrant, turn, deadline)? {
            children.push(Supervised::start(spec)?);
        }
        let mut failure = None;
        for child in &mut children {
            // Programs end themselves at the deadline; a launcher may need a moment more.
            if let Err(error) = child.wait(deadline + Duration::from_secs(5)).await {
                failure.get_or_insert(words(&error));
                // The others wait for it in vain.
                break;
            }
        }
        let logs: Vec<PathBuf> = children.iter().map(|child| child.spec.log.clone()).collect();
        drop(children);
        let said = logs.iter().map(|log| said(&fs::read_to_string(log).unwrap_or_default())).collect::<Vec<_>>();
        Ok(Taken { said: said.concat(), failure })
    }

    /// Where the ranks of a program that has no launcher meet: gloo's starter makes it, and a killed one leaves it.
    fn store(&self) -> PathBuf {
        self.clock.with_extension("store")
    }

    fn specs(&self, entrant: &Entrant, turn: &Turn<'_>, deadline: Duration) -> anyhow::Result<Vec<ChildSpec>> {
        let (points, cpus) = (list(turn.points), list(turn.cpus));
        let (budget, seconds) = (turn.budget.as_millis(), deadline.as_secs());
        let spec = |rank: usize, program: PathBuf, arguments: Vec<String>| {
            let log = self.logs.join(format!("{}-{rank}.log", entrant.name));
            ChildSpec {
                name: entrant.name.clone(),
                program,
                arguments,
                environment: Vec::new(),
                input: None,
                apart: false,
                log,
            }
        };
        if let Some(starter) = &entrant.starter {
            let arguments = vec![
                format!("BENCH_SHM={}", self.clock.display()),
                format!("BENCH_RANKS={}", turn.ranks),
                format!("BENCH_CPUS={cpus}"),
                format!("BENCH_GRID={points}"),
                format!("BENCH_BUDGET_MS={budget}"),
                format!("BENCH_DEADLINE_S={seconds}"),
                starter.display().to_string(),
            ];
            return Ok(vec![spec(0, "env".into(), arguments)]);
        }
        let program = std::env::current_exe().context("this program's own path")?;
        // Free a moment ago: rank 0 takes it at once.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let own = |rank: usize| {
            let mut arguments: Vec<String> = ["bench", "collective-rank", &entrant.name].map(String::from).into();
            let mut option = |name: &str, value: &dyn Display| arguments.extend([name.into(), value.to_string()]);
            option("--rank", &rank);
            option("--ranks", &turn.ranks);
            option("--clock", &self.clock.display());
            option("--port", &port);
            option("--budget-ms", &budget);
            option("--patience-s", &seconds);
            for (name, list) in [("--points", &points), ("--cpus", &cpus)] {
                if !list.is_empty() {
                    option(name, list);
                }
            }
            spec(rank, program.clone(), arguments)
        };
        Ok((0..turn.ranks).map(own).collect())
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        // What is left lies in the temporary folder.
        let _ = fs::remove_dir_all(&self.logs);
        let _ = fs::remove_file(&self.clock);
        let _ = fs::remove_file(self.store());
    }
}

/// Much more than a program needs that works.
fn deadline(turn: &Turn<'_>) -> Duration {
    let slow = |point: &Point| turn.budget * 4 + Duration::from_secs_f64(point.bytes as f64 * 30.0 / 100e6);
    Duration::from_secs(20) + turn.points.iter().map(slow).sum::<Duration>()
}

fn list<T: Display>(values: &[T]) -> String {
    values.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

/// The lines of a log that are measurements.
fn said(log: &str) -> Vec<Said> {
    log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// A failure in one line: without measurements, and not all of it.
fn words(error: &ChildError) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('{'));
    let text = lines.collect::<Vec<_>>().join(" | ").replace("last words: | ", "last words: ");
    text.char_indices().nth(600).map_or(text.clone(), |(at, _)| format!("{}…", &text[..at]))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use swarmloom_collectives::bench::Op;

    use super::super::entrants::{Role, Wire};
    use super::*;

    const LINE: &str = r#"{"peer":"p","op":"all_reduce","bytes":8,"ranks":2,"iters":15,"one_way_before_ns":70.0,"one_way_ns":71.5,"min_us":0.1,"p10_us":0.2,"p50_us":0.3,"p90_us":0.4,"wrong":0}"#;

    fn peer(folder: &Path, script: &str) -> Entrant {
        let starter = folder.join("peer");
        fs::write(&starter, format!("#!/bin/sh\n{script}\n")).expect("a script");
        fs::set_permissions(&starter, fs::Permissions::from_mode(0o755)).expect("a script");
        Entrant {
            name: "peer".into(),
            family: "somebody".into(),
            role: Role::Peer,
            wire: Wire::Shm,
            starter: Some(starter),
            quick: true,
        }
    }

    async fn take(script: &str) -> Taken {
        let folder = tempfile::tempdir().expect("a folder");
        let points = [Point { op: Op::AllReduce, bytes: 8 }];
        let turn = Turn { ranks: 2, cpus: &[0, 1], points: &points, budget: Duration::from_millis(7) };
        let desk = Desk { logs: folder.path().to_owned(), clock: folder.path().join("clock") };
        desk.take(&peer(folder.path(), script), &turn).await.expect("it can be tried")
    }

    #[tokio::test]
    async fn a_program_is_told_what_to_do_and_its_lines_are_read() {
        let taken = take(&format!(
            "echo noise; test -f \"$BENCH_SHM\" && \
             [ \"$BENCH_GRID $BENCH_RANKS $BENCH_CPUS $BENCH_BUDGET_MS\" = 'all_reduce:8 2 0,1 7' ] && echo '{LINE}'"
        ))
        .await;
        assert_eq!(taken.failure, None);
        let [Said::Point(record)] = taken.said.as_slice() else { panic!("{taken:?}") };
        assert_eq!((record.op, record.bytes, record.p50_us, record.one_way_ns), (Op::AllReduce, 8, 0.3, 71.5));
    }

    #[tokio::test]
    async fn a_failure_has_its_last_words_and_keeps_what_was_measured() {
        let taken = take(&format!("echo '{LINE}'; echo 'no such interface' >&2; exit 3")).await;
        let failure = taken.failure.expect("it failed");
        assert!(failure.ends_with("its last words: no such interface"), "{failure}");
        assert_eq!(taken.said.len(), 1);
    }
}
