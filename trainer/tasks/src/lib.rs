//! swarmloom-tasks
