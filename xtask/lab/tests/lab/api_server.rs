//! As much of a Kubernetes API server as a list and watch of Nodes needs: HTTP/1.1, one thread per connection, chunked watches, resource
//! versions, 410 Gone for a watch from before what is remembered. It can go away and come back.

use anyhow::Context as _;
use overlay_lab::netns::Ns;
use overlay_lab::nodes::NodeEntry;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often a thread looks whether it should end.
const TICK: Duration = Duration::from_millis(20);

/// The server; dropped, it goes away.
#[derive(Debug)]
pub(crate) struct ApiServer {
    address: SocketAddrV4,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<String, Value>,
    version: u64,
    /// What a watch from an earlier version cannot be told any more.
    forgotten: u64,
    /// Every change since, as a line of a watch.
    history: Vec<(u64, String)>,
    serving: bool,
    connections: Vec<TcpStream>,
}

impl ApiServer {
    /// Starts it in a namespace.
    pub(crate) fn start(ns: &Ns, address: Ipv4Addr) -> anyhow::Result<Self> {
        let listener = ns.tcp_listener(address, 0)?;
        let address = SocketAddrV4::new(address, listener.local_addr()?.port());
        let mut server = Self { address, shared: Arc::new(Shared::default()), accepting: None };
        server.serve(listener)?;
        Ok(server)
    }

    /// What to give to `--api-server`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn serve(&mut self, listener: TcpListener) -> anyhow::Result<()> {
        listener.set_nonblocking(true)?;
        self.shared.state().serving = true;
        let shared = Arc::clone(&self.shared);
        self.accepting = Some(thread::spawn(move || accept(&listener, &shared)));
        Ok(())
    }

    /// Goes away: connections break, new ones are refused.
    pub(crate) fn stop(&mut self) {
        let mut state = self.shared.state();
        state.serving = false;
        for connection in state.connections.drain(..) {
            // Closed by the other side already.
            let _ = connection.shutdown(Shutdown::Both);
        }
        drop(state);
        self.shared.changed.notify_all();
        if let Some(accepting) = self.accepting.take() {
            accepting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    }

    /// Comes back where it was.
    pub(crate) fn resume(&mut self, ns: &Ns) -> anyhow::Result<()> {
        let listener = ns.tcp_listener(*self.address.ip(), self.address.port())?;
        self.serve(listener)
    }

    /// Adds or changes a node.
    pub(crate) fn put(&self, entry: &NodeEntry) {
        let mut state = self.shared.state();
        state.version += 1;
        let node = object(entry, state.version);
        let kind = if state.nodes.insert(entry.name.clone(), node.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        self.tell(state, kind, &node);
    }

    /// Removes a node.
    pub(crate) fn delete(&self, name: &str) -> anyhow::Result<()> {
        let mut state = self.shared.state();
        state.version += 1;
        let mut node = state.nodes.remove(name).with_context(|| format!("the API server has no node {name}"))?;
        node["metadata"]["resourceVersion"] = state.version.to_string().into();
        self.tell(state, "DELETED", &node);
        Ok(())
    }

    fn tell(&self, mut state: MutexGuard<'_, State>, kind: &str, node: &Value) {
        let line = format!("{}\n", json!({ "type": kind, "object": node }));
        let version = state.version;
        state.history.push((version, line));
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Forgets every change told so far, as a server does after five minutes: whoever has not heard of them has to list anew. Watches end.
    pub(crate) fn forget_history(&self) {
        let mut state = self.shared.state();
        state.version += 1;
        state.forgotten = state.version;
        state.history.clear();
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A Node with what the agent reads of it.
fn object(entry: &NodeEntry, version: u64) -> Value {
    let NodeEntry { name, created, address, pod_cidr, .. } = entry;
    let spec = pod_cidr.as_ref().map_or_else(|| json!({}), |cidr| json!({ "podCIDR": cidr, "podCIDRs": [cidr] }));
    let internal = address.map(|address| json!({ "type": "InternalIP", "address": address.to_string() }));
    let addresses: Vec<Value> = internal.into_iter().chain([json!({ "type": "Hostname", "address": name })]).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name, "uid": format!("uid-of-{name}"), "resourceVersion": version.to_string(), "creationTimestamp": created },
        "spec": spec,
        "status": { "addresses": addresses },
    })
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while shared.state().serving {
        let Ok((stream, _)) = listener.accept() else {
            thread::sleep(TICK);
            continue;
        };
        if let Ok(copy) = stream.try_clone() {
            shared.state().connections.push(copy);
        }
        let shared = Arc::clone(shared);
        // Ends with its connection, which `stop` closes.
        thread::spawn(move || converse(&stream, &shared));
    }
}

/// Answers the requests of one connection; an error is its end.
fn converse(stream: &TcpStream, shared: &Shared) -> Option<()> {
    stream.set_nonblocking(false).ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut request = String::new();
        reader.read_line(&mut request).ok().filter(|len| *len > 0)?;
        let mut header = String::new();
        while reader.read_line(&mut header).ok()? > 2 {
            header.clear();
        }
        let target = request.split(' ').nth(1)?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let parameter =
            |name: &str| query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value);
        if path != "/api/v1/nodes" {
            respond(stream, 404, &status(404, "NotFound", path)).ok()?;
        } else if parameter("watch") == Some("true") {
            watch(stream, shared, parameter("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0)).ok()?;
        } else {
            let state = shared.state();
            let items: Vec<&Value> = state.nodes.values().collect();
            let metadata = json!({ "resourceVersion": state.version.to_string() });
            let list = json!({ "kind": "NodeList", "apiVersion": "v1", "metadata": metadata, "items": items });
            drop(state);
            respond(stream, 200, &list).ok()?;
        }
    }
}

fn respond(mut stream: &TcpStream, code: u16, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    write!(stream, "HTTP/1.1 {code} Answer\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code })
}

/// Tells every change after version `since` as it happens, until the history it needs is forgotten or the server goes away.
fn watch(mut stream: &TcpStream, shared: &Shared, mut since: u64) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    let mut state = shared.state();
    while state.serving {
        if since < state.forgotten {
            drop(state);
            let gone = json!({ "type": "ERROR", "object": status(410, "Expired", "too old resource version") });
            chunk(stream, &format!("{gone}\n"))?;
            return stream.write_all(b"0\r\n\r\n");
        }
        let news: Vec<String> = state.history.iter().filter(|(version, _)| *version > since).map(|(_, line)| line.clone()).collect();
        since = state.version;
        if news.is_empty() {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        } else {
            drop(state);
            news.iter().try_for_each(|line| chunk(stream, line))?;
            state = shared.state();
        }
    }
    Ok(())
}

fn chunk(mut stream: &TcpStream, text: &str) -> std::io::Result<()> {
    write!(stream, "{:x}\r\n{text}\r\n", text.len())
}
