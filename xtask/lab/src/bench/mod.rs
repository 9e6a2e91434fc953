//! The bench: our data path and its rivals, measured in turn on one machine.

pub mod report;
