//! Network namespaces: made as `ip netns` makes them, entered by command or by thread.
//!
//! Making and deleting one starts no process: a bench has thousands.
//!
//! A socket belongs to the namespace of the thread that made it and may be used from any thread afterwards, so probes make their sockets
//! inside [`Ns::enter`] and nothing else has to run there.

use crate::command;
use anyhow::Context as _;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

/// A named network namespace; dropped, it is deleted.
#[derive(Debug)]
pub struct Ns {
    name: String,
}

impl Ns {
    /// Makes a namespace, its loopback up.
    ///
    /// # Errors
    /// The name is taken, or this is not a sandbox.
    pub fn create(name: impl Into<String>) -> anyhow::Result<Self> {
        let ns = Self::name_file(name.into())?;
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
            ns.bind("/proc/thread-self/ns/net")?;
            set_loopback_up()
        })?;
        Ok(ns)
    }

    /// Names the namespace of a process, which somebody else made. Dropped, the name goes, and the namespace with its last process.
    ///
    /// # Errors
    /// The name is taken, or there is no such process.
    pub fn of_process(name: impl Into<String>, pid: i32) -> anyhow::Result<Self> {
        let ns = Self::name_file(name.into())?;
        ns.bind(&format!("/proc/{pid}/ns/net"))?;
        Ok(ns)
    }

    /// Makes the file that will stand for a namespace.
    fn name_file(name: String) -> anyhow::Result<Self> {
        let path = path(&name);
        File::create_new(&path).with_context(|| format!("create {}, which stands for network namespace {name}", path.display()))?;
        // From here on a failure deletes it again.
        Ok(Self { name })
    }

    fn bind(&self, namespace: &str) -> anyhow::Result<()> {
        let path = self.path();
        mount(Some(namespace), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("mount network namespace {} on {}", self.name, path.display()))
    }

    /// Its name, as `ip netns` lists it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        path(&self.name)
    }

    /// A command that will run inside. It goes through `nsenter` and not `ip netns exec`, which would hide the mounts below `/sys`.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs a program inside with the words of `arguments`, split at blanks, and returns what it printed.
    ///
    /// # Errors
    /// As [`command::run`].
    pub fn run(&self, program: &str, arguments: &str) -> anyhow::Result<String> {
        command::run(self.command(program).args(arguments.split_whitespace()))
    }

    /// Runs `ip` inside.
    ///
    /// # Errors
    /// As [`command::run`].
    pub fn ip(&self, arguments: &str) -> anyhow::Result<String> {
        command::ip(&format!("-n {} {arguments}", self.name))
    }

    /// Runs `program -batch -` inside (`ip` or `bridge`), one command per line of `lines`: one process for thousands of objects.
    ///
    /// # Errors
    /// As [`command::run`]; what the program says names the line.
    pub fn batch(&self, program: &str, lines: &str) -> anyhow::Result<()> {
        command::run_with_input(Command::new(program).args(["-n", &self.name, "-batch", "-"]), lines).map(drop)
    }

    /// Runs a closure on a thread of its own that is in the namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered. What the closure returns, errors included, is passed on.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        let file = self.open()?;
        on_thread(|| {
            setns(&file, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter network namespace {}", self.name))?;
            Ok(work())
        })
    }

    /// A hold on the namespace for who outlives this name of it.
    ///
    /// # Errors
    /// Somebody has deleted it.
    pub(crate) fn open(&self) -> anyhow::Result<File> {
        File::open(self.path()).with_context(|| format!("open network namespace {}", self.name))
    }

    /// Writes a network sysctl, e.g. `net.ipv4.ip_forward`.
    ///
    /// # Errors
    /// There is no such sysctl in this kernel, or it refuses the value.
    pub fn set_sysctl(&self, key: &str, value: &str) -> anyhow::Result<()> {
        // Files below /proc/sys/net show the namespace of the thread that opens them.
        self.enter(|| {
            let path = format!("/proc/sys/{}", key.replace('.', "/"));
            fs::write(&path, value).with_context(|| format!("write {value} to {path} in {}", self.name))
        })?
    }

    /// A UDP socket bound inside.
    ///
    /// # Errors
    /// The address is not one of the namespace's, or the port is taken.
    pub fn udp(&self, address: Ipv4Addr, port: u16) -> anyhow::Result<UdpSocket> {
        self.enter(|| UdpSocket::bind((address, port)))?.with_context(|| format!("bind UDP {address}:{port} in {}", self.name))
    }

    /// A TCP listener bound inside.
    ///
    /// # Errors
    /// The address is not one of the namespace's, or the port is taken.
    pub fn tcp_listener(&self, address: Ipv4Addr, port: u16) -> anyhow::Result<TcpListener> {
        self.enter(|| TcpListener::bind((address, port)))?.with_context(|| format!("listen on TCP {address}:{port} in {}", self.name))
    }

    /// A TCP connection from inside.
    ///
    /// # Errors
    /// Nobody answers there within five seconds.
    pub fn tcp_connect(&self, to: SocketAddrV4) -> anyhow::Result<TcpStream> {
        let timeout = std::time::Duration::from_secs(5);
        self.enter(|| TcpStream::connect_timeout(&to.into(), timeout))?.with_context(|| format!("connect to TCP {to} from {}", self.name))
    }

    /// The MAC of one of its interfaces.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn mac(&self, interface: &str) -> anyhow::Result<String> {
        let listing = self.ip(&format!("-json link show dev {interface}"))?;
        let links: serde_json::Value = serde_json::from_str(&listing)?;
        let mac = links[0]["address"].as_str().with_context(|| format!("{interface} of {} has no MAC: {listing}", self.name))?;
        Ok(mac.to_owned())
    }

    /// The MTU of one of its interfaces, in bytes.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn mtu(&self, interface: &str) -> anyhow::Result<u32> {
        let listing = self.ip(&format!("-json link show dev {interface}"))?;
        let links: serde_json::Value = serde_json::from_str(&listing)?;
        let mtu = links[0]["mtu"].as_u64().with_context(|| format!("{interface} of {} has no MTU: {listing}", self.name))?;
        Ok(u32::try_from(mtu)?)
    }
}

