//! How a verb ends without success: a failure (exit code 1) or a refusal (exit code 2).
//!
//! A refusal is something only the person at the keyboard can change: a missing privilege, a system xtask cannot install on. It is one
//! sentence that names the command to run.

use crate::place;
use std::fmt;
use std::process::ExitCode;

/// One sentence saying what has to be done, and by which command, before the verb can work.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// Refuses to go on without root's rights: `why` is what needs them, `command` what to run.
pub(crate) fn unless_root(why: &str, command: &str) -> Result<(), Refusal> {
    if place::is_root() {
        Ok(())
    } else {
        Err(Refusal(format!("{why}, which only root may: run sudo env \"PATH=$PATH\" \"HOME=$HOME\" {command}")))
    }
}

/// A child whose own words the user has already read; only its exit code is left to pass on.
#[derive(Debug)]
pub(crate) struct ChildFailed(pub(crate) u8);

impl fmt::Display for ChildFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {}", self.0)
    }
}

impl std::error::Error for ChildFailed {}

/// Prints the error and chooses the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if let Some(ChildFailed(code)) = error.downcast_ref() {
        // Whoever started the child may have something to add.
        if error.chain().len() > 1 {
            eprintln!("xtask: {error}");
        }
        return ExitCode::from(*code);
    }
    if let Some(refusal) = error.downcast_ref::<Refusal>() {
        eprintln!("xtask: {refusal}");
        return ExitCode::from(2);
    }
    eprintln!("xtask: {error:#}");
    ExitCode::FAILURE
}
