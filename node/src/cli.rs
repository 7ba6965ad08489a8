//! The command line: what can be typed, and nothing of what it does.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use swarmloom_collectives::bench::{Op, Point};

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
    /// Federated learning in virtual time, many strategies side by side.
    #[command(
        after_help = "Examples:\n  swarmloom simulate --example | swarmloom simulate -\n  swarmloom simulate fashion.toml --out fashion\n  swarmloom simulate --settings | less\n\nA simulation that was stopped goes on where it was when it is started again."
    )]
    Simulate(SimulateArgs),
    /// Train a model on many ranks, or run any program on them.
    #[command(
        after_help = "Examples:\n  swarmloom launch --nproc 2 train.toml\n  swarmloom launch --nproc 2 -- python train.py\n  swarmloom launch --emit slurm --nodes 4 --nproc 8 --gpus 1 train.toml > train.sbatch\n  torchrun --nproc-per-node 2 --no-python swarmloom launch train.toml\n  swarmloom launch --example > train.toml\n\nA training that was stopped goes on from its last checkpoint when it is started again, on any number of ranks.",
        args_conflicts_with_subcommands = true
    )]
    Launch(LaunchArgs),
    /// Show what `launch` would do, and why.
    #[command(
        after_help = "Examples:\n  swarmloom plan --nproc 4 train.toml\n  swarmloom plan train.toml --topology clusters.toml\n  swarmloom plan train.toml --cost prices.toml\n\nWith a topology, what layers cost is measured on this machine, and the file says how fast others are beside it."
    )]
    Plan(PlanCommand),
    /// The tasks that peers learn from: list, sample, score.
    #[command(subcommand)]
    Task(TaskVerb),
    /// Data sets for federated learning: where to get each, whether its files are sound.
    #[command(subcommand)]
    Data(DataVerb),
    /// Plans of collectives: what each rank does, proved before it runs.
    #[command(subcommand)]
    Collective(CollectiveVerb),
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

/// `simulate`.
#[derive(Debug, Args)]
pub(crate) struct SimulateArgs {
    /// The simulation file, `-` for one on standard input.
    #[arg(required_unless_present_any = ["example", "settings"], value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Print a commented file.
    #[arg(long)]
    pub(crate) example: bool,
    /// Print all that a file can say.
    #[arg(long)]
    pub(crate) settings: bool,
    /// Where the report, the table and the JSON go; `simulation-NAME` in this folder when absent.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Threads to use; all cores when absent. The results do not depend on it.
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// Forget what was computed before.
    #[arg(long)]
    pub(crate) restart: bool,
    /// With several ranks (torchrun's variables): how long to wait for others, until they are there and then for their parts.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) wait: u64,
}

/// `launch`.
#[derive(Debug, Args)]
pub(crate) struct LaunchArgs {
    /// The training file, `-` for one on standard input.
    #[arg(value_name = "TRAIN.toml")]
    pub(crate) file: Option<PathBuf>,
    /// Print a commented training file.
    #[arg(long)]
    pub(crate) example: bool,
    /// Ranks on this machine; one for each GPU when absent, at least one.
    #[arg(long, value_name = "N")]
    pub(crate) nproc: Option<usize>,
    /// Where logs, results and checkpoints go; `launch-NAME` in this folder when absent.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Forget earlier checkpoints.
    #[arg(long)]
    pub(crate) restart: bool,
    /// How often all ranks are started again after one was lost.
    #[arg(long, value_name = "TIMES", default_value_t = 3)]
    pub(crate) restarts: u32,
    /// Show nothing of what ranks write; the files have it.
    #[arg(long)]
    pub(crate) quiet: bool,
    /// Print what a scheduler takes, instead of starting anything.
    #[arg(long, value_enum, value_name = "KIND", requires = "file")]
    pub(crate) emit: Option<EmitKind>,
    #[command(flatten)]
    pub(crate) emitted: EmitArgs,
    /// Any program, with its arguments, instead of a training file.
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
    /// What to do with what is launched already.
    #[command(subcommand)]
    pub(crate) verb: Option<LaunchVerb>,
}

/// What `launch --emit` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EmitKind {
    /// A script for sbatch.
    Slurm,
    /// A Service and an Indexed Job.
    K8s,
    /// A JobSet.
    Jobset,
}

/// What a scheduler is asked for.
#[derive(Debug, Args)]
#[command(next_help_heading = "With --emit")]
pub(crate) struct EmitArgs {
    /// Nodes, or pods.
    #[arg(long, default_value_t = 1, requires = "emit")]
    pub(crate) nodes: usize,
    /// Cores of each rank.
    #[arg(long, default_value_t = 1, requires = "emit")]
    pub(crate) cpus: usize,
    /// GPUs of each rank.
    #[arg(long, default_value_t = 0, requires = "emit")]
    pub(crate) gpus: usize,
    /// Memory of each node, in GiB.
    #[arg(long, requires = "emit")]
    pub(crate) memory_gib: Option<usize>,
    /// When all has to end.
    #[arg(long, requires = "emit")]
    pub(crate) minutes: Option<u64>,
    /// The container's image, for Kubernetes.
    #[arg(long, requires = "emit")]
    pub(crate) image: Option<String>,
    /// Slurm's partition.
    #[arg(long, requires = "emit")]
    pub(crate) partition: Option<String>,
    /// Whose account Slurm charges.
    #[arg(long, requires = "emit")]
    pub(crate) account: Option<String>,
}

