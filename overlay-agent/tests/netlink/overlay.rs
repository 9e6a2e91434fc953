//! The overlay device.

use crate::sandbox::{ip, ip_all, ip_link};
use anyhow::{Context, Result, ensure};
use overlay_agent::model::{Mac, OVERLAY_DEVICE, OverlayLink};
use overlay_agent::netlink::{Error, Netlink};
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

pub(crate) const LINK: OverlayLink =
    OverlayLink { mac: Mac([0x0e, 0x4f, 10, 0, 0, 1]), mtu: 1450, port: 8472, address: Ipv4Addr::new(10, 244, 1, 1) };

pub(crate) async fn is_made_as_asked_and_read_back() -> Result<()> {
    let netlink = Netlink::connect()?;
    assert_eq!(netlink.overlay_link(OVERLAY_DEVICE).await?, None);
    let ifindex = netlink.create_overlay_link(&LINK).await?;
    let state = netlink.overlay_link(OVERLAY_DEVICE).await?.context("no overlay device")?;
    assert_eq!((state.ifindex, state.link), (ifindex, Some(LINK)));

    let seen = ip_link(OVERLAY_DEVICE)?;
    let settings = &seen["linkinfo"]["info_data"];
    assert_eq!(seen["linkinfo"]["info_kind"], "vxlan");
    assert_eq!((&settings["external"], &settings["port"]), (&true.into(), &8472.into()), "{settings}");
    assert_ne!(settings["learning"], true, "{settings}");
    assert_eq!((&seen["address"], &seen["mtu"]), (&"0e:4f:0a:00:00:01".into(), &1450.into()));
    let flags: Vec<_> = seen["flags"].as_array().context("no flags")?.iter().filter_map(|flag| flag.as_str()).collect();
    assert!(flags.contains(&"NOARP") && flags.contains(&"UP"), "{flags:?}");
    assert!(ip("-4 addr show dev ovl0")?.contains("inet 10.244.1.1/32 scope global ovl0"));
    Ok(())
}

pub(crate) async fn mtu_and_mac_are_updated_in_place() -> Result<()> {
    let netlink = Netlink::connect()?;
    assert!(matches!(netlink.update_overlay_link(&LINK).await, Err(Error::NoDevice { name, .. }) if name == "ovl0"));
    let ifindex = netlink.create_overlay_link(&LINK).await?;
    let wanted = OverlayLink { mtu: 8950, mac: Mac([0x0e, 0x4f, 1, 2, 3, 4]), ..LINK };
    netlink.update_overlay_link(&wanted).await?;
    let state = netlink.overlay_link(OVERLAY_DEVICE).await?.context("no overlay device")?;
    assert_eq!((state.ifindex, state.link), (ifindex, Some(wanted)));
    Ok(())
}

pub(crate) async fn a_device_that_differs_is_not_ours_to_keep() -> Result<()> {
    let netlink = Netlink::connect()?;
    let spoilings = [
        "link set ovl0 down",
        "link set ovl0 arp on",
        "addr add 10.9.9.9/32 dev ovl0",
        "addr del 10.244.1.1/32 dev ovl0",
        "addr replace 10.244.1.1/24 dev ovl0",
    ];
    for spoiling in spoilings {
        netlink.create_overlay_link(&LINK).await?;
        ip(spoiling)?;
        let state = netlink.overlay_link(OVERLAY_DEVICE).await?.context("no overlay device")?;
        assert_eq!(state.link, None, "after ip {spoiling}");
        assert!(netlink.delete_link(OVERLAY_DEVICE).await?);
    }
    let strangers = [
        ("type vxlan external dstport 8472 learning", None),
        ("type bridge", Some("bridge")),
        ("type vxlan id 1 dstport 8472 nolearning", Some("vxlan, VNI 1")),
    ];
    for (stranger, named) in strangers {
        ip_all(&format!("link add ovl0 address 0e:4f:0a:00:00:01 mtu 1450 {stranger} \n link set ovl0 arp off up"))?;
        ip("addr add 10.244.1.1/32 dev ovl0")?;
        match (netlink.overlay_link(OVERLAY_DEVICE).await, named) {
            (Ok(Some(state)), None) => assert_eq!(state.link, None, "{stranger}"),
            (Err(Error::NameTaken { found, .. }), Some(named)) => assert_eq!(found, named),
            (other, _) => panic!("{stranger}: {other:?}"),
        }
        assert!(netlink.delete_link(OVERLAY_DEVICE).await?);
    }
    assert!(!netlink.delete_link(OVERLAY_DEVICE).await?, "a second removal finds nothing");
    Ok(())
}

pub(crate) async fn a_taken_port_names_the_culprit() -> Result<()> {
    let netlink = Netlink::connect()?;
    let refused = async |culprit: &str| -> Result<()> {
        let error = netlink.create_overlay_link(&LINK).await.err().context("it was made all the same")?;
        println!("{error}");
        assert!(matches!(&error, Error::PortTaken { port: 8472, .. }), "{error:?}");
        assert!(error.to_string().contains("8472") && error.to_string().contains(culprit), "{error}");
        assert_eq!(netlink.overlay_link(OVERLAY_DEVICE).await?, None, "half a device is left");
        Ok(())
    };
    ip_all("link set lo up \n link add flannel.1 type vxlan id 1 dstport 8472 nolearning \n link set flannel.1 up")?;
    refused("device flannel.1 (vxlan, VNI 1)").await?;
    ip_all("link del flannel.1 \n link add cilium_vxlan type vxlan external dstport 8472 \n link set cilium_vxlan up")?;
    refused("device cilium_vxlan (vxlan, external)").await?;
    ip("link del cilium_vxlan")?;
    let program = UdpSocket::bind(("0.0.0.0", 8472))?;
    refused("some program").await?;
    drop(program);
    // A program another case starts at this moment has the socket until its `exec`.
    let patience = Instant::now() + Duration::from_secs(2);
    while let Err(error) = netlink.create_overlay_link(&LINK).await {
        ensure!(matches!(error, Error::PortTaken { .. }) && Instant::now() < patience, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

pub(crate) async fn an_existing_device_is_left_alone() -> Result<()> {
    let netlink = Netlink::connect()?;
    ip("link add ovl0 type bridge")?;
    let error = netlink.create_overlay_link(&LINK).await.err().context("it was made all the same")?;
    assert!(matches!(&error, Error::DeviceExists { name, .. } if name == "ovl0"), "{error:?}");
    let error = netlink.update_overlay_link(&LINK).await.err().context("a bridge was updated")?;
    assert_eq!(error.to_string(), "device ovl0 is of type bridge, not vxlan: it is not ours to touch");
    assert_eq!(netlink.links_of_kind("bridge").await?.len(), 1);
    Ok(())
}
