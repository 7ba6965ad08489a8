//! The tasks of a run, ready to ask and to score: what joins the protocol's idea of a question
//! (task, seed, index) with the machinery that makes it.

use std::sync::Arc;

use ring::digest;
use swarmloom_protocol::run::{RunLimits, RunSpec, TaskSpec};
use swarmloom_tasks::{Mode, Task};

use crate::config::{ConfigErrors, Located, RunFile, RunTable, locate};

/// A run's tasks, in the run's order.
#[derive(Debug, Clone)]
pub(crate) struct TaskBook {
    entries: Arc<Vec<Entry>>,
}

/// One task of a run.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The name within the run.
    pub(crate) label: String,
    /// The machinery.
    pub(crate) task: Task,
    /// How often the run draws it.
    pub(crate) weight: u32,
}

