//! The command line: what can be typed, and nothing of what it does.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Trains models on whatever machines its users have.
#[derive(Debug, Parser)]
#[command(name = "swarmloom", version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Example: swarmloom demo --open-report\n\nExit codes: 0 all went well, 2 wrong usage or configuration, 1 anything else."
)]
pub(crate) struct Cli {
    /// One JSON document on standard output when the verb ends; logs stay on standard error.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// How much is logged: error, warn, info, debug, trace, or a tracing filter.
    #[arg(long, global = true, value_name = "FILTER", default_value = "warn,libp2p_kad=error")]
    pub(crate) log: String,
    /// The verb.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a run that others can join.
    #[command(subcommand)]
    Run(RunVerb),
    /// Print a text that lets another peer join this run.
    #[command(after_help = "Example: swarmloom invite run.toml")]
    Invite(InviteArgs),
    /// Join a run and train until stopped.
    #[command(
        after_help = "Examples:\n  swarmloom join run.toml\n  swarmloom join 'swarmloom:4f0c…@/ip4/203.0.113.7/tcp/4001/p2p/12D3Koo…'\n  swarmloom join run.toml --relay --web 127.0.0.1:8080"
    )]
    Join(Box<JoinArgs>),
    /// Ask the local daemon how it is doing.
    #[command(after_help = "Example: swarmloom status run.toml")]
    Status(DaemonArgs),
    /// Let the local daemon finish its step and wait.
    #[command(after_help = "Example: swarmloom pause run.toml")]
    Pause(DaemonArgs),
    /// Let the local daemon go on.
    #[command(after_help = "Example: swarmloom resume run.toml")]
    Resume(DaemonArgs),
    /// Write the trained model as a folder of its own.
    #[command(after_help = "Example: swarmloom export --from run.toml trained-model")]
    Export(ExportArgs),
    /// The peer's key.
    #[command(subcommand)]
    Identity(IdentityVerb),
    /// A swarm of four processes on this machine, from start to report.
    #[command(after_help = "Example: swarmloom demo --out demo-report")]
    Demo(DemoArgs),
    /// The tasks that peers learn from: list, sample, score.
    #[command(subcommand)]
    Task(TaskVerb),
    /// Measure this machine against a peer program, in one run.
    #[command(subcommand)]
    Bench(BenchVerb),
    /// What this machine has, what is wrong, and what to type.
    #[command(after_help = "Example: swarmloom doctor")]
    Doctor,
    /// Check a configuration without running it.
    #[command(subcommand)]
    Config(ConfigVerb),
}

/// `run …`.
#[derive(Debug, Subcommand)]
pub(crate) enum RunVerb {
    /// Write a commented run file.
    #[command(after_help = "Example: swarmloom run new --name evening-matrices --out run.toml")]
    New {
        /// The run's name.
        #[arg(long, default_value = "my-run")]
        name: String,
        /// The file to write; `-` for standard output. An existing file is not overwritten.
        #[arg(long, default_value = "run.toml")]
        out: PathBuf,
    },
}

/// `invite`.
#[derive(Debug, Args)]
pub(crate) struct InviteArgs {
    /// The run file.
    #[arg(required_unless_present = "example")]
    pub(crate) run: Option<PathBuf>,
    /// The data folder of the daemon, where it is not the run file's.
    #[arg(long)]
    pub(crate) data_dir: Option<PathBuf>,
    /// Addresses to put in, besides those the running daemon knows.
    #[arg(long = "address", value_name = "MULTIADDR")]
    pub(crate) addresses: Vec<String>,
    /// Print what an invite looks like.
    #[arg(long)]
    pub(crate) example: bool,
}

/// `join`.
#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// A run file, `-` for one on standard input, or an invite.
    #[arg(required_unless_present = "example", value_name = "RUN.toml|INVITE")]
    pub(crate) run: Option<String>,
    /// Print a commented run file.
    #[arg(long)]
    pub(crate) example: bool,
    /// This peer's settings when joining by invite: a run file without `[run]`.
    #[arg(long, value_name = "FILE")]
    pub(crate) settings: Option<PathBuf>,
    /// Where checkpoints, store and key live.
    #[arg(long)]
    pub(crate) data_dir: Option<PathBuf>,
    /// The key file.
    #[arg(long)]
    pub(crate) identity: Option<PathBuf>,
    /// A model preset.
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// Threads to use.
    #[arg(long)]
    pub(crate) threads: Option<u32>,
    /// An address to listen on; may be repeated.
    #[arg(long, value_name = "MULTIADDR")]
    pub(crate) listen: Vec<String>,
    /// A peer to start from; may be repeated.
    #[arg(long, value_name = "MULTIADDR")]
    pub(crate) bootstrap: Vec<String>,
    /// Relay for peers that nobody can reach.
    #[arg(long)]
    pub(crate) relay: bool,
    /// Serve /metrics, /healthz and /status at this address.
    #[arg(long, value_name = "ADDR")]
    pub(crate) web: Option<String>,
    /// Learn alone: nothing is shared and the network stays off.
    #[arg(long)]
    pub(crate) alone: bool,
    /// Stop after so many steps.
    #[arg(long, value_name = "STEPS")]
    pub(crate) stop_after: Option<u64>,
    /// After the last step, keep serving groups until stopped.
    #[arg(long)]
    pub(crate) stay: bool,
    /// End when the process that started this one does.
    #[arg(long, hide = true)]
    pub(crate) with_parent: bool,
}

