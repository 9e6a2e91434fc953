//! Other plugins before, after, below and beside ours: Debian's reference plugins, which speak versions up to 1.0.0.

use super::bed::{Guest, NETWORK, address, alone, plugin, runtime, traces, unchanged};
use crate::check::{end, reaches};
use crate::harness::{Group, note};
use anyhow::{Context as _, bail, ensure};
use overlay_lab::cni::{Conflist, Container, Runtime};
use overlay_lab::lab::{Lab, LabConfig};
use overlay_lab::netns::Ns;
use overlay_lab::probe::tcp;
use overlay_lab::sandbox;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};

const PORT: u16 = 80;
const HOST_PORT: u16 = 8080;

pub(crate) fn group() -> Group {
    Group::new("overlay-cni, chains", LabConfig { nodes: 2, ..LabConfig::default() })
        .case("tuning, portmap and firewall work behind it", behind)
        .case("a plugin before it is passed on in the result", before)
        .case("host-local gives the addresses, and gets them back", delegated)
        .case("an address that another plugin gave and no pod can have is given back", delegated_and_refused)
        .case("bandwidth is added, checked and taken away behind it", bandwidth)
        .case("beside the reference plugin ptp, the same calls end alike", beside)
}

fn behind(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let (runtime, left) = (runtime(node)?, traces(node)?);
    let rules = || node.ns.run("iptables-save", "");
    let rules_before = without_chains(&rules()?);
    let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true }, "snat": true });
    let tuning = json!({ "type": "tuning", "sysctl": { "net.core.somaxconn": "500" }, "mtu": 1400 });
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        let mut plugins = vec![plugin(node), tuning.clone(), portmap.clone()];
        // Speaks nothing older.
        plugins.extend((version != "0.3.1").then(|| json!({ "type": "firewall", "backend": "iptables" })));
        let list = Conflist::new(version, NETWORK, &plugins);
        let mut one = Guest::new("cni-a")?;
        let mapping = json!([{ "hostPort": HOST_PORT, "containerPort": PORT, "protocol": "tcp" }]);
        one.container.capabilities.insert("portMappings".to_owned(), mapping);
        let result = runtime.add(&list, &one.container).with_context(|| version.to_owned())?;
        ensure!(result["interfaces"].as_array().is_some_and(|all| all.len() == 2), "{result}");
        ensure!(one.ns.enter(|| fs::read_to_string("/proc/sys/net/core/somaxconn"))?? == "500\n");
        if version != "0.3.1" {
            // portmap 1.1.1 looks for IPv6 rules that it never made.
            let checkable: Vec<_> = plugins.iter().filter(|plugin| plugin["type"] != "portmap").cloned().collect();
            runtime.check(&Conflist::new(version, NETWORK, &checkable), &one.container, &result).with_context(|| version.to_owned())?;
        }
        let (me, other) = (one.end(node, &result)?, end(lab, "node-2-pod-1")?);
        reaches(&me, &other)?;
        for (from, of) in [(end(lab, "outside")?, "outside"), (end(lab, "node-2")?, "another node"), (other, "a pod of another node")] {
            through_host_port(from.ns, node.address, &one.ns, me.address).with_context(|| format!("hostPort from {of}, {version}"))?;
        }
        runtime.del(&list, &one.container, Some(&result))?;
        runtime.del(&list, &one.container, None)?;
        unchanged(node, &left)?;
        let rules_after = without_chains(&rules()?);
        let left: Vec<_> = rules_after.difference(&rules_before).collect();
        // The plugins keep their empty chains for the next pod.
        ensure!(left.iter().all(|rule| !rule.contains(&me_address(&result))), "rules about the pod are left: {left:?}");
    }
    Ok(())
}

fn me_address(result: &Value) -> String {
    address(result).map_or_else(|error| error.to_string(), |address| address.to_string())
}

fn without_chains(rules: &str) -> BTreeSet<String> {
    rules.lines().filter(|line| line.starts_with("-A")).map(str::to_owned).collect()
}

