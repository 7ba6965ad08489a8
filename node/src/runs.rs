//! The small verbs around a run: making one, inviting to it, asking its daemon, taking its model, and the peer's key.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};
use swarmloom_protocol::id::Signer;
use swarmloom_protocol::run::Invite;

use crate::book::TaskBook;
use crate::cli::{DaemonArgs, ExportArgs, IdentityVerb, InviteArgs, RunVerb};
use crate::config::{ConfigErrors, RunFile};
use crate::control::{self, Ask};
use crate::daemon::course::Course;
use crate::daemon::entry::{self, Entry};
use crate::folder::{Folder, user_data, write_atomically};
use crate::identity::Identity;
use crate::status::Status;
use crate::{errors_document, say, template};

/// The command line asks for something that cannot be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// `run new`.
///
/// # Errors
/// Where the file exists or cannot be written.
pub(crate) fn new(RunVerb::New { name, out }: &RunVerb, as_json: bool) -> anyhow::Result<()> {
    let text = template::run_file(name, &nonce()?);
    let file = RunFile::parse("the new run file", &text)?;
    let table = file.run.as_ref().context("the template has no [run]")?;
    let (spec, _) = TaskBook::from_table("the new run file", &text, table)?;
    let document = json!({ "run": spec.id().to_string(), "file": out.display().to_string() });
    if out == Path::new("-") {
        return say(as_json, &document, || text.trim_end().to_owned());
    }
    if out.exists() {
        return Err(Usage(format!("{} exists already; name another with --out", out.display())).into());
    }
    write_atomically(out, text.as_bytes()).with_context(|| out.display().to_string())?;
    say(as_json, &document, || {
        format!("wrote {0} (run {1:.16}…)\nnext:  swarmloom join {0}", out.display(), spec.id().to_string())
    })
}

/// 32 hexadecimal digits that nobody has drawn before.
pub(crate) fn nonce() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| anyhow::anyhow!("the system gave no randomness"))?;
    Ok(crate::hex::encode(&bytes))
}

/// `invite`.
///
/// # Errors
/// A run file that is wrong, or no address to put in.
pub(crate) fn invite(args: &InviteArgs, as_json: bool) -> anyhow::Result<()> {
    if args.example {
        let addresses = vec!["/ip4/203.0.113.7/tcp/4001/p2p/12D3KooWExamplePeerId".to_owned()];
        let invite = Invite { run: swarmloom_protocol::id::RunId([0x4f; 32]), addresses };
        return say(as_json, &json!({ "invite": invite.to_string() }), || invite.to_string());
    }
    let Some(path) = &args.run else { return Err(Usage("name the run file".into()).into()) };
    let place = Entry::read(&path.display().to_string())?.place(args.data_dir.as_deref())?;
    let mut addresses = args.addresses.clone();
    for address in &addresses {
        if let Err(why) = swarmloom_net::check_address(address) {
            return Err(Usage(format!("--address {address}: {why}")).into());
        }
    }
    if let Ok(answer) = control::ask(&place.folder.socket(), Ask::Invite)
        && let Some(known) = answer["invite"].as_str().and_then(|text| text.parse::<Invite>().ok())
    {
        addresses.extend(known.addresses);
    }
    if addresses.is_empty() {
        bail!(
            "no daemon of this run answers, so its addresses are not known. Start `swarmloom join {}` first, or give \
             an address with --address",
            path.display()
        );
    }
    let invite = Invite { run: place.run, addresses };
    say(as_json, &json!({ "invite": invite.to_string() }), || invite.to_string())
}

/// `status`.
///
/// # Errors
/// Where no daemon answers.
pub(crate) fn status(args: &DaemonArgs, as_json: bool) -> anyhow::Result<()> {
    let answer = ask(args, Ask::Status)?;
    let status: Status = serde_json::from_value(answer.clone()).context("the daemon is of another version")?;
    say(as_json, &answer, || status.text())
}

