//! Random collectives, executed: every kind, element type, operation, algorithm and transport, against a sequential reference.
//!
//! Where a plan promises the order of the ranks, where nothing is rounded and where nothing is reduced, results are compared
//! bit by bit; elsewhere with a bound of the error, and every rank has to have the same bits as every other. Inputs
//! have to stay as they were, and what stands beside an output too.
//!
//! All that is done follows from a seed for each group. `SWARMLOOM_STORM` sets how many cases there are (default 3000; the
//! long form is 100000), `SWARMLOOM_STORM_SEED` the seed of a single group: a failure says which.

mod draw;
mod value;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use swarmloom_kernels::{Bf16, F16};

use self::draw::{Case, Memory, Over, World};
use self::value::{Inputs, Value};
use super::*;
use crate::fabric::simulated::{self, SimulatedFabric};
use crate::plan::{Guarantee, Plan, verify};

/// Elements after an output that have to stay as they are.
const BEYOND: usize = 16;
/// Every byte of what stands beside an output.
const GUARD: u64 = 0xa5a5_a5a5_a5a5_a5a5;
const TIMEOUT: Duration = Duration::from_secs(60);

/// A case with all that its ranks have in common.
#[derive(Debug)]
struct Ready<T> {
    inputs: Vec<Vec<T>>,
    selector: Selector,
    plan: Arc<Plan>,
    /// Results have the bits of the reference.
    exact: bool,
}

impl<T: Value> Ready<T> {
    /// `None` where there is no plan: too little scratch.
    fn new(case: &Case, layout: &Layout) -> Option<Self> {
        let Case { collective, op, special, seed, .. } = case;
        let possible = crate::plan::build::algorithms(collective, layout, size_of::<T>());
        let forced = case.algorithm.filter(|_| !possible.is_empty()).map(|which| possible[which % possible.len()]);
        let drawn = Selector { forced, tuning: case.tuning, ..Selector::default() };
        let (selector, plan) =
            [drawn, Selector { forced, ..Selector::default() }].into_iter().find_map(|selector| {
                let plan = selector.plan(collective, layout, size_of::<T>()).ok()?;
                Some((selector, plan))
            })?;
        let guarantee = verify::verify(&plan, layout).expect("it was proved before").guarantee;
        let rounds = T::ROUNDOFF.is_some() && matches!(op, ReduceOp::Sum | ReduceOp::Product);
        let exact = !collective.reduces() || !rounds || guarantee == Some(Guarantee::RankOrder);
        let ranks = layout.ranks();
        let inputs = Inputs { seed: *seed, op: *op, ranks, special: *special };
        let inputs = (0..ranks)
            .map(|rank| (0..collective.input_len(rank)).map(|index| inputs.value(rank, index)).collect())
            .collect();
        Some(Self { inputs, selector, plan: Arc::new(plan), exact })
    }

    /// Compares an output with the reference.
    fn check(&self, case: &Case, rank: Rank, output: &[T]) -> Result<(), String> {
        let wanted = crate::reference::output(&case.collective, rank, &self.inputs, case.op);
        assert_eq!(output.len(), wanted.len());
        // Where in the inputs a reduced element comes from.
        let start = match &case.collective {
            Collective::ReduceScatter { parts } => parts[..rank].iter().sum(),
            _ => 0,
        };
        for (index, (got, wanted)) in output.iter().zip(&wanted).enumerate() {
            if got.bits() == wanted.bits() {
                continue;
            }
            if self.exact {
                return Err(format!("element {index} is {got:?} ({:x}), not {wanted:?}", got.bits()));
            }
            let all: Vec<T> = self.inputs.iter().map(|input| input[start + index]).collect();
            value::near(*got, case.op, &all).map_err(|why| format!("element {index} is {why}, of {all:?}"))?;
        }
        Ok(())
    }
}

/// Things by the number of their case that each rank comes for once: the first one makes it, the last one takes it away.
struct Table<T: ?Sized>(Mutex<BTreeMap<usize, (usize, Made<T>)>>);

type Made<T> = Arc<OnceLock<Box<T>>>;

