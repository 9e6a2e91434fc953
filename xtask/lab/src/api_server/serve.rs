//! One request: who asks, for what, and what the fault script makes of it.

use super::answer::{Answer, Manner, pieces, refusal};
use super::fault::Fault;
use super::patch::{self, Kind};
use super::query::Query;
use super::state::{Counters, Shared};
use super::{list, watch};
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};
use serde_json::Value;
use std::sync::Arc;

/// Where the Nodes are.
const NODES: &str = "/api/v1/nodes";

/// Answers a request.
pub(super) async fn serve(shared: Arc<Shared>, request: Request<Incoming>) -> Answer {
    if !allowed(&shared, &request) {
        Counters::add(&shared.counters.denied, 1);
        return refusal(401, "Unauthorized", None);
    }
    let fault = shared.look().fault;
    match fault {
        Some(Fault::Status { code, retry_after }) => {
            shared.strike();
            return refusal(code, "as the fault script says", retry_after);
        }
        Some(Fault::Hang) => {
            shared.strike();
            std::future::pending::<()>().await;
        }
        _ => {}
    }
    let path = request.uri().path().to_owned();
    let rest = path.strip_prefix(NODES).map(|rest| rest.trim_matches('/').to_owned());
    let (name, status) = match rest.as_deref().map(|rest| rest.split_once('/').unwrap_or((rest, ""))) {
        Some((name, "")) => (name.to_owned(), false),
        Some((name, "status")) => (name.to_owned(), true),
        _ => {
            Counters::add(&shared.counters.others, 1);
            return refusal(404, "the server could not find the requested resource", None);
        }
    };
    match (request.method(), name.as_str()) {
        (&Method::GET, "") => several(&shared, request.uri().query().unwrap_or_default()),
        (&Method::GET, name) => one(&shared, name),
        (&Method::PATCH, name) if !name.is_empty() => change(&shared, request, &Target { name: name.to_owned(), status }).await,
        (method, _) => {
            Counters::add(&shared.counters.others, 1);
            refusal(405, &format!("{method} is not served here"), None)
        }
    }
}

fn allowed(shared: &Shared, request: &Request<Incoming>) -> bool {
    let state = shared.look();
    let Some(tokens) = &state.tokens else { return true };
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    given.is_some_and(|token| tokens.contains(token.trim()))
}

fn several(shared: &Arc<Shared>, query: &str) -> Answer {
    match Query::read(query) {
        Ok(query) if query.watch => {
            Counters::add(&shared.counters.watches, 1);
            watch::watch(shared, &query)
        }
        Ok(query) => {
            Counters::add(&shared.counters.lists, 1);
            list::list(shared, &query)
        }
        Err(message) => refusal(400, &message, None),
    }
}

fn one(shared: &Shared, name: &str) -> Answer {
    Counters::add(&shared.counters.gets, 1);
    let found = shared.look().store.get(name).map(|object| object.text.clone());
    found.map_or_else(|| missing(name), |text| whole(shared, text))
}

fn missing(name: &str) -> Answer {
    refusal(404, &format!("nodes \"{name}\" not found"), None)
}

fn whole(shared: &Shared, text: Bytes) -> Answer {
    Counters::add(&shared.counters.bytes, text.len());
    pieces(StatusCode::OK, vec![text], Manner::Whole)
}

/// What a patch is for.
struct Target {
    name: String,
    /// The subresource: what it may change is the status and the metadata, the Node itself leaves the status as it is.
    status: bool,
}

async fn change(shared: &Shared, request: Request<Incoming>, target: &Target) -> Answer {
    Counters::add(&shared.counters.patches, 1);
    if shared.look().fault == Some(Fault::ReadOnly) {
        shared.strike();
        return refusal(403, &format!("nodes \"{}\" is forbidden: cannot patch resource \"nodes/status\"", target.name), None);
    }
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some(kind) = Kind::of(content_type) else {
        return refusal(415, &format!("patches of type {content_type} are not served here"), None);
    };
    let Ok(body) = request.into_body().collect().await else { return refusal(400, "the body broke off", None) };
    match serde_json::from_slice::<Value>(&body.to_bytes()) {
        Ok(patch @ Value::Object(_)) => {
            shared.change(|state| patched(state, target, &patch, kind)).map_or_else(|refused| *refused, |text| whole(shared, text))
        }
        Ok(_) => refusal(400, "a patch is an object", None),
        Err(error) => refusal(400, &error.to_string(), None),
    }
}

fn patched(state: &mut super::state::State, target: &Target, change: &Value, kind: Kind) -> Result<Bytes, Box<Answer>> {
    let Target { name, status } = target;
    let refused = |code, message: &str| Box::new(refusal(code, message, None));
    let text = state.store.get(name).map(|object| object.text.clone()).ok_or_else(|| Box::new(missing(name)))?;
    let old: Value = serde_json::from_slice(&text).map_err(|error| refused(500, &error.to_string()))?;
    let expected = &change["metadata"]["resourceVersion"];
    if !expected.is_null() && *expected != old["metadata"]["resourceVersion"] {
        return Err(refused(409, "the object has been modified; please apply your changes to the latest version and try again"));
    }
    let mut new = old.clone();
    patch::apply(&mut new, change, kind);
    for field in ["name", "uid", "creationTimestamp"] {
        new["metadata"][field] = old["metadata"][field].clone();
    }
    let kept = if *status { "spec" } else { "status" };
    new[kept] = old[kept].clone();
    // A patch that changes nothing makes no version and no event, as with the real one.
    if new == old {
        return Ok(text);
    }
    state.store.put(name, |_| new.to_string());
    state.store.get(name).map(|object| object.text.clone()).ok_or_else(|| Box::new(missing(name)))
}
