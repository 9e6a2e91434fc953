//! What `ethtool` asks of a device: its driver, and generic receive offload (GRO).
//!
//! By ioctl: the `ethtool` crate (0.3) cannot change a feature yet, and these two are all that is wanted. Both look at the network
//! namespace of the calling thread.

use nix::errno::Errno;
use nix::libc::{self, ifreq};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::ffi::CStr;
use std::io;
use std::os::fd::AsRawFd;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Requests of linux/ethtool.h.
const ETHTOOL_GDRVINFO: u32 = 0x0000_0003;
/// See [`ETHTOOL_GDRVINFO`].
const ETHTOOL_GGRO: u32 = 0x0000_002b;
/// See [`ETHTOOL_GDRVINFO`].
const ETHTOOL_SGRO: u32 = 0x0000_002c;

/// `struct ethtool_value`.
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ethtool_drvinfo`: the driver's name, and texts nothing here reads.
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

const _: () = assert!(size_of::<Value>() == 8 && size_of::<DriverInfo>() == 196);

/// Turns GRO of a device on or off, and says whether it is on now: a driver may refuse without an error.
///
/// On a veth GRO is what makes the kernel receive by NAPI, and nothing else does short of an XDP program.
///
/// Fails with the kernel's reason.
pub fn set_gro(device: &str, on: bool) -> io::Result<bool> {
    ask(device, &mut Value { command: ETHTOOL_SGRO, data: on.into() })?;
    let mut value = Value { command: ETHTOOL_GGRO, data: 0 };
    ask(device, &mut value)?;
    Ok(value.data != 0)
}

/// Name of the driver behind a device: `virtio_net`, `ixgbe`, `veth`.
///
/// Fails with the kernel's reason.
pub fn driver(device: &str) -> io::Result<String> {
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    ask(device, &mut info)?;
    let name = CStr::from_bytes_until_nul(&info.driver).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(name.to_string_lossy().into_owned())
}

nix::ioctl_readwrite_bad!(
    /// One request about the device named in the structure.
    siocethtool,
    libc::SIOCETHTOOL,
    ifreq
);

/// Sends one request, which has to be as long as its first four bytes tell the kernel.
fn ask<T: FromBytes + IntoBytes>(device: &str, request: &mut T) -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: `ifreq` is plain data: any bits, zero too, are one.
    let mut message: ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    if device.len() >= message.ifr_name.len() {
        return Err(Errno::ENODEV.into());
    }
    for (to, from) in message.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from.cast_signed();
    }
    message.ifr_ifru.ifru_data = std::ptr::from_mut(request).cast();
    // SAFETY: the kernel reads the name, and reads and writes the structure of the request, whose length is asserted above for each
    // number sent here; any bytes it writes are one. Both outlive the call.
    unsafe { siocethtool(socket.as_raw_fd(), &raw mut message) }?;
    Ok(())
}