impl Drop for Ns {
    fn drop(&mut self) {
        // Failing to delete is no reason to panic in a drop: the sandbox's end deletes it as well.
        let path = self.path();
        let _ = umount2(&path, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(path);
    }
}

/// A TCP listener bound in a namespace that [`Ns::open`] gave a hold on.
pub(crate) fn tcp_listener_in(ns: &File, address: Ipv4Addr, port: u16) -> anyhow::Result<TcpListener> {
    on_thread(|| {
        setns(ns, CloneFlags::CLONE_NEWNET).context("enter a network namespace")?;
        TcpListener::bind((address, port)).with_context(|| format!("listen on TCP {address}:{port}"))
    })
}

/// Where `ip netns` keeps the file that stands for a namespace.
fn path(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}

/// Runs a closure on a thread of its own, whose namespace may differ from the others'.
pub(crate) fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

nix::ioctl_write_ptr_bad!(
    /// netdevice(7): sets the flags of the interface that is named.
    set_interface_flags,
    nix::libc::SIOCSIFFLAGS,
    nix::libc::ifreq
);

/// Sets the loopback device of the current network namespace up.
///
/// # Errors
/// Not permitted.
pub fn set_loopback_up() -> anyhow::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("open a socket")?;
    let mut name = [0; nix::libc::IFNAMSIZ];
    name[..2].copy_from_slice(&[b'l'.cast_signed(), b'o'.cast_signed()]);
    let flags = i16::try_from(nix::libc::IFF_UP)?;
    let request = nix::libc::ifreq { ifr_name: name, ifr_ifru: nix::libc::__c_anonymous_ifr_ifru { ifru_flags: flags } };
    // SAFETY: the request is a whole ifreq on this stack, named with a terminated string, and the kernel only reads it.
    unsafe { set_interface_flags(socket.as_raw_fd(), &raw const request) }.map(drop).context("set lo up")
}
