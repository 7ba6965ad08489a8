//! Which libtorch this clone builds against: `LIBTORCH`, an importable torch of the right version, xtask's own
//! copy, and only then a fresh one. `choose` decides, the rest looks.

mod install;

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{cache, process};

/// The version that the bindings are made for. Raised together with `tch`.
pub(crate) const VERSION: &str = "2.11.0";

const FIND_TORCH: &str = "
import importlib.util
spec = importlib.util.find_spec('torch')
if spec and spec.submodule_search_locations:
    print(list(spec.submodule_search_locations)[0])
";

/// Makes sure that there is a libtorch, writes down where for plain cargo, and returns its folder.
///
/// `root` is the repository.
pub(crate) fn ensure(root: &Path) -> Result<PathBuf> {
    let cache = cache::dir()?;
    let copy = cache.join(format!("libtorch-{VERSION}"));
    let (choice, notes) = choose(&look(&copy)?)?;
    for note in notes {
        eprintln!("xtask: {note}");
    }
    let dir = match choice {
        Choice::Use { dir, origin } => {
            eprintln!("xtask: libtorch {VERSION} in {} ({origin})", dir.display());
            dir
        }
        Choice::Install => {
            process::timed(&format!("installing libtorch {VERSION} to {}", copy.display()), || {
                install::install(&cache, &copy)
            })?;
            copy
        }
    };
    remember(root, &dir)?;
    Ok(dir)
}

/// A place where libtorch was looked for, and what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Probe {
    origin: Origin,
    dir: PathBuf,
    found: Found,
}

/// Why a folder was looked into.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    /// `LIBTORCH` names it.
    Variable,
    /// This interpreter imports torch from it.
    Python(PathBuf),
    /// xtask's own copy.
    Copy,
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable => write!(out, "from LIBTORCH"),
            Self::Python(interpreter) => write!(out, "the torch that {} imports", interpreter.display()),
            Self::Copy => write!(out, "xtask's own copy"),
        }
    }
}

/// What a folder holds.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    /// A whole libtorch of this version (`2.11.0+cu130`).
    Version(String),
    /// Something, but not a libtorch to build against: what is missing.
    Lacks(&'static str),
    /// No such folder.
    Nothing,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Choice {
    Use { dir: PathBuf, origin: Origin },
    Install,
}

/// Takes the first sound place. A wrong `LIBTORCH` is an error, for a person asked for it; anything else that does
/// not fit is passed over with a note.
fn choose(probes: &[Probe]) -> Result<(Choice, Vec<String>)> {
    let mut notes = Vec::new();
    for Probe { origin, dir, found } in probes {
        let dir_shown = dir.display();
        let trouble = match found {
            Found::Version(version) if is_ours(version) => {
                return Ok((Choice::Use { dir: dir.clone(), origin: origin.clone() }, notes));
            }
            Found::Version(version) => format!("{dir_shown} holds libtorch {version}, needed is {VERSION}"),
            Found::Lacks(what) => format!("{dir_shown} is not a whole libtorch: it lacks {what}"),
            Found::Nothing => format!("{dir_shown} does not exist"),
        };
        match (origin, found) {
            (Origin::Variable, _) => bail!(
                "LIBTORCH is wrong: {trouble}.\n\
                 Mend it with `unset LIBTORCH && cargo xtask libtorch` (finds or installs {VERSION}), or point it at \
                 a libtorch {VERSION} folder, for instance that of `python3 -m pip install torch=={VERSION}`."
            ),
            (Origin::Copy, Found::Nothing) => {}
            (Origin::Copy, _) => notes.push(format!("{trouble}; it will be replaced")),
            (Origin::Python(_), _) => notes.push(format!("{trouble}; passed over")),
        }
    }
    Ok((Choice::Install, notes))
}

/// `2.11.0` and `2.11.0+cu130` are ours, `2.11.0a0` and `2.11` are not.
fn is_ours(version: &str) -> bool {
    version.trim().split('+').next() == Some(VERSION)
}

/// Looks into every place, in the order of preference.
fn look(copy: &Path) -> Result<Vec<Probe>> {
    if let Some(value) = env::var_os("LIBTORCH").filter(|value| !value.is_empty()) {
        let dir = std::path::absolute(value).context("LIBTORCH is not a path")?;
        return Ok(vec![Probe { origin: Origin::Variable, found: identify(&dir), dir }]);
    }
    let active = env::var_os("VIRTUAL_ENV").map(|dir| Path::new(&dir).join("bin/python"));
    let mut probes: Vec<Probe> = Vec::new();
    for interpreter in active.into_iter().chain([PathBuf::from("python3")]) {
        let Some(dir) = imported_from(&interpreter) else { continue };
        if probes.iter().all(|probe| probe.dir != dir) {
            probes.push(Probe { found: identify(&dir), origin: Origin::Python(interpreter), dir });
        }
    }
    probes.push(Probe { origin: Origin::Copy, found: identify(copy), dir: copy.to_owned() });
    Ok(probes)
}

/// The folder of the torch that this interpreter would import. Does not import it: that takes seconds.
fn imported_from(interpreter: &Path) -> Option<PathBuf> {
    let mut command = process::command(interpreter);
    // Away from the current folder, which python would search first.
    command.args(["-c", FIND_TORCH]).current_dir("/");
    let output = process::probe(command).ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim()).filter(|line| !line.is_empty()).map(PathBuf::from)
}