/// `plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanCommand {
    /// The training file.
    #[arg(value_name = "TRAIN.toml")]
    pub(crate) file: PathBuf,
    /// Ranks on this machine, started to be measured.
    #[arg(long, value_name = "N", conflicts_with = "topology")]
    pub(crate) nproc: Option<usize>,
    /// Machines and links, described in a file.
    #[arg(long, value_name = "FILE")]
    pub(crate) topology: Option<PathBuf>,
    /// Prices of machines: the cheapest mix that is done in time.
    #[arg(long, value_name = "PRICES")]
    pub(crate) cost: Option<PathBuf>,
    /// Where drawings go; `launch-NAME` in this folder when absent.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

/// `launch …`.
#[derive(Debug, Subcommand)]
pub(crate) enum LaunchVerb {
    /// What is launched on this machine.
    #[command(after_help = "Example: swarmloom launch ps --json")]
    Ps,
    /// Ask a launch for a checkpoint and an end.
    #[command(after_help = "Example: swarmloom launch stop 4711")]
    Stop {
        /// Its id, as `launch ps` prints it; the only one when absent.
        id: Option<String>,
        /// Seconds to wait for its end.
        #[arg(long, value_name = "SECONDS", default_value_t = 120)]
        within: u64,
    },
    /// Print what a rank has written.
    #[command(after_help = "Example: swarmloom launch logs 4711 --rank 1")]
    Logs {
        /// The launch's id; the only one when absent.
        id: Option<String>,
        /// Which rank.
        #[arg(long, default_value_t = 0)]
        rank: usize,
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

/// `data …`.
#[derive(Debug, Subcommand)]
pub(crate) enum DataVerb {
    /// Data sets by name, their licences, and what to type to have them.
    #[command(after_help = "Example: swarmloom data list --under data")]
    List {
        /// The folder that data are kept in.
        #[arg(long, value_name = "DIR", default_value = "data")]
        under: PathBuf,
    },
    /// Reads the files of all data sets that are found, or of those that are named, and compares them with what was
    /// published.
    #[command(
        after_help = "Examples:\n  swarmloom data check\n  swarmloom data check fashion-mnist --under data --json"
    )]
    Check {
        /// Which data sets.
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// The folder that data are kept in.
        #[arg(long, value_name = "DIR", default_value = "data")]
        under: PathBuf,
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
    /// Flat-buffer kernels: bytes per second beside a copy, fused chains beside their steps.
    #[command(after_help = "Example: swarmloom bench kernels --quick")]
    Kernels(BenchArgs),
    /// Collectives on this host beside MPI libraries, oneCCL, gloo and a bare program, all in one run.
    #[command(
        after_help = "Examples:\n  cargo xtask bench collectives --quick\n  cargo xtask bench collectives --collectives all_reduce --rounds 7 --plot all-reduce.svg"
    )]
    Collectives(CollectivesArgs),
    /// Federated simulation: client updates per second, start and memory, beside Flower and a bare PyTorch loop.
    #[command(after_help = "Example: cargo xtask bench simulate")]
    Simulate(BenchArgs),
    /// Training a model beside PyTorch, on this machine and on two clusters with a slow link between (as root).
    #[command(after_help = "Example: cargo xtask bench launch")]
    Launch(BenchArgs),
    /// One rank of a program that `bench collectives` measures.
    #[command(hide = true)]
    CollectiveRank(CollectiveRankArgs),
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

/// `bench collectives`.
#[derive(Debug, Args)]
pub(crate) struct CollectivesArgs {
    #[command(flatten)]
    pub(crate) bench: BenchArgs,
    /// How many ranks; several make a grid of their own each.
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "2")]
    pub(crate) ranks: Vec<usize>,
    /// Which way bytes go.
    #[arg(long, value_enum, default_value = "all")]
    pub(crate) transport: WireArg,
    /// Which collectives: all_reduce, all_gather, reduce_scatter, broadcast, all_to_all, reduce. All when absent, with
    /// `--quick` the first.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub(crate) collectives: Vec<Op>,
    /// Sizes in bytes (K and M: 2^10 and 2^20). From 8 to 64M when absent.
    #[arg(long, value_name = "BYTES,...", value_delimiter = ',', value_parser = bytes)]
    pub(crate) sizes: Vec<usize>,
    /// No sizes above this one.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(crate) max_bytes: Option<usize>,
    /// How often everybody takes a turn.
    #[arg(long)]
    pub(crate) rounds: Option<usize>,
    /// Time for each size and program in a round.
    #[arg(long, value_name = "MILLISECONDS")]
    pub(crate) budget_ms: Option<u64>,
    /// Only these programs, ours or others'.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Draw time over size to this SVG file.
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
    /// Write every single measurement to this file, a JSON line each.
    #[arg(long, value_name = "FILE")]
    pub(crate) records: Option<PathBuf>,
}

