//! What can be wrong with the configuration, in words that name what to change.

use super::{FileProblem, known_names};
use std::fmt;
use std::path::PathBuf;

/// The configuration cannot be used. The text names what to change.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration file is not a YAML mapping.
    #[error("the configuration file {} is not a list of `name: value` lines: {reason}", path.display())]
    NotYaml {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
    /// Names or values in the configuration file are wrong; all of them are listed.
    #[error("{}", told(problems))]
    Wrong {
        /// One per wrong line.
        problems: Vec<Problem>,
    },
    /// A file that a setting names cannot be used.
    #[error("{name}: {}: {problem}", path.display())]
    BadFile {
        /// The setting.
        name: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: FileProblem,
    },
    /// Only one of the runtime's two directories is set.
    #[error("{set} is set and {missing} is not: a list of plugins without the plugin, or the other way round, starts no pod")]
    HalfARuntime {
        /// The setting that is there.
        set: &'static str,
        /// The one that is missing.
        missing: &'static str,
    },
    /// There is no Node object to write to.
    #[error("publish is set, and the nodes come from a file: there is no Node object to write to; remove publish or nodes-file")]
    NothingToPublishTo,
    /// The host has no name and none is configured.
    #[error("cannot tell the name of this node ({0}); set it with --node-name or NODE_NAME")]
    NoNodeName(String),
}

/// One wrong line of the configuration file.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// Line, from 1.
    pub line: u64,
    /// What is wrong and how to mend it.
    pub what: Wrong,
}

/// What can be wrong with a line of the configuration file.
#[derive(Debug, PartialEq, Eq)]
pub enum Wrong {
    /// No setting has this name.
    UnknownName {
        /// The name.
        name: String,
        /// The known name it most likely means.
        nearest: Option<String>,
    },
    /// The setting cannot have this value.
    BadValue {
        /// The setting.
        name: String,
        /// The value as written.
        value: String,
        /// What the value has to be.
        fix: String,
    },
}

/// Every problem in a line of its own, and the known names if one was not known.
fn told(problems: &[Problem]) -> String {
    let mut lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    if problems.iter().any(|problem| matches!(problem.what, Wrong::UnknownName { .. })) {
        lines.push(format!("known settings: {}", known_names().join(", ")));
    }
    lines.join("\n")
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.path.display(), self.line)?;
        match &self.what {
            Wrong::UnknownName { name, nearest } => {
                write!(f, "unknown setting {name:?}")?;
                if let Some(nearest) = nearest {
                    write!(f, "; did you mean \"{nearest}\"?")?;
                }
                Ok(())
            }
            Wrong::BadValue { name, value, fix } => write!(f, "{name}: {value} cannot be used: {fix}"),
        }
    }
}
