//! What this machine has for collectives, in words: for people who look before they start.

use crate::fabric::region::Regions;
use crate::fabric::{ofi, shm};

/// A transport or library, and what was found of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What is meant.
    pub name: &'static str,
    /// What was found, or what is missing for it.
    pub what: String,
    /// Whether groups can use it.
    pub usable: bool,
}

/// Looks at everything. What is missing is no error.
pub fn look() -> Vec<Found> {
    let mut found = vec![shared_memory(), libfabric()];
    found.extend(gpus());
    found
}

fn shared_memory() -> Found {
    // A group of one's own makes a segment and asks nobody else.
    let made = shm::Offer::new(1, 1, 1 << 12, Regions::default());
    let (usable, what) = match made {
        Ok(_) => (true, "shared memory between processes of one user".into()),
        Err(fault) => (false, fault.to_string()),
    };
    Found { name: "shm", what, usable }
}

fn libfabric() -> Found {
    match ofi::probe() {
        Ok(providers) => {
            let mut names: Vec<String> = providers.into_iter().map(|provider| provider.name).collect();
            names.sort();
            names.dedup();
            Found { name: "libfabric", what: names.join(", "), usable: !names.is_empty() }
        }
        Err(fault) => Found { name: "libfabric", what: format!("{fault}"), usable: false },
    }
}

/// The three libraries that groups of GPUs use, and what each is for.
#[cfg(feature = "cuda")]
fn gpus() -> [Found; 3] {
    let found = |name, looked: Result<(bool, String), String>| match looked {
        Ok((usable, what)) => Found { name, what, usable },
        Err(what) => Found { name, what, usable: false },
    };
    let driver = swarmloom_gpu::count().map_err(|error| error.to_string());
    let driver = driver.map(|count| {
        let what = match count {
            0 => "libcuda is there, and no GPU".into(),
            _ => format!("{count} GPU(s), through pinned memory, or by CUDA IPC within a host; both need NVRTC"),
        };
        (count > 0, what)
    });
    let compiler = swarmloom_gpu::compiler_version().and_then(|version| Ok((version, swarmloom_gpu::supported()?)));
    let compiler = compiler.map_err(|error| error.to_string()).map(|((major, minor), known)| {
        let (first, last) = (known.first().copied().unwrap_or(0), known.last().copied().unwrap_or(0));
        (true, format!("{major}.{minor}, compiles the kernels for sm_{first} to sm_{last}"))
    });
    let nccl = crate::gpu::nccl_version().map_err(|fault| fault.to_string());
    let nccl =
        nccl.map(|version| (true, format!("{version}, carries groups of GPUs where every rank has one of its own")));
    [found("CUDA driver", driver), found("NVRTC", compiler), found("NCCL", nccl)]
}

/// A build without groups of GPUs says so.
#[cfg(not(feature = "cuda"))]
fn gpus() -> [Found; 3] {
    let what = "this build is without groups of GPUs";
    ["CUDA driver", "NVRTC", "NCCL"].map(|name| Found { name, what: what.into(), usable: false })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_missing_library_is_a_line_and_no_error() {
        let found = super::look();
        let names = ["shm", "libfabric", "CUDA driver", "NVRTC", "NCCL"];
        assert_eq!(found.iter().map(|one| one.name).collect::<Vec<_>>(), names);
        assert!(found[0].usable, "{found:?}");
        assert!(found.iter().all(|one| !one.what.is_empty()));
    }
}
