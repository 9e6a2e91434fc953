//! Change notifications.

use crate::neighbours::{PEER, entry, put};
use crate::sandbox::{PEER_MAC, hurry_neighbours, ip, ip_all, ip_all_in, neighbourhood, program};
use anyhow::{Context, Result};
use overlay_agent::model::ManagedNeighbour;
use overlay_agent::netlink::{Event, Events};
use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// The next event, within two seconds.
async fn next(events: &mut Events) -> Result<Event> {
    timeout(Duration::from_secs(2), events.next()).await.context("no event came")??.context("the subscription ended")
}

/// Everything that comes until there is silence for a moment.
async fn drain(events: &mut Events) -> Result<Vec<Event>> {
    let mut all = Vec::new();
    while let Ok(event) = timeout(Duration::from_millis(300), events.next()).await {
        all.push(event?.context("the subscription ended")?);
    }
    Ok(all)
}

pub(crate) async fn say_what_changed() -> Result<()> {
    let here = neighbourhood().await?;
    let mut events = here.netlink.events().await?;
    let steps: [(&str, &[&str]); 9] = [
        ("link set up0 mtu 1400", &["device up0 changed: MTU 1500 to 1400"]),
        ("addr add 10.5.5.5/32 dev up0", &["address 10.5.5.5/32 appeared on up0"]),
        ("addr del 10.5.5.5/32 dev up0", &["address 10.5.5.5/32 is gone from up0"]),
        ("route add 172.16.0.0/16 via 10.0.0.2", &["route 172.16.0.0/16 via 10.0.0.2 dev up0 proto 3"]),
        ("route del 172.16.0.0/16", &["route 172.16.0.0/16 via 10.0.0.2 dev up0 proto 3"]),
        ("rule add to 1.2.3.4 table 9", &["the policy rules changed"]),
        ("neigh add 10.0.0.9 lladdr 02:00:00:00:00:99 dev up0 nud stale", &["neighbour 10.0.0.9 on up0 is at 02:00:00:00:00:99"]),
        ("neigh replace 10.0.0.9 lladdr 02:00:00:00:00:98 dev up0 nud stale", &["moved from 02:00:00:00:00:99 to 02:00:00:00:00:98"]),
        ("link set up0 down", &["device up0 changed: up off", "no longer at 02:00:00:00:00:98"]),
    ];
    for (step, expected) in steps {
        ip(step)?;
        let seen: Vec<String> = drain(&mut events).await?.iter().map(ToString::to_string).collect();
        println!("ip {step}: {seen:#?}");
        for text in expected {
            assert!(seen.iter().any(|event| event.contains(text)), "\"{text}\" is missing after ip {step}: {seen:#?}");
        }
    }
    // Nothing that changes nothing, and nothing of the pods' own routes.
    ip_all("link set up0 up \n link add pod0 type bridge \n link set pod0 up \n addr add 10.6.6.6/24 dev pod0")?;
    drain(&mut events).await?;
    ip_all(
        "link set up0 mtu 1400
         addr change 10.6.6.6/24 dev pod0 valid_lft 900 preferred_lft 900
         route add 10.244.1.7/32 dev pod0 scope link proto 80
         route del 10.244.1.7/32
         -6 addr add fd00::1/64 dev pod0",
    )?;
    assert_eq!(drain(&mut events).await?, []);
    Ok(())
}

