//! `data`: data sets for federated learning by name, where to get each, and whether what is there is sound.

use std::path::Path;

use anyhow::bail;
use serde_json::{Value, json};
use swarmloom_datasets::{Check, Files, Known, Limits, known};

use crate::cli::DataVerb;
use crate::runs::Usage;
use crate::say;

/// Carries out a verb of `data`.
///
/// # Errors
/// Where a data set is unknown, or not sound.
pub(crate) fn run(verb: &DataVerb, as_json: bool) -> anyhow::Result<()> {
    match verb {
        DataVerb::List { under } => list(under, as_json),
        DataVerb::Check { names, under } => check(names, under, as_json),
    }
}

fn list(under: &Path, as_json: bool) -> anyhow::Result<()> {
    let sets: Vec<Value> = known()
        .iter()
        .map(|set| {
            let folder = set.find(under);
            json!({
                "name": set.name, "what": set.what, "licence": set.licence, "found": folder.is_some(),
                "sound": null, "fix": folder.is_none().then(|| fix(set, under)), "folder": folder, "get": set.get,
                "files": files(set),
            })
        })
        .collect();
    say(as_json, &json!({ "sets": sets, "under": under }), || {
        let lines: Vec<String> = known().iter().map(|set| entry(set, under)).collect();
        format!("{}\nread and compared by: swarmloom data check --under {}", lines.join("\n"), under.display())
    })
}

fn check(names: &[String], under: &Path, as_json: bool) -> anyhow::Result<()> {
    let all = known();
    if let Some(name) = names.iter().find(|name| !all.iter().any(|set| set.name == *name)) {
        let known: Vec<&str> = all.iter().map(|set| set.name).collect();
        return Err(Usage(format!("there is no data set {name:?}: there are {}", known.join(", "))).into());
    }
    let chosen = all.iter().filter(|set| names.is_empty() || names.iter().any(|name| name == set.name));
    let checked: Vec<(&Known, Check)> = chosen.map(|set| (set, set.check(under, &Limits::default()))).collect();
    let sets: Vec<Value> = checked
        .iter()
        .map(|(set, check)| {
            json!({
                "name": set.name, "found": check.found.is_some(), "sound": check.sound,
                "fix": (!check.sound).then(|| fix(set, under)), "folder": check.found, "problems": check.problems,
            })
        })
        .collect();
    say(as_json, &json!({ "sets": sets, "under": under }), || {
        let lines: Vec<String> = checked.iter().map(|(set, check)| verdict(set, check, under)).collect();
        lines.join("\n")
    })?;
    // What nobody asked for by name need not be there.
    let bad: Vec<&str> = checked
        .iter()
        .filter(|(_, check)| !check.sound && (check.found.is_some() || !names.is_empty()))
        .map(|(set, _)| set.name)
        .collect();
    if !bad.is_empty() {
        bail!("not found or not sound: {}", bad.join(", "));
    }
    Ok(())
}

/// A line for a shell that gets a data set, in the first of its ways.
fn fix(set: &Known, under: &Path) -> String {
    line(set.get.first().copied().unwrap_or("true"), under)
}

/// One way to get a data set, from wherever the shell is.
fn line(way: &str, under: &Path) -> String {
    format!("mkdir -p {0} && cd {0} && {way}", quoted(under))
}

/// A path as a shell reads it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+~".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

fn files(set: &Known) -> Vec<Value> {
    let all: &[swarmloom_datasets::File] = match &set.files {
        Files::Each(files) => files,
        Files::Texts(file) => std::slice::from_ref(file),
        _ => &[],
    };
    all.iter().map(|file| json!({ "name": file.name, "bytes": file.bytes, "sha256": file.sha256 })).collect()
}

fn entry(set: &Known, under: &Path) -> String {
    let mut text = format!("{:14} {}\n{:14} licence: {}", set.name, set.what, "", set.licence);
    let state = match set.find(under) {
        Some(folder) if folder.as_os_str().is_empty() => String::new(),
        Some(folder) => format!("\n{:14} found in {}", "", folder.display()),
        None => {
            let ways = set.get.iter().map(|way| format!("\n{:14}   {}", "", line(way, under)));
            format!(
                "\n{:14} not found below {}; to get it{}:{}",
                "",
                under.display(),
                or(set),
                ways.collect::<String>()
            )
        }
    };
    text.push_str(&state);
    text
}

/// Says that there is a choice.
fn or(set: &Known) -> &'static str {
    if set.get.len() > 1 { ", one of these" } else { "" }
}

fn verdict(set: &Known, check: &Check, under: &Path) -> String {
    match &check.found {
        Some(folder) if check.sound && folder.as_os_str().is_empty() => {
            format!("{:14} sound, inside this program", set.name)
        }
        Some(folder) if check.sound => format!("{:14} sound, in {}", set.name, folder.display()),
        Some(_) => {
            let problems: Vec<String> = check.problems.iter().map(|problem| format!("\n{:14} {problem}", "")).collect();
            format!("{:14} not sound:{}\n{:14} -> {}", set.name, problems.concat(), "", fix(set, under))
        }
        None => format!("{:14} not found; `swarmloom data list` says where to get it", set.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_the_folder_as_one_word() {
        assert_eq!(quoted(Path::new("/srv/my-data")), "/srv/my-data");
        assert_eq!(quoted(Path::new("it's here")), "'it'\\''s here'");
        assert!(
            fix(&known()[1], Path::new("a b")).starts_with("mkdir -p 'a b' && cd 'a b' && mkdir -p fashion-mnist && ")
        );
    }

    #[test]
    fn what_is_missing_is_listed_with_every_way_to_get_it() {
        let text = entry(&known()[1], Path::new("nowhere-at-all"));
        if !Path::new("/usr/share/datasets/fashion-mnist").exists() {
            assert!(
                text.contains("one of these:") && text.contains("curl -fLO") && text.contains("apt-get download"),
                "{text}"
            );
        }
        assert!(
            verdict(&known()[0], &known()[0].check(Path::new("x"), &Limits::default()), Path::new("x"))
                .contains("sound, inside")
        );
    }
}
