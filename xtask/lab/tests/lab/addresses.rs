//! What a node is, changed under traffic: address, podCIDR, NIC and its name, MTU. How long pods do not talk; no agent is started anew.
//! And how a node's address is chosen, with what the status says of it.

use crate::check::{self, end, eventually};
use crate::harness::{Group, note};
use crate::outage::{PATIENCE, outage};
use anyhow::{Context as _, ensure};
use overlay_lab::agent::ReceiveMode;
use overlay_lab::lab::{Lab, LabConfig};
use overlay_lab::node::Node;
use overlay_lab::underlay::Underlay;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// The longest that pods may not talk after one of these events.
const AT_MOST: Duration = Duration::from_secs(1);

pub(crate) fn groups() -> Vec<Group> {
    let config = LabConfig { nodes: 3, ..LabConfig::default() };
    let live = |name: &str, receive_mode| {
        Group::new(name, LabConfig { receive_mode, ..config })
            .case("a node's address changes, on its NIC and in the list", address_changes)
            .case("a node's NIC gets another name", nic_renamed)
            .case("a node's NIC is replaced by another with the same address", nic_replaced)
            .case("the MTU of the underlay shrinks and grows", mtu_changes)
            .case("a node's podCIDR changes while its pods are there", pod_cidr_changes)
    };
    vec![
        live("live values, received by tc", ReceiveMode::Tc),
        live("live values, received by xdp", ReceiveMode::Xdp),
        Group::new("the choice of an address", config)
            .case("what is chosen and why is in the status, and what does not fit is told with what there is", chosen)
            .case("an address that the list does not have is told of, and pods go on talking by the one it has", not_listed),
    ]
}

/// Does something to node-2 under floods and checks that the gap is short and everybody answers afterwards.
fn short_gap(lab: &mut Lab, what: &str, action: impl FnOnce(&mut Lab) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let gap = outage(lab, what, action)?;
    ensure!(gap < AT_MOST, "{what}: nothing arrived for {gap:.1?}");
    // Nobody starts an agent anew here: one that ended stays away.
    for node in &lab.nodes {
        ensure!(node.status()?["running"] == true, "the agent of {} has ended", node.name);
    }
    check::all_pods_answer(lab)
}

fn address_changes(lab: &mut Lab) -> anyhow::Result<()> {
    let router = lab.underlay.place(1).router;
    for (address, what) in [(Ipv4Addr::new(192, 168, 50, 112), "changes"), (Ipv4Addr::new(192, 168, 50, 12), "changes back")] {
        short_gap(lab, &format!("a node's address {what}"), |lab| {
            let node = &mut lab.nodes[1];
            let old = node.address;
            node.ns.batch(
                "ip",
                &format!("address delete {old}/24 dev eth0\naddress add {address}/24 dev eth0\nroute replace default via {router}"),
            )?;
            node.address = address;
            lab.nodes_file.entry("node-2")?.address = Some(address);
            lab.nodes_file.write_atomic()?;
            lab.underlay.route_pods(lab.nodes[1].pod_cidr, address)
        })?;
    }
    Ok(())
}

fn nic_renamed(lab: &mut Lab) -> anyhow::Result<()> {
    let router = lab.underlay.place(1).router;
    for (old, new) in [("eth0", "net0"), ("net0", "eth0")] {
        short_gap(lab, &format!("a NIC is renamed from {old} to {new}"), |lab| {
            // A device has to be down for it, which takes its routes away.
            let lines = format!("link set {old} down\nlink set {old} name {new}\nlink set {new} up\nroute replace default via {router}");
            lab.nodes[1].ns.batch("ip", &lines)
        })?;
        let status = lab.nodes[1].status()?;
        ensure!(status["underlay"]["device"] == new, "{}", status["underlay"]);
    }
    Ok(())
}

fn nic_replaced(lab: &mut Lab) -> anyhow::Result<()> {
    let before = lab.nodes[1].ns.mac("eth0")?;
    short_gap(lab, "a NIC is replaced by another", |lab| {
        lab.nodes[1].ns.ip("link delete eth0")?;
        lab.underlay.plug(&lab.nodes[1].ns, lab.underlay.place(2))
    })?;
    ensure!(lab.nodes[1].ns.mac("eth0")? != before, "the same NIC");
    Ok(())
}

