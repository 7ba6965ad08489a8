//! The small verbs around a run: making one, inviting to it, asking its daemon, taking its model, and the peer's key.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};
use swarmloom_protocol::id::{PeerKey, RunId, Signer};
use swarmloom_protocol::run::{Invite, MAX_INVITE_ADDRESSES, MAX_INVITE_BYTES};

use crate::book::TaskBook;
use crate::cli::{DaemonArgs, ExportArgs, IdentityVerb, InviteArgs, RunVerb};
use crate::config::{ConfigErrors, RunFile, located};
use crate::control::{self, Ask};
use crate::daemon::course::Course;
use crate::daemon::entry::{self, Entry};
use crate::folder::{Folder, write_atomically};
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
        let document = json!({ "run": document["run"], "file": "-", "text": text });
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
    let invite = invitation(place.run, addresses);
    say(as_json, &json!({ "invite": invite.to_string() }), || invite.to_string())
}

/// An invite with as many of the addresses as fit, in their order; those of the loopback only where there are no others.
pub(crate) fn invitation(run: RunId, addresses: Vec<String>) -> Invite {
    let is_local = |address: &String| ["/ip4/127.", "/ip6/::1/"].iter().any(|start| address.starts_with(start));
    let all_local = addresses.iter().all(is_local);
    let mut invite = Invite { run, addresses: Vec::new() };
    for address in addresses {
        if (is_local(&address) && !all_local) || invite.addresses.contains(&address) {
            continue;
        }
        invite.addresses.push(address);
        if invite.addresses.len() > MAX_INVITE_ADDRESSES || invite.to_string().len() > MAX_INVITE_BYTES {
            invite.addresses.pop();
            break;
        }
    }
    invite
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
    let identity = match verb {
        IdentityVerb::Show { file: Some(file), .. } => Identity::read(file)?,
        IdentityVerb::Show { file: None, run, data_dir } => {
            Identity::read(&key_file(run.as_deref(), data_dir.as_deref())?)?
        }
        IdentityVerb::New { file } => Identity::create(file)?,
    };
    let peer = swarmloom_net::peer_text(&Signer::from_seed(&identity.seed()).key().0);
    let document = json!({ "peer": peer, "file": identity.path().display().to_string() });
    say(as_json, &document, || format!("{peer}  ({})", identity.path().display()))
}

/// The key that `join` uses for a run file or invite, or in the only data folder of this machine.
fn key_file(run: Option<&str>, data_dir: Option<&Path>) -> anyhow::Result<PathBuf> {
    let (stated, folder) = match run {
        Some(run) => {
            let entry = Entry::read(run)?;
            let stated = match &entry {
                Entry::File { file, .. } => file.peer.identity.clone(),
                Entry::Invite(_) => None,
            };
            (stated, entry.place(data_dir)?.folder)
        }
        None => (None, data_dir.map(Folder::at).map_or_else(|| only_folder(Folder::all()), Ok)?),
    };
    let path = stated.unwrap_or_else(|| folder.identity());
    if !path.exists() {
        bail!("there is no key at {} yet: `swarmloom join` makes one, or name a file with --file", path.display());
    }
    Ok(path)
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
            if as_json {
                let whole = || ConfigErrors(vec![located(&path.display().to_string(), (0, 0), &format!("{error:#}"))]);
                let errors =
                    error.downcast_ref::<ConfigErrors>().map_or_else(whole, |errors| ConfigErrors(errors.0.clone()));
                say(true, &errors_document(&errors), String::new)?;
            }
            Err(error)
        }
    }
}

/// The run's id; `None` for a file of settings only.
fn check_file(path: &Path) -> anyhow::Result<Option<String>> {
    let (name, text) = entry::read_text(path)?;
    if crate::simulate::is_simulation(&text) {
        crate::simulate::check(&name, &text)?;
        return Ok(None);
    }
    if crate::launch::is_training(&text) {
        crate::launch::check(&name, &text)?;
        return Ok(None);
    }
    let file = RunFile::parse(&name, &text)?;
    let Some(table) = &file.run else { return Ok(None) };
    let (spec, book) = TaskBook::from_table(&name, &text, table)?;
    Course::settle(&file, &spec, PeerKey([0; 32]), book, 1).map_err(|wrong| at_their_places(&name, &text, &wrong))?;
    Ok(Some(spec.id().to_string()))
}

fn at_their_places(name: &str, text: &str, wrong: &[(String, String)]) -> ConfigErrors {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invite_holds_what_fits_and_no_loopback_beside_real_addresses() {
        let run = RunId([1; 32]);
        let many: Vec<String> = (0..30).map(|at| format!("/ip4/10.0.0.{at}/tcp/4001")).collect();
        let local = ["/ip4/127.0.0.1/tcp/1".to_owned(), "/ip4/127.0.0.1/tcp/1".to_owned()];
        let mixed = invitation(run, [local.to_vec(), many.clone()].concat());
        assert_eq!(mixed.addresses, many[..MAX_INVITE_ADDRESSES]);
        assert_eq!(invitation(run, local.to_vec()).addresses, local[..1]);
        let long: Vec<String> = (0..9).map(|at| format!("/dns4/{}{at}.example/tcp/1", "x".repeat(600))).collect();
        let invite = invitation(run, long);
        assert_eq!(invite.to_string().parse::<Invite>().expect("it can be read"), invite);
        assert_eq!(invite.addresses.len(), 6);
    }
}
