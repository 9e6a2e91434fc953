//! What one packet cannot show: source ports over many flows, the DETOUR memory, modes, and maps that are not filled yet.

use std::collections::HashSet;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use overlay_common::abi::{DetourKey, Settings, Subnet, SubnetKey, reach, receive};
use overlay_common::counters::Flow;
use overlay_common::reason::DropReason;

use crate::case::{Case, Expect, Shared, TC_NEXT, XDP_PASS, check, source_port, story};
use crate::kernel::{Kernel, Moved, Program, Skb, hex};
use crate::packet::{Addr, Eth, Ipv4, MORE_FRAGMENTS, pattern, protocol};
use crate::underlay_outer::icmp_error;
use crate::world::{
    self, A_GATEWAY, A_MAC, A_VTEP, B, B_POD, C, D, EXTERNAL, G_MAC, G_POD, POD, POD2, SERVICE, STRANGER, at_pod, from_b, from_pod, tunnel,
};

/// Every story.
pub(crate) fn trials(kernel: &Shared) -> Vec<Trial> {
    vec![
        story(kernel, "from_pod", "E8 a flow keeps its source port", source_port_is_stable),
        story(kernel, "from_pod", "E8 flows spread over the source ports", source_ports_spread),
        story(kernel, "from_pod", "E8 fragments of one datagram keep one source port", fragments_share_a_port),
        story(kernel, "from_host", "E8 the host's flows spread as a pod's do", host_source_ports_spread),
        story(kernel, "from_pod", "E3 a packet to a service is remembered, one to a pod is not", detour_is_written),
        story(
            kernel,
            "from_pod",
            "E3 a fragmented request to a service is remembered by its first fragment",
            detour_is_written_for_fragments,
        ),
        story(kernel, "underlay", "D27 a reply to a remembered socket goes by the stack", detour_is_read),
        story(kernel, "to_underlay", "F5 what the stack sends to a neighbour is remembered, and nothing else", egress_is_noted),
        story(kernel, "all", "D0 without settings every program lets everything through", nothing_before_settings),
        story(kernel, "underlay_tc", "D0 in kernel mode VXLAN from a known node is marked and left to the kernel", kernel_mode),
        story(kernel, "underlay_tc and from_pod", "E7 super-packets are measured by their segments", super_packets),
        story(kernel, "from_overlay", "D0 what this node handed up itself passes", host_bound_passes_the_overlay_device),
        story(kernel, "underlay_xdp", "D0 the metadata of a stripped packet names the pod's link", metadata_names_the_link),
        story(kernel, "underlay", "D12 a node that has gone is a stranger at once", deleted_node_is_a_stranger),
        story(kernel, "from_pod", "E3 a node without a way to it is no node at once", node_without_a_way_is_no_node),
        story(kernel, "from_pod", "E3 of pod networks that hold each other the smallest counts", longest_prefix_wins),
    ]
}

fn port_of(kernel: &mut Kernel, program: Program, frame: &[u8]) -> Result<u16> {
    let ran = kernel.run(program, frame, Skb::default())?;
    let port = source_port(&ran.frame).filter(|_| ran.frame.len() > frame.len());
    port.with_context(|| format!("not encapsulated: {}\n{}", ran.moved, hex(&ran.frame)))
}

fn flow(port: u16, payload: &[u8]) -> Vec<u8> {
    from_pod(&Ipv4::udp_ports(POD.addr, B_POD, (port, 53), payload))
}

fn source_port_is_stable(kernel: &mut Kernel) -> Result<()> {
    let first = port_of(kernel, Program::FromPod, &flow(40_000, b"one"))?;
    for len in 0..200 {
        let port = port_of(kernel, Program::FromPod, &flow(40_000, &pattern(len)))?;
        ensure!(port == first, "packet {len} of the flow left from port {port}, the first from {first}");
    }
    Ok(())
}

fn source_ports_spread(kernel: &mut Kernel) -> Result<()> {
    let ports = (0..1000).map(|n| port_of(kernel, Program::FromPod, &flow(10_000 + n, b"x"))).collect::<Result<Vec<_>>>()?;
    spread(&ports)
}

