//! What each launcher sets, one function for each.

use super::said::{Said, short, wrong};
use super::{
    ATTEMPT, JOBSET_INDEX, JOBSET_JOBS, LOCAL_RANK, LOCAL_WORLD_SIZE, Launcher, Meeting, NODE, NODES, Place,
    PlaceError, RANK, RENDEZVOUS, WORLD_SIZE,
};
use crate::nodelist::{self, NodeListError};

/// The variables of a launcher that says where in its node a rank is.
struct Names {
    local: (&'static str, &'static str),
    node: (&'static str, &'static str),
}

/// Where in which node a rank is.
struct Layout {
    local: (usize, usize),
    node: (usize, usize),
    told: bool,
}

impl Layout {
    fn place(self, (rank, ranks): (usize, usize), rendezvous: Option<Meeting>, attempt: u32, by: Launcher) -> Place {
        let (local_rank, local_ranks) = self.local;
        let (node, nodes) = self.node;
        Place { rank, ranks, local_rank, local_ranks, node, nodes, nodes_told: self.told, rendezvous, attempt, by }
    }
}

/// Our own variables.
pub(super) fn own(said: &Said<'_>) -> Result<Place, PlaceError> {
    let fix = "swarmloom's launcher sets both";
    let at = required(said, RANK, WORLD_SIZE, fix)?;
    let names = Names { local: (LOCAL_RANK, LOCAL_WORLD_SIZE), node: (NODE, NODES) };
    let layout = layout(said, &names, at, fix)?;
    Ok(layout.place(at, said.rendezvous()?, said.attempt(ATTEMPT)?, Launcher::Own))
}

