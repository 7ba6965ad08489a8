//! The binary under test, and daemons of it that never outlive a test.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// `target/release/swarmloom`: the folder above the one that holds this test.
pub(crate) fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("this test's own path");
    let target = test.ancestors().nth(2).expect("target/release/deps/test");
    let binary = target.join("swarmloom");
    assert!(binary.exists(), "{} is not there: run `cargo xtask test`, which builds it", binary.display());
    binary
}

/// A command with an empty home, so that a person's own data is neither read nor written, and of no group of ranks.
pub(crate) fn swarmloom(home: &Path) -> Command {
    let mut command = Command::new(binary());
    command.env("HOME", home).env_remove("XDG_DATA_HOME").env_remove("WORLD_SIZE").stdin(Stdio::null());
    command
}

/// Runs to the end.
pub(crate) fn output(home: &Path, arguments: &[&str]) -> Output {
    swarmloom(home).args(arguments).output().expect("the binary starts")
}

/// Runs to the end with this on standard input.
pub(crate) fn piped(home: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = swarmloom(home)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_owned();
    // From a thread of its own: a program that answers while it reads would else block with its pipe full.
    let writer = std::thread::spawn(move || {
        // It may end before it has read everything.
        let _ = stdin.write_all(input.as_bytes());
    });
    let output = child.wait_with_output().expect("an end");
    writer.join().expect("the writer");
    output
}

/// Its one JSON document; the program must have ended well.
pub(crate) fn json(home: &Path, arguments: &[&str]) -> Value {
    let output = output(home, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output.stdout)))
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Looks every 20 ms until there is something; the message says what was waited for.
pub(crate) fn wait_for<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {} s", within.as_secs());
        pause();
    }
}

#[allow(clippy::disallowed_methods, reason = "another process gives no event to wait for")]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

/// How a run file of a test differs from the smallest.
#[derive(Debug, Clone)]
pub(crate) struct RunFile {
    pub(crate) nonce: u8,
    /// Lines of `[run.limits]`.
    pub(crate) run_limits: String,
    /// Lines at the end of `[peer]`, `[sharing]`, `[training]`, `[network]` and `[limits]`.
    pub(crate) peer: String,
    pub(crate) sharing: String,
    pub(crate) training: String,
    pub(crate) network: String,
    pub(crate) limits: String,
}

impl RunFile {
    /// Two small tasks, the smallest model, loopback only.
    pub(crate) fn small(nonce: u8) -> Self {
        Self {
            nonce,
            run_limits: String::new(),
            peer: String::new(),
            sharing: String::new(),
            training: String::new(),
            network: String::new(),
            limits: String::new(),
        }
    }

    pub(crate) fn write(&self, path: &Path, bootstrap: &[String]) {
        let Self { nonce, run_limits, peer, sharing, training, network, limits } = self;
        let text = format!(
            r#"
[run]
name = "test"
nonce = "{nonce:032x}"
held_out = 24
[[run.tasks]]
label = "spell"
task = "spell_backward/short"
[[run.tasks]]
label = "bits"
task = "count_bits/byte"
[run.limits]
{run_limits}
[peer]
model = "pico"
device = "cpu"
{peer}
[peer.warm_start]
steps = 20
batch = 32
[sharing]
external = 8
{sharing}
[training]
evaluate_questions = 24
checkpoint_every = 10
evaluate_every = 20
{training}
[network]
listen = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"]
bootstrap = {bootstrap:?}
mdns = false
upnp = false
{network}
[limits]
threads = 1
{limits}
"#
        );
        fs::write(path, text).expect("a run file");
    }
}

/// A running daemon; killed when dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) folder: PathBuf,
    pub(crate) run: PathBuf,
    home: PathBuf,
    arguments: Vec<String>,
    child: Child,
}

impl Daemon {
    /// Starts `join RUN --data-dir home/NAME arguments...`; its log is `home/NAME.log`.
    pub(crate) fn start(home: &Path, name: &str, run: &Path, arguments: &[&str]) -> Self {
        let folder = home.join(name);
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let child = Self::spawn(home, &folder, run, &arguments);
        Self { folder, run: run.to_owned(), home: home.to_owned(), arguments, child }
    }

    fn spawn(home: &Path, folder: &Path, run: &Path, arguments: &[String]) -> Child {
        let log = fs::File::options().create(true).append(true).open(folder.with_extension("log")).expect("a log file");
        swarmloom(home)
            .arg("join")
            .arg(run)
            .arg("--data-dir")
            .arg(folder)
            .args(arguments)
            .stdout(log.try_clone().expect("a handle"))
            .stderr(log)
            .spawn()
            .expect("the daemon starts")
    }

    /// Starts it again with the same arguments, after it has ended.
    pub(crate) fn restart(&mut self) {
        assert!(self.child.try_wait().expect("a state").is_some(), "it still runs");
        self.child = Self::spawn(&self.home, &self.folder, &self.run, &self.arguments);
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("a running daemon");
        self.child.wait().expect("its end");
    }

    /// A signal by name, such as `INT`.
    pub(crate) fn signal(&self, name: &str) {
        let line = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &line]).status().expect("sh").success(), "{line}");
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, within: Duration) -> ExitStatus {
        wait_for("the daemon's end", within, || self.child.try_wait().expect("a state"))
    }

    /// Its status; `None` while it does not answer.
    pub(crate) fn status(&self) -> Option<Value> {
        let folder = self.folder.display().to_string();
        let output = output(&self.home, &["status", "--json", "--data-dir", &folder]);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    /// Waits until its status satisfies this.
    pub(crate) fn wait_status(&mut self, what: &str, within: Duration, is_it: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + within;
        loop {
            let status = self.status();
            if let Some(status) = status.filter(|status| is_it(status)) {
                return status;
            }
            if let Some(ended) = self.child.try_wait().expect("a state") {
                panic!("{what}: it ended with {ended}:\n{}", self.log());
            }
            let now = self.status().map(|status| status.to_string()).unwrap_or_default();
            assert!(Instant::now() < deadline, "{what}: not within {} s; {now}\n{}", within.as_secs(), self.log());
            pause();
        }
    }

    /// Addresses with the peer's id.
    pub(crate) fn addresses(&mut self) -> Vec<String> {
        let status = self.wait_status("addresses", Duration::from_secs(60), |status| {
            status["listen"].as_array().is_some_and(|listen| listen.len() >= 2)
        });
        let addresses = status["listen"].as_array().expect("a list").iter();
        addresses
            .map(|address| {
                let address = address.as_str().expect("text");
                match address.contains("/p2p/") {
                    true => address.to_owned(),
                    false => format!("{address}/p2p/{}", status["peer"].as_str().expect("an id")),
                }
            })
            .collect()
    }

    /// Its events of this kind, both files.
    pub(crate) fn events(&self, kind: &str) -> Vec<Value> {
        events(&self.folder, kind)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.with_extension("log")).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Events of this kind in a data folder, the older file first.
pub(crate) fn events(folder: &Path, kind: &str) -> Vec<Value> {
    let mut text = fs::read_to_string(folder.join("events.jsonl.1")).unwrap_or_default();
    text.push_str(&fs::read_to_string(folder.join("events.jsonl")).unwrap_or_default());
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter(|event| event["event"] == kind).collect()
}

/// The folder with the highest step among checkpoints.
pub(crate) fn newest_checkpoint(folder: &Path) -> PathBuf {
    let entries = fs::read_dir(folder.join("checkpoints")).expect("checkpoints");
    let mut all: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    all.sort();
    all.pop().expect("at least one checkpoint")
}
