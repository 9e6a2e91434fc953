//! Objects whose keys are matched as Go's `encoding/json` matches them: in any case.

use crate::config::nearest;
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::fmt;

/// A key of a flannel file that cannot be used as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadKey {
    /// Where, from the root of the file: `Backend.VNI`.
    pub path: String,
    /// What is wrong with it, and how to mend it.
    pub what: String,
}

impl fmt::Display for BadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path, self.what)
    }
}

impl std::error::Error for BadKey {}

/// An object with every key checked.
pub(super) struct Object<'a> {
    prefix: String,
    values: Vec<(&'static str, &'a Value)>,
}

impl<'a> Object<'a> {
    /// Takes an object whose keys are all among `known`. `prefix`: the path to it, with a dot at the end, or nothing.
    pub(super) fn new(object: &'a Map<String, Value>, prefix: &str, known: &[&'static str]) -> Result<Self, BadKey> {
        let mut values: Vec<(&'static str, &Value)> = Vec::new();
        for (key, value) in object {
            let Some(name) = known.iter().copied().find(|name| name.eq_ignore_ascii_case(key)) else {
                let hint =
                    nearest(key, known).map_or_else(|| format!("known are {}", known.join(", ")), |near| format!("did you mean {near}?"));
                return Err(BadKey { path: format!("{prefix}{key}"), what: format!("is no key of this file; {hint}") });
            };
            if values.iter().any(|(taken, _)| *taken == name) {
                return Err(BadKey { path: format!("{prefix}{key}"), what: "is there more than once".to_owned() });
            }
            values.push((name, value));
        }
        Ok(Self { prefix: prefix.to_owned(), values })
    }

    /// The value of a key; absent and `null` are the same.
    pub(super) fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, BadKey> {
        let Some((_, value)) = self.values.iter().find(|(name, _)| *name == key) else { return Ok(None) };
        Option::deserialize(*value).map_err(|error| self.bad(key, &format!("is {value}: {error}")))
    }

    /// A complaint about one of the keys.
    pub(super) fn bad(&self, key: &str, what: &str) -> BadKey {
        BadKey { path: format!("{}{key}", self.prefix), what: what.to_owned() }
    }
}

/// The text of a file as a JSON object.
pub(super) fn object(text: &str) -> Result<Map<String, Value>, BadKey> {
    serde_json::from_str(text).map_err(|error| BadKey { path: "the file".to_owned(), what: format!("is no JSON object: {error}") })
}
