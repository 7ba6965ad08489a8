//! Who takes part: ours, the bare programs, and the peers that `peers.json` names.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Wire {
    /// Shared memory.
    Shm,
    /// TCP within this host.
    Tcp,
}

impl Wire {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Shm => "shm",
            Self::Tcp => "tcp",
        }
    }
}

/// What a program is measured for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Role {
    /// Ours, on any memory or on registered memory.
    Ours {
        /// Buffers that the ranks reach directly.
        registered: bool,
    },
    /// Somebody else's.
    Peer,
    /// Ours, built without deadlines, abort words and epochs: what those cost.
    Unguarded,
    /// The bare program.
    Floor {
        /// It has its buffers in shared memory.
        registered: bool,
    },
}

impl Role {
    /// Whether such a program can run `ranks` ranks; `crowded` where they are more than cores.
    pub(super) fn takes(self, ranks: usize, crowded: bool) -> bool {
        match self {
            Self::Ours { .. } | Self::Peer => true,
            // Without deadlines it never gives a core away, so it shows the system's time slices, not what guards cost.
            Self::Unguarded => !crowded,
            // It is written for two.
            Self::Floor { .. } => ranks == 2,
        }
    }
}

/// A program that takes turns.
#[derive(Debug, Clone)]
pub(super) struct Entrant {
    /// Unique.
    pub(super) name: String,
    /// The library, with its version.
    pub(super) family: String,
    pub(super) role: Role,
    pub(super) wire: Wire,
    /// A peer's starter; ours has none.
    pub(super) starter: Option<PathBuf>,
    /// Takes part in a short measurement.
    pub(super) quick: bool,
}

/// `peers.json`, as `xtask` writes it.
#[derive(Debug, Default, Deserialize)]
struct Manifest {
    peers: Vec<Listed>,
    missing: Vec<Missing>,
}

#[derive(Debug, Deserialize)]
struct Listed {
    name: String,
    family: String,
    transport: Wire,
    quick: bool,
    /// Not a peer but ours, without what guards it.
    #[serde(default)]
    unguarded: bool,
}

/// A library that is not here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Missing {
    pub(super) family: String,
    pub(super) why: String,
}

/// What a comparison should have; named where it is absent.
pub(super) const FAMILIES: [&str; 5] = ["Open MPI", "MPICH", "Intel MPI", "oneCCL", "gloo"];

/// Everybody, and who is absent. `folder` is that of `--peers`.
///
/// # Errors
/// Where `peers.json` is there but is none.
pub(super) fn all(folder: Option<&Path>) -> anyhow::Result<(Vec<Entrant>, Vec<Missing>)> {
    let mut manifest = Manifest::default();
    let folder = folder.map(|folder| folder.join("collectives"));
    if let Some(folder) = folder.as_ref().filter(|folder| folder.join("peers.json").exists()) {
        let path = folder.join("peers.json");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        manifest = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    }
    let mut missing = manifest.missing;
    for family in FAMILIES {
        let is_it = |name: &str| name.starts_with(family);
        if !manifest.peers.iter().any(|peer| is_it(&peer.family)) && !missing.iter().any(|one| is_it(&one.family)) {
            let why = "not installed: `cargo xtask bench collectives` installs it and measures all".into();
            missing.push(Missing { family: family.into(), why });
        }
    }
    let peers = manifest.peers.into_iter().map(|peer| Entrant {
        starter: folder.as_ref().map(|folder| folder.join(&peer.name)),
        name: peer.name,
        family: peer.family,
        role: if peer.unguarded { Role::Unguarded } else { Role::Peer },
        wire: peer.transport,
        quick: peer.quick,
    });
    Ok((alternate(peers.collect(), own()), missing))
}

/// Ours and the bare programs.
fn own() -> Vec<Entrant> {
    let ours = |registered| Role::Ours { registered };
    let floor = |registered| Role::Floor { registered };
    let rows = [
        ("shm", ours(false), Wire::Shm, true),
        ("floor-one-shot", floor(false), Wire::Shm, true),
        ("registered", ours(true), Wire::Shm, true),
        ("floor-two-shot", floor(false), Wire::Shm, true),
        ("floor-direct", floor(true), Wire::Shm, true),
        ("floor-one-shot-nt", floor(false), Wire::Shm, true),
        ("floor-two-shot-nt", floor(false), Wire::Shm, true),
        // Pays for the largest vectors only.
        ("floor-direct-nt", floor(true), Wire::Shm, false),
        ("tcp", ours(false), Wire::Tcp, true),
        ("floor-tcp", floor(false), Wire::Tcp, true),
    ];
    let entrant = |(name, role, wire, quick): (&str, Role, Wire, bool)| {
        let family = if matches!(role, Role::Ours { .. }) { "swarmloom" } else { "the bare program" };
        Entrant { name: name.into(), family: family.into(), role, wire, starter: None, quick }
    };
    rows.map(entrant).into()
}

