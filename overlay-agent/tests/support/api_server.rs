//! A list/watch server for Nodes, as the API server speaks: HTTP/1.1, pages, chunked watch streams, resource versions, bookmarks, 410 Gone.
//!
//! Everything a test asks for is done at once, so that a test decides the order of things.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinHandle};

pub(crate) struct ApiServer {
    address: std::net::SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    watch_begun: Notify,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<String, Value>,
    version: u64,
    /// Every change a watch can tell, with its version.
    history: Vec<(u64, String)>,
    page_size: Option<usize>,
    refusal: Option<(u16, Value)>,
    /// `Retry-After` of a refusal, in seconds.
    retry_after: Option<u64>,
    /// Watches that are open and told nothing.
    silent: Vec<mpsc::UnboundedSender<String>>,
    /// How many requests came.
    requests: usize,
    lists: usize,
    authorization: Option<String>,
    watches: Vec<mpsc::UnboundedSender<String>>,
    connections: Vec<AbortHandle>,
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.drop_connections();
        self.task.abort();
    }
}

impl ApiServer {
    pub(crate) async fn start(nodes: &[Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
        let address = listener.local_addr().expect("a bound address");
        let shared = Arc::new(Shared::default());
        {
            let mut state = shared.state();
            state.version = 1;
            state.nodes = nodes.iter().map(|node| (name(node), node.clone())).collect();
        }
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Adds or changes a node.
    pub(crate) fn put(&self, mut node: Value) {
        let mut state = self.shared.state();
        state.version += 1;
        node["metadata"]["resourceVersion"] = state.version.to_string().into();
        let known = state.nodes.insert(name(&node), node.clone()).is_some();
        state.tell(if known { "MODIFIED" } else { "ADDED" }, &node);
    }

    pub(crate) fn delete(&self, name: &str) {
        let mut state = self.shared.state();
        state.version += 1;
        let mut node = state.nodes.remove(name).expect("the node exists");
        node["metadata"]["resourceVersion"] = state.version.to_string().into();
        state.tell("DELETED", &node);
    }

    /// Changes nodes without telling any watch, as happens while a watch is away too long.
    pub(crate) fn change_unseen(&self, change: impl FnOnce(&mut BTreeMap<String, Value>)) {
        let mut state = self.shared.state();
        state.version += 1;
        change(&mut state.nodes);
    }

    /// Sends an event about an object as it is.
    pub(crate) fn send_raw(&self, kind: &str, mut object: Value) {
        let mut state = self.shared.state();
        object["metadata"]["resourceVersion"] = state.version.to_string().into();
        state.send(&event(kind, &object));
    }

    /// Sends text that may be no event at all.
    pub(crate) fn send_text(&self, text: &str) {
        self.shared.state().send(text);
    }

    pub(crate) fn bookmark(&self) {
        let mut state = self.shared.state();
        let object = json!({ "kind": "Node", "apiVersion": "v1", "metadata": { "resourceVersion": state.version.to_string(), "creationTimestamp": null } });
        state.send(&event("BOOKMARK", &object));
    }

    /// Ends every watch with 410 Gone.
    pub(crate) fn end_watches_with_gone(&self) {
        let mut state = self.shared.state();
        state.history.clear();
        state.send(&event("ERROR", &status(410, "Expired", "too old resource version")));
        state.watches.clear();
    }

    /// Breaks every connection, in the middle of whatever is being said.
    pub(crate) fn drop_connections(&self) {
        let mut state = self.shared.state();
        state.watches.clear();
        for connection in state.connections.drain(..) {
            connection.abort();
        }
    }

    /// Answers every request with an error.
    pub(crate) fn refuse_with(&self, code: u16, reason: &str, message: &str) {
        self.shared.state().refusal = Some((code, status(code, reason, message)));
    }

    /// Answers every request with 429, and asks to wait.
    pub(crate) fn refuse_for(&self, seconds: u64) {
        let mut state = self.shared.state();
        state.refusal = Some((429, status(429, "TooManyRequests", "too many requests")));
        state.retry_after = Some(seconds);
    }

    /// Says nothing more in any watch that is open now; none is closed. What happens is told to those that begin later.
    pub(crate) fn fall_silent(&self) {
        let mut state = self.shared.state();
        let silent = std::mem::take(&mut state.watches);
        state.silent.extend(silent);
    }

    /// How many requests came.
    pub(crate) fn requests(&self) -> usize {
        self.shared.state().requests
    }

    /// Ends [`Self::refuse_with`].
    pub(crate) fn serve(&self) {
        self.shared.state().refusal = None;
    }

    pub(crate) fn set_page_size(&self, size: usize) {
        self.shared.state().page_size = Some(size);
    }

    /// How many lists (pages) were answered.
    pub(crate) fn lists(&self) -> usize {
        self.shared.state().lists
    }

    /// The `Authorization` header of the last request.
    pub(crate) fn last_authorization(&self) -> Option<String> {
        self.shared.state().authorization.clone()
    }

    /// Waits until a watch is open.
    pub(crate) async fn watch_established(&self) {
        loop {
            let begun = self.shared.watch_begun.notified();
            if !self.shared.state().watches.is_empty() {
                return;
            }
            begun.await;
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tell(&mut self, kind: &str, node: &Value) {
        let line = event(kind, node);
        self.history.push((self.version, line.clone()));
        self.send(&line);
    }

    fn send(&mut self, line: &str) {
        self.watches.retain(|watch| watch.send(line.to_owned()).is_ok());
    }

    fn page(&mut self, start: usize) -> Value {
        self.lists += 1;
        let size = self.page_size.unwrap_or(usize::MAX);
        // Items of a list have no kind of their own.
        let items: Vec<Value> = self.nodes.values().skip(start).take(size).cloned().map(without_type).collect();
        let next = start.saturating_add(size);
        let more = if next < self.nodes.len() { next.to_string() } else { String::new() };
        json!({ "kind": "NodeList", "apiVersion": "v1", "metadata": { "resourceVersion": self.version.to_string(), "continue": more }, "items": items })
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let connection = tokio::spawn(serve(stream, Arc::clone(&shared)));
        shared.state().connections.push(connection.abort_handle());
    }
}

/// Serves one connection; returns when the client closes it.
async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    while let Some(request) = Request::read(&mut reader).await {
        let answered = answer(&request, &mut writer, &shared).await;
        if answered.is_err() {
            return;
        }
    }
}

async fn answer(request: &Request, writer: &mut OwnedWriteHalf, shared: &Shared) -> std::io::Result<()> {
    let refusal = {
        let mut state = shared.state();
        state.authorization.clone_from(&request.authorization);
        state.requests += 1;
        state.refusal.clone().map(|(code, body)| (code, body, state.retry_after))
    };
    if let Some((code, body, retry_after)) = refusal {
        return respond(writer, code, &body, retry_after).await;
    }
    if request.path != "/api/v1/nodes" {
        return respond(writer, 404, &status(404, "NotFound", &request.path), None).await;
    }
    if request.parameter("watch") == Some("true") {
        return watch(request, writer, shared).await;
    }
    let start = request.parameter("continue").and_then(|start| start.parse().ok()).unwrap_or_default();
    let page = shared.state().page(start);
    respond(writer, 200, &page, None).await
}

async fn watch(request: &Request, writer: &mut OwnedWriteHalf, shared: &Shared) -> std::io::Result<()> {
    let since: u64 = request.parameter("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or_default();
    let (sender, mut lines) = mpsc::unbounded_channel();
    {
        let mut state = shared.state();
        for (_, line) in state.history.iter().filter(|(version, _)| *version > since) {
            sender.send(line.clone()).expect("the receiver is here");
        }
        state.watches.push(sender);
    }
    writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
    shared.watch_begun.notify_waiters();
    while let Some(line) = lines.recv().await {
        // In two chunks: events do not come in whole pieces.
        let (first, second) = line.as_bytes().split_at(line.len() / 2);
        for chunk in [first, second].into_iter().filter(|chunk| !chunk.is_empty()) {
            writer.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await?;
            writer.write_all(chunk).await?;
            writer.write_all(b"\r\n").await?;
            writer.flush().await?;
        }
    }
    writer.write_all(b"0\r\n\r\n").await
}

async fn respond(writer: &mut OwnedWriteHalf, code: u16, body: &Value, retry_after: Option<u64>) -> std::io::Result<()> {
    let body = body.to_string();
    let retry_after = retry_after.map(|seconds| format!("Retry-After: {seconds}\r\n")).unwrap_or_default();
    let length = body.len();
    let head = format!("HTTP/1.1 {code} Answer\r\nContent-Type: application/json\r\n{retry_after}Content-Length: {length}\r\n\r\n");
    writer.write_all(head.as_bytes()).await?;
    writer.write_all(body.as_bytes()).await
}

struct Request {
    path: String,
    query: Vec<(String, String)>,
    authorization: Option<String>,
}

impl Request {
    /// Reads a request without a body; `None` at the end of the connection.
    async fn read(reader: &mut BufReader<OwnedReadHalf>) -> Option<Self> {
        let mut line = String::new();
        if reader.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let target = line.split(' ').nth(1)?.to_owned();
        let mut authorization = None;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).await.ok()?;
            let header = header.trim_end();
            if header.is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(": ")
                && name.eq_ignore_ascii_case("authorization")
            {
                authorization = Some(value.to_owned());
            }
        }
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let query =
            query.split('&').filter_map(|pair| pair.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Some(Self { path: path.to_owned(), query, authorization })
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

fn event(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({ "type": kind, "object": object }))
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code })
}

fn name(node: &Value) -> String {
    node["metadata"]["name"].as_str().expect("the node has a name").to_owned()
}

fn without_type(mut node: Value) -> Value {
    if let Some(object) = node.as_object_mut() {
        object.remove("kind");
        object.remove("apiVersion");
    }
    node
}