/// `pause` and `resume`.
///
/// # Errors
/// Where no daemon answers.
pub(crate) fn pause(args: &DaemonArgs, paused: bool, as_json: bool) -> anyhow::Result<()> {
    let answer = ask(args, if paused { Ask::Pause } else { Ask::Resume })?;
    say(as_json, &answer, || match paused {
        true => "paused: it finishes its step and waits; `swarmloom resume` lets it go on".into(),
        false => "it goes on".into(),
    })
}

/// `export`.
///
/// # Errors
/// Where there is no policy yet, or the folder to write exists.
pub(crate) fn export(args: &ExportArgs, as_json: bool) -> anyhow::Result<()> {
    let folder = match (&args.from, &args.data_dir) {
        (None, Some(path)) => Folder::at(path.clone()),
        (Some(run), data_dir) => Entry::read(run)?.place(data_dir.as_deref())?.folder,
        (None, None) => only_folder(Folder::all())?,
    };
    let document = crate::daemon::export(&folder, &args.to)?;
    say(as_json, &document, || {
        format!(
            "wrote {} (policy version {}, config.json and model.safetensors)",
            args.to.display(),
            document["version"]
        )
    })
}

/// `identity show` and `identity new`.
///
/// # Errors
/// A key file that is missing, exists already, or is no key file.
pub(crate) fn identity(verb: &IdentityVerb, as_json: bool) -> anyhow::Result<()> {
    let path_or_default = |file: &Option<PathBuf>| file.clone().unwrap_or_else(|| user_data().join("identity.key"));
    let identity = match verb {
        IdentityVerb::Show { file } => Identity::read(&path_or_default(file))?,
        IdentityVerb::New { file } => Identity::create(&path_or_default(file))?,
    };
    let peer = swarmloom_net::peer_text(&Signer::from_seed(&identity.seed()).key().0);
    let document = json!({ "peer": peer, "file": identity.path().display().to_string() });
    say(as_json, &document, || format!("{peer}  ({})", identity.path().display()))
}

/// `config check`.
///
/// # Errors
/// All that is wrong, each at its place; in JSON too.
pub(crate) fn check(path: &Path, as_json: bool) -> anyhow::Result<()> {
    match check_file(path) {
        Ok(run) => {
            say(as_json, &json!({ "ok": true, "errors": [], "run": run }), || format!("{} is sound", path.display()))
        }
        Err(error) => {
            if let (true, Some(errors)) = (as_json, error.downcast_ref::<ConfigErrors>()) {
                say(true, &errors_document(errors), String::new)?;
            }
            Err(error)
        }
    }
}

/// The run's id; `None` for a file of settings only.
fn check_file(path: &Path) -> anyhow::Result<Option<String>> {
    let (name, text) = entry::read_text(path)?;
    let file = RunFile::parse(&name, &text)?;
    let Some(table) = &file.run else { return Ok(None) };
    let (spec, book) = TaskBook::from_table(&name, &text, table)?;
    Course::settle(&file, spec.id(), swarmloom_protocol::id::PeerKey([0; 32]), book, 1)
        .map_err(|wrong| located(&name, &text, &wrong))?;
    Ok(Some(spec.id().to_string()))
}

fn located(name: &str, text: &str, wrong: &[(String, String)]) -> ConfigErrors {
    ConfigErrors(wrong.iter().map(|(path, message)| crate::config::locate(name, text, path, message)).collect())
}

fn ask(args: &DaemonArgs, ask: Ask) -> anyhow::Result<Value> {
    let folder = entry::daemon_folder(args.run.as_deref(), args.data_dir.as_deref())?;
    Ok(control::ask(&folder.socket(), ask)?)
}

fn only_folder(all: Vec<Folder>) -> anyhow::Result<Folder> {
    match <[Folder; 1]>::try_from(all) {
        Ok([folder]) => Ok(folder),
        Err(none) if none.is_empty() => bail!("no run was ever joined on this machine; name its run file with --from"),
        Err(several) => bail!(
            "{} runs were joined here: name one with --from RUN.toml, or its folder with --data-dir:\n  {}",
            several.len(),
            several.iter().map(|folder| folder.path().display().to_string()).collect::<Vec<_>>().join("\n  ")
        ),
    }
}
