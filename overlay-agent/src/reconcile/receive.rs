//! The receive ladder: native XDP, then TC, then the kernel's vxlan device. Chooses a rung for the NIC and says why.
//!
//! A rung that fails is never fatal when the choice is ours; one that was asked for by name and fails is reported, and the next one is
//! used, so that the node keeps receiving.

use crate::cli::ReceiveMode;
use crate::datapath::{Datapath, DatapathError, Direction, Hook};
use crate::model::UnderlayDevice;
use overlay_common::abi::{program, receive};

/// A rung, and why it was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rung {
    /// One of [`receive`].
    pub mode: u32,
    /// A sentence for an operator.
    pub reason: String,
    /// What was asked for could not be had.
    pub problem: Option<String>,
}

/// Attaches what the rung needs to the NIC.
///
/// `underlay_tc` is attached on every rung: with XDP it delivers what XDP stripped and takes what XDP left, and for the kernel's device
/// it marks the packets of known nodes.
///
/// # Errors
/// [`DatapathError::Attach`] when not even TC can be attached; nothing can be received then.
pub fn choose(datapath: &mut Datapath, device: &UnderlayDevice, asked: ReceiveMode) -> Result<Rung, DatapathError> {
    let hook = Hook::Tc { device: device.name.clone(), ifindex: device.ifindex, direction: Direction::Ingress };
    datapath.attach(program::UNDERLAY_TC, &hook)?;
    let rung = |mode, reason: String| Rung { mode, reason, problem: None };
    Ok(match asked {
        ReceiveMode::Kernel => rung(receive::KERNEL, "asked for by receive-mode: kernel".to_owned()),
        ReceiveMode::Tc => rung(receive::TC, "asked for by receive-mode: tc".to_owned()),
        ReceiveMode::Xdp => match attach_xdp(datapath, device) {
            Ok(()) => rung(receive::XDP, "asked for by receive-mode: xdp".to_owned()),
            Err(error) => Rung {
                mode: receive::TC,
                reason: format!("receive-mode: xdp was asked for, but {error}"),
                problem: Some(format!("receive-mode: xdp cannot be had: {error}")),
            },
        },
        ReceiveMode::Auto if device.kind.as_deref() == Some("veth") => {
            rung(receive::TC, "native XDP on a veth makes the kernel copy every packet".to_owned())
        }
        ReceiveMode::Auto => match attach_xdp(datapath, device) {
            Ok(()) => rung(receive::XDP, format!("{} has native XDP", device.name)),
            Err(error) => rung(receive::TC, error.to_string()),
        },
    })
}

fn attach_xdp(datapath: &mut Datapath, device: &UnderlayDevice) -> Result<(), DatapathError> {
    datapath.attach(program::UNDERLAY_XDP, &Hook::Xdp { device: device.name.clone(), ifindex: device.ifindex })
}
