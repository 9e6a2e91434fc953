//! Measurements: our data path and its rivals, alternately in one run.

pub mod rows;
