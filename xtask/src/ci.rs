//! Everything that has to pass before a change lands, in one target folder and one profile, with a closing summary.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::Workspace;
use crate::{cache, images, invariants, libtorch, process};

/// The version of cargo-deny that is installed where there is none.
const CARGO_DENY: &str = "0.20.2";

/// How a stage ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ended {
    Passed,
    Failed(String),
    Skipped(String),
}

/// A stage that ran.
#[derive(Debug)]
struct Stage {
    name: &'static str,
    took: Duration,
    ended: Ended,
}

/// Runs every stage, whatever becomes of the earlier ones: one run tells all that is wrong.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut stages = Vec::new();
    let mut stage = |name: &'static str, work: &dyn Fn() -> Result<Ended>| {
        eprintln!("\n=== {name}");
        let start = Instant::now();
        let ended = work().unwrap_or_else(|error| Ended::Failed(format!("{error:#}")));
        stages.push(Stage { name, took: start.elapsed(), ended });
    };
    stage("format", &|| passed(workspace.cargo(&["fmt", "--all", "--check"])));
    stage("libtorch", &|| libtorch::ensure(&workspace.root).map(|_| Ended::Passed));
    stage("lints", &|| lints(workspace));
    stage("invariants", &|| invariants::check(workspace).map(|()| Ended::Passed));
    stage("licences, bans, sources", &|| {
        match deny(workspace, &["check", "--hide-inclusion-graph", "licenses", "bans", "sources"])? {
            // What was not checked did not pass.
            Ended::Skipped(why) => Ok(Ended::Failed(why)),
            ended => Ok(ended),
        }
    });
    stage("advisories", &|| advisories(workspace));
    stage("tests", &|| workspace.test(&[]).map(|()| Ended::Passed));
    stage("memory, by valgrind", &|| valgrind(workspace));
    stage("demo, short form", &|| demo(workspace));
    stage("simulation of real images", &|| match images::ensure() {
        Ok(images) => images::simulate(workspace, &images).map(|()| Ended::Passed),
        Err(error) => Ok(Ended::Skipped(format!("Fashion-MNIST is out of reach: {error:#}"))),
    });
    eprint!("\n{}", summary(&stages));
    let failed: Vec<&str> =
        stages.iter().filter(|stage| matches!(stage.ended, Ended::Failed(_))).map(|stage| stage.name).collect();
    ensure!(failed.is_empty(), "failed: {}", failed.join("; "));
    Ok(())
}

fn passed(command: Command) -> Result<Ended> {
    process::run(command).map(|()| Ended::Passed)
}

fn lints(workspace: &Workspace) -> Result<Ended> {
    // Behind `--`, the flag reaches our crates only, so that dependencies need not be checked anew.
    let arguments = ["clippy", "--release", "--workspace", "--all-targets", "--", "--deny", "warnings"];
    passed(workspace.compiling_cargo(&arguments)?)
}

fn deny(workspace: &Workspace, arguments: &[&str]) -> Result<Ended> {
    let Some(program) = cargo_deny(workspace) else {
        return Ok(Ended::Skipped(format!(
            "cargo-deny is not here and could not be installed; try `cargo install cargo-deny@{CARGO_DENY} --locked`"
        )));
    };
    let mut command = process::command(program);
    command.args(arguments).current_dir(&workspace.root);
    passed(command)
}

/// Known vulnerabilities. The database is a git repository on GitHub, which not every machine reaches.
fn advisories(workspace: &Workspace) -> Result<Ended> {
    if let Ended::Skipped(why) | Ended::Failed(why) = deny(workspace, &["--version"])? {
        return Ok(Ended::Skipped(why));
    }
    if let Err(error) = deny(workspace, &["fetch", "db"]) {
        return Ok(Ended::Skipped(format!("the advisory database is out of reach: {error}")));
    }
    deny(workspace, &["--offline", "check", "advisories"])
}

/// The one on the path, or xtask's own, built on first use: unoptimised, which takes a third of the time.
fn cargo_deny(workspace: &Workspace) -> Option<PathBuf> {
    let on_path = PathBuf::from("cargo-deny");
    let mut version = process::command(&on_path);
    version.arg("--version");
    if process::probe(version).is_ok_and(|output| output.status.success()) {
        return Some(on_path);
    }
    let install = || -> Result<PathBuf> {
        let cache = cache::dir()?;
        let tools = cache.join(format!("cargo-deny-{CARGO_DENY}"));
        let program = tools.join("bin/cargo-deny");
        let _lock = cache::lock(&cache, "cargo-deny")?;
        if !program.exists() {
            let mut cargo = workspace.cargo(&["install", "cargo-deny", "--locked", "--debug", "--version", CARGO_DENY]);
            cargo.arg("--root").arg(tools);
            // Not into this workspace's target folder.
            cargo.env_remove("CARGO_TARGET_DIR");
            process::timed("installing cargo-deny", || process::run(cargo))?;
        }
        Ok(program)
    };
    install().inspect_err(|error| eprintln!("xtask: {error:#}")).ok()
}

/// Tests of collectives that valgrind runs in seconds: memory that ranks share, that a caller gave or that came by TCP.
const WATCHED: [&str; 6] =
    ["registered_memory", "channels::", "memory::", "quantised", "wrong_lengths", "survivors_go_on"];
/// What valgrind leaves with when it has found something.
const FOUND: &str = "--error-exitcode=9";

