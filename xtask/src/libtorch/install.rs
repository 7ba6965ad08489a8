//! Makes xtask's own copy of libtorch: three wheels from PyPI, of which only what runs on a CPU is kept.
//!
//! The wheels are named with their hashes in `wheels.txt`. All work happens in a folder beside the destination,
//! which is renamed at the end: a copy is whole or absent.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::statvfs;

use super::{Found, VERSION, identify, is_ours};
use crate::{cache, process};

const WHEELS: &str = include_str!("wheels.txt");
const UNPACK: &str = include_str!("unpack.py");
/// Sum of the three downloads.
const DOWNLOAD_BYTES: u64 = 543_700_000;
/// Free space that an installation needs at its peak: pip holds the largest wheel twice, and the libraries and
/// headers take 520 MB.
const PEAK_BYTES: u64 = 1_700_000_000;
const WORK_PREFIX: &str = ".libtorch-part-";
const OTHER_WAYS: &str = "Other ways: set LIBTORCH to a libtorch 2.11.0 folder, or activate a Python environment \
                          with `pip install torch==2.11.0`.";

/// Downloads, unpacks and puts in place.
pub(super) fn install(cache: &Path, copy: &Path) -> Result<()> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!(
            "xtask can install libtorch on Linux x86-64 only. Here, run `python3 -m venv .venv && . .venv/bin/activate \
             && pip install torch=={VERSION}` and try again, or set LIBTORCH to a libtorch {VERSION} folder."
        );
    }
    check_tools()?;
    // Two at once would download twice and rename over each other.
    let _lock = cache::lock(cache, "libtorch")?;
    if matches!(identify(copy), Found::Version(version) if is_ours(&version)) {
        return Ok(()); // another xtask installed it while this one waited
    }
    remove_leftovers(cache)?;
    check_space(cache)?;
    let work = WorkDir::create(cache)?;
    download(&work.path)?;
    let made = work.path.join("libtorch");
    unpack(&work.path.join("wheels"), &made)?;
    put_in_place(&made, copy)
}

/// Everything that is needed later, asked for before half a gigabyte is downloaded.
fn check_tools() -> Result<()> {
    let needs = [
        ("python3", vec!["-m", "pip", "--version"], "python3 with pip", "apt-get install python3 python3-pip"),
        ("cc", vec!["--version"], "a C compiler", "apt-get install g++"),
        ("c++", vec!["--version"], "a C++ compiler (for the bindings)", "apt-get install g++"),
    ];
    for (program, arguments, what, mend) in needs {
        let mut command = process::command(program);
        command.args(arguments);
        if !process::probe(command).is_ok_and(|output| output.status.success()) {
            bail!("libtorch cannot be installed: {what} is missing.\nOn Debian: `{mend}`. {OTHER_WAYS}");
        }
    }
    Ok(())
}