fn host_source_ports_spread(kernel: &mut Kernel) -> Result<()> {
    let frame = |n: u16| Eth::ipv4(A_VTEP, A_VTEP).frame(&Ipv4::udp_ports(A_GATEWAY, B_POD, (10_000 + n, 53), b"x").bytes());
    let ports = (0..1000).map(|n| port_of(kernel, Program::FromHost, &frame(n))).collect::<Result<Vec<_>>>()?;
    spread(&ports)
}

/// 1000 flows thrown at random into 16384 ports leave about 970 different ones, and about 62 in each sixteenth of the range.
fn spread(ports: &[u16]) -> Result<()> {
    ensure!(ports.iter().all(|&port| port >= 49_152), "a port below 49152: {:?}", ports.iter().min());
    let different = ports.iter().collect::<HashSet<_>>().len();
    ensure!(different >= 900, "{different} different ports for {} flows", ports.len());
    for sixteenth in 0..16u16 {
        let low = 49_152 + sixteenth * 1024;
        let here = ports.iter().filter(|&&port| (low..=low + 1023).contains(&port)).count();
        ensure!((20..=130).contains(&here), "{here} of {} flows in {low}-{}", ports.len(), low + 1023);
    }
    Ok(())
}

fn fragments_share_a_port(kernel: &mut Kernel) -> Result<()> {
    let fragment = |bits, id| {
        let ip = Ipv4::new(POD.addr, B_POD, protocol::UDP, pattern(64));
        from_pod(&ip.edit(|ip| (ip.fragment, ip.id) = (bits, id)))
    };
    let later: HashSet<u16> = [MORE_FRAGMENTS, MORE_FRAGMENTS | 8, 16]
        .into_iter()
        .map(|bits| port_of(kernel, Program::FromPod, &fragment(bits, 7)))
        .collect::<Result<_>>()?;
    ensure!(later.len() == 1, "fragments of one datagram left from ports {later:?}: they may arrive out of order");
    Ok(())
}

fn socket(addr: Addr, port: u16, protocol: u8) -> DetourKey {
    DetourKey { addr, port_be: port.to_be_bytes(), protocol, pad: 0 }
}

fn detour_is_written(kernel: &mut Kernel) -> Result<()> {
    for (dst, remembered) in [(SERVICE, true), (EXTERNAL, true), (B_POD, false), (POD2.addr, false)] {
        kernel.clear_detours()?;
        kernel.run(Program::FromPod, &from_pod(&Ipv4::udp_ports(POD.addr, dst, (40_000, 53), b"x")), Skb::default())?;
        // Port 0 stands for the fragments of the answer, which carry no port.
        let expected = if remembered { [0, 40_000].map(|port| socket(POD.addr, port, protocol::UDP)).to_vec() } else { vec![] };
        let mut found = kernel.detours()?;
        found.sort_by_key(|key| key.port_be);
        ensure!(found == expected, "to {dst:?}: remembered {found:?}, must be {expected:?}");
    }
    kernel.clear_detours()
}

fn detour_is_written_for_fragments(kernel: &mut Kernel) -> Result<()> {
    kernel.clear_detours()?;
    let request = Ipv4::udp_ports(POD.addr, SERVICE, (40_000, 53), &pattern(64)).edit(|ip| ip.fragment = MORE_FRAGMENTS);
    let later = Ipv4::new(POD.addr, SERVICE, protocol::UDP, pattern(64)).edit(|ip| ip.fragment = 9);
    for ip in [request, later] {
        kernel.run(Program::FromPod, &from_pod(&ip), Skb::default())?;
    }
    let mut found = kernel.detours()?;
    found.sort_by_key(|key| key.port_be);
    let expected = [0, 40_000].map(|port| socket(POD.addr, port, protocol::UDP));
    ensure!(found == expected, "remembered {found:?}, must be {expected:?}: the answer would skip the un-rewriting");
    kernel.clear_detours()
}

