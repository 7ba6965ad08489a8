//! Every mesh learns what a single rank learns.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use swarmloom_collectives::bootstrap::Rendezvous;
use swarmloom_collectives::{Group, GroupConfig, Transport};
use swarmloom_placement::schedule::{Op, Pass};
use tch::Kind;

use super::{F32, config, cut};
use crate::causal::layout::{Layout, Slice};
use crate::causal::links::{LinkConfig, Links, Seat};
use crate::causal::optimizer::{AdamW, Sharded, Shards};
use crate::causal::samples::{Order, Sampling, Share, TokenFile, Width, share};
use crate::causal::saved::{self, Saved, SavedError, State};
use crate::causal::stage::{Computation, Stage};
use crate::causal::worker::{StepPlan, Worker};
use crate::layout::slots;
use crate::model::ModelConfig;
use crate::policy::to_vec;
use crate::weights::initial;

const BATCH: usize = 8;
const LENGTH: usize = 16;
const STEPS: u64 = 4;

/// What is compared: losses, norms, and all parameters at the end in the model's own order.
#[derive(Debug)]
struct Learned {
    losses: Vec<f64>,
    norms: Vec<f64>,
    evaluated: f64,
    parameters: Vec<f32>,
}

/// How a run is cut.
#[derive(Debug, Clone, Copy)]
struct Cut {
    mesh: (usize, usize, usize),
    chunks: usize,
    micro_batch: usize,
    split: bool,
    computation: Computation,
}

const WHOLE: Cut = Cut { mesh: (1, 1, 1), chunks: 1, micro_batch: 8, split: false, computation: F32 };

/// Every stage does all forward passes, then all backward ones: sound for every number of stages and chunks.
fn programs(stages: usize, chunks: usize, micro_batches: usize, split: bool) -> Vec<Vec<Op>> {
    let all =
        |pass: Pass| move |chunk: usize| (0..micro_batches).map(move |micro_batch| Op { pass, micro_batch, chunk });
    let program = (0..chunks).flat_map(all(Pass::Forward));
    let program: Vec<Op> = match split {
        false => program.chain((0..chunks).rev().flat_map(all(Pass::Backward))).collect(),
        true => program
            .chain((0..chunks).rev().flat_map(all(Pass::InputGradient)))
            .chain((0..chunks).rev().flat_map(all(Pass::WeightGradient)))
            .collect(),
    };
    vec![program; stages]
}

fn tokens() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    let bytes: Vec<u8> = (0..1000_u16).flat_map(|i| (i * 5 % 29).to_le_bytes()).collect();
    file.write_all(&bytes).expect("written");
    file
}

/// Which steps are made, from which checkpoint, and where the last one is saved.
#[derive(Debug, Clone)]
struct Part {
    steps: std::ops::Range<u64>,
    folder: Option<PathBuf>,
}

fn train(config: &ModelConfig, cut: Cut, tokens: &TokenFile) -> Learned {
    train_part(config, cut, tokens, &Part { steps: 0..STEPS, folder: None })
}

