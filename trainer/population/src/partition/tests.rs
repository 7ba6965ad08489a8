//! Tests of partition.
