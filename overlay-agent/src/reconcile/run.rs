//! The loop: wait for a reason to look again, make a pass, tell. A reason says how much has to be looked at, and nothing else.

use super::due::{Due, Reason, Rested};
use super::own_node::OwnNode;
use super::pass::{Look, Node};
use crate::clock::now;
use crate::cluster::{self, Memory, Subscription, saved};
use crate::config::{Config, News, Watch};
use crate::datapath::PinDir;
use crate::heap;
use crate::install::Installer;
use crate::model::Topology;
use crate::netlink::{Events, Netlink, sysctl};
use crate::serve;
use crate::status::{Pass, StateDir, Status};
use anyhow::{Context as _, Result};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

/// How often the nodes file is looked at without an event; one `stat`. An event that was missed costs this much.
const FILE_RECHECK: Duration = Duration::from_secs(2);
/// Rest after a pass, as a multiple of what it took: with a reason for one at any time, passes take half of a core and no more. On a node
/// with thousands of peers a pass over everything takes a tenth of a second, and a routing daemon can give reasons without end.
const REST: u32 = 1;
/// Longest rest before news of the cluster is looked at. It is gathered meanwhile, so that thousands of changes cost some passes.
const LONGEST_PAUSE: Duration = Duration::from_millis(10);
/// Rest after the status was written, as a multiple of what that took: in a large cluster it is more work than a change.
const TELL_REST: u32 = 20;
/// Longest rest after a pass that failed, whatever the reasons for another one: what somebody mends is seen within it.
const LONGEST_REST: Duration = Duration::from_millis(800);
/// Wait after a first failed pass; doubled for each further one, up to the resync interval.
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// Why the agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Stopped,
    /// There is another configuration: it is to be run again with that.
    Reconfigured,
}

/// Runs the agent of this node until SIGTERM or SIGINT, or until `watch` has another configuration than `config`. The data path keeps running
/// afterwards.
///
/// # Errors
/// When the node cannot be taken over: no privileges, no bpffs, another agent. What goes wrong later is reported and tried again.
pub async fn run(config: &Config, watch: &mut Watch) -> Result<Ended> {
    let mut state_dir = StateDir::new(config.directories.state_dir.clone());
    let _lock = state_dir.lock()?;
    let mut stop = Stop::new()?;
    watch.start();
    let netlink = Netlink::connect()?;
    if let Err(error) = sysctl::enable_forwarding() {
        warn!(%error, "packets of pods will not be forwarded to the outside");
    }
    // Subscribed before the first look, so that nothing is missed in between.
    let mut events = Some(netlink.events().await?);
    let loading = Instant::now();
    let mut node = Node::new(config, netlink.clone()).context("cannot load the data path")?;
    let load_ms = loading.elapsed().as_secs_f64() * 1e3;
    crate::datapath::forward_logs(node.datapath_mut());
    let memory = Memory { node_name: config.node_name.clone(), file: Some(config.directories.pods_dir.join(saved::FILE)) };
    let mut source = cluster::start(&config.source, FILE_RECHECK.min(config.resync_interval), memory);
    let mut status = Status::new(config.node_name.clone(), source.state.borrow().clone());
    let mut own = OwnNode::new(config, netlink.clone());
    status.backend = config.backend;
    let mut runtime = config.runtime.clone().map(|(places, template)| Installer::new(places, template)).transpose()?;
    for notice in &config.notices {
        warn!(notice, "not done as asked");
    }
    let report = serve::start(config.listen, PinDir::new(&config.directories.bpffs));
    info!(node = config.node_name, load_ms, "agent started");

    let mut settled: Option<Arc<Topology>> = None;
    let mut retry = FIRST_RETRY;
    let mut due = Due { everything: Instant::now(), cluster: None, telling: None };
    let mut rested = Rested { everything: due.everything, cluster: due.everything, telling: due.everything };
    loop {
        tokio::select! {
            () = stop.requested() => break,
            news = watch.next() => match news {
                News::Changed => return Ok(Ended::Reconfigured),
                News::Problem(problem) => {
                    status.configuration_problem = problem;
                    due.hasten(Reason::Telling, &rested);
                    continue;
                }
            },
            reason = next_reason(&mut source, &mut events, (&mut runtime, &mut own)) => {
                let (reason, what) = reason.context("the task that follows the list of nodes ended")?;
                debug!(reason = what, "look again");
                due.hasten(reason, &rested);
                continue;
            }
            () = sleep_until(due.next()) => {}
        }
        let begun = Instant::now();
        let Some(look) = due.look(begun) else {
            status.endpoint_problem = report.problem();
            tell(&source, (&mut node, settled.as_deref()), &mut status, &mut state_dir);
            report.told(&status);
            due.telling = None;
            rested.telling = Instant::now() + begun.elapsed() * TELL_REST;
            continue;
        };
        if events.is_none() {
            events = netlink.events().await.inspect_err(|error| warn!(%error, "cannot subscribe to network events")).ok();
        }
        report.turn_begins();
        let topology = source.topology.borrow_and_update().clone();
        let passed = match topology {
            Some(topology) => {
                let topology = own.settle(topology, &mut status).await;
                let complete = node.pass(&topology, look, &mut status).await && install(runtime.as_mut(), &mut status);
                settled = Some(topology);
                own.publish(complete, &mut status);
                Some(complete)
            }
            None => None,
        };
        let complete = passed.unwrap_or(true);
        let (ended, took) = (Instant::now(), begun.elapsed());
        due.cluster = None;
        due.hasten(Reason::Telling, &rested);
        if look == Look::Everything || !complete {
            let wait = if complete { config.resync_interval } else { retry.min(config.resync_interval) };
            retry = if complete { FIRST_RETRY } else { (retry * 2).min(config.resync_interval) };
            due.everything = ended + wait;
            // What a pass that fails did itself may be an event: the reason to try again must not be that it was tried.
            rested.everything = ended + if complete { took * REST } else { wait.min(LONGEST_REST) };
        }
        rested.cluster = if complete { ended + (took * REST).min(LONGEST_PAUSE) } else { rested.everything };
        report.turn_ended(&status, passed, node.actions(), due.everything.saturating_duration_since(ended));
    }
    tell(&source, (&mut node, settled.as_deref()), &mut status, &mut state_dir);
    info!("agent stopped; the data path keeps running");
    Ok(Ended::Stopped)
}