fn egress_is_noted(kernel: &mut Kernel) -> Result<()> {
    let packet = |source, destination, port| Eth::ipv4(G_MAC, A_MAC).frame(&Ipv4::udp_ports(source, destination, (port, 53), b"x").bytes());
    // What `from_pod` says about a packet it forwards is what `to_underlay` hears.
    let forwarded = kernel.run(Program::FromPod, &from_pod(&Ipv4::udp_ports(POD.addr, G_POD, (40_000, 53), b"x")), Skb::default())?;
    ensure!(forwarded.moved.flows.iter().any(|(flow, ..)| *flow == Flow::PodDirect), "not forwarded: {}", forwarded.moved);
    let by_us = Skb { control: forwarded.control, ..Skb::default() };
    let cases = [
        ("the stack's, of a pod to a neighbour's", packet(POD.addr, G_POD, 40_001), Skb::default(), true),
        ("a program's", forwarded.frame, by_us, false),
        ("the stack's, of a pod to the outside", packet(POD.addr, EXTERNAL, 40_001), Skb::default(), false),
        ("the stack's, of the host", packet(A_GATEWAY, G_POD, 40_001), Skb::default(), false),
        ("a tunnel packet", tunnel(&Ipv4::udp_ports(POD.addr, B_POD, (40_001, 53), b"x")).bytes(), Skb::default(), false),
        ("no packet of IPv4", Eth::ipv4(G_MAC, A_MAC).frame(&[0x60; 40]), Skb::default(), false),
    ];
    for (name, frame, skb, remembered) in cases {
        kernel.clear_detours()?;
        let ran = kernel.run(Program::ToUnderlay, &frame, skb)?;
        ensure!(ran.verdict == TC_NEXT && ran.frame == frame, "{name}: verdict {}, or changed:\n{}", ran.verdict, hex(&ran.frame));
        ensure!(ran.moved == Moved::default(), "{name}: counted {}", ran.moved);
        let mut found = kernel.detours()?;
        found.sort_by_key(|key| key.port_be);
        let expected = if remembered { [0, 40_001].map(|port| socket(POD.addr, port, protocol::UDP)).to_vec() } else { vec![] };
        ensure!(found == expected, "{name}: remembered {found:?}, must be {expected:?}");
    }
    kernel.clear_detours()
}

fn detour_is_read(kernel: &mut Kernel) -> Result<()> {
    // The reply of B's pod to a socket whose first packet went to a service address.
    let reply = Ipv4::udp_ports(B_POD, POD.addr, (53, 40_000), b"reply");
    let cases = [
        ("the remembered socket", socket(POD.addr, 40_000, protocol::UDP), true),
        ("another port", socket(POD.addr, 40_001, protocol::UDP), false),
        ("another protocol", socket(POD.addr, 40_000, protocol::TCP), false),
        ("another pod", socket(POD2.addr, 40_000, protocol::UDP), false),
        ("the peer's port", socket(POD.addr, 53, protocol::UDP), false),
    ];
    let ways = [(Program::UnderlayXdp, receive::XDP), (Program::UnderlayXdp, receive::XDP_REDIRECT), (Program::UnderlayTc, receive::TC)];
    for (program, mode) in ways {
        kernel.settings(&Settings { receive_mode: mode, ..world::settings() })?;
        for (name, key, by_stack) in &cases {
            kernel.clear_detours()?;
            kernel.add_detour(*key)?;
            let expect = if *by_stack { Expect::ToHost(reply.bytes()) } else { Expect::ToPod(at_pod(POD, &reply)) };
            let case = Case::new("D27", *name, tunnel(&reply).bytes(), expect);
            let ran = kernel.run(program, &case.packet, case.skb)?;
            check(program, &case, &ran).with_context(|| format!("{} remembers {name}", program.name()))?;

            // An error about what that socket sent takes the same way: the stack has rewritten what it quotes.
            let sent = Ipv4::udp_ports(POD.addr, B_POD, (40_000, 53), b"request").bytes();
            let error = Ipv4::new(B_POD, POD.addr, protocol::ICMP, icmp_error(3, 3, &sent));
            let expect = if *by_stack { Expect::ToHost(error.bytes()) } else { Expect::ToPod(at_pod(POD, &error)) };
            let case = Case::new("D34", *name, tunnel(&error).bytes(), expect);
            let ran = kernel.run(program, &case.packet, case.skb)?;
            check(program, &case, &ran).with_context(|| format!("{} remembers {name}, of an ICMP error", program.name()))?;
        }
    }
    kernel.clear_detours()
}

