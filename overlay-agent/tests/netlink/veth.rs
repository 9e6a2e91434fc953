//! Pod wires.

use crate::overlay::LINK;
use crate::sandbox::{ip, ip_all, ip_all_in, ip_link, ping};
use anyhow::{Context, Result};
use overlay_agent::model::{Mac, OVERLAY_DEVICE};
use overlay_agent::netlink::{Error, Namespace, Netlink, POD_GSO_MAX_SIZE, PodVeth};
use std::net::Ipv4Addr;

const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 7);

fn wire(namespace: &Namespace) -> PodVeth<'_> {
    PodVeth {
        host_name: "ovl12345678",
        host_mac: Mac([0x0e, 0x50, 0, 0, 0, 1]),
        alias: "default/web-1",
        namespace,
        pod_name: "eth0",
        pod_mac: Mac([0x0e, 0x50, 0, 0, 0, 2]),
        pod_address: POD,
        mtu: 1450,
        source: LINK.address,
    }
}

pub(crate) async fn a_pod_reaches_its_node_and_back_without_arp() -> Result<()> {
    let netlink = Netlink::connect()?;
    netlink.create_overlay_link(&LINK).await?;
    ip("link set lo up")?;
    let pod = Namespace::create()?;
    let wire = wire(&pod);
    let ifindex = netlink.create_pod_veth(&wire).await?;

    let host_end = netlink.link_by_index(ifindex).await?.context("no host end")?;
    assert_eq!((host_end.name.as_str(), host_end.mac, host_end.mtu), (wire.host_name, Some(wire.host_mac), 1450));
    assert!(host_end.up && host_end.kind.as_deref() == Some("veth"));
    assert_eq!(ip_link(wire.host_name)?["ifalias"], "default/web-1");
    let in_pod = Netlink::connect_in(&pod)?;
    let pod_end = in_pod.link_by_name("eth0").await?.context("no pod end")?;
    assert_eq!((pod_end.mac, pod_end.mtu, pod_end.up), (Some(wire.pod_mac), 1450, true));
    assert_eq!(pod_end.gso_max_size, Some(POD_GSO_MAX_SIZE));
    assert!(pod_end.gso_ipv4_max_size.is_none_or(|size| size == POD_GSO_MAX_SIZE), "{pod_end:?}");
    assert!(in_pod.link_by_name("lo").await?.context("no lo")?.up);

    let routes = ip("route show proto 80")?;
    assert_eq!(routes.trim(), "10.244.1.7 dev ovl12345678 scope link src 10.244.1.1");
    assert!(ip("neigh show")?.contains("10.244.1.7 dev ovl12345678 lladdr 0e:50:00:00:00:02 PERMANENT"));
    let (routes, neighbours) = pod.run(|| anyhow::Ok((ip("route show")?, ip("neigh show")?)))??;
    assert!(routes.contains("default via 169.254.1.1 dev eth0") && routes.contains("169.254.1.1 dev eth0 scope link"), "{routes}");
    assert!(neighbours.contains("169.254.1.1 dev eth0 lladdr 0e:50:00:00:00:01 PERMANENT"), "{neighbours}");

    ping("-c 3 10.244.1.7")?;
    pod.run(|| ping("-c 3 -s 1422 -M do 10.244.1.1"))??;
    // Nobody asked anybody: no entry but the ones written by hand.
    let entries = netlink.neighbours().await?;
    assert!(entries.values().all(|entry| entry.permanent), "{entries:?}");
    assert!(in_pod.neighbours().await?.values().all(|entry| entry.permanent));
    Ok(())
}

pub(crate) async fn a_failed_wire_leaves_nothing() -> Result<()> {
    let netlink = Netlink::connect()?;
    let pod = Namespace::create()?;
    let wire = wire(&pod);
    // The source is no address of this node yet: the very last step fails.
    let error = netlink.create_pod_veth(&wire).await.err().context("any source will do")?;
    println!("{error}");
    assert!(error.to_string().starts_with("cannot add route 10.244.1.7/32 src 10.244.1.1"), "{error}");
    assert_eq!(netlink.link_by_name(wire.host_name).await?, None);
    assert_eq!(Netlink::connect_in(&pod)?.link_by_name("eth0").await?, None);

    netlink.create_overlay_link(&LINK).await?;
    ip_all_in(&pod, "link add eth0 type bridge")?;
    let error = netlink.create_pod_veth(&wire).await.err().context("the pod's name was taken")?;
    assert_eq!(error.to_string(), "a device eth0 exists already in the pod's network namespace");
    assert_eq!(netlink.link_by_name(wire.host_name).await?, None);
    ip_all_in(&pod, "link del eth0")?;

    netlink.create_pod_veth(&wire).await?;
    let second = Namespace::create()?;
    let error = netlink.create_pod_veth(&PodVeth { namespace: &second, ..wire }).await.err().context("the host's name was taken")?;
    assert_eq!(error.to_string(), "a device ovl12345678 exists already in this network namespace");
    assert!(netlink.link_by_name(wire.host_name).await?.is_some(), "the existing wire is untouched");
    assert!(Netlink::connect_in(&pod)?.link_by_name("eth0").await?.is_some());

    let error = netlink.create_pod_veth(&PodVeth { host_name: "longer than 15 bytes", ..wire }).await.err().context("too long")?;
    println!("{error}");
    assert!(matches!(error, Error::Request { .. }));
    let no_namespace = Namespace::from(std::os::fd::OwnedFd::from(std::fs::File::open("/proc/self/status")?));
    let error =
        netlink.create_pod_veth(&PodVeth { namespace: &no_namespace, host_name: "ovl2", ..wire }).await.err().context("no netns")?;
    println!("{error}");
    assert_eq!(netlink.link_by_name("ovl2").await?, None);
    Ok(())
}