fn train_part(config: &ModelConfig, cut_: Cut, tokens: &TokenFile, part: &Part) -> Learned {
    let (stages, replicas, tensor_ranks) = cut_.mesh;
    let ranks = stages * replicas * tensor_ranks;
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|one| one.local_addr()).expect("a port");
    let found: Vec<_> = std::thread::scope(|scope| {
        let run = |rank: usize| {
            let timeout = Duration::from_secs(30);
            let at = Rendezvous { address, token: b"meshes".to_vec(), rank, ranks, timeout };
            // Of both kinds: memory that is shared, and sockets.
            let transport = if rank.is_multiple_of(2) || ranks > 2 { Transport::Auto } else { Transport::Tcp };
            let transport = if ranks == 2 { Transport::Tcp } else { transport };
            let group = GroupConfig { timeout, transport, cores: 1, ..GroupConfig::default() };
            let mut world = Group::join(at, group.clone()).expect("the world");
            let seat = Seat::at(rank, cut_.mesh);
            let tied = config.tie_word_embeddings;
            let links = LinkConfig { group, timeout, ring: cut_.chunks > 1, tied, messages: 64 };
            let links = Links::make(&mut world, seat, &links).expect("links");
            let each = config.num_hidden_layers / (stages * cut_.chunks);
            let chunks: Vec<_> = (0..cut_.chunks).map(|chunk| (chunk * stages + seat.stage) * each).collect();
            let slice = Slice {
                chunks: chunks.into_iter().map(|start| start..start + each).collect(),
                first: seat.stage == 0,
                last: seat.stage + 1 == stages,
                tensor_rank: seat.tensor_rank,
                tensor_ranks,
            };
            let values = cut(config, &slice, &initial(config, 9));
            let stage = Stage::new(config, &slice, &values, cut_.computation).expect("a stage");
            let shards = Shards::new(stage.layout(), seat.replica, replicas);
            let optimizer = Sharded::new(stage.layout(), shards, AdamW::default(), &values, &stage.parameters());
            let mut worker = Worker::new(stage, optimizer.expect("an optimizer"), links, Kind::Float);
            let sampling = Sampling::over(tokens.tokens(), LENGTH, Order::Shuffled, 1);
            let batches = |step: u64| {
                let own = share(BATCH, seat.replica, replicas);
                let first = step * BATCH as u64;
                let samples = first + own.start as u64..first + own.end as u64;
                let vocabulary = config.vocab_size;
                Share { file: tokens, sampling, samples, micro_batch: cut_.micro_batch, length: LENGTH, vocabulary }
            };
            let (mut losses, mut norms) = (Vec::new(), Vec::new());
            if let (Some(folder), true) = (&part.folder, part.steps.start > 0) {
                let (path, state) = saved::newest(folder).expect("read").expect("a checkpoint");
                assert_eq!(state.step, part.steps.start);
                let saved = Saved::open(&path, &state, config).expect("opened");
                worker.restore(&saved, state.updates).expect("restored");
            }
            for step in part.steps.clone() {
                let mut batches = batches(step);
                let micro_batches = batches.micro_batches();
                let plan = StepPlan {
                    programs: &programs(stages, cut_.chunks, micro_batches, cut_.split),
                    micro_batches,
                    tokens: (BATCH * LENGTH) as u64,
                    learning_rate: 3e-3,
                    max_grad_norm: 0.5,
                };
                let report = worker.step(&mut world, &plan, &mut batches, [1.0, rank as f64]).expect("a step");
                assert!(!report.skipped);
                assert_eq!(report.flags, [ranks as f64, (ranks * (ranks - 1) / 2) as f64]);
                losses.push(report.loss);
                norms.push(report.grad_norm);
            }
            if let Some(folder) = &part.folder {
                let step = part.steps.end;
                let writing = worker.snapshot().expect("copied").write(saved::unfinished(folder, step), rank);
                writing.expect("a thread").end().expect("written");
                world.barrier().expect("all written");
                let run = serde_json::json!({ "mesh": [stages, replicas, tensor_ranks] });
                let updates = worker.optimizer().updates();
                let state = State { format: 0, step, updates, ranks, model: config.clone(), run };
                if rank == 0 {
                    saved::commit(folder, &state, 1).expect("named");
                }
                world.barrier().expect("all there");
            }
            let mut batches = batches(part.steps.end);
            let micro_batches = batches.micro_batches();
            let programs = programs(stages, cut_.chunks, micro_batches, cut_.split);
            let evaluated = worker.evaluate(&mut world, (&programs, micro_batches), &mut batches).expect("a loss");
            let parameters = to_vec(&worker.stage().parameters().to_kind(Kind::Float)).expect("parameters");
            (losses, norms, evaluated, worker.stage().layout().clone(), parameters)
        };
        let threads: Vec<_> = (0..ranks).map(|rank| scope.spawn(move || run(rank))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a rank")).collect()
    });
    let mut parameters = vec![f32::NAN; initial(config, 9).len()];
    for (losses, norms, evaluated, layout, own) in &found {
        // All ranks know the same.
        assert_eq!((losses, norms, evaluated), (&found[0].0, &found[0].1, &found[0].2));
        for piece in &layout.pieces {
            let slot = slots(config).into_iter().find(|slot| slot.name == piece.name).expect("a tensor");
            let rows = piece.rows.clone().zip(own[piece.range()].chunks(piece.columns.len()));
            for (row, values) in rows {
                for (column, value) in piece.columns.clone().zip(values) {
                    let at = &mut parameters[slot.offset + row * piece.width() + column];
                    // Whoever holds it too holds the same.
                    assert!(at.is_nan() || (*at - value).abs() < 1e-6, "{} {at} {value}", piece.name);
                    *at = *value;
                }
            }
        }
    }
    let (losses, norms, evaluated, ..) = found.into_iter().next().expect("rank 0");
    Learned { losses, norms, evaluated, parameters }
}

#[test]
fn every_mesh_learns_what_one_rank_learns() {
    let file = tokens();
    let tokens = TokenFile::open(file.path(), Width::Two).expect("tokens");
    let base = WHOLE;
    let recomputing = Computation { recompute: true, ..F32 };
    let cuts = [
        Cut { micro_batch: 3, computation: recomputing, ..base },
        Cut { mesh: (1, 2, 1), micro_batch: 2, ..base },
        Cut { mesh: (1, 3, 1), micro_batch: 1, split: true, ..base },
        Cut { mesh: (2, 1, 1), micro_batch: 2, ..base },
        Cut { mesh: (4, 1, 1), micro_batch: 2, split: true, ..base },
        Cut { mesh: (2, 1, 1), chunks: 2, micro_batch: 4, ..base },
        Cut { mesh: (1, 1, 2), micro_batch: 4, ..base },
        Cut { mesh: (2, 2, 2), micro_batch: 2, split: true, ..base },
    ];
    for tied in [false, true] {
        let config = config(tied);
        let alone = train(&config, base, &tokens);
        assert!(alone.losses[3] < alone.losses[0] - 0.3, "{:?}", alone.losses);
        for cut in cuts {
            let found = train(&config, cut, &tokens);
            let near = |a: f64, b: f64| (a - b).abs() < 1e-4 * b.abs();
            assert!(alone.losses.iter().zip(&found.losses).all(|(a, b)| near(*a, *b)), "{cut:?} {alone:?} {found:?}");
            assert!(alone.norms.iter().zip(&found.norms).all(|(a, b)| near(*a, *b)), "{cut:?} {:?}", found.norms);
            assert!(near(alone.evaluated, found.evaluated), "{cut:?} {} {}", alone.evaluated, found.evaluated);
            let apart = alone.parameters.iter().zip(&found.parameters).map(|(a, b)| (a - b).abs());
            let most = apart.fold(0f32, f32::max);
            // Adam's first steps have the gradient's sign: what is almost zero may go either way, by the learning rate.
            let far = alone.parameters.iter().zip(&found.parameters).filter(|(a, b)| (*a - *b).abs() > 1e-4).count();
            assert!(most < 0.02 && far * 1000 < alone.parameters.len(), "{cut:?}: {most}, {far}");
        }
    }
}

