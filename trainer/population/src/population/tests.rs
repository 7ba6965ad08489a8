//! Tests of population.
