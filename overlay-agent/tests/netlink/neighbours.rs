//! Managed neighbours, with a real one on the other end of a wire.

use crate::sandbox::{PEER_MAC, hurry_neighbours, ip, ip_all, ip_all_in, neighbourhood, ping, wait_for};
use anyhow::{Context, Result};
use overlay_agent::model::{Mac, ManagedNeighbour, NeighbourState};
use overlay_agent::netlink::{Error, Neighbour, Netlink};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

pub(crate) const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

pub(crate) async fn entry(netlink: &Netlink, neighbour: ManagedNeighbour) -> Result<Option<Neighbour>> {
    Ok(netlink.neighbours().await?.get(&(neighbour.ifindex, neighbour.address)).copied())
}

pub(crate) async fn put(netlink: &Netlink, neighbour: ManagedNeighbour) -> Result<(), Error> {
    netlink.put_neighbours(&[neighbour]).await.pop().map_or(Ok(()), Err)
}

async fn wait_for_mac(netlink: &Netlink, neighbour: ManagedNeighbour, mac: &str) -> Result<()> {
    let mac: Mac = mac.parse()?;
    wait_for(&format!("MAC {mac}"), async || Ok(entry(netlink, neighbour).await?.is_some_and(|entry| entry.mac == Some(mac)))).await
}

