//! What every launcher sets, and what becomes of it.

use super::*;

fn of(variables: &[(&str, &str)]) -> Result<Option<Place>, PlaceError> {
    find(&|name| variables.iter().rfind(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
}

fn place(variables: &[(&str, &str)]) -> Place {
    of(variables).expect("sound").expect("a launcher")
}

fn error(variables: &[(&str, &str)]) -> String {
    of(variables).expect_err("wrong").to_string()
}

fn with<'a>(variables: &[(&'a str, &'a str)], more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    variables.iter().chain(more).copied().collect()
}

fn without<'a>(variables: &[(&'a str, &'a str)], name: &str) -> Vec<(&'a str, &'a str)> {
    variables.iter().filter(|(known, _)| *known != name).copied().collect()
}

/// Rank and ranks, local rank and ranks, node and nodes, who meets where, attempt, by whom.
fn told(place: &Place) -> String {
    let at = place.rendezvous.as_ref().map_or("-".to_owned(), Meeting::to_string);
    let guess = if place.nodes_told { "" } else { "?" };
    let (rank, local) = ((place.rank, place.ranks), (place.local_rank, place.local_ranks));
    format!("{rank:?} {local:?} {:?}{guess} {at} {} {}", (place.node, place.nodes), place.attempt, place.by.name())
}

/// As torchrun 2.11 sets them.
const TORCHRUN: [(&str, &str); 11] = [
    ("RANK", "3"),
    ("WORLD_SIZE", "4"),
    ("LOCAL_RANK", "1"),
    ("LOCAL_WORLD_SIZE", "2"),
    ("GROUP_RANK", "1"),
    ("GROUP_WORLD_SIZE", "2"),
    ("MASTER_ADDR", "node0.example"),
    ("MASTER_PORT", "29500"),
    ("TORCHELASTIC_RESTART_COUNT", "2"),
    ("TORCHELASTIC_MAX_RESTARTS", "3"),
    ("TORCHELASTIC_RUN_ID", "none"),
];

/// As Slurm 22.05 sets them for the last of three tasks on two nodes.
const SLURM: [(&str, &str); 18] = [
    ("SLURM_PROCID", "2"),
    ("SLURM_NTASKS", "3"),
    ("SLURM_NPROCS", "3"),
    ("SLURM_STEP_NUM_TASKS", "3"),
    ("SLURM_LOCALID", "0"),
    ("SLURM_NODEID", "1"),
    ("SLURM_NNODES", "2"),
    ("SLURM_STEP_NUM_NODES", "2"),
    ("SLURM_JOB_NUM_NODES", "2"),
    ("SLURM_TASKS_PER_NODE", "2,1"),
    ("SLURM_STEP_TASKS_PER_NODE", "2,1"),
    ("SLURM_STEP_NODELIST", "n[0-1]"),
    ("SLURM_JOB_NODELIST", "n[0-1]"),
    ("SLURM_NODELIST", "n[0-1]"),
    ("SLURM_JOB_ID", "1"),
    ("SLURM_STEP_ID", "0"),
    ("SLURM_STEPID", "0"),
    ("SLURMD_NODENAME", "n1"),
];

const OPEN_MPI: [(&str, &str); 7] = [
    ("OMPI_COMM_WORLD_RANK", "3"),
    ("OMPI_COMM_WORLD_SIZE", "4"),
    ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
    ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
    ("OMPI_COMM_WORLD_NODE_RANK", "1"),
    ("PMIX_RANK", "3"),
    ("PMIX_NAMESPACE", "1234"),
];

const HYDRA: [(&str, &str); 5] =
    [("PMI_RANK", "2"), ("PMI_SIZE", "4"), ("PMI_FD", "9"), ("MPI_LOCALRANKID", "0"), ("MPI_LOCALNRANKS", "2")];

const POD: [(&str, &str); 4] =
    [("JOB_COMPLETION_INDEX", "1"), (WORLD_SIZE, "6"), (LOCAL_WORLD_SIZE, "2"), (RENDEZVOUS, "train-0.train:29400")];

#[test]
fn nobody_says_anything() {
    assert_eq!(of(&[]), Ok(None));
    assert_eq!(of(&[("WORLD_SIZE", ""), ("RANK", " "), ("PATH", "/bin")]), Ok(None));
    assert_eq!(of(&[("MASTER_ADDR", "a"), ("MASTER_PORT", "1")]), Ok(None));
}

