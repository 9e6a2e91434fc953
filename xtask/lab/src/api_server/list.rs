//! The answer to a list: whole or by pages, of now or of the version asked for.

use super::answer::{Answer, Manner, pieces, refusal};
use super::fault::{Fault, PAGE, strange_items};
use super::query::Query;
use super::state::Shared;
use super::store::Listing;
use http::StatusCode;
use hyper::body::Bytes;
use std::sync::Arc;

/// What a client reads whose next page is of a list that is not kept any more.
const EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without \
                       the continue parameter, or use the continue token in this response to retrieve the remainder of the results.";

/// A page of a list.
struct Page {
    listing: Arc<Listing>,
    /// The place of its first item.
    start: usize,
    limit: Option<usize>,
}

/// Answers a list.
pub(super) fn list(shared: &Shared, query: &Query) -> Answer {
    let fault = shared.look().fault;
    if fault.is_some_and(Fault::needs_list) {
        shared.strike();
    }
    let page = match find(shared, query, fault) {
        Ok(page) => page,
        Err(refused) => return *refused,
    };
    let (manner, page) = match fault {
        Some(Fault::BadJson) => return pieces(StatusCode::OK, vec![Bytes::from_static(PAGE.as_bytes())], Manner::Whole),
        Some(Fault::Cut) => (Manner::Cut, page),
        Some(Fault::Trickle(rate)) => (Manner::Slow(rate), page),
        Some(Fault::Empty) => (Manner::Whole, shortened(&page, 0)),
        Some(Fault::Tiny(count)) => (Manner::Whole, shortened(&page, count)),
        _ => (Manner::Whole, page),
    };
    let strange = if fault == Some(Fault::WrongType) { page.listing.items.first().map(|(name, _)| strange_items(name)) } else { None };
    pieces(StatusCode::OK, render(shared, &page, strange.unwrap_or_default()), manner)
}

/// A list that has lost all but its first items.
fn shortened(page: &Page, count: usize) -> Page {
    let Listing { version, items } = &*page.listing;
    let listing = Listing { version: *version, items: items.iter().take(count).cloned().collect() };
    Page { listing: Arc::new(listing), start: 0, limit: None }
}

/// The page that is asked for, or why there is none.
fn find(shared: &Shared, query: &Query, fault: Option<Fault>) -> Result<Page, Box<Answer>> {
    let refused = |code, message: &str| Box::new(refusal(code, message, None));
    let exact = query.version_match.as_deref() == Some("Exact");
    match query.version_match.as_deref() {
        Some(_) if query.version.is_none() || query.next.is_some() => {
            return Err(refused(422, "resourceVersionMatch is forbidden unless resourceVersion is provided, and with continue"));
        }
        Some("Exact") if query.version == Some(0) => {
            return Err(refused(422, "resourceVersionMatch Exact is forbidden with resourceVersion 0"));
        }
        None | Some("Exact" | "NotOlderThan") => {}
        Some(other) => return Err(refused(422, &format!("resourceVersionMatch: {other} is not supported"))),
    }
    let paging = fault == Some(Fault::GonePage);
    let mut state = shared.look();
    if let Some(token) = &query.next {
        let (version, name) = token
            .split_once('.')
            .and_then(|(version, name)| Some((version.parse().ok()?, name)))
            .ok_or_else(|| refused(400, "continue key is not valid"))?;
        let listing = state.store.kept(version).ok_or_else(|| refused(410, EXPIRED))?;
        let start = listing.items.partition_point(|(known, _)| known.as_str() < name);
        if paging && start >= 2 {
            return Err(refused(410, EXPIRED));
        }
        return Ok(Page { listing, start, limit: if paging { Some(1) } else { query.limit } });
    }
    let asked = query.version.unwrap_or(0);
    if asked > state.store.version() {
        let message = format!("Too large resource version: {asked}, current: {}", state.store.version());
        return Err(Box::new(refusal(504, &message, Some(1))));
    }
    let listing = match state.store.kept(asked) {
        _ if !exact || asked == state.store.version() => Arc::new(state.store.listing(query.name.as_deref())),
        Some(kept) => kept,
        None => return Err(refused(410, &format!("The resourceVersion for the provided list is too old: {asked}"))),
    };
    // From its cache, which is what resourceVersion 0 asks for, the real one gives everything at once.
    let limit = if paging { Some(1) } else { query.limit.filter(|_| query.version != Some(0)) };
    if limit.is_some_and(|limit| limit < listing.items.len()) {
        state.store.keep(&listing);
    }
    Ok(Page { listing, start: 0, limit })
}

/// The page as pieces of a body: the objects' own texts with what goes around them.
fn render(shared: &Shared, page: &Page, strange: Vec<Bytes>) -> Vec<Bytes> {
    let Page { listing, start, limit } = page;
    let end = limit.map_or(listing.items.len(), |limit| listing.items.len().min(start + limit));
    let rest = listing.items.get(end).map_or_else(String::new, |(next, _)| {
        format!(r#","continue":"{}.{next}","remainingItemCount":{}"#, listing.version, listing.items.len() - end)
    });
    let head = format!(r#"{{"kind":"NodeList","apiVersion":"v1","metadata":{{"resourceVersion":"{}"{rest}}},"items":["#, listing.version);
    let mut pieces = vec![Bytes::from(head)];
    let items = listing.items.get(*start..end).unwrap_or_default().iter().map(|(_, text)| text.clone());
    for (number, item) in items.chain(strange).enumerate() {
        if number > 0 {
            pieces.push(Bytes::from_static(b","));
        }
        pieces.extend(untyped(item));
    }
    pieces.push(Bytes::from_static(b"]}\n"));
    super::state::Counters::add(&shared.counters.bytes, pieces.iter().map(Bytes::len).sum());
    pieces
}

/// An item as the real one sends it: what kind of object it is, the list says for all of them.
fn untyped(item: Bytes) -> impl Iterator<Item = Bytes> {
    const TYPED: &[u8] = br#"{"apiVersion":"v1","kind":"Node","#;
    let (open, rest) = if item.starts_with(TYPED) { (Some(Bytes::from_static(b"{")), item.slice(TYPED.len()..)) } else { (None, item) };
    open.into_iter().chain([rest])
}
