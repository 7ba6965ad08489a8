//! An independent judge: runs a plan on numbers, in a random order, with puts that land as late as they may.
//!
//! Nothing here is shared with the verifier. Steps that move data do so element by element, with others in between.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::plan::{Buffer, Collective, Guarantee, Place, Plan, Rank, Slice, Step};

/// An element: a sum, which tells whether every input is there once, and a mix, which tells the order as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Number {
    sum: u64,
    mix: u64,
}

impl Number {
    fn random(rng: &mut ChaCha8Rng) -> Self {
        Self { sum: rng.random(), mix: rng.random() }
    }

    /// In order, with one rounding at the end: a reduction of reductions gives another mix.
    fn reduce(numbers: impl Iterator<Item = Self>) -> Self {
        let mut all = numbers.enumerate();
        let (_, mut result) = all.next().expect("a source");
        let mut several = false;
        for (_, number) in all {
            result.sum = result.sum.wrapping_add(number.sum);
            result.mix = (result.mix.rotate_left(7) ^ number.mix).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            several = true;
        }
        if several {
            result.mix ^= result.mix >> 29;
        }
        result
    }
}

/// A put that has not landed yet.
#[derive(Debug)]
struct Flight {
    from: Rank,
    to: Place,
    source: Slice,
    /// Elements that have landed.
    done: usize,
    /// The signals of the pair that were sent before.
    signals: usize,
    /// What it carries, once its sender has ended.
    taken: Option<Vec<Number>>,
}

struct World<'a> {
    plan: &'a Plan,
    inputs: Vec<Vec<Number>>,
    outputs: Vec<Vec<Number>>,
    scratch: Vec<Vec<Number>>,
    packets: Vec<Option<Vec<Number>>>,
    /// By pair: sent and taken, of signals, packets, exposes.
    sent: Vec<[usize; 3]>,
    taken: Vec<[usize; 3]>,
    flights: Vec<Flight>,
    /// By rank: next step, and elements of it that are done.
    at: Vec<(usize, usize)>,
    ended: Vec<bool>,
}

