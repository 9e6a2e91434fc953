//! A document with nodes: the output of `kubectl get nodes -o yaml` or `-o json`, read into candidates.
//!
//! Pure. Whatever cannot be a whole list is an error of the whole: a truncated file must never look like a smaller cluster. kubectl sorts
//! keys, so `kind` stands behind `items`: a file cut off anywhere inside its items has no `kind`. That is why `kind` is required here.
//! What is wrong with one item stays with that item.

use super::nodes::Candidate;
use serde_json::Value;

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
    match document.get("kind") {
        Some(Value::String(kind)) if matches!(kind.as_str(), "List" | "NodeList") => {}
        Some(Value::String(kind)) => return Err(ListError::OtherKind(kind.chars().take(80).collect())),
        _ => return Err(ListError::NoKind),
    }
    let Some(Value::Array(items)) = document.get("items") else { return Err(ListError::NoItems) };
    if items.is_empty() {
        return Err(ListError::NoNodes);
    }
    Ok(items.iter().zip(1..).map(|(item, position)| Candidate::read(item, position)).collect())
}

fn json(text: &str) -> Result<Value, ListError> {
    serde_json::from_str(text).map_err(|error| ListError::Json(error.to_string()))
}

fn yaml(text: &str) -> Result<Value, ListError> {
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
