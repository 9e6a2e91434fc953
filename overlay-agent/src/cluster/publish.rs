//! What this node writes to its own Node object, when it is asked to: annotations as flannel writes them, so that flannel's nodes take this
//! one for a peer, and the condition `NetworkUnavailable=false`.
//!
//! One PATCH of `nodes/status` holds both, as flannel's does: annotations may be changed through that subresource, and it takes one verb on
//! one resource. Written is only what differs from what the Node says; what others wrote is never removed. Nothing here runs, and nothing
//! is ever written, without the setting `publish`. The names are those of flannel 0.28 (`pkg/subnet/kube`).

mod difference;

use super::kubernetes::{Access, AccessError};
use super::with_causes;
use crate::clock::now;
use crate::model::{AddressOrigin, Mac};
use difference::difference;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::Error;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

/// How often the Node is looked at although nothing seems to have changed: somebody may have written over what is published.
const LOOK: Duration = Duration::from_mins(5);
/// Wait after a first failure; doubled for each further one.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// Longest wait after a failure.
const LONGEST_RETRY: Duration = Duration::from_mins(1);
/// How long a look and a write may take together.
const PATIENCE: Duration = Duration::from_secs(10);
/// Who changed it, in the object's managedFields.
const FIELD_MANAGER: &str = "overlay-agent";

/// What the Node should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// This node's address.
    pub address: Ipv4Addr,
    /// VXLAN network identifier.
    pub vni: u32,
    /// Whether a whole pass has succeeded: only then is the network called available.
    pub ready: bool,
    /// What the list of nodes says of this node now; a change of it is a reason to look at the Node again.
    pub listed: Option<(Ipv4Addr, AddressOrigin, Mac)>,
}

/// What became of it, for the status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishStatus {
    /// Since when the Node says what it should; absent: not yet, or not any more.
    pub since: Option<Timestamp>,
    /// What keeps it from being written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The task that writes. Dropping it ends it; what is written stays.
#[derive(Debug)]
pub struct Publisher {
    wanted: watch::Sender<Option<Wanted>>,
    state: watch::Receiver<PublishStatus>,
    task: JoinHandle<()>,
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Publisher {
    /// Starts the task. Needs a tokio runtime. `access` is that of the source of nodes.
    #[must_use]
    pub fn start(node_name: String, access: Access) -> Self {
        let (wanted, receiver) = watch::channel(None);
        let (sender, state) = watch::channel(PublishStatus::default());
        let task = tokio::spawn(Task { node_name, access, wanted: receiver, state: sender }.run());
        Self { wanted, state, task }
    }

    /// Says what the Node should say from now on.
    pub fn want(&self, wanted: Wanted) {
        self.wanted.send_if_modified(|current| {
            let news = current.as_ref() != Some(&wanted);
            *current = Some(wanted);
            news
        });
    }

    /// What became of it.
    #[must_use]
    pub fn status(&self) -> PublishStatus {
        self.state.borrow().clone()
    }

    /// Waits until [`Self::status`] changes. Never returns when the task is gone, which it is not by itself.
    pub async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Why the Node does not say what it should.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error(
        "the API server refuses to let this agent {what} (403): its ClusterRole needs apiGroups [\"\"], resources [\"{resource}\"], verbs [\"{verb}\"]; or switch publish off"
    )]
    Forbidden { what: &'static str, resource: &'static str, verb: &'static str },
    #[error(transparent)]
    Connect(#[from] AccessError),
    #[error("the API server does not answer within {PATIENCE:?} what is to be published")]
    Silence,
    #[error("there is no Node {0}")]
    NoNode(String),
    #[error("{what}: {}", told(error))]
    Request { what: &'static str, error: Box<Error> },
}

fn told(error: &Error) -> String {
    match error {
        Error::Api(status) if !status.message.is_empty() => format!("{} ({})", status.message, status.code),
        other => with_causes(other),
    }
}

/// One of the two requests, for messages.
#[derive(Clone, Copy)]
enum Request {
    Get,
    Patch,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what())
    }
}

impl Request {
    const fn what(self) -> &'static str {
        match self {
            Self::Get => "read its Node",
            Self::Patch => "write to its Node",
        }
    }

