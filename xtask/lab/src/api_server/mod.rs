//! A development API server: as much of Kubernetes' as whoever follows Nodes meets, and everything that goes wrong with it.
//!
//! It speaks HTTP/1.1, with TLS if asked to: get, list (limit and continue, resourceVersion and its match), watch (bookmarks, initial
//! events, timeouts, 410), and patches of Nodes and their status. It holds ten thousand Nodes of real size as the text that is sent. A
//! [`Fault`] is begun and ended by the test that wants it. It listens in a namespace of the lab and runs on a thread of its own.

mod access;
mod answer;
mod fault;
mod list;
mod listen;
mod object;
mod patch;
mod query;
pub mod real;
mod serve;
mod state;
mod store;
mod tls;
mod watch;

pub use access::Access;
pub use fault::Fault;
pub use state::Counts;
pub use store::Order;

use crate::netns::Ns;
use crate::nodes::NodeEntry;
use anyhow::{Context as _, ensure};
use hyper::body::Bytes;
use serde_json::Value;
use state::Shared;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tls::Identity;
use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;

/// The token that is let in first, where one is needed.
const TOKEN: &str = "first-token";

/// The server; dropped, it goes away.
#[derive(Debug)]
pub struct ApiServer {
    /// The file of the namespace it listens in, for when it listens anew.
    ns: std::fs::File,
    address: SocketAddrV4,
    shared: Arc<Shared>,
    identity: Option<Arc<Mutex<Identity>>>,
    accepting: Mutex<Option<AbortHandle>>,
    /// None only while it is dropped.
    runtime: Option<Runtime>,
}

impl ApiServer {
    /// Starts it in a namespace, without TLS, open to everybody.
    ///
    /// # Errors
    /// The address is not one of the namespace's.
    pub fn start(ns: &Ns, address: Ipv4Addr) -> anyhow::Result<Self> {
        Self::with(ns, address, None)
    }

    /// Starts it in a namespace with TLS, and for those only who have its token: see [`Self::access`].
    ///
    /// # Errors
    /// The address is not one of the namespace's, or no certificate can be made.
    pub fn start_secure(ns: &Ns, address: Ipv4Addr) -> anyhow::Result<Self> {
        let server = Self::with(ns, address, Some(Arc::new(Mutex::new(Identity::new(address)?))))?;
        server.set_token(TOKEN);
        Ok(server)
    }

    fn with(ns: &Ns, address: Ipv4Addr, identity: Option<Arc<Mutex<Identity>>>) -> anyhow::Result<Self> {
        let listener = ns.tcp_listener(address, 0)?;
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("api-server").enable_all().build()?;
        let server = Self {
            ns: ns.open()?,
            address: SocketAddrV4::new(address, listener.local_addr()?.port()),
            shared: Arc::default(),
            identity,
            accepting: Mutex::new(None),
            runtime: Some(runtime),
        };
        server.serve(listener)?;
        Ok(server)
    }

