//! The packet code on the host: against packets captured from the kernel's own vxlan device, against its own inverse, and against
//! arbitrary bytes. The same code runs in the kernel; there it is tested with `BPF_PROG_TEST_RUN`.

use overlay_common::abi::{ABI_VERSION, Node, Settings, Subnet, reach, receive};
use overlay_common::packet::Packet as _;
use overlay_common::parse::{self, INNER_OFFSET, Tunnel};
use overlay_common::reason::DropReason;
use overlay_common::wire::{ETHERNET_LEN, EthernetHeader, IPV4_LEN, Ipv4Header, PROTOCOL_UDP, TunnelHeaders};
use overlay_common::{checksum, ecn, encap};
use proptest::prelude::*;
use zerocopy::IntoBytes as _;

/// An ICMP echo request in VXLAN, as Linux 6.18's vxlan device sent it (`tcpdump -xx`).
const CAPTURED_PING: &str = "
    36d0 af5a 9ac9 c6da 3ef7 87ef 0800 4500 0086 a72f 0000 4011 edcf c0a8 320b c0a8
    320c a2c4 2118 0072 42be 0800 0000 0000 0100 0e4f c0a8 320c 0e4f c0a8 320b 0800
    4500 0054 c387 4000 4001 5e3a 0af4 0100 0af4 0200 0800 441e 0020 0001 402c 046b
    0000 0000 ab56 0500 0000 0000 1011 1213 1415 1617 1819 1a1b 1c1d 1e1f 2021 2223
    2425 2627 2829 2a2b 2c2d 2e2f 3031 3233 3435 3637";

/// A TCP SYN in VXLAN from the same device.
const CAPTURED_SYN: &str = "
    36d0 af5a 9ac9 c6da 3ef7 87ef 0800 4500 006e a7d8 0000 4011 ed3e c0a8 320b c0a8
    320c b332 2118 005a 4b96 0800 0000 0000 0100 0e4f c0a8 320c 0e4f c0a8 320b 0800
    4500 003c ffb0 4000 4006 2224 0af4 0100 0af4 0200 b3fe 0050 09ea 8718 0000 0000
    a002 fd5c 5f4c 0000 0204 0582 0402 080a 31f3 5b5a 0000 0000 0103 030a";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| u8::try_from(digit).unwrap()).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// The receiver of the captured packets.
fn settings() -> Settings {
    Settings {
        abi_version: ABI_VERSION,
        vni: 1,
        port: 8472,
        receive_mode: receive::TC,
        mtu: 1450,
        overlay_ifindex: 3,
        underlay_ifindex: 2,
        address: [192, 168, 50, 12],
        pod_net: [10, 244, 2, 0],
        pod_mask: [255, 255, 255, 0],
        gateway: [10, 244, 2, 1],
        vtep_mac: [0x0e, 0x4f, 192, 168, 50, 12],
        underlay_mac: [0x36, 0xd0, 0xaf, 0x5a, 0x9a, 0xc9],
        subnet_lens: 0,
    }
}

/// The receiver as its peer sees it.
fn receiver() -> Subnet {
    Subnet {
        node: settings().address,
        vtep_mac: settings().vtep_mac,
        next_hop_mac: settings().underlay_mac,
        local_mac: [0xc6, 0xda, 0x3e, 0xf7, 0x87, 0xef],
        mtu: 1450,
        source: [192, 168, 50, 11],
        next_hop: settings().address,
        ifindex: 2,
        reach: reach::ENCAP,
        node_mac: settings().underlay_mac,
        pad: [0; 2],
    }
}

/// The sender as the receiver sees it.
fn sender() -> Node {
    Node { pod_net: [10, 244, 1, 0], pod_mask: [255, 255, 255, 0], reach: reach::ENCAP }
}

fn accept(frame: &[u8]) -> Result<(Tunnel, parse::Datagram), Option<DropReason>> {
    let settings = settings();
    let tunnel = parse::outer(frame, &settings)?.ok_or(None)?;
    let datagram = parse::inner(frame, INNER_OFFSET, tunnel.end, settings.vtep_mac)?;
    datagram.check_source(tunnel.source, &sender())?;
    Ok((tunnel, datagram))
}

#[test]
fn accepts_what_the_kernel_sends() {
    for (capture, destination, total_len) in [(CAPTURED_PING, [10, 244, 2, 0], 84), (CAPTURED_SYN, [10, 244, 2, 0], 60)] {
        let frame = bytes(capture);
        let (tunnel, datagram) = accept(&frame).unwrap();
        assert_eq!(tunnel, Tunnel { source: [192, 168, 50, 11], ecn: 0, end: frame.len() });
        assert_eq!(datagram.header.destination, destination);
        assert_eq!(datagram.header.total_len.get(), total_len);
        assert_eq!(datagram.end(), frame.len());
    }
}

