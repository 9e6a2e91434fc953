//! A document with nodes: the output of `kubectl get nodes -o yaml` or `-o json`, read into candidates.
//!
//! Pure. Whatever cannot be a whole list is an error of the whole: a truncated file must never look like a smaller cluster. kubectl sorts
//! keys, so `kind` stands behind `items`: a file cut off anywhere inside its items has no `kind`. That is why `kind` is required here.
//! What is wrong with one item stays with that item. Items are read one by one and only what is used of them is kept: the list of a large
//! cluster as a tree is ten times the size of its text.

use super::nodes::Candidate;
use super::object::Object;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::fmt;

/// The text is not a list of nodes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ListError {
    /// Nothing but white space.
    #[error("it is empty")]
    Empty,
    /// Not YAML.
    #[error("it is not YAML: {0}")]
    Yaml(String),
    /// Begins like JSON and is none.
    #[error("it is not JSON: {0}")]
    Json(String),
    /// No `kind`.
    #[error("it has no `kind: List` at its end: it is cut off, or not the output of `kubectl get nodes -o yaml`")]
    NoKind,
    /// Another `kind`.
    #[error("it is of kind {0:?}, not List or NodeList; `kubectl get nodes -o yaml` prints one")]
    OtherKind(String),
    /// `items` is missing or not a list.
    #[error("it has no list of items")]
    NoItems,
    /// `items` is empty. No cluster is without nodes (the one that reads this is a node of it), but a list made in the wrong moment can be.
    #[error("it lists no node at all")]
    NoNodes,
}

/// Reads a List or `NodeList`, YAML or JSON.
pub fn parse(text: &str) -> Result<Vec<Candidate>, ListError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let start = text.trim_start();
    if start.is_empty() {
        return Err(ListError::Empty);
    }
    let document = if start.starts_with('{') { json(start)? } else { yaml(text)? };
    match document.kind {
        Some(Value::String(kind)) if matches!(kind.as_str(), "List" | "NodeList") => {}
        Some(Value::String(kind)) => return Err(ListError::OtherKind(kind.chars().take(80).collect())),
        _ => return Err(ListError::NoKind),
    }
    match document.items {
        None => Err(ListError::NoItems),
        Some(items) if items.is_empty() => Err(ListError::NoNodes),
        Some(items) => Ok(items),
    }
}

fn json(text: &str) -> Result<Document, ListError> {
    serde_json::from_str(text).map_err(|error| ListError::Json(error.to_string()))
}

fn yaml(text: &str) -> Result<Document, ListError> {
    // The parser's own limits are for configuration files. A Node is 5 to 50 kB, so this is room for the largest clusters. kubectl prints no
    // anchors, and without them a small file cannot grow large.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 50_000_000,
            max_nodes: 25_000_000,
            max_total_scalar_bytes: 1 << 30,
            max_aliases: 0,
            max_anchors: 0,
        },
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| ListError::Yaml(error.to_string()))
}

// === Reading item by item ===

/// A document, whatever it is; what is not a mapping has neither.
#[derive(Default)]
struct Document {
    kind: Option<Value>,
    /// `None`: there are no items, or something that is no list.
    items: Option<Vec<Candidate>>,
}

/// What stands at `items`.
#[derive(Default)]
struct Items(Option<Vec<Candidate>>);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DocumentVisitor)
    }
}

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ItemsVisitor)
    }
}

struct DocumentVisitor;
struct ItemsVisitor;

/// The methods of a visitor for what it has no use for: read to its end, and taken for nothing.
macro_rules! nothing_from {
    ($($method:ident($type:ty))*) => {
        $(fn $method<E: Error>(self, _: $type) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        })*

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        }

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of nodes")
        }
    };
}

impl<'de> Visitor<'de> for DocumentVisitor {
    type Value = Document;

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
        let mut document = Document::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "kind" => document.kind = Some(map.next_value()?),
                "items" => document.items = map.next_value::<Items>()?.0,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(document)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Document, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Document::default())
    }

    nothing_from!(visit_bool(bool) visit_i64(i64) visit_u64(u64) visit_f64(f64) visit_str(&str));
}

impl<'de> Visitor<'de> for ItemsVisitor {
    type Value = Items;

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Items, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<Object>()? {
            items.push(Candidate::read(&item.0, items.len() + 1));
        }
        Ok(Items(Some(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Items, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Items::default())
    }

    nothing_from!(visit_bool(bool) visit_i64(i64) visit_u64(u64) visit_f64(f64) visit_str(&str));
}
