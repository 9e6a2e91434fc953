//! Two nodes with the kernel's vxlan, none of ours: what the lab and its probes say where nothing of ours can be wrong.

use crate::check;
use crate::harness::{Group, note};
use anyhow::ensure;
use overlay_lab::capture::Capture;
use overlay_lab::lab::LabConfig;
use overlay_lab::probe::flood::Flood;
use overlay_lab::probe::ping::{self, Ping};
use overlay_lab::probe::tcp;
use overlay_lab::underlay::Kind;
use std::thread;
use std::time::Duration;

pub(crate) fn groups() -> Vec<Group> {
    [Kind::L2, Kind::Routed].map(group).into()
}

fn group(underlay: Kind) -> Group {
    let config = LabConfig { underlay, nodes: 0, foreign: 2, ..LabConfig::default() };
    Group::new(format!("two foreign nodes, {}", underlay.name()), config)
        .case("pods, hosts and the outside reach each other", |lab| {
            let (pods, hosts, outside) = (lab.pods(), lab.hosts(), lab.outside());
            check::reaches(&pods[0], &pods[1])?;
            check::reaches(&pods[1], &pods[0])?;
            for host in &hosts {
                check::reaches(host, &pods[0])?;
                check::reaches(&pods[0], host)?;
                check::reaches_at(&pods[0], host, host.overlay_address)?;
            }
            check::reaches(&pods[0], &outside)
        })
        .case("bytes arrive as they were sent", |lab| {
            let pods = lab.pods();
            check::every_size(&pods[0], &pods[1])?;
            check::around_edges(&pods[0], &pods[1], lab.underlay.mtu)?;
            check::udp_gso(&pods[0], &pods[1], lab.underlay.mtu)?;
            tcp::flows(pods[0].ns, pods[1].ns, pods[1].address, 64, 1 << 20)?;
            check::no_bad_checksum(lab)
        })
        .case("bytes arrive as they were sent when the wire carries no super-packets", |lab| {
            check::set_offloads(lab, false)?;
            let pods = lab.pods();
            check::udp_gso(&pods[0], &pods[1], lab.underlay.mtu)?;
            tcp::transfer(pods[0].ns, pods[1].ns, pods[1].address, 16 << 20)?;
            check::no_bad_checksum(lab)?;
            check::set_offloads(lab, true)
        })
        .case("one byte too many is refused with the right MTU", |lab| {
            let pods = lab.pods();
            let fits = u16::try_from(lab.underlay.mtu - 50 - 28)?;
            let ping = Ping { size: fits, dont_fragment: true, ..Ping::default() };
            ensure!(ping.run(pods[0].ns, pods[1].address)?.received == 1, "a packet that fits was lost");
            let pong = Ping { size: fits + 1, ..ping }.run(pods[0].ns, pods[1].address)?;
            ensure!(pong.received == 0 && pong.errors.iter().any(|error| error.contains("mtu=1450")), "{pong:?}");
            Ok(())
        })
        .case("a gigabyte of TCP crosses", |lab| {
            let pods = lab.pods();
            let done = tcp::transfer(pods[0].ns, pods[1].ns, pods[1].address, 1_000_000_000)?;
            note(format!("two foreign nodes, {}: {:.1} Gbit/s of TCP", lab.underlay.kind.name(), done.gbit_per_second()));
            Ok(())
        })
        .case("a flood loses nothing while nothing happens, and what is lost otherwise is counted", |lab| {
            let pods = lab.pods();
            let flood = Flood::start(pods[0].ns, pods[0].address, pods[1].ns, pods[1].address, 2000)?;
            thread::sleep(Duration::from_millis(500));
            let report = flood.stop()?;
            ensure!(report.lost() == 0 && report.duplicates == 0 && report.sent > 500, "{report}");
            let flood = Flood::start(pods[0].ns, pods[0].address, pods[1].ns, pods[1].address, 2000)?;
            thread::sleep(Duration::from_millis(100));
            let hole = format!("blackhole {}/32", pods[1].address);
            lab.foreign[0].ns.ip(&format!("route add {hole}"))?;
            thread::sleep(Duration::from_millis(200));
            lab.foreign[0].ns.ip(&format!("route delete {hole}"))?;
            thread::sleep(Duration::from_millis(100));
            let report = flood.stop()?;
            ensure!(report.lost() > 100 && report.returned > 100 && report.longest_gap > Duration::from_millis(150), "{report}");
            Ok(())
        })
        .case("tshark decodes outer and inner headers of what crosses the wire", |lab| {
            let pods = lab.pods();
            let capture = Capture::start(&lab.foreign[0].ns, "eth0", "udp port 8472")?;
            ensure!(ping::once(pods[0].ns, pods[1].address)?.is_some(), "no answer");
            let packets = capture.decode(2, &["ip.src", "udp.dstport", "vxlan.vni", "icmp.type"])?;
            let request = [format!("{},{}", lab.foreign[0].address, pods[0].address), "8472".to_owned(), "1".to_owned(), "8".to_owned()];
            ensure!(packets.len() == 2 && packets[0] == request, "{packets:?}");
            Ok(())
        })
        .case("a node that leaves is forgotten and found again", |lab| {
            let peers = vec![lab.foreign[1].as_peer()];
            lab.foreign[0].set_peers(Vec::new())?;
            let pods = lab.pods();
            let before = Ping::default().run(pods[0].ns, pods[1].address)?;
            // Routed by the router then: what does not come back through the tunnel.
            ensure!(lab.foreign[0].ns.run("bridge", "fdb show dev flannel.1")?.is_empty(), "an FDB entry stayed; {before:?}");
            lab.foreign[0].set_peers(peers)?;
            let pods = lab.pods();
            check::reaches(&pods[0], &pods[1])
        })
}
