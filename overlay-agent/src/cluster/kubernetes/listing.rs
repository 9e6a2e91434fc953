//! A complete list: its pages, and what becomes of it.

use super::request::{self, RequestError};
use super::scan::Scan;
use super::{Follower, NODES};
use crate::cluster::nodes::{Candidate, UNREADABLE};
use crate::cluster::object::Object;
use kube::Client;
use kube::api::{ListParams, VersionMatch};
use std::time::Duration;

/// A list of whatever a server has in its cache, which costs it least. kube's client leaves the version out where a page size is set.
const ANY: &str = "/api/v1/nodes?limit=500&resourceVersion=0&resourceVersionMatch=NotOlderThan";
/// Nodes per page, where the server makes pages.
const PAGE: u32 = 500;
/// Longest wait for a list to begin: servers before 1.33 write all of it before they send the first byte.
const LIST_ANSWER: Duration = Duration::from_secs(30);
/// Pause before a doubtful list is asked for again, and what is added at random per node: 5,000 agents ask over 50 s.
const PAUSE: Duration = Duration::from_secs(10);
const PAUSE_PER_NODE: Duration = Duration::from_millis(10);

impl Follower {
    pub(super) async fn list(&mut self, client: &Client) -> Result<(), RequestError> {
        let begun = self.moment();
        self.picture.begin_list(begun);
        let listed = self.pages(client).await;
        let version = match listed {
            Ok(version) => version,
            Err(error) => {
                self.picture.drop_list();
                // What the server's cache cannot give, or a page that has expired.
                self.newest |= matches!(error, RequestError::Outdated(_)) || matches!(error.code(), Some(400 | 410 | 422 | 504));
                return Err(error);
            }
        };
        let pause = PAUSE + PAUSE_PER_NODE.mul_f64(fastrand::f64() * f64::from(u32::try_from(self.picture.len()).unwrap_or(u32::MAX)));
        self.picture.set_pause(pause);
        self.picture.end_list(version.parse().ok(), self.moment());
        self.reached = Some(version);
        (self.list_first, self.newest, self.refused) = (false, false, 0);
        self.publish();
        self.tell();
        Ok(())
    }

    /// Reads every page; returns the list's version.
    async fn pages(&mut self, client: &Client) -> Result<String, RequestError> {
        let mut params = ListParams::default().limit(PAGE);
        // From the cache of whichever server answers, but nothing older than what was seen.
        let any = !self.newest && self.reached.is_none();
        if let Some(reached) = self.reached.clone().filter(|_| !self.newest) {
            params = params.at(&reached).matching(VersionMatch::NotOlderThan);
        }
        let mut request = if any {
            http::Request::get(ANY).body(Vec::new()).map_err(kube::core::request::Error::BuildRequest).map_err(kube::Error::BuildRequest)?
        } else {
            page_request(&params)?
        };
        let mut position = 0;
        loop {
            let body = request::get(client, request, LIST_ANSWER).await?;
            let mut scan = Scan::new();
            let Self { picture, publisher, .. } = self;
            request::read(body, |bytes| {
                publisher.contact.now();
                let mut take = |item: &[u8]| {
                    position += 1;
                    let (candidate, version) = read_item(item, position);
                    picture.listed(candidate, version);
                };
                scan.push(bytes, &mut take).map_err(Into::into)
            })
            .await?;
            let page = scan.finish()?;
            if page.next.is_none() {
                let version = page.version.ok_or(RequestError::NoVersion)?;
                let outdated = !self.newest && self.picture.is_outdated(version.parse().ok());
                return if outdated { Err(RequestError::Outdated(version)) } else { Ok(version) };
            }
            params.continue_token = page.next;
            request = page_request(&params)?;
        }
    }
}

fn page_request(params: &ListParams) -> Result<http::Request<Vec<u8>>, kube::Error> {
    kube::core::Request::new(NODES).list(params).map_err(kube::Error::BuildRequest)
}

/// One item of a list.
fn read_item(item: &[u8], position: usize) -> (Candidate, Option<u64>) {
    match serde_json::from_slice::<Object>(item) {
        // The name of a Pod is not the name of a node.
        Ok(object) if object.is_foreign() => {
            let node = Err(format!("{UNREADABLE}: it is something else"));
            (Candidate { name: format!("item {position}"), uid: None, created: None, node }, None)
        }
        Ok(object) => (object.candidate(position), object.version()),
        Err(error) => {
            let node = Err(format!("{UNREADABLE}: {error}"));
            (Candidate { name: format!("item {position}"), uid: None, created: None, node }, None)
        }
    }
}
