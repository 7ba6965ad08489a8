//! Who may know whom: the invariants of ARCHITECTURE.md about dependencies, each with the command that shows it.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::workspace::Workspace;
use crate::{process, tidy, tree};

/// What one crate may depend on.
struct Room {
    package: &'static str,
    /// Crates of this workspace that it may name.
    knows: &'static [&'static str],
    /// Crates that must not be below it, however deep. `libp2p` stands for `libp2p-*` as well.
    never: &'static [&'static str],
}

const ROOMS: [Room; 18] = [
    Room { package: "swarmloom-kernels", knows: &[], never: &["tch", "tokio", "libp2p"] },
    Room { package: "swarmloom-gpu", knows: &["swarmloom-kernels"], never: &["tch", "tokio", "libp2p"] },
    Room {
        package: "swarmloom-collectives",
        knows: &["swarmloom-gpu", "swarmloom-kernels"],
        never: &["tch", "tokio", "libp2p", "clap", "toml"],
    },
    Room {
        package: "swarmloom-collectives-capi",
        knows: &["swarmloom-collectives", "swarmloom-gpu", "swarmloom-kernels"],
        never: &["tch", "tokio", "libp2p", "clap", "toml"],
    },
    Room {
        package: "swarmloom-protocol",
        knows: &[],
        never: &["tokio", "libp2p", "tch", "chrono", "time", "web-time", "swarmloom-tasks"],
    },
    Room { package: "swarmloom-datasets", knows: &[], never: &["tch", "tokio", "libp2p"] },
    Room { package: "swarmloom-population", knows: &[], never: &["tch", "tokio", "libp2p"] },
    Room { package: "swarmloom-placement", knows: &[], never: &["tch", "tokio", "libp2p", "clap"] },
    Room { package: "swarmloom-sites", knows: &[], never: &["tch", "tokio", "libp2p", "clap"] },
    Room { package: "netlab", knows: &[], never: &["tch", "tokio", "libp2p", "clap"] },
    Room { package: "swarmloom-federated", knows: &["swarmloom-kernels"], never: &["tch", "tokio", "libp2p"] },
    Room { package: "swarmloom-classifiers", knows: &["swarmloom-kernels"], never: &["tch", "tokio", "libp2p"] },
    Room {
        package: "swarmloom-simulation",
        knows: &[
            "swarmloom-classifiers",
            "swarmloom-collectives",
            "swarmloom-federated",
            "swarmloom-kernels",
            "swarmloom-population",
        ],
        never: &["tch", "tokio", "libp2p", "clap"],
    },
    Room { package: "swarmloom-tasks", knows: &[], never: &["tch", "tokio", "libp2p"] },
    Room {
        package: "swarmloom-trainer",
        knows: &[
            "swarmloom-classifiers",
            "swarmloom-collectives",
            "swarmloom-gpu",
            "swarmloom-kernels",
            "swarmloom-placement",
        ],
        never: &["tokio", "libp2p", "clap", "sled", "axum"],
    },
    Room { package: "swarmloom-net", knows: &[], never: &["tch", "clap", "sled", "axum"] },
    Room { package: "swarmloom-tests", knows: &[], never: &["tch", "libp2p"] },
    Room { package: "xtask", knows: &[], never: &["tch", "tokio", "libp2p"] },
];

/// Crates that only some packages may name.
const OWNED: [(&str, &[&str]); 6] = [
    ("tch", &["swarmloom-trainer"]),
    ("libp2p", &["swarmloom-net"]),
    ("clap", &["swarmloom"]),
    ("sled", &["swarmloom"]),
    ("axum", &["swarmloom"]),
    ("cudarc", &["swarmloom-gpu"]),
];

/// Checks dependencies, then the rules about text.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    process::timed("checking who knows whom", || check_rooms(workspace))?;
    tidy::check(workspace)
}

fn check_rooms(workspace: &Workspace) -> Result<()> {
    let mut broken = Vec::new();
    for room in &ROOMS {
        let direct = tree::dependencies(workspace, room.package, true)?;
        broken.extend(strangers(room, &direct));
        broken.extend(trespassers(room.package, &direct));
        broken.extend(forbidden(room, &tree::dependencies(workspace, room.package, false)?));
    }
    if broken.is_empty() {
        return Ok(());
    }
    bail!("invariants are broken:\n  {}", broken.join("\n  "));
}

/// Crates of the workspace that a room names but may not.
fn strangers(room: &Room, direct: &BTreeSet<String>) -> Vec<String> {
    let ours = direct.iter().filter(|name| *name == "swarmloom" || name.starts_with("swarmloom-"));
    let strange = ours.filter(|name| !room.knows.contains(&name.as_str()));
    strange.map(|name| format!("{} may not depend on {name}", room.package)).collect()
}

/// Crates that belong to other packages.
fn trespassers(package: &str, direct: &BTreeSet<String>) -> Vec<String> {
    let owned = OWNED.iter().filter(|(_, owners)| !owners.contains(&package));
    let named = owned.filter(|(owned, _)| direct.iter().any(|name| is_or_extends(name, owned)));
    named.map(|(owned, owners)| format!("{package} depends on {owned}, which only {} may", owners.join(", "))).collect()
}

/// Crates that must not be below a room.
fn forbidden(room: &Room, all: &BTreeSet<String>) -> Vec<String> {
    let found = all.iter().filter(|name| room.never.iter().any(|never| is_or_extends(name, never)));
    let tell = |name: &String| {
        let package = room.package;
        format!("{package} must not need {name}; see `cargo tree -p {package} -e normal -i {name}`")
    };
    found.map(tell).collect()
}

/// `libp2p` and `libp2p-swarm` are libp2p; `timer` is not time.
fn is_or_extends(name: &str, base: &str) -> bool {
    name.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room { package: "swarmloom-a", knows: &["swarmloom-b"], never: &["libp2p", "time"] };

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().copied().map(String::from).collect()
    }

    #[test]
    fn a_room_may_name_its_friends_only() {
        assert!(strangers(&ROOM, &set(&["serde", "swarmloom-b"])).is_empty());
        let broken = strangers(&ROOM, &set(&["swarmloom-b", "swarmloom-c", "swarmloom"]));
        assert_eq!(broken, ["swarmloom-a may not depend on swarmloom", "swarmloom-a may not depend on swarmloom-c"]);
    }

    #[test]
    fn forbidden_crates_are_found_with_their_families() {
        assert!(forbidden(&ROOM, &set(&["timer", "serde", "lib"])).is_empty());
        let broken = forbidden(&ROOM, &set(&["libp2p-swarm", "time"]));
        assert_eq!(broken.len(), 2);
        assert!(broken[0].contains("cargo tree -p swarmloom-a -e normal -i libp2p-swarm"), "{}", broken[0]);
    }

    #[test]
    fn only_owners_may_name_what_they_own() {
        assert!(trespassers("swarmloom-trainer", &set(&["tch"])).is_empty());
        assert!(trespassers("swarmloom", &set(&["clap", "sled", "axum"])).is_empty());
        assert_eq!(
            trespassers("swarmloom-net", &set(&["libp2p-stream", "sled"])),
            ["swarmloom-net depends on sled, which only swarmloom may"]
        );
        assert_eq!(
            trespassers("swarmloom", &set(&["libp2p"])),
            ["swarmloom depends on libp2p, which only swarmloom-net may"]
        );
    }
}