/// What an interrupted installation left. Only called under the lock.
fn remove_leftovers(cache: &Path) -> Result<()> {
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(WORK_PREFIX) {
            fs::remove_dir_all(entry.path()).with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

fn check_space(cache: &Path) -> Result<()> {
    let disk = statvfs(cache).with_context(|| format!("cannot ask how much space {} has", cache.display()))?;
    enough_space(cache, disk.f_bavail.saturating_mul(disk.f_frsize))
}

fn enough_space(cache: &Path, free_bytes: u64) -> Result<()> {
    if free_bytes >= PEAK_BYTES {
        return Ok(());
    }
    bail!(
        "not enough space: installing libtorch takes {} MB at its peak (530 MB afterwards), {} has {} MB free.\n\
         Free some, or set XDG_CACHE_HOME to a folder on a larger disk. {OTHER_WAYS}",
        PEAK_BYTES / 1_000_000,
        cache.display(),
        free_bytes / 1_000_000
    );
}

/// Fetches the wheels into `work/wheels` and lets pip check their hashes.
fn download(work: &Path) -> Result<()> {
    let list = work.join("wheels.txt");
    fs::write(&list, WHEELS)?;
    let temporary = work.join("pip");
    fs::create_dir(&temporary)?;
    eprintln!("xtask: downloading {} MB from the Python package index", DOWNLOAD_BYTES / 1_000_000);
    let mut pip = process::command("python3");
    pip.args(["-m", "pip", "download", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"])
        // The wheel for one Python version, whatever the user has: only its C++ part is kept.
        .args(["--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp", "--abi", "cp312"])
        .args(["--abi", "none", "--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_25_x86_64"])
        .args(["--platform", "manylinux2014_x86_64", "--require-hashes", "--dest"])
        .arg(work.join("wheels"))
        .arg("--requirement")
        .arg(&list)
        // pip keeps what it downloads in TMPDIR, which is often small.
        .env("TMPDIR", &temporary);
    let ticker = Ticker::start(work.to_owned());
    let result = process::run_keeping_errors(pip);
    ticker.stop();
    result.map_err(|(error, said)| anyhow!("{error}\n{}\n{OTHER_WAYS}", explain(&said)))
}

/// What to do about what pip said.
fn explain(said: &str) -> &'static str {
    let has = |parts: &[&str]| parts.iter().any(|part| said.contains(part));
    if has(&["DO NOT MATCH THE HASHES"]) {
        "A downloaded wheel is not the one that was pinned: a mirror or proxy serves another file, or a download was \
         damaged. Nothing was installed. Try again; if it stays so, do not use that package index."
    } else if has(&["No space left"]) {
        "The disk is full. Free 1700 MB, or set XDG_CACHE_HOME to a folder on a larger disk."
    } else if has(&["no such option", "unrecognized arguments"]) {
        "This pip is too old. Run `python3 -m pip install --upgrade pip`."
    } else if has(&["CERTIFICATE_VERIFY_FAILED"]) {
        "The package index's certificate is not trusted here. Behind a proxy, set PIP_CERT to its certificate."
    } else if has(&["connection", "Connection", "resolve", "resolution", "timed out", "No matching distribution"]) {
        "The Python package index could not be reached, or lacks the file. Check the network (and PIP_INDEX_URL or \
         HTTPS_PROXY, where one is needed), then run `cargo xtask libtorch` again."
    } else {
        "pip's own message stands above. Run `cargo xtask libtorch` to try again."
    }
}

fn unpack(wheels: &Path, made: &Path) -> Result<()> {
    eprintln!("xtask: unpacking");
    let mut python = process::command("python3");
    python.args(["-c", UNPACK]).arg(wheels).arg(made);
    process::run(python).context("the wheels could not be unpacked")?;
    // The wheel's libtorch.so has no code. It only asks for the CPU and the CUDA library, of which one is not here;
    // an empty one satisfies the linker and asks for nothing when a program starts.
    let mut compiler = process::command("cc");
    compiler.args(["-shared", "-o"]).arg(made.join("lib/libtorch.so")).args(["-x", "c", "/dev/null"]);
    process::run(compiler)?;
    fs::write(made.join("build-version"), format!("{VERSION}\n"))?;
    Ok(())
}

fn put_in_place(made: &Path, copy: &Path) -> Result<()> {
    match identify(made) {
        Found::Version(version) if is_ours(&version) => {}
        other => bail!("the unpacked wheels are not a libtorch {VERSION}: {other:?}"),
    }
    if copy.exists() {
        fs::remove_dir_all(copy).with_context(|| format!("cannot remove the damaged {}", copy.display()))?;
    }
    fs::rename(made, copy).with_context(|| format!("cannot put libtorch in place at {}", copy.display()))
}

/// A folder that goes when its owner goes.
struct WorkDir {
    path: PathBuf,
}

impl WorkDir {
    fn create(cache: &Path) -> Result<Self> {
        let path = cache.join(format!("{WORK_PREFIX}{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        // Failing to tidy up is not worth an error: the next installation removes it.
        drop(fs::remove_dir_all(&self.path));
    }
}

/// Says every few seconds how much has arrived, for those who see no progress bar.
struct Ticker {
    stop: SyncSender<()>,
    thread: JoinHandle<()>,
}

impl Ticker {
    fn start(dir: PathBuf) -> Self {
        let (stop, stopped) = sync_channel::<()>(1);
        let thread = thread::spawn(move || {
            while stopped.recv_timeout(Duration::from_secs(5)) == Err(RecvTimeoutError::Timeout) {
                let bytes = size_of(&dir).min(DOWNLOAD_BYTES);
                eprintln!("xtask: {} of {} MB", bytes / 1_000_000, DOWNLOAD_BYTES / 1_000_000);
            }
        });
        Self { stop, thread }
    }

    fn stop(self) {
        drop(self.stop);
        drop(self.thread.join());
    }
}

/// Bytes of all files below; what vanishes meanwhile counts nothing.
fn size_of(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(data) if data.is_dir() => size_of(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wheel_is_pinned_by_version_and_sha256() {
        let lines: Vec<&str> = WHEELS.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].starts_with(&format!("torch=={VERSION} ")), "{}", lines[0]);
        for line in lines {
            let (name, hash) = line.split_once(" --hash=sha256:").expect("a hash");
            assert!(name.contains("=="), "{name}");
            assert!(hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{hash}");
        }
        assert!(OTHER_WAYS.contains(VERSION));
    }

    #[test]
    fn pips_words_are_explained() {
        let cases = [
            (
                "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.",
                "not the one that was pinned",
            ),
            ("OSError: [Errno 28] No space left on device", "disk is full"),
            ("Temporary failure in name resolution", "could not be reached"),
            ("ERROR: No matching distribution found for torch==2.11.0", "could not be reached"),
            ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]", "PIP_CERT"),
            ("no such option: --abi", "too old"),
            ("Killed", "stands above"),
        ];
        for (said, expected) in cases {
            assert!(explain(said).contains(expected), "{said}: {}", explain(said));
        }
    }

    #[test]
    fn too_little_space_names_both_sizes_and_the_way_out() {
        let cache = Path::new("/cache");
        assert!(enough_space(cache, PEAK_BYTES).is_ok());
        let text = enough_space(cache, PEAK_BYTES - 1).expect_err("one byte short").to_string();
        for part in ["1700 MB", "1699 MB", "/cache", "XDG_CACHE_HOME", "LIBTORCH"] {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
    }

    #[test]
    fn an_unsound_copy_is_never_put_in_place() {
        let work = WorkDir::create(&std::env::temp_dir()).expect("a temporary folder");
        let (made, copy) = (work.path.join("made"), work.path.join("copy"));
        fs::create_dir_all(made.join("lib")).expect("a folder");
        let text = put_in_place(&made, &copy).expect_err("there is no library").to_string();
        assert!(text.contains("libtorch_cpu"), "{text}");
        assert!(!copy.exists());

        fs::write(made.join("lib/libtorch_cpu.so"), "").expect("a file");
        fs::create_dir_all(made.join("include/torch/csrc/api/include/torch")).expect("a folder");
        fs::write(made.join("include/torch/csrc/api/include/torch/torch.h"), "").expect("a file");
        fs::write(made.join("build-version"), "2.11.0\n").expect("a file");
        fs::create_dir_all(copy.join("old")).expect("a folder");
        put_in_place(&made, &copy).expect("now it is whole");
        assert_eq!(identify(&copy), Found::Version("2.11.0".into()));
        assert!(!copy.join("old").exists() && !made.exists());
        assert!(size_of(&work.path) == 7);
    }
}
