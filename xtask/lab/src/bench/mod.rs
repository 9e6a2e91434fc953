//! The bench: our data path and its rivals, measured in turn in one run.

pub mod bed;
pub mod contender;
pub mod report;
pub mod rows;
