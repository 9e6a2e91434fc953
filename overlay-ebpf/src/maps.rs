//! Every map, one line of purpose each. The types and what their fields mean are in `overlay_common::abi`.
//!
//! BTF maps, so that `bpftool map dump` prints field names. Pinned by the agent: BTF map definitions have no pinning attribute.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::{Array, DevMapHash, HashMap, LruHashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use overlay_common::abi::{
    Detour, DetourKey, Ipv4, MAX_DETOURS, MAX_NODES, MAX_PODS, MAX_SUBNET_LEN, Node, Pod, Settings, Subnet, SubnetKey, Veth,
};
use overlay_common::counters::Counters;

/// This node: addresses, VNI, port, switches.
#[btf_map]
pub(crate) static SETTINGS: Array<Settings, 1> = Array::new();

/// Entries of what grows with the cluster are allocated one by one: most clusters are small.
const GROWING: usize = BPF_F_NO_PREALLOC as usize;

/// Which node has this pod network, and how is it reached?
#[btf_map]
pub(crate) static SUBNETS: HashMap<SubnetKey, Subnet, { MAX_NODES as usize }, GROWING> = HashMap::new();

/// What may this node send?
#[btf_map]
pub(crate) static NODES: HashMap<Ipv4, Node, { MAX_NODES as usize }, GROWING> = HashMap::new();

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

/// The node that has `address` in its pod network. A cluster has pod networks of one length, seldom of more: one lookup in a hash for each
/// costs less than one in a trie that is as deep as the cluster is large (docs/adr/0006).
#[inline(always)]
pub(crate) fn subnet(settings: &Settings, address: Ipv4) -> Option<&'static Subnet> {
    for len in (1..=MAX_SUBNET_LEN).rev() {
        if settings.subnet_lens >> len & 1 == 1 {
            // SAFETY: as for `node`.
            let found = unsafe { SUBNETS.get(SubnetKey::of(address, len)) };
            if found.is_some() {
                return found;
            }
        }
    }
    None
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