/// `RANK`, `WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT` and what torchrun sets besides.
pub(super) fn torchrun(said: &Said<'_>) -> Result<Place, PlaceError> {
    let fix = "torchrun sets both, and so has whoever sets its variables";
    let at = required(said, "RANK", "WORLD_SIZE", fix)?;
    let names = Names { local: ("LOCAL_RANK", "LOCAL_WORLD_SIZE"), node: ("GROUP_RANK", "GROUP_WORLD_SIZE") };
    let layout = layout(said, &names, at, fix)?;
    // torchrun's own store then listens at the port that it names.
    let taken = said.text("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value == "True");
    let meeting = match said.rendezvous()? {
        Some(meeting) => Some(meeting),
        None => master(said, u16::from(taken))?,
    };
    if meeting.is_none() && at.1 > 1 {
        let missing = if said.has("MASTER_ADDR") { "MASTER_PORT" } else { "MASTER_ADDR" };
        return Err(said.missing(missing, &["RANK", "WORLD_SIZE"], "say where rank 0 listens, as torchrun does"));
    }
    Ok(layout.place(at, meeting, said.attempt("TORCHELASTIC_RESTART_COUNT")?, Launcher::Torchrun))
}

/// Whether `srun` has started this process. The numbers of steps that it has not started are at the end of 32 bits: batch
/// scripts, interactive shells, programs that joined a job.
pub(super) fn in_a_step(said: &Said<'_>) -> Result<bool, PlaceError> {
    let step = said.number("SLURM_STEP_ID")?;
    Ok(said.has("SLURM_PROCID") && step.is_some_and(|step| step < 0xffff_fff0))
}

/// Whether the step holds the daemons of another launcher, which has started this process.
pub(super) fn mpi_in_a_step(said: &Said<'_>) -> Result<bool, PlaceError> {
    let (rank, size) = (said.index("SLURM_PROCID")?, tasks(said)?.map(|(_, tasks)| tasks));
    for (rank_name, size_name) in [("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE")] {
        if let (Some(inner), Some(of)) = (said.index(rank_name)?, said.count(size_name)?)
            && (Some(inner), Some(of)) != (rank, size)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A task of a step of Slurm's.
pub(super) fn slurm(said: &Said<'_>) -> Result<Place, PlaceError> {
    let fix = "srun sets it for every task; start ranks with srun and keep its variables";
    let begun = ["SLURM_STEP_ID", "SLURM_PROCID"];
    let missing = |name| said.missing(name, &begun, fix);
    let (by, ranks) = tasks(said)?.ok_or_else(|| missing("SLURM_STEP_NUM_TASKS"))?;
    let rank = said.index_below("SLURM_PROCID", ranks, by)?.ok_or_else(|| missing("SLURM_PROCID"))?;
    let (list, hosts) = said
        .first(&["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"])
        .ok_or_else(|| missing("SLURM_STEP_NODELIST"))?;
    let names = nodelist::names(&hosts).map_err(|source| odd(list, &hosts, source))?;
    let nodes = names.len();
    let count = ["SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NUM_NODES"].into_iter().find(|name| said.has(name));
    if let Some(count) = count
        && said.count(count)?.is_some_and(|count| count != nodes)
    {
        let expected = format!("{nodes}, as {list} is {}, which has so many names", short(&hosts));
        return Err(wrong(count, &said.text(count).unwrap_or_default(), expected));
    }
    let node =
        said.index_below("SLURM_NODEID", nodes, "the number of nodes")?.ok_or_else(|| missing("SLURM_NODEID"))?;
    let (each, text) = said
        .first(&["SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"])
        .ok_or_else(|| missing("SLURM_STEP_TASKS_PER_NODE"))?;
    let per_node = nodelist::tasks_per_node(&text).map_err(|source| odd(each, &text, source))?;
    if per_node.len() != nodes || per_node.iter().sum::<usize>() != ranks {
        return Err(wrong(each, &text, format!("the tasks of {nodes} nodes, {ranks} together as {by} says")));
    }
    let local_ranks = per_node[node];
    let local = said.index_below("SLURM_LOCALID", local_ranks, each)?.ok_or_else(|| missing("SLURM_LOCALID"))?;
    let rendezvous = match said.rendezvous()? {
        Some(meeting) => meeting,
        None => {
            let job = said.number("SLURM_JOB_ID")?.ok_or_else(|| missing("SLURM_JOB_ID"))?;
            let step = said.number("SLURM_STEP_ID")?.unwrap_or(0);
            Meeting { host: names.into_iter().next().unwrap_or_default(), port: port(job, step) }
        }
    };
    let layout = Layout { local: (local, local_ranks), node: (node, nodes), told: true };
    Ok(layout.place((rank, ranks), Some(rendezvous), said.attempt("SLURM_RESTART_COUNT")?, Launcher::Slurm))
}

/// A rank of `mpirun`'s.
pub(super) fn open_mpi(said: &Said<'_>) -> Result<Place, PlaceError> {
    let fix = "Open MPI's mpirun sets both; keep its variables";
    let at = required(said, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", fix)?;
    let (rank, size) = ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE");
    let local = said.pair(rank, size, fix)?;
    let local = local.ok_or_else(|| said.missing(rank, &["OMPI_COMM_WORLD_RANK"], fix))?;
    let layout = assumed(at, fits(size, local, at)?);
    Ok(layout.place(at, elsewhere(said)?, 0, Launcher::OpenMpi))
}

/// A rank of Hydra's, or of another server of PMI.
pub(super) fn pmi(said: &Said<'_>) -> Result<Place, PlaceError> {
    let fix = "a launcher that speaks PMI sets both; keep its variables";
    let at = required(said, "PMI_RANK", "PMI_SIZE", fix)?;
    let hydra = ("MPI_LOCALRANKID", "MPI_LOCALNRANKS");
    local_or_ours(said, at, &[hydra, ("PMI_LOCAL_RANK", "PMI_LOCAL_SIZE")], "PMI_RANK")
}

/// A rank of a server of PMIx, which says the rank alone.
pub(super) fn pmix(said: &Said<'_>) -> Result<Place, PlaceError> {
    let fix = "PMIx does not say how many ranks there are; set SWARMLOOM_WORLD_SIZE to it for all";
    let at = required(said, "PMIX_RANK", WORLD_SIZE, fix)?;
    local_or_ours(said, at, &[], "PMIX_RANK")
}

/// A pod of an Indexed Job or of a JobSet: the place of its first rank.
pub(super) fn kubernetes(said: &Said<'_>) -> Result<Place, PlaceError> {
    let index = "JOB_COMPLETION_INDEX";
    let fix = "the manifest has to set it, as that of `swarmloom launch --emit k8s` does; where each pod is for itself, set \
               SWARMLOOM_RANK=0 and SWARMLOOM_WORLD_SIZE=1";
    let ranks = said.count(WORLD_SIZE)?.ok_or_else(|| said.missing(WORLD_SIZE, &[index], fix))?;
    let local_ranks = said.count(LOCAL_WORLD_SIZE)?.unwrap_or(1);
    let set = said.pair(JOBSET_INDEX, JOBSET_JOBS, "the manifest has to set both from the pod's labels")?;
    let (job, jobs) = set.unwrap_or((0, 1));
    if ranks % (local_ranks * jobs) != 0 {
        let expected =
            format!("as many for each pod and job: {LOCAL_WORLD_SIZE} is {local_ranks}, and there are {jobs} jobs");
        return Err(wrong(WORLD_SIZE, &ranks.to_string(), expected));
    }
    let (nodes, pods) = (ranks / local_ranks, ranks / local_ranks / jobs);
    let pod = said.index_below(index, pods, "the number of pods")?;
    let node = job * pods + pod.unwrap_or(0);
    let meeting = said.rendezvous()?;
    if meeting.is_none() && nodes > 1 {
        return Err(said.missing(RENDEZVOUS, &[index, WORLD_SIZE], fix));
    }
    let by = if set.is_some() { Launcher::JobSet } else { Launcher::Kubernetes };
    let layout = Layout { local: (0, local_ranks), node: (node, nodes), told: true };
    Ok(layout.place((node * local_ranks, ranks), meeting, said.attempt(ATTEMPT)?, by))
}

/// What is left where no launcher has been found: one rank that says so, nothing, or half of something.
pub(super) fn rest(said: &Said<'_>) -> Result<Option<Place>, PlaceError> {
    if said.has(WORLD_SIZE) {
        return Err(said.missing(RANK, &[WORLD_SIZE], "set it as well, or start ranks with `swarmloom launch`"));
    }
    let fix = "set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as torchrun does, or none of them";
    match said.count("WORLD_SIZE")? {
        Some(1) if !said.has("RANK") => {
            let layout = Layout { local: (0, 1), node: (0, 1), told: true };
            Ok(Some(layout.place((0, 1), said.rendezvous()?, 0, Launcher::Torchrun)))
        }
        Some(_) if !said.has("RANK") => Err(said.missing("RANK", &["WORLD_SIZE"], fix)),
        Some(_) => torchrun(said).map(Some),
        None if said.has("RANK") => Err(said.missing("WORLD_SIZE", &["RANK"], fix)),
        None => Ok(None),
    }
}

/// A port for a step, the same for all its tasks. Steps that run side by side seldom share one.
fn port(job: u64, step: u64) -> u16 {
    let spread = (job % 30_000 + step % 30_000 * 7_919) % 30_000;
    20_000 + u16::try_from(spread).unwrap_or(0)
}

fn required(
    said: &Said<'_>,
    rank: &'static str,
    size: &'static str,
    fix: &'static str,
) -> Result<(usize, usize), PlaceError> {
    let pair = said.pair(rank, size, fix)?;
    pair.ok_or_else(|| said.missing(rank, &[], fix))
}

/// How many tasks a step has, and who says so.
fn tasks(said: &Said<'_>) -> Result<Option<(&'static str, usize)>, PlaceError> {
    for name in ["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS"] {
        if let Some(tasks) = said.count(name)? {
            return Ok(Some((name, tasks)));
        }
    }
    Ok(None)
}

/// The layout that `names` say; one rank on each node where they say nothing.
fn layout(said: &Said<'_>, names: &Names, at: (usize, usize), fix: &'static str) -> Result<Layout, PlaceError> {
    let local = said.pair(names.local.0, names.local.1, fix)?.unwrap_or((0, 1));
    let local = fits(names.local.1, local, at)?;
    let Some(node) = said.pair(names.node.0, names.node.1, fix)? else { return Ok(assumed(at, local)) };
    let (nodes, most) = (node.1, at.1 - local.1 + 1);
    if nodes > most || (nodes == 1) != (local.1 == at.1) {
        let expected = format!("the nodes of {} ranks, of which one has {}", at.1, local.1);
        return Err(wrong(names.node.1, &nodes.to_string(), expected));
    }
    Ok(Layout { local, node, told: true })
}

/// A local rank and size, which can be no larger than those of all.
fn fits(name: &'static str, local: (usize, usize), at: (usize, usize)) -> Result<(usize, usize), PlaceError> {
    match local.1 <= at.1 && local.0 <= at.0 && local.1 - local.0 <= at.1 - at.0 {
        true => Ok(local),
        false => {
            let expected =
                format!("a part of the {} ranks, of which this is rank {} and local rank {}", at.1, at.0, local.0);
            Err(wrong(name, &local.1.to_string(), expected))
        }
    }
}

/// Nodes as if each had as many ranks: ranks follow each other on a node, or else go round the nodes.
fn assumed((rank, ranks): (usize, usize), local: (usize, usize)) -> Layout {
    let nodes = ranks.div_ceil(local.1);
    let round = rank % local.1 != local.0 && rank / nodes == local.0;
    let node = if round { rank % nodes } else { rank / local.1 };
    Layout { local, node: (node, nodes), told: nodes == 1 }
}

fn local_or_ours(
    said: &Said<'_>,
    at: (usize, usize),
    names: &[(&'static str, &'static str)],
    because: &'static str,
) -> Result<Place, PlaceError> {
    let fix = "set SWARMLOOM_LOCAL_RANK and SWARMLOOM_LOCAL_WORLD_SIZE, 0 and 1 where each node has one rank";
    let mut found = if at.1 == 1 { Some((LOCAL_WORLD_SIZE, (0, 1))) } else { None };
    for (rank, size) in names.iter().chain(&[(LOCAL_RANK, LOCAL_WORLD_SIZE)]) {
        if found.is_none() {
            found = said.pair(rank, size, fix)?.map(|local| (*size, local));
        }
    }
    let first = names.first().map_or(LOCAL_RANK, |names| names.0);
    let (size, local) = found.ok_or_else(|| said.missing(first, &[because], fix))?;
    let layout = assumed(at, fits(size, local, at)?);
    Ok(layout.place(at, elsewhere(said)?, 0, Launcher::Pmi))
}

/// Where ranks meet whose launcher does not say: our own variable, else torchrun's two.
fn elsewhere(said: &Said<'_>) -> Result<Option<Meeting>, PlaceError> {
    match said.rendezvous()? {
        Some(meeting) => Ok(Some(meeting)),
        None => master(said, 0),
    }
}

/// `MASTER_ADDR` and `MASTER_PORT`, `beside` further up.
fn master(said: &Said<'_>, beside: u16) -> Result<Option<Meeting>, PlaceError> {
    let port = said.port("MASTER_PORT", u16::MAX - beside)?;
    let host = said.text("MASTER_ADDR").map(|host| host.trim_matches(['[', ']']).to_owned());
    Ok(host.zip(port).map(|(host, port)| Meeting { host, port: port + beside }))
}

fn odd(name: &'static str, value: &str, source: NodeListError) -> PlaceError {
    PlaceError::List { name, value: short(value), source }
}
