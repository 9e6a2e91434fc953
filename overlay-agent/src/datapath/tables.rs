//! Typed access to the pinned maps. Keys and values cross as bytes through `zerocopy`, so that nothing here is `unsafe`.
//!
//! Opening compares type, key size, value size and number of entries with what this agent expects: aya 0.14 does not, and a smaller
//! buffer of ours would be overrun by the kernel.

use super::{DatapathError, Fill, PinDir};
use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo, MapType, PerCpuArray};
use ipnet::Ipv4Net;
use overlay_common::abi::{self, map};
use overlay_common::counters::Counters;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;
use zerocopy::transmute;

/// Layout of a map: what must agree before a pin is used.
struct Layout {
    name: &'static str,
    map_type: MapType,
    key: usize,
    value: usize,
    entries: u32,
}

/// Every map's layout.
const LAYOUTS: [Layout; 8] = [
    Layout { name: map::SETTINGS, map_type: MapType::Array, key: 4, value: size_of::<abi::Settings>(), entries: 1 },
    Layout {
        name: map::SUBNETS,
        map_type: MapType::Hash,
        key: size_of::<abi::SubnetKey>(),
        value: size_of::<abi::Subnet>(),
        entries: abi::MAX_NODES,
    },
    Layout { name: map::NODES, map_type: MapType::Hash, key: 4, value: size_of::<abi::Node>(), entries: abi::MAX_NODES },
    Layout { name: map::PODS, map_type: MapType::Hash, key: 4, value: size_of::<abi::Pod>(), entries: abi::MAX_PODS },
    Layout { name: map::VETHS, map_type: MapType::Hash, key: 4, value: size_of::<abi::Veth>(), entries: abi::MAX_PODS },
    // `struct bpf_devmap_val` since Linux 5.8.
    Layout { name: map::XDP_VETHS, map_type: MapType::DevMapHash, key: 4, value: 8, entries: abi::MAX_PODS },
    Layout {
        name: map::DETOUR,
        map_type: MapType::LruHash,
        key: size_of::<abi::DetourKey>(),
        value: size_of::<abi::Detour>(),
        entries: abi::MAX_DETOURS,
    },
    Layout { name: map::COUNTERS, map_type: MapType::PerCpuArray, key: 4, value: size_of::<Counters>(), entries: 1 },
];

impl Layout {
    /// Compares the pin at `path`, if there is one, with this layout.
    fn check(&self, path: &Path) -> Result<(), DatapathError> {
        if !path.exists() {
            return Ok(());
        }
        let failed = |source| DatapathError::Map { name: self.name, source };
        let info = MapInfo::from_pin(path).map_err(failed)?;
        let map_type = info.map_type().map_err(failed)?;
        let difference = if map_type != self.map_type {
            format!("type {map_type:?}, not {:?}", self.map_type)
        } else if info.key_size() as usize != self.key {
            format!("keys of {} bytes, not {}", info.key_size(), self.key)
        } else if info.value_size() as usize != self.value {
            format!("values of {} bytes, not {}", info.value_size(), self.value)
        } else if info.max_entries() != self.entries {
            format!("{} entries, not {}", info.max_entries(), self.entries)
        } else {
            return Ok(());
        };
        Err(DatapathError::Incompatible { path: path.to_owned(), difference })
    }
}

/// Compares every map that is pinned already with what this agent expects.
pub(super) fn check_pins(pins: &PinDir) -> Result<(), DatapathError> {
    LAYOUTS.iter().try_for_each(|layout| layout.check(&pins.map(layout.name)))
}

type SubnetKeyBytes = [u8; size_of::<abi::SubnetKey>()];
type SubnetBytes = [u8; size_of::<abi::Subnet>()];
type NodeBytes = [u8; size_of::<abi::Node>()];
type PodBytes = [u8; size_of::<abi::Pod>()];
type VethBytes = [u8; size_of::<abi::Veth>()];
type SettingsBytes = [u8; size_of::<abi::Settings>()];
type CountersBytes = [u8; size_of::<Counters>()];
/// `struct bpf_devmap_val` (include/uapi/linux/bpf.h): a device, and no program behind it. A map of devices is read and written as a hash:
/// aya's own type for it first asks the kernel what such a value may hold, by making maps and programs, which costs each `overlay-cni` more
/// than all it has to write.
type DevmapValue = [u32; 2];
/// Every counter is a `u64`.
type CounterWords = [u64; size_of::<Counters>() / 8];

/// Handles on the pinned maps of one node.
pub struct Tables {
    settings: Array<MapData, SettingsBytes>,
    subnets: HashMap<MapData, SubnetKeyBytes, SubnetBytes>,
    nodes: HashMap<MapData, abi::Ipv4, NodeBytes>,
    pods: HashMap<MapData, abi::Ipv4, PodBytes>,
    veths: HashMap<MapData, u32, VethBytes>,
    xdp_veths: HashMap<MapData, u32, DevmapValue>,
    counters: PerCpuArray<MapData, CountersBytes>,
}

