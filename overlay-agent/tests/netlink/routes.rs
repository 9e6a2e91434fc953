//! The agent's routes.

use crate::overlay::LINK;
use crate::sandbox::{ip, ip_all};
use anyhow::{Context, Result};
use nix::errno::Errno;
use overlay_agent::model::{OVERLAY_DEVICE, Route};
use overlay_agent::netlink::{Error, Netlink};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

fn overlay(destination: &str) -> Result<Route> {
    Ok(Route::Overlay { destination: destination.parse()?, source: LINK.address })
}

fn unreachable(destination: &str) -> Result<Route> {
    Ok(Route::Unreachable { destination: destination.parse()? })
}

async fn put(netlink: &Netlink, route: Route) -> Result<(), Error> {
    netlink.put_routes(&[route]).await.pop().map_or(Ok(()), Err)
}

async fn remove_strays(netlink: &Netlink) -> Result<Vec<String>, Error> {
    netlink.remove_strays(netlink.own_routes().await?.strays).await
}

pub(crate) async fn are_read_back_exactly_and_removed() -> Result<()> {
    let netlink = Netlink::connect()?;
    netlink.create_overlay_link(&LINK).await?;
    let wanted: BTreeSet<_> = [overlay("10.244.2.0/24")?, overlay("10.244.16.0/20")?, unreachable("10.244.1.0/24")?].into();
    for _ in 0..2 {
        for route in &wanted {
            put(&netlink, *route).await?;
        }
        assert_eq!(netlink.own_routes().await?.routes, wanted);
    }
    let seen = ip("route show proto 79")?;
    assert!(seen.contains("10.244.2.0/24 dev ovl0 scope link src 10.244.1.1"), "{seen}");
    assert!(seen.contains("unreachable 10.244.1.0/24"), "{seen}");

    // A network changes hands: ours becomes a peer's, and back.
    put(&netlink, overlay("10.244.1.0/24")?).await?;
    assert!(netlink.own_routes().await?.routes.contains(&overlay("10.244.1.0/24")?));
    assert_eq!(netlink.own_routes().await?.routes.len(), 3, "the old one is gone");
    put(&netlink, unreachable("10.244.1.0/24")?).await?;
    assert_eq!(netlink.own_routes().await?.routes, wanted);

    for route in wanted.iter().chain(&wanted) {
        netlink.remove_route(*route).await?;
    }
    assert_eq!(netlink.own_routes().await?.routes, BTreeSet::new());
    Ok(())
}

pub(crate) async fn past_the_overlay_device_replace_and_are_replaced() -> Result<()> {
    let netlink = Netlink::connect()?;
    netlink.create_overlay_link(&LINK).await?;
    ip_all("link add eth0 type bridge \n addr add 192.0.2.1/24 dev eth0 \n link set eth0 up")?;
    let ifindex = netlink.link_by_name("eth0").await?.context("eth0 was just made")?.ifindex;
    let (destination, gateway) = ("10.244.2.0/24".parse()?, Ipv4Addr::new(192, 0, 2, 2));
    let direct = |mtu| Route::Direct { destination, gateway, ifindex, source: LINK.address, mtu };
    for route in [overlay("10.244.2.0/24")?, direct(None), direct(Some(1400)), direct(None), overlay("10.244.2.0/24")?, direct(Some(1400))]
    {
        put(&netlink, route).await?;
        assert_eq!(netlink.own_routes().await?.routes, [route].into());
    }
    let seen = ip("route show proto 79")?;
    assert!(seen.contains("10.244.2.0/24 via 192.0.2.2 dev eth0 src 10.244.1.1 mtu 1400"), "{seen}");
    assert!(remove_strays(&netlink).await?.is_empty());
    netlink.remove_route(direct(Some(1400))).await?;
    assert_eq!(netlink.own_routes().await?.routes, BTreeSet::new());
    Ok(())
}

