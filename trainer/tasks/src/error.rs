//! What can be wrong with a task.

/// Why there is no task or no item.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// No task and no preset has this name.
    #[error("there is no task {name:?}; there are {known}")]
    UnknownTask {
        /// What was asked for.
        name: String,
        /// The names of all tasks and presets, separated by commas.
        known: String,
    },
    /// A field of the configuration is unknown, of the wrong type or out of range.
    #[error("configuration field `{field}`: {message}")]
    Config {
        /// The field; empty if the configuration as a whole is wrong.
        field: String,
        /// What it is and what it may be.
        message: String,
    },
    /// A configuration so narrow that no item was found in a bounded number of draws.
    #[error("{task}: no item for seed {seed} and index {index} in {draws} draws; widen the configuration")]
    Generation {
        /// The task.
        task: String,
        /// The seed.
        seed: u64,
        /// The index.
        index: u64,
        /// Draws that were made.
        draws: u32,
    },
}