impl<T: ?Sized> Table<T> {
    fn get(&self, ranks: usize, case: usize) -> Made<T> {
        let mut table = lock(&self.0);
        let (seen, entry) = table.entry(case).or_default();
        *seen += 1;
        let (entry, last) = (entry.clone(), *seen == ranks);
        if last {
            table.remove(&case);
        }
        entry
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often something was done.
type Tally = BTreeMap<(&'static str, String), usize>;

/// What the ranks of one group have in common.
struct Shared<'a> {
    world: &'a World,
    ready: Table<dyn Any + Send + Sync>,
    /// The first rank that was done, and its bits.
    agreed: Table<(Rank, Vec<u64>)>,
    /// The first one is why.
    failures: Mutex<Vec<String>>,
}

/// One rank, and how it runs a collective.
struct Side<'a> {
    shared: &'a Shared<'a>,
    rank: Rank,
    runner: Runner,
    /// Input and output.
    regions: [Option<Region>; 2],
    tally: Tally,
}

enum Runner {
    Group(Box<Group>),
    Simulated { fabric: Box<SimulatedFabric>, layout: Layout, abort: Abort, sequence: u64 },
}

impl Side<'_> {
    fn layout(&self, case: &Case) -> Layout {
        let layout = match &self.runner {
            Runner::Group(group) => group.layout(),
            Runner::Simulated { layout, .. } => layout,
        };
        setup::layout_for(layout, case.memory == Memory::Registered)
    }

    fn run_all(&mut self) -> Result<(), String> {
        for (index, case) in self.shared.world.cases().enumerate() {
            let done = match case.dtype {
                Dtype::F32 => self.run::<f32>(index, &case),
                Dtype::F64 => self.run::<f64>(index, &case),
                Dtype::Bf16 => self.run::<Bf16>(index, &case),
                Dtype::F16 => self.run::<F16>(index, &case),
                Dtype::I8 => self.run::<i8>(index, &case),
                Dtype::U8 => self.run::<u8>(index, &case),
                Dtype::I32 => self.run::<i32>(index, &case),
                Dtype::I64 => self.run::<i64>(index, &case),
            };
            done.map_err(|why| format!("case {index}, rank {}: {why}\n{case:?}", self.rank))?;
        }
        Ok(())
    }

    fn run<T: Value>(&mut self, index: usize, case: &Case) -> Result<(), String> {
        let ranks = self.shared.world.ranks();
        let ready = self.shared.ready.get(ranks, index);
        let ready = ready.get_or_init(|| Box::new(Ready::<T>::new(case, &self.layout(case))));
        let ready: &Option<Ready<T>> = ready.downcast_ref().expect("of this type");
        let Some(ready) = ready else {
            *self.tally.entry(("left out", "no plan".into())).or_default() += 1;
            return Ok(());
        };
        if let Runner::Group(group) = &mut self.runner {
            group.set_selector(ready.selector.clone());
            group.set_streaming(case.streaming);
        }
        let mut first: Option<Vec<u64>> = None;
        for _ in 0..case.repeats {
            let output = self.once(case, ready)?;
            let algorithm = ready.plan.algorithm.name();
            ready.check(case, self.rank, &output).map_err(|why| format!("by {algorithm}, {why}"))?;
            if ready.exact {
                continue;
            }
            let bits: Vec<u64> = output.iter().map(|value| value.bits()).collect();
            match &first {
                Some(first) if *first != bits => return Err("the same again has given other bits".into()),
                Some(_) => {}
                None => first = Some(bits),
            }
        }
        if let (Collective::AllReduce { .. }, Some(bits)) = (&case.collective, first) {
            let agreed = self.shared.agreed.get(ranks, index);
            let (other, theirs) = &**agreed.get_or_init(|| Box::new((self.rank, bits.clone())));
            if let Some(at) = (0..bits.len()).find(|at| bits[*at] != theirs[*at]) {
                return Err(format!("element {at} is {:x} here and {:x} on rank {other}", bits[at], theirs[at]));
            }
        }
        let size = case.collective.input_len(self.rank).max(case.collective.output_len(self.rank));
        let size = format!("below {:>6}", 1 << size.next_power_of_two().ilog2().next_multiple_of(4).max(4));
        let transport = match &self.runner {
            Runner::Group(group) => group.transport(),
            Runner::Simulated { .. } => "simulated",
        };
        for (what, of) in [
            ("transport", transport.to_owned()),
            ("collective", case.collective.name().to_owned()),
            ("algorithm", ready.plan.algorithm.name().to_owned()),
            ("dtype", format!("{:?}", case.dtype)),
            ("memory", format!("{:?}", case.memory)),
            ("ranks", format!("below {:>2}", (ranks + 1).next_power_of_two().max(4))),
            ("elements", size),
            ("results", if ready.exact { "bit by bit" } else { "within a bound" }.into()),
        ] {
            *self.tally.entry((what, of)).or_default() += 1;
        }
        Ok(())
    }

