//! The contract, byte for byte: what the kernel programs read is what the agent wrote.

use overlay_common::abi::{DetourKey, MAX_SUBNET_LEN, Node, Settings, Subnet, SubnetKey, map, program, reach, receive};
use overlay_common::counters::{Counters, Flow};
use overlay_common::reason::{DropReason, Drops};
use std::collections::BTreeSet;
use zerocopy::IntoBytes as _;

#[test]
fn a_subnet_is_laid_out_as_documented() {
    let subnet = Subnet {
        node: [9; 4],
        vtep_mac: [1; 6],
        next_hop_mac: [2; 6],
        local_mac: [3; 6],
        mtu: 0x0908,
        source: [4; 4],
        next_hop: [5; 4],
        ifindex: 6,
        reach: reach::ENCAP,
        node_mac: [10; 6],
        pad: [0; 2],
    };
    let expected: Vec<u8> = [
        vec![9; 4],
        vec![1; 6],
        vec![2; 6],
        vec![3; 6],
        0x0908_u16.to_ne_bytes().to_vec(),
        vec![4; 4],
        vec![5; 4],
        vec![6, 0, 0, 0],
        vec![1, 0, 0, 0],
        vec![10; 6],
        vec![0; 2],
    ]
    .concat();
    assert_eq!(subnet.as_bytes(), expected);
    assert_eq!(Node { pod_net: [7; 4], pod_mask: [8; 4], reach: reach::DIRECT }.as_bytes(), [7, 7, 7, 7, 8, 8, 8, 8, 2, 0, 0, 0]);
}

#[test]
fn settings_are_laid_out_as_documented() {
    let settings = Settings {
        abi_version: 1,
        vni: 2,
        port: 3,
        receive_mode: receive::KERNEL,
        mtu: 5,
        overlay_ifindex: 6,
        underlay_ifindex: 7,
        address: [8; 4],
        pod_net: [9; 4],
        pod_mask: [10; 4],
        gateway: [11; 4],
        vtep_mac: [12; 6],
        underlay_mac: [13; 6],
        subnet_lens: 14,
    };
    let numbers = [1_u32, 2, 3, 3, 5, 6, 7].map(u32::to_ne_bytes).concat();
    let expected =
        [numbers, vec![8; 4], vec![9; 4], vec![10; 4], vec![11; 4], vec![12; 6], vec![13; 6], 14_u32.to_ne_bytes().to_vec()].concat();
    assert_eq!(settings.as_bytes(), expected);
}

#[test]
fn keys_are_laid_out_as_documented() {
    assert_eq!(SubnetKey { prefix_len: 24, addr: [10, 244, 1, 0] }.as_bytes(), [24, 0, 0, 0, 10, 244, 1, 0]);
    assert_eq!(SubnetKey::of([10, 244, 1, 77], 24), SubnetKey { prefix_len: 24, addr: [10, 244, 1, 0] });
    assert_eq!(SubnetKey::of([255; 4], 1).addr, [128, 0, 0, 0]);
    assert_eq!(SubnetKey::of([255; 4], MAX_SUBNET_LEN).addr, [255, 255, 255, 252]);
    assert_eq!(
        DetourKey { addr: [10, 244, 1, 5], port_be: [0x1f, 0x90], protocol: 6, pad: 0 }.as_bytes(),
        [10, 244, 1, 5, 0x1f, 0x90, 6, 0]
    );
}

#[test]
fn map_and_program_names_fit_the_kernel() {
    for name in map::ALL.iter().chain(&program::ALL) {
        assert!(name.len() <= 15, "{name} would be cut");
    }
}

#[test]
fn drop_reasons_keep_their_numbers_and_have_names_of_their_own() {
    assert_eq!(DropReason::Short as u32, 0);
    assert_eq!(DropReason::InnerSourceMismatch as u32, 16);
    assert_eq!(DropReason::Helper as u32, 32);
    let names: BTreeSet<&str> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(names.len(), DropReason::ALL.len());
}

#[test]
fn every_counter_has_its_slot() {
    assert_eq!(size_of::<Drops>(), DropReason::ALL.len() * 8);
    assert_eq!(size_of::<Counters>(), (Flow::ALL.len() * 2 + DropReason::ALL.len()) * 8);
    let drops = Drops { inner_src_mismatch: 7, ..Drops::default() };
    assert_eq!(drops.as_bytes()[DropReason::InnerSourceMismatch as usize * 8], 7);
    assert_eq!(Flow::PodEncap.name(), "pod_encap");
}
