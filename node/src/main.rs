//! `swarmloom`: trains models on whatever machines its users have. This file reads the command line and calls the verb.

mod bench;
mod book;
mod cli;
mod config;
mod control;
mod daemon;
mod data;
mod demo;
mod doctor;
mod events;
mod folder;
mod hex;
mod identity;
mod launch;
mod plans;
mod report;
mod runs;
mod simulate;
mod status;
mod store;
mod supervisor;
mod tasks;
mod template;
mod web;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use serde_json::json;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, ConfigVerb, Verb};

fn main() -> ExitCode {
    // Before any call into libtorch: later it would not see a GPU.
    swarmloom_trainer::device::prepare();
    let cli = Cli::parse();
    let filter = match EnvFilter::try_new(&cli.log) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("error: --log {:?}: {error}", cli.log);
            return ExitCode::from(2);
        }
    };
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<daemon::StepLeft>() {
                daemon::end_at_once(1);
            }
            ExitCode::from(exit_code(&error))
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    match &cli.verb {
        Verb::Run(verb) => runs::new(verb, cli.json),
        Verb::Invite(args) => runs::invite(args, cli.json),
        Verb::Join(args) if args.example => print_example(),
        Verb::Join(args) => daemon::join(args),
        Verb::Status(args) => runs::status(args, cli.json),
        Verb::Pause(args) => runs::pause(args, true, cli.json),
        Verb::Resume(args) => runs::pause(args, false, cli.json),
        Verb::Export(args) => runs::export(args, cli.json),
        Verb::Identity(verb) => runs::identity(verb, cli.json),
        Verb::Demo(args) => block_on(demo::run(args, cli.json)),
        Verb::Simulate(args) => simulate::run(args, cli.json),
        Verb::Launch(args) => launch::run(args, cli.json),
        Verb::Plan(args) => launch::plan::run(args, cli.json),
        Verb::Task(verb) => tasks::run(verb, cli.json),
        Verb::Data(verb) => data::run(verb, cli.json),
        Verb::Bench(verb) => bench::run(verb, cli.json),
        Verb::Collective(verb) => plans::run(verb, cli.json),
        Verb::Doctor => doctor::run(cli.json),
        Verb::Config(ConfigVerb::Check { file }) => runs::check(file, cli.json),
    }
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?.block_on(work)
}

fn print_example() -> anyhow::Result<()> {
    Ok(std::io::stdout().write_all(template::run_file("my-run", &runs::nonce()?).as_bytes())?)
}

/// Prints a verb's one JSON document, or text for people.
pub(crate) fn say(as_json: bool, document: &serde_json::Value, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    let text = if as_json { document.to_string() } else { text() };
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// 2 for wrong usage or configuration, 1 otherwise.
fn exit_code(error: &anyhow::Error) -> u8 {
    let usage = error.chain().any(|cause| {
        cause.is::<config::ConfigErrors>()
            || cause.is::<runs::Usage>()
            || cause.is::<swarmloom_datasets::DatasetError>()
            || cause.is::<swarmloom_tasks::TaskError>()
            || cause.is::<swarmloom_protocol::run::RunError>()
    });
    if usage { 2 } else { 1 }
}

/// `swarmloom task list | head` is no error.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

/// What a failed check says in JSON: `{"ok": false, "errors": [...]}`.
pub(crate) fn errors_document(errors: &config::ConfigErrors) -> serde_json::Value {
    json!({ "ok": false, "errors": errors.0 })
}
