//! What a request asks for, out of its path and query.

use std::time::Duration;

/// The parameters of a list or watch, and only those: others have no meaning for Nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) watch: bool,
    pub(super) version: Option<u64>,
    pub(super) version_match: Option<String>,
    pub(super) limit: Option<usize>,
    pub(super) next: Option<String>,
    pub(super) bookmarks: bool,
    pub(super) initial_events: bool,
    pub(super) timeout: Option<Duration>,
    /// The only field selector that is served: `metadata.name=…`.
    pub(super) name: Option<String>,
}

impl Query {
    /// Reads a query; an error is the message of a 400.
    pub(super) fn read(query: &str) -> Result<Self, String> {
        let mut read = Self::default();
        for (key, value) in query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, ""))) {
            let value = decoded(value);
            let number = || value.parse::<u64>().map_err(|error| format!("{key}={value}: {error}"));
            // Empty is the same as not given, as for the real one.
            let some = !value.is_empty();
            match key {
                "watch" => read.watch = truth(&value),
                "resourceVersion" if some => read.version = Some(number()?),
                "resourceVersionMatch" if some => read.version_match = Some(value),
                "limit" if some => read.limit = usize::try_from(number()?).ok().filter(|limit| *limit > 0),
                "continue" if some => read.next = Some(value),
                "allowWatchBookmarks" => read.bookmarks = truth(&value),
                "sendInitialEvents" => read.initial_events = truth(&value),
                "timeoutSeconds" if some => read.timeout = Some(number()?).filter(|seconds| *seconds > 0).map(Duration::from_secs),
                "fieldSelector" if some => match value.strip_prefix("metadata.name=") {
                    Some(name) => read.name = Some(name.trim_start_matches('=').to_owned()),
                    None => return Err(format!("field selector {value} is not served here")),
                },
                "labelSelector" if some => return Err(format!("label selector {value} is not served here")),
                _ => {}
            }
        }
        Ok(read)
    }
}

fn truth(value: &str) -> bool {
    matches!(value, "true" | "1" | "")
}

/// Undoes percent-encoding; what is not encoded well stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        if *first == b'%'
            && let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok())
        {
            bytes.push(byte);
            rest = &after[2..];
        } else {
            bytes.push(if *first == b'+' { b' ' } else { *first });
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_as_clients_ask_for_it() {
        let query = "&watch=true&timeoutSeconds=60&fieldSelector=metadata.name%3Dnode-1&allowWatchBookmarks=true&resourceVersion=48213";
        let expected = Query {
            watch: true,
            version: Some(48213),
            bookmarks: true,
            timeout: Some(Duration::from_mins(1)),
            name: Some("node-1".to_owned()),
            ..Query::default()
        };
        assert_eq!(Query::read(query), Ok(expected));
    }

    #[test]
    fn what_is_not_served_is_refused_and_not_ignored() {
        assert!(Query::read("labelSelector=a%3Db").is_err());
        assert!(Query::read("fieldSelector=spec.unschedulable%3Dtrue").is_err());
        assert!(Query::read("resourceVersion=abc").is_err());
        assert_eq!(Query::read("resourceVersion=&limit=0&continue="), Ok(Query::default()));
    }
}
