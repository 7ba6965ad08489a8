//! `cargo xtask`: one command each for setting up, building, showing, testing, checking and measuring swarmloom.
//! It finds or installs libtorch first, so that a fresh clone needs a Rust toolchain, a C++ compiler and Python only.

mod bench;
mod cache;
mod ci;
mod images;
mod invariants;
mod libtorch;
mod process;
mod tidy;
mod tree;
mod workspace;

use std::fmt;
use std::process::ExitCode;

use anyhow::Result;

use crate::workspace::Workspace;

const HELP: &str = "\
usage: cargo xtask COMMAND

  libtorch [--print]  find libtorch, or install it; --print writes its folder to standard output
  build               the release binary, target/release/swarmloom
  demo [ARGS...]      build, then `swarmloom demo ARGS...`
  test [ARGS...]      every test of every crate; ARGS go to `cargo test`
  bench [ARGS...]     build, set up the programs to compare with, then `swarmloom bench ARGS...`
  invariants          check what ARCHITECTURE.md says about who may know whom
  tidy                check the rules of the house that no compiler knows
  ci                  everything that has to pass before a change lands
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = process::end_children_on_signals().and_then(|()| dispatch(&arguments));
    process::leave_to_signal();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

/// 2 for wrong usage, what a program that xtask ran for the user left with, 1 otherwise.
fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<Usage>() {
        return 2;
    }
    error.downcast_ref::<process::Failed>().map_or(1, |failed| failed.code)
}

/// The command line is wrong.
#[derive(Debug)]
struct Usage(String);

impl fmt::Display for Usage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}

impl std::error::Error for Usage {}

fn dispatch(arguments: &[String]) -> Result<()> {
    let Some((verb, rest)) = arguments.split_first() else {
        eprint!("{HELP}");
        return Err(Usage("which command?".into()).into());
    };
    if ["help", "--help", "-h"].contains(&verb.as_str()) {
        print!("{HELP}");
        return Ok(());
    }
    if !["demo", "test", "bench"].contains(&verb.as_str()) {
        let known: &[&str] = if verb == "libtorch" { &["--print"] } else { &[] };
        if let Some(unknown) = rest.iter().find(|argument| !known.contains(&argument.as_str())) {
            return Err(Usage(format!("`{verb}` does not take `{unknown}`; see `cargo xtask help`")).into());
        }
    }
    let workspace = Workspace::find()?;
    match verb.as_str() {
        "libtorch" => {
            let dir = libtorch::ensure(&workspace.root)?;
            if rest.iter().any(|argument| argument == "--print") {
                println!("{}", dir.display());
            }
            Ok(())
        }
        "build" => workspace.build().map(drop),
        "demo" => {
            let mut swarmloom = process::command(workspace.build()?);
            swarmloom.arg("demo").args(rest);
            process::run(swarmloom)
        }
        "test" => workspace.test(rest),
        "bench" => bench::run(&workspace, rest),
        "invariants" => invariants::check(&workspace),
        "tidy" => tidy::check(&workspace),
        "ci" => ci::run(&workspace),
        unknown => Err(Usage(format!("there is no `{unknown}`; see `cargo xtask help`")).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_usage_leaves_with_two_and_names_the_word() {
        for (words, named) in [(vec!["weave"], "weave"), (vec!["build", "--fast"], "--fast"), (vec![], "which")] {
            let arguments: Vec<String> = words.into_iter().map(String::from).collect();
            let error = dispatch(&arguments).expect_err("wrong usage");
            assert_eq!(exit_code(&error), 2);
            assert!(error.to_string().contains(named), "{error}");
        }
        assert_eq!(exit_code(&anyhow::anyhow!("something else")), 1);
    }
}
