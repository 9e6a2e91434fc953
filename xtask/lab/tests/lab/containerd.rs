//! Containers of a real containerd, one on each node, through its CNI configuration.

use crate::check::{self, end, eventually, reaches};
use crate::cni::bed::{traces, unchanged};
use crate::harness::{Group, note, without_lab};
use crate::service_rules::Proxy;
use crate::services::{self, Seen, Talk};
use anyhow::{Context as _, ensure};
use libtest_mimic::{Failed, Trial};
use overlay_lab::containerd::{Container, Containerd};
use overlay_lab::lab::{Endpoint, Lab, LabConfig, Runtime};
use overlay_lab::netns::Ns;
use overlay_lab::node::Node;
use overlay_lab::sandbox;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// What a container does in the cases: serves a page.
const HTTPD: [&str; 6] = ["httpd", "-f", "-p", "8080", "-h", "/etc"];

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("containerd: containers of the reference plugins talk, and outlive its death", reference)]
}

pub(crate) fn groups() -> Vec<Group> {
    let config = LabConfig { nodes: 3, pods: 2, runtime: Runtime::Containerd, ..LabConfig::default() };
    let group = Group::new("containerd", config)
        .case("containers reach each other on every node, the nodes, and the outside", |lab| {
            check::all_pods_answer(lab)?;
            let from = end(lab, "node-1-pod-1")?;
            for to in ["node-1-pod-2", "node-2-pod-1", "node-1"] {
                let to = end(lab, to)?;
                reaches(&from, &to)?;
                reaches(&to, &from)?;
            }
            // Out of the cluster a container has its node's address.
            ["node-3", "outside"].into_iter().try_for_each(|to| seen_as(&from, &end(lab, to)?, lab.nodes[0].address))
        })
        .case("a program in a container is served by one in another", in_containers)
        .case("containers reach services of containers", |lab| {
            let talk = Talk { proxy: Proxy::Iptables, client: services::CLIENT, service: services::REMOTE, seen: Seen::Client };
            talk.to_service(lab)?;
            Talk { service: services::NEXT_DOOR, ..talk }.to_service(lab)?;
            Talk { service: services::ITSELF, seen: Seen::Node, ..talk }.to_service(lab)?;
            Talk { client: "outside", seen: Seen::Gateway, ..talk }.to_node_port(lab)
        })
        .case("a container's port on its node is reached from everywhere", host_port)
        .case("a container that ends leaves nothing", leaves_nothing)
        .case("containers start while the agent is away", agent_away)
        .case("containers outlive containerd, and more can be started", containerd_restarts)
        .case("the list of plugins and the plugin are put back within a second", put_back)
        .case("a node configured with flannel's own two files starts containers", flannels_files)
        .case("cleanup takes the list and the plugin", cleaned_up);
    vec![group]
}

fn runtime(node: &Node) -> anyhow::Result<&Containerd> {
    node.runtime.as_deref().with_context(|| format!("{} has no containerd", node.name))
}

fn container<'a>(lab: &'a Lab, name: &str) -> anyhow::Result<&'a Container> {
    let mut pods = lab.nodes.iter().flat_map(|node| &node.pods);
    pods.find(|pod| pod.name == name).and_then(|pod| pod.container.as_ref()).with_context(|| format!("no container {name}"))
}

/// A connection from `from` to `to` comes from that address, as `to` sees it.
fn seen_as(from: &Endpoint<'_>, to: &Endpoint<'_>, address: Ipv4Addr) -> anyhow::Result<()> {
    const PORT: u16 = 8081;
    let listener = to.ns.tcp_listener(to.address, PORT)?;
    let _connection = from.ns.tcp_connect(SocketAddrV4::new(to.address, PORT))?;
    let (_, peer) = listener.accept()?;
    ensure!(peer.ip() == address, "{} sees {} as {peer}", to.name, from.name);
    Ok(())
}

/// All of it through the containers' own programs: nothing of the lab is in them.
fn in_containers(lab: &mut Lab) -> anyhow::Result<()> {
    let server = container(lab, "node-2-pod-1")?;
    server.exec("httpd -p 80 -h /bin")?;
    let address = end(lab, "node-2-pod-1")?.address;
    for client in ["node-1-pod-1", "node-2-pod-2", "node-3-pod-2", "node-2-pod-1"] {
        let page = container(lab, client)?.exec(&format!("wget -q -O - http://{address}/busybox"))?;
        ensure!(page.len() > 100_000, "{client} got {} bytes", page.len());
    }
    let pong = container(lab, "node-3-pod-1")?.exec(&format!("ping -c 3 -i 0.1 {address}"))?;
    ensure!(pong.contains("3 packets received"), "{pong}");
    Ok(())
}

