//! The IPv4 neighbour table: who is at which MAC, and the next hops the kernel is asked to keep resolved.
//!
//! An entry with `NTF_EXT_MANAGED` (since Linux 5.16) is probed by the kernel for ever, so its MAC stays known and current without
//! traffic. It is also marked as learned from outside (`NTF_EXT_LEARNED`), which takes it out of garbage collection and of its limit of
//! 1,024 entries (`gc_thresh3`): a flat network with more nodes than that would otherwise lose some of them. Ours carry [`ROUTE_PROTOCOL`] in `NDA_PROTOCOL` (readable with `ip neigh` as `proto 79`); only those are ever removed.

use super::error::Naming;
use super::{Answer, Error, Failure, Message, Netlink};
use crate::model::{Mac, ManagedNeighbour, NeighbourState, ROUTE_PROTOCOL};
use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState as Nud,
};
use rtnetlink::packet_route::route::RouteProtocol;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// One entry of the neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its MAC, when the kernel would use it now.
    pub mac: Option<Mac>,
    /// What the kernel knows of it.
    pub state: NeighbourState,
    /// Somebody configured its MAC by hand (`nud permanent`).
    pub permanent: bool,
    /// The agent asked the kernel to keep it resolved.
    pub ours: bool,
}

impl Neighbour {
    /// The device, the address, and the entry; `None` for anything but an IPv4 neighbour.
    pub(super) fn decode(message: &NeighbourMessage) -> Option<(u32, Ipv4Addr, Self)> {
        let (mut address, mut mac, mut managed, mut protocol) = (None, None, false, RouteProtocol::Unspec);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(destination)) => address = Some(*destination),
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok().map(Mac),
                NeighbourAttribute::ExtFlags(flags) => managed = flags.contains(NeighbourExtFlags::Managed),
                NeighbourAttribute::Protocol(number) => protocol = *number,
                _ => {}
            }
        }
        let state = match message.header.state {
            Nud::Reachable | Nud::Permanent | Nud::Noarp => NeighbourState::Reachable,
            Nud::Stale | Nud::Delay | Nud::Probe => NeighbourState::Stale,
            Nud::Incomplete => NeighbourState::Incomplete,
            Nud::Failed => NeighbourState::Failed,
            // NUD_NONE: an entry nobody has asked for yet.
            _ => NeighbourState::Absent,
        };
        let usable = matches!(state, NeighbourState::Reachable | NeighbourState::Stale);
        let entry = Self {
            // The kernel keeps the last MAC of a failed entry; devices without addresses have entries of zeros.
            mac: mac.filter(|mac| usable && *mac != Mac::default()),
            state,
            permanent: message.header.state == Nud::Permanent,
            ours: managed && protocol == RouteProtocol::Other(ROUTE_PROTOCOL),
        };
        Some((message.header.ifindex, address?, entry))
    }
}

impl Netlink {
    /// The IPv4 neighbour table, by device index and address.
    pub async fn neighbours(&self) -> Result<BTreeMap<(u32, Ipv4Addr), Neighbour>, Error> {
        let mut request = NeighbourMessage::default();
        request.header.family = AddressFamily::Inet;
        let entries = self
            .dump(Message::GetNeighbour(request), |part| match part {
                Message::NewNeighbour(entry) => Neighbour::decode(&entry),
                _ => None,
            })
            .await
            .naming(|| "list the neighbours".to_owned())?;
        Ok(entries.into_iter().map(|(ifindex, address, entry)| ((ifindex, address), entry)).collect())
    }

    /// The entries the kernel keeps resolved for us.
    pub async fn managed_neighbours(&self) -> Result<BTreeSet<ManagedNeighbour>, Error> {
        let ours = self.neighbours().await?.into_iter().filter(|(_, entry)| entry.ours);
        Ok(ours.map(|((ifindex, address), _)| ManagedNeighbour { address, ifindex }).collect())
    }