    fn failed(self, node: &str, error: Error) -> PublishError {
        let what = self.what();
        match (&error, self) {
            (Error::Api(status), Self::Get) if status.code == 403 => PublishError::Forbidden { what, resource: "nodes", verb: "get" },
            (Error::Api(status), Self::Patch) if status.code == 403 => {
                PublishError::Forbidden { what, resource: "nodes/status", verb: "patch" }
            }
            (Error::Api(status), _) if status.code == 404 => PublishError::NoNode(node.to_owned()),
            _ => PublishError::Request { what, error: Box::new(error) },
        }
    }
}

impl PublishError {
    /// How long the server asks to be left alone.
    fn retry_after(&self) -> Option<Duration> {
        let Self::Request { error, .. } = self else { return None };
        let Error::Api(status) = error.as_ref() else { return None };
        let seconds = status.details.as_ref()?.retry_after_seconds;
        (seconds > 0).then(|| Duration::from_secs(seconds.into()))
    }
}

struct Task {
    node_name: String,
    access: Access,
    wanted: watch::Receiver<Option<Wanted>>,
    state: watch::Sender<PublishStatus>,
}

impl Task {
    async fn run(mut self) {
        let (mut due, mut retry) = (Instant::now() + LOOK, FIRST_RETRY);
        loop {
            tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() { return },
                () = sleep_until(due) => {}
            }
            let Some(wanted) = self.wanted.borrow_and_update().clone() else { continue };
            let mut news = self.wanted.clone();
            let result = tokio::select! {
                result = timeout(PATIENCE, self.publish(&wanted)) => result.unwrap_or(Err(PublishError::Silence)),
                // What is being written is out of date, and perhaps from an address that is gone.
                _ = news.changed() => continue,
            };
            match result {
                Ok(()) => {
                    self.published();
                    (due, retry) = (Instant::now() + LOOK, FIRST_RETRY);
                }
                Err(error) => {
                    let wait = error.retry_after().map_or(retry, |asked| asked.max(retry));
                    self.failed(&error);
                    // What is wanted may change meanwhile, but a server that asks to be left alone is left alone.
                    if error.retry_after().is_some() {
                        sleep(wait).await;
                    }
                    (due, retry) = (Instant::now() + wait, (retry * 2).min(LONGEST_RETRY));
                }
            }
        }
    }

    /// Looks at the Node and writes what differs, by a connection of its own: what makes a new write necessary is often a new address, and
    /// connections from the old one are silent for ever.
    async fn publish(&self, wanted: &Wanted) -> Result<(), PublishError> {
        let name = &self.node_name;
        let (client, _) = self.access.connect().await?;
        let nodes: Api<DynamicObject> = Api::all_with(client, &ApiResource::erase::<Node>(&()));
        let node = nodes.get(name).await.map_err(|error| Request::Get.failed(name, error))?;
        let Some(patch) = difference(&serde_json::to_value(&node).unwrap_or_default(), wanted, now()) else { return Ok(()) };
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patched = nodes.patch_status(name, &parameters, &Patch::Strategic(&patch)).await;
        patched.map_err(|error| Request::Patch.failed(name, error))?;
        info!(patch = %patch, "published on this node's Node");
        Ok(())
    }

    fn published(&self) {
        self.state.send_if_modified(|state| {
            if state.since.is_some() {
                return false;
            }
            *state = PublishStatus { since: Some(now()), problem: None };
            true
        });
    }

    fn failed(&self, error: &PublishError) {
        let problem = error.to_string();
        self.state.send_if_modified(|state| {
            if state.problem.as_ref() == Some(&problem) {
                return false;
            }
            warn!(problem, "not published on this node's Node");
            *state = PublishStatus { since: None, problem: Some(problem) };
            true
        });
    }
}

/// The commands that take away again what was published: it is never removed by the agent or `cleanup`. Another network on the node writes
/// its own over it, and a Node that is deleted takes it along.
#[must_use]
pub fn how_to_remove(node_name: &str) -> String {
    let annotations = difference::WRITTEN.map(|annotation| format!("{annotation}-"));
    format!("kubectl annotate node {node_name} {}", annotations.join(" "))
}

/// Of a Node as the API gives it: the annotations.
fn annotations(node: &Value) -> super::annotations::Annotations {
    let all = node.pointer("/metadata/annotations").and_then(Value::as_object).into_iter().flatten();
    all.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}