/// A list for this container alone: what a runtime asks for is where libcni would put it, because `ctr` cannot ask.
fn with_host_port(node: &Node, port: u16) -> anyhow::Result<Value> {
    let ours = runtime(node)?.place().configurations().join("10-overlay.conflist");
    let mut list: Value = serde_json::from_str(&fs::read_to_string(ours)?)?;
    let plugins = list["plugins"].as_array_mut().context("no plugins")?;
    let portmap = plugins.iter_mut().find(|plugin| plugin["type"] == "portmap").context("portmap is not in the list")?;
    portmap["runtimeConfig"] = json!({ "portMappings": [{ "hostPort": port, "containerPort": 8080, "protocol": "tcp" }] });
    Ok(list)
}

fn host_port(lab: &mut Lab) -> anyhow::Result<()> {
    const PORT: u16 = 18_080;
    let node = &lab.nodes[1];
    let before = traces(node)?;
    let list = runtime(node)?.place().configurations().join("05-host-port.conflist");
    fs::write(&list, with_host_port(node, PORT)?.to_string())?;
    let server = runtime(node)?.run("host-port", &HTTPD)?;
    server.exec("cp /bin/busybox /tmp/index.html")?;
    let target = SocketAddrV4::new(node.address, PORT);
    for client in ["outside", "node-1", "node-2", "node-1-pod-1", "node-2-pod-1"] {
        let client = end(lab, client)?;
        let start = Instant::now();
        get(client.ns, target).with_context(|| format!("from {}", client.name))?;
        ensure!(start.elapsed() < Duration::from_millis(900), "{} had to try again: {:?}", client.name, start.elapsed());
    }
    server.remove()?;
    fs::remove_file(list)?;
    let rules = node.ns.run("iptables-save", "-t nat")?;
    ensure!(!rules.contains(&PORT.to_string()), "portmap's rules are left:\n{rules}");
    unchanged(node, &before)
}

/// Any answer of an HTTP server.
fn get(client: &Ns, target: SocketAddrV4) -> anyhow::Result<()> {
    let mut stream = client.tcp_connect(target)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("no answer")?;
    ensure!(answer.starts_with("HTTP/1."), "{answer}");
    Ok(())
}

fn leaves_nothing(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &mut lab.nodes[2];
    let before = traces(node)?;
    let start = Instant::now();
    node.add_pod()?;
    note(format!("containerd: a container through overlay-cni (debug build) started in {:.0?}", start.elapsed()));
    let (address, veth) = node.pods.last().map(|pod| (pod.address, pod.host_interface.clone())).context("no pod")?;
    ensure!(traces(node)? != before && node.ns.ip(&format!("route get {address}"))?.contains(&veth), "nothing was there to be left");
    node.remove_pod()?;
    unchanged(node, &before)?;
    let links = node.ns.ip("link show")?;
    ensure!(!links.contains(&veth), "{veth} is left: {links}");
    Ok(())
}

fn agent_away(lab: &mut Lab) -> anyhow::Result<()> {
    lab.nodes[0].kill_agent()?;
    lab.nodes[0].add_pod()?;
    let from = end(lab, "node-1-pod-3")?;
    for to in ["node-1-pod-1", "node-2-pod-1", "node-1"] {
        reaches(&from, &end(lab, to)?)?;
    }
    lab.nodes[0].start_agent()?;
    reaches(&end(lab, "node-1-pod-3")?, &end(lab, "node-3-pod-1")?)?;
    lab.nodes[0].remove_pod()
}

fn containerd_restarts(lab: &mut Lab) -> anyhow::Result<()> {
    let address = end(lab, "node-1-pod-1")?.address;
    let node = &mut lab.nodes[1];
    let pods = node.pods.len();
    // `ctr`, which stays with them, would take their network away when it loses containerd.
    (0..pods).try_for_each(|_| node.remove_pod())?;
    let containerd = node.runtime.as_mut().context("no containerd")?;
    let old = containerd.run_detached("old", &["sleep", "1000"])?;
    let ping = format!("ping -c 2 -i 0.1 {address}");
    for kill in [false, true] {
        if kill { containerd.kill() } else { containerd.stop() }?;
        containerd.resume()?;
        let pong = old.exec(&ping)?;
        ensure!(pong.contains("2 packets received"), "killed {kill}: {pong}");
        let new = containerd.run("new", &["sleep", "1000"])?;
        let pong = new.exec(&ping)?;
        ensure!(pong.contains("2 packets received"), "started after it, killed {kill}: {pong}");
        new.remove()?;
    }
    old.remove()?;
    node.add_pods(pods)
}

fn put_back(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let place = runtime(node)?.place();
    let (list, plugin) = (place.configurations().join("10-overlay.conflist"), place.plugins().join("overlay-cni"));
    let wanted = fs::read(&list)?;
    ensure!(fs::metadata(&list)?.permissions().mode() & 0o777 == 0o600, "anybody may read the list");
    let second = Duration::from_secs(1);
    let as_before = || {
        ensure!(fs::read(&list).is_ok_and(|list| list == wanted) && plugin.is_file(), "not put back");
        Ok(())
    };
    for path in [&list, &plugin] {
        fs::remove_file(path)?;
        eventually(second, as_before).with_context(|| format!("{} was removed", path.display()))?;
    }
    fs::write(&list, "{}")?;
    eventually(second, as_before).context("the list was overwritten")?;

    let other = list.with_file_name("00-other.conflist");
    fs::write(&other, "{}")?;
    let problems = |wanted: usize| {
        let status = node.status()?;
        let told =
            status["problems"].as_array().into_iter().flatten().filter(|problem| problem.to_string().contains("sorts before")).count();
        ensure!(told == wanted, "{told} of the problems are about the list: {}", status["problems"]);
        Ok(())
    };
    eventually(second, || problems(1)).context("a list that a runtime takes before ours")?;
    fs::remove_file(&other)?;
    eventually(second, || problems(0)).context("that list is gone")
}

