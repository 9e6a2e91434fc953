//! The fault script: what goes wrong, and what is said when it does. Which requests meet it is decided where they are answered.

use super::store::line;
use hyper::body::Bytes;
use serde_json::json;

/// What goes wrong, from [`super::ApiServer::begin`] until [`super::ApiServer::end`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nobody listens: connections are refused, those that were open are closed.
    Refused,
    /// Connections are accepted and nothing is ever said on them. Those that were open are closed.
    Hang,
    /// Every request is answered with a status, running watches end.
    Status {
        /// 401, 403, 429, 500, 503, …
        code: u16,
        /// The header of that name, in seconds.
        retry_after: Option<u32>,
    },
    /// Whoever asks may read and not write: patches are answered 403.
    ReadOnly,
    /// Lists and watches break off in the middle of an object, and the connection is closed.
    Cut,
    /// What says 200 is no JSON: a list is a page of some proxy, a watch ends with a line of nonsense.
    BadJson,
    /// Objects of other kinds and shapes among the Nodes, under names of Nodes, in lists and in watches.
    WrongType,
    /// Watches are told of no change, only how far they have come, every 200 ms.
    OnlyBookmarks,
    /// A watch is told that its version is too old: as an event, when it runs; as a status, when it begins. Lists work.
    GoneWatch,
    /// Lists come in pages of one, however they are asked for, and the version of a list is too old when its third page is asked for.
    GonePage,
    /// Watches that run stay open and are never told anything again, not even when the fault has ended. New ones work.
    Silent,
    /// Lists are empty.
    Empty,
    /// Lists hold that many nodes only, the first by name.
    Tiny(usize),
    /// Lists come at so many bytes a second.
    Trickle(usize),
}

impl Fault {
    /// Whether it is met by lists: then it begins with 410 for every watch, so that whoever watches has to list.
    pub(super) const fn needs_list(self) -> bool {
        matches!(self, Self::Cut | Self::BadJson | Self::WrongType | Self::GonePage | Self::Empty | Self::Tiny(_) | Self::Trickle(_))
    }

    /// Whether open connections are closed when it begins.
    pub(super) const fn closes(self) -> bool {
        matches!(self, Self::Refused | Self::Hang)
    }
}

/// What a proxy says whose backend is ill.
pub(super) const PAGE: &str = "<html><body><h1>200 It works!</h1></body></html>\n";

/// A line of a watch that is no JSON.
pub(super) const NONSENSE: &str = "{\"type\":\"MODIFIED\",\"object\":{\"kind\":\"Node\",,\"metadata\":{]}\n";

/// Items of a list that are no Nodes; `name` is a Node's.
pub(super) fn strange_items(name: &str) -> Vec<Bytes> {
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "resourceVersion": "99999999" }, "spec": {} });
    let nameless =
        json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": 12, "resourceVersion": [] }, "spec": "none", "status": [] });
    [pod, nameless, json!(7), json!("node"), json!(null)].map(|item| item.to_string().into()).into()
}

/// Lines of a watch about what is no Node; `name` is a Node's.
pub(super) fn strange_lines(name: &str) -> Vec<Bytes> {
    let items = strange_items(name);
    let mut lines: Vec<Bytes> = items.iter().map(|item| line("MODIFIED", item)).collect();
    // Deletions of what is no Node, and an event of a kind that does not exist.
    lines.extend(items.first().into_iter().flat_map(|pod| [line("DELETED", pod), line("EXPLODED", pod)]));
    lines
}
