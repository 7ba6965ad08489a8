//! Which rank of how many this process is, and where rank 0 is met, as the launcher that started it says in variables.
//!
//! Whom to believe, in this order: our own launcher, torchrun, a step of Slurm's, Open MPI, PMI and PMIx, Kubernetes. A
//! variable that is set to nothing counts as not set. What contradicts is an error, never a guess.

mod launchers;
mod said;
#[cfg(test)]
mod tests;

use serde::Serialize;

use self::said::Said;
use crate::nodelist::NodeListError;

/// Where rank 0 can be met, `host:port`; set by our launcher and manifests, or by hand where a launcher does not say.
pub const RENDEZVOUS: &str = "SWARMLOOM_RENDEZVOUS";
/// A secret that all ranks know. Not read here: a place can be printed.
pub const TOKEN: &str = "SWARMLOOM_TOKEN";
/// This process's rank.
pub const RANK: &str = "SWARMLOOM_RANK";
/// How many ranks there are in all.
pub const WORLD_SIZE: &str = "SWARMLOOM_WORLD_SIZE";
/// This process among those of its node.
pub const LOCAL_RANK: &str = "SWARMLOOM_LOCAL_RANK";
/// How many ranks its node has.
pub const LOCAL_WORLD_SIZE: &str = "SWARMLOOM_LOCAL_WORLD_SIZE";
/// Its node.
pub const NODE: &str = "SWARMLOOM_NODE";
/// How many nodes there are.
pub const NODES: &str = "SWARMLOOM_NODES";
/// How often all have been started before.
pub const ATTEMPT: &str = "SWARMLOOM_ATTEMPT";
/// In a pod of a JobSet: the job's number among all jobs, the label `jobset.sigs.k8s.io/job-global-index`.
pub const JOBSET_INDEX: &str = "SWARMLOOM_JOBSET_INDEX";
/// In a pod of a JobSet: how many jobs there are, the label `jobset.sigs.k8s.io/global-replicas`.
pub const JOBSET_JOBS: &str = "SWARMLOOM_JOBSET_JOBS";

/// One rank among all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// From 0.
    pub rank: usize,
    /// How many there are, from 1.
    pub ranks: usize,
    /// This one among those of its node, from 0. Says which GPU to take.
    pub local_rank: usize,
    /// How many its node has.
    pub local_ranks: usize,
    /// The node, from 0.
    pub node: usize,
    /// How many nodes there are.
    pub nodes: usize,
    /// Whether the launcher has said `node` and `nodes`. Where it has not, both follow from the assumption that every node
    /// has as many ranks as this one, and ranks that need to be sure compare the names of their hosts.
    pub nodes_told: bool,
    /// Where rank 0 listens; none where the launcher does not say and [`RENDEZVOUS`] is not set.
    pub rendezvous: Option<Meeting>,
    /// How often all have been started before.
    pub attempt: u32,
    /// Who has said so.
    pub by: Launcher,
}

/// A host and a port, not yet looked up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Meeting {
    /// A name or an address; an IPv6 address without brackets.
    pub host: String,
    /// From 1.
    pub port: u16,
}

/// What started a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Launcher {
    /// torchrun, or whatever sets the same variables.
    Torchrun,
    /// `srun`.
    Slurm,
    /// `mpirun` of Open MPI.
    OpenMpi,
    /// Hydra, which is `mpiexec` of MPICH and Intel MPI, and other servers of PMI or PMIx.
    Pmi,
    /// A Job of Kubernetes with completion mode Indexed.
    Kubernetes,
    /// A JobSet of Kubernetes.
    JobSet,
    /// `swarmloom launch`.
    Own,
}

impl Launcher {
    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Launcher::Torchrun => "torchrun",
            Launcher::Slurm => "Slurm",
            Launcher::OpenMpi => "Open MPI",
            Launcher::Pmi => "PMI",
            Launcher::Kubernetes => "Kubernetes",
            Launcher::JobSet => "JobSet",
            Launcher::Own => "swarmloom",
        }
    }
}