    /// Asks the kernel to keep next hops resolved, from now on and by itself. Returns what did not work; the rest is done nevertheless.
    ///
    /// An existing entry keeps its state and its MAC. One that was configured by hand is as good as resolved and left alone: the kernel
    /// would drop its MAC, because an entry cannot be both permanent and managed.
    pub async fn put_neighbours(&self, neighbours: &[ManagedNeighbour]) -> Vec<Error> {
        let (mut wanted, mut errors) = (Vec::new(), Vec::new());
        for (neighbour, entry) in neighbours.iter().zip(self.neighbours_at(neighbours).await) {
            match entry {
                Ok(Some(entry)) if entry.permanent => {}
                Ok(_) => wanted.push(*neighbour),
                Err(error) => errors.push(error),
            }
        }
        let request = |neighbour: &ManagedNeighbour| (Message::NewNeighbour(managed(*neighbour)), NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE);
        let answers = self.exchange_many(&wanted.iter().map(request).collect::<Vec<_>>()).await;
        let refused = wanted.iter().zip(answers);
        errors.extend(refused.filter_map(|(neighbour, answer)| answer.naming(|| format!("keep {} resolved", words(*neighbour))).err()));
        errors
    }

    /// Removes an entry if it is one of ours; anything else, or nothing there, is fine.
    pub async fn remove_neighbour(&self, neighbour: ManagedNeighbour) -> Result<(), Error> {
        let naming = || format!("remove {}", words(neighbour));
        if !self.neighbour(neighbour).await?.is_some_and(|entry| entry.ours) {
            return Ok(());
        }
        match self.exchange(Message::DelNeighbour(message_for(neighbour)), 0).await {
            // ENODEV, ENXIO: the device went meanwhile, and the entry with it.
            Err(failure) if matches!(failure.errno(), Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO)) => Ok(()),
            result => result.map(drop).naming(naming),
        }
    }

    /// Writes the MAC of a neighbour for good (`nud permanent`): nobody is asked for it any more.
    pub(super) async fn put_permanent_neighbour(&self, ifindex: u32, address: Ipv4Addr, mac: Mac) -> Result<(), Failure> {
        let mut message = message_for(ManagedNeighbour { address, ifindex });
        message.header.state = Nud::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        self.exchange(Message::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE).await.map(drop)
    }

    /// One entry of the neighbour table, if there is one.
    pub(super) async fn neighbour(&self, place: ManagedNeighbour) -> Result<Option<Neighbour>, Error> {
        self.neighbours_at(&[place]).await.pop().unwrap_or(Ok(None))
    }

    /// The entries of the neighbour table at these places, in their order.
    pub(super) async fn neighbours_at(&self, places: &[ManagedNeighbour]) -> Vec<Result<Option<Neighbour>, Error>> {
        let requests: Vec<_> = places.iter().map(|place| (Message::GetNeighbour(message_for(*place)), 0)).collect();
        let entry = |(place, answer): (&ManagedNeighbour, Answer)| {
            match answer {
                Ok(Some(Message::NewNeighbour(entry))) => Ok(Neighbour::decode(&entry).map(|(_, _, entry)| entry)),
                Ok(_) => Err(Failure::Incomplete("neighbour")),
                Err(failure) if matches!(failure.errno(), Some(Errno::ENOENT | Errno::ENODEV)) => Ok(None),
                Err(failure) => Err(failure),
            }
            .naming(|| format!("look up {}", words(*place)))
        };
        places.iter().zip(self.exchange_many(&requests).await).map(entry).collect()
    }
}

/// What asks the kernel to keep a neighbour resolved. State `NUD_NONE` together with the managed flag tells the kernel to leave the entry's
/// state alone (`neigh_update` in net/core/neighbour.c); then it probes whatever is not yet known.
fn managed(neighbour: ManagedNeighbour) -> NeighbourMessage {
    let mut message = message_for(neighbour);
    message.header.flags = NeighbourFlags::ExtLearned;
    message.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)));
    message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
    message
}

fn message_for(neighbour: ManagedNeighbour) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = neighbour.ifindex;
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(neighbour.address)));
    message
}

fn words(neighbour: ManagedNeighbour) -> String {
    format!("neighbour {} on the device with index {}", neighbour.address, neighbour.ifindex)
}
