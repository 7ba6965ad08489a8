//! What a training thread is told before it starts: plain data, made from the run file.

use swarmloom_protocol::id::{PeerKey, RunId};
use swarmloom_protocol::run::RunSpec;
use swarmloom_protocol::selection::top_up;
use swarmloom_trainer::device::Device;
use swarmloom_trainer::learner::LearnerConfig;
use swarmloom_trainer::losses::Loss;
use swarmloom_trainer::model::{self, ModelConfig};

use super::curriculum::own_seed;
use crate::book::TaskBook;
use crate::config::{PeerTable, RuleName, RunFile, SharingTable, TrainingTable};

/// A peer's training, settled.
#[derive(Debug, Clone)]
pub(crate) struct Course {
    /// The run.
    pub(crate) run: RunId,
    /// This peer.
    pub(crate) key: PeerKey,
    /// The run's tasks.
    pub(crate) book: TaskBook,
    /// Which of them this peer asks itself, one weight per task of the run.
    pub(crate) weights: Vec<u32>,
    /// `[peer]`.
    pub(crate) peer: PeerTable,
    /// `[sharing]`.
    pub(crate) sharing: SharingTable,
    /// `[training]`.
    pub(crate) training: TrainingTable,
    /// The model's shape.
    pub(crate) model: ModelConfig,
    /// Where training computes.
    pub(crate) device: Device,
    /// Compute threads.
    pub(crate) threads: usize,
    /// How the learner learns.
    pub(crate) learner: LearnerConfig,
}

impl Course {
    /// Settles a file's tables for a run, whose description may have come from elsewhere. `cores`: the machine's, for where
    /// the file names no number of threads.
    ///
    /// # Errors
    /// All that does not go together, by field: a model or a device that does not exist, a context too short for a task,
    /// settings that the run does not allow or that name tasks it does not have.
    pub(crate) fn settle(
        file: &RunFile,
        spec: &RunSpec,
        key: PeerKey,
        book: TaskBook,
        cores: usize,
    ) -> Result<Self, Vec<(String, String)>> {
        let mut wrong = Vec::new();
        let known: Vec<&str> = model::presets().iter().map(|preset| preset.0).collect();
        let shape = model::preset(&file.peer.model);
        if shape.is_none() {
            let why = format!("{:?} is not a model preset; there are {}", file.peer.model, known.join(", "));
            wrong.push(("peer.model".to_owned(), why));
        }
        let device = file.peer.device.parse::<Device>().and_then(Device::resolve);
        if let Err(error) = &device {
            wrong.push(("peer.device".to_owned(), format!("{error}")));
        }
        if let Some(shape) = &shape {
            for entry in book.entries() {
                let needed = entry.max_prompt_bytes() + entry.max_target_bytes() + 2;
                if needed > shape.max_position_embeddings {
                    wrong.push((
                        "peer.model".to_owned(),
                        format!(
                            "task {:?} needs {needed} positions, {} has {}",
                            entry.label, file.peer.model, shape.max_position_embeddings
                        ),
                    ));
                }
            }
        }
        let labels: Vec<&str> = spec.tasks.iter().map(|task| task.label.as_str()).collect();
        wrong.extend(file.against(&labels, spec.held_out, spec.limits.max_completions));
        let learner = learner(file);
        if let Err(error) = learner.validate() {
            wrong.push(("training".to_owned(), error.to_string()));
        }
        let (Some(model), Ok(device), true) = (shape, device, wrong.is_empty()) else { return Err(wrong) };
        let weights = book
            .entries()
            .iter()
            .map(|entry| match file.peer.tasks.is_empty() {
                true => entry.weight,
                false => file.peer.tasks.get(&entry.label).copied().unwrap_or(0),
            })
            .collect();
        Ok(Self {
            run: spec.id(),
            key,
            book,
            weights,
            peer: PeerTable { seed: own_seed(&key, file.peer.seed), ..file.peer.clone() },
            sharing: file.sharing.clone(),
            training: TrainingTable {
                // A completion has no more bytes than tokens: none becomes longer than the run allows.
                max_new_tokens: Some(
                    file.training.max_new_tokens.unwrap_or(u32::MAX).min(spec.limits.max_completion_bytes),
                ),
                ..file.training.clone()
            },
            model,
            device,
            threads: file.limits.threads.map_or(cores, |threads| threads as usize),
            learner,
        })
    }

    /// Own groups of a step in which `external` groups of others were found. Short pools are topped up.
    pub(crate) fn local_groups(&self, external: usize) -> usize {
        let sharing = &self.sharing;
        let found = u32::try_from(external).unwrap_or(u32::MAX);
        (sharing.local + top_up(sharing.local, sharing.external, found, sharing.top_up)) as usize
    }

    /// Groups of others that a step asks for.
    pub(crate) fn wanted(&self) -> usize {
        self.sharing.external as usize
    }

    /// Examples of the warm start, one number per task of the run.
    pub(crate) fn warm_examples(&self) -> Vec<u32> {
        let stated = &self.peer.warm_start.examples;
        let entries = self.book.entries().iter().zip(&self.weights);
        entries
            .map(|(entry, weight)| match stated.is_empty() {
                true => {
                    if *weight > 0 {
                        400
                    } else {
                        0
                    }
                }
                false => stated.get(&entry.label).copied().unwrap_or(0),
            })
            .collect()
    }
}

fn learner(file: &RunFile) -> LearnerConfig {
    let training = &file.training;
    LearnerConfig {
        loss: match training.loss.as_str() {
            "dr-grpo" => Loss::DrGrpo,
            "cispo" => Loss::Cispo,
            "gspo" => Loss::Gspo,
            _ => Loss::Grpo,
        },
        kl_weight: training.kl_weight,
        ratio_cap: training.ratio_cap,
        updates_per_step: training.updates_per_step as usize,
        max_grad_norm: training.max_grad_norm,
        micro_batch_tokens: training.micro_batch_tokens as usize,
        imitation_weight: if file.sharing.rule == RuleName::Imitation { file.sharing.imitation_weight } else { 0.0 },
        filter_zero_advantage: training.filter_zero_advantage,
        ..LearnerConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::tests::small_run;

    #[test]
    fn settings_are_held_against_a_run_that_came_from_elsewhere() {
        let (mut spec, book) = small_run();
        spec.limits.max_completions = 4;
        spec.limits.max_completion_bytes = 7;
        let mut file = RunFile::settings_only();
        file.peer.device = "cpu".into();
        file.peer.tasks.insert("chess".into(), 1);
        file.training.ratio_cap = Some(1.1);
        let settle = |file: &RunFile| Course::settle(file, &spec, PeerKey([1; 32]), book.clone(), 2);
        let wrong: Vec<String> = settle(&file).expect_err("wrong").into_iter().map(|(field, _)| field).collect();
        assert_eq!(wrong, ["peer.tasks.chess", "training.group_size", "training"]);
        file.training = TrainingTable { group_size: 4, ..TrainingTable::default() };
        file.peer.tasks.clear();
        let course = settle(&file).expect("settled");
        assert_eq!((course.weights.as_slice(), course.threads), ([1, 3].as_slice(), 2));
        assert_eq!(course.training.max_new_tokens, Some(7));
        // Four own groups, and up to four more where others' 32 are short.
        assert_eq!([0, 30, 32, 40].map(|found| course.local_groups(found)), [8, 6, 4, 4]);
    }
}
