//! What is kept of an object of the API while it is read: the few fields of a Node that are used, and those of a `Status`.
//!
//! Pure. A Node is 5 to 50 kB of text, nearly all of it images, conditions and managedFields that nobody here asks for: they are skipped
//! while the text is read and never become values. Nothing has a type yet, so a field of the wrong kind costs no more than its node, and
//! [`Candidate::read`](super::nodes::Candidate::read) judges what is left exactly as it would the whole object.

use super::nodes::{Candidate, UNREADABLE};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// An object of the API, reduced to [`KEPT`].
#[derive(Clone, Debug, PartialEq)]
pub struct Object(pub Value);

/// What to keep of a value.
#[derive(Clone, Copy, Debug)]
enum Keep {
    /// All of it.
    All,
    /// If it is a mapping: these keys of it.
    Keys(&'static [(&'static str, Keep)]),
}

/// The fields that are read anywhere in `cluster`: a new one has to be named here.
const KEPT: Keep = Keep::Keys(&[
    ("kind", Keep::All),
    (
        "metadata",
        Keep::Keys(&[
            ("name", Keep::All),
            ("uid", Keep::All),
            ("creationTimestamp", Keep::All),
            ("resourceVersion", Keep::All),
            ("annotations", Keep::All),
        ]),
    ),
    ("spec", Keep::Keys(&[("podCIDR", Keep::All), ("podCIDRs", Keep::All)])),
    ("status", Keep::Keys(&[("addresses", Keep::All)])),
    // Of a Status, which an answer or an event may be instead.
    ("code", Keep::All),
    ("reason", Keep::All),
    ("message", Keep::All),
    ("details", Keep::Keys(&[("retryAfterSeconds", Keep::All)])),
]);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        KEPT.deserialize(deserializer).map(Self)
    }
}

impl Object {
    /// The text at `metadata.<key>`, if there is one and it is not empty.
    #[must_use]
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.0.get("metadata")?.get(key)?.as_str().filter(|text| !text.is_empty())
    }

    /// Whether it says that it is something else than a Node: it tells nothing of any node then, whatever its name.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        !self.0.is_object() || self.0.get("kind").is_some_and(|kind| kind != "Node")
    }

    /// What it says of a node. `position` counts from 1 and names an item without a name.
    ///
    /// Kubernetes never makes a Node whose parts are of another kind than they should be. Such a one was damaged on the way, and must not
    /// be taken for a node that has lost its podCIDR.
    #[must_use]
    pub fn candidate(&self, position: usize) -> Candidate {
        let candidate = Candidate::read(&self.0, position);
        let misshapen = ["metadata", "spec", "status"].into_iter().find(|part| self.0.get(part).is_some_and(|value| !value.is_object()));
        match misshapen {
            Some(part) => Candidate { node: Err(format!("{UNREADABLE}: its {part} is no mapping")), ..candidate },
            None => candidate,
        }
    }

    /// Its resource version, if that is a number: others cannot be compared.
    #[must_use]
    pub fn version(&self) -> Option<u64> {
        self.metadata("resourceVersion")?.parse().ok()
    }
}

impl<'de> DeserializeSeed<'de> for Keep {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self {
            Self::All => Value::deserialize(deserializer),
            Self::Keys(_) => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Keep {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let Self::Keys(keys) = self else { return Value::deserialize(serde::de::value::MapAccessDeserializer::new(map)) };
        let mut kept = Map::new();
        while let Some(wanted) = map.next_key_seed(Wanted(keys))? {
            match wanted {
                Some((key, keep)) => drop(kept.insert((*key).to_owned(), map.next_value_seed(*keep)?)),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Value::Object(kept))
    }

    // What is no mapping where one belongs is kept as it is: whoever reads it says what is wrong with it.

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Value, A::Error> {
        Value::deserialize(serde::de::value::SeqAccessDeserializer::new(seq))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

/// Finds a key among those that are kept, without making it a string of its own.
struct Wanted(&'static [(&'static str, Keep)]);

impl<'de> DeserializeSeed<'de> for Wanted {
    type Value = Option<&'static (&'static str, Keep)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Wanted {
    type Value = Option<&'static (&'static str, Keep)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().find(|(name, _)| *name == key))
    }
}

#[cfg(test)]
#[path = "object_tests.rs"]
mod tests;
