//! The fault table: everything that goes wrong between an agent and the API server, one row after another in one cluster, with traffic
//! running. Each row: packets lost, entries missing at any look, how soon the status told, how soon the agents followed again.
//! docs/api-faults.md holds the table.

use crate::check::{end, eventually};
use crate::faults_watch::Guard;
use crate::harness::{Group, note};
use anyhow::{Context as _, ensure};
use overlay_agent::cluster::Health;
use overlay_agent::datapath::{PinDir, Tables};
use overlay_lab::api_server::{Fault, Order};
use overlay_lab::lab::{Api, Lab, LabConfig, Source};
use overlay_lab::node::pod_cidr;
use overlay_lab::nodes::NodeEntry;
use overlay_lab::probe::flood::Flood;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Once;
use std::thread;
use std::time::{Duration, Instant};

/// Datagrams per second of the flood.
const RATE: u32 = 500;

/// How long agents may take to follow again, once nothing is wrong any more.
const PATIENCE: Duration = Duration::from_secs(45);

/// How long a fault lasts from when it was noticed, or from its beginning where nobody has to notice.
const HOLD: Duration = Duration::from_secs(2);

/// How long a watch has to work until an agent takes the server for well again and forgets how long it waited last.
const REST: Duration = Duration::from_millis(5500);

/// Nodes that are in the list only: what a broken list may lose.
const ABSENT: std::ops::Range<u8> = 101..121;

/// The number of the node that joins while something is wrong.
const JOINS: u8 = 150;

/// What goes wrong, and how.
#[derive(Clone, Copy)]
enum Trouble {
    /// As the server's fault script has it.
    Script(Fault),
    /// The network between nodes and server drops every packet, and nobody is told.
    Dropped,
    /// What a watch says is not what happened, or not in that order.
    Events(fn(&Api) -> anyhow::Result<()>),
    /// The server wants another token; the file has it two seconds later.
    Token,
    /// The server has a certificate of another authority; the file has it two seconds later.
    Authority,
}

/// Written before the first row; a lab after a failure begins no new table.
static HEADER: Once = Once::new();

const COLUMNS: &str =
    "| fault | status told after | change seen while it lasted | followed again after | packets lost | wrongly missing | requests |";

/// A row.
struct Row {
    sentence: &'static str,
    fault: &'static str,
    trouble: Trouble,
    /// Whether the status has to tell of it while it lasts.
    told: bool,
}

const fn row(sentence: &'static str, fault: &'static str, trouble: Trouble, told: bool) -> Row {
    Row { sentence, fault, trouble, told }
}

const fn status(code: u16, retry_after: Option<u32>) -> Trouble {
    Trouble::Script(Fault::Status { code, retry_after })
}

const ROWS: [Row; 23] = [
    row("connections are refused", "connection refused", Trouble::Script(Fault::Refused), true),
    row("connections are accepted and nothing is said", "hang on connect", Trouble::Script(Fault::Hang), true),
    row("too many requests, come again in two seconds", "429, Retry-After 2 s", status(429, Some(2)), true),
    row("the server fails", "500", status(500, None), true),
    row("the server is not available", "503", status(503, None), true),
    row("lists and watches break off in the middle", "half a body", Trouble::Script(Fault::Cut), true),
    row("lists and watches are no JSON", "bad JSON", Trouble::Script(Fault::BadJson), true),
    row("objects that are no nodes are among the nodes", "objects of wrong types", Trouble::Script(Fault::WrongType), false),
    row("events come in another order", "events reordered", Trouble::Events(reordered), false),
    row("events come twice", "events doubled", Trouble::Events(doubled), false),
    row("the deletion of a node comes after its re-creation", "tombstone", Trouble::Events(tombstone), false),
    row("watches have nothing but bookmarks", "only bookmarks", Trouble::Script(Fault::OnlyBookmarks), false),
    row("no version is young enough for a watch", "410 on watch", Trouble::Script(Fault::GoneWatch), false),
    row("lists expire between two pages", "410 between pages", Trouble::Script(Fault::GonePage), false),
    row("the token is not known", "401", status(401, None), true),
    row("reading nodes is forbidden", "403", status(403, None), true),
    row("the token is another", "token rotated", Trouble::Token, true),
    row("the certificate authority is another", "CA rotated", Trouble::Authority, true),
    row("lists are empty", "empty list", Trouble::Script(Fault::Empty), false),
    row("lists have lost all nodes but four", "tiny list", Trouble::Script(Fault::Tiny(4)), false),
    row("lists take seconds", "slow list", Trouble::Script(Fault::Trickle(64 << 10)), false),
    row("a watch that runs is silent and stays open", "silent watch", Trouble::Script(Fault::Silent), false),
    row("packets to the server vanish", "packets dropped", Trouble::Dropped, true),
];

