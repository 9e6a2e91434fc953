//! One line of a watch.
//!
//! Pure. An object is read through [`Object`], so that a heartbeat, which most lines are, costs the scan of its text.

use super::request::{RequestError, readable};
use crate::cluster::nodes::Candidate;
use crate::cluster::object::Object;
use crate::cluster::picture::Version;
use crate::model::is_node_name;
use serde::Deserialize;
use std::time::Duration;

/// What a line says.
#[derive(Debug)]
pub(super) enum Event {
    /// A node was added or changed.
    Applied(Candidate, Version),
    /// A node was deleted.
    Deleted(Candidate, Version),
    /// All up to its version was said.
    Bookmark(Version),
}

/// Reads a line; with it comes the version the watch has reached, as the server wrote it.
pub(super) fn read(line: &[u8]) -> Result<(Event, Option<String>), RequestError> {
    #[derive(Deserialize)]
    struct Line {
        #[serde(rename = "type")]
        kind: String,
        object: Object,
    }
    let Line { kind, object } = serde_json::from_slice(line).map_err(|error| RequestError::NoEvent(error.to_string()))?;
    let version = object.version();
    let reached = object.metadata("resourceVersion").map(str::to_owned);
    let event = match kind.as_str() {
        "ADDED" | "MODIFIED" | "DELETED" => {
            if object.is_foreign() {
                return Err(RequestError::NoEvent(format!("{kind} of what is no Node")));
            }
            let candidate = object.candidate(1);
            // Whose event it was nobody knows.
            if !is_node_name(&candidate.name) {
                return Err(RequestError::NoEvent(format!("{kind} of a node without a name")));
            }
            if kind == "DELETED" { Event::Deleted(candidate, version) } else { Event::Applied(candidate, version) }
        }
        "BOOKMARK" => Event::Bookmark(version),
        "ERROR" => return Err(refusal(&object)),
        other => return Err(RequestError::NoEvent(readable(other))),
    };
    Ok((event, reached))
}

/// The Status an event of kind ERROR carries.
fn refusal(object: &Object) -> RequestError {
    let code = object.0.get("code").and_then(|code| u16::try_from(code.as_u64()?).ok()).unwrap_or(500);
    let text = |key: &str| object.0.get(key).and_then(|text| text.as_str()).unwrap_or_default().to_owned();
    let seconds = object.0.pointer("/details/retryAfterSeconds").and_then(serde_json::Value::as_u64);
    RequestError::Refused { code, message: readable(&text("message")), retry_after: seconds.map(Duration::from_secs) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line() {
        let node = r#"{"kind":"Node","metadata":{"name":"a","uid":"1","resourceVersion":"7"}}"#;
        for kind in ["ADDED", "MODIFIED"] {
            let (event, reached) = read(format!(r#"{{"object":{node},"type":"{kind}"}}"#).as_bytes()).unwrap();
            assert!(matches!(event, Event::Applied(candidate, Some(7)) if candidate.name == "a"));
            assert_eq!(reached.as_deref(), Some("7"));
        }
        assert!(matches!(read(format!(r#"{{"type":"DELETED","object":{node}}}"#).as_bytes()), Ok((Event::Deleted(_, Some(7)), _))));
        let opaque = r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"a-9"}}}"#;
        assert!(matches!(read(opaque.as_bytes()), Ok((Event::Bookmark(None), Some(reached))) if reached == "a-9"));
    }

    #[test]
    fn an_error_is_a_refusal() {
        let line = r#"{"type":"ERROR","object":{"kind":"Status","status":"Failure","code":429,"message":"too\nmany","details":{"retryAfterSeconds":5}}}"#;
        let Err(error) = read(line.as_bytes()) else { panic!("it is an error") };
        assert_eq!(error.to_string(), "the API server refuses (429): too many");
        assert_eq!((error.code(), error.retry_after()), (Some(429), Some(Duration::from_secs(5))));
    }

    #[test]
    fn what_is_no_event_is_refused() {
        for line in [
            "",
            "{}",
            "not JSON",
            r#"{"type":"ADDED","object":{}}"#,
            r#"{"type":"ADDED"}"#,
            r#"{"type":"DELETED","object":{"kind":"Pod","metadata":{"name":"a"}}}"#,
            r#"{"type":"ODD","object":{}}"#,
        ] {
            assert!(matches!(read(line.as_bytes()), Err(RequestError::NoEvent(_))), "{line}");
        }
    }
}
