//! The underlay: this node's NIC and the next hops to the others.

use crate::overlay::LINK;
use crate::sandbox::{PEER_MAC, ip, ip_all, neighbourhood, ping};
use anyhow::{Context, Result};
use overlay_agent::model::{ManagedNeighbour, NeighbourState, Underlay};
use overlay_agent::netlink::{Error, Netlink};
use std::net::Ipv4Addr;
use std::time::Instant;

const NODE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const ON_LINK: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

pub(crate) async fn next_hops_are_the_kernels() -> Result<()> {
    let here = neighbourhood().await?;
    let routed = Ipv4Addr::new(172, 16, 5, 5);
    let second = Ipv4Addr::new(198, 51, 100, 7);
    ip_all(
        "route add default via 10.0.0.254
         neigh add 10.0.0.254 lladdr 02:00:00:00:00:fe dev up0 nud stale
         link add side type bridge
         link set side up address 02:00:00:00:01:01
         addr add 192.0.2.1/24 dev side
         route add 203.0.113.0/24 dev side table 7
         rule add to 198.51.100.0/24 table 7
         route add 198.51.100.0/24 via 203.0.113.9 dev side onlink table 7 src 192.0.2.1",
    )?;
    let underlay = here.netlink.underlay(NODE, None, &[ON_LINK, routed, second]).await?;
    let device = &underlay.device;
    assert_eq!((device.name.as_str(), device.ifindex, device.mtu, device.kind.as_deref()), ("up0", here.ifindex, 1500, Some("veth")));
    assert_eq!(device.mac, "02:00:00:00:00:01".parse()?);

    let hop = &underlay.next_hops[&ON_LINK];
    assert_eq!((hop.address, hop.ifindex, hop.source, hop.local_mac), (ON_LINK, here.ifindex, NODE, device.mac));
    assert_eq!((hop.mac, hop.state), (None, NeighbourState::Absent));
    let hop = &underlay.next_hops[&routed];
    assert_eq!((hop.address, hop.source), (Ipv4Addr::new(10, 0, 0, 254), NODE));
    assert_eq!((hop.mac, hop.state), (Some("02:00:00:00:00:fe".parse()?), NeighbourState::Stale));
    // Chosen by a policy rule from another table, out of another NIC.
    let hop = &underlay.next_hops[&second];
    assert_eq!((hop.address, hop.source), (Ipv4Addr::new(203, 0, 113, 9), Ipv4Addr::new(192, 0, 2, 1)));
    assert_eq!(hop.local_mac, "02:00:00:00:01:01".parse()?);

    ping("-c 1 10.0.0.2")?;
    let hop = here.netlink.underlay(NODE, Some("up0"), &[ON_LINK]).await?.next_hops.remove(&ON_LINK).context("no next hop")?;
    assert_eq!((hop.mac, hop.state), (Some(PEER_MAC.parse()?), NeighbourState::Reachable));
    // The kernel keeps the MAC of an entry that failed; it must not be used.
    ip("neigh replace 10.0.0.2 dev up0 nud failed")?;
    let hop = here.netlink.underlay(NODE, None, &[ON_LINK]).await?.next_hops.remove(&ON_LINK).context("no next hop")?;
    assert_eq!((hop.mac, hop.state), (None, NeighbourState::Failed));
    Ok(())
}

pub(crate) async fn routes_that_lead_nowhere_leave_the_peer_out() -> Result<()> {
    let here = neighbourhood().await?;
    here.netlink.create_overlay_link(&LINK).await?;
    ip_all(
        "route add unreachable 172.16.1.0/24
         route add blackhole 172.16.2.0/24
         route add prohibit 172.16.3.0/24
         route add throw 172.16.4.0/24
         route add 172.16.5.0/24 dev ovl0 src 10.244.1.1
         route add 172.16.6.0/24 dev lo
         route add 172.16.7.0/24 via inet6 fe80::1 dev up0
         route add 172.16.9.0/24 via 10.0.0.2",
    )?;
    let nowhere = [1, 2, 3, 4, 5, 6, 7, 8].map(|net| Ipv4Addr::new(172, 16, net, 9));
    let special = [NODE, Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST, Ipv4Addr::new(10, 0, 0, 255), Ipv4Addr::new(224, 0, 0, 1)];
    let reachable = Ipv4Addr::new(172, 16, 9, 9);
    let peers: Vec<_> = nowhere.into_iter().chain(special).chain([reachable]).collect();
    let underlay = here.netlink.underlay(NODE, None, &peers).await?;
    assert_eq!(underlay.next_hops.into_keys().collect::<Vec<_>>(), [reachable]);
    Ok(())
}