pub(crate) fn groups() -> Vec<Group> {
    let config = LabConfig { nodes: 3, source: Source::Kubernetes, ..LabConfig::default() };
    let group = Group::new("API server faults", config);
    vec![ROWS.into_iter().fold(group, |group, row| group.case(row.sentence, move |lab| go_through(lab, &row)))]
}

/// A node that is in the list only.
fn absent(number: u8) -> NodeEntry {
    NodeEntry::new(&format!("node-{number}"), Ipv4Addr::new(192, 168, 50, number), &pod_cidr(number))
}

fn api(lab: &Lab) -> anyhow::Result<&Api> {
    lab.api.as_ref().context("this lab has no API server")
}

/// One row: the flood and the guard run from before the trouble until after everybody follows again.
fn go_through(lab: &mut Lab, row: &Row) -> anyhow::Result<()> {
    furnish(lab)?;
    let (from, to) = (end(lab, "node-1-pod-1")?, end(lab, "node-2-pod-1")?);
    let guard = Guard::start(lab, &lab.nodes_file.entries)?;
    let flood = Flood::start(from.ns, from.address, to.ns, to.address, RATE)?;
    let before = api(lab)?.server.counts();
    let result = suffer(lab, row);
    let asked = api(lab)?.server.counts();
    // Whatever came of it, the next row begins with a server that works.
    api(lab)?.server.end()?;
    unblock(lab);
    let lost = flood.stop()?;
    let missing = guard.stop()?;
    let times = result.with_context(|| format!("{}; meanwhile {lost}; missing {missing:?}", row.fault))?;
    let asked = asked.lists + asked.watches - before.lists - before.watches;
    let seconds = |time: Option<Duration>| time.map_or_else(|| "–".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()));
    note(format!(
        "| {} | {} | {} | {} | {} of {} | {} | {asked} |",
        row.fault,
        seconds(times.told),
        seconds(times.seen),
        seconds(times.followed),
        lost.lost(),
        lost.sent,
        missing.len()
    ));
    ensure!(missing.is_empty(), "entries were missing from SUBNETS: {missing:?}");
    ensure!(lost.lost() == 0, "{lost}");
    Ok(())
}

/// Fills the list once in the life of a lab.
fn furnish(lab: &mut Lab) -> anyhow::Result<()> {
    if lab.nodes_file.entries.len() == lab.nodes.len() {
        lab.nodes_file.entries.extend(ABSENT.map(absent));
        lab.publish()?;
        HEADER.call_once(|| note(COLUMNS.to_owned()));
    }
    settled(lab, None).context("before anything is wrong")?;
    healthy(lab)
}

/// What was measured in a row; none: it did not happen, and did not have to.
#[derive(Default)]
struct Times {
    /// From the beginning until every agent's status said so.
    told: Option<Duration>,
    /// From a change made at the beginning until every agent had it, while the trouble lasted.
    seen: Option<Duration>,
    /// From the end until every agent was healthy and had what was changed meanwhile.
    followed: Option<Duration>,
}

fn suffer(lab: &mut Lab, row: &Row) -> anyhow::Result<Times> {
    let mut times = Times::default();
    // Nobody hears of a fault that refuses connections; whoever is not told has to have met it.
    let scripted = matches!(row.trouble, Trouble::Script(fault) if fault != Fault::Refused);
    if !matches!(row.trouble, Trouble::Events(_)) {
        thread::sleep(REST);
    }
    let (start, mut met) = (Instant::now(), None);
    let struck = api(lab)?.server.counts().struck;
    begin(lab, row.trouble)?;
    api(lab)?.server.put(&absent(JOINS));
    let joined = absent(JOINS);
    loop {
        if times.told.is_none()
            && lab.nodes.iter().all(|node| node.agent_status().is_ok_and(|status| status.source.health != Health::Healthy))
        {
            times.told = Some(start.elapsed());
        }
        if times.seen.is_none() && matches(lab, Some(&joined)).is_ok() {
            times.seen = Some(start.elapsed());
        }
        if met.is_none() && (!scripted || api(lab)?.server.counts().struck >= struck + lab.nodes.len() as u64) {
            met = Some(start.elapsed());
        }
        let since = if row.told { times.told.max(met) } else { met };
        let long = matches!(row.trouble, Trouble::Script(Fault::Silent));
        if since.is_some_and(|since| start.elapsed() > since + HOLD) && !(long && times.seen.is_none()) {
            break;
        }
        ensure!(start.elapsed() < PATIENCE, "after {PATIENCE:?}: met {met:?}, told {:?}, seen {:?}", times.told, times.seen);
        thread::sleep(Duration::from_millis(10));
    }
    let over = Instant::now();
    finish(lab, row.trouble)?;
    settled(lab, Some(&joined)).context("after the fault")?;
    healthy(lab).context("after the fault")?;
    times.followed = Some(over.elapsed());
    api(lab)?.server.delete(&joined.name)?;
    settled(lab, None).context("a node that left afterwards")?;
    Ok(times)
}

