//! Measures collectives on this host without the binary: starts its own ranks and prints their JSON lines.
//!
//! `cargo run --release -p swarmloom-collectives --example collective_rank -- shm --points all_reduce:8,all_reduce:64`
//!
//! Programs: `shm`, `registered`, `tcp` (ours), `floor-one-shot`, `floor-two-shot`, `floor-direct`, each also with `-nt`
//! (stores past the cache), `floor-tcp`, `limits`. Several, with commas, take turns; `--rounds` repeats them.
//! `--selector JSON`, `--streaming OUTPUT_BYTES,SCRATCH_BYTES` and with it `--wander yes` change how ours goes about it; `--forced NAME` forces an
//! algorithm; `--scratch BYTES` and `--connections N` are the group's.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode};
use std::time::Duration;

use swarmloom_collectives::bench::{Point, Program, RankArgs, Said, processors, rank};
use swarmloom_collectives::execute::Streaming;
use swarmloom_collectives::plan::Algorithm;
use swarmloom_collectives::select::Selector;

type Wrong = Box<dyn std::error::Error>;

const POINTS: &str = "all_reduce:8,all_reduce:64,all_reduce:1024,all_reduce:4096,all_reduce:16384,all_reduce:65536,\
                      all_reduce:262144,all_reduce:1048576,all_reduce:4194304,all_reduce:16777216";

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(wrong) => {
            eprintln!("error: {wrong}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<(), Wrong> {
    let programs = words.first().ok_or("which program? Its first lines say what there is")?;
    let value = |name: &str| words.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1].as_str());
    if let Some(rank) = value("--rank") {
        return one(programs, rank.parse()?, &value);
    }
    let ranks: usize = value("--ranks").unwrap_or("2").parse()?;
    for _ in 0..value("--rounds").unwrap_or("1").parse()? {
        for program in programs.split(',') {
            start(program, ranks, &words[1..])?;
        }
    }
    Ok(())
}

/// Starts the ranks of one program and waits for them.
fn start(program: &str, ranks: usize, words: &[String]) -> Result<(), Wrong> {
    let folder = [PathBuf::from("/dev/shm"), std::env::temp_dir()].into_iter().find(|folder| folder.is_dir());
    let clock =
        folder.ok_or("there is no folder for the clock")?.join(format!("swarmloom-bench-{}", std::process::id()));
    std::fs::write(&clock, "")?;
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let begin = |rank: usize| {
        Command::new(std::env::current_exe()?)
            .arg(program)
            .args(["--rank", &rank.to_string(), "--ranks", &ranks.to_string(), "--port", &port.to_string()])
            .arg("--clock")
            .arg(&clock)
            .args(words)
            .spawn()
    };
    let children: Vec<Child> = (0..ranks).map(begin).collect::<Result<_, _>>()?;
    let mut failed = false;
    for mut child in children {
        failed |= !child.wait()?.success();
    }
    std::fs::remove_file(&clock)?;
    if failed { Err(format!("{program} failed").into()) } else { Ok(()) }
}

fn one<'a>(program: &str, number: usize, value: &dyn Fn(&str) -> Option<&'a str>) -> Result<(), Wrong> {
    let ranks: usize = value("--ranks").unwrap_or("2").parse()?;
    let cpus = processors()?;
    let points = value("--points").unwrap_or(POINTS).split(',').map(str::parse).collect::<Result<Vec<Point>, _>>()?;
    let args = RankArgs {
        name: value("--name").unwrap_or(program).to_owned(),
        program: parse(program, value)?,
        rank: number,
        ranks,
        clock: value("--clock").ok_or("--clock is absent")?.into(),
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, value("--port").ok_or("--port is absent")?.parse()?)),
        cpus: if ranks > cpus.len() { Vec::new() } else { cpus },
        points,
        budget: Duration::from_millis(value("--budget-ms").unwrap_or("100").parse()?),
        patience: Duration::from_secs(20),
    };
    rank(&args, &mut |said: &Said| println!("{}", serde_json::json!(said)))?;
    Ok(())
}

fn parse<'a>(name: &str, value: &dyn Fn(&str) -> Option<&'a str>) -> Result<Program, Wrong> {
    let mut program = Program::named(name).ok_or_else(|| format!("{name:?} is none of {:?}", Program::NAMES))?;
    let Program::Ours { config, .. } = &mut program else { return Ok(program) };
    if let Some(text) = value("--selector") {
        config.selector = serde_json::from_str::<Selector>(text)?;
    }
    if let Some(name) = value("--forced") {
        let known = Algorithm::ALL.into_iter().find(|one| one.name() == name);
        config.selector.forced = Some(known.ok_or_else(|| format!("{name:?} is no algorithm"))?);
    }
    let wander = value("--wander").is_some();
    if let Some((output, scratch)) = value("--streaming").and_then(|text| text.split_once(',')) {
        config.streaming = Some(Streaming { output_from: output.parse()?, scratch_from: scratch.parse()?, wander });
    }
    if let Some(bytes) = value("--scratch") {
        config.scratch_bytes = bytes.parse()?;
    }
    if let Some(number) = value("--connections") {
        config.connections = number.parse()?;
    }
    Ok(program)
}