#[test]
fn torchrun() {
    assert_eq!(told(&place(&TORCHRUN)), "(3, 4) (1, 2) (1, 2) node0.example:29500 2 torchrun");
    let store = with(&TORCHRUN, &[("TORCHELASTIC_USE_AGENT_STORE", "True")]);
    assert_eq!(told(&place(&store)), "(3, 4) (1, 2) (1, 2) node0.example:29501 2 torchrun");
    let free = with(&TORCHRUN, &[("TORCHELASTIC_USE_AGENT_STORE", "False")]);
    assert_eq!(place(&free).rendezvous.map(|at| at.port), Some(29_500));
    // Others that set the four variables alone start one rank on each node.
    let four = [("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "::1"), ("MASTER_PORT", "29500")];
    assert_eq!(told(&place(&four)), "(1, 2) (0, 1) (1, 2)? [::1]:29500 0 torchrun");
    // One rank need not meet anybody.
    assert_eq!(told(&place(&[("WORLD_SIZE", "1")])), "(0, 1) (0, 1) (0, 1) - 0 torchrun");
    assert_eq!(told(&place(&[("WORLD_SIZE", "1"), ("RANK", "0")])), "(0, 1) (0, 1) (0, 1) - 0 torchrun");
}

#[test]
fn slurm() {
    // Job 1, step 0: 20000 + 1.
    assert_eq!(told(&place(&SLURM)), "(2, 3) (0, 1) (1, 2) n0:20001 0 Slurm");
    let second = with(&SLURM, &[("SLURM_STEP_ID", "1"), ("SLURM_RESTART_COUNT", "4"), ("SLURM_JOB_ID", "4123456")]);
    // 4123456 mod 30000 is 13456; and 7919.
    assert_eq!(told(&place(&second)), "(2, 3) (0, 1) (1, 2) n0:41375 4 Slurm");
    // The step's word comes before the job's.
    let small = [("SLURM_JOB_NODELIST", "n[0-7]"), ("SLURM_NTASKS", "16"), ("SLURM_TASKS_PER_NODE", "2(x8)")];
    assert_eq!(told(&place(&with(&SLURM, &small))), "(2, 3) (0, 1) (1, 2) n0:20001 0 Slurm");
    // The job's is taken where the step has none.
    let mut old = SLURM.to_vec();
    for name in ["SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES", "SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NODELIST"] {
        old = without(&old, name);
    }
    assert_eq!(told(&place(&old)), "(2, 3) (0, 1) (1, 2) n0:20001 0 Slurm");
    let five = [
        ("SLURM_PROCID", "3"),
        ("SLURM_STEP_NUM_TASKS", "5"),
        ("SLURM_LOCALID", "1"),
        ("SLURM_STEP_NUM_NODES", "3"),
        ("SLURM_STEP_TASKS_PER_NODE", "2(x2),1"),
        ("SLURM_STEP_NODELIST", "gpu[07-08],big1"),
    ];
    assert_eq!(told(&place(&with(&SLURM, &five))), "(3, 5) (1, 2) (1, 3) gpu07:20001 0 Slurm");
    // As `srun --mpi=pmi2` sets them: Slurm says more.
    let pmi = [("PMI_RANK", "2"), ("PMI_SIZE", "3"), ("PMI_FD", "11"), ("PMI_JOBID", "1.0")];
    assert_eq!(told(&place(&with(&SLURM, &pmi))), "(2, 3) (0, 1) (1, 2) n0:20001 0 Slurm");
    // By hand, where names of nodes cannot be looked up.
    let hand = place(&with(&SLURM, &[(RENDEZVOUS, "10.0.0.7:7000")]));
    assert_eq!(hand.rendezvous, Some(Meeting { host: "10.0.0.7".into(), port: 7000 }));
}

#[test]
fn only_what_srun_starts_is_a_task() {
    assert_eq!(of(&without(&SLURM, "SLURM_STEP_ID")), Ok(None));
    // A batch script, and an interactive shell, where Slurm numbers those too.
    for step in ["4294967291", "4294967290"] {
        assert_eq!(of(&with(&SLURM, &[("SLURM_STEP_ID", step)])), Ok(None));
    }
    // WORLD_SIZE and MASTER_ADDR that a batch script exports are half of torchrun's.
    let script = [("WORLD_SIZE", "3"), ("MASTER_ADDR", "n0"), ("MASTER_PORT", "1234")];
    assert_eq!(told(&place(&with(&SLURM, &script))), "(2, 3) (0, 1) (1, 2) n0:20001 0 Slurm");
    // torchrun that srun has started on each node.
    assert_eq!(place(&with(&SLURM, &TORCHRUN)).by, Launcher::Torchrun);
    // mpirun in an allocation: its daemons are the step's tasks, one on each further node.
    let daemon = with(&SLURM, &OPEN_MPI);
    assert_eq!(told(&place(&daemon)), "(3, 4) (1, 2) (1, 2)? - 0 Open MPI");
    // As MPICH's mpiexec has it in an allocation of two nodes with three slots and one: the last rank, under the second daemon.
    let daemon = [("SLURM_PROCID", "1"), ("SLURM_NTASKS", "2"), ("SLURM_STEP_NUM_TASKS", "2"), ("PMI_RANK", "3")];
    let hydra = with(&with(&SLURM, &HYDRA), &daemon);
    let hydra = with(&hydra, &[("MPI_LOCALRANKID", "0"), ("MPI_LOCALNRANKS", "1")]);
    assert_eq!(told(&place(&hydra)), "(3, 4) (0, 1) (3, 4)? - 0 PMI");
}

#[test]
fn open_mpi() {
    assert_eq!(told(&place(&OPEN_MPI)), "(3, 4) (1, 2) (1, 2)? - 0 Open MPI");
    let round = [("OMPI_COMM_WORLD_RANK", "2"), ("OMPI_COMM_WORLD_LOCAL_RANK", "1")];
    assert_eq!(told(&place(&with(&OPEN_MPI, &round))), "(2, 4) (1, 2) (0, 2)? - 0 Open MPI");
    let one = [("OMPI_COMM_WORLD_LOCAL_RANK", "3"), ("OMPI_COMM_WORLD_LOCAL_SIZE", "4")];
    assert_eq!(told(&place(&with(&OPEN_MPI, &one))), "(3, 4) (3, 4) (0, 1) - 0 Open MPI");
    let exported = [("MASTER_ADDR", "a"), ("MASTER_PORT", "700")];
    assert_eq!(told(&place(&with(&OPEN_MPI, &exported))), "(3, 4) (1, 2) (1, 2)? a:700 0 Open MPI");
    let ours = with(&OPEN_MPI, &[(RENDEZVOUS, "[fe80::1%eth0]:9")]);
    assert_eq!(told(&place(&ours)), "(3, 4) (1, 2) (1, 2)? [fe80::1%eth0]:9 0 Open MPI");
}

#[test]
fn pmi_and_pmix() {
    assert_eq!(told(&place(&HYDRA)), "(2, 4) (0, 2) (1, 2)? - 0 PMI");
    let cray = [("PMI_RANK", "1"), ("PMI_SIZE", "2"), ("PMI_LOCAL_RANK", "1"), ("PMI_LOCAL_SIZE", "2")];
    assert_eq!(told(&place(&cray)), "(1, 2) (1, 2) (0, 1) - 0 PMI");
    assert_eq!(told(&place(&[("PMI_RANK", "0"), ("PMI_SIZE", "1")])), "(0, 1) (0, 1) (0, 1) - 0 PMI");
    assert_eq!(
        error(&[("PMI_RANK", "0"), ("PMI_SIZE", "2")]),
        "MPI_LOCALRANKID is not set, but PMI_RANK is 0: set SWARMLOOM_LOCAL_RANK and SWARMLOOM_LOCAL_WORLD_SIZE, 0 and 1 \
         where each node has one rank"
    );
    let pmix = [("PMIX_RANK", "1"), ("PMIX_NAMESPACE", "x"), ("PMIX_HOSTNAME", "b")];
    assert_eq!(
        error(&pmix),
        "SWARMLOOM_WORLD_SIZE is not set, but PMIX_RANK is 1: PMIx does not say how many ranks there are; set \
         SWARMLOOM_WORLD_SIZE to it for all"
    );
    let sized = with(&pmix, &[(WORLD_SIZE, "2")]);
    assert!(error(&sized).starts_with("SWARMLOOM_LOCAL_RANK is not set, but PMIX_RANK is 1: set SWARMLOOM_LOCAL_RANK"));
    let placed = with(&sized, &[(LOCAL_RANK, "0"), (LOCAL_WORLD_SIZE, "1"), (RENDEZVOUS, "a:9")]);
    assert_eq!(told(&place(&placed)), "(1, 2) (0, 1) (1, 2)? a:9 0 PMI");
}

#[test]
fn kubernetes_and_jobsets() {
    let pod = place(&POD);
    assert_eq!(told(&pod), "(2, 6) (0, 2) (1, 3) train-0.train:29400 0 Kubernetes");
    let second = pod.beside(1).expect("two ranks");
    assert_eq!(told(&second), "(3, 6) (1, 2) (1, 3) train-0.train:29400 0 Kubernetes");
    assert_eq!((pod.beside(2), place(&TORCHRUN).beside(0)), (None, None));
    let single = without(&POD, LOCAL_WORLD_SIZE);
    assert_eq!(told(&place(&single)), "(1, 6) (0, 1) (1, 6) train-0.train:29400 0 Kubernetes");
    assert_eq!(
        told(&place(&[("JOB_COMPLETION_INDEX", "0"), (WORLD_SIZE, "1")])),
        "(0, 1) (0, 1) (0, 1) - 0 Kubernetes"
    );
    let set = [
        (WORLD_SIZE, "12"),
        (JOBSET_INDEX, "1"),
        (JOBSET_JOBS, "2"),
        (ATTEMPT, "3"),
        (RENDEZVOUS, "train-ranks-0-0.train:29400"),
    ];
    // Job 1 of 2 with three pods each: the fifth pod.
    let pod = place(&with(&POD, &set));
    assert_eq!(told(&pod), "(8, 12) (0, 2) (4, 6) train-ranks-0-0.train:29400 3 JobSet");
    assert_eq!(pod.beside(1).map(|place| place.rank), Some(9));
}

#[test]
fn what_our_launcher_sets_makes_the_same_place() {
    for variables in [&TORCHRUN[..], &SLURM, &OPEN_MPI, &HYDRA, &POD] {
        let first = place(variables);
        let all = first.variables();
        // Whatever else is set: our launcher is asked first.
        let mut set = with(&with(&SLURM, &TORCHRUN), &POD);
        set.retain(|(name, _)| !name.starts_with("SWARMLOOM"));
        set.extend(all.iter().map(|(name, value)| (*name, value.as_str())));
        assert_eq!(place(&set), Place { by: Launcher::Own, ..first });
    }
    let hand = [(RANK, "1"), (WORLD_SIZE, "2"), (RENDEZVOUS, "a:1")];
    assert_eq!(told(&place(&hand)), "(1, 2) (0, 1) (1, 2)? a:1 0 swarmloom");
}

#[test]
fn what_is_missing_is_named() {
    for (variables, gone, told) in [
        (&TORCHRUN[..], "MASTER_PORT", "MASTER_PORT is not set, but RANK is 3 and WORLD_SIZE is 4: say where rank 0"),
        (&TORCHRUN, "MASTER_ADDR", "MASTER_ADDR is not set, but RANK is 3 and WORLD_SIZE is 4: say where rank 0"),
        (&TORCHRUN, "RANK", "RANK is not set, but WORLD_SIZE is 4: set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT"),
        (&TORCHRUN, "WORLD_SIZE", "WORLD_SIZE is not set, but RANK is 3: set RANK, WORLD_SIZE, MASTER_ADDR"),
        (&TORCHRUN, "LOCAL_RANK", "LOCAL_RANK is not set, but LOCAL_WORLD_SIZE is 2: torchrun sets both"),
        (&TORCHRUN, "GROUP_WORLD_SIZE", "GROUP_WORLD_SIZE is not set, but GROUP_RANK is 1: torchrun sets both"),
        (&SLURM, "SLURM_LOCALID", "SLURM_LOCALID is not set, but SLURM_STEP_ID is 0 and SLURM_PROCID is 2: srun sets"),
        (&SLURM, "SLURM_NODEID", "SLURM_NODEID is not set, but SLURM_STEP_ID is 0 and SLURM_PROCID is 2: srun sets"),
        (&SLURM, "SLURM_JOB_ID", "SLURM_JOB_ID is not set, but SLURM_STEP_ID is 0 and SLURM_PROCID is 2: srun sets"),
        (
            &OPEN_MPI,
            "OMPI_COMM_WORLD_SIZE",
            "OMPI_COMM_WORLD_SIZE is not set, but OMPI_COMM_WORLD_RANK is 3: Open MPI's",
        ),
        (
            &OPEN_MPI,
            "OMPI_COMM_WORLD_RANK",
            "OMPI_COMM_WORLD_RANK is not set, but OMPI_COMM_WORLD_SIZE is 4: Open MPI's",
        ),
        (
            &OPEN_MPI,
            "OMPI_COMM_WORLD_LOCAL_SIZE",
            "OMPI_COMM_WORLD_LOCAL_SIZE is not set, but OMPI_COMM_WORLD_LOCAL_RANK",
        ),
        (&HYDRA, "PMI_SIZE", "PMI_SIZE is not set, but PMI_RANK is 2: a launcher that speaks PMI sets both"),
        (&HYDRA, "MPI_LOCALNRANKS", "MPI_LOCALNRANKS is not set, but MPI_LOCALRANKID is 0: set SWARMLOOM_LOCAL_RANK"),
        (
            &POD,
            WORLD_SIZE,
            "SWARMLOOM_WORLD_SIZE is not set, but JOB_COMPLETION_INDEX is 1: the manifest has to set it",
        ),
        (
            &POD,
            RENDEZVOUS,
            "SWARMLOOM_RENDEZVOUS is not set, but JOB_COMPLETION_INDEX is 1 and SWARMLOOM_WORLD_SIZE is 6",
        ),
        (&POD, "JOB_COMPLETION_INDEX", "SWARMLOOM_RANK is not set, but SWARMLOOM_WORLD_SIZE is 6: set it as well"),
        (
            &[(RANK, "0")],
            "",
            "SWARMLOOM_WORLD_SIZE is not set, but SWARMLOOM_RANK is 0: swarmloom's launcher sets both",
        ),
    ] {
        let told_by = error(&without(variables, gone));
        assert!(told_by.starts_with(told), "without {gone}: {told_by}");
    }
    let half = with(&POD, &[(JOBSET_INDEX, "0")]);
    assert!(
        error(&half).starts_with("SWARMLOOM_JOBSET_JOBS is not set, but SWARMLOOM_JOBSET_INDEX is 0: the manifest")
    );
}

#[test]
fn what_contradicts_is_named() {
    let number = "expected a whole number from 0 to 65535";
    for (variables, name, value, told) in [
        (&TORCHRUN[..], "RANK", "two", number),
        (&TORCHRUN, "RANK", "-1", number),
        (&TORCHRUN, "RANK", "4", "expected a number below WORLD_SIZE, which is 4"),
        (&TORCHRUN, "WORLD_SIZE", "0", "expected a whole number from 1 to 65536"),
        (&TORCHRUN, "WORLD_SIZE", "65537", "expected a whole number from 1 to 65536"),
        (&TORCHRUN, "LOCAL_RANK", "2", "expected a number below LOCAL_WORLD_SIZE, which is 2"),
        (
            &TORCHRUN,
            "LOCAL_WORLD_SIZE",
            "5",
            "expected a part of the 4 ranks, of which this is rank 3 and local rank 1",
        ),
        (&TORCHRUN, "GROUP_RANK", "2", "expected a number below GROUP_WORLD_SIZE, which is 2"),
        (&TORCHRUN, "GROUP_WORLD_SIZE", "4", "expected the nodes of 4 ranks, of which one has 2"),
        (&TORCHRUN, "MASTER_PORT", "65536", "expected a port from 1 to 65535"),
        (&TORCHRUN, "MASTER_PORT", "0", "expected a port from 1 to 65535"),
        (&TORCHRUN, "TORCHELASTIC_RESTART_COUNT", "-1", "expected a whole number from 0 to 4294967295"),
        (
            &TORCHRUN,
            RENDEZVOUS,
            "a",
            "expected `host:port`, with an IPv6 address in brackets, and a port from 1 to 65535",
        ),
        (&SLURM, "SLURM_PROCID", "3", "expected a number below SLURM_STEP_NUM_TASKS, which is 3"),
        (&SLURM, "SLURM_LOCALID", "1", "expected a number below SLURM_STEP_TASKS_PER_NODE, which is 1"),
        (&SLURM, "SLURM_NODEID", "2", "expected a number below the number of nodes, which is 2"),
        (&SLURM, "SLURM_STEP_NUM_NODES", "3", "expected 2, as SLURM_STEP_NODELIST is n[0-1], which has so many names"),
        (
            &SLURM,
            "SLURM_STEP_TASKS_PER_NODE",
            "2(x2)",
            "expected the tasks of 2 nodes, 3 together as SLURM_STEP_NUM_TASKS says",
        ),
        (&SLURM, "SLURM_STEP_ID", "batch", "expected a whole number from 0"),
        (&SLURM, "SLURM_JOB_ID", "1_2", "expected a whole number from 0"),
        (&OPEN_MPI, "OMPI_COMM_WORLD_RANK", "4", "expected a number below OMPI_COMM_WORLD_SIZE, which is 4"),
        (
            &OPEN_MPI,
            "OMPI_COMM_WORLD_LOCAL_SIZE",
            "5",
            "expected a part of the 4 ranks, of which this is rank 3 and local rank 1",
        ),
        (&HYDRA, "PMI_SIZE", "2", "expected a number below PMI_SIZE, which is 2"),
        (&HYDRA, "MPI_LOCALRANKID", "2", "expected a number below MPI_LOCALNRANKS, which is 2"),
        (&POD, "JOB_COMPLETION_INDEX", "3", "expected a number below the number of pods, which is 3"),
        (
            &POD,
            WORLD_SIZE,
            "7",
            "expected as many for each pod and job: SWARMLOOM_LOCAL_WORLD_SIZE is 2, and there are 1 jobs",
        ),
    ] {
        let told_by = error(&with(variables, &[(name, value)]));
        let blamed = if name == "PMI_SIZE" { "PMI_RANK is \"2\"".into() } else { format!("{name} is {value:?}") };
        assert_eq!(told_by, format!("{blamed}: {told}"));
    }
    let store = [("TORCHELASTIC_USE_AGENT_STORE", "True"), ("MASTER_PORT", "65535")];
    assert_eq!(error(&with(&TORCHRUN, &store)), "MASTER_PORT is \"65535\": expected a port from 1 to 65534");
    let odd = of(&with(&SLURM, &[("SLURM_STEP_NODELIST", "n[0-")])).expect_err("no list");
    assert_eq!(odd.to_string(), "SLURM_STEP_NODELIST is \"n[0-\", which Slurm would not write");
    let source = std::error::Error::source(&odd).expect("kept").to_string();
    assert!(source.starts_with("character 5: found the end, expected a number;"), "{source}");
    let long = error(&with(&TORCHRUN, &[("RANK", &"9".repeat(1000))]));
    assert!(long.len() < 200, "{long}");
}

#[test]
fn where_ranks_meet_is_checked() {
    for value in ["a:1", "a-b.example:65535", "10.0.0.1:80", "[::1]:80", "[fe80::1%eth0]:80"] {
        let at = place(&with(&OPEN_MPI, &[(RENDEZVOUS, value)])).rendezvous.expect("told");
        assert_eq!(at.to_string(), value);
    }
    for value in
        ["a", "a:", ":1", "a:0", "a:65536", "::1:80", "[a]:80", "[::1]", "a b:1", "http://a:1", "u@a:1", "a:-1"]
    {
        let told = error(&with(&OPEN_MPI, &[(RENDEZVOUS, value)]));
        assert!(told.starts_with(&format!("SWARMLOOM_RENDEZVOUS is {value:?}: expected `host:port`")), "{told}");
    }
}

#[test]
fn ports_of_jobs_differ_and_stay_in_their_range() {
    let port = |job: &str, step: &str| {
        let place = place(&with(&SLURM, &[("SLURM_JOB_ID", job), ("SLURM_STEP_ID", step)]));
        place.rendezvous.expect("derived").port
    };
    assert_eq!((port("0", "0"), port("29999", "0"), port("30000", "0")), (20_000, 49_999, 20_000));
    assert_eq!(port("18446744073709551615", "4000000000"), 31_615);
}