/// The daemon a verb speaks to.
#[derive(Debug, Args)]
pub(crate) struct DaemonArgs {
    /// The run file or invite that the daemon joined; the only running daemon when absent.
    #[arg(value_name = "RUN.toml|INVITE")]
    pub(crate) run: Option<String>,
    /// The daemon's data folder.
    #[arg(long)]
    pub(crate) data_dir: Option<PathBuf>,
}

/// `export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The folder to write; it must not exist.
    #[arg(value_name = "DIR")]
    pub(crate) to: PathBuf,
    /// The run file or invite; the only data folder on this machine when absent.
    #[arg(long, value_name = "RUN.toml|INVITE")]
    pub(crate) from: Option<String>,
    /// The daemon's data folder.
    #[arg(long)]
    pub(crate) data_dir: Option<PathBuf>,
}

/// `identity …`.
#[derive(Debug, Subcommand)]
pub(crate) enum IdentityVerb {
    /// Print the peer id that `join` has with a run, or that of a key file.
    #[command(after_help = "Example: swarmloom identity show run.toml")]
    Show {
        /// The run file or invite; the only data folder on this machine when absent.
        #[arg(value_name = "RUN.toml|INVITE")]
        run: Option<String>,
        /// The data folder.
        #[arg(long)]
        data_dir: Option<PathBuf>,
        /// A key file.
        #[arg(long, conflicts_with_all = ["run", "data_dir"])]
        file: Option<PathBuf>,
    },
    /// Make a key, for `join --identity`.
    #[command(after_help = "Example: swarmloom identity new --file my.key")]
    New {
        /// The key file; an existing one is not overwritten.
        #[arg(long)]
        file: PathBuf,
    },
}

/// `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Where the report and the peers' data go; made when absent.
    #[arg(long, default_value = "swarmloom-demo")]
    pub(crate) out: PathBuf,
    /// Seeds the peers' weights, warm starts and questions.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Training steps of each peer.
    #[arg(long)]
    pub(crate) steps: Option<u64>,
    /// A form for checks: fewer steps, no claim about learning.
    #[arg(long)]
    pub(crate) short: bool,
    /// Open the report in a browser at the end.
    #[arg(long)]
    pub(crate) open_report: bool,
}

/// Which form of a task's rules holds.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ModeArg {
    /// Every quirk of reasoning-gym 0.1.25.
    Exact,
    /// Without what a policy could exploit.
    Hardened,
}

/// `task …`.
#[derive(Debug, Subcommand)]
pub(crate) enum TaskVerb {
    /// Tasks and their presets.
    #[command(after_help = "Example: swarmloom task list --json")]
    List,
    /// Questions, answers and metadata, one JSON line each.
    #[command(
        after_help = "Example: swarmloom task sample binary_matrix --seed 42 --index 0 --count 3 --config '{\"max_n\":4}'"
    )]
    Sample {
        /// A task or preset.
        task: String,
        /// The data set's seed.
        #[arg(long, default_value_t = 42)]
        seed: u64,
        /// The first item.
        #[arg(long, default_value_t = 0)]
        index: u64,
        /// How many items.
        #[arg(long, default_value_t = 1)]
        count: u64,
        /// Fields over the task's configuration, as JSON.
        #[arg(long)]
        config: Option<String>,
        /// Whose rules.
        #[arg(long, value_enum, default_value = "exact")]
        mode: ModeArg,
        /// Print the text a policy reads as `prompt`, too.
        #[arg(long)]
        prompt: bool,
    },
    /// Scores JSON lines {task, seed, idx, answer} from standard input, in order.
    #[command(
        after_help = "Example: echo '{\"task\":\"bf\",\"seed\":42,\"idx\":0,\"answer\":\"onset\"}' | swarmloom task score"
    )]
    Score {
        /// Fields over each task's configuration, as JSON; a line's own `config` comes first.
        #[arg(long)]
        config: Option<String>,
        /// Whose rules.
        #[arg(long, value_enum, default_value = "exact")]
        mode: ModeArg,
    },
}

/// `bench …`.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchVerb {
    /// Generate and score per second and task, beside reasoning-gym.
    #[command(after_help = "Example: cargo xtask bench tasks")]
    Tasks(BenchArgs),
    /// Completions per second, and where the time of a training step goes.
    #[command(after_help = "Example: swarmloom bench rollouts --quick")]
    Rollouts(BenchArgs),
}

/// What every benchmark takes.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Within a minute.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Where the peers' programs are; `cargo xtask bench` sets it.
    #[arg(long, value_name = "DIR")]
    pub(crate) peers: Option<PathBuf>,
}

/// `config …`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Says all that is wrong with a run file.
    #[command(after_help = "Example: swarmloom config check run.toml")]
    Check {
        /// The file; `-` for standard input.
        file: PathBuf,
    },
}
