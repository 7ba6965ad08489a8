//! swarmloom-kernels
