//! The groups that one rank of a mesh is in: replicas of its parameters, sharers of its layers, neighbours in its pipeline.
//!
//! Each has connections and a thread of its own: activations, gradients and reductions go their ways while the rank
//! computes. What is sent in one direction arrives in the order in which the schedule makes it.

use std::collections::BTreeMap;
use std::time::Duration;

use swarmloom_collectives::fault::Fault;
use swarmloom_collectives::queue::{Pending, PendingError, Queue};
use swarmloom_collectives::{Group, GroupConfig};
use tch::{Kind, Tensor};

use super::CausalError;
use crate::collective::{self, TensorCollectiveError};

/// Where a rank stands in a mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// Its pipeline stage, and how many there are.
    pub stage: usize,
    /// How many there are.
    pub stages: usize,
    /// Which replica of the stage it is, or is a part of.
    pub replica: usize,
    /// How many there are.
    pub replicas: usize,
    /// Which share of each layer it has.
    pub tensor_rank: usize,
    /// How many there are.
    pub tensor_ranks: usize,
}

impl Seat {
    /// The seat of a position in a mesh whose slowest axis is the pipeline and whose fastest the tensor: as Megatron-LM
    /// orders its groups with the pipeline outermost.
    pub fn at(position: usize, (stages, replicas, tensor_ranks): (usize, usize, usize)) -> Self {
        let of_stage = replicas * tensor_ranks;
        let (stage, within) = (position / of_stage, position % of_stage);
        let (replica, tensor_rank) = (within / tensor_ranks, within % tensor_ranks);
        Self { stage, stages, replica, replicas, tensor_rank, tensor_ranks }
    }

    /// Which pipeline it is in.
    fn column(&self) -> usize {
        self.replica * self.tensor_ranks + self.tensor_rank
    }

    fn columns(&self) -> usize {
        self.replicas * self.tensor_ranks
    }
}

/// What goes from one stage to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cargo {
    Activation,
    Gradient,
}

/// The groups of one rank.
#[derive(Debug)]
pub struct Links {
    pub(super) seat: Seat,
    pub(super) data: Option<Queue>,
    pub(super) tensor: Option<Group>,
    /// The first and the last stage, where both hold the embedding.
    pub(super) ends: Option<Group>,
    /// What leaves, by cargo; and what comes.
    out: BTreeMap<Cargo, Wire>,
    into: BTreeMap<Cargo, Wire>,
    patience: Duration,
}

impl Drop for Links {
    fn drop(&mut self) {
        // What is still under way would keep its thread, and the others, until its time is over.
        let queues = self.data.iter().chain(self.out.values().chain(self.into.values()).map(|wire| &wire.queue));
        for queue in queues {
            queue.aborter().raise(Fault::Aborted { by: 0, why: "this rank has ended its training".into() });
        }
    }
}

/// One direction between two stages.
#[derive(Debug)]
struct Wire {
    queue: Queue,
    /// The other rank of the two.
    peer: usize,
}

/// What is on its way.
#[derive(Debug)]
pub struct Coming<T>(Pending<Result<T, TensorCollectiveError>>);

/// How the groups of a rank are made.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// Of all groups alike, but for the cores: who waits on a thread of its own gives the core to who computes.
    pub group: GroupConfig,
    /// How long setting one up may take.
    pub timeout: Duration,
    /// Whether the last stage's output comes back to the first: more than one chunk a stage.
    pub ring: bool,
    /// Whether the embedding is the output layer, too.
    pub tied: bool,
    /// Messages of one step in one direction at most.
    pub messages: usize,
}

