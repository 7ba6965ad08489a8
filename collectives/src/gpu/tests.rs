//! Decisions without a GPU; groups where there is one.

use super::*;
use crate::group::GroupConfig;
use crate::group::tests::with_group;

fn card(nccl: bool, device: u8, wanted: Option<Way>) -> Card {
    Card { nccl, wanted, device: [device; 16] }
}

#[test]
fn all_ranks_take_the_best_way_that_all_have() {
    let both = [card(true, 1, None), card(true, 2, None)];
    assert_eq!(choose(&both).expect("a way").0, Way::Nccl);
    let (way, why) = choose(&[card(true, 1, None), card(false, 2, None)]).expect("a way");
    assert_eq!((way, why.as_str()), (Way::Staged, "rank 1 has no NCCL"));
    let (way, why) = choose(&[card(true, 1, None), card(true, 2, None), card(true, 1, None)]).expect("a way");
    assert_eq!(way, Way::Staged);
    assert!(why.starts_with("rank 2 shares its GPU"), "{why}");
    assert_eq!(
        choose(&[card(true, 1, Some(Way::Staged)), card(true, 2, Some(Way::Staged))]).expect("a way").0,
        Way::Staged
    );
    assert!(choose(&[card(true, 1, Some(Way::Nccl)), card(false, 2, Some(Way::Nccl))]).is_err());
    let differ = choose(&[card(true, 1, None), card(true, 2, Some(Way::Nccl))]).expect_err("different wishes");
    assert!(differ.contains("rank 1"), "{differ}");
}