/// Adds the map's name to an error.
fn named<T>(name: &'static str, result: Result<T, MapError>) -> Result<T, DatapathError> {
    result.map_err(|source| DatapathError::Map { name, source })
}

/// Removing what is not there is no error.
fn ignore_absent(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(nix::libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn subnet_key(net: Ipv4Net) -> SubnetKeyBytes {
    transmute!(abi::SubnetKey { prefix_len: net.prefix_len().into(), addr: net.network().octets() })
}

/// Looking up what is not there is no error.
fn found<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Tables {
    /// Opens the maps pinned by the agent.
    ///
    /// # Errors
    /// [`DatapathError::Map`] when a pin is missing (the agent has not run on this node), [`DatapathError::Incompatible`] when its layout
    /// is another.
    pub fn open(pins: &PinDir) -> Result<Self, DatapathError> {
        check_pins(pins)?;
        let open = |name| named(name, MapData::from_pin(pins.map(name)).and_then(Map::from_map_data));
        Ok(Self {
            settings: named(map::SETTINGS, open(map::SETTINGS)?.try_into())?,
            subnets: named(map::SUBNETS, open(map::SUBNETS)?.try_into())?,
            nodes: named(map::NODES, open(map::NODES)?.try_into())?,
            pods: named(map::PODS, open(map::PODS)?.try_into())?,
            veths: named(map::VETHS, open(map::VETHS)?.try_into())?,
            xdp_veths: named(map::XDP_VETHS, MapData::from_pin(pins.map(map::XDP_VETHS)).and_then(|map| Map::HashMap(map).try_into()))?,
            counters: named(map::COUNTERS, open(map::COUNTERS)?.try_into())?,
        })
    }

    /// Opens the maps pinned by the agent, if it has pinned them all.
    ///
    /// # Errors
    /// As [`Self::open`], but for missing pins.
    pub fn open_existing(pins: &PinDir) -> Result<Option<Self>, DatapathError> {
        if map::ALL.iter().all(|name| pins.map(name).exists()) { Self::open(pins).map(Some) } else { Ok(None) }
    }

    /// The settings; all zero when they were never written.
    ///
    /// # Errors
    /// [`DatapathError::Map`]; the same for every method below.
    pub fn settings(&self) -> Result<abi::Settings, DatapathError> {
        named(map::SETTINGS, self.settings.get(&0, 0)).map(|bytes| transmute!(bytes))
    }

    /// Replaces the settings.
    pub fn put_settings(&mut self, settings: &abi::Settings) -> Result<(), DatapathError> {
        let bytes: SettingsBytes = transmute!(*settings);
        named(map::SETTINGS, self.settings.set(0, bytes, 0))
    }

    /// Which node has which pod network, and how it is reached.
    pub fn subnets(&self) -> Result<BTreeMap<Ipv4Net, abi::Subnet>, DatapathError> {
        self.subnets
            .iter()
            .map(|entry| {
                let (key, bytes) = named(map::SUBNETS, entry)?;
                let key: abi::SubnetKey = transmute!(key);
                let net = u8::try_from(key.prefix_len).ok().and_then(|len| Ipv4Net::new(key.addr.into(), len).ok());
                let net = net.ok_or(DatapathError::Map {
                    name: map::SUBNETS,
                    source: MapError::InvalidKeySize { size: key.prefix_len as usize, expected: 32 },
                })?;
                Ok((net, transmute!(bytes)))
            })
            .collect()
    }

    /// Which node has exactly this pod network.
    pub fn subnet(&self, net: Ipv4Net) -> Result<Option<abi::Subnet>, DatapathError> {
        named(map::SUBNETS, found(self.subnets.get(&subnet_key(net), 0))).map(|bytes| bytes.map(|bytes| transmute!(bytes)))
    }

    /// Adds or replaces a pod network, in one update: no program sees half of it.
    pub fn put_subnet(&mut self, net: Ipv4Net, subnet: &abi::Subnet) -> Result<(), DatapathError> {
        let bytes: SubnetBytes = transmute!(*subnet);
        named(map::SUBNETS, self.subnets.insert(subnet_key(net), bytes, 0))
    }

    /// Removes a pod network; an absent one is no error.
    pub fn remove_subnet(&mut self, net: Ipv4Net) -> Result<(), DatapathError> {
        named(map::SUBNETS, ignore_absent(self.subnets.remove(&subnet_key(net))))
    }

    /// Every node.
    pub fn nodes(&self) -> Result<BTreeMap<Ipv4Addr, abi::Node>, DatapathError> {
        self.nodes.iter().map(|entry| named(map::NODES, entry).map(|(key, bytes)| (key.into(), transmute!(bytes)))).collect()
    }

    /// Adds or replaces a node, in one update: no program sees half of it.
    pub fn put_node(&mut self, address: Ipv4Addr, node: &abi::Node) -> Result<(), DatapathError> {
        let bytes: NodeBytes = transmute!(*node);
        named(map::NODES, self.nodes.insert(address.octets(), bytes, 0))
    }

    /// Removes a node; an absent one is no error.
    pub fn remove_node(&mut self, address: Ipv4Addr) -> Result<(), DatapathError> {
        named(map::NODES, ignore_absent(self.nodes.remove(&address.octets())))
    }

    /// Every pod of this node.
    pub fn pods(&self) -> Result<BTreeMap<Ipv4Addr, abi::Pod>, DatapathError> {
        self.pods.iter().map(|entry| named(map::PODS, entry).map(|(key, bytes)| (key.into(), transmute!(bytes)))).collect()
    }

    /// The pod that has this address.
    pub fn pod(&self, address: Ipv4Addr) -> Result<Option<abi::Pod>, DatapathError> {
        named(map::PODS, found(self.pods.get(&address.octets(), 0))).map(|bytes| bytes.map(|bytes| transmute!(bytes)))
    }

    /// Adds or replaces a pod.
    pub fn put_pod(&mut self, address: Ipv4Addr, pod: &abi::Pod) -> Result<(), DatapathError> {
        let bytes: PodBytes = transmute!(*pod);
        named(map::PODS, self.pods.insert(address.octets(), bytes, 0))
    }

    /// Removes a pod; an absent one is no error.
    pub fn remove_pod(&mut self, address: Ipv4Addr) -> Result<(), DatapathError> {
        named(map::PODS, ignore_absent(self.pods.remove(&address.octets())))
    }

    /// What the pod behind each host-side veth may send, by ifindex.
    pub fn veths(&self) -> Result<BTreeMap<u32, abi::Veth>, DatapathError> {
        self.veths.iter().map(|entry| named(map::VETHS, entry).map(|(key, bytes)| (key, transmute!(bytes)))).collect()
    }

    /// What the pod behind a host-side veth may send.
    pub fn veth(&self, ifindex: u32) -> Result<Option<abi::Veth>, DatapathError> {
        named(map::VETHS, found(self.veths.get(&ifindex, 0))).map(|bytes| bytes.map(|bytes| transmute!(bytes)))
    }

    /// Adds or replaces a veth.
    pub fn put_veth(&mut self, ifindex: u32, veth: &abi::Veth) -> Result<(), DatapathError> {
        let bytes: VethBytes = transmute!(*veth);
        named(map::VETHS, self.veths.insert(ifindex, bytes, 0))
    }

    /// Removes a veth; an absent one is no error.
    pub fn remove_veth(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        named(map::VETHS, ignore_absent(self.veths.remove(&ifindex)))
    }

    /// The host-side veths that XDP may send frames out of, by ifindex.
    pub fn xdp_veths(&self) -> Result<BTreeSet<u32>, DatapathError> {
        named(map::XDP_VETHS, self.xdp_veths.keys().collect())
    }

    /// Lets XDP send frames out of a veth, which has to be in the calling thread's network namespace. Its peer has to receive by NAPI, or
    /// the kernel drops them.
    pub fn put_xdp_veth(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        named(map::XDP_VETHS, self.xdp_veths.insert(ifindex, [ifindex, 0], 0))
    }

    /// Removes a veth XDP may send to; an absent one is no error: the kernel removes it with its device.
    pub fn remove_xdp_veth(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        named(map::XDP_VETHS, ignore_absent(self.xdp_veths.remove(&ifindex)))
    }

    /// How full each map is that can be full.
    pub fn fills(&self) -> Result<Vec<Fill>, DatapathError> {
        Ok(vec![
            Fill::count(map::SUBNETS, abi::MAX_NODES, self.subnets.keys())?,
            Fill::count(map::NODES, abi::MAX_NODES, self.nodes.keys())?,
            Fill::count(map::PODS, abi::MAX_PODS, self.pods.keys())?,
            Fill::count(map::VETHS, abi::MAX_PODS, self.veths.keys())?,
            Fill::count(map::XDP_VETHS, abi::MAX_PODS, self.xdp_veths.keys())?,
        ])
    }

    /// The counters, summed over all CPUs.
    pub fn counters(&self) -> Result<Counters, DatapathError> {
        let per_cpu = named(map::COUNTERS, self.counters.get(&0, 0))?;
        let mut sum: CounterWords = transmute!(Counters::default());
        for bytes in per_cpu.iter() {
            let words: CounterWords = transmute!(*bytes);
            for (total, word) in sum.iter_mut().zip(words) {
                *total = total.wrapping_add(word);
            }
        }
        Ok(transmute!(sum))
    }
}