/// A transport to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WireArg {
    /// Shared memory.
    Shm,
    /// TCP on the loopback interface.
    Tcp,
    /// Both.
    All,
}

/// `bench collective-rank`.
#[derive(Debug, Args)]
pub(crate) struct CollectiveRankArgs {
    /// The program.
    pub(crate) program: String,
    /// Which rank.
    #[arg(long)]
    pub(crate) rank: usize,
    /// Of how many.
    #[arg(long)]
    pub(crate) ranks: usize,
    /// The file that the ranks share.
    #[arg(long)]
    pub(crate) clock: PathBuf,
    /// Where ranks of ours meet.
    #[arg(long)]
    pub(crate) port: u16,
    /// Processors by rank.
    #[arg(long, value_delimiter = ',')]
    pub(crate) cpus: Vec<usize>,
    /// What is measured.
    #[arg(long, value_delimiter = ',')]
    pub(crate) points: Vec<Point>,
    /// Time for each.
    #[arg(long)]
    pub(crate) budget_ms: u64,
    /// How long anything may be waited for.
    #[arg(long)]
    pub(crate) patience_s: u64,
}

/// `4096`, `4K`, `64M`.
fn bytes(text: &str) -> Result<usize, String> {
    let (number, unit) = match text.trim_end_matches(['k', 'K', 'm', 'M']) {
        bare if bare.len() == text.len() => (bare, 1),
        bare if text.ends_with(['k', 'K']) => (bare, 1 << 10),
        bare => (bare, 1 << 20),
    };
    let wrong = || format!("{text:?} is not a number of bytes, such as 8, 4K or 64M");
    let number: usize = number.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).filter(|bytes| (4..=1 << 30).contains(bytes)).ok_or_else(wrong)
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

/// Verbs of `collective`.
#[derive(Debug, Subcommand)]
pub(crate) enum CollectiveVerb {
    /// Prints (or draws) one plan, with what was proved of it.
    #[command(after_help = "Example:
  swarmloom collective plan all-reduce --ranks 4 --bytes 1048576 --draw plan.svg
  swarmloom collective plan all-reduce --ranks 4 --bytes 4096 --hosts 2,2 --algorithm hierarchical --json")]
    Plan(PlanArgs),
}

/// Arguments of `collective plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// all-reduce, reduce-scatter, all-gather, broadcast, reduce, all-to-all, barrier or send.
    pub(crate) name: String,
    /// Ranks of the group.
    #[arg(long, default_value_t = 2)]
    pub(crate) ranks: usize,
    /// Bytes of the larger side of one rank.
    #[arg(long, default_value_t = 1 << 20)]
    pub(crate) bytes: usize,
    /// Bytes of one element.
    #[arg(long, default_value_t = 4)]
    pub(crate) element_bytes: usize,
    /// packet, one-shot, two-shot, ring, halving-doubling, hierarchical or direct; without it, the one that suits.
    #[arg(long)]
    pub(crate) algorithm: Option<String>,
    /// What ranks of one host can do to each other's memory.
    #[arg(long, value_enum, default_value_t = Over::Shm)]
    pub(crate) over: Over,
    /// Ranks on each host, with commas; hosts reach each other by TCP. Without it, one host.
    #[arg(long, value_delimiter = ',')]
    pub(crate) hosts: Option<Vec<usize>>,
    /// Bytes of the chunks that large buffers are cut into.
    #[arg(long)]
    pub(crate) chunk_bytes: Option<usize>,
    /// Bytes of scratch that a rank has.
    #[arg(long, default_value_t = 4 << 20)]
    pub(crate) scratch_bytes: usize,
    /// Draws the plan into this SVG file.
    #[arg(long, value_name = "FILE")]
    pub(crate) draw: Option<std::path::PathBuf>,
}

/// What ranks of one host can do to each other's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Over {
    /// Shared memory, buffers of any kind.
    Shm,
    /// Shared memory, buffers in registered regions.
    Registered,
    /// Shared memory, and the system copies from the other's buffers.
    SingleCopy,
    /// TCP.
    Tcp,
    /// Nothing but writing to the other's scratch, as RDMA without more.
    OneSided,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(["8", "4K", "64m"].map(bytes), [Ok(8), Ok(4096), Ok(64 << 20)]);
        for wrong in ["", "K", "4KK8", "0", "8G", "99999999M"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