#[test]
fn halves_with_masters_of_whole_numbers_learn_alike() {
    let file = tokens();
    let tokens = TokenFile::open(file.path(), Width::Two).expect("tokens");
    let config = config(false);
    let halves = Computation { kind: Kind::BFloat16, ..F32 };
    let (alone, found) =
        (train(&config, WHOLE, &tokens), train(&config, Cut { computation: halves, ..WHOLE }, &tokens));
    let cut = Cut { mesh: (2, 2, 1), micro_batch: 2, computation: halves, ..WHOLE };
    let meshed = train(&config, cut, &tokens);
    for (a, (b, c)) in alone.losses.iter().zip(found.losses.iter().zip(&meshed.losses)) {
        assert!((a - b).abs() < 0.01 * a && (a - c).abs() < 0.01 * a, "{alone:?} {found:?} {meshed:?}");
    }
}

#[test]
fn another_mesh_goes_on_from_a_checkpoint_as_if_nothing_had_been() {
    let file = tokens();
    let tokens = TokenFile::open(file.path(), Width::Two).expect("tokens");
    let config = config(true);
    let whole = train(&config, WHOLE, &tokens);
    let halves = Computation { kind: Kind::BFloat16, ..F32 };
    let meshes = [
        Cut { mesh: (2, 2, 2), micro_batch: 2, ..WHOLE },
        WHOLE,
        Cut { mesh: (1, 1, 2), micro_batch: 4, ..WHOLE },
        Cut { mesh: (2, 1, 1), chunks: 2, micro_batch: 2, ..WHOLE },
    ];
    for (before, after) in meshes.iter().zip(meshes.iter().cycle().skip(1)) {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().to_owned();
        let part = |steps| Part { steps, folder: Some(folder.clone()) };
        let first = train_part(&config, *before, &tokens, &part(0..2));
        let second = train_part(&config, *after, &tokens, &part(2..STEPS));
        let losses: Vec<f64> = first.losses.into_iter().chain(second.losses).collect();
        let near = whole.losses.iter().zip(&losses).all(|(a, b)| (a - b).abs() < 1e-4 * a);
        assert!(near, "{before:?} {after:?} {losses:?} {:?}", whole.losses);
        assert!((second.evaluated - whole.evaluated).abs() < 1e-4 * whole.evaluated);
        // One is kept, and nothing is left over.
        let names: Vec<_> =
            std::fs::read_dir(&folder).expect("a folder").map(|one| one.expect("one").file_name()).collect();
        assert_eq!(names, ["step-000000000004"]);
        if before.mesh == (1, 1, 1) {
            let (path, state) = saved::newest(&folder).expect("read").expect("a checkpoint");
            let other = ModelConfig { num_hidden_layers: 2, ..config.clone() };
            assert!(matches!(Saved::open(&path, &state, &other), Err(SavedError::OtherModel { .. })));
            let victim = path.join("rank-00001.safetensors");
            let mut bytes = std::fs::read(&victim).expect("a file");
            *bytes.last_mut().expect("a byte") ^= 1;
            std::fs::write(&victim, bytes).expect("written");
            let error = Saved::open(&path, &state, &config).expect_err("damaged").to_string();
            assert!(error.contains("rank-00001.safetensors is damaged"), "{error}");
            std::fs::remove_file(&victim).expect("removed");
            let saved = Saved::open(&path, &state, &config).expect("opened");
            let layout = Layout::new(&config, &Slice::whole(&config));
            let error = saved.read(&layout, &Shards::new(&layout, 0, 1)).expect_err("half is missing").to_string();
            assert!(error.contains("are the files of all ranks there?"), "{error}");
        }
    }
    // Masters keep what bf16 has no room for.
    let folder = tempfile::tempdir().expect("a folder");
    let part = |steps| Part { steps, folder: Some(folder.path().to_owned()) };
    let cut = Cut { mesh: (1, 2, 1), computation: halves, ..WHOLE };
    let whole = train(&config, cut, &tokens);
    train_part(&config, cut, &tokens, &part(0..2));
    let second = train_part(&config, cut, &tokens, &part(2..STEPS));
    assert_eq!(second.losses, whole.losses[2..], "to the bit");
}