#[test]
fn computes_the_checksums_the_kernel_computed() {
    for capture in [CAPTURED_PING, CAPTURED_SYN] {
        let frame = bytes(capture);
        for offset in [ETHERNET_LEN, INNER_OFFSET + ETHERNET_LEN] {
            let header: Ipv4Header = frame.as_slice().read(offset).unwrap();
            let without = Ipv4Header { checksum: 0.into(), ..header };
            assert_eq!(checksum::of(&without), header.checksum.get());
            assert_eq!(checksum::fold(checksum::sum(&header)), 0xffff);
        }
    }
}

#[test]
fn builds_the_headers_the_kernel_built_but_for_four_choices() {
    let frame = bytes(CAPTURED_PING);
    let theirs: TunnelHeaders = frame.as_slice().read(0).unwrap();
    let sender_settings = Settings { vtep_mac: [0x0e, 0x4f, 192, 168, 50, 11], ..settings() };
    let ours = encap::headers(&sender_settings, &receiver(), 84, 0, 0).unwrap();
    assert_eq!(ours.ethernet, theirs.ethernet);
    assert_eq!(ours.vxlan, theirs.vxlan);
    assert_eq!(ours.inner_ethernet, theirs.inner_ethernet);
    assert_eq!((ours.ip.source, ours.ip.destination, ours.ip.total_len), (theirs.ip.source, theirs.ip.destination, theirs.ip.total_len));
    assert_eq!((ours.udp.destination_port, ours.udp.len), (theirs.udp.destination_port, theirs.udp.len));
    // The four: DF instead of an identification, our own range of source ports, no UDP checksum; and so another header checksum.
    assert_eq!(ours.ip.flags_fragment.get(), Ipv4Header::DONT_FRAGMENT);
    assert_eq!(ours.ip.identification.get(), 0);
    assert!(ours.udp.source_port.get() >= encap::FIRST_SOURCE_PORT);
    assert_eq!(ours.udp.checksum.get(), 0);
}

#[test]
fn refuses_outer_packets_that_would_not_fit_the_length_field() {
    assert!(encap::headers(&settings(), &receiver(), u16::MAX - 50, 0, 0).is_some());
    assert!(encap::headers(&settings(), &receiver(), u16::MAX - 49, 0, 0).is_none());
}

#[test]
fn source_ports_stay_in_their_range_and_spread() {
    let ports: std::collections::BTreeSet<u16> = (0..10_000_u32).map(|flow| encap::source_port(flow.wrapping_mul(0x9e37_79b9))).collect();
    assert!(ports.iter().all(|port| *port >= encap::FIRST_SOURCE_PORT));
    assert!(ports.len() > 7_000, "10,000 flows use only {} ports", ports.len());
}

#[test]
fn combines_ecn_as_rfc_6040_figure_4() {
    use ecn::{CE, ECT_0, ECT_1, NOT_ECT};
    // Rows: inner; columns: outer Not-ECT, ECT(0), ECT(1), CE.
    let figure = [
        (NOT_ECT, [Ok(NOT_ECT), Ok(NOT_ECT), Ok(NOT_ECT), Err(DropReason::Ecn)]),
        (ECT_0, [Ok(ECT_0), Ok(ECT_0), Ok(ECT_1), Ok(CE)]),
        (ECT_1, [Ok(ECT_1), Ok(ECT_1), Ok(ECT_1), Ok(CE)]),
        (CE, [Ok(CE), Ok(CE), Ok(CE), Ok(CE)]),
    ];
    for (inner, row) in figure {
        for (outer, expected) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
            assert_eq!(ecn::decapsulate(outer, inner), expected, "outer {outer}, inner {inner}");
        }
        assert_eq!(ecn::encapsulate(inner), inner);
    }
}

/// An inner IPv4 packet in order: options of `options` words, `payload`, any other field as given.
fn inner_packet(header: Ipv4Header, options: &[[u8; 4]], payload: &[u8]) -> Vec<u8> {
    let header_len = IPV4_LEN + options.len() * 4;
    let mut header = Ipv4Header {
        version_ihl: 0x40 | u8::try_from(header_len / 4).unwrap(),
        total_len: u16::try_from(header_len + payload.len()).unwrap().into(),
        checksum: 0.into(),
        ..header
    };
    let options_sum: u32 = options.as_flattened().chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    header.checksum = (!checksum::fold(checksum::sum(&header) + options_sum)).into();
    [header.as_bytes(), options.as_flattened(), payload].concat()
}