pub(crate) async fn are_silent_while_a_managed_neighbour_is_probed() -> Result<()> {
    let here = neighbourhood().await?;
    hurry_neighbours("up0")?;
    let mut events = here.netlink.events().await?;
    let peer = ManagedNeighbour { address: PEER, ifindex: here.ifindex };
    let nobody = ManagedNeighbour { address: [10, 0, 0, 77].into(), ..peer };
    put(&here.netlink, peer).await?;
    put(&here.netlink, nobody).await?;
    assert_eq!(next(&mut events).await?, Event::Neighbour(format!("neighbour 10.0.0.2 on up0 is at {PEER_MAC}")));

    let (start, mut states) = (Instant::now(), BTreeSet::new());
    while start.elapsed() < Duration::from_secs(3) {
        for neighbour in [peer, nobody] {
            states.insert(format!("{:?}", entry(&here.netlink, neighbour).await?.context("no entry")?.state));
        }
        if let Ok(event) = timeout(Duration::from_millis(10), events.next()).await {
            panic!("woken by {event:?}");
        }
    }
    println!("states seen meanwhile: {states:?}");
    assert!(states.len() >= 3, "the kernel did not probe: {states:?}");

    ip_all_in(&here.peer, "link set peer0 address 02:00:00:00:00:22")?;
    let seen: Vec<String> = vec![next(&mut events).await?.to_string()];
    println!("{seen:?}");
    assert!(seen[0].contains("10.0.0.2 on up0"), "{seen:?}");
    Ok(())
}

pub(crate) async fn lost_notifications_are_an_overrun() -> Result<()> {
    let here = neighbourhood().await?;
    let mut events = here.netlink.events().await?;
    // More than any buffer holds, while nobody reads: this blocks the one thread there is.
    let mut batch = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
    let mut commands = batch.stdin.take().context("no pipe")?;
    for n in 0..20_000_u32 {
        writeln!(commands, "route add 172.16.{}.{}/32 dev up0", n >> 8, n & 255)?;
    }
    drop(commands);
    assert!(batch.wait()?.success());
    ip("neigh add 10.0.0.9 lladdr 02:00:00:00:00:99 dev up0 nud stale")?;

    let seen = drain(&mut events).await?;
    println!("{} events, {} of them overruns", seen.len(), seen.iter().filter(|event| **event == Event::Overrun).count());
    let overrun = seen.iter().position(|event| *event == Event::Overrun).context("no overrun")?;
    assert!(overrun < seen.len());
    // What happened during the loss is known: going back to how it was before is a change.
    ip("neigh del 10.0.0.9 dev up0")?;
    let event = next(&mut events).await?.to_string();
    assert!(event.contains("10.0.0.9 on up0 is no longer at 02:00:00:00:00:99"), "{event}");
    Ok(())
}

pub(crate) async fn say_when_the_packet_filter_changed() -> Result<()> {
    let here = neighbourhood().await?;
    program("nft -f -", "table inet theirs { chain through { type filter hook forward priority 5; }; chain other { }; }")?;
    let mut events = here.netlink.events().await?;
    let steps = [
        ("add table ip overlay\nadd chain ip overlay a\nadd rule ip overlay a accept", "table ip overlay"),
        ("flush chain ip overlay a", "table ip overlay"),
        ("delete table ip overlay", "table ip overlay"),
        ("add rule inet theirs through drop", "chain inet theirs through"),
        ("add chain inet theirs through { policy drop; }", "chain inet theirs through"),
        ("add table ip filter\nadd chain ip filter FORWARD { type filter hook forward priority 0; }", "chain ip filter FORWARD"),
        ("add rule ip filter FORWARD drop", "chain ip filter FORWARD"),
        ("flush ruleset", "chain inet theirs through"),
    ];
    for (step, expected) in steps {
        program("nft -f -", step)?;
        let seen: Vec<String> = drain(&mut events).await?.iter().map(ToString::to_string).collect();
        println!("{step}: {seen:?}");
        assert!(seen.len() == 1 && seen[0].starts_with("nftables: ") && seen[0].contains(expected), "{step}: {seen:?}");
    }
    // Rules of others, of which kube-proxy writes thousands.
    program(
        "nft -f -",
        "table ip nat { chain services { ip daddr 10.96.0.1 counter; }; chain out { type nat hook postrouting priority 100; }; }",
    )?;
    program("nft -f -", "table ip6 overlay { chain postrouting { type nat hook postrouting priority 110; }; }")?;
    program("nft -f -", "delete table ip nat\ntable inet theirs { chain other { drop; }; }")?;
    assert_eq!(drain(&mut events).await?, []);
    Ok(())
}
