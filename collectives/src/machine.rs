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
    vec![shared_memory(), libfabric(), library("CUDA driver", "libcuda.so.1"), library("NCCL", "libnccl.so.2")]
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

/// A library that is there; groups do not use these two yet.
fn library(name: &'static str, file: &str) -> Found {
    // SAFETY: both libraries only set themselves up when they are loaded, as for any program that is linked with them.
    let what = match unsafe { libloading::Library::new(file) } {
        Ok(_) => format!("{file} is there; groups of GPU buffers go through host memory so far"),
        Err(_) => format!("{file} was not found"),
    };
    Found { name, what, usable: false }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_missing_library_is_a_line_and_no_error() {
        let found = super::look();
        assert_eq!(found.iter().map(|one| one.name).collect::<Vec<_>>(), ["shm", "libfabric", "CUDA driver", "NCCL"]);
        assert!(found[0].usable, "{found:?}");
        assert!(found.iter().all(|one| !one.what.is_empty()));
    }
}
