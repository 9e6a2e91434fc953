//! Answers that are not the objects themselves: statuses as the API server words them, and bodies of every shape, whole, cut or slow.

use futures::stream::{self, Stream, StreamExt as _};
use http::{Response, StatusCode, header};
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use serde_json::{Value, json};
use std::io;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::sleep;

/// What the server sends: pieces as they come, or an error, upon which the connection is closed with the body unfinished.
pub(super) type Pieces = Pin<Box<dyn Stream<Item = io::Result<Frame<Bytes>>> + Send>>;

/// An answer.
pub(super) type Answer = Response<StreamBody<Pieces>>;

/// Pieces per second of a body that comes slowly.
const PULSES: usize = 10;

/// How a body is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// At once.
    Whole,
    /// Half of its bytes, then the connection breaks.
    Cut,
    /// So many bytes a second.
    Slow(usize),
}

/// An answer of JSON, in pieces that are sent as they are.
pub(super) fn pieces(code: StatusCode, pieces: Vec<Bytes>, manner: Manner) -> Answer {
    let all = move |pieces: Vec<Bytes>| stream::iter(pieces).map(|piece| Ok(Frame::data(piece)));
    let body: Pieces = match manner {
        Manner::Whole => Box::pin(all(pieces)),
        Manner::Cut => Box::pin(all(half(pieces)).chain(stream::once(async { broken().await }))),
        Manner::Slow(rate) => Box::pin(all(chopped(&pieces, rate / PULSES)).then(async |piece| {
            sleep(Duration::from_secs(1) / u32::try_from(PULSES).unwrap_or(1)).await;
            piece
        })),
    };
    streamed(code, body)
}

/// An answer whose body is still to be found out.
pub(super) fn streamed(code: StatusCode, body: Pieces) -> Answer {
    let mut answer = Response::new(StreamBody::new(body));
    *answer.status_mut() = code;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}

/// An end that is none. What was sent before is let go on its way first: hyper drops what it has not flushed.
pub(super) async fn broken() -> io::Result<Frame<Bytes>> {
    sleep(Duration::from_millis(50)).await;
    Err(io::ErrorKind::ConnectionReset.into())
}

fn half(pieces: Vec<Bytes>) -> Vec<Bytes> {
    let mut left = pieces.iter().map(Bytes::len).sum::<usize>() / 2;
    let mut kept = Vec::new();
    for mut piece in pieces {
        piece.truncate(left);
        left -= piece.len();
        kept.push(piece);
    }
    kept.retain(|piece| !piece.is_empty());
    kept
}

fn chopped(pieces: &[Bytes], size: usize) -> Vec<Bytes> {
    let all = pieces.concat();
    all.chunks(size.max(1)).map(Bytes::copy_from_slice).collect()
}

/// A whole answer of JSON.
pub(super) fn json(code: StatusCode, body: &Value) -> Answer {
    pieces(code, vec![body.to_string().into()], Manner::Whole)
}

/// A `Status`, as the API server answers what it does not do.
pub(super) fn refusal(code: u16, message: &str, retry_after: Option<u32>) -> Answer {
    let mut answer = json(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &status(code, message, retry_after));
    if let Some(seconds) = retry_after {
        answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    answer
}

/// The object of such an answer; of an ERROR event as well.
pub(super) fn status(code: u16, message: &str, retry_after: Option<u32>) -> Value {
    let reason = match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        409 => "Conflict",
        410 => "Expired",
        415 => "UnsupportedMediaType",
        422 => "Invalid",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    };
    let mut status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code });
    if let Some(seconds) = retry_after {
        status["details"] = json!({ "retryAfterSeconds": seconds });
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_body_ends_in_the_middle_of_a_piece() {
        let pieces = vec![Bytes::from_static(b"abcdef"), Bytes::from_static(b"ghij")];
        assert_eq!(half(pieces.clone()).concat(), b"abcde");
        assert_eq!(chopped(&pieces, 4), ["abcd", "efgh", "ij"]);
    }
}
