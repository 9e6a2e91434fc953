//! The file that keeps a measurement: `measured.json` in the state directory.
//!
//! Written by `overlay-agent measure`, read when the agent starts. A file that cannot be read, or that tells of another kernel or of
//! other programs, counts as none.

use super::{Measurement, subject};
use crate::status::{StateDir, StatusError};
use serde::{Deserialize, Serialize};

/// Name of the file.
pub const RECORD: &str = "measured.json";

/// A measurement and what it is true of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Kernel and programs: [`subject`].
    pub subject: String,
    /// The figures.
    pub measurement: Measurement,
}

/// The file cannot be read or written.
pub type RecordError = StatusError;

impl Record {
    /// What is known of this kernel and these programs.
    #[must_use]
    pub fn load(state_dir: &StateDir) -> Option<Self> {
        let record: Self = state_dir.read_json(RECORD).ok()?;
        (record.subject == subject()).then_some(record)
    }

    /// Keeps a measurement that was just made here.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn store(state_dir: &StateDir, measurement: Measurement) -> Result<Self, RecordError> {
        let record = Self { subject: subject(), measurement };
        state_dir.write_json(RECORD, &record)?;
        Ok(record)
    }
}