pub(crate) async fn removal_is_idempotent_and_takes_only_veths() -> Result<()> {
    let netlink = Netlink::connect()?;
    netlink.create_overlay_link(&LINK).await?;
    let pod = Namespace::create()?;
    let wire = wire(&pod);
    netlink.create_pod_veth(&wire).await?;
    assert!(netlink.delete_pod_veth(wire.host_name).await?);
    assert!(!netlink.delete_pod_veth(wire.host_name).await?);
    assert_eq!(ip("route show proto 80")?, "");
    let error = netlink.delete_pod_veth(OVERLAY_DEVICE).await.err().context("the overlay device was deleted")?;
    assert!(matches!(error, Error::WrongKind { .. }), "{error:?}");

    // A pod's namespace that goes takes the wire with it.
    let gone = Namespace::create()?;
    netlink.create_pod_veth(&PodVeth { namespace: &gone, ..wire }).await?;
    drop(gone);
    crate::sandbox::wait_for("the wire to go", async || Ok(netlink.link_by_name(wire.host_name).await?.is_none())).await?;
    assert!(!netlink.delete_pod_veth(wire.host_name).await?);
    Ok(())
}

pub(crate) async fn pod_routes_fall_with_the_source_address_and_are_restored() -> Result<()> {
    let netlink = Netlink::connect()?;
    netlink.create_overlay_link(&LINK).await?;
    ip_all("link set lo up")?;
    let pod = Namespace::create()?;
    let ifindex = netlink.create_pod_veth(&wire(&pod)).await?;
    netlink.delete_link(OVERLAY_DEVICE).await?;
    assert_eq!(ip("route show proto 80")?, "", "if the route stays, put_pod_route is not needed for repair any more");
    netlink.create_overlay_link(&LINK).await?;
    for _ in 0..2 {
        netlink.put_pod_route(ifindex, POD, LINK.address).await?;
    }
    ping("-c 1 10.244.1.7")?;
    assert_eq!(ip_link("ovl12345678")?["operstate"], "UP");
    Ok(())
}

/// What stands for a link where the kernel has no TC links.
pub(crate) async fn a_filter_is_found_by_priority_and_handle() -> Result<()> {
    let netlink = Netlink::connect()?;
    ip_all("link add veth1 type veth peer name veth2")?;
    let index = netlink.link_by_name("veth1").await?.context("no veth1")?.ifindex;
    assert!(!netlink.has_ingress_filter(index, 0x4f01, 1).await?, "a device without clsact");
    tc(&["qdisc", "add", "dev", "veth1", "clsact"])?;
    assert!(!netlink.has_ingress_filter(index, 0x4f01, 1).await?);
    // A program of one instruction.
    let add = |direction| {
        let place = ["filter", "add", "dev", "veth1", direction, "prio", "20225", "handle", "1"];
        tc(&[&place[..], &["protocol", "all", "bpf", "bytecode", "1,6 0 0 0"]].concat())
    };
    add("egress")?;
    assert!(!netlink.has_ingress_filter(index, 0x4f01, 1).await?, "a filter of the other direction");
    add("ingress")?;
    assert!(netlink.has_ingress_filter(index, 0x4f01, 1).await?);
    assert!(!netlink.has_ingress_filter(index, 0x4f01, 2).await? && !netlink.has_ingress_filter(index, 0x4f02, 1).await?);
    Ok(())
}

fn tc(arguments: &[&str]) -> Result<()> {
    let output = std::process::Command::new("tc").args(arguments).output().context("cannot run tc (iproute2)")?;
    anyhow::ensure!(output.status.success(), "tc {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
