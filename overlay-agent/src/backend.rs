//! How packets get to another node: what is asked for, and what comes of it for one peer as the routes are now.
//!
//! Pure. Asked anew for every peer in every pass, so that a change of routing is a change of the way and nothing else.

use crate::model::{ClusterNode, NextHop, UnderlayDevice};
use overlay_common::abi::reach;

/// What is asked for: the setting `backend`. flannel's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// VXLAN to every node.
    #[default]
    Vxlan,
    /// As they are to neighbours, VXLAN to nodes behind a router.
    Direct,
    /// As they are to every node; one behind a router cannot be reached.
    HostGw,
}

impl Backend {
    /// Every backend.
    pub const ALL: [Self; 3] = [Self::Vxlan, Self::Direct, Self::HostGw];

    /// The name used by flag, file and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Direct => "direct",
            Self::HostGw => "host-gw",
        }
    }
}

/// How packets get to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// By VXLAN.
    Encap,
    /// As they are: it is a neighbour.
    Direct,
    /// Not at all: this host has no route to the node's address.
    NoRoute,
    /// Not at all: it is behind a router and only packets as they are may be sent to it.
    BehindRouter,
}

impl Way {
    /// The way to `peer`, to which the kernel would send by `next_hop`. `device`: the NIC that has this node's address.
    #[must_use]
    pub fn to(peer: &ClusterNode, backend: Backend, next_hop: Option<&NextHop>, device: &UnderlayDevice) -> Self {
        let Some(next_hop) = next_hop else { return Self::NoRoute };
        // By another NIC is no neighbour either: what comes back that way does not pass the programs.
        let neighbour = next_hop.address == peer.address && next_hop.ifindex == device.ifindex;
        match (peer.no_tunnel || backend == Backend::HostGw, neighbour) {
            (true, true) => Self::Direct,
            (true, false) => Self::BehindRouter,
            (false, true) if backend == Backend::Direct => Self::Direct,
            (false, _) => Self::Encap,
        }
    }

    /// The word for it in the maps.
    #[must_use]
    pub const fn reach(self) -> u32 {
        match self {
            Self::Encap => reach::ENCAP,
            Self::Direct => reach::DIRECT,
            Self::NoRoute | Self::BehindRouter => reach::NONE,
        }
    }
}
