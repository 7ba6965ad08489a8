//! Ranks that are processes, as they mostly are: bytes arrive, and one that is killed holds nobody up for long.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::tests::{is_here, operation};
use super::{Card, Offer};
use crate::fabric::{Entry, Fabric, Raw};
use crate::fault::Fault;
use crate::patience::{Abort, Ladder, Patience};

/// Which provider a child is to use: set only for children.
const PROVIDER: &str = "SWARMLOOM_OFI_CHILD";
const OPERATIONS: u64 = 200;
const MARK: &str = "card: ";

/// What is a test by its name is the child's whole life where the variable is set.
#[test]
fn child() {
    let Ok(provider) = std::env::var(PROVIDER) else { return };
    let (offer, card) = Offer::new(1, 2, 4096, Some(&provider)).unwrap();
    // The test harness may have begun a line.
    println!("\n{MARK}{}", serde_json::to_string(&card).unwrap());
    let mut theirs = String::new();
    std::io::stdin().read_line(&mut theirs).unwrap();
    let theirs: Card = serde_json::from_str(&theirs).unwrap();
    let mut fabric = offer.connect(1, &[theirs, card], Instant::now() + Duration::from_secs(30)).unwrap();
    for sequence in 1..=OPERATIONS {
        operation(&mut fabric, 1, 2, sequence).unwrap();
    }
    println!("\ndone");
    // Until the parent kills it, or goes.
    let mut line = String::new();
    let _ = std::io::stdin().read_line(&mut line);
}

/// Ended with the test, whatever happens.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn two_processes(provider: &str) {
    if !is_here(provider) {
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["fabric::ofi::processes::child", "--exact", "--nocapture"]).env(PROVIDER, provider);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut child = Killed(child);
    let mut says = BufReader::new(child.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let (offer, card) = Offer::new(1, 2, 4096, Some(provider)).unwrap();
    let theirs = says.find_map(|line| line.strip_prefix(MARK).map(str::to_owned)).unwrap();
    let theirs: Card = serde_json::from_str(&theirs).unwrap();
    writeln!(child.0.stdin.as_mut().unwrap(), "{}", serde_json::to_string(&card).unwrap()).unwrap();
    let mut fabric = offer.connect(0, &[card, theirs], Instant::now() + Duration::from_secs(30)).unwrap();
    for sequence in 1..=OPERATIONS {
        operation(&mut fabric, 0, 2, sequence).unwrap();
    }
    assert!(says.any(|line| line == "done"));
    drop(child);

    // The provider may or may not notice; the wait ends, and so does the fabric.
    let abort = Abort::default();
    let limit = Duration::from_millis(300);
    let mut patience = Patience::new(&abort, limit, Ladder { spins: 100, crowded: true });
    let entry = Entry { sequence: OPERATIONS + 1, tag: 9, input: Raw::EMPTY, output: Raw::EMPTY };
    let begun = Instant::now();
    // SAFETY: no input and no output.
    let begin = unsafe { fabric.begin(&entry, &mut patience) };
    let fault = begin.and_then(|()| fabric.wait(1, &mut patience)).unwrap_err();
    println!("{provider}: {fault}");
    assert!(matches!(fault, Fault::Timeout { .. } | Fault::Lost { rank: 1, .. }), "{fault}");
    drop(fabric);
    assert!(begun.elapsed() < Duration::from_secs(5), "after {:?}", begun.elapsed());
}

#[test]
fn shm_between_processes() {
    two_processes("shm");
}

#[test]
fn tcp_between_processes() {
    two_processes("tcp;ofi_rxm");
}
