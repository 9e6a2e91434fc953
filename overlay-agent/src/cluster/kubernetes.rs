//! The Kubernetes source: list and watch of Nodes.
//!
//! Talks to the API server, reads only (verbs get, list, watch on nodes); touches nothing else. It never ends: with the API away, forbidden
//! or wrongly configured it keeps trying with a growing delay, the last good snapshot stays and the problem is reported.
//!
//! A list is a whole: what arrives between `Init` and `InitDone` replaces everything known, so nodes deleted unseen are gone too. A list
//! without any node is not believed, because this node is in every true one.

use super::conflicts::topology;
use super::nodes::Candidate;
use super::object::Object;
use super::{Publisher, SourceKind, Subscription, spawn};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ObjectMeta};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Config, Resource};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::info;

/// Seconds after which the server ends a watch and it is begun anew. A connection that died silently is noticed 5 s later; the usual 290 s
/// would leave a node blind for five minutes.
const WATCH_SECONDS: u32 = 60;
/// Pause before the next attempt after a configuration that cannot be used or a list without nodes.
const RETRY: Duration = Duration::from_secs(5);
/// Most events taken at once, so that many joins make one snapshot.
const BATCH: usize = 1024;

/// Connects with a kubeconfig, or as the agent's pod, and follows the Nodes. `api_server` replaces the configured address.
#[must_use]
pub fn connect_and_follow(kubeconfig: Option<PathBuf>, api_server: Option<String>) -> Subscription {
    let place = api_server.clone().unwrap_or_else(|| "API server not known yet".to_owned());
    spawn(SourceKind::Kubernetes, place, async move |publisher| {
        let client = loop {
            match connect(kubeconfig.as_deref(), api_server.as_deref()).await {
                Ok((client, address)) => {
                    publisher.set_place(address);
                    break client;
                }
                // A token or kubeconfig may be put in place later.
                Err(error) => publisher.failed(&error),
            }
            sleep(RETRY).await;
        };
        Follower { nodes: BTreeMap::new(), publisher }.run(client).await;
    })
}

/// Follows the Nodes through a client made elsewhere. `place`: what to call the server in the state.
#[must_use]
pub fn follow(client: Client, place: String) -> Subscription {
    spawn(SourceKind::Kubernetes, place, |publisher| Follower { nodes: BTreeMap::new(), publisher }.run(client))
}

