//! swarmloom-net
