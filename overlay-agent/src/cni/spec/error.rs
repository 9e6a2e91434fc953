//! What the plugin says when it fails: a code that a runtime branches on, and a sentence for a person.

use super::Version;
use serde_json::{Value, json};
use std::fmt;

/// Error codes: below 100 the specification's, from 100 on this plugin's own.
pub mod code {
    /// The version of the configuration is not spoken here.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A key of the configuration is unknown here; the message holds key and value.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// There is no such container; no DEL is needed.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// An environment variable is missing or wrong; the message names it.
    pub const BAD_ENVIRONMENT: u32 = 4;
    /// Input or output failed.
    pub const IO: u32 = 5;
    /// The configuration is no JSON object.
    pub const DECODE: u32 = 6;
    /// A value of the configuration is missing or wrong; the message names its key.
    pub const BAD_CONFIGURATION: u32 = 7;
    /// It would work later: the agent has not prepared the node yet, or every address is taken until a pod goes.
    pub const TRY_AGAIN_LATER: u32 = 11;
    /// STATUS: ADD would fail.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: ADD would fail, and containers that were added before may be cut off.
    pub const LIMITED_CONNECTIVITY: u32 = 51;
    /// Own: the interface exists already, in the container or on the node.
    pub const ALREADY_THERE: u32 = 100;
    /// Own: CHECK found damage; `details` lists it.
    pub const DAMAGED: u32 = 101;
    /// Own: the address asked for is another container's.
    pub const ADDRESS_TAKEN: u32 = 102;
    /// Own: the kernel refused a device, a route, a map entry or a program.
    pub const KERNEL: u32 = 103;
    /// Own: the file with the addresses cannot be understood.
    pub const STATE: u32 = 104;
    /// Own: another plugin, asked for an address, could not be run or answered nothing that can be understood.
    pub const DELEGATE: u32 = 105;
}

/// A failure as the runtime is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniError {
    /// One of [`code`], or what a delegated plugin answered.
    pub code: u32,
    /// One sentence that names the thing and the way to mend it.
    pub msg: String,
    /// More, if there is more; may be empty.
    pub details: String,
}

impl CniError {
    /// A failure of one sentence.
    #[must_use]
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// The same with more to say.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The error object, in the version of the configuration if that was understood.
    #[must_use]
    pub fn report(&self, version: Option<Version>) -> Value {
        let mut object = json!({ "cniVersion": version.unwrap_or(Version::NEWEST).name(), "code": self.code, "msg": self.msg });
        if !self.details.is_empty() {
            object["details"] = self.details.clone().into();
        }
        object
    }
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.msg)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, " ({})", self.details) }
    }
}

impl std::error::Error for CniError {}