fn mtu_changes(lab: &mut Lab) -> anyhow::Result<()> {
    let whole = lab.underlay.mtu;
    for (mtu, what) in [(whole - 200, "shrinks"), (whole, "grows again")] {
        short_gap(lab, &format!("the MTU {what} to {mtu}"), |lab| {
            let start = Instant::now();
            for node in &lab.nodes {
                node.ns.ip(&format!("link set eth0 mtu {mtu}"))?;
                lab.underlay.router.ip(&format!("link set {} mtu {mtu}", Underlay::port(&node.name)))?;
            }
            eventually(PATIENCE, || {
                for node in &lab.nodes {
                    let found = node.ns.mtu("ovl0")?;
                    ensure!(found == mtu - 50, "{}: ovl0 has an MTU of {found}", node.name);
                }
                Ok(())
            })?;
            note(format!("the MTU of the underlay {what} to {mtu}: that of ovl0 follows on three nodes within {:.1?}", start.elapsed()));
            Ok(())
        })?;
        let (one, other) = (end(lab, "node-1-pod-1")?, end(lab, "node-2-pod-1")?);
        // A pod still believes in the old one: TCP finds the way.
        overlay_lab::probe::tcp::transfer(one.ns, other.ns, other.address, 4 << 20).with_context(|| format!("the MTU {what}"))?;
    }
    Ok(())
}

fn pod_cidr_changes(lab: &mut Lab) -> anyhow::Result<()> {
    let (old, new) = (lab.nodes[2].pod_cidr, "10.244.77.0/24".parse()?);
    // node-3's network changes under the traffic of the others.
    short_gap(lab, "another node's podCIDR changes", |lab| {
        lab.nodes_file.entry("node-3")?.pod_cidr = Some("10.244.77.0/24".to_owned());
        lab.nodes[2].pod_cidr = new;
        let start = Instant::now();
        lab.nodes_file.write_atomic()?;
        lab.underlay.route_pods(new, lab.nodes[2].address)?;
        eventually(PATIENCE, || {
            let status = lab.nodes[2].status()?;
            let problems = status["problems"].to_string();
            ensure!(status["node"]["pod_cidr"] == "10.244.77.0/24", "{}", status["node"]);
            ensure!(problems.contains("outside this node's podCIDR 10.244.77.0/24") && problems.contains("start it anew"), "{problems}");
            Ok(())
        })?;
        lab.nodes[2].pods.clear();
        let stale = lab.nodes[2].status()?["pods"].clone();
        ensure!(stale.as_array().is_none_or(|pods| pods.len() <= 1), "{stale}");
        lab.nodes[2].add_pod()?;
        let (one, pod) = (end(lab, "node-1-pod-1")?, end(lab, "node-3-pod-1")?);
        eventually(PATIENCE, || check::reaches(&one, &pod))?;
        note(format!(
            "a podCIDR changes: the old pod told of in the status, a new one reached {:.1?} after the list was written",
            start.elapsed()
        ));
        check::reaches(&pod, &one)?;
        eventually(PATIENCE, || healthy(&lab.nodes[2]))
    })?;
    lab.nodes_file.entry("node-3")?.pod_cidr = Some(old.to_string());
    lab.nodes[2].pod_cidr = old;
    lab.nodes[2].pods.clear();
    lab.nodes_file.write_atomic()?;
    lab.underlay.route_pods(old, lab.nodes[2].address)?;
    eventually(PATIENCE, || {
        let status = lab.nodes[2].status()?;
        ensure!(status["node"]["pod_cidr"] == old.to_string(), "{}", status["node"]);
        Ok(())
    })?;
    lab.nodes[2].add_pod()?;
    eventually(PATIENCE, || check::all_pods_answer(lab))
}

fn healthy(node: &Node) -> anyhow::Result<()> {
    let problems = node.status()?["problems"].to_string();
    ensure!(problems == "[]", "{}: {problems}", node.name);
    Ok(())
}

