//! flannel's nodes and ours in one cluster, on one API server: ours publish what flannel's accept, and everybody reaches everybody.
//!
//! The nodes that are not ours take their peers from the annotations in the API server, by flannel's rules (`ForeignNode::follow`).

use crate::check::{self, end, eventually};
use crate::harness::{Group, note};
use crate::outage::{PATIENCE, RATE};
use anyhow::{Context as _, ensure};
use overlay_lab::api_server::Fault;
use overlay_lab::foreign::ForeignNode;
use overlay_lab::lab::{Api, Lab, LabConfig, Source};
use overlay_lab::node::Node;
use overlay_lab::probe::flood::Flood;
use serde_json::{Value, json};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) fn groups() -> Vec<Group> {
    let config = LabConfig { nodes: 2, foreign: 2, source: Source::Kubernetes, ..LabConfig::default() };
    vec![
        Group::new("flannel's nodes and ours", config)
            .case("flannel's nodes take no notice of ours until these publish, and then of all", accepted)
            .case("pods and hosts reach each other in both directions", both_directions)
            .case("what others wrote on the Node stays, and nothing is written twice", nothing_needless)
            .case("an API server that refuses is told of with the missing rule, and asked again", refused)
            .case("a node of ours joins and leaves under traffic between the others", ours_comes_and_goes)
            .case("a node of flannel's joins and leaves under traffic between the others", flannels_comes_and_goes)
            .case("a node whose NIC gets another address tells flannel's nodes and ours by itself", moved),
    ]
}

fn api(lab: &Lab) -> anyhow::Result<&Api> {
    lab.api.as_ref().context("the lab has no API server")
}

/// Has flannel's nodes look at the API server, as they do whenever something changes there. Returns whom each of them takes for a peer.
fn flannel_looks(lab: &mut Lab) -> anyhow::Result<Vec<Vec<String>>> {
    let nodes = api(lab)?.server.nodes();
    lab.foreign.iter_mut().map(|node| node.follow(&nodes)).collect()
}

/// Starts a node's agent anew, now with `publish` and its address by the name of its NIC.
fn start_publishing(node: &mut Node) -> anyhow::Result<()> {
    if node.has_agent() {
        node.stop_agent()?;
    }
    node.config.extra.extend(["--publish".to_owned(), "--node-address=interface=eth*".to_owned()]);
    node.spawn_agent()
}

fn published(node: &Value) -> Value {
    let annotation = |name: &str| node["metadata"]["annotations"][format!("flannel.alpha.coreos.com/{name}")].clone();
    json!([annotation("backend-data"), annotation("backend-type"), annotation("public-ip"), annotation("kube-subnet-manager")])
}

fn network_condition(node: &Value) -> Value {
    let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    let mut found = conditions.filter(|condition| condition["type"] == "NetworkUnavailable");
    found.next().map(|condition| json!([condition["status"], condition["reason"]])).unwrap_or_default()
}

