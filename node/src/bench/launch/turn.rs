//! One run of one program of `bench launch`.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use netlab::Lab;
use serde_json::Value;

use super::work::{BATCH, LENGTH, WARM_UP, Work};

/// A program that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// Where ranks run.
#[derive(Debug)]
pub(super) enum Machine {
    /// So many on this machine.
    Local(usize),
    /// Two hosts in each of two clusters, a rank on each.
    Clusters(Lab),
}

/// What one run did.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    /// Tokens a second over the measured steps.
    pub(super) rate: f64,
    /// Seconds of a step.
    pub(super) step_s: f64,
    /// Of the last step.
    pub(super) loss: f64,
    /// Bytes of a step on the slow link, both ways.
    pub(super) link_bytes: f64,
    /// What the step was planned to take.
    pub(super) predicted_s: Option<f64>,
    /// How the work was shared.
    pub(super) mesh: String,
}

/// `swarmloom launch` on a machine.
///
/// # Errors
/// Where a rank fails.
pub(super) fn ours(work: &Work, machine: &Machine, steps: usize) -> anyhow::Result<Turn> {
    let file = work.folder.join("train.toml");
    std::fs::write(&file, work.file(steps)).context("train.toml")?;
    let out = tempfile::tempdir()?;
    let program = std::env::current_exe()?;
    let mut ranks = Ranks::default();
    let port = free_port()?;
    for rank in 0..machine.ranks() {
        let mut command = machine.command(rank, &program, port);
        command.args(["launch", "train.toml", "--restart", "--out"]).arg(out.path().join(format!("{rank}")));
        command.current_dir(&work.folder).env("SWARMLOOM_TOKEN", "bench");
        if let Machine::Clusters(_) = machine {
            command.env("SWARMLOOM_HOST", format!("host {rank}"));
        }
        ranks.start(command, out.path(), rank)?;
    }
    let metrics = out.path().join("0/metrics.jsonl");
    let mut marks = [None, None];
    ranks.wait(|| {
        let done = std::fs::read_to_string(&metrics).map_or(0, |text| text.lines().count());
        for (mark, at) in marks.iter_mut().zip([WARM_UP, WARM_UP + steps]) {
            if done >= at && mark.is_none() {
                *mark = Some(machine.bytes()?);
            }
        }
        Ok(())
    })?;
    let text = std::fs::read_to_string(&metrics).context("the metrics of rank 0")?;
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(lines.len() == WARM_UP + steps, "rank 0 made {} steps", lines.len());
    let number = |line: &Value, key: &str| line[key].as_f64().context("a number in the metrics");
    let seconds = lines[WARM_UP..].iter().map(|line| number(line, "seconds")).sum::<anyhow::Result<f64>>()?;
    let result: Value = serde_json::from_str(&std::fs::read_to_string(out.path().join("0/result.json"))?)?;
    let decision = &result["mesh"]["decision"];
    Ok(Turn {
        rate: (BATCH * LENGTH * steps) as f64 / seconds,
        step_s: seconds / steps as f64,
        loss: number(&lines[WARM_UP + steps - 1], "loss")?,
        link_bytes: between(marks) / steps as f64,
        predicted_s: decision["predicted_step_s"].as_f64(),
        mesh: format!(
            "stages x replicas x sharers {}, {} micro-batches of {}, ranks {}",
            decision["mesh"], decision["schedule"], decision["micro_batch"], decision["order"]
        ),
    })
}

