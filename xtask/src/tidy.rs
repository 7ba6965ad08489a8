//! The rules of the house that no compiler knows, checked line by line over every file in git.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use crate::process;
use crate::workspace::Workspace;

/// Rust files hold one idea; past this many lines they usually hold two.
const LONG_LINES: usize = 700;

/// Folders and files where `unsafe` may stand. Loading a library at run time, and a tensor's memory by its address, are
/// `unsafe` by nature.
const UNSAFE_ALLOWED: [&str; 6] = [
    "collectives/",
    "kernels/",
    "tests/netlab/src/tun.rs",
    "trainer/src/collective.rs",
    "trainer/src/device.rs",
    "trainer/src/memory.rs",
];
/// The state machines take time as an argument.
const CLOCKLESS: [&str; 8] = [
    "protocol/",
    "trainer/classifiers/",
    "trainer/datasets/",
    "node/sites/",
    "trainer/federated/",
    "trainer/placement/",
    "trainer/population/",
    "trainer/tasks/",
];

/// Checks every file; the error lists all that is wrong.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    process::timed("checking the text of every file", || {
        let mut wrong = Vec::new();
        for file in workspace.files()? {
            // Pictures and the like are not text.
            if let Ok(text) = fs::read_to_string(workspace.root.join(&file)) {
                wrong.extend(faults(&file, &text));
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        bail!("the house is not tidy:\n  {}", wrong.join("\n  "));
    })
}

/// What is wrong in one file, as `path:line: what`.
fn faults(file: &Path, text: &str) -> Vec<String> {
    let path = file.to_string_lossy();
    let mut found = Vec::new();
    let mut tell = |line: usize, what: &str| found.push(format!("{path}:{line}: {what}"));
    let is_rust = path.ends_with(".rs");
    if is_rust && !text.starts_with("//!") {
        tell(1, "does not open with a `//!` that says what the file is for");
    }
    if is_rust && text.lines().count() > LONG_LINES {
        tell(LONG_LINES + 1, "is too long: split it where its ideas part");
    }
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if private_paths().iter().any(|private| holds_path(line, private)) {
            tell(number, "names a path of one machine");
        }
        if is_rust {
            for what in rust_faults(&path, line) {
                tell(number, what);
            }
        }
    }
    found
}

/// What is wrong in one line of Rust.
fn rust_faults(path: &str, line: &str) -> Vec<&'static str> {
    let code = code_of(line);
    let starts_with_any = |list: &[&str]| list.iter().any(|start| path.starts_with(start));
    let mut found = Vec::new();
    if holds_word(&code, "unsafe") && !starts_with_any(&UNSAFE_ALLOWED) {
        found.push("`unsafe` outside kernels and collectives");
    }
    if ["unbounded_channel", "mpsc::unbounded", "mpsc::channel()"].iter().any(|name| code.contains(name)) {
        found.push("a channel without a bound");
    }
    if starts_with_any(&CLOCKLESS) && ["SystemTime::now", "Instant::now"].iter().any(|name| code.contains(name)) {
        found.push("reads the clock: time is an argument here");
    }
    if code.trim_start().starts_with("#[ignore") {
        found.push("an ignored test");
    }
    found
}

/// The line without its strings and its `//` comment. A string over several lines is not recognised, which at worst
/// reports too much.
fn code_of(line: &str) -> String {
    let mut code = String::new();
    let mut characters = line.chars().peekable();
    let mut in_string = false;
    while let Some(character) = characters.next() {
        match character {
            '\\' if in_string => drop(characters.next()),
            '\'' if !in_string && characters.peek() == Some(&'"') => drop(characters.next()), // '"'
            '"' => in_string = !in_string,
            '/' if !in_string && characters.peek() == Some(&'/') => break,
            _ if in_string => {}
            _ => code.push(character),
        }
    }
    code
}

/// Whether `word` stands in the code by itself (`unsafe_op_in_unsafe_fn` is another word).
fn holds_word(code: &str, word: &str) -> bool {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == word)
}

/// Folders of the machines that people and programs work on. Put together here, so that this file does not name them.
fn private_paths() -> [String; 3] {
    ["work", "root", "home"].map(|name| format!("/{name}/"))
}

/// Whether an absolute path that starts so stands in the line: at its beginning or after a space, quote or the like.
/// `framework/x` and `https://host/root/` are other things.
fn holds_path(line: &str, start: &str) -> bool {
    line.match_indices(start).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| c.is_whitespace() || "\"'`(=:<>,[".contains(c)) && !line[at..].starts_with("/home/x/")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(path: &str, text: &str) -> Vec<String> {
        faults(Path::new(path), text)
    }

    #[test]
    fn a_rust_file_says_what_it_is_for() {
        assert!(whats("a/src/lib.rs", "//! Something.\n").is_empty());
        assert_eq!(whats("a/src/lib.rs", "fn f() {}\n").len(), 1);
        assert!(whats("a.toml", "x = 1\n").is_empty());
    }

    #[test]
    fn unsafe_stands_in_two_rooms_only_and_is_told_from_words_about_it() {
        let code = "//! x\nlet a = unsafe { f() };\n";
        assert_eq!(whats("node/src/a.rs", code), ["node/src/a.rs:2: `unsafe` outside kernels and collectives"]);
        assert!(whats("kernels/src/a.rs", code).is_empty());
        for harmless in ["// unsafe {", "let a = \"unsafe {\";", "#![deny(unsafe_code)]", "let q = '\"'; // unsafe"] {
            assert!(whats("node/src/a.rs", &format!("//! x\n{harmless}\n")).is_empty(), "{harmless}");
        }
    }

    #[test]
    fn channels_clocks_and_ignored_tests_are_found() {
        let channel = "//! x\nlet (a, b) = mpsc::unbounded_channel();\n";
        assert!(whats("node/src/a.rs", channel)[0].contains("without a bound"));
        let clock = "//! x\nlet now = Instant::now();\n";
        assert!(whats("protocol/src/a.rs", clock)[0].contains("time is an argument"));
        assert!(whats("node/src/a.rs", clock).is_empty());
        assert!(whats("node/src/a.rs", "//! x\n    #[ignore = \"slow\"]\n")[0].contains("ignored test"));
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        let [work, root, _] = private_paths();
        for line in [format!("see {root}x"), format!("`{work}main`"), format!("DIR={work}a"), format!("{work}a")] {
            assert_eq!(whats("notes.md", &line).len(), 1, "{line}");
        }
        for line in [format!("frame{work}a"), format!("https://example.org{root}a"), "/worker/a".to_owned()] {
            assert!(whats("notes.md", &line).is_empty(), "{line}");
        }
    }

    #[test]
    fn long_files_are_found() {
        let text = format!("//! x\n{}", "// a\n".repeat(LONG_LINES));
        assert_eq!(
            whats("a.rs", &text),
            [format!("a.rs:{}: is too long: split it where its ideas part", LONG_LINES + 1)]
        );
        assert!(whats("a.rs", &text[..text.len() - 5]).is_empty());
    }
}
