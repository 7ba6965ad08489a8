//! swarmloom-trainer