/// A connection to a port of the node ends in the pod, whose answer comes back.
fn through_host_port(from: &Ns, node: Ipv4Addr, pod: &Ns, address: Ipv4Addr) -> anyhow::Result<()> {
    let listener = pod.tcp_listener(address, PORT)?;
    let mut client = from.tcp_connect(SocketAddrV4::new(node, HOST_PORT))?;
    let (mut server, _) = listener.accept()?;
    client.write_all(b"hello")?;
    let mut heard = [0; 5];
    server.read_exact(&mut heard)?;
    server.write_all(&heard)?;
    client.read_exact(&mut heard)?;
    ensure!(heard == *b"hello", "{heard:?} came back");
    Ok(())
}

fn before(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let (runtime, left) = (runtime(node)?, traces(node)?);
    let one = Guest::new("cni-a")?;
    let list = Conflist::new("1.0.0", NETWORK, &[json!({ "type": "loopback" }), plugin(node)]);
    let result = runtime.add(&list, &one.container)?;
    let names: Vec<_> = result["interfaces"].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect();
    ensure!(names.len() == 3 && names[0] == "lo" && names[2] == "eth0", "{result}");
    let ips = result["ips"].as_array().context("addresses")?;
    let ours = ips.last().context("an address")?;
    ensure!(ips.len() > 1 && ips[0]["address"] == "127.0.0.1/8" && ours["interface"] == 2, "{result}");
    runtime.check(&list, &one.container, &result)?;
    runtime.del(&list, &one.container, Some(&result))?;
    unchanged(node, &left)
}

/// Our plugin with addresses of host-local, and where that keeps them.
fn with_host_local(lab: &Lab, subnet: &str, first: u8, last: u8) -> (Conflist, PathBuf) {
    let directory = Path::new(sandbox::ROOT).join("host-local");
    let mut list = alone(&lab.nodes[0], "1.0.0");
    let end = |last: u8| subnet.replace(".0/24", &format!(".{last}"));
    list.plugins[0]["ipam"] =
        json!({ "type": "host-local", "subnet": subnet, "rangeStart": end(first), "rangeEnd": end(last), "dataDir": directory });
    (list, directory)
}

/// Addresses that host-local holds as given.
fn held(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory.join(NETWORK)).into_iter().flatten().flatten();
    names.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|name| name.starts_with("10.")).collect()
}

fn delegated(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let (runtime, left) = (runtime(node)?, traces(node)?);
    let (list, directory) = with_host_local(lab, "10.244.1.0/24", 40, 41);
    let guests = ["cni-a", "cni-b", "cni-c"].map(Guest::new).into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let results = guests[..2].iter().map(|one| runtime.add(&list, &one.container)).collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(address(&results[0])?.octets()[3] == 40 && held(&directory).len() == 2, "{results:?}, {:?}", held(&directory));
    let (me, other) = (guests[0].end(node, &results[0])?, end(lab, "node-2-pod-1")?);
    reaches(&me, &other)?;
    runtime.check(&list, &guests[0].container, &results[0])?;
    // Its words when it has none left, and its own code.
    let error = runtime.add(&list, &guests[2].container).err().context("a third of two addresses")?.to_string();
    ensure!(error.contains("plugin host-local: ") && error.contains("no IP addresses available"), "{error}");
    ensure!(held(&directory).len() == 2);
    // A second ADD asks host-local for nothing, and its failure gives nothing back.
    let error = runtime.add(&list, &guests[0].container).err().context("ADD twice")?.to_string();
    ensure!(error.contains("\"code\":100"), "{error}");
    ensure!(held(&directory).len() == 2);
    runtime.check(&list, &guests[0].container, &results[0])?;
    for one in &guests {
        runtime.del(&list, &one.container, None)?;
        runtime.del(&list, &one.container, None)?;
    }
    ensure!(held(&directory).is_empty(), "host-local still holds {:?}", held(&directory));
    unchanged(node, &left)
}