/// What is in this folder.
fn identify(dir: &Path) -> Found {
    if !dir.is_dir() {
        return Found::Nothing;
    }
    let has_library = ["libtorch_cpu.so", "libtorch_cpu.dylib"].iter().any(|name| dir.join("lib").join(name).exists());
    if !has_library {
        return Found::Lacks("lib/libtorch_cpu");
    }
    if !dir.join("include/torch/csrc/api/include/torch/torch.h").exists() {
        return Found::Lacks("include/torch");
    }
    let read = |name: &str| fs::read_to_string(dir.join(name)).ok();
    read("build-version")
        .map(|text| text.trim().to_owned())
        .or_else(|| read("version.py").and_then(|text| version_in_python(&text)))
        .or_else(|| read("include/torch/headeronly/version.h").and_then(|text| version_in_header(&text)))
        .map_or(Found::Lacks("a file that tells its version"), Found::Version)
}

/// From `__version__ = '2.11.0+cu130'`.
fn version_in_python(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("__version__"))?;
    let value = line.split('=').nth(1)?.trim().trim_matches(['\'', '"']);
    Some(value.to_owned()).filter(|value| !value.is_empty())
}

/// From `#define TORCH_VERSION_MAJOR 2` and its two fellows.
fn version_in_header(text: &str) -> Option<String> {
    let part = |name: &str| {
        text.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            let is_it = words.next() == Some("#define") && words.next() == Some(name);
            is_it.then(|| words.next()).flatten()
        })
    };
    let [major, minor, patch] = ["TORCH_VERSION_MAJOR", "TORCH_VERSION_MINOR", "TORCH_VERSION_PATCH"].map(part);
    Some(format!("{}.{}.{}", major?, minor?, patch?))
}