pub(crate) async fn the_device_is_found_or_the_error_says_why_not() -> Result<()> {
    let here = neighbourhood().await?;
    let netlink = &here.netlink;
    let error = async |address: Ipv4Addr, interface: Option<&str>| -> Result<Error> {
        let error = netlink.underlay(address, interface, &[]).await.err().context("a device was found")?;
        println!("{error}");
        Ok(error)
    };
    ip_all("link add side type bridge \n addr add 192.0.2.1/24 dev side \n addr add 192.0.2.2/32 dev side \n link add bare type bridge")?;
    let other = Ipv4Addr::new(10, 7, 7, 7);

    assert!(matches!(error(NODE, Some("eth9")).await?, Error::NoDevice { existing, .. } if existing.contains("up0, side, bare")));
    let text = error(NODE, Some("side")).await?.to_string();
    assert_eq!(text, "device side does not have this node's address 10.0.0.1: it has 192.0.2.1, 192.0.2.2; the address is on up0");
    let text = error(other, Some("bare")).await?.to_string();
    assert_eq!(text, "device bare does not have this node's address 10.7.7.7: it has no IPv4 address; no device has it");
    assert!(matches!(error(other, None).await?, Error::AddressNowhere { found, .. } if found.contains("10.0.0.1 on up0")));
    assert!(matches!(error(Ipv4Addr::LOCALHOST, None).await?, Error::NotEthernet { name, kind } if name == "lo" && kind == "loopback"));

    // Also on the loopback device: the NIC it is. On two NICs: ask.
    ip("addr add 10.0.0.1/32 dev lo")?;
    assert_eq!(netlink.underlay(NODE, None, &[]).await?.device.name, "up0");
    ip("addr add 10.0.0.1/32 dev side")?;
    assert!(matches!(error(NODE, None).await?, Error::AddressAmbiguous { devices, .. } if devices == "lo, up0, side"));
    assert_eq!(netlink.underlay(NODE, Some("side"), &[]).await?.device.name, "side");
    Ok(())
}

pub(crate) async fn five_thousand_peers() -> Result<()> {
    const PEERS: u32 = 5000;
    let here = neighbourhood().await?;
    let netlink: &Netlink = &here.netlink;
    // One half is on the link, the other behind a router; all neighbours are in the table.
    ip_all("addr add 10.128.0.1/16 dev up0 \n route add 10.129.0.0/16 via 10.0.0.2")?;
    let peers: Vec<Ipv4Addr> = (0..PEERS).map(|n| Ipv4Addr::from_bits(if n % 2 == 0 { 0x0a80_0100 } else { 0x0a81_0100 } + n)).collect();
    let timed = |what: &str, start: Instant| println!("{what}: {:.0} ms", start.elapsed().as_secs_f64() * 1000.0);

    let start = Instant::now();
    let on_link = peers.iter().copied().filter(|address| address.octets()[1] == 128);
    let on_link: Vec<_> = on_link.map(|address| ManagedNeighbour { address, ifindex: here.ifindex }).collect();
    let errors = netlink.put_neighbours(&on_link).await;
    assert!(errors.is_empty(), "{errors:?}");
    timed("put 2500 managed neighbours", start);
    for pass in 1..=3 {
        let start = Instant::now();
        let Underlay { next_hops, .. } = netlink.underlay(NODE, None, &peers).await?;
        timed(&format!("underlay of {PEERS} peers, pass {pass}"), start);
        assert_eq!(next_hops.len(), peers.len());
        assert_eq!(next_hops[&peers[1]].address, ON_LINK);
        assert_eq!(next_hops[&peers[0]].address, peers[0]);
    }
    let start = Instant::now();
    assert_eq!(netlink.managed_neighbours().await?.len(), 2500);
    timed("read 2500 managed neighbours", start);
    Ok(())
}