fn delegated_and_refused(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let (runtime, left) = (runtime(node)?, traces(node)?);
    let one = Guest::new("cni-a")?;
    let refused = |list: &Conflist, code: u32, part: &str| -> anyhow::Result<()> {
        let Err(error) = runtime.add(list, &one.container) else { bail!("an address no pod can have was taken") };
        ensure!(error.to_string().contains(&format!("\"code\":{code},")) && error.to_string().contains(part), "{error}");
        unchanged(node, &left)
    };
    let (foreign, directory) = with_host_local(lab, "10.245.1.0/24", 40, 41);
    refused(&foreign, 7, "not in this node's pod network")?;
    ensure!(held(&directory).is_empty(), "host-local still holds {:?}", held(&directory));
    // The address of a pod of the lab, which has no record.
    let (taken, directory) = with_host_local(lab, "10.244.1.0/24", 11, 11);
    refused(&taken, 102, "10.244.1.11 is in use")?;
    ensure!(held(&directory).is_empty(), "host-local still holds {:?}", held(&directory));
    // What is in the way in the pod.
    one.ns.ip("link add eth0 type bridge")?;
    let (list, directory) = with_host_local(lab, "10.244.1.0/24", 40, 41);
    refused(&list, 100, "exists already")?;
    ensure!(held(&directory).is_empty(), "host-local still holds {:?}", held(&directory));
    Ok(())
}

fn bandwidth(lab: &mut Lab) -> anyhow::Result<()> {
    const RATE: u64 = 20_000_000;
    let node = &lab.nodes[0];
    let (runtime, left) = (runtime(node)?, traces(node)?);
    let bandwidth = json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } });
    let list = Conflist::new("1.0.0", NETWORK, &[plugin(node), bandwidth]);
    let mut one = Guest::new("cni-a")?;
    let wish = json!({ "ingressRate": RATE, "ingressBurst": RATE, "egressRate": RATE, "egressBurst": RATE });
    one.container.capabilities.insert("bandwidth".to_owned(), wish);
    let result = runtime.add(&list, &one.container)?;
    runtime.check(&list, &one.container, &result)?;
    let shaped = || node.ns.run("tc", "qdisc show").map(|qdiscs| qdiscs.matches("tbf").count());
    ensure!(shaped()? == 2, "{} token buckets, not one for each direction", shaped()?);
    // They see only what takes the host's stack: programs hand packets over before and behind them.
    let (me, other) = (one.end(node, &result)?, end(lab, "node-2-pod-1")?);
    let out = tcp::transfer(me.ns, other.ns, other.address, 8 << 20)?.gbit_per_second();
    let into = tcp::transfer(other.ns, me.ns, me.address, 8 << 20)?.gbit_per_second();
    note(format!("bandwidth of 0.02 Gbit/s asked for: {out:.2} Gbit/s out of the pod, {into:.2} into it"));
    runtime.del(&list, &one.container, Some(&result))?;
    ensure!(shaped()? == 0, "{} token buckets are left", shaped()?);
    unchanged(node, &left)
}

/// One call of both plugins: name, verb, what is changed about it.
struct Scenario {
    name: &'static str,
    verb: &'static str,
    version: &'static str,
    change: fn(&mut Container, &mut Value),
}