fn accepted(lab: &mut Lab) -> anyhow::Result<()> {
    // What a cloud's controllers say of a new node.
    let unavailable = json!({ "type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated", "message": "no route" });
    for node in &lab.nodes {
        api(lab)?.server.patch(&node.name, &json!({ "status": { "conditions": [unavailable] } }))?;
    }
    thread::sleep(Duration::from_millis(500));
    for node in &lab.nodes {
        let object = api(lab)?.server.node(&node.name);
        ensure!(published(&object) == json!([null, null, null, null]), "{} wrote without being asked: {object}", node.name);
        ensure!(network_condition(&object)[0] == "True", "{} wrote its condition without being asked", node.name);
    }
    ensure!(api(lab)?.server.counts().patches == 0, "something was written");
    let known = flannel_looks(lab)?;
    ensure!(known == [["node-4"], ["node-3"]], "flannel's nodes know {known:?}");

    let start = Instant::now();
    for node in &mut lab.nodes {
        start_publishing(node)?;
    }
    eventually(PATIENCE, || {
        for node in &lab.nodes {
            let object = api(lab)?.server.node(&node.name);
            let data = format!(r#"{{"VNI":1,"VtepMAC":"{}"}}"#, node.vtep_mac());
            let wanted = json!([data, "vxlan", node.address.to_string(), "true"]);
            ensure!(published(&object) == wanted, "{} published {}", node.name, published(&object));
            ensure!(network_condition(&object) == json!(["False", "OverlayIsUp"]), "{}: {}", node.name, network_condition(&object));
            let status = node.status()?;
            let said = &status["address"];
            ensure!(said["how"] == "interface=eth*: on eth0" && said["given_by"] == "flannel-public-ip", "{said}");
            ensure!(status["publish"]["since"].is_string() && status["problems"] == json!([]), "{}", status["problems"]);
        }
        Ok(())
    })?;
    note(format!("two agents started with publish: on their Nodes after {:.1?}", start.elapsed()));
    let known = flannel_looks(lab)?;
    ensure!(known == [["node-1", "node-2", "node-4"], ["node-1", "node-2", "node-3"]], "flannel's nodes know {known:?}");
    Ok(())
}

fn both_directions(lab: &mut Lab) -> anyhow::Result<()> {
    prepare(lab)?;
    check::all_pods(lab)?;
    let (hosts, pods) = (lab.hosts(), lab.pods());
    for host in &hosts {
        for pod in pods.iter().filter(|pod| pod.node != host.node) {
            check::reaches(host, pod)?;
            check::reaches_at(pod, host, host.overlay_address)?;
        }
    }
    Ok(())
}

/// A lab that was built anew after a failure is brought to where the first case leaves it.
fn prepare(lab: &mut Lab) -> anyhow::Result<()> {
    for node in &mut lab.nodes {
        if !node.config.extra.iter().any(|flag| flag == "--publish") {
            start_publishing(node)?;
            node.wait_ready()?;
        }
    }
    let deadline = Instant::now() + PATIENCE;
    while flannel_looks(lab)?.iter().any(|known| known.len() + 1 < lab.nodes.len() + lab.foreign.len()) {
        ensure!(Instant::now() < deadline, "flannel's nodes know {:?}", flannel_looks(lab)?);
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn nothing_needless(lab: &mut Lab) -> anyhow::Result<()> {
    prepare(lab)?;
    let server = &api(lab)?.server;
    server.patch("node-1", &json!({ "metadata": { "annotations": { "example.org/note": "kept" } } }))?;
    let before = server.counts().patches;
    let node = &mut lab.nodes[0];
    node.stop_agent()?;
    node.start_agent()?;
    thread::sleep(Duration::from_secs(1));
    let server = &api(lab)?.server;
    ensure!(server.counts().patches == before, "{} patches for nothing", server.counts().patches - before);
    let object = server.node("node-1");
    ensure!(object["metadata"]["annotations"]["example.org/note"] == "kept", "{}", object["metadata"]["annotations"]);
    // Somebody takes it away: it is back at once, as the list of nodes tells of it.
    server.patch("node-1", &json!({ "metadata": { "annotations": { "flannel.alpha.coreos.com/public-ip": null } } }))?;
    eventually(PATIENCE, || {
        let back = published(&server.node("node-1"))[2] == lab.nodes[0].address.to_string();
        ensure!(back, "public-ip is not back");
        Ok(())
    })
}

fn refused(lab: &mut Lab) -> anyhow::Result<()> {
    prepare(lab)?;
    let server = &api(lab)?.server;
    server.begin(Fault::ReadOnly)?;
    server.patch("node-1", &json!({ "metadata": { "annotations": { "flannel.alpha.coreos.com/public-ip": null } } }))?;
    let told = eventually(PATIENCE, || {
        let problems = lab.nodes[0].status()?["problems"].to_string();
        ensure!(problems.contains("nodes/status") && problems.contains("patch") && problems.contains("403"), "{problems}");
        Ok(())
    });
    server.end()?;
    told?;
    let start = Instant::now();
    eventually(PATIENCE, || {
        let problems = lab.nodes[0].status()?["problems"].clone();
        ensure!(problems == json!([]), "{problems}");
        Ok(())
    })?;
    note(format!("a refused write: told with the missing rule; allowed again: written after {:.1?}", start.elapsed()));
    Ok(())
}

/// Runs `action` under floods between a pod of ours and one of flannel's, one each way; nothing may be lost.
fn lossless(lab: &mut Lab, what: &str, action: impl FnOnce(&mut Lab) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let (ours, flannels) = (end(lab, "node-1-pod-1")?, end(lab, "node-3-pod-1")?);
    let there = Flood::start(ours.ns, ours.address, flannels.ns, flannels.address, RATE)?;
    let back = Flood::start(flannels.ns, flannels.address, ours.ns, ours.address, RATE)?;
    let result = action(lab);
    let (there, back) = (there.stop()?, back.stop()?);
    result.with_context(|| what.to_owned())?;
    note(format!("mixed cluster, {what}: ours to flannel's: {there}; flannel's to ours: {back}"));
    ensure!(there.lost() == 0 && back.lost() == 0, "there: {there}; back: {back}");
    Ok(())
}

fn ours_comes_and_goes(lab: &mut Lab) -> anyhow::Result<()> {
    prepare(lab)?;
    lossless(lab, "a node of ours joins and leaves", |lab| {
        let place = lab.underlay.place(5);
        let mut node = Node::create(&lab.underlay, place, 5, lab.nodes_file.path(), lab.nodes[0].config.receive_mode)?;
        api(lab)?.access.aim(&mut node.config);
        lab.nodes_file.entries.push(node.entry());
        api(lab)?.server.put(&node.entry());
        start_publishing(&mut node)?;
        node.wait_ready()?;
        node.add_pod()?;
        lab.nodes.push(node);
        let start = Instant::now();
        prepare(lab)?;
        everybody_reaches(lab, "node-5-pod-1")?;
        note(format!("mixed cluster, a node of ours joined: reached from everywhere {:.1?} after it was ready", start.elapsed()));
        lab.forget("node-5")?;
        lab.nodes.pop();
        let known = flannel_looks(lab)?;
        ensure!(known.iter().all(|known| !known.contains(&"node-5".to_owned())), "{known:?}");
        Ok(())
    })
}

fn flannels_comes_and_goes(lab: &mut Lab) -> anyhow::Result<()> {
    prepare(lab)?;
    lossless(lab, "a node of flannel's joins and leaves", |lab| {
        let mut node = ForeignNode::create(&lab.underlay, lab.underlay.place(6), 6)?;
        node.add_pod()?;
        lab.nodes_file.entries.push(node.entry());
        api(lab)?.server.put(&node.entry());
        lab.foreign.push(node);
        let start = Instant::now();
        flannel_looks(lab)?;
        everybody_reaches(lab, "node-6-pod-1")?;
        note(format!("mixed cluster, a node of flannel's joined: reached from everywhere after {:.1?}", start.elapsed()));
        lab.forget("node-6")?;
        lab.foreign.pop();
        flannel_looks(lab).map(drop)
    })
}

/// A pod reaches all others and is reached by them, soon.
fn everybody_reaches(lab: &Lab, name: &str) -> anyhow::Result<()> {
    let pod = end(lab, name)?;
    for other in lab.pods().iter().filter(|other| other.name != name) {
        eventually(PATIENCE, || check::reaches(other, &pod))?;
        check::reaches(&pod, other)?;
    }
    Ok(())
}

fn moved(lab: &mut Lab) -> anyhow::Result<()> {
    prepare(lab)?;
    let old = lab.nodes[1].address;
    for (address, what) in [("192.168.50.112", "moves"), ("192.168.50.12", "moves back")] {
        let address = address.parse()?;
        let router = lab.underlay.place(1).router;
        let (one, other, far) = (end(lab, "node-1-pod-1")?, end(lab, "node-2-pod-1")?, end(lab, "node-3-pod-1")?);
        let ours = Flood::start(one.ns, one.address, other.ns, other.address, RATE)?;
        let flannels = Flood::start(far.ns, far.address, other.ns, other.address, RATE)?;
        thread::sleep(Duration::from_millis(200));
        let node = &mut lab.nodes[1];
        let (before, cidr) = (node.address, node.pod_cidr);
        // The Node's InternalIP stays as it was: nobody but the agent tells of the new address.
        node.ns.batch(
            "ip",
            &format!("address delete {before}/24 dev eth0\naddress add {address}/24 dev eth0\nroute replace default via {router}"),
        )?;
        node.address = address;
        lab.underlay.route_pods(cidr, address)?;
        let deadline = Instant::now() + PATIENCE;
        let result = loop {
            // As quick as a watch tells of it.
            flannel_looks(lab)?;
            let (one, far, other) = (end(lab, "node-1-pod-1")?, end(lab, "node-3-pod-1")?, end(lab, "node-2-pod-1")?);
            let answers = || -> anyhow::Result<()> {
                ensure!(published(&api(lab)?.server.node("node-2"))[2] == address.to_string(), "not published");
                for from in [&one, &far] {
                    let pong = overlay_lab::probe::ping::once(from.ns, other.address)?;
                    ensure!(pong.is_some(), "{} does not reach {}", from.name, other.name);
                }
                Ok(())
            };
            match answers() {
                Err(error) if Instant::now() > deadline => break Err(error),
                Err(_) => thread::sleep(Duration::from_millis(10)),
                Ok(()) => break Ok(()),
            }
        };
        thread::sleep(Duration::from_millis(300));
        let (ours, flannels) = (ours.stop()?, flannels.stop()?);
        result?;
        note(format!("mixed cluster, node-2 {what} to {address}: from ours: {ours}; from flannel's: {flannels}"));
        // The gap itself is printed: on a machine that is busy it is the machine's. Longer than this, nobody told of the new address.
        for (gap, report) in [(ours.longest_gap, &ours), (flannels.longest_gap, &flannels)] {
            ensure!(gap < PATIENCE, "{report}");
        }
    }
    ensure!(lab.nodes[1].address == old, "it did not come back");
    check::all_pods_answer(lab)
}
