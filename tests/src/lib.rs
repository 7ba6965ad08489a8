//! swarmloom-tests