const SCENARIOS: [Scenario; 22] = [
    Scenario { name: "DEL of what was never added", verb: "DEL", version: "1.0.0", change: |_, _| () },
    Scenario {
        name: "ADD with a missing namespace",
        verb: "ADD",
        version: "1.0.0",
        change: |one, _| one.netns = Some("/run/netns/absent".into()),
    },
    Scenario { name: "ADD without CNI_NETNS", verb: "ADD", version: "1.0.0", change: |one, _| one.netns = None },
    Scenario { name: "ADD with a wrong container id", verb: "ADD", version: "1.0.0", change: |one, _| "-a".clone_into(&mut one.id) },
    Scenario {
        name: "ADD with a wrong interface name",
        verb: "ADD",
        version: "1.0.0",
        change: |one, _| "sixteen-letters-".clone_into(&mut one.ifname),
    },
    Scenario { name: "ADD with unknown CNI_ARGS", verb: "ADD", version: "1.0.0", change: |one, _| "A=B".clone_into(&mut one.args) },
    Scenario { name: "ADD without a network name", verb: "ADD", version: "1.0.0", change: |_, config| config["name"] = "".into() },
    Scenario { name: "ADD with a wrong network name", verb: "ADD", version: "1.0.0", change: |_, config| config["name"] = "a b".into() },
    Scenario { name: "ADD of version 2.0.0", verb: "ADD", version: "2.0.0", change: |_, _| () },
    Scenario {
        name: "ADD with a number for a version",
        verb: "ADD",
        version: "1.0.0",
        change: |_, config| config["cniVersion"] = 1.into(),
    },
    Scenario { name: "CHECK of version 0.3.1", verb: "CHECK", version: "0.3.1", change: |_, _| () },
    Scenario { name: "CHECK without prevResult", verb: "CHECK", version: "1.0.0", change: |_, _| () },
    Scenario { name: "GC of version 1.0.0", verb: "GC", version: "1.0.0", change: |_, _| () },
    Scenario { name: "STATUS of version 1.0.0", verb: "STATUS", version: "1.0.0", change: |_, _| () },
    Scenario { name: "an unknown verb", verb: "UNKNOWN", version: "1.0.0", change: |_, _| () },
    Scenario { name: "VERSION", verb: "VERSION", version: "1.0.0", change: |_, _| () },
    Scenario { name: "ADD with an unknown key", verb: "ADD", version: "1.0.0", change: |_, config| config["else"] = 1.into() },
    Scenario { name: "DEL of it", verb: "DEL", version: "1.0.0", change: |_, _| () },
    Scenario { name: "ADD", verb: "ADD", version: "0.3.1", change: |_, _| () },
    Scenario { name: "ADD again", verb: "ADD", version: "0.4.0", change: |_, _| () },
    Scenario { name: "DEL without CNI_NETNS", verb: "DEL", version: "0.4.0", change: |one, _| one.netns = None },
    Scenario { name: "DEL again", verb: "DEL", version: "1.0.0", change: |_, _| () },
];

/// Where ours says no and the reference yes: it passes over what it does not know.
const STRICTER: [&str; 1] = ["ADD with an unknown key"];

fn beside(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let (runtime, left) = (runtime(node)?, traces(node)?);
    let ipam = json!({ "type": "host-local", "subnet": "10.246.0.0/24", "dataDir": Path::new(sandbox::ROOT).join("ptp") });
    let (ours, reference) = (Guest::new("cni-a")?, Guest::new("cni-b")?);
    let ptp = json!({ "type": "ptp", "ipam": ipam });
    for scenario in &SCENARIOS {
        let one = outcome(&runtime, scenario, &ours, &plugin(node))?;
        let other = outcome(&runtime, scenario, &reference, &ptp)?;
        let Scenario { name, .. } = scenario;
        if one.0 != other.0 || one.1 != other.1 {
            note(format!("{name}: overlay-cni {}, ptp {}", said(&one), said(&other)));
        }
        ensure!(one.0 == other.0 || (STRICTER.contains(name) && other.0), "{name}: overlay-cni {}, ptp {}", said(&one), said(&other));
    }
    unchanged(node, &left)
}

/// Whether a call succeeded; else its code and message.
fn outcome(runtime: &Runtime<'_>, scenario: &Scenario, one: &Guest, plugin: &Value) -> anyhow::Result<(bool, u64, String)> {
    let (mut container, mut config) = (one.container.clone(), plugin.clone());
    config["cniVersion"] = scenario.version.into();
    config["name"] = NETWORK.into();
    (scenario.change)(&mut container, &mut config);
    let reply = runtime.call(&runtime.prepare(scenario.verb, &container, &config))?;
    if reply.exit == Some(0) {
        return Ok((true, 0, String::new()));
    }
    let (code, msg) = reply.failure().with_context(|| scenario.name)?;
    Ok((false, code, msg))
}

fn said((success, code, msg): &(bool, u64, String)) -> String {
    if *success { "succeeds".to_owned() } else { format!("says {code}, {msg:?}") }
}