/// Writes `.cargo/libtorch.toml`, which `.cargo/config.toml` includes. Left untouched where it is right already.
fn remember(root: &Path, dir: &Path) -> Result<()> {
    let text = record(dir)?;
    let path = root.join(".cargo/libtorch.toml");
    if fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The cargo configuration that makes plain cargo commands see this libtorch.
fn record(dir: &Path) -> Result<String> {
    let text = dir.to_str().filter(|text| !text.contains([',', ':']) && !text.contains(char::is_control));
    let Some(text) = text else {
        bail!(
            "libtorch is in {dir:?}, but a linker cannot be told such a path (comma, colon, control character or \
             not UTF-8). Set LIBTORCH or XDG_CACHE_HOME to a plainer one."
        );
    };
    // A JSON string without control characters is a TOML string as well.
    let value = serde_json::to_string(text)?;
    Ok(format!(
        "# Written by `cargo xtask`. A LIBTORCH in the environment comes before it.\n[env]\nLIBTORCH = {value}\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(origin: Origin, dir: &str, found: Found) -> Probe {
        Probe { origin, dir: dir.into(), found }
    }

    fn version(text: &str) -> Found {
        Found::Version(text.to_owned())
    }

    fn python() -> Origin {
        Origin::Python("python3".into())
    }

    #[test]
    fn versions_with_a_build_suffix_are_ours_and_others_are_not() {
        for ours in ["2.11.0", "2.11.0+cpu", "2.11.0+cu130", "2.11.0\n"] {
            assert!(is_ours(ours), "{ours}");
        }
        for other in ["2.11.1", "2.11", "2.11.0a0+git1", "2.10.0+cpu", "12.11.0", ""] {
            assert!(!is_ours(other), "{other}");
        }
    }

    #[test]
    fn versions_are_read_from_python_and_from_the_header() {
        let python =
            "from typing import Optional\n__all__ = ['__version__']\n__version__ = '2.11.0+cu130'\ndebug = False\n";
        assert_eq!(version_in_python(python).as_deref(), Some("2.11.0+cu130"));
        assert_eq!(version_in_python("debug = False\n"), None);
        let header = "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 11\n#define TORCH_VERSION_PATCH 0\n";
        assert_eq!(version_in_header(header).as_deref(), Some("2.11.0"));
        assert_eq!(version_in_header("#define TORCH_VERSION_MAJOR 2\n"), None);
    }

    #[test]
    fn the_variable_comes_first_then_python_then_the_copy() {
        let all = [
            probe(Origin::Variable, "/set", version("2.11.0")),
            probe(python(), "/python", version("2.11.0+cu130")),
            probe(Origin::Copy, "/copy", version("2.11.0")),
        ];
        for (from, expected) in [(0, "/set"), (1, "/python"), (2, "/copy")] {
            let (choice, notes) = choose(&all[from..]).expect("all are sound");
            assert_eq!(choice, Choice::Use { dir: expected.into(), origin: all[from].origin.clone() });
            assert!(notes.is_empty());
        }
        let (choice, notes) = choose(&[probe(Origin::Copy, "/copy", Found::Nothing)]).expect("nothing is wrong");
        assert_eq!(choice, Choice::Install);
        assert!(notes.is_empty());
    }

    #[test]
    fn a_wrong_variable_is_an_error_that_names_both_versions_and_the_command() {
        let wrong =
            [probe(Origin::Variable, "/set", version("2.9.1+cpu")), probe(Origin::Copy, "/copy", version("2.11.0"))];
        let text = choose(&wrong).expect_err("LIBTORCH is wrong").to_string();
        for part in ["/set", "2.9.1+cpu", "2.11.0", "unset LIBTORCH && cargo xtask libtorch"] {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
        for found in [Found::Nothing, Found::Lacks("lib/libtorch_cpu")] {
            assert!(choose(&[probe(Origin::Variable, "/set", found)]).is_err());
        }
    }

    #[test]
    fn a_wrong_python_torch_is_passed_over_with_a_note() {
        let (choice, notes) =
            choose(&[probe(python(), "/python", version("2.9.1")), probe(Origin::Copy, "/copy", version("2.11.0"))])
                .expect("the copy serves");
        assert_eq!(choice, Choice::Use { dir: "/copy".into(), origin: Origin::Copy });
        assert_eq!(notes, ["/python holds libtorch 2.9.1, needed is 2.11.0; passed over"]);
    }

    #[test]
    fn a_damaged_copy_is_replaced() {
        let (choice, notes) =
            choose(&[probe(Origin::Copy, "/copy", Found::Lacks("include/torch"))]).expect("nothing is wrong");
        assert_eq!(choice, Choice::Install);
        assert_eq!(notes, ["/copy is not a whole libtorch: it lacks include/torch; it will be replaced"]);
    }

    #[test]
    fn the_record_is_cargo_configuration_and_refuses_what_a_linker_cannot_take() {
        let text = record(Path::new("/a \"b\"/libtorch")).expect("a plain path");
        assert!(text.ends_with("[env]\nLIBTORCH = \"/a \\\"b\\\"/libtorch\"\n"), "{text}");
        for bad in ["/a,b", "/a:b", "/a\nb"] {
            let error = record(Path::new(bad)).expect_err("not for a linker").to_string();
            assert!(error.contains("XDG_CACHE_HOME"), "{error}");
        }
    }
}
