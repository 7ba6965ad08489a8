//! Everybody reduces its own part of all inputs, in rank order; then everybody collects the parts.

use std::ops::Range;

use super::draft::{Draft, Spot, Token};
use super::exchange::others;
use super::{BuildError, Cut, Ready, Task, part};
use crate::plan::{Buffer, Collective, Plan, Rank};

pub(super) fn prepare<'a>(task: &'a Task<'a>) -> Result<Ready<'a>, BuildError> {
    let (count, root) = match *task.collective {
        Collective::AllReduce { count } => (count, None),
        Collective::Reduce { root, count } => (count, Some(root)),
        _ => return Err(task.undefined("it is for all-reduce and reduce")),
    };
    let ranks = task.ranks();
    let areas: Vec<Areas> = (0..ranks).map(|rank| Areas::new(task, rank, root)).collect();
    let most = areas.iter().map(|areas| areas.all).max().unwrap_or(0);
    let deep = 2 * task.tuning.ahead + 2;
    let cut = task.cut(count.div_ceil(ranks), |chunk| chunk * most, 1, &[deep, 4, 1])?;
    Ok(Box::new(move || {
        let draft = Draft::new(task.layout, cut.grid(most));
        build(task, TwoShot { task, count, root, areas, cut, draft })
    }))
}

fn build(task: &Task<'_>, mut two_shot: TwoShot<'_>) -> Plan {
    let Cut { rounds, ahead, .. } = two_shot.cut;
    // Collecting a round comes after reducing the next one, so that the others have had time for it.
    let late = usize::from(ahead > 0);
    let mut offers = Vec::new();
    let mut results = Vec::new();
    for time in 0..rounds + ahead + late {
        if time < rounds {
            offers.push(two_shot.offer(time));
        }
        if time >= ahead && time < rounds + ahead {
            results.push(two_shot.reduce(time - ahead, &offers[time - ahead]));
        }
        if time >= ahead + late {
            two_shot.collect(time - ahead - late, &results[time - ahead - late]);
        }
    }
    task.finish(two_shot.draft)
}

/// Something on its way from one rank to another.
type Offer = Option<(Spot, Option<Token>)>;

/// Where the areas of a rank's scratch are.
#[derive(Debug)]
struct Areas {
    /// Ranks that read here what they reduce; their parts stand one after the other in the first areas.
    readers: Vec<Rank>,
    /// Here the readers find the result, and here it is put from where there is no output.
    result: usize,
    /// By rank: where it puts what this one reduces, and its result.
    inboxes: Vec<(usize, usize)>,
    all: usize,
}

impl Areas {
    fn new(task: &Task<'_>, rank: Rank, root: Option<Rank>) -> Self {
        let ranks = task.ranks();
        let readers: Vec<Rank> =
            (0..ranks).filter(|&other| other != rank && task.layout.reach(rank, other).load_scratch).collect();
        let result = readers.len();
        let keeps = !readers.is_empty() || root.is_some_and(|root| root != rank);
        let mut all = if keeps { result + 1 } else { 0 };
        let mut inboxes = vec![(0, 0); ranks];
        for other in others(rank, ranks).filter(|other| !readers.contains(other)) {
            inboxes[other] = (all, all + 1);
            all += if task.layout.reach(other, rank).put_output { 1 } else { 2 };
        }
        Self { readers, result, inboxes, all }
    }
}

struct TwoShot<'a> {
    task: &'a Task<'a>,
    count: usize,
    /// Who collects, where that is not everybody.
    root: Option<Rank>,
    areas: Vec<Areas>,
    cut: Cut,
    draft: Draft<'a>,
}