/// Runs `plan` once; says what went wrong, if anything did.
pub(super) fn run(plan: &Plan, guarantee: Option<Guarantee>, rng: &mut ChaCha8Rng) -> Result<(), String> {
    let mut world = World::new(plan, rng);
    let wanted = wanted(plan, &world.inputs);
    let mut results = vec![Vec::new(); plan.ranks()];
    let mut begun = vec![false; plan.ranks()];
    // How often each rank and each flight gets its turn: sometimes one is much slower than all others.
    let weights: Vec<u32> = (0..=plan.ranks()).map(|_| if rng.random_range(0..3) == 0 { 1 } else { 40 }).collect();
    loop {
        let mut able: Vec<usize> = (0..plan.ranks()).filter(|&rank| world.able(rank)).collect();
        if able.is_empty() && !world.ended.iter().all(|ended| *ended) {
            return Err("it blocks".to_owned());
        }
        if able.is_empty() && world.flights.is_empty() {
            break;
        }
        if !world.flights.is_empty() {
            able.push(plan.ranks());
        }
        let total: u32 = able.iter().map(|&one| weights[one]).sum();
        let mut pick = rng.random_range(0..total);
        let one = *able
            .iter()
            .find(|&&one| {
                let found = pick < weights[one];
                pick = pick.wrapping_sub(weights[one]);
                found
            })
            .expect("one is picked");
        if one == plan.ranks() {
            let flight = rng.random_range(0..world.flights.len());
            let elements = rng.random_range(1..=world.flights[flight].source.len);
            world.land(flight, elements)?;
        } else if world.at[one].0 == plan.programs[one].len() {
            begun[one] = true;
            if plan.collective == Collective::Barrier && begun.contains(&false) {
                return Err(format!("rank {one} ends before all have begun"));
            }
            results[one] = world.outputs[one].clone();
            world.end(one, rng);
        } else {
            begun[one] = true;
            world.step(one, rng)?;
        }
    }
    if world.sent != world.taken {
        return Err("something is left over".to_owned());
    }
    for (rank, (result, wanted)) in results.iter().zip(&wanted).enumerate() {
        for (at, (found, wanted)) in result.iter().zip(wanted).enumerate() {
            let exact = guarantee.is_none_or(|guarantee| guarantee == Guarantee::RankOrder);
            if found.sum != wanted.sum || exact && found != wanted {
                return Err(format!("output {rank}[{at}] is wrong"));
            }
        }
    }
    if matches!(plan.collective, Collective::AllReduce { .. }) && results.iter().any(|result| *result != results[0]) {
        return Err("the outputs differ".to_owned());
    }
    Ok(())
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan, rng: &mut ChaCha8Rng) -> Self {
        let ranks = plan.ranks();
        let mut numbers = |len: usize| (0..len).map(|_| Number::random(rng)).collect::<Vec<_>>();
        Self {
            plan,
            inputs: (0..ranks).map(|rank| numbers(plan.collective.input_len(rank))).collect(),
            outputs: (0..ranks).map(|rank| numbers(plan.collective.output_len(rank))).collect(),
            scratch: (0..ranks).map(|_| numbers(plan.scratch)).collect(),
            packets: vec![None; ranks * ranks],
            sent: vec![[0; 3]; ranks * ranks],
            taken: vec![[0; 3]; ranks * ranks],
            flights: Vec::new(),
            at: vec![(0, 0); ranks],
            ended: vec![false; ranks],
        }
    }

    fn pair(&self, from: Rank, to: Rank) -> usize {
        from * self.plan.ranks() + to
    }

    /// Whether the rank can go on.
    fn able(&self, rank: Rank) -> bool {
        let there = |from: Rank, kind: usize| {
            let pair = self.pair(from, rank);
            self.sent[pair][kind] > self.taken[pair][kind]
        };
        match self.plan.programs[rank].get(self.at[rank].0) {
            None => !self.ended[rank],
            Some(Step::Wait { from }) => there(*from, 0),
            Some(Step::WaitPacket { from }) => there(*from, 1),
            Some(Step::Meet { from }) => there(*from, 2),
            Some(_) => true,
        }
    }

    /// Does some of the rank's next step.
    fn step(&mut self, rank: Rank, rng: &mut ChaCha8Rng) -> Result<(), String> {
        let plan = self.plan;
        let (step, done) = self.at[rank];
        match &plan.programs[rank][step] {
            Step::Put { from, to, signal } => {
                let pair = self.pair(rank, to.rank);
                let signals = self.sent[pair][0];
                self.flights.push(Flight { from: rank, to: *to, source: *from, done: 0, signals, taken: None });
                if *signal {
                    self.tell(rank, to.rank, 0);
                }
            }
            Step::Signal { to } => self.tell(rank, *to, 0),
            Step::Expose { to } => self.tell(rank, *to, 2),
            Step::Packet { from, to } => {
                let pair = self.pair(rank, *to);
                self.packets[pair] = Some(from.range().map(|at| self.get(from.of(rank), at - from.start)).collect());
                self.tell(rank, *to, 1);
            }
            Step::Wait { from } => {
                let pair = self.pair(*from, rank);
                self.taken[pair][0] += 1;
                let due = |flight: &Flight, seen: usize| {
                    flight.from == *from && flight.to.rank == rank && flight.signals < seen
                };
                while let Some(flight) = self.flights.iter().position(|flight| due(flight, self.taken[pair][0])) {
                    self.land(flight, usize::MAX)?;
                }
            }
            Step::WaitPacket { from } => self.take(*from, rank, 1),
            Step::Meet { from } => self.take(*from, rank, 2),
            Step::Copy { from, to } => {
                let end = rng.random_range(done + 1..=to.len);
                for at in done..end {
                    let number = self.get(*from, at);
                    self.set(to.of(rank), at, number)?;
                }
                if end < to.len {
                    self.at[rank].1 = end;
                    return Ok(());
                }
            }
            Step::Reduce { from, to } => {
                let end = rng.random_range(done + 1..=to[0].slice.len);
                for at in done..end {
                    let number = Number::reduce(from.iter().map(|place| self.get(*place, at)));
                    for place in to {
                        self.set(*place, at, number)?;
                    }
                }
                if end < to[0].slice.len {
                    self.at[rank].1 = end;
                    return Ok(());
                }
            }
        }
        self.at[rank] = (step + 1, 0);
        Ok(())
    }

    fn tell(&mut self, from: Rank, to: Rank, kind: usize) {
        let pair = self.pair(from, to);
        self.sent[pair][kind] += 1;
    }

    fn take(&mut self, from: Rank, to: Rank, kind: usize) {
        let pair = self.pair(from, to);
        self.taken[pair][kind] += 1;
    }

    /// Some elements of a put land; they are read where they are now.
    fn land(&mut self, index: usize, elements: usize) -> Result<(), String> {
        let flight = &self.flights[index];
        let (from, to, source, done) = (flight.from, flight.to, flight.source, flight.done);
        let end = done.saturating_add(elements).min(source.len);
        for at in done..end {
            let number = match &self.flights[index].taken {
                Some(taken) => taken[at],
                None => self.get(source.of(from), at),
            };
            self.set(to, at, number)?;
        }
        self.flights[index].done = end;
        if end == source.len {
            self.flights.swap_remove(index);
        }
        Ok(())
    }

    /// The rank ends: what it puts has left, and its caller does with its buffers what it likes.
    fn end(&mut self, rank: Rank, rng: &mut ChaCha8Rng) {
        for index in 0..self.flights.len() {
            let Flight { from, source, .. } = self.flights[index];
            if from == rank && self.flights[index].taken.is_none() {
                let taken = (0..source.len).map(|at| self.get(source.of(from), at)).collect();
                self.flights[index].taken = Some(taken);
            }
        }
        self.ended[rank] = true;
        self.inputs[rank].iter_mut().chain(&mut self.outputs[rank]).for_each(|number| *number = Number::random(rng));
    }

    fn get(&self, place: Place, at: usize) -> Number {
        let Place { rank, slice } = place;
        let at = slice.start + at;
        match slice.buffer {
            Buffer::Input => self.inputs[rank][at],
            Buffer::Output => self.outputs[rank][at],
            Buffer::Scratch => self.scratch[rank][at],
            Buffer::Packet(from) => {
                self.packets[self.pair(from, rank)].as_ref().expect("a packet that was waited for")[at]
            }
        }
    }

    fn set(&mut self, place: Place, at: usize, number: Number) -> Result<(), String> {
        let Place { rank, slice } = place;
        let at = slice.start + at;
        match slice.buffer {
            Buffer::Output if self.ended[rank] => return Err(format!("output {rank} is written after its end")),
            Buffer::Output => self.outputs[rank][at] = number,
            _ => self.scratch[rank][at] = number,
        }
        Ok(())
    }
}

