//! Who does what in the training of one model on a cluster: plans as plain data, made by pure functions.

pub mod cost;
pub mod draw;
pub mod latency;
pub mod mesh;
pub mod model;
pub mod partition;
pub mod plan;
pub mod schedule;
pub mod timeline;
pub mod topology;