impl TwoShot<'_> {
    /// The elements that `owner` reduces in a round.
    fn part(&self, round: usize, owner: Rank) -> Range<usize> {
        let ranks = self.draft.ranks();
        let block = self.cut.chunk * ranks;
        let range = (round * block).min(self.count)..((round + 1) * block).min(self.count);
        part(range, owner, ranks, self.task.align())
    }

    fn spot(&self, rank: Rank, buffer: Buffer, part: &Range<usize>) -> Spot {
        Spot::user(rank, buffer, part.start, part.len())
    }

    /// Everybody gives every owner its part: what comes from whom (row) to whom (column).
    fn offer(&mut self, round: usize) -> Vec<Offer> {
        let ranks = self.draft.ranks();
        let mut offers = vec![None; ranks * ranks];
        for rank in 0..ranks {
            self.stage(rank, round);
            let mut staged = 0;
            for owner in self.areas[rank].readers.clone() {
                let len = self.part(round, owner).len();
                let spot = self.draft.cell(rank, round, 0, staged + len).part(staged, len);
                staged += len;
                offers[rank * ranks + owner] = Some((spot, None));
            }
            for owner in others(rank, ranks) {
                let part = self.part(round, owner);
                if part.is_empty() {
                    offers[rank * ranks + owner] = None;
                    continue;
                }
                if let Some((_, token)) = &mut offers[rank * ranks + owner] {
                    *token = self.draft.signal(rank, owner);
                    continue;
                }
                let to = self.draft.cell(owner, round, self.areas[owner].inboxes[rank].0, part.len());
                let token = self.draft.put(self.spot(rank, Buffer::Input, &part), to);
                offers[rank * ranks + owner] = Some((to, token));
            }
        }
        offers
    }

    /// Copies what the readers are to reduce into scratch: neighbouring parts in one go.
    fn stage(&mut self, rank: Rank, round: usize) {
        let mut run = 0..0;
        let mut done = 0;
        let readers = self.areas[rank].readers.clone();
        let parts: Vec<Range<usize>> = readers.iter().map(|&owner| self.part(round, owner)).collect();
        for (i, part) in parts.iter().enumerate() {
            run = if run.is_empty() { part.clone() } else { run.start..part.end };
            if parts.get(i + 1).is_none_or(|next| next.start != part.end) {
                let to = self.draft.cell(rank, round, 0, done + run.len()).part(done, run.len());
                self.draft.copy(rank, self.spot(rank, Buffer::Input, &run), to);
                done += run.len();
                run = 0..0;
            }
        }
    }

    /// Every owner reduces its part and gives it to all: what comes from whom (row) to whom (column).
    fn reduce(&mut self, round: usize, offers: &[Offer]) -> Vec<Offer> {
        let ranks = self.draft.ranks();
        let mut results = vec![None; ranks * ranks];
        for owner in 0..ranks {
            let part = self.part(round, owner);
            if part.is_empty() {
                continue;
            }
            let mut sources = vec![self.spot(owner, Buffer::Input, &part); ranks];
            for from in others(owner, ranks) {
                if let Some((spot, token)) = offers[from * ranks + owner] {
                    self.draft.wait(token);
                    sources[from] = spot;
                }
            }
            let output = self.spot(owner, Buffer::Output, &part);
            let staged = self.draft.cell(owner, round, self.areas[owner].result, part.len());
            let collects = |rank: Rank| self.root.is_none_or(|root| root == rank);
            let collectors: Vec<Rank> = others(owner, ranks).filter(|&to| collects(to)).collect();
            let read = collectors.iter().any(|&to| self.draft.reach(owner, to).load_scratch);
            let (places, from) = match (collects(owner), read) {
                (true, true) => (vec![output, staged], output),
                (true, false) => (vec![output], output),
                (false, _) => (vec![staged], staged),
            };
            self.draft.reduce(owner, &sources, &places);
            for to in collectors {
                let reach = self.draft.reach(owner, to);
                results[owner * ranks + to] = Some(if reach.load_scratch {
                    (staged, self.draft.signal(owner, to))
                } else if reach.put_output {
                    let there = self.spot(to, Buffer::Output, &part);
                    (there, self.draft.put(from, there))
                } else {
                    let there = self.draft.cell(to, round, self.areas[to].inboxes[owner].1, part.len());
                    (there, self.draft.put(from, there))
                });
            }
        }
        results
    }

    /// Everybody takes the parts of the others.
    fn collect(&mut self, round: usize, results: &[Offer]) {
        let ranks = self.draft.ranks();
        for rank in 0..ranks {
            for i in 1..ranks {
                let owner = (rank + ranks - i) % ranks;
                let Some((spot, token)) = results[owner * ranks + rank] else { continue };
                self.draft.wait(token);
                if spot.place.slice.buffer == Buffer::Scratch {
                    let part = self.part(round, owner);
                    self.draft.copy(rank, spot, self.spot(rank, Buffer::Output, &part));
                }
            }
        }
    }
}