fn nothing_before_settings(kernel: &mut Kernel) -> Result<()> {
    kernel.settings(&Settings { abi_version: 0, ..world::settings() })?;
    let frames = [
        (Program::UnderlayXdp, tunnel(&from_b()).bytes()),
        (Program::UnderlayTc, tunnel(&from_b()).bytes()),
        (Program::FromPod, from_pod(&Ipv4::udp(POD.addr, B_POD, b"x"))),
        (Program::FromPod, from_pod(&Ipv4::udp(EXTERNAL, B_POD, b"x"))),
        (Program::FromHost, Eth::ipv4(A_VTEP, A_VTEP).frame(&Ipv4::udp(A_GATEWAY, B_POD, b"x").bytes())),
        (Program::FromOverlay, Eth::ipv4(A_VTEP, A_VTEP).frame(&from_b().bytes())),
    ];
    let outcome = frames.iter().try_for_each(|(program, frame)| unnoticed(kernel, *program, frame));
    kernel.settings(&world::settings())?;
    outcome
}

fn kernel_mode(kernel: &mut Kernel) -> Result<()> {
    kernel.settings(&Settings { receive_mode: receive::KERNEL, ..world::settings() })?;
    let good = tunnel(&from_b());
    let outcome = kernel_mode_marks(kernel, &good.bytes()).and_then(|()| {
        let stranger = good.edit(|t| t.ip.src = STRANGER).bytes();
        let case = Case::new("D12", "", stranger, Expect::Drop(DropReason::OuterSourceUnknown));
        check(Program::UnderlayTc, &case, &kernel.run(Program::UnderlayTc, &case.packet, case.skb)?)
    });
    kernel.settings(&world::settings())?;
    outcome
}

/// What the kernel's vxlan device may open goes on as it came, with a mark that tells `from_overlay` so.
fn kernel_mode_marks(kernel: &mut Kernel, frame: &[u8]) -> Result<()> {
    let ran = kernel.run(Program::UnderlayTc, frame, Skb::default())?;
    ensure!(ran.mark != 0, "no mark");
    check(Program::UnderlayTc, &Case::new("D0", "", frame.to_vec(), Expect::NotOurs), &ran)
}

fn super_packets(kernel: &mut Kernel) -> Result<()> {
    let skb = |gso_size| Skb { gso_size, ..Skb::default() };
    // Segments of UDP, 1000 bytes of payload each: the kernel's own device splits these right (see `receive.rs`).
    let udp = tunnel(&Ipv4::udp(B_POD, POD.addr, &pattern(3000))).bytes();
    kernel.settings(&Settings { receive_mode: receive::TC, ..world::settings() })?;
    let ran = kernel.run(Program::UnderlayTc, &udp, skb(1000))?;
    ensure!(ran.mark != 0 && ran.verdict == TC_NEXT && ran.moved.nothing(), "UDP: verdict {}; {}", ran.verdict, ran.moved);
    ensure!(ran.frame == udp, "UDP: changed");
    // Segments of TCP that do not fit the tunnel with their headers: 20 of IP, 20 of TCP.
    let mut tcp = vec![0; 20];
    tcp[12] = 5 << 4;
    tcp.extend(pattern(3000));
    let frame = from_pod(&Ipv4::new(POD.addr, B_POD, protocol::TCP, tcp));
    let expect = Case::new("E6", "", frame, Expect::ToStack(Flow::PodTooBig));
    let too_big = u32::try_from(world::MTU - 40 + 1)?;
    check(Program::FromPod, &expect, &kernel.run(Program::FromPod, &expect.packet, skb(too_big))?).context("TCP, one byte over")?;
    let ran = kernel.run(Program::FromPod, &expect.packet, skb(too_big - 1))?;
    ensure!(ran.moved.flows.iter().all(|(flow, ..)| *flow != Flow::PodTooBig), "TCP that fits: {}", ran.moved);
    Ok(())
}

/// `frame` must go on to the stack as it came, and no counter may move.
fn unnoticed(kernel: &mut Kernel, program: Program, frame: &[u8]) -> Result<()> {
    let case = Case::new("D0", "", frame.to_vec(), Expect::NotOurs);
    let ran = kernel.run(program, frame, Skb::default())?;
    check(program, &case, &ran).with_context(|| program.name())
}

