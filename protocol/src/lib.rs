//! swarmloom-protocol
