//! Versions of the specification, and which verb came with which.

use super::CniError;
use super::error::code;
use serde_json::{Value, json};
use std::fmt;

/// A version of the specification that this plugin speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.3.1: results with interfaces, chains.
    V0_3_1,
    /// 0.4.0: CHECK, and `prevResult` on DEL.
    V0_4_0,
    /// 1.0.0: no address families in results.
    V1_0_0,
    /// 1.1.0: GC, STATUS, more fields in results.
    V1_1_0,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// The newest, for answers to those who named none.
    pub const NEWEST: Self = Self::V1_1_0;

    /// As it is written in `cniVersion`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version of a configuration, whose `cniVersion` this is.
    ///
    /// # Errors
    /// Code 1: it is another one, or there is none: which the specification takes for 0.1.0. Code 6: it is no text.
    pub fn of(written: Option<&Value>) -> Result<Self, CniError> {
        let named = written.and_then(Value::as_str);
        if let Some(value) = written.filter(|value| named.is_none() && !value.is_null()) {
            return Err(CniError::new(code::DECODE, format!("cniVersion is {value}, and not a text like \"1.0.0\"")));
        }
        named.and_then(|text| Self::ALL.into_iter().find(|version| version.name() == text)).ok_or_else(|| {
            let found = written.map_or_else(|| "none".to_owned(), ToString::to_string);
            let known = Self::ALL.map(Self::name).join(", ");
            CniError::new(code::INCOMPATIBLE_VERSION, format!("cniVersion is {found}, and this plugin speaks {known}"))
        })
    }

    /// The answer to VERSION: `cniVersion` as it was asked with.
    #[must_use]
    pub fn report(asked: &str) -> Value {
        json!({ "cniVersion": asked, "supportedVersions": Self::ALL.map(Self::name) })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a runtime asks for: `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Wire a container.
    Add,
    /// Take a container's wire away.
    Del,
    /// Look whether a container's wire is as ADD left it.
    Check,
    /// Tell whether ADD would work.
    Status,
    /// Take away what belongs to no container any more.
    Gc,
    /// Tell the versions this plugin speaks.
    Version,
}

impl Command {
    /// Every command.
    pub const ALL: [Self; 6] = [Self::Add, Self::Del, Self::Check, Self::Status, Self::Gc, Self::Version];

    /// As it is written in `CNI_COMMAND`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
            Self::Version => "VERSION",
        }
    }

    /// The version of the specification it came with.
    #[must_use]
    pub const fn since(self) -> Version {
        match self {
            Self::Add | Self::Del | Self::Version => Version::V0_3_1,
            Self::Check => Version::V0_4_0,
            Self::Status | Self::Gc => Version::V1_1_0,
        }
    }
}
