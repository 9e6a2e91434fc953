//! `overlay-cni`: what the container runtime calls to wire a pod, as the CNI specification has it.
//!
//! [`request`] reads a call, [`verbs`] act on it, [`spec`] has the words of the answer, [`ipam`] the addresses. The plugin needs what the
//! agent pinned on this node, but no running agent and no API server: it writes map entries and attaches the program itself, through
//! [`crate::pod`].
//!
//! The agent uses [`ipam::Store`] for the pods of its node and what is known of them.

pub mod configuration;
pub mod ipam;
pub mod request;
pub mod spec;
pub mod verbs;

use request::{Environment, Request};
use serde_json::Value;
use spec::{CniError, Version, code};
use std::io::{self, Read};

/// The largest configuration that is read. A GC of a node with 1,000 pods takes 100 KB.
const LONGEST_INPUT: u64 = 16 << 20;

/// The answer to one call.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// For standard output; nothing if the verb has no result.
    pub output: Option<Value>,
    /// Whether the call did what was asked.
    pub success: bool,
}

/// Answers one call: reads the configuration from `input` and does what `environment` says.
pub fn answer(environment: &Environment, input: impl Read) -> Answer {
    let input = match read(input) {
        Ok(input) => input,
        Err(error) => return Answer::failure(&CniError::new(code::IO, format!("cannot read standard input: {error}")), None),
    };
    // An error is told in the version of the configuration, whatever else is wrong with it.
    let version = configuration::parse(&input).and_then(|object| Version::of(object.get("cniVersion"))).ok();
    match Request::read(environment, input).and_then(|request| verbs::run(&request)) {
        Ok(output) => Answer { output, success: true },
        Err(error) => Answer::failure(&error, version),
    }
}

fn read(input: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(LONGEST_INPUT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Answer {
    fn failure(error: &CniError, version: Option<Version>) -> Self {
        Self { output: Some(error.report(version)), success: false }
    }
}