    fn serve(&self, listener: std::net::TcpListener) -> anyhow::Result<()> {
        let runtime = self.runtime.as_ref().context("the server is being dropped")?;
        listener.set_nonblocking(true)?;
        let _inside = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let identity = self.identity.clone();
        let tls = move || Some(identity.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner).acceptor.clone());
        let task = runtime.spawn(listen::accept(listener, Arc::clone(&self.shared), tls));
        *self.accepting() = Some(task.abort_handle());
        Ok(())
    }

    fn accepting(&self) -> std::sync::MutexGuard<'_, Option<AbortHandle>> {
        self.accepting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to give to `--api-server`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", if self.identity.is_some() { "https" } else { "http" }, self.address)
    }

    /// The port it listens on.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.address.port()
    }

    /// Writes what a client needs into a directory.
    ///
    /// # Errors
    /// The file system says no.
    pub fn access(&self, directory: &Path) -> anyhow::Result<Access> {
        let token = self.shared.look().tokens.iter().flatten().next().cloned().unwrap_or_else(|| TOKEN.to_owned());
        Access::write(directory, &self.url(), self.authority().as_deref(), &token)
    }

    /// Its certificate authority as PEM, if it speaks TLS.
    #[must_use]
    pub fn authority(&self) -> Option<String> {
        Some(self.identity.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner).authority.clone())
    }

    /// Adds or changes a node.
    pub fn put(&self, entry: &NodeEntry) {
        self.put_with_heartbeat(entry, object::HEARTBEAT);
    }

    /// Adds or changes a node whose kubelet posted last at that time, as RFC 3339: what most changes of a Node are.
    pub fn put_with_heartbeat(&self, entry: &NodeEntry, heartbeat: &str) {
        self.shared.change(|state| state.store.put(&entry.name, |uid| object::node(entry, uid, heartbeat)));
    }

    /// Changes part of a node as kubelet, controllers and operators do: by a strategic merge patch, of whatever part. What others wrote stays.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn patch(&self, name: &str, patch: &Value) -> anyhow::Result<()> {
        let mut node = self.node(name);
        ensure!(!node.is_null(), "the API server has no node {name}");
        patch::apply(&mut node, patch, patch::Kind::Strategic);
        self.shared.change(|state| state.store.put(name, |_| node.to_string()));
        Ok(())
    }

    /// Every node as it is now.
    #[must_use]
    pub fn nodes(&self) -> Vec<Value> {
        let texts: Vec<Bytes> = self.shared.look().store.iter().map(|object| object.text.clone()).collect();
        texts.iter().filter_map(|text| serde_json::from_slice(text).ok()).collect()
    }

    /// Removes a node.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn delete(&self, name: &str) -> anyhow::Result<()> {
        self.shared.change(|state| state.store.delete(name)).map(drop).with_context(|| format!("the API server has no node {name}"))
    }

    /// A node as it is now, or null.
    #[must_use]
    pub fn node(&self, name: &str) -> Value {
        let text = self.shared.look().store.get(name).map(|object| object.text.clone());
        text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// How many nodes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.look().store.len()
    }

    /// Whether there is no node.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The version of the last change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.shared.look().store.version()
    }

    /// What was asked and answered since it was started.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.counters.read()
    }

    /// Sets how often watches that ask for bookmarks get one; a minute until then.
    pub fn set_bookmark_interval(&self, interval: Duration) {
        self.shared.change(|state| state.bookmark_every = interval);
    }

    /// Sets how many bytes of changes are remembered for watches; 256 MiB until then.
    pub fn set_history_limit(&self, bytes: usize) {
        self.shared.change(|state| state.store.limit = bytes);
    }

    /// Forgets every change told so far, as a server does after five minutes: whoever has not heard of them has to list anew. Watches
    /// are told 410.
    pub fn forget_history(&self) {
        self.shared.change(|state| state.store.forget());
    }

    /// From now on changes happen, and no watch is told of them.
    pub fn hold_events(&self) {
        self.shared.change(|state| state.store.hold());
    }

    /// Tells what was held back, in that order.
    pub fn release_events(&self, order: Order) {
        self.shared.change(|state| state.store.release(order));
    }

    /// Has every running watch told a line, whatever is true. Without a newline it is not the end of the line.
    pub fn say(&self, line: &str) {
        self.shared.change(|state| state.store.say(Bytes::copy_from_slice(line.as_bytes())));
    }

    /// Has every running watch told that a node was deleted: as it is in `node`, which [`Self::node`] returned some time ago.
    pub fn say_deleted(&self, node: &Value) {
        self.shared.change(|state| state.store.say(store::line("DELETED", node.to_string().as_bytes())));
    }

    /// Lets in nobody but who has this token. Watches that run go on, as with the real one.
    pub fn set_token(&self, token: &str) {
        self.shared.change(|state| state.tokens = Some([token.to_owned()].into()));
    }

    /// Shows from now on a certificate of another, new authority. Connections that are open go on.
    ///
    /// # Errors
    /// It speaks no TLS.
    pub fn rotate_authority(&self) -> anyhow::Result<()> {
        let identity = self.identity.as_ref().context("this server speaks no TLS")?;
        *identity.lock().unwrap_or_else(PoisonError::into_inner) = Identity::new(*self.address.ip())?;
        Ok(())
    }

    /// Closes every open connection.
    pub fn break_connections(&self) {
        let connections: Vec<AbortHandle> = std::mem::take(&mut self.shared.look().connections);
        connections.iter().for_each(AbortHandle::abort);
    }

    /// Ends every running watch, as when its time is up.
    pub fn end_watches(&self) {
        self.shared.change(|state| {
            state.era += 1;
            state.ended = state.era;
        });
    }

    /// Begins a fault. What it needs to be met happens at once: connections are closed, watches ended or told 410.
    ///
    /// # Errors
    /// Another one has not ended.
    pub fn begin(&self, fault: Fault) -> anyhow::Result<()> {
        self.shared.change(|state| {
            ensure!(state.fault.is_none(), "{:?} has not ended", state.fault);
            state.era += 1;
            state.fault = Some(fault);
            if matches!(fault, Fault::Status { .. }) {
                state.ended = state.era;
            }
            if fault.needs_list() {
                state.store.forget();
            }
            Ok(())
        })?;
        if fault == Fault::Refused {
            self.stop_listening();
        }
        if fault.closes() {
            self.break_connections();
        }
        Ok(())
    }

    /// Ends the fault: from now on everything works, for those who ask again.
    ///
    /// # Errors
    /// It cannot listen again.
    pub fn end(&self) -> anyhow::Result<()> {
        let fault = self.shared.change(|state| state.fault.take());
        if fault == Some(Fault::Hang) {
            self.break_connections();
        }
        if fault == Some(Fault::Refused) { self.listen_again() } else { Ok(()) }
    }

    /// Goes away: connections break, new ones are refused.
    ///
    /// # Errors
    /// A fault has begun and not ended.
    pub fn stop(&self) -> anyhow::Result<()> {
        self.begin(Fault::Refused)
    }

    /// Comes back where it was.
    ///
    /// # Errors
    /// The port is taken.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.end()
    }

    fn stop_listening(&self) {
        let Some(accepting) = self.accepting().take() else { return };
        accepting.abort();
        // The socket is closed by the runtime, when it drops the task.
        while !accepting.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn listen_again(&self) -> anyhow::Result<()> {
        let listener = crate::netns::tcp_listener_in(&self.ns, *self.address.ip(), self.address.port())?;
        self.serve(listener)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.break_connections();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