/// Starts node-2's agent anew with these flags instead of those it had.
fn restart_with(lab: &mut Lab, flags: &[&str]) -> anyhow::Result<()> {
    let node = &mut lab.nodes[1];
    node.stop_agent()?;
    node.config.extra = flags.iter().map(|flag| (*flag).to_owned()).collect();
    node.start_agent().map(drop)
}

fn chosen(lab: &mut Lab) -> anyhow::Result<()> {
    let (address, router) = (lab.nodes[1].address, lab.underlay.place(1).router);
    for (flag, how) in [
        (String::new(), "InternalIP of the Node".to_owned()),
        (format!("--public-ip={address}"), "setting public-ip".to_owned()),
        ("--node-address=interface=en*,eth?".to_owned(), "interface=en*,eth?: on eth0".to_owned()),
        ("--node-address=interface=/^e(th|n)[0-9]+$/".to_owned(), "interface=/^e(th|n)[0-9]+$/: on eth0".to_owned()),
        ("--node-address=skip-interface=en*".to_owned(), "skip-interface=en*: on eth0".to_owned()),
        ("--node-address=cidr=10.0.0.0/8,192.168.50.0/24".to_owned(), "cidr=10.0.0.0/8,192.168.50.0/24: on eth0".to_owned()),
        (format!("--node-address=can-reach={router}"), format!("can-reach={router}: what the kernel sends to {router} from")),
    ] {
        let flags: Vec<&str> = [flag.as_str()].into_iter().filter(|flag| !flag.is_empty()).collect();
        restart_with(lab, &flags)?;
        let status = lab.nodes[1].status()?;
        let said = &status["address"];
        ensure!(said["chosen"] == address.to_string() && said["how"] == how && said["given_by"] == "internal-ip", "{flag}: {said}");
        healthy(&lab.nodes[1])?;
    }
    for (flag, told) in [
        ("--public-ip=192.0.2.77", "192.0.2.77 (setting public-ip) is no address of this node; it has 192.168.50.12 on eth0"),
        ("--node-address=interface=ens*", "interface=ens* fits no address of this node; it has 192.168.50.12 on eth0"),
        ("--node-address=cidr=172.16.0.0/12", "cidr=172.16.0.0/12 fits no address of this node"),
        ("--node-address=can-reach=no-such-host.invalid", "can-reach=no-such-host.invalid: the name has no IPv4 address"),
    ] {
        restart_with(lab, &[flag])?;
        let problems = lab.nodes[1].status()?["problems"].to_string();
        ensure!(problems.contains(told), "{flag}: {problems}");
        check::reaches(&end(lab, "node-1-pod-1")?, &end(lab, "node-2-pod-1")?)?;
    }
    restart_with(lab, &[])
}

fn not_listed(lab: &mut Lab) -> anyhow::Result<()> {
    lab.nodes[1].ns.ip("address add 192.168.50.212/24 dev eth0")?;
    restart_with(lab, &["--public-ip=192.168.50.212"])?;
    let status = lab.nodes[1].status()?;
    let problems = status["problems"].to_string();
    ensure!(
        problems.contains("192.168.50.212") && problems.contains("kubectl annotate node node-2 overlay/public-ip=192.168.50.212"),
        "{problems}"
    );
    ensure!(status["node"]["address"] == "192.168.50.12", "{}", status["node"]);
    check::all_pods_answer(lab)?;
    // The annotation, as it tells to.
    lab.nodes_file.entry("node-2")?.annotations = vec![("overlay/public-ip".to_owned(), "192.168.50.212".to_owned())];
    lab.nodes_file.write_atomic()?;
    eventually(PATIENCE, || {
        let status = lab.nodes[1].status()?;
        ensure!(status["node"]["address"] == "192.168.50.212", "{}", status["node"]);
        ensure!(status["address"]["how"] == "annotation overlay/public-ip of the Node", "{}", status["address"]);
        healthy(&lab.nodes[1])
    })?;
    eventually(PATIENCE, || check::all_pods_answer(lab))?;
    lab.nodes_file.entry("node-2")?.annotations.clear();
    lab.nodes_file.write_atomic()?;
    restart_with(lab, &[])?;
    lab.nodes[1].ns.ip("address delete 192.168.50.212/24 dev eth0")?;
    eventually(PATIENCE, || check::all_pods_answer(lab))
}
