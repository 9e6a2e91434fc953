//! The receive ladder: native XDP, TC, the kernel's vxlan device. Chooses a rung for the NIC by what was measured, and says why.
//!
//! A rung that fails is never fatal when the choice is ours; one that was asked for by name and fails is reported, and the next one is
//! used, so that the node keeps receiving.

use crate::cli::ReceiveMode;
use crate::datapath::{self, Datapath, DatapathError, Direction, Hook};
use crate::measure::{self, Class, Measurement, RUNGS};
use crate::model::UnderlayDevice;
use crate::netlink::ethtool;
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

/// Drivers whose packets come from the same machine: their checksums may still have to be filled in, and super-packets are whole.
const VIRTUAL_DRIVERS: [&str; 8] = ["veth", "virtio_net", "tun", "vif", "vmxnet3", "hv_netvsc", "bridge", "dummy"];

/// Attaches what the rung needs to the NIC. Where the choice is ours it follows `measured`, what this kernel did on this machine.
///
/// `underlay_tc` is attached on every rung: with XDP it delivers what XDP stripped and takes what XDP left, and for the kernel's device
/// it marks the packets of known nodes.
///
/// # Errors
/// [`DatapathError::Attach`] when not even TC can be attached; nothing can be received then.
pub fn choose(
    datapath: &mut Datapath,
    device: &UnderlayDevice,
    asked: ReceiveMode,
    measured: Option<&Measurement>,
) -> Result<Rung, DatapathError> {
    let hook = Hook::Tc { device: device.name.clone(), ifindex: device.ifindex, direction: Direction::Ingress };
    datapath.attach(program::UNDERLAY_TC, &hook)?;
    let rung = |mode, reason: String| Rung { mode, reason, problem: None };
    let asked_for = || format!("asked for by receive-mode: {}", asked.name());
    Ok(match asked {
        ReceiveMode::Kernel => rung(receive::KERNEL, asked_for()),
        ReceiveMode::Tc => rung(receive::TC, asked_for()),
        ReceiveMode::Xdp | ReceiveMode::XdpRedirect => match attach_xdp(datapath, device) {
            Err(error) => instead(receive::TC, asked, &error.to_string()),
            Ok(()) if asked == ReceiveMode::Xdp => rung(receive::XDP, asked_for()),
            Ok(()) if !datapath::redirects_whole_frames() => instead(receive::XDP, asked, "it needs Linux 6.3"),
            Ok(()) => rung(receive::XDP_REDIRECT, format!("{}{}", asked_for(), doubt(&device.name))),
        },
        ReceiveMode::Auto => {
            let choice = Preference::of(&device.name, measured);
            match choice.rung {
                measure::Rung::Kernel => rung(receive::KERNEL, choice.reason),
                measure::Rung::Tc => rung(receive::TC, choice.reason),
                measure::Rung::Xdp => match attach_xdp(datapath, device) {
                    Ok(()) => rung(receive::XDP, choice.reason),
                    Err(error) => rung(receive::TC, error.to_string()),
                },
            }
        }
    })
}

/// The rung to try first where the choice is ours.
struct Preference {
    rung: measure::Rung,
    reason: String,
}

impl Preference {
    fn of(device: &str, measured: Option<&Measurement>) -> Self {
        // A driver that does not tell its name is no virtual one we know.
        let driver = ethtool::driver(device).unwrap_or_else(|_| "no driver".to_owned());
        let class = if VIRTUAL_DRIVERS.contains(&driver.as_str()) { Class::Virtual } else { Class::Physical };
        let nature = match class {
            Class::Physical => format!("{device} is a physical NIC ({driver})"),
            Class::Virtual => format!("{device} is a virtual NIC ({driver})"),
        };
        let Some(measured) = measured else {
            let rung = class.usual();
            return Self { rung, reason: format!("{nature}; not measured on this kernel: run overlay-agent measure") };
        };
        let choice = measured.best(class);
        let speeds: Vec<String> = RUNGS.iter().zip(choice.speeds).map(|(rung, speed)| format!("{} {speed:.2}", rung.name())).collect();
        Self { rung: choice.rung, reason: format!("{nature}; measured {} for such: {}", measured.at, speeds.join(", ")) }
    }
}

/// The next rung in the place of one that was asked for and cannot be had.
fn instead(mode: u32, asked: ReceiveMode, why: &str) -> Rung {
    let asked = asked.name();
    let reason = format!("receive-mode: {asked} was asked for, but {why}");
    Rung { mode, reason, problem: Some(format!("receive-mode: {asked} cannot be had: {why}")) }
}

/// What may be wrong with sending XDP frames of this NIC straight into pods: such a frame cannot say that its checksum is still to be
/// filled in, as a packet that comes from another guest or namespace of the same machine can. The pod then drops it.
fn doubt(device: &str) -> String {
    match ethtool::driver(device) {
        Ok(driver) if VIRTUAL_DRIVERS.contains(&driver.as_str()) => {
            format!("; {device} is no physical NIC ({driver}): pods drop what comes without its checksums filled in")
        }
        Ok(_) => String::new(),
        Err(error) => format!("; whether {device} is a physical NIC is not known ({error})"),
    }
}

fn attach_xdp(datapath: &mut Datapath, device: &UnderlayDevice) -> Result<(), DatapathError> {
    datapath.attach(program::UNDERLAY_XDP, &Hook::Xdp { device: device.name.clone(), ifindex: device.ifindex })
}