    /// Runs it once, in fresh memory; the output.
    fn once<T: Value>(&mut self, case: &Case, ready: &Ready<T>) -> Result<Vec<T>, String> {
        let guard = T::from_bits(GUARD);
        let [lead, out_lead] = case.lead;
        let input = &ready.inputs[self.rank];
        let output_len = case.collective.output_len(self.rank);
        let mut from = [&vec![guard; lead][..], input].concat();
        let mut to = vec![guard; out_lead + output_len + BEYOND];
        if case.memory == Memory::InPlace {
            to = [&from[..], &[guard; BEYOND]].concat();
        }
        let raw_of =
            |at: *mut T, lead: usize, len: usize| Raw { at: at.wrapping_add(lead).cast(), bytes: len * size_of::<T>() };
        let registered = case.memory == Memory::Registered;
        let done = match &mut self.runner {
            Runner::Group(group) => match case.memory {
                Memory::Slices => {
                    let to = &mut to[out_lead..out_lead + output_len];
                    group.run(&case.collective, &from[lead..], to, case.op)
                }
                Memory::InPlace => group.all_reduce_in_place(&mut to[lead..lead + input.len()], case.op),
                Memory::Registered => {
                    let buffers = [&mut from, &mut to];
                    for (region, buffer) in self.regions.iter_mut().zip(&buffers) {
                        let bytes = size_of_val(&buffer[..]);
                        if region
                            .as_ref()
                            .is_none_or(|region| region.raw().bytes < bytes || case.seed.is_multiple_of(16))
                        {
                            *region = Some(group.region(bytes).map_err(|error| error.to_string())?);
                        }
                    }
                    let at = self.regions.each_ref().map(|region| region.as_ref().expect("just made").raw().at.cast());
                    let (input, output) = (raw_of(at[0], lead, input.len()), raw_of(at[1], out_lead, output_len));
                    // SAFETY: each region is as large as its buffer, as was just seen to, and apart from it; peers touch
                    // them during the operation alone.
                    unsafe {
                        for (at, buffer) in at.into_iter().zip(&buffers) {
                            std::ptr::copy_nonoverlapping(buffer.as_ptr(), at, buffer.len());
                        }
                        let done = group.run_raw(&case.collective, T::DTYPE, case.op, input, output, true);
                        for (at, buffer) in at.into_iter().zip(buffers) {
                            std::ptr::copy_nonoverlapping(at, buffer.as_mut_ptr(), buffer.len());
                        }
                        done
                    }
                }
            }
            .map_err(|error| error.to_string()),
            Runner::Simulated { fabric, abort, sequence, .. } => {
                *sequence += 1;
                let streaming = case.streaming.unwrap_or(Streaming::NEVER);
                let mut program = Program::compile(ready.plan.clone(), self.rank, streaming);
                let (input, output) = (from.as_mut_ptr(), to.as_mut_ptr());
                let entry = Entry {
                    sequence: *sequence,
                    tag: program.tag() | 1,
                    input: raw_of(input, lead, ready.inputs[self.rank].len()),
                    output: raw_of(output, out_lead, output_len),
                };
                let mut patience = Patience::new(abort, TIMEOUT, Ladder::for_host(3, 2));
                let reducer = Reducer::new(T::DTYPE, case.op);
                // SAFETY: as long as the collective says, and nobody else's but for peers' in the operation; the plan was
                // verified for what the fabric can reach.
                unsafe { program.run(fabric.as_mut(), &entry, &reducer, &mut patience) }
                    .map_err(|(step, fault)| format!("{}: {fault}", program.describe(step)))
            }
        };
        done.map_err(|error| format!("registered {registered}: {error}"))?;
        let same = |one: &[T], other: &[T]| one.iter().zip(other).all(|(one, other)| one.bits() == other.bits());
        if case.memory != Memory::InPlace && !same(&from[lead..], input) {
            return Err("the input has changed".into());
        }
        let start = if case.memory == Memory::InPlace { lead } else { out_lead };
        let beside = to[..start].iter().chain(&to[start + output_len..]);
        if beside.into_iter().any(|value| value.bits() != guard.bits()) {
            return Err("something beside the output has changed".into());
        }
        Ok(to[start..start + output_len].to_vec())
    }
}

