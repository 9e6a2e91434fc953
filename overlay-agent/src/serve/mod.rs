//! What the agent answers over HTTP: `/healthz`, `/readyz` for the kubelet, `/metrics` for Prometheus.
//!
//! Reads what the loop published ([`Report`]), and for `/metrics` the pinned maps; changes nothing. It is never a reason for the agent to
//! end: a port that is taken is a warning, and tried again.

mod listen;
mod metrics;
mod report;

pub use listen::Listen;
pub use report::Report;

use crate::datapath::{DatapathError, Detours, Fill, PinDir, Tables};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use overlay_common::counters::Counters;
use prometheus_client::metrics::histogram::Histogram;
use report::Snapshot;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

/// Wait before a port that was taken is tried again, and after a connection could not be accepted.
const RETRY: Duration = Duration::from_secs(1);
/// How long a connection may take: a request, its answer, the end.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at a time. More wait in the kernel's queue.
const CONNECTIONS: usize = 16;
/// What is there, told to whoever asks for something else.
const PATHS: &str = "there are /healthz, /readyz and /metrics\n";

/// Starts to listen; what the loop tells the [`Report`] is what is answered. Needs a tokio runtime. `pins`: where the maps are.
#[must_use]
pub fn start(listen: Listen, pins: PinDir) -> Report {
    let (sender, snapshot) = watch::channel(Snapshot::new(Instant::now()));
    let (problem_sender, problem) = watch::channel(None);
    let durations = metrics::durations();
    let report = Report::new(sender, durations.clone(), problem);
    if let Listen::At(address) = listen {
        let endpoint = Arc::new(Endpoint { snapshot, durations, pins, reading: Mutex::new(()) });
        // Tried here for the first time, so that the first status knows of it.
        let first = bind(address, &problem_sender);
        tokio::spawn(endpoint.serve(address, first, problem_sender));
    }
    report
}

/// Listens at `address`, or says why not.
fn bind(address: SocketAddr, problem: &watch::Sender<Option<String>>) -> Option<TcpListener> {
    let bound = std::net::TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    match bound {
        Ok(listener) => {
            info!(%address, "answers /healthz, /readyz and /metrics");
            problem.send_replace(None);
            Some(listener)
        }
        Err(error) => {
            let text =
                format!("/healthz, /readyz and /metrics cannot be answered at {address}: {error}; set listen to another address or to off");
            // Every try fails in the same way most likely: told once.
            if problem.borrow().as_ref() != Some(&text) {
                warn!(%address, %error, "health and metrics cannot be answered; tried again");
                problem.send_replace(Some(text));
            }
            None
        }
    }
}

/// What an answer is made of.
#[derive(Debug)]
struct Endpoint {
    snapshot: watch::Receiver<Snapshot>,
    durations: Histogram,
    pins: PinDir,
    /// Held while the maps are read: once at a time, however many ask.
    reading: Mutex<()>,
}

/// What the kernel knows.
#[derive(Debug)]
struct Kernel {
    counters: Counters,
    fills: Vec<Fill>,
}

impl Kernel {
    /// Reads the pinned maps; takes milliseconds where they are full.
    fn read(pins: &PinDir) -> Result<Self, DatapathError> {
        let tables = Tables::open(pins)?;
        let mut fills = tables.fills()?;
        fills.push(Detours::fill(pins)?);
        Ok(Self { counters: tables.counters()?, fills })
    }
}

impl Endpoint {
    /// Never ends by itself.
    async fn serve(self: Arc<Self>, address: SocketAddr, mut listener: Option<TcpListener>, problem: watch::Sender<Option<String>>) {
        let free = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Some(bound) = &listener else {
                sleep(RETRY).await;
                listener = bind(address, &problem);
                continue;
            };
            // Nobody closes the semaphore.
            let Ok(place) = Arc::clone(&free).acquire_owned().await else { return };
            match bound.accept().await {
                Ok((stream, _)) => {
                    let endpoint = Arc::clone(&self);
                    tokio::spawn(async move {
                        endpoint.converse(stream).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    debug!(%error, "connection not accepted");
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// One request, one answer.
    async fn converse(self: Arc<Self>, stream: TcpStream) {
        let service = service_fn(|request| {
            let endpoint = Arc::clone(&self);
            async move { Ok::<_, Infallible>(endpoint.answer(&request).await) }
        });
        let mut http = http1::Builder::new();
        http.keep_alive(false).timer(TokioTimer::new()).header_read_timeout(PATIENCE);
        match timeout(PATIENCE, http.serve_connection(TokioIo::new(stream), service)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "connection broke"),
            Err(_) => debug!("connection took too long"),
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n".to_owned());
        }
        match request.uri().path() {
            "/healthz" => judged(self.snapshot.borrow().health(Instant::now())),
            "/readyz" => judged(self.snapshot.borrow().readiness()),
            "/metrics" => {
                let kernel = self.read_kernel().await;
                match metrics::encode(self.snapshot.borrow().clone(), self.durations.clone(), kernel) {
                    Ok(body) => response(StatusCode::OK, metrics::CONTENT_TYPE, body),
                    Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
                }
            }
            _ => text(StatusCode::NOT_FOUND, PATHS.to_owned()),
        }
    }

    /// What the kernel knows; none before the programs are loaded. On a thread of its own: the loop's has other things to do.
    async fn read_kernel(&self) -> Option<Kernel> {
        let _one = self.reading.lock().await;
        let pins = self.pins.clone();
        match tokio::task::spawn_blocking(move || Kernel::read(&pins)).await {
            Ok(Ok(kernel)) => Some(kernel),
            Ok(Err(error)) => {
                debug!(%error, "maps not read for metrics");
                None
            }
            Err(error) => {
                warn!(%error, "maps not read for metrics");
                None
            }
        }
    }
}

/// A probe's answer: its code is what the kubelet reads, the text is for people.
fn judged(verdict: Result<(), String>) -> Response<Full<Bytes>> {
    match verdict {
        Ok(()) => text(StatusCode::OK, "ok\n".to_owned()),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", body)
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests;