/// Others and ours in turns, so that neither is measured at another time than the other.
fn alternate(others: Vec<Entrant>, ours: Vec<Entrant>) -> Vec<Entrant> {
    let (mut others, mut ours) = (others.into_iter(), ours.into_iter());
    let mut all = Vec::new();
    loop {
        let before = all.len();
        all.extend(others.next());
        all.extend(ours.next());
        if all.len() == before {
            return all;
        }
    }
}

/// The order of a round: everybody once, another one first each time.
pub(super) fn order(entrants: usize, round: usize) -> impl Iterator<Item = usize> {
    // A step that has no divisor with most numbers, so that neighbours change little and beginnings much.
    let first = (round * 5) % entrants.max(1);
    (0..entrants).map(move |at| (at + first) % entrants)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_libraries_are_named() {
        let (entrants, missing) = all(None).expect("no peers are fine");
        assert!(entrants.iter().all(|one| one.starter.is_none()));
        let families: Vec<&str> = missing.iter().map(|one| one.family.as_str()).collect();
        assert_eq!(families, FAMILIES);
    }

    #[test]
    fn a_list_of_peers_is_read_and_takes_turns_with_ours() {
        let folder = tempfile::tempdir().expect("a folder");
        let inner = folder.path().join("collectives");
        std::fs::create_dir(&inner).expect("a folder");
        let text = r#"{"peers": [
            {"name": "ompi", "family": "Open MPI 5", "transport": "shm", "quick": true, "settings": []},
            {"name": "gloo", "family": "gloo of PyTorch", "transport": "tcp", "quick": false, "settings": []},
            {"name": "bare", "family": "swarmloom", "transport": "shm", "quick": true, "unguarded": true}],
            "missing": [{"family": "oneCCL 2022", "why": "no compiler"}]}"#;
        std::fs::write(inner.join("peers.json"), text).expect("a file");
        let (entrants, missing) = all(Some(folder.path())).expect("a sound list");
        let names: Vec<&str> = entrants.iter().take(7).map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["ompi", "shm", "gloo", "floor-one-shot", "bare", "registered", "floor-two-shot"]);
        assert_eq!(
            [0, 1, 4].map(|at| entrants[at].role),
            [Role::Peer, Role::Ours { registered: false }, Role::Unguarded]
        );
        assert_eq!(entrants[0].starter, Some(inner.join("ompi")));
        assert_eq!((entrants[2].wire, entrants[2].quick), (Wire::Tcp, false));
        let families: Vec<&str> = missing.iter().map(|one| one.family.as_str()).collect();
        assert_eq!(families, ["oneCCL 2022", "MPICH", "Intel MPI"]);
        std::fs::write(inner.join("peers.json"), "[]").expect("a file");
        assert!(all(Some(folder.path())).is_err());
    }

    #[test]
    fn the_bare_and_the_unguarded_stay_away_where_their_times_say_nothing() {
        let ours = Role::Ours { registered: false };
        let floor = Role::Floor { registered: true };
        let takes = |ranks, crowded| [ours, Role::Peer, Role::Unguarded, floor].map(|role| role.takes(ranks, crowded));
        assert_eq!(takes(2, false), [true; 4]);
        assert_eq!(takes(4, false), [true, true, true, false]);
        assert_eq!(takes(2, true), [true, true, false, true]);
        assert_eq!(takes(8, true), [true, true, false, false]);
    }

    #[test]
    fn every_round_has_everybody_and_another_first() {
        let rounds: Vec<Vec<usize>> = (0..2).map(|round| order(4, round).collect()).collect();
        assert_eq!(rounds, [vec![0, 1, 2, 3], vec![1, 2, 3, 0]]);
        assert_eq!(order(0, 3).count(), 0);
    }
}