pub(crate) async fn of_others_are_never_replaced_or_removed() -> Result<()> {
    let netlink = Netlink::connect()?;
    netlink.create_overlay_link(&LINK).await?;
    ip_all("link add flannel.1 type bridge \n addr add 10.244.0.0/32 dev flannel.1 \n link set flannel.1 up")?;
    ip("route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink proto static")?;
    let before = ip("route show 10.244.2.0/24")?;

    let error = put(&netlink, overlay("10.244.2.0/24")?).await.err().context("it was replaced")?;
    println!("{error}");
    assert!(
        matches!(&error, Error::RouteTaken { destination, owner } if destination == "10.244.2.0/24" && owner.contains("via 10.244.2.0"))
    );
    netlink.remove_route(overlay("10.244.2.0/24")?).await?;
    assert!(remove_strays(&netlink).await?.is_empty());
    assert_eq!(ip("route show 10.244.2.0/24")?, before);

    // At another metric it is not in the way, and stays.
    ip_all("route del 10.244.2.0/24 \n route add 10.244.2.0/24 dev flannel.1 metric 50")?;
    put(&netlink, overlay("10.244.2.0/24")?).await?;
    netlink.remove_route(overlay("10.244.2.0/24")?).await?;
    assert!(ip("route show 10.244.2.0/24")?.contains("metric 50"));
    Ok(())
}

pub(crate) async fn of_a_form_we_do_not_make_are_strays() -> Result<()> {
    let netlink = Netlink::connect()?;
    netlink.create_overlay_link(&LINK).await?;
    ip_all("link add other type bridge \n addr add 192.0.2.1/24 dev other \n link set other up")?;
    let strays = [
        "10.244.10.0/24 dev other proto 79",
        "10.244.11.0/24 via 192.0.2.9 proto 79",
        "10.244.12.0/24 dev ovl0 proto 79",
        "10.244.13.0/24 dev ovl0 src 10.244.1.1 proto 79 metric 7",
        "blackhole 10.244.14.0/24 proto 79",
        "10.244.15.0/24 dev ovl0 src 10.244.1.1 proto 79 tos 4",
    ];
    strays.iter().try_for_each(|stray| ip(&format!("route add {stray}")).map(drop))?;
    let others = ["10.244.20.0/24 dev other proto 80", "10.244.21.0/24 dev ovl0 src 10.244.1.1 proto 79 table 100"];
    others.iter().try_for_each(|other| ip(&format!("route add {other}")).map(drop))?;
    let ours = unreachable("10.244.1.0/24")?;
    put(&netlink, ours).await?;

    assert_eq!(netlink.own_routes().await?.routes, [ours].into());
    let removed = remove_strays(&netlink).await?;
    println!("{removed:#?}");
    assert_eq!(removed.len(), strays.len());
    assert_eq!(netlink.own_routes().await?.routes, [ours].into());
    assert!(remove_strays(&netlink).await?.is_empty());
    assert!(ip("route show proto 80")?.contains("10.244.20.0/24"));
    assert!(ip("route show table 100")?.contains("10.244.21.0/24"));
    Ok(())
}

pub(crate) async fn need_the_overlay_device_and_its_address() -> Result<()> {
    let netlink = Netlink::connect()?;
    let error = put(&netlink, overlay("10.244.2.0/24")?).await.err().context("no device was needed")?;
    assert_eq!(error.to_string(), "there is no device ovl0; the devices are: lo");
    netlink.create_overlay_link(&LINK).await?;
    let route = Route::Overlay { destination: "10.244.2.0/24".parse()?, source: Ipv4Addr::new(10, 244, 1, 2) };
    let error = put(&netlink, route).await.err().context("any source will do")?;
    println!("{error}");
    assert_eq!(error.errno(), Some(Errno::EINVAL));
    assert!(error.to_string().starts_with("cannot add route 10.244.2.0/24: Invalid argument ("), "{error}");

    // The kernel takes the routes of a device away with it.
    put(&netlink, overlay("10.244.2.0/24")?).await?;
    netlink.delete_link(OVERLAY_DEVICE).await?;
    assert_eq!(netlink.own_routes().await?.routes, BTreeSet::new());
    netlink.remove_route(overlay("10.244.2.0/24")?).await?;
    Ok(())
}