/// Runs a group's cases. Whoever fails first says why.
fn run(world: &World) -> Result<Tally, String> {
    let shared =
        Shared { world, ready: Table(Mutex::default()), agreed: Table(Mutex::default()), failures: Mutex::default() };
    let go = |runner: Runner, rank: Rank| {
        let mut side = Side { shared: &shared, rank, runner, regions: [None, None], tally: Tally::new() };
        if let Err(why) = side.run_all() {
            lock(&shared.failures).push(why);
            if let Runner::Group(group) = &mut side.runner {
                group.abort("a case has failed");
            }
        }
        side.tally
    };
    let tallies: Vec<Tally> = if world.over == Over::Simulated {
        let fabrics = simulated::group(world.ranks(), world.seed, world.options);
        let (near, far) = (world.options.reach, world.options.reach);
        let layout = Layout { hosts: world.hosts.clone(), near, far, scratch_bytes: world.scratch_bytes };
        std::thread::scope(|scope| {
            let begin = |(rank, fabric)| {
                let layout = layout.clone();
                let fabric = Box::new(fabric);
                scope
                    .spawn(move || go(Runner::Simulated { fabric, layout, abort: Abort::default(), sequence: 0 }, rank))
            };
            let threads: Vec<_> = fabrics.into_iter().enumerate().map(begin).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        })
    } else {
        let transport = match world.over {
            Over::Shm => Transport::Shm,
            Over::Tcp => Transport::Tcp,
            Over::Ofi => Transport::Ofi,
            Over::Hosts | Over::Simulated => Transport::Auto,
        };
        let configs: Vec<GroupConfig> = world
            .hosts
            .iter()
            .map(|host| GroupConfig {
                timeout: TIMEOUT,
                scratch_bytes: world.scratch_bytes,
                provider: Some("tcp;ofi_rxm".to_owned()),
                connections: world.connections,
                host: Some(format!("host {host}")),
                ..config(transport)
            })
            .collect();
        join(&configs, |group| match group {
            Ok(group) => {
                let rank = group.rank();
                go(Runner::Group(Box::new(group)), rank)
            }
            Err(error) => {
                lock(&shared.failures).push(format!("joining: {error}"));
                Tally::new()
            }
        })
    };
    let failures = shared.failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    if failures.is_empty() { Ok(tallies.into_iter().next().unwrap_or_default()) } else { Err(failures.join("\n")) }
}

/// As many groups as there have to be for this share of all cases, in percent.
fn storm(over: Over, share: usize) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let alone = number("SWARMLOOM_STORM_SEED");
    let wanted = number("SWARMLOOM_STORM").unwrap_or(3000) as usize * share / 100;
    let began = Instant::now();
    let (mut tally, mut done) = (Tally::new(), 0);
    for index in 0.. {
        if done >= wanted || alone.is_some() && index > 0 {
            break;
        }
        let seed = alone.unwrap_or_else(|| value::mix(index));
        let world = World::draw(over, seed);
        let mut ran = run(&world);
        if ran.as_ref().is_err_and(|why| why.starts_with("joining")) {
            // Somebody else may have taken the port.
            ran = run(&world);
        }
        let ran = ran.unwrap_or_else(|why| {
            panic!("{over:?}, {done} cases were right; again: SWARMLOOM_STORM_SEED={seed}\n{why}\n{world:?}")
        });
        for (what, count) in ran {
            done += if what.0 == "dtype" { count } else { 0 };
            *tally.entry(what).or_default() += count;
        }
    }
    println!("{over:?}: {done} cases in {:.1} s", began.elapsed().as_secs_f64());
    for ((what, of), count) in &tally {
        println!("{over:?}: {what} {of}: {count}");
    }
    if alone.is_none() {
        assert!(done >= wanted);
        let kinds = |wanted: &str| tally.keys().filter(|(what, _)| *what == wanted).count();
        assert_eq!((kinds("dtype"), kinds("collective"), kinds("results")), (8, 8, 2), "something was never drawn");
    }
}

#[test]
fn shared_memory() {
    storm(Over::Shm, 30);
}

#[test]
fn tcp() {
    storm(Over::Tcp, 25);
}

#[test]
fn several_hosts() {
    storm(Over::Hosts, 15);
}

#[test]
fn simulated() {
    storm(Over::Simulated, 25);
}

#[test]
fn libfabric() {
    match crate::fabric::ofi::probe() {
        Ok(_) => storm(Over::Ofi, 5),
        Err(fault) => println!("skipped: {fault}"),
    }
}