fn host_bound_passes_the_overlay_device(kernel: &mut Kernel) -> Result<()> {
    // Handed up by underlay_tc, a packet carries no tunnel metadata: the kernel's vxlan device did not open it.
    unnoticed(kernel, Program::FromOverlay, &Eth::ipv4(A_VTEP, A_VTEP).frame(&from_b().bytes()))
}

fn metadata_names_the_link(kernel: &mut Kernel) -> Result<()> {
    let expected = [(from_b(), POD.ifindex), (Ipv4::udp(B_POD, POD2.addr, b"x"), POD2.ifindex)];
    for (inner, ifindex) in expected {
        let ran = kernel.run(Program::UnderlayXdp, &tunnel(&inner).bytes(), Skb::default())?;
        ensure!(ran.verdict == XDP_PASS, "verdict {}; {}", ran.verdict, ran.moved);
        ensure!(ran.meta.len() == 8, "metadata of {} bytes:\n{}", ran.meta.len(), hex(&ran.meta));
        ensure!(ran.meta[4..] == ifindex.to_ne_bytes(), "metadata must name link {ifindex}:\n{}", hex(&ran.meta));
    }
    Ok(())
}

fn deleted_node_is_a_stranger(kernel: &mut Kernel) -> Result<()> {
    kernel.node(B, None)?;
    let outcome = [Program::UnderlayXdp, Program::UnderlayTc].into_iter().try_for_each(|program| {
        let case = Case::new("D12", "", tunnel(&from_b()).bytes(), Expect::Drop(DropReason::OuterSourceUnknown));
        let ran = kernel.run(program, &case.packet, case.skb)?;
        check(program, &case, &ran).with_context(|| program.name())
    });
    restore_b(kernel)?;
    outcome
}

fn longest_prefix_wins(kernel: &mut Kernel) -> Result<()> {
    // B has all of 10.244.2.0/24 but the eight addresses around its pod's, which are C's; and D has everything around both.
    let (inside, around) = (SubnetKey::of(B_POD, 29), SubnetKey::of(B_POD, 9));
    let ask = |kernel: &mut Kernel, lens: &[u32], expected: Addr| {
        let subnet_lens = lens.iter().fold(0, |lens, len| lens | 1 << len);
        kernel.settings(&Settings { subnet_lens, ..world::settings() })?;
        let ran = kernel.run(Program::FromPod, &from_pod(&Ipv4::udp(POD.addr, B_POD, b"x")), Skb::default())?;
        let outer = ran.frame.get(30..34).context("no outer header")?;
        ensure!(outer == expected, "with prefixes of {lens:?} bits it went to {outer:?}, not {expected:?}; {}", ran.moved);
        Ok(())
    };
    kernel.subnet(inside, Some(world::subnet(C)))?;
    kernel.subnet(around, Some(world::subnet(D)))?;
    let outcome = ask(kernel, &[29, 24, 9], C)
        .and_then(|()| ask(kernel, &[24, 9], B))
        .and_then(|()| ask(kernel, &[9], D))
        .and_then(|()| ask(kernel, &[30, 29, 8, 1], C));
    kernel.subnet(inside, None)?;
    kernel.subnet(around, None)?;
    kernel.settings(&world::settings())?;
    outcome
}

fn node_without_a_way_is_no_node(kernel: &mut Kernel) -> Result<()> {
    let key = SubnetKey::of(B_POD, 24);
    kernel.subnet(key, Some(Subnet { reach: reach::NONE, ..world::subnet(B) }))?;
    let frame = from_pod(&Ipv4::udp(POD.addr, B_POD, b"x"));
    let ran = kernel.run(Program::FromPod, &frame, Skb::default());
    kernel.subnet(key, Some(world::subnet(B)))?;
    let case = Case::new("E3", "", frame, Expect::Drop(DropReason::NoNode));
    check(Program::FromPod, &case, &ran?)
}

fn restore_b(kernel: &mut Kernel) -> Result<()> {
    let (addr, node) = world::nodes().into_iter().find(|(addr, _)| *addr == B).context("B is a node")?;
    kernel.node(addr, Some(node))
}
