//! A simulation on real images, as a stage of CI: Fashion-MNIST from its Debian package, where that can be had.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::workspace::Workspace;
use crate::{cache, process};

const PACKAGE: &str = "dataset-fashion-mnist";
/// Where the package has its files.
const WITHIN: &str = "usr/share/datasets/fashion-mnist";
/// What the example file says that a stage of CI has no time for, and what it runs instead. Staleness and rounds shrink
/// together.
const SHORTER: [(&str, &str); 3] =
    [("rounds = 250", "rounds = 100"), ("staleness = 40", "staleness = 20"), ("every = 10", "every = 5")];

/// The folder of the images, fetched on first use; an error says why they cannot be had.
pub(crate) fn ensure() -> Result<PathBuf> {
    let installed = Path::new("/").join(WITHIN);
    if installed.exists() {
        return Ok(installed);
    }
    let cache = cache::dir()?;
    let kept = cache.join(PACKAGE);
    let _lock = cache::lock(&cache, PACKAGE)?;
    if !kept.join(WITHIN).exists() {
        let part = cache.join(format!(".{PACKAGE}-part-{}", std::process::id()));
        fs::create_dir_all(&part).with_context(|| part.display().to_string())?;
        let fetched = fetch(&part).and_then(|()| Ok(fs::rename(part.join("unpacked"), &kept)?));
        let _ = fs::remove_dir_all(&part);
        fetched?;
    }
    Ok(kept.join(WITHIN))
}

/// apt checks the package's hash against a signed list.
fn fetch(into: &Path) -> Result<()> {
    let mut download = process::command("apt-get");
    download.args(["download", "--quiet", PACKAGE]).current_dir(into);
    process::timed("downloading Fashion-MNIST", || process::output(download))?;
    let entries = fs::read_dir(into)?.filter_map(|entry| Some(entry.ok()?.path()));
    let package = entries.filter(|path| path.extension().is_some_and(|ending| ending == "deb")).last();
    let mut unpack = process::command("dpkg-deb");
    unpack.arg("-x").arg(package.context("apt-get left no package")?).arg(into.join("unpacked"));
    process::output(unpack).map(|_| ())
}

/// The example, shorter, on the images of this folder; its verdict has to be the paper's.
pub(crate) fn simulate(workspace: &Workspace, images: &Path) -> Result<()> {
    let binary = workspace.build()?;
    let out = workspace.target_dir()?.join("ci-images");
    fs::create_dir_all(&out)?;
    let example = fs::read_to_string(workspace.root.join("examples/fashion.toml"))?;
    let file = out.join("fashion.toml");
    fs::write(&file, shorter(&example, images)?)?;
    let mut check = process::command(&binary);
    check.args(["data", "check", "fashion-mnist", "--under"]).arg(images.parent().unwrap_or(images));
    process::output(check)?;
    let mut simulate = process::command(&binary);
    simulate.args(["--json", "simulate", "--restart", "--out"]).arg(&out).arg(&file);
    judge(&process::output(simulate)?)
}

fn shorter(example: &str, images: &Path) -> Result<String> {
    let mut text = example.to_owned();
    for (long, short) in SHORTER {
        ensure!(text.contains(long), "examples/fashion.toml does not say `{long}`");
        text = text.replace(long, short);
    }
    let dir = format!("/{WITHIN}");
    ensure!(text.contains(&dir), "examples/fashion.toml does not read {dir}");
    Ok(text.replace(&dir, &images.display().to_string()))
}

/// Turning stale updates fresh has to give the class that is late more than the other rules do.
fn judge(said: &str) -> Result<()> {
    let document: Value = serde_json::from_str(said).context("what simulate said")?;
    let of = |name: &str| {
        let strategies = document["strategies"].as_array().map(Vec::as_slice).unwrap_or_default();
        let strategy = strategies.iter().find(|strategy| strategy["name"] == name);
        let averaged = strategy.map(|found| &found["seeds"][0]["affected_class"]["run_averaged"]);
        averaged.and_then(Value::as_f64).with_context(|| format!("simulate said nothing of {name}"))
    };
    let inversion = of("inversion")?;
    for other in ["direct", "weighted", "first-order"] {
        let behind = of(other)?;
        ensure!(inversion > behind, "class 5, run-averaged: inversion {inversion:.3}, {other} {behind:.3}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_made_shorter_or_refused() {
        let example = "rounds = 250\ndir = \"/usr/share/datasets/fashion-mnist\"\nstaleness = 40\nevery = 10\n";
        let text = shorter(example, Path::new("/images")).expect("shorter");
        assert_eq!(text, "rounds = 100\ndir = \"/images\"\nstaleness = 20\nevery = 5\n");
        let error = shorter(&example.replace("250", "300"), Path::new("/images")).expect_err("another example");
        assert_eq!(error.to_string(), "examples/fashion.toml does not say `rounds = 250`");
    }

    #[test]
    fn inversion_has_to_be_ahead_of_all() {
        let said = |values: [f64; 4]| {
            let names = ["inversion", "direct", "weighted", "first-order"];
            let strategy = |(name, value): (&str, f64)| serde_json::json!({ "name": name, "seeds": [{ "affected_class": { "run_averaged": value } }] });
            let strategies: Vec<Value> = names.into_iter().zip(values).map(strategy).collect();
            serde_json::json!({ "strategies": strategies }).to_string()
        };
        assert!(judge(&said([0.6, 0.5, 0.1, 0.5])).is_ok());
        let error = judge(&said([0.6, 0.5, 0.1, 0.7])).expect_err("behind").to_string();
        assert_eq!(error, "class 5, run-averaged: inversion 0.600, first-order 0.700");
        assert!(judge("{}").is_err() && judge("").is_err());
    }
}
