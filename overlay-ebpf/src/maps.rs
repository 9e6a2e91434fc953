//! Every map, one line of purpose each. The types and what their fields mean are in `overlay_common::abi`.
//!
//! BTF maps, so that `bpftool map dump` prints field names. Pinned by the agent: BTF map definitions have no pinning attribute.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, DevMapHash, HashMap, LpmTrie, LruHashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use overlay_common::abi::{Detour, DetourKey, Ipv4, MAX_DETOURS, MAX_NODES, MAX_PODS, Node, Pod, Settings, Subnet, Veth};
use overlay_common::counters::Counters;

/// This node: addresses, VNI, port, switches.
#[btf_map]
pub(crate) static SETTINGS: Array<Settings, 1> = Array::new();

/// Which node has this pod address?
#[btf_map]
pub(crate) static SUBNETS: LpmTrie<Ipv4, Subnet, { MAX_NODES as usize }> = LpmTrie::new();

/// How is this node reached, and what may it send?
#[btf_map]
pub(crate) static NODES: HashMap<Ipv4, Node, { MAX_NODES as usize }> = HashMap::new();

/// Where is this pod of our own?
#[btf_map]
pub(crate) static PODS: HashMap<Ipv4, Pod, { MAX_PODS as usize }> = HashMap::new();

/// What may the pod behind this veth send?
#[btf_map]
pub(crate) static VETHS: HashMap<u32, Veth, { MAX_PODS as usize }> = HashMap::new();

/// May XDP send frames out of this veth?
#[btf_map]
pub(crate) static XDP_VETHS: DevMapHash<{ MAX_PODS as usize }> = DevMapHash::new();

/// Do packets to this pod socket have to take the host stack?
#[btf_map]
pub(crate) static DETOUR: LruHashMap<DetourKey, Detour, { MAX_DETOURS as usize }> = LruHashMap::new();

/// What happened to the packets this CPU saw?
#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<Counters, 1> = PerCpuArray::new();

/// The settings, once the agent has written them.
#[inline(always)]
pub(crate) fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0).filter(|settings| settings.abi_version == overlay_common::abi::ABI_VERSION)
}

/// The node that has `address`.
#[inline(always)]
pub(crate) fn subnet(address: Ipv4) -> Option<&'static Subnet> {
    SUBNETS.get(&Key::new(32, address))
}

/// The node at `address`.
#[inline(always)]
pub(crate) fn node(address: Ipv4) -> Option<&'static Node> {
    // SAFETY: programs never remove entries. An update from user space puts a new element in place of the old one; a slot freed that
    // way may be filled again while this program still reads it, so that one packet may see another entry's bytes, never foreign memory.
    unsafe { NODES.get(address) }
}

/// The pod of this node that has `address`.
#[inline(always)]
pub(crate) fn pod(address: Ipv4) -> Option<&'static Pod> {
    // SAFETY: as for `node`.
    unsafe { PODS.get(address) }
}

/// What the pod behind the veth `ifindex` may send.
#[inline(always)]
pub(crate) fn veth(ifindex: u32) -> Option<&'static Veth> {
    // SAFETY: as for `node`.
    unsafe { VETHS.get(ifindex) }
}

/// Has the kernel send the frame at hand out of the host-side veth `ifindex` when the program returns `XDP_REDIRECT`, whatever is done to
/// the frame until then. `false`: the veth takes no XDP frames.
#[inline(always)]
pub(crate) fn redirect_xdp(ifindex: u32) -> bool {
    XDP_VETHS.redirect(ifindex, u64::from(xdp_action::XDP_PASS)).is_ok()
}