#[test]
fn cards_are_read_as_they_were_written() {
    for wanted in [None, Some(Way::Nccl), Some(Way::Staged)] {
        let card = card(wanted.is_none(), 7, wanted);
        assert_eq!(Card::decode(&card.encode()), Some(card));
    }
    assert_eq!(Card::decode(&[1, 3]), None);
    assert_eq!(Card::decode(&[1, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
}

/// The first device, or a line that says why there is none.
fn gpu() -> Option<Gpu> {
    match Gpu::open(0) {
        Ok(gpu) => Some(gpu),
        Err(error) => {
            println!("skipped on a GPU: {error}");
            None
        }
    }
}

#[test]
fn two_ranks_on_one_gpu_go_through_the_host() {
    let Some(gpu) = gpu() else { return };
    println!("on {}", gpu.name());
    with_group(2, &GroupConfig::default(), |group| {
        let gpu = gpu.beside().expect("a stream");
        let mut group = GpuGroup::new(group, gpu.clone(), GpuConfig::default()).expect("a group");
        assert_eq!(group.way().0, Way::Staged);
        let rank = group.rank() as f32;
        let input = gpu.upload(&[1.0 + rank, 2.0, -rank]).expect("memory");
        let mut output = gpu.zeros::<f32>(3).expect("memory");
        group.all_reduce(&input, &mut output, ReduceOp::Sum).expect("a sum");
        let mut sum = [0.0; 3];
        output.read(&mut sum).expect("a copy");
        assert_eq!(sum, [3.0, 4.0, -1.0]);
        let mut own = gpu.zeros::<f32>(1).expect("memory");
        let whole = gpu.upload(&[rank, 5.0]).expect("memory");
        group.reduce_scatter(&whole, &mut own, &[1, 1], ReduceOp::Max).expect("a part");
        let mut part = [0.0];
        own.read(&mut part).expect("a copy");
        assert_eq!(part, [[1.0], [5.0]][group.rank()]);
        let wrong = group.all_reduce(&input, &mut own, ReduceOp::Sum);
        assert!(matches!(wrong, Err(CollectiveError::Usage { .. })), "{wrong:?}");
    });
}

#[test]
fn one_rank_through_nccl_where_it_is() {
    let Some(gpu) = gpu() else { return };
    if let Err(fault) = nccl_version() {
        println!("skipped: {fault}");
        return;
    }
    with_group(1, &GroupConfig::default(), |group| {
        let config = GpuConfig { way: Some(Way::Nccl), ..GpuConfig::default() };
        let mut group = GpuGroup::new(group, gpu.clone(), config).expect("a group");
        let input = gpu.upload(&[1.5_f32, -2.0]).expect("memory");
        let mut output = gpu.zeros::<f32>(2).expect("memory");
        group.all_reduce(&input, &mut output, ReduceOp::Sum).expect("a sum");
        let mut sum = [0.0; 2];
        output.read(&mut sum).expect("a copy");
        assert_eq!(sum, [1.5, -2.0]);
    });
}

/// Ranks are processes: only a driver that is none opens memory of this process.
#[test]
fn exposed_buffers_are_reduced_in_the_order_of_the_ranks() {
    let Some(gpu) = gpu() else { return };
    if gpu.name() != "pretended" {
        println!("skipped: a real driver opens no memory of the same process");
        return;
    }
    println!("on {}", gpu.name());
    with_group(3, &GroupConfig::default(), |group| {
        let gpu = gpu.beside().expect("a stream");
        let mut group = GpuGroup::new(group, gpu.clone(), GpuConfig::default()).expect("a group");
        // In another order the small one is lost.
        let own = [1e20_f32, -1e20, 1.0][group.rank()];
        let exposed = group.expose(gpu.upload(&[own, 1.0]).expect("memory")).expect("all ranks' buffers");
        let mut output = gpu.zeros::<f32>(2).expect("memory");
        group.all_reduce_exposed(&exposed, &mut output, ReduceOp::Sum).expect("a sum");
        let mut sum = [0.0; 2];
        output.read(&mut sum).expect("a copy");
        assert_eq!(sum, [1.0, 3.0]);
        let mut short = gpu.zeros::<f32>(1).expect("memory");
        assert!(matches!(
            group.all_reduce_exposed(&exposed, &mut short, ReduceOp::Sum),
            Err(CollectiveError::Usage { .. })
        ));
        let back = group.withdraw(exposed).expect("the buffer");
        assert_eq!(back.len(), 2);
        // Lengths have to be the same.
        let uneven = gpu.zeros::<f32>(1 + group.rank()).expect("memory");
        assert!(matches!(group.expose(uneven), Err(CollectiveError::Usage { .. })));
    });
}

#[test]
fn survivors_go_on_with_their_gpus() {
    let Some(gpu) = gpu() else { return };
    println!("on {}", gpu.name());
    with_group(3, &GroupConfig::default(), |group| {
        let gpu = gpu.beside().expect("a stream");
        let mut group = GpuGroup::new(group, gpu.clone(), GpuConfig::default()).expect("a group");
        if group.rank() == 1 {
            return;
        }
        let input = gpu.upload(&[1_i64]).expect("memory");
        let mut output = gpu.zeros::<i64>(1).expect("memory");
        let failed = group.all_reduce(&input, &mut output, ReduceOp::Sum).expect_err("one is gone");
        assert_eq!(failed.missing(), Some(1), "{failed}");
        let mut group = group.shrink(Duration::from_secs(10)).expect("survivors");
        group.all_reduce(&input, &mut output, ReduceOp::Sum).expect("a sum");
        let mut sum = [0];
        output.read(&mut sum).expect("a copy");
        assert_eq!((sum, group.ranks()), ([2], 2));
    });
}

/// What NCCL may do to a group: work, lack a rank that died, lack one that does nothing.
#[test]
fn nccl_never_waits_without_a_deadline() {
    let Some(gpu) = gpu() else { return };
    if std::env::var_os("PRETENDED_DEVICES").is_none() {
        println!("skipped: three ranks need three GPUs");
        return;
    }
    println!("with NCCL on {}", gpu.name());
    let start = |group, gpu: &Gpu, timeout| {
        let config = GpuConfig { way: Some(Way::Nccl), timeout, ..GpuConfig::default() };
        GpuGroup::new(group, gpu.clone(), config).expect("a group")
    };
    let sum = |group: &mut GpuGroup, value: f32| -> Result<f32, CollectiveError> {
        let gpu = group.gpu().clone();
        let input = gpu.upload(&[value]).expect("memory");
        let mut output = gpu.zeros::<f32>(1).expect("memory");
        group.all_reduce(&input, &mut output, ReduceOp::Sum)?;
        let mut sum = [0.0];
        output.read(&mut sum).expect("a copy");
        Ok(sum[0])
    };
    with_group(3, &GroupConfig::default(), |group| {
        let mut group = start(group, &gpu.beside().expect("a stream"), Duration::from_secs(20));
        let rank = group.rank();
        assert_eq!(sum(&mut group, rank as f32).expect("a sum"), 3.0);
        if rank == 1 {
            return;
        }
        let began = std::time::Instant::now();
        let failed = sum(&mut group, 1.0).expect_err("one is gone");
        // The other survivor may have said so first.
        assert!(failed.missing() == Some(1) || failed.to_string().contains("rank 1 is gone"), "{failed}");
        assert!(began.elapsed() < Duration::from_secs(10), "its death is known before the time is over");
        assert!(matches!(sum(&mut group, 1.0), Err(CollectiveError::Poisoned { .. })));
        let mut group = group.shrink(Duration::from_secs(10)).expect("survivors");
        assert_eq!((group.way().0, sum(&mut group, 2.0).expect("a sum")), (Way::Nccl, 4.0));
    });
    with_group(2, &GroupConfig::default(), |group| {
        let mut group = start(group, &gpu.beside().expect("a stream"), Duration::from_millis(300));
        if group.rank() == 0 {
            let failed = sum(&mut group, 1.0).expect_err("the other does nothing");
            assert!(matches!(failed, CollectiveError::Failed { fault: Fault::Timeout { .. }, .. }), "{failed}");
        } else {
            let abort = group.host().aborter();
            let end = std::time::Instant::now() + Duration::from_secs(10);
            while abort.reason().is_none() && std::time::Instant::now() < end {
                std::thread::yield_now();
            }
            assert!(abort.reason().is_some(), "the other one tells that it gave up");
        }
    });
}

fn library(source: &str, to: &std::path::Path) {
    let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/../kernels/gpu/src");
    let built = std::process::Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()))
        .args([
            "-std=c++17",
            "-O1",
            "-ffp-contract=off",
            "-fno-strict-aliasing",
            "-shared",
            "-fPIC",
            "-I",
            sources,
            "-o",
        ])
        .arg(to)
        .arg(source)
        .output()
        .expect("a C++ compiler");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
}

/// The tests above on a driver that is none, whose memory is the processor's; then the last one with an NCCL that is none.
#[test]
fn groups_on_a_pretended_device() {
    let folder = tempfile::tempdir().expect("a folder");
    let cuda = folder.path().join("libcuda.so");
    library(concat!(env!("CARGO_MANIFEST_DIR"), "/../kernels/gpu/src/twin/driver.cpp"), &cuda);
    std::fs::copy(&cuda, folder.path().join("libnvrtc.so")).expect("a copy");
    let again = |arguments: &[&str], devices: bool| {
        let mut command = std::process::Command::new(std::env::current_exe().expect("this program"));
        command.args(arguments).arg("--nocapture").env("LD_LIBRARY_PATH", folder.path());
        if devices {
            command.env("PRETENDED_DEVICES", "1");
        }
        let done = command.output().expect("this program again");
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
        said
    };
    let said = again(&["gpu::tests::", "--skip", "pretended_device"], false);
    assert_eq!(said.matches("on pretended").count(), 3, "{said}");
    library(concat!(env!("CARGO_MANIFEST_DIR"), "/src/gpu/pretended.cpp"), &folder.path().join("libnccl.so.2"));
    let said = again(&["gpu::tests::nccl_never_waits_without_a_deadline", "--exact"], true);
    assert_eq!(said.matches("with NCCL on pretended").count(), 1, "{said}");
}