/// What every output has to be in the end.
fn wanted(plan: &Plan, inputs: &[Vec<Number>]) -> Vec<Vec<Number>> {
    let ranks = plan.ranks();
    let reduced = |range: std::ops::Range<usize>| -> Vec<Number> {
        range.map(|at| Number::reduce(inputs.iter().map(|input| input[at]))).collect()
    };
    let after = |lens: &[usize]| lens.iter().sum::<usize>();
    (0..ranks)
        .map(|rank| match &plan.collective {
            Collective::AllReduce { count } => reduced(0..*count),
            Collective::ReduceScatter { parts } => reduced(after(&parts[..rank])..after(&parts[..=rank])),
            Collective::AllGather { .. } => inputs.concat(),
            Collective::Broadcast { root, .. } => inputs[*root].clone(),
            Collective::Reduce { root, count } => {
                if rank == *root {
                    reduced(0..*count)
                } else {
                    Vec::new()
                }
            }
            Collective::AllToAll { counts } => {
                let mut all = Vec::new();
                for (from, row) in counts.iter().enumerate() {
                    all.extend_from_slice(&inputs[from][after(&row[..rank])..after(&row[..=rank])]);
                }
                all
            }
            Collective::Barrier => Vec::new(),
            Collective::Send { from, to, .. } => {
                if rank == *to {
                    inputs[*from].clone()
                } else {
                    Vec::new()
                }
            }
        })
        .collect()
}