/// The tests of `WATCHED` under valgrind.
fn valgrind(workspace: &Workspace) -> Result<Ended> {
    let mut version = process::command("valgrind");
    version.arg("--version");
    if !process::probe(version).is_ok_and(|output| output.status.success()) {
        return Ok(Ended::Skipped("valgrind is not here; try `apt-get install valgrind`".into()));
    }
    let build = ["test", "--release", "-p", "swarmloom-collectives", "--lib", "--no-run", "--message-format", "json"];
    let built = process::output(workspace.compiling_cargo(&build)?)?;
    let binary = test_binary(&built).context("cargo names no test binary of swarmloom-collectives")?;
    let mut valgrind = process::command("valgrind");
    valgrind.args([FOUND, "--quiet"]).arg(binary).arg("--test-threads=1").args(WATCHED);
    let said = process::output(valgrind)?;
    eprint!("{said}");
    check_watched(&said).map(|()| Ended::Passed)
}

/// The last program that cargo says it has built.
fn test_binary(messages: &str) -> Option<PathBuf> {
    let built = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    built.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back()
}

/// Every name of `WATCHED` still is the name of a test that ran.
fn check_watched(said: &str) -> Result<()> {
    let passed = |name: &&&str| said.lines().any(|line| line.contains(**name) && line.ends_with("... ok"));
    let missing: Vec<&str> = WATCHED.iter().filter(|name| !passed(name)).copied().collect();
    ensure!(missing.is_empty(), "no test under valgrind is called {}", missing.join(" or "));
    Ok(())
}

/// A swarm of processes on this machine, end to end.
fn demo(workspace: &Workspace) -> Result<Ended> {
    let binary = workspace.build()?;
    let out = workspace.target_dir()?.join("ci-demo");
    let mut swarmloom = process::command(binary);
    swarmloom.args([OsString::from("demo"), "--short".into(), "--json".into(), "--out".into(), out.into()]);
    check_demo(&process::output(swarmloom)?).map(|()| Ended::Passed)
}

/// The demo's JSON names at least two peers, which shared something.
fn check_demo(text: &str) -> Result<()> {
    let said: serde_json::Value =
        serde_json::from_str(text).context("the demo's standard output is not one JSON value")?;
    let peers = said["peers"].as_array().context("the demo's JSON has no `peers`")?;
    ensure!(peers.len() >= 2, "the demo ran {} peers", peers.len());
    for peer in peers {
        for key in ["groups_out", "groups_in"] {
            let groups = peer[key].as_u64().with_context(|| format!("a peer of the demo has no `{key}`: {peer}"))?;
            if groups == 0 {
                bail!("a peer of the demo shared nothing: `{key}` is 0 in {peer}");
            }
        }
    }
    Ok(())
}

/// What a person reads at the end.
fn summary(stages: &[Stage]) -> String {
    let mut text = String::from("=== summary\n");
    for Stage { name, took, ended } in stages {
        let (verdict, why) = match ended {
            Ended::Passed => ("passed", String::new()),
            Ended::Failed(why) => ("FAILED", format!(": {why}")),
            Ended::Skipped(why) => ("skipped", format!(": {why}")),
        };
        let seconds = took.as_secs_f64();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<24} {seconds:>7.1} s  {verdict}{why}");
    }
    let total: Duration = stages.iter().map(|stage| stage.took).sum();
    let _ = writeln!(text, "{:<24} {:>7.1} s", "all", total.as_secs_f64());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_every_stage_with_its_seconds_and_why() {
        let stage = |name, seconds, ended| Stage { name, took: Duration::from_secs(seconds), ended };
        let text = summary(&[
            stage("format", 2, Ended::Passed),
            stage("advisories", 1, Ended::Skipped("no network".into())),
            stage("tests", 60, Ended::Failed("`cargo test` failed".into())),
        ]);
        let lines: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "=== summary",
                "format 2.0 s passed",
                "advisories 1.0 s skipped: no network",
                "tests 60.0 s FAILED: `cargo test` failed",
                "all 63.0 s"
            ]
        );
    }

    #[test]
    fn what_valgrind_watches_is_found_and_has_run() {
        let messages = "{\"reason\": \"compiler-artifact\", \"executable\": null}\n\
                        {\"reason\": \"compiler-artifact\", \"executable\": \"/t/collectives-1\"}\n{\"success\": true}\n";
        assert_eq!(test_binary(messages), Some(PathBuf::from("/t/collectives-1")));
        assert_eq!(test_binary("{\"success\": true}"), None);
        let ran: String = WATCHED.iter().map(|name| format!("test a::{name}one ... ok\n")).collect();
        assert!(check_watched(&ran).is_ok());
        let error = check_watched(&ran.replace("quantised", "quantized")).expect_err("a renamed test");
        assert_eq!(error.to_string(), "no test under valgrind is called quantised");
    }

    #[test]
    fn a_demo_that_shared_nothing_is_no_demo() {
        let peer = |out: u32, inward: u32| format!(r#"{{"peer": "p", "groups_out": {out}, "groups_in": {inward}}}"#);
        let demo = |peers: &[String]| format!(r#"{{"peers": [{}]}}"#, peers.join(","));
        assert!(check_demo(&demo(&[peer(3, 2), peer(1, 1)])).is_ok());
        for bad in [demo(&[peer(3, 2)]), demo(&[peer(3, 0), peer(1, 1)]), "{}".into(), "peers".into()] {
            assert!(check_demo(&bad).is_err(), "{bad}");
        }
    }
}
