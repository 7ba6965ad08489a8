//! Endpoints of one group in one process, which are closed together.
//!
//! libfabric's `shm` (and `efa`, which uses it within a host) lets endpoints of one process use each other's memory
//! without a mapping of their own: one that is closed pulls the ground away from under the others. So whoever goes
//! first leaves its endpoint to the last. Ranks that are processes, as they mostly are, notice nothing of this.
//!
//! From 2.5 on (seen with 2.6.0), endpoints of `shm` in one process are worse off: one may not learn where another's
//! memory is, and follows a pointer into nothing. There it is refused.

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use super::endpoint::Endpoint;
use super::library::Library;
use super::offer::Card;
use super::sys::version;
use crate::fault::Fault;

/// An endpoint that is closed when it is dropped, or when the last of its group in this process is.
#[derive(Debug)]
pub(super) struct Together {
    endpoint: ManuallyDrop<Endpoint>,
    /// Addresses of all its group, where it has others in this process that it must wait for.
    group: Option<Vec<u8>>,
}

/// A group with more than one rank in this process.
#[derive(Debug)]
struct Group {
    name: Vec<u8>,
    living: usize,
    dead: Vec<Endpoint>,
}

static GROUPS: Mutex<Vec<Group>> = Mutex::new(Vec::new());

impl Together {
    /// Before any address of `cards` is made known to the endpoint.
    ///
    /// # Errors
    /// [`Fault::System`] where ranks may not share a process.
    pub(super) fn new(endpoint: Endpoint, cards: &[Card]) -> Result<Self, Fault> {
        let process = std::process::id();
        let several = cards.iter().filter(|card| card.process == process).count() > 1;
        let provider = &endpoint.limits().provider;
        if several && !may_share_a_process(provider)? {
            let why =
                format!("two ranks of one process cannot use {provider} of this libfabric: take processes or tcp");
            return Err(Fault::System { what: "connecting endpoints", why });
        }
        let depends = ["shm", "efa"].iter().any(|name| provider.starts_with(name));
        let group: Option<Vec<u8>> =
            (several && depends).then(|| cards.iter().flat_map(|card| card.address.clone()).collect());
        if let Some(name) = &group {
            let mut groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner);
            match groups.iter_mut().find(|group| group.name == *name) {
                Some(group) => group.living += 1,
                None => groups.push(Group { name: name.clone(), living: 1, dead: Vec::new() }),
            }
        }
        Ok(Self { endpoint: ManuallyDrop::new(endpoint), group })
    }
}

/// Whether endpoints of one process find each other.
pub(super) fn may_share_a_process(provider: &str) -> Result<bool, Fault> {
    Ok(!provider.starts_with("shm") || Library::get()?.version() < version(2, 5))
}

impl Deref for Together {
    type Target = Endpoint;

    fn deref(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl DerefMut for Together {
    fn deref_mut(&mut self) -> &mut Endpoint {
        &mut self.endpoint
    }
}

impl Drop for Together {
    fn drop(&mut self) {
        // SAFETY: taken once, and not used afterwards.
        let endpoint = unsafe { ManuallyDrop::take(&mut self.endpoint) };
        let Some(name) = &self.group else { return };
        let mut groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(place) = groups.iter().position(|group| group.name == *name) else { return };
        let group = &mut groups[place];
        group.living -= 1;
        group.dead.push(endpoint);
        let all = (group.living == 0).then(|| groups.swap_remove(place));
        // Closing takes its time; others need not wait for it.
        drop(groups);
        drop(all);
    }
}