impl std::fmt::Display for Meeting {
    /// `host:port`, with brackets around an IPv6 address.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Place {
    /// Whether all ranks are on one node, so that they can meet where no other machine can come in.
    pub fn one_node(&self) -> bool {
        self.local_ranks == self.ranks
    }

    /// The place of local rank `local` on this node; none where the node has no such rank, or where its ranks need not
    /// follow one another. In a pod one program is started, with the place of the pod's first rank: it starts the others.
    pub fn beside(&self, local: usize) -> Option<Place> {
        let follow = matches!(self.by, Launcher::Kubernetes | Launcher::JobSet);
        let rank = (self.rank + local).checked_sub(self.local_rank)?;
        (follow && local < self.local_ranks).then(|| Place { rank, local_rank: local, ..self.clone() })
    }

    /// The variables from which [`find`] in another process makes this place, then [`Launcher::Own`].
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let number = |name, value: usize| (name, value.to_string());
        let mut all = vec![
            number(RANK, self.rank),
            number(WORLD_SIZE, self.ranks),
            number(LOCAL_RANK, self.local_rank),
            number(LOCAL_WORLD_SIZE, self.local_ranks),
        ];
        if self.nodes_told {
            all.extend([number(NODE, self.node), number(NODES, self.nodes)]);
        }
        all.push((ATTEMPT, self.attempt.to_string()));
        all.extend(self.rendezvous.iter().map(|meeting| (RENDEZVOUS, meeting.to_string())));
        all
    }
}

/// Why variables make no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// A variable's value is not what it can be.
    #[error("{name} is {value:?}: expected {expected}")]
    Wrong {
        /// The variable.
        name: &'static str,
        /// What it is set to.
        value: String,
        /// What it can be.
        expected: String,
    },
    /// A variable has to stand beside another.
    #[error("{name} is not set, but {because}: {fix}")]
    Missing {
        /// The variable.
        name: &'static str,
        /// What is set.
        because: String,
        /// What to do.
        fix: &'static str,
    },
    /// A variable is not written as Slurm writes it.
    #[error("{name} is {value:?}, which Slurm would not write")]
    List {
        /// The variable.
        name: &'static str,
        /// What it is set to.
        value: String,
        /// What is wrong with it.
        source: NodeListError,
    },
}

/// The place that `variable` tells, which gives the values of environment variables; none where no launcher has started this
/// process. One rank of one is a place, too.
///
/// Variables that other programs also use count only together: `SLURM_PROCID` with the number of a step that `srun` has
/// started (a batch script has the one without the other), `RANK` with `WORLD_SIZE` and `MASTER_ADDR`. Where `mpirun` inside
/// an allocation of Slurm's starts its daemons as a step, their place is not that of the ranks: Open MPI's and PMI's word then
/// comes first, which shows in a rank or a size that differs.
///
/// # Errors
/// [`PlaceError`]: the variable, its value, and what it has to be.
pub fn find(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Place>, PlaceError> {
    let said = Said::new(variable);
    if said.has(RANK) {
        return launchers::own(&said).map(Some);
    }
    if ["RANK", "WORLD_SIZE", "MASTER_ADDR"].iter().all(|name| said.has(name)) {
        return launchers::torchrun(&said).map(Some);
    }
    if launchers::in_a_step(&said)? && !launchers::mpi_in_a_step(&said)? {
        return launchers::slurm(&said).map(Some);
    }
    if said.has("OMPI_COMM_WORLD_RANK") || said.has("OMPI_COMM_WORLD_SIZE") {
        return launchers::open_mpi(&said).map(Some);
    }
    if said.has("PMI_RANK") || said.has("PMI_SIZE") {
        return launchers::pmi(&said).map(Some);
    }
    if said.has("PMIX_RANK") {
        return launchers::pmix(&said).map(Some);
    }
    if said.has("JOB_COMPLETION_INDEX") {
        return launchers::kubernetes(&said).map(Some);
    }
    launchers::rest(&said)
}