impl Links {
    /// Makes all groups of this rank: a collective call on `world`, with the same settings on all ranks.
    ///
    /// # Errors
    /// [`CausalError`].
    pub fn make(world: &mut Group, seat: Seat, config: &LinkConfig) -> Result<Self, CausalError> {
        let beside = GroupConfig { cores: 1, ..config.group.clone() };
        let mut split = |colour: Option<usize>, config_of: &GroupConfig| {
            world.split(colour, config_of.clone(), config.timeout).map_err(TensorCollectiveError::from)
        };
        let queue = |group: Group| Queue::new(group, config.messages.max(64)).map_err(CausalError::Thread);
        let shared = seat.stage * seat.tensor_ranks + seat.tensor_rank;
        let data = split((seat.replicas > 1).then_some(shared), &beside)?.map(queue).transpose()?;
        let sharers = seat.stage * seat.replicas + seat.replica;
        let tensor = split((seat.tensor_ranks > 1).then_some(sharers), &config.group)?;
        let at_end = seat.stages > 1 && config.tied && (seat.stage == 0 || seat.stage + 1 == seat.stages);
        let ends = split(at_end.then_some(seat.column()), &config.group)?;
        let (mut out, mut into) = (BTreeMap::new(), BTreeMap::new());
        // The boundary after stage `s`; every other one can be made at once, the last to the first apart from all.
        let last = seat.stages - 1;
        for cargo in [Cargo::Activation, Cargo::Gradient] {
            for turn in 0..3 {
                let of_turn = |boundary: usize| match boundary == last {
                    true => turn == 2 && config.ring && seat.stages > 1,
                    false => boundary % 2 == turn,
                };
                let before = (seat.stage + seat.stages - 1) % seat.stages;
                // Of the two boundaries of a stage, at most one is of a turn.
                let boundary = [seat.stage, before].into_iter().find(|boundary| of_turn(*boundary));
                let colour = boundary.map(|boundary| boundary * seat.columns() + seat.column());
                let Some(group) = split(colour, &beside)? else { continue };
                let peer = 1 - group.rank();
                let wire = Wire { queue: queue(group)?, peer };
                let leaves = (boundary == Some(seat.stage)) == (cargo == Cargo::Activation);
                if leaves {
                    out.insert(cargo, wire)
                } else {
                    into.insert(cargo, wire)
                };
            }
        }
        Ok(Self { seat, data, tensor, ends, out, into, patience: config.group.timeout })
    }

    /// Gives a tensor to the stage that its cargo goes to.
    pub(super) fn send(&self, cargo: Cargo, tensor: Tensor) -> Result<Coming<()>, CausalError> {
        let wire = self.out.get(&cargo).ok_or_else(|| CausalError::Schedule(format!("no stage takes a {cargo:?}")))?;
        let peer = wire.peer;
        Ok(Coming(wire.queue.submit(move |group| collective::send(group, &tensor, peer))))
    }

    /// Takes the next tensor of its cargo.
    pub(super) fn receive(&self, cargo: Cargo, (shape, kind): (Vec<i64>, Kind)) -> Result<Coming<Tensor>, CausalError> {
        let wire = self.into.get(&cargo).ok_or_else(|| CausalError::Schedule(format!("no stage gives a {cargo:?}")))?;
        let peer = wire.peer;
        Ok(Coming(wire.queue.submit(move |group| collective::receive(group, (&shape, kind), peer))))
    }

    /// Has the replicas do something together, beside what this rank does; `None` where there are no others.
    pub(super) fn replicas<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Group) -> Result<T, TensorCollectiveError> + Send + 'static,
    ) -> Option<Coming<T>> {
        self.data.as_ref().map(|queue| Coming(queue.submit(job)))
    }

    /// Waits for what is on its way. Twice the time of an operation: the one before it may take as long.
    pub(super) fn wait<T>(&self, coming: &Coming<T>) -> Result<T, CausalError> {
        match coming.0.wait(2 * self.patience) {
            Ok(done) => Ok(done?),
            Err(PendingError::Gone) => Err(CausalError::Link("its thread has ended".into())),
            Err(_) => Err(CausalError::Link(format!("nothing came within {} s", 2 * self.patience.as_secs()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_follow_the_order_of_the_mesh() {
        let at = |position| {
            let seat = Seat::at(position, (2, 3, 2));
            (seat.stage, seat.replica, seat.tensor_rank)
        };
        assert_eq!([0, 1, 2, 5, 6, 11].map(at), [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 2, 1), (1, 0, 0), (1, 2, 1)]);
    }
}
