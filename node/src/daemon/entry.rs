//! What `join` was given, and what it settles to: a run file or an invite, command-line settings over the file's, the
//! data folder.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use swarmloom_protocol::id::RunId;
use swarmloom_protocol::run::{Invite, RunSpec};

use crate::book::TaskBook;
use crate::cli::JoinArgs;
use crate::config::RunFile;
use crate::folder::Folder;
use crate::runs::Usage;

/// The first argument of `join`, `status` and their like, read.
#[derive(Debug)]
pub(crate) enum Entry {
    /// A run file, with its name and text for errors that point into it.
    File {
        /// How messages call it.
        name: String,
        /// Its text.
        text: String,
        /// What it says.
        file: Box<RunFile>,
    },
    /// An invite.
    Invite(Invite),
}

/// Which run it is, and where its data lies.
#[derive(Debug)]
pub(crate) struct Place {
    /// The run.
    pub(crate) run: RunId,
    /// What the run is; `None` for an invite, which only names it.
    pub(crate) described: Option<(RunSpec, TaskBook)>,
    /// The data folder.
    pub(crate) folder: Folder,
}

impl Entry {
    /// Reads a run file, `-` for standard input, or an invite.
    ///
    /// # Errors
    /// A file that cannot be read or is wrong, or text that is neither.
    pub(crate) fn read(argument: &str) -> anyhow::Result<Self> {
        if argument.starts_with("swarmloom:") {
            return Ok(Self::Invite(argument.parse().context("this invite cannot be read; was it copied whole?")?));
        }
        let (name, text) = read_text(Path::new(argument))?;
        let file = Box::new(RunFile::parse(&name, &text)?);
        Ok(Self::File { name, text, file })
    }

    /// What the argument alone says, and the data folder.
    ///
    /// # Errors
    /// A file without `[run]`, or whose tasks are wrong.
    pub(crate) fn place(&self, data_dir: Option<&Path>) -> anyhow::Result<Place> {
        let (run, described, stated) = match self {
            Self::Invite(invite) => (invite.run, None, None),
            Self::File { name, text, file } => {
                let Some(table) = &file.run else {
                    let why = format!(
                        "{name} has no [run] table: it holds settings only. Give it as --settings beside an invite"
                    );
                    return Err(Usage(why).into());
                };
                let (spec, book) = TaskBook::from_table(name, text, table)?;
                (spec.id(), Some((spec, book)), file.peer.data_dir.clone())
            }
        };
        let folder = match data_dir.map(Path::to_owned).or(stated) {
            Some(path) => Folder::at(path),
            None => Folder::of_run(&run.to_string()),
        };
        Ok(Place { run, described, folder })
    }
}

/// A peer's settings: those of the file (or of `--settings` beside an invite), with the command line's over them.
///
/// # Errors
/// A settings file that cannot be read, is wrong, or describes a run of its own.
pub(crate) fn settings(entry: &Entry, args: &JoinArgs) -> anyhow::Result<RunFile> {
    let mut file = match (entry, &args.settings) {
        (Entry::File { .. }, Some(_)) => {
            return Err(Usage("--settings goes with an invite; a run file holds its own settings".into()).into());
        }
        (Entry::File { file, .. }, None) => file.as_ref().clone(),
        (Entry::Invite(invite), settings) => {
            let mut file = match settings {
                Some(path) => {
                    let (name, text) = read_text(path)?;
                    let file = RunFile::parse(&name, &text)?;
                    if file.run.is_some() {
                        let why = format!("{name} has a [run] table, but the invite names the run: remove the table");
                        return Err(Usage(why).into());
                    }
                    file
                }
                None => RunFile::settings_only(),
            };
            file.network.bootstrap.extend(invite.addresses.iter().cloned());
            file
        }
    };
    if let Some(model) = &args.model {
        file.peer.model.clone_from(model);
    }
    if let Some(device) = &args.device {
        file.peer.device.clone_from(device);
    }
    if args.threads.is_some() {
        file.limits.threads = args.threads;
    }
    if !args.listen.is_empty() {
        file.network.listen.clone_from(&args.listen);
    }
    file.network.bootstrap.extend(args.bootstrap.iter().cloned());
    file.network.relay |= args.relay;
    if args.web.is_some() {
        file.network.web.clone_from(&args.web);
    }
    file.sharing.enabled &= !args.alone;
    if args.stop_after.is_some() {
        file.training.stop_after_steps = args.stop_after;
    }
    if args.identity.is_some() {
        file.peer.identity.clone_from(&args.identity);
    }
    // The command line was not checked with the file.
    file.check("the command line")?;
    Ok(file)
}

/// The folder of the daemon that `status` and its like speak to.
///
/// # Errors
/// Where the argument cannot be read, or no argument is given and not exactly one daemon answers.
pub(crate) fn daemon_folder(run: Option<&str>, data_dir: Option<&Path>) -> anyhow::Result<Folder> {
    if let (None, Some(path)) = (run, data_dir) {
        return Ok(Folder::at(path));
    }
    if let Some(run) = run {
        return Ok(Entry::read(run)?.place(data_dir)?.folder);
    }
    let answering: Vec<Folder> = Folder::all().into_iter().filter(is_running).collect();
    match <[Folder; 1]>::try_from(answering) {
        Ok([folder]) => Ok(folder),
        Err(none) if none.is_empty() => {
            bail!(
                "no daemon runs on this machine (or it has a data folder of its own: name its run file). `swarmloom join RUN.toml` starts one"
            )
        }
        Err(several) => bail!(
            "{} daemons run here: name the run file or use --data-dir with one of\n  {}",
            several.len(),
            several.iter().map(|folder| folder.path().display().to_string()).collect::<Vec<_>>().join("\n  ")
        ),
    }
}

/// Whether a daemon answers at this folder's socket.
pub(crate) fn is_running(folder: &Folder) -> bool {
    std::os::unix::net::UnixStream::connect(folder.socket()).is_ok()
}

/// A file's name for messages, and its text; `-` is standard input.
pub(crate) fn read_text(path: &Path) -> anyhow::Result<(String, String)> {
    /// Far above any run file that a person writes.
    const MAX_BYTES: u64 = 1 << 20;
    let name = path.display().to_string();
    let mut text = String::new();
    let read = match name.as_str() {
        "-" => std::io::stdin().lock().take(MAX_BYTES).read_to_string(&mut text),
        _ => std::fs::File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text)),
    };
    read.map_err(|error| Usage(format!("{name} cannot be read: {error}; `swarmloom run new` writes a run file")))?;
    Ok((name, text))
}
