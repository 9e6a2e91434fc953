//! What the rows of the table do, one module each: functions that measure once and return what they found.

pub mod memory;
pub mod start;
