//! Connections: accepted on a listener that was made in a namespace, with or without TLS, each a task of its own.

use super::fault::Fault;
use super::serve::serve;
use super::state::{Counters, Shared};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Accepts until it is aborted. `tls` is asked at each connection.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>, tls: impl Fn() -> Option<TlsAcceptor> + Send + 'static) {
    loop {
        // A connection that was gone before it was accepted.
        let Ok((stream, _)) = listener.accept().await else { continue };
        Counters::add(&shared.counters.connections, 1);
        let task = tokio::spawn(converse(stream, Arc::clone(&shared), tls()));
        let mut state = shared.look();
        state.connections.retain(|connection| !connection.is_finished());
        state.connections.push(task.abort_handle());
    }
}

async fn converse(stream: TcpStream, shared: Arc<Shared>, tls: Option<TlsAcceptor>) {
    if shared.look().fault == Some(Fault::Hang) {
        shared.strike();
        // Closed when the fault ends.
        std::future::pending::<()>().await;
    }
    // Small events must not wait for the acknowledgement of earlier ones; without it they wait and nothing else is wrong.
    let _ = stream.set_nodelay(true);
    match tls {
        None => speak(stream, shared).await,
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                speak(stream, shared).await;
            }
        }
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(serve(shared, request).await) }
    });
    // An error is the end of the connection; whose fault it was is known to who began it.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
