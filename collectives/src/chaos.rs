//! Processes of a group killed at random moments: survivors return in time, shrink, and go on with the right bits.
//!
//! The test binary starts itself as the ranks. `SWARMLOOM_CHAOS_KILLS` sets how many are killed for each transport
//! (default 12; the long form is 250).

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use swarmloom_kernels::reduce::{ReduceOp, reduce_slices};

use crate::bootstrap::Rendezvous;
use crate::group::{Group, GroupConfig, Transport};

const TIMEOUT: Duration = Duration::from_secs(4);
const RANKS: usize = 4;
const RANK: &str = "SWARMLOOM_CHAOS_RANK";

/// Values that differ by rank, index and operation, and whose sums are not exact.
fn values(rank: usize, count: usize, round: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(round << 8 | rank as u64);
    (0..count).map(|_| random.random_range(-1.0..1.0)).collect()
}

/// One rank: reduces until it is told to stop, checks every result, and says what happens on its standard output.
fn rank_main(text: &str) {
    let parts: Vec<&str> = text.split(' ').collect();
    let [address, rank, transport] = parts[..] else { panic!("{text}") };
    let rank = rank.parse().expect("a rank");
    let transport = if transport == "shm" { Transport::Shm } else { Transport::Tcp };
    let at = Rendezvous {
        address: address.parse().expect("an address"),
        token: b"chaos".to_vec(),
        rank,
        ranks: RANKS,
        timeout: Duration::from_secs(30),
    };
    let config = GroupConfig { transport, timeout: TIMEOUT, scratch_bytes: 1 << 18, ..GroupConfig::default() };
    let mut group = Group::join(at, config).expect("a group");
    let stop = Arc::new(AtomicBool::new(false));
    std::thread::spawn({
        let stop = stop.clone();
        move || {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            stop.store(true, Ordering::Relaxed);
        }
    });
    let mut round = 0_u64;
    let mut said = 0;
    loop {
        // What the group does next follows from the epoch and the round, which all its ranks know.
        let mut random = ChaCha8Rng::seed_from_u64(group.epoch() << 32 | round);
        let bits = random.random_range(1..18);
        let count = 1 + random.random_range(0..1_usize << bits);
        let inputs: Vec<Vec<f32>> = group.members().iter().map(|rank| values(*rank, count, round)).collect();
        let mut output = vec![0.0; count];
        let mut flag = [0_u8];
        let began = Instant::now();
        let done = group
            .all_reduce(&inputs[group.rank()], &mut output, ReduceOp::Sum)
            .and_then(|()| group.all_reduce(&[u8::from(stop.load(Ordering::Relaxed))], &mut flag, ReduceOp::Max));
        match done {
            Ok(()) => {
                let mut wanted = vec![0.0; count];
                reduce_slices(ReduceOp::Sum, &inputs.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut wanted);
                let same = output.iter().zip(&wanted).all(|(got, wanted)| got.to_bits() == wanted.to_bits());
                assert!(same, "wrong bits in round {round} of {count}");
                if said != group.epoch() {
                    said = group.epoch();
                    println!("@good {} {}", group.epoch(), group.ranks());
                }
                round += 1;
                if flag == [1] {
                    println!("@end");
                    return;
                }
            }
            Err(error) => {
                let took = began.elapsed();
                assert!(took < TIMEOUT * 2 + Duration::from_secs(1), "returned only after {took:?}: {error}");
                println!("@failed {} {error}", took.as_millis());
                // Those who live can be one operation apart: they begin anew together.
                round = 0;
                group = group.shrink(Duration::from_secs(20)).expect("survivors");
            }
        }
    }
}

#[test]
fn rank_process() {
    // Only as a child of the test below.
    if let Ok(text) = std::env::var(RANK) {
        rank_main(&text);
    }
}

struct RankProcess {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl RankProcess {
    fn start(address: &str, rank: usize, transport: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "chaos::rank_process", "--nocapture", "--test-threads=1"])
            .env(RANK, format!("{address} {rank} {transport}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a rank");
        let stdin = child.stdin.take();
        let (said, lines) = sync_channel(1000);
        let out = BufReader::new(child.stdout.take().expect("its output"));
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| said.send(line)));
        Self { child, stdin, lines }
    }

    /// The next line that begins so.
    fn wait_for(&mut self, start: &str, within: Duration) -> String {
        let deadline = Instant::now() + within;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                // The harness writes the test's name before the first line.
                Ok(line) => match line.split_once('@') {
                    Some((_, said)) if said.starts_with(start) => return said.to_owned(),
                    _ => {}
                },
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("a rank did not say {start:?} within {within:?}"),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let mut why = String::new();
                    let _ = self.child.stderr.take().expect("its errors").read_to_string(&mut why);
                    panic!("a rank ended instead of saying {start:?}: {why}");
                }
            }
        }
    }
}

impl Drop for RankProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Named shared memory of this crate. Groups use memory without a name, which the system frees with the last process that
/// has it; were there a name, it would be here.
fn shared_memory_left() -> usize {
    let ours = |name: &str| name.starts_with("swarmloom") && !name.starts_with("swarmloom-bench");
    let Ok(entries) = std::fs::read_dir("/dev/shm") else { return 0 };
    entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(ours)).count()
}

fn kills(transport: &str, wanted: usize) {
    let mut random = ChaCha8Rng::seed_from_u64(wanted as u64);
    let before = shared_memory_left();
    let mut killed = 0;
    while killed < wanted {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let address = address.expect("a port").to_string();
        let mut ranks: Vec<RankProcess> =
            (0..RANKS).map(|rank| RankProcess::start(&address, rank, transport)).collect();
        for rank in &mut ranks {
            rank.wait_for("good 1 ", Duration::from_secs(30));
        }
        let mut epoch = 1;
        while ranks.len() > 2 && killed < wanted {
            let until = Instant::now() + Duration::from_micros(random.random_range(0..60_000));
            while Instant::now() < until {
                std::thread::yield_now();
            }
            let victim = random.random_range(0..ranks.len());
            drop(ranks.remove(victim));
            killed += 1;
            let good =
                |line: &str| line.split(' ').nth(1).and_then(|epoch| epoch.parse::<u64>().ok()).expect("an epoch");
            let survivors = ranks.len();
            for rank in &mut ranks {
                let line = rank.wait_for("good ", Duration::from_secs(40));
                assert!(good(&line) > epoch, "{line}");
                assert!(line.ends_with(&format!(" {survivors}")), "{line}");
            }
            epoch += 1;
        }
        for rank in &mut ranks {
            drop(rank.stdin.take());
        }
        for rank in &mut ranks {
            rank.wait_for("end", Duration::from_secs(30));
        }
    }
    assert_eq!(shared_memory_left(), before, "files of shared memory are left");
    println!("{killed} ranks killed over {transport}");
}

fn wanted() -> usize {
    std::env::var("SWARMLOOM_CHAOS_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(12)
}

#[test]
fn survivors_of_kills_go_on_over_shared_memory() {
    kills("shm", wanted());
}

#[test]
fn survivors_of_kills_go_on_over_tcp() {
    kills("tcp", wanted());
}