pub(crate) async fn managed_is_resolved_kept_and_follows_a_new_mac() -> Result<()> {
    let here = neighbourhood().await?;
    hurry_neighbours("up0")?;
    let peer = ManagedNeighbour { address: PEER, ifindex: here.ifindex };
    assert_eq!(entry(&here.netlink, peer).await?, None);
    put(&here.netlink, peer).await?;
    wait_for_mac(&here.netlink, peer, PEER_MAC).await?;
    assert_eq!(here.netlink.managed_neighbours().await?, [peer].into());
    let seen = ip("neigh show dev up0")?;
    println!("{seen}");
    assert!(seen.contains("managed") && seen.contains("proto 79"), "{seen}");

    // No traffic at all, many times the life of a confirmed entry: the kernel confirms it again by itself.
    let (start, mut states) = (Instant::now(), BTreeSet::new());
    while start.elapsed() < Duration::from_secs(3) {
        let entry = entry(&here.netlink, peer).await?.context("the entry is gone")?;
        assert_eq!(entry.mac, Some(PEER_MAC.parse()?), "{entry:?}");
        states.insert(format!("{:?}", entry.state));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("states seen: {states:?}");
    assert!(states.contains("Reachable") && states.len() > 1, "it was never confirmed anew: {states:?}");

    let start = Instant::now();
    ip_all_in(&here.peer, "link set peer0 address 02:00:00:00:00:22")?;
    wait_for_mac(&here.netlink, peer, "02:00:00:00:00:22").await?;
    println!("new MAC known after {} ms", start.elapsed().as_millis());
    assert_eq!(here.netlink.managed_neighbours().await?, [peer].into());
    Ok(())
}

pub(crate) async fn an_existing_entry_keeps_its_mac() -> Result<()> {
    let here = neighbourhood().await?;
    let put_and_read = async |address: Ipv4Addr| -> Result<Neighbour> {
        let neighbour = ManagedNeighbour { address, ifindex: here.ifindex };
        put(&here.netlink, neighbour).await?;
        let entry = entry(&here.netlink, neighbour).await?.context("no entry")?;
        assert!(entry.ours, "{address}: {entry:?}");
        Ok(entry)
    };
    ping("-c 1 10.0.0.2")?;
    // Confirmed by traffic, then asked for twice.
    for _ in 0..2 {
        let entry = put_and_read(PEER).await?;
        assert_eq!((entry.mac, entry.state), (Some(PEER_MAC.parse()?), NeighbourState::Reachable));
    }
    for state in ["reachable", "stale", "delay", "probe", "noarp"] {
        ip_all(&format!("neigh flush dev up0 \n neigh replace 10.0.0.3 lladdr 02:00:00:00:00:33 dev up0 nud {state}"))?;
        let entry = put_and_read(Ipv4Addr::new(10, 0, 0, 3)).await?;
        assert_eq!(entry.mac, Some("02:00:00:00:00:33".parse()?), "{state}: {entry:?}");
        ip("neigh del 10.0.0.3 dev up0")?;
    }
    for state in ["incomplete", "failed", "none"] {
        ip(&format!("neigh replace 10.0.0.3 dev up0 nud {state}"))?;
        let entry = put_and_read(Ipv4Addr::new(10, 0, 0, 3)).await?;
        assert_eq!((entry.mac, entry.state), (None, NeighbourState::Incomplete), "{state}");
        ip("neigh del 10.0.0.3 dev up0")?;
    }
    Ok(())
}

pub(crate) async fn a_permanent_entry_is_left_alone() -> Result<()> {
    let here = neighbourhood().await?;
    ip("neigh add 10.0.0.2 lladdr 02:00:00:00:00:99 dev up0 nud permanent")?;
    let before = ip("neigh show dev up0")?;
    let peer = ManagedNeighbour { address: PEER, ifindex: here.ifindex };
    put(&here.netlink, peer).await?;
    assert_eq!(ip("neigh show dev up0")?, before);
    let entry = entry(&here.netlink, peer).await?.context("no entry")?;
    assert_eq!((entry.state, entry.permanent, entry.ours), (NeighbourState::Reachable, true, false));
    assert_eq!(here.netlink.managed_neighbours().await?, BTreeSet::new());
    here.netlink.remove_neighbour(peer).await?;
    assert_eq!(ip("neigh show dev up0")?, before);
    Ok(())
}

pub(crate) async fn only_ours_are_removed() -> Result<()> {
    let here = neighbourhood().await?;
    let neighbour = |last| ManagedNeighbour { address: Ipv4Addr::new(10, 0, 0, last), ifindex: here.ifindex };
    ip_all(
        "neigh add 10.0.0.4 lladdr 02:00:00:00:00:44 dev up0 nud stale
         neigh add 10.0.0.5 dev up0 managed
         neigh add 10.0.0.6 lladdr 02:00:00:00:00:66 dev up0 nud permanent proto 79",
    )?;
    put(&here.netlink, neighbour(2)).await?;
    assert_eq!(here.netlink.managed_neighbours().await?, [neighbour(2)].into());
    for last in [2, 2, 4, 5, 6, 7] {
        here.netlink.remove_neighbour(neighbour(last)).await?;
    }
    here.netlink.remove_neighbour(ManagedNeighbour { address: PEER, ifindex: 4711 }).await?;
    let left: BTreeSet<_> = here.netlink.neighbours().await?.into_keys().map(|(_, address)| address.octets()[3]).collect();
    assert!(!left.contains(&2) && left.is_superset(&[4, 5, 6].into()), "{left:?}");
    Ok(())
}

pub(crate) async fn without_an_answer_there_is_no_mac() -> Result<()> {
    let here = neighbourhood().await?;
    hurry_neighbours("up0")?;
    let nobody = ManagedNeighbour { address: Ipv4Addr::new(10, 0, 0, 77), ifindex: here.ifindex };
    put(&here.netlink, nobody).await?;
    let mut states = BTreeSet::new();
    wait_for("the entry to fail", async || {
        let entry = entry(&here.netlink, nobody).await?.context("no entry")?;
        assert_eq!(entry.mac, None);
        states.insert(format!("{:?}", entry.state));
        Ok(states.len() == 2)
    })
    .await?;
    assert_eq!(states, ["Failed".to_owned(), "Incomplete".to_owned()].into());

    // Once the address is taken, the kernel finds it by itself: it never stopped asking.
    ip_all_in(&here.peer, "addr add 10.0.0.77/24 dev peer0")?;
    wait_for_mac(&here.netlink, nobody, PEER_MAC).await?;

    let error = put(&here.netlink, ManagedNeighbour { address: PEER, ifindex: 4711 }).await.err().context("no such device")?;
    println!("{error}");
    assert!(error.to_string().contains("neighbour 10.0.0.2 on the device with index 4711"), "{error}");
    Ok(())
}