/// The API cannot even be tried.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("cannot use the kubeconfig {}: {source}", path.display())]
    Kubeconfig { path: PathBuf, source: kube::config::KubeconfigError },
    #[error("no kubeconfig is set, and this is no pod with a service account: {0}")]
    InCluster(#[source] kube::config::InClusterError),
    #[error("{url} is not a URL: {source}")]
    Url { url: String, source: http::uri::InvalidUri },
    #[error("cannot set up TLS: {0}")]
    Client(#[source] kube::Error),
}

/// What is wrong although the API answers.
#[derive(Debug, thiserror::Error)]
enum AnswerError {
    #[error("the API server lists no node at all")]
    NoNodes,
}

/// Returns a client and the address it will use.
async fn connect(kubeconfig: Option<&Path>, api_server: Option<&str>) -> Result<(Client, String), ConnectError> {
    // An error means that a provider is installed already, which is what is wanted.
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut config = match kubeconfig {
        Some(path) => {
            let wrong = |source| ConnectError::Kubeconfig { path: path.to_owned(), source };
            let kubeconfig = Kubeconfig::read_from(path).map_err(wrong)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(wrong)?
        }
        None => Config::incluster().map_err(ConnectError::InCluster)?,
    };
    if let Some(url) = api_server {
        config.cluster_url = url.parse().map_err(|source| ConnectError::Url { url: url.to_owned(), source })?;
    }
    let address = config.cluster_url.to_string();
    Ok((Client::try_from(config).map_err(ConnectError::Client)?, address))
}

struct Follower {
    nodes: BTreeMap<String, Candidate>,
    publisher: Publisher,
}

/// The watch has to begin with a new list.
struct Relist;

impl Follower {
    async fn run(mut self, client: Client) {
        let watching = Arc::new(Notify::new());
        let client = tell_when_watching(client, Arc::clone(&watching));
        let nodes: Api<Watched> = Api::all(client);
        let config = watcher::Config::default().any_semantic().timeout(WATCH_SECONDS);
        loop {
            let events = watcher(nodes.clone(), config.clone()).default_backoff();
            let mut batches = pin!(events.ready_chunks(BATCH));
            let mut listed = None;
            loop {
                tokio::select! {
                    batch = batches.next() => {
                        // The stream of a watcher has no end.
                        let Some(batch) = batch else { break };
                        if self.take(batch, &mut listed).is_err() {
                            break;
                        }
                    }
                    // A watch that was begun anew in a quiet cluster says nothing for long; that it was accepted is what tells of recovery.
                    () = watching.notified() => self.publisher.healthy(),
                }
            }
            sleep(RETRY).await;
        }
    }

    /// Takes events in; publishes once. `listed` collects a list until it is whole.
    fn take(
        &mut self,
        batch: Vec<Result<Event<Watched>, watcher::Error>>,
        listed: &mut Option<BTreeMap<String, Candidate>>,
    ) -> Result<(), Relist> {
        let mut changed = false;
        for event in batch {
            match event {
                Ok(Event::Init) => *listed = Some(BTreeMap::new()),
                Ok(Event::InitApply(object)) => {
                    let candidate = candidate(&object);
                    listed.get_or_insert_default().insert(candidate.name.clone(), candidate);
                }
                Ok(Event::InitDone) => {
                    self.nodes = listed.take().unwrap_or_default();
                    changed = true;
                }
                Ok(Event::Apply(object)) => {
                    let candidate = candidate(&object);
                    // Most changes of a Node are heartbeats.
                    if self.nodes.get(&candidate.name) != Some(&candidate) {
                        self.nodes.insert(candidate.name.clone(), candidate);
                        changed = true;
                    }
                }
                Ok(Event::Delete(object)) => changed |= self.delete(&candidate(&object)),
                // Away for longer than the server remembers: the watcher lists anew by itself.
                Err(watcher::Error::WatchError(status)) if status.code == 410 => info!("the watch of nodes is too old; listing them anew"),
                Err(error) => self.publisher.failed(&error),
            }
        }
        if changed {
            if self.nodes.is_empty() {
                self.publisher.failed(&AnswerError::NoNodes);
                return Err(Relist);
            }
            self.publisher.publish(topology(self.nodes.values()));
            self.publisher.healthy();
        }
        Ok(())
    }

    /// Forgets a node, unless another of its name has taken its place.
    fn delete(&mut self, gone: &Candidate) -> bool {
        let same = self.nodes.get(&gone.name).is_some_and(|known| known.uid.is_none() || gone.uid.is_none() || known.uid == gone.uid);
        same && self.nodes.remove(&gone.name).is_some()
    }
}

fn candidate(object: &Watched) -> Candidate {
    Candidate::read(&object.object.0, 0)
}

/// A Node as the watcher handles it: without a type, because one that the API's type cannot hold must not cost the whole list.
#[derive(Clone, Debug)]
struct Watched {
    /// What the watcher itself reads.
    meta: ObjectMeta,
    object: Object,
}

impl<'de> Deserialize<'de> for Watched {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Object::deserialize(deserializer)?;
        let text = |key| object.metadata(key).map(str::to_owned);
        let meta = ObjectMeta { name: text("name"), resource_version: text("resourceVersion"), ..ObjectMeta::default() };
        Ok(Self { meta, object })
    }
}

impl Resource for Watched {
    type DynamicType = ();
    type Scope = kube::core::ClusterResourceScope;

    fn kind(node: &()) -> Cow<'_, str> {
        Node::kind(node)
    }

    fn group(node: &()) -> Cow<'_, str> {
        Node::group(node)
    }

    fn version(node: &()) -> Cow<'_, str> {
        Node::version(node)
    }

    fn plural(node: &()) -> Cow<'_, str> {
        Node::plural(node)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

/// A client that notifies `watching` whenever the server accepts a watch.
fn tell_when_watching(client: Client, watching: Arc<Notify>) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (client, watching) = (client.clone(), Arc::clone(&watching));
        async move {
            let is_watch = request.uri().query().is_some_and(|query| query.split('&').any(|part| part.starts_with("watch=")));
            let response = client.send(request).await?;
            if is_watch && response.status().is_success() {
                watching.notify_one();
            }
            Ok::<_, kube::Error>(response)
        }
    });
    Client::new(service, namespace)
}