prop_compose! {
    fn any_header()(tos: u8, id: u16, fragment in 0_u16..0x8000, ttl in 1_u8.., protocol: u8, source: u8, destination: u8) -> Ipv4Header {
        Ipv4Header {
            version_ihl: 0x45,
            tos,
            total_len: 0.into(),
            identification: id.into(),
            flags_fragment: fragment.into(),
            ttl,
            protocol,
            checksum: 0.into(),
            source: [10, 244, 1, source],
            destination: [10, 244, 2, destination],
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn never_panics_on_any_bytes(frame in prop::collection::vec(any::<u8>(), 0..200), end: u16, offset in 0_usize..200) {
        let _outer = parse::outer(frame.as_slice(), &settings());
        let _inner = parse::inner(frame.as_slice(), offset, end.into(), [0; 6]);
        let _ip = parse::ipv4(frame.as_slice(), offset, end.into());
    }

    #[test]
    fn never_panics_and_never_accepts_too_much_when_a_good_packet_is_damaged(
        damage in prop::collection::vec((0_usize..150, any::<u8>()), 1..8), cut in 0_usize..150,
    ) {
        let mut frame = bytes(CAPTURED_PING);
        for (offset, value) in damage {
            if let Some(byte) = frame.get_mut(offset) {
                *byte = value;
            }
        }
        frame.truncate(frame.len().saturating_sub(cut % 20));
        if let Ok((tunnel, datagram)) = accept(&frame) {
            prop_assert!(tunnel.end <= frame.len());
            prop_assert!(datagram.end() <= tunnel.end);
            prop_assert!(datagram.header.header_len() >= IPV4_LEN);
        }
    }

    #[test]
    fn decapsulation_undoes_encapsulation(
        header in any_header(), options in prop::collection::vec(Just([1_u8; 4]), 0..=10), payload in prop::collection::vec(any::<u8>(), 0..300), hash: u32,
    ) {
        let inner = inner_packet(header, &options, &payload);
        let sender_settings = Settings { vtep_mac: [0x0e, 0x4f, 192, 168, 50, 11], ..settings() };
        let inner_len = u16::try_from(inner.len()).unwrap();
        let headers = encap::headers(&sender_settings, &receiver(), inner_len, header.tos, hash).unwrap();
        let frame = [headers.as_bytes(), &inner].concat();
        let (tunnel, datagram) = accept(&frame).unwrap();
        prop_assert_eq!(tunnel.source, receiver().source);
        prop_assert_eq!(&frame[datagram.offset..datagram.end()], inner.as_slice());
        prop_assert_eq!(ecn::decapsulate(tunnel.ecn, datagram.header.ecn()), Ok(header.ecn()));
    }

    #[test]
    fn forwarding_changes_ttl_ecn_and_macs_only_and_leaves_a_right_checksum(header in any_header(), code_point in 0_u8..4) {
        let packet = inner_packet(header, &[], &[1, 2, 3]);
        let before: Ipv4Header = packet.as_slice().read(0).unwrap();
        let mut frame = [&[0; ETHERNET_LEN], packet.as_slice()].concat();
        parse::forward(frame.as_mut_slice(), &before, [2; 6], [4; 6], code_point).unwrap();
        let ethernet: EthernetHeader = frame.as_slice().read(0).unwrap();
        let after: Ipv4Header = frame.as_slice().read(ETHERNET_LEN).unwrap();
        prop_assert_eq!((ethernet.destination, ethernet.source, ethernet.ethertype.get()), ([2; 6], [4; 6], 0x0800));
        prop_assert_eq!(checksum::fold(checksum::sum(&after)), 0xffff);
        prop_assert_eq!(after, Ipv4Header { ttl: before.ttl - 1, tos: before.tos & !3 | code_point, checksum: after.checksum, ..before });
    }

    #[test]
    fn an_updated_checksum_is_the_one_computed_anew(header in any_header(), old: u16, new: u16) {
        let with = |word: u16| {
            let mut header = Ipv4Header { identification: word.into(), checksum: 0.into(), ..header };
            header.checksum = checksum::of(&header).into();
            header
        };
        let updated = checksum::update(with(old).checksum.get(), old, new);
        let header = Ipv4Header { checksum: updated.into(), ..with(new) };
        prop_assert_eq!(checksum::fold(checksum::sum(&header)), 0xffff);
    }

    #[test]
    fn source_routes_are_found_wherever_they_stand(before in 0_usize..30, strict: bool) {
        let mut options = [[1_u8; 4]; 10];
        let kind = if strict { 137 } else { 131 };
        options.as_flattened_mut()[before..before + 3].copy_from_slice(&[kind, 3, 4]);
        let frame = [&[0; ETHERNET_LEN], inner_packet(Ipv4Header { protocol: PROTOCOL_UDP, ..plain() }, &options, &[]).as_slice()].concat();
        prop_assert_eq!(parse::ipv4(frame.as_slice(), ETHERNET_LEN, frame.len()), Err(parse::Malformed::SourceRoute));
    }
}

fn plain() -> Ipv4Header {
    Ipv4Header {
        version_ihl: 0x45,
        tos: 0,
        total_len: 0.into(),
        identification: 0.into(),
        flags_fragment: 0.into(),
        ttl: 64,
        protocol: 0,
        checksum: 0.into(),
        source: [10, 244, 1, 5],
        destination: [10, 244, 2, 5],
    }
}

#[test]
fn a_source_route_inside_another_option_is_none() {
    // Record route (7), 11 bytes long, whose data looks like a source route.
    let options = [[7, 11, 131, 131], [131, 137, 131, 137], [137, 131, 137, 0]];
    let frame = [&[0; ETHERNET_LEN], inner_packet(plain(), &options, &[]).as_slice()].concat();
    assert!(parse::ipv4(frame.as_slice(), ETHERNET_LEN, frame.len()).is_ok());
}