/// As kube-flannel.yml has them.
fn flannels_files(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &mut lab.nodes[0];
    let net_conf = r#"{ "Network": "10.244.0.0/16", "EnableNFTables": false, "Backend": { "Type": "vxlan" } }"#;
    let cni_conf = r#"{ "name": "cbr0", "cniVersion": "0.3.1", "plugins": [
        { "type": "flannel", "delegate": { "hairpinMode": true, "isDefaultGateway": true } },
        { "type": "portmap", "capabilities": { "portMappings": true } } ] }"#;
    let before = node.config.extra.clone();
    for (setting, text) in [("net-conf", net_conf), ("cni-conf", cni_conf)] {
        let file = node.config.state_dir.join(setting);
        fs::write(&file, text)?;
        node.config.extra.extend([format!("--{setting}"), file.display().to_string()]);
    }
    node.stop_agent()?;
    node.start_agent()?;
    let list = fs::read_to_string(runtime(node)?.place().configurations().join("10-overlay.conflist"))?;
    ensure!(list.contains("\"cbr0\"") && list.contains("overlay-cni") && !list.contains("flannel"), "{list}");
    node.add_pod()?;
    reaches(&end(lab, "node-1-pod-3")?, &end(lab, "node-2-pod-1")?)?;
    let node = &mut lab.nodes[0];
    node.remove_pod()?;
    node.config.extra = before;
    node.stop_agent()?;
    node.start_agent().map(drop)
}

fn cleaned_up(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &mut lab.nodes[2];
    while !node.pods.is_empty() {
        node.remove_pod()?;
    }
    node.stop_agent()?;
    let files = [runtime(node)?.place().configurations().join("10-overlay.conflist"), runtime(node)?.place().plugins().join("overlay-cni")];
    ensure!(files.iter().all(|file| file.exists()), "gone with the agent, whom they are not to need");
    node.cleanup()?;
    ensure!(!files.iter().any(|file| file.exists()), "left: {files:?}");
    let error = node.add_pod().err().context("a container without a network")?;
    ensure!(format!("{error:#}").contains("no network config found"), "{error:#}");
    node.start_agent()?;
    node.add_pod()?;
    reaches(&end(lab, "node-3-pod-1")?, &end(lab, "node-1-pod-1")?)
}

/// The lab's containerd by itself: what the other cases say about our plugin means something only if others' works here as well.
fn reference() -> Result<(), Failed> {
    without_lab(|| {
        let ns = Ns::create("alone")?;
        let start = Instant::now();
        let mut containerd = Containerd::start(&ns, &Path::new(sandbox::ROOT).join("alone/runtime"), None)?;
        note(format!("containerd: answers {:.0?} after its node was there", start.elapsed()));
        let conflist = containerd.place().configurations().join("10-bridge.conflist");
        let ipam = r#"{"type":"host-local","ranges":[[{"subnet":"10.244.77.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}"#;
        let bridge = format!(r#"{{"type":"bridge","bridge":"cni0","isGateway":true,"ipam":{ipam}}}"#);
        let error = containerd.run("early", &["sleep", "1000"]).err().context("a container without a configuration")?;
        ensure!(format!("{error:#}").contains("no network config found"), "{error:#}");
        fs::write(&conflist, format!(r#"{{"cniVersion":"1.0.0","name":"reference","plugins":[{bridge}]}}"#))?;

        let start = Instant::now();
        let first = containerd.run("first", &["sleep", "1000"])?;
        note(format!("containerd: a container of the reference plugins started in {:.0?}", start.elapsed()));
        let second = containerd.run_detached("second", &["sleep", "1000"])?;
        ensure!(first.exec("ip -o -4 address show eth0")?.contains("10.244.77.2/24"), "{}", first.exec("ip address")?);
        let pong = second.exec("ping -c 2 -i 0.1 10.244.77.2")?;
        ensure!(pong.contains("2 packets received"), "{pong}");

        containerd.kill()?;
        containerd.resume()?;
        ensure!(second.exec("ping -c 1 10.244.77.1")?.contains("1 packets received"), "after containerd was killed");
        second.remove()?;
        drop(first);
        let third = containerd.run("third", &["sleep", "1000"])?;
        third.remove()?;
        let tasks = containerd.ctr("task list --quiet")?;
        let containers = containerd.ctr("container list --quiet")?;
        ensure!(tasks.is_empty() && containers.is_empty(), "left: tasks {tasks}, containers {containers}");
        containerd.stop()
    })
}