/// Brings the status up to date and writes it if there is news.
fn tell(source: &Subscription, (node, settled): (&mut Node<'_>, Option<&Topology>), status: &mut Status, state_dir: &mut StateDir) {
    if let Some(topology) = settled {
        node.tell(topology, status);
    }
    status.source = source.state.borrow().clone();
    if let Err(error) = state_dir.write(status) {
        warn!(%error, "status not written");
    }
    // It is told after every pass, but not all the time: the moment to tidy up what both have left.
    heap::trim();
}

/// Gives the container runtime what it needs, after a pass without errors; whether it has it.
fn install(runtime: Option<&mut Installer>, status: &mut Status) -> bool {
    let (Some(runtime), Some(_)) = (runtime, &status.node) else { return true };
    match runtime.ensure() {
        Ok(files) => {
            status.runtime = Some(files);
            true
        }
        Err(error) => {
            warn!(%error, "the container runtime has not what it needs");
            status.record_pass(Pass { at: now(), actions: 0, errors: vec![error.to_string()] });
            false
        }
    }
}

/// Waits for the next reason to look again.
///
/// # Errors
/// When the source's task is gone, which it never is by itself: the agent cannot go on without it.
async fn next_reason(
    source: &mut Subscription,
    events: &mut Option<Events>,
    (runtime, own): (&mut Option<Installer>, &mut OwnNode),
) -> Result<(Reason, String)> {
    let network = async {
        match events {
            Some(events) => events.next().await,
            None => std::future::pending().await,
        }
    };
    let runtime = async {
        match runtime {
            Some(runtime) => runtime.changed().await,
            None => std::future::pending().await,
        }
    };
    let everything = Reason::Look(Look::Everything);
    tokio::select! {
        () = own.changed() => {
            Ok((Reason::Look(Look::Cluster), "publishing on this node's Node went another way than before".to_owned()))
        }
        () = runtime => Ok((everything, "something changed in the container runtime's directories".to_owned())),
        changed = source.topology.changed() => {
            Ok(changed.map(|()| (Reason::Look(Look::Cluster), "the list of nodes changed".to_owned()))?)
        }
        changed = source.state.changed() => Ok(changed.map(|()| (Reason::Telling, "the source's state changed".to_owned()))?),
        event = network => Ok((everything, match event {
            Ok(Some(event)) => event.to_string(),
            Ok(None) => {
                // A new subscription is made before the next pass.
                *events = None;
                "the subscription to network events ended".to_owned()
            }
            Err(error) => {
                // Asking again at once would most likely fail at once, over and over.
                *events = None;
                format!("network events were lost: {error}")
            }
        })),
    }
}

/// The signals that end the agent.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn requested(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
