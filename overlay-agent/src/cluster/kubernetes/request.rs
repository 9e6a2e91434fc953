//! Requests to the API server, each bounded in time at every step, and their answers.
//!
//! Sends nothing but GET. A black hole, a handshake that hangs and a body that trickles end like a refusal does: as an error within
//! seconds. What moves, however slowly, is let finish.

use super::scan::ScanError;
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde_json::Value;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Most of an answer that refuses.
const LARGEST_REFUSAL: usize = 64 << 10;
/// How often a body has to have moved on, and by how much.
const STEP: Duration = Duration::from_secs(15);
const LEAST: usize = 16 << 10;
/// Longest body of a list: 10,000 nodes of 16 kB at 2.2 Mbit/s.
const LONGEST_BODY: Duration = Duration::from_mins(10);

/// A request did not bring what was asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("{0}")]
    Access(#[from] super::access::AccessError),
    #[error("no answer within {} s", .0.as_secs())]
    NoAnswer(Duration),
    #[error("cannot ask the API server: {0}")]
    Transport(#[from] kube::Error),
    #[error("the API server refuses ({code}): {message}")]
    Refused { code: u16, message: String, retry_after: Option<Duration> },
    #[error("the answer came to a halt after {0} bytes")]
    Stalled(usize),
    #[error(transparent)]
    List(#[from] ScanError),
    #[error("the list is of version {0}, older than what was seen before")]
    Outdated(String),
    #[error("the list has no version to watch from")]
    NoVersion,
    #[error("the watch was silent for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the watch said what is no event: {0}")]
    NoEvent(String),
}

impl RequestError {
    /// What the server asked us to wait.
    pub(super) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The HTTP code of a refusal.
    pub(super) const fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// Asks, and returns the answer once it begins. `limit`: for everything up to its first byte, connection and handshake included.
pub(super) async fn get(client: &Client, request: http::Request<Vec<u8>>, limit: Duration) -> Result<Body, RequestError> {
    let request = request.map(Body::from);
    let deadline = Instant::now() + limit;
    let response = timeout_at(deadline, client.send(request)).await.map_err(|_| RequestError::NoAnswer(limit))??;
    let code = response.status().as_u16();
    if response.status().is_success() {
        return Ok(response.into_body());
    }
    let header = response.headers().get(http::header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let text = beginning(response.into_body(), deadline).await;
    let status: Option<Value> = serde_json::from_slice(&text).ok();
    let told = |key: &str| status.as_ref()?.get(key)?.as_str().map(str::to_owned);
    let message = told("message").unwrap_or_else(|| String::from_utf8_lossy(&text).into_owned());
    Err(RequestError::Refused { code, message: readable(&message), retry_after: header.map(Duration::from_secs) })
}

/// As much of a body as is there in time.
async fn beginning(mut body: Body, deadline: Instant) -> Vec<u8> {
    let mut text = Vec::new();
    while let Ok(Some(Ok(frame))) = timeout_at(deadline, body.frame()).await {
        text.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        if text.len() > LARGEST_REFUSAL {
            break;
        }
    }
    text.truncate(LARGEST_REFUSAL);
    text
}

/// Text of others, fit for a log and a terminal.
pub(super) fn readable(text: &str) -> String {
    const LONGEST: usize = 300;
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect::<String>().trim().to_owned()
}

/// Reads a body to its end, piece by piece.
pub(super) async fn read(mut body: Body, mut take: impl FnMut(&[u8]) -> Result<(), RequestError>) -> Result<(), RequestError> {
    let last = Instant::now() + LONGEST_BODY;
    let (mut length, mut step, mut checked) = (0, Instant::now() + STEP, 0);
    loop {
        match timeout_at(step.min(last), body.frame()).await {
            Ok(None) => return Ok(()),
            Ok(Some(frame)) => {
                let frame = frame?;
                let data = frame.data_ref().map_or(&[][..], |data| data);
                length += data.len();
                take(data)?;
            }
            Err(_) => {}
        }
        let now = Instant::now();
        if now >= step {
            if length - checked < LEAST || now >= last {
                return Err(RequestError::Stalled(length));
            }
            (step, checked) = (now + STEP, length);
        }
    }
}

/// The lines of a watch.
pub(super) struct Lines {
    body: Body,
    /// What has arrived and was not returned yet.
    buffer: Vec<u8>,
    /// How far it was searched for the end of a line.
    searched: usize,
    /// Longest silence.
    silence: Duration,
    /// When it is over.
    until: Instant,
}

/// Longest line. etcd takes objects of up to 1.5 MB.
const LONGEST_LINE: usize = 8 << 20;

impl Lines {
    pub(super) fn new(body: Body, silence: Duration) -> Self {
        Self { body, buffer: Vec::new(), searched: 0, silence, until: Instant::now() + silence }
    }

    /// A line that is here already.
    pub(super) fn ready(&mut self) -> Option<Vec<u8>> {
        let end = self.searched
            + self.buffer[self.searched..].iter().position(|byte| *byte == b'\n').or_else(|| {
                self.searched = self.buffer.len();
                None
            })?;
        let rest = self.buffer.split_off(end + 1);
        self.searched = 0;
        Some(std::mem::replace(&mut self.buffer, rest))
    }

    /// Waits for more. `false`: the watch has ended; half a line does not count. Nothing is lost when the wait is given up.
    pub(super) async fn more(&mut self) -> Result<bool, RequestError> {
        let frame = timeout_at(self.until, self.body.frame()).await.map_err(|_| RequestError::Silent(self.silence))?;
        let Some(frame) = frame else { return Ok(false) };
        let frame = frame?;
        if let Some(data) = frame.data_ref() {
            self.until = Instant::now() + self.silence;
            self.buffer.extend_from_slice(data);
        }
        if self.buffer.len() > LONGEST_LINE && !self.buffer.contains(&b'\n') {
            return Err(RequestError::NoEvent(format!("a line of more than {LONGEST_LINE} bytes")));
        }
        Ok(true)
    }
}
