//! Where the cases run, and the plumbing they share. `ip` of iproute2 sets up what is not under test, and is the second opinion on
//! what is.

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Completion, Failed};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use overlay_agent::netlink::{Namespace, Netlink};
use std::any::Any;
use std::future::Future;
use std::io::Write as _;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// One test case.
pub(crate) type Case = fn() -> Pin<Box<dyn Future<Output = Result<()>>>>;

/// Moves the process into namespaces of its own. The error is the reason to ignore all cases.
pub(crate) fn enter() -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("needs root, to make network namespaces".to_owned());
    }
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).map_err(|errno| format!("cannot make namespaces: {errno}"))?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>)
        .map_err(|errno| format!("cannot make mounts private: {errno}"))
}

/// Runs a case on a thread of its own, in a network namespace of its own.
pub(crate) fn run(case: Case, entered: &Result<(), String>) -> Result<Completion, Failed> {
    if let Err(reason) = entered {
        return Ok(Completion::ignored_with(reason));
    }
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(case())
    });
    match thread.join() {
        Ok(Ok(())) => Ok(Completion::Completed),
        Ok(Err(error)) => Err(format!("{error:#}").into()),
        Err(panic) => Err(words(panic.as_ref()).into()),
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_else(|| "panicked".to_owned())
}

/// Runs `ip` with these words in the calling thread's namespace and returns what it printed.
pub(crate) fn ip(words: &str) -> Result<String> {
    let output = Command::new("ip").args(words.split_whitespace()).output().context("cannot run ip (iproute2)")?;
    ensure!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs a program with `input` as its standard input and returns what it printed.
pub(crate) fn program(words: &str, input: &str) -> Result<String> {
    let mut words = words.split_whitespace();
    let name = words.next().context("no program")?;
    let mut child = Command::new(name).args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("no pipe")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?)
}

/// Several `ip` commands, one a line.
pub(crate) fn ip_all(lines: &str) -> Result<()> {
    lines.lines().map(str::trim).filter(|line| !line.is_empty()).try_for_each(|line| ip(line).map(drop))
}

/// The same in another namespace.
pub(crate) fn ip_all_in(namespace: &Namespace, lines: &str) -> Result<()> {
    namespace.run(|| ip_all(lines))?
}

/// One device as `ip -d -j link show` describes it.
pub(crate) fn ip_link(name: &str) -> Result<serde_json::Value> {
    let mut list: Vec<serde_json::Value> = serde_json::from_str(&ip(&format!("-d -j link show dev {name}"))?)?;
    list.pop().context("ip printed no device")
}

/// Sends `count` pings from the calling thread's namespace; an error if one is not answered.
pub(crate) fn ping(words: &str) -> Result<()> {
    let output = Command::new("ping").args(["-n", "-i", "0.05", "-W", "2"]).args(words.split_whitespace()).output()?;
    ensure!(output.status.success(), "ping {words}: {}", String::from_utf8_lossy(&output.stdout));
    ensure!(String::from_utf8_lossy(&output.stdout).contains(" 0% packet loss"), "ping {words} lost packets");
    Ok(())
}

/// A neighbour on the other end of a veth pair: here `up0` with 10.0.0.1/24, there `peer0` with 10.0.0.2/24.
pub(crate) struct Neighbourhood {
    pub(crate) peer: Namespace,
    pub(crate) netlink: Netlink,
    pub(crate) ifindex: u32,
}

pub(crate) const PEER_MAC: &str = "02:00:00:00:00:02";

pub(crate) async fn neighbourhood() -> Result<Neighbourhood> {
    let peer = Namespace::create()?;
    let there = format!("/proc/{}/fd/{}", std::process::id(), peer.as_raw_fd());
    ip(&format!("link add up0 address 02:00:00:00:00:01 type veth peer name peer0 address {PEER_MAC} netns {there}"))?;
    ip_all("link set lo up \n addr add 10.0.0.1/24 dev up0 \n link set up0 up")?;
    ip_all_in(&peer, "link set lo up \n addr add 10.0.0.2/24 dev peer0 \n link set peer0 up")?;
    let netlink = Netlink::connect()?;
    let ifindex = netlink.link_by_name("up0").await?.context("no up0")?.ifindex;
    wait_for("carrier on up0", async || Ok(netlink.link_by_name("up0").await?.is_some_and(|link| link.carrier))).await?;
    Ok(Neighbourhood { peer, netlink, ifindex })
}

/// Makes the neighbour timers of a device run in tenths of seconds: reachable for 0.2 s, probed every 0.1 s.
pub(crate) fn hurry_neighbours(device: &str) -> Result<()> {
    let timers =
        [("base_reachable_time_ms", "200"), ("delay_first_probe_time", "1"), ("retrans_time_ms", "100"), ("interval_probe_time_ms", "100")];
    for (key, value) in timers {
        std::fs::write(format!("/proc/sys/net/ipv4/neigh/{device}/{key}"), value).context(key)?;
    }
    Ok(())
}

/// Asks again and again until `condition` holds, for at most ten seconds.
pub(crate) async fn wait_for(what: &str, mut condition: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if condition().await? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bail!("waited in vain for: {what}")
}