/// PyTorch on a machine.
///
/// # Errors
/// Where a rank fails.
pub(super) fn theirs(work: &Work, program: &Path, mode: &str, machine: &Machine, steps: usize) -> anyhow::Result<Turn> {
    std::fs::write(work.folder.join("work.json"), work.peer(mode, steps)).context("work.json")?;
    let out = tempfile::tempdir()?;
    let mut ranks = Ranks::default();
    let port = free_port()?;
    for rank in 0..machine.ranks() {
        let mut command = machine.command(rank, program, port);
        command.arg(&work.folder).env("OMP_NUM_THREADS", "1");
        if let Machine::Clusters(_) = machine {
            command.env("GLOO_SOCKET_IFNAME", "eth0");
        }
        ranks.start(command, out.path(), rank)?;
    }
    let said = ranks.lines.take().context("rank 0 says nothing")?;
    let (mut marks, mut report) = ([None, None], None);
    ranks.wait(|| {
        loop {
            match said.try_recv() {
                Ok(line) if line == "measuring" => marks[0] = Some(machine.bytes()?),
                Ok(line) if line == "measured" => marks[1] = Some(machine.bytes()?),
                Ok(line) => report = Some(line),
                Err(_) => return Ok(()),
            }
        }
    })?;
    while let Ok(line) = said.recv_timeout(Duration::from_secs(1)) {
        report = Some(line);
    }
    let report: Value =
        serde_json::from_str(&report.context("the peer said nothing")?).context("what the peer said")?;
    let rate = report["tokens_per_s"].as_f64().context("the peer's tokens_per_s")?;
    let losses = report["losses"].as_array().and_then(|losses| losses.last()).and_then(Value::as_f64);
    Ok(Turn {
        rate,
        step_s: (BATCH * LENGTH) as f64 / rate,
        loss: losses.context("the peer's losses")?,
        link_bytes: between(marks) / steps as f64,
        predicted_s: None,
        mesh: mode.to_owned(),
    })
}

fn between(marks: [Option<u64>; 2]) -> f64 {
    match marks {
        [Some(before), Some(after)] => (after - before) as f64,
        _ => f64::NAN,
    }
}

impl Machine {
    fn ranks(&self) -> usize {
        match self {
            Self::Local(ranks) => *ranks,
            Self::Clusters(_) => 4,
        }
    }

    /// A rank's program with torchrun's variables.
    fn command(&self, rank: usize, program: &Path, port: u16) -> Command {
        let (mut command, address, local) = match self {
            Self::Local(ranks) => (Command::new(program), Ipv4Addr::LOCALHOST, (rank, *ranks)),
            Self::Clusters(lab) => (lab.command(rank / 2, rank % 2, program), lab.address(0, 0), (0, 1)),
        };
        for name in ["SLURM_STEP_ID", "TORCHELASTIC_USE_AGENT_STORE", "SWARMLOOM_LAUNCHED"] {
            command.env_remove(name);
        }
        command
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", self.ranks().to_string())
            .env("LOCAL_RANK", local.0.to_string())
            .env("LOCAL_WORLD_SIZE", local.1.to_string())
            .env("MASTER_ADDR", address.to_string())
            .env("MASTER_PORT", port.to_string());
        command
    }

    /// Bytes that the slow link has carried, both ways.
    fn bytes(&self) -> anyhow::Result<u64> {
        match self {
            Self::Local(_) => Ok(0),
            Self::Clusters(lab) => {
                let (sent, received) = lab.bytes_on_link()?;
                Ok(sent + received)
            }
        }
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Running ranks; killed when dropped.
#[derive(Debug, Default)]
struct Ranks {
    children: Vec<(Child, std::path::PathBuf)>,
    /// What rank 0 says on standard output, line by line.
    lines: Option<Receiver<String>>,
}

impl Ranks {
    fn start(&mut self, mut command: Command, out: &Path, rank: usize) -> anyhow::Result<()> {
        let log = out.join(format!("rank-{rank}.log"));
        command.stdin(Stdio::null()).stderr(File::create(&log)?);
        command.stdout(if rank == 0 { Stdio::piped() } else { Stdio::null() });
        let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
        if let Some(pipe) = child.stdout.take() {
            let (said, lines) = sync_channel(64);
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    if said.send(line).is_err() {
                        return;
                    }
                }
            });
            self.lines = Some(lines);
        }
        self.children.push((child, log));
        Ok(())
    }

    /// Waits for all, and looks meanwhile.
    fn wait(&mut self, mut look: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
        let began = Instant::now();
        let (_never, clock) = sync_channel::<()>(1);
        loop {
            look()?;
            let mut running = 0;
            for (rank, (child, log)) in self.children.iter_mut().enumerate() {
                match child.try_wait()? {
                    Some(status) if !status.success() => {
                        let text = std::fs::read_to_string(log).unwrap_or_default();
                        bail!("rank {rank} ended with {status}: {text}");
                    }
                    Some(_) => {}
                    None => running += 1,
                }
            }
            if running == 0 {
                return look();
            }
            ensure!(began.elapsed() < PATIENCE, "not done after {PATIENCE:?}");
            // A child that ends tells nobody but who asks.
            if clock.recv_timeout(Duration::from_millis(2)) == Err(RecvTimeoutError::Disconnected) {
                bail!("the clock has stopped");
            }
        }
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for (child, _) in &mut self.children {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