fn begin(lab: &Lab, trouble: Trouble) -> anyhow::Result<()> {
    let api = api(lab)?;
    match trouble {
        Trouble::Script(fault) => api.server.begin(fault),
        Trouble::Dropped => block(lab),
        Trouble::Events(say) => say(api),
        Trouble::Token => {
            api.server.set_token(SECOND);
            api.server.break_connections();
            Ok(())
        }
        Trouble::Authority => {
            api.server.rotate_authority()?;
            api.server.break_connections();
            Ok(())
        }
    }
}

/// The token after the first.
const SECOND: &str = "second-token";

fn finish(lab: &Lab, trouble: Trouble) -> anyhow::Result<()> {
    let Api { server, access } = api(lab)?;
    match trouble {
        Trouble::Script(_) => server.end(),
        Trouble::Dropped => {
            unblock(lab);
            Ok(())
        }
        Trouble::Events(_) => Ok(()),
        Trouble::Token => access.write_token(SECOND),
        Trouble::Authority => access.write_authority(&server.authority().context("no TLS")?),
    }
}

/// A node moves and moves back, another is deleted and created anew; a watch hears all of it from the end.
fn reordered(api: &Api) -> anyhow::Result<()> {
    told(api, Order::Reversed)
}

fn doubled(api: &Api) -> anyhow::Result<()> {
    told(api, Order::Doubled)
}

fn told(Api { server, .. }: &Api, order: Order) -> anyhow::Result<()> {
    let (moving, leaving) = (absent(ABSENT.start), absent(ABSENT.start + 1));
    server.hold_events();
    server.put(&NodeEntry { address: Some(Ipv4Addr::new(192, 168, 50, 99)), ..moving.clone() });
    server.put(&moving);
    // The guard must not find it missing: its deletion and creation are one step to an agent that has both.
    server.delete(&leaving.name)?;
    server.put(&leaving);
    server.release_events(order);
    Ok(())
}

/// A node is deleted and created anew, and a second later the deletion of the first is told once more.
fn tombstone(Api { server, .. }: &Api) -> anyhow::Result<()> {
    let leaving = absent(ABSENT.start + 2);
    let old = server.node(&leaving.name);
    server.hold_events();
    server.delete(&leaving.name)?;
    server.put(&leaving);
    server.release_events(Order::Kept);
    thread::sleep(Duration::from_secs(1));
    server.say_deleted(&old);
    Ok(())
}

/// Drops every packet to and from the server.
fn block(lab: &Lab) -> anyhow::Result<()> {
    let port = api(lab)?.server.port();
    let rules = format!(
        "add table ip blocked; add chain ip blocked in {{ type filter hook input priority 0; }}; add chain ip blocked out {{ type filter hook output \
         priority 0; }}; add rule ip blocked in tcp dport {port} drop; add rule ip blocked out tcp sport {port} drop"
    );
    overlay_lab::command::run(lab.underlay.router.command("nft").arg(rules)).map(drop)
}

/// Undoes [`block`], if it was done.
fn unblock(lab: &Lab) {
    let _ = lab.underlay.router.run("nft", "delete table ip blocked");
}

/// Every agent says that it follows.
fn healthy(lab: &Lab) -> anyhow::Result<()> {
    eventually(PATIENCE, || {
        for node in &lab.nodes {
            let source = node.agent_status()?.source;
            ensure!(source.health == Health::Healthy, "{}: {source:?}", node.name);
        }
        Ok(())
    })
}

/// The subnets of every node hold what the cluster's list says, and nothing else.
fn settled(lab: &Lab, more: Option<&NodeEntry>) -> anyhow::Result<()> {
    eventually(PATIENCE, || matches(lab, more))
}

fn matches(lab: &Lab, more: Option<&NodeEntry>) -> anyhow::Result<()> {
    for node in &lab.nodes {
        let entries = lab.nodes_file.entries.iter().chain(more).filter(|entry| entry.name != node.name);
        let expected: BTreeSet<(String, Option<Ipv4Addr>)> =
            entries.map(|entry| (entry.pod_cidr.clone().unwrap_or_default(), entry.address)).collect();
        let subnets = Tables::open(&PinDir::new(&node.config.bpffs))?.subnets()?;
        let found: BTreeSet<(String, Option<Ipv4Addr>)> =
            subnets.into_iter().map(|(net, subnet)| (net.to_string(), Some(subnet.node.into()))).collect();
        ensure!(found == expected, "{}: SUBNETS differs by {:?}", node.name, found.symmetric_difference(&expected).collect::<Vec<_>>());
    }
    Ok(())
}
