//! Where a node's containerd lives: a tmpfs of its own, and a mount namespace in which the fixed paths of its programs lead there.

use crate::cni::REFERENCE_PLUGINS;
use crate::command;
use crate::netns::{Ns, on_thread};
use anyhow::Context as _;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Directories of a container's file system that the runtime mounts over or a program expects.
const ROOTFS: [&str; 7] = ["bin", "dev", "etc", "proc", "sys", "tmp", "var"];

/// Fixed paths of `ctr`, go-cni and the plugins: a directory of the machine, what is in it, and what stands there for a node.
const FIXED: [(&str, &[(&str, &str)]); 3] = [
    ("/etc", &[("cni/net.d", "cni/net.d")]),
    ("/opt", &[("cni/bin", "cni/bin")]),
    ("/var/lib", &[("cni", "lib/cni"), ("overlay", "lib/overlay")]),
];

/// The directory of a node's containerd. Dropped, it is unmounted.
#[derive(Debug)]
pub struct Place {
    directory: PathBuf,
    netns: PathBuf,
    /// The mount namespace, alive as long as this is open. Not bound to a file of its own: that fails by chance since Linux 6.18, where a
    /// namespace made on another CPU may pass for an older one.
    mounts: Option<File>,
}

impl Place {
    /// Makes the directory, its content and the mount namespace.
    ///
    /// # Errors
    /// A mount fails, or busybox is not installed.
    pub(super) fn create(ns: &Ns, directory: &Path, bpffs: Option<&Path>) -> anyhow::Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        // The sandbox's /run forbids what is the whole point here: to execute.
        mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::MS_NOSUID, None::<&str>)
            .with_context(|| format!("mount a tmpfs on {}", directory.display()))?;
        // From here on a failure unmounts it again.
        let mut place = Self { directory: directory.to_owned(), netns: ns.path(), mounts: None };
        for name in ["root", "state", "run", "cni/net.d", "cni/bin", "lib/cni", "lib/overlay"] {
            place.make(name)?;
        }
        place.write_config()?;
        place.furnish_containers()?;
        for plugin in fs::read_dir(REFERENCE_PLUGINS).with_context(|| format!("list {REFERENCE_PLUGINS}"))? {
            let plugin = plugin?;
            symlink(plugin.path(), place.plugins().join(plugin.file_name())).context("link a reference plugin")?;
        }
        place.mounts = Some(place.make_mounts(bpffs)?);
        Ok(place)
    }

    /// Something in the directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The node's `/etc/cni/net.d`.
    #[must_use]
    pub fn configurations(&self) -> PathBuf {
        self.path("cni/net.d")
    }

    /// The node's `/opt/cni/bin`.
    #[must_use]
    pub fn plugins(&self) -> PathBuf {
        self.path("cni/bin")
    }

    /// Where the node's plugin keeps the addresses it gives: `/var/lib/overlay/ipam` to itself.
    #[must_use]
    pub fn addresses(&self) -> PathBuf {
        self.path("lib/overlay/ipam")
    }

    /// containerd's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path("containerd.sock")
    }

    /// The file that stands for the mount namespace: for `nsenter --mount`, while the lab runs.
    #[must_use]
    pub fn mounts(&self) -> PathBuf {
        let descriptor = self.mounts.as_ref().map_or(-1, File::as_raw_fd);
        PathBuf::from(format!("/proc/{}/fd/{descriptor}", std::process::id()))
    }

    /// The file system of every container.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.path("rootfs")
    }

    /// Where containerd keeps one directory for each container that runs.
    pub(super) fn bundles(&self) -> PathBuf {
        self.path("state/io.containerd.runtime.v2.task/default")
    }

    /// A command that will run in the node's network and mount namespaces.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.netns.display())).arg(format!("--mount={}", self.mounts().display()));
        command.arg("--").arg(program);
        command
    }

    /// `ctr`, speaking to this containerd.
    #[must_use]
    pub fn ctr(&self) -> Command {
        let mut ctr = self.command("ctr");
        ctr.arg("--address").arg(self.socket());
        ctr
    }

    /// Flags of `ctr run` that every container of the lab has; what follows is the file system. No control group, see [`super`].
    #[must_use]
    pub fn run_flags(&self) -> Vec<String> {
        let runc = format!("--runc-binary={}", self.path("runc").display());
        ["--cni", "--cgroup=", "--cpu-shares=0", "--env=PATH=/bin", &runc, "--rootfs"].map(str::to_owned).into()
    }

    fn make(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.path(name);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(path)
    }

    /// No image is ever pulled and no Kubernetes asks: of the plugins for either only those are left that the others need.
    fn write_config(&self) -> anyhow::Result<()> {
        let (here, socket) = (self.directory.display(), self.socket().display().to_string());
        let unused = ["grpc.v1.cri", "internal.v1.opt", "internal.v1.tracing", "tracing.processor.v1.otlp"]
            .into_iter()
            .map(str::to_owned)
            .chain(["aufs", "btrfs", "devmapper", "overlayfs", "zfs"].map(|name| format!("snapshotter.v1.{name}")))
            .map(|name| format!("\"io.containerd.{name}\""))
            .collect::<Vec<_>>()
            .join(", ");
        let config = format!(
            "version = 2\nroot = \"{here}/root\"\nstate = \"{here}/state\"\ndisabled_plugins = [{unused}]\n\
             [grpc]\n  address = \"{socket}\"\n[ttrpc]\n  address = \"{socket}.ttrpc\"\n"
        );
        fs::write(self.path("config.toml"), config).context("write config.toml")?;
        let runc = self.path("runc");
        fs::write(&runc, "#!/bin/sh\nexec runc --rootless=true \"$@\"\n").context("write runc's wrapper")?;
        fs::set_permissions(&runc, fs::Permissions::from_mode(0o755)).context("make it executable")
    }

    /// A busybox and a link for each of its programs.
    fn furnish_containers(&self) -> anyhow::Result<()> {
        for name in ROOTFS {
            self.make(&format!("rootfs/{name}"))?;
        }
        let bin = self.rootfs().join("bin");
        fs::copy("/bin/busybox", bin.join("busybox")).context("copy /bin/busybox")?;
        for applet in command::run(Command::new("/bin/busybox").arg("--list"))?.lines().filter(|name| *name != "busybox") {
            symlink("busybox", bin.join(applet)).with_context(|| format!("link {applet}"))?;
        }
        Ok(())
    }

    /// Makes the mount namespace.
    fn make_mounts(&self, bpffs: Option<&Path>) -> anyhow::Result<File> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
            for (directory, parts) in FIXED {
                self.replace_parts(Path::new(directory), parts).with_context(|| format!("replace parts of {directory}"))?;
            }
            bpffs.map_or(Ok(()), |bpffs| bind(bpffs, Path::new("/sys/fs/bpf")))?;
            fs::create_dir_all("/run/containerd").context("create /run/containerd")?;
            bind(&self.path("run"), Path::new("/run/containerd"))?;
            // The sandbox's own /sys shows none. runc looks for the version of control groups here.
            let target = Path::new("/sys/fs/cgroup");
            mount(Some("cgroup2"), target, Some("cgroup2"), MsFlags::empty(), None::<&str>).context("mount cgroup2")?;
            let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
            mount(None::<&str>, target, None::<&str>, read_only, None::<&str>).context("make cgroup2 read-only")?;
            File::open("/proc/thread-self/ns/mnt").context("open the mount namespace")
        })
    }

    /// Puts a directory of links to everything in `directory` in its place, all but these parts of it, which become the node's. The
    /// machine's own directory need not have them, and is not written to.
    fn replace_parts(&self, directory: &Path, parts: &[(&str, &str)]) -> anyhow::Result<()> {
        let name = directory.strip_prefix("/")?.to_string_lossy();
        let (original, links) = (self.make(&format!("machine/{name}"))?, self.make(&format!("links/{name}"))?);
        bind(directory, &original)?;
        let replaced: Vec<_> = parts.iter().filter_map(|(part, _)| part.split('/').next()).collect();
        for entry in fs::read_dir(&original)? {
            let entry = entry?.file_name();
            if !replaced.iter().any(|part| entry == *part) {
                symlink(original.join(&entry), links.join(&entry))?;
            }
        }
        bind(&links, directory)?;
        parts.iter().try_for_each(|(part, stand_in)| {
            fs::create_dir_all(directory.join(part))?;
            bind(&self.path(stand_in), &directory.join(part))
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Failing is no reason to panic in a drop: the sandbox's end takes the mounts as well.
        let _ = umount2(&self.directory, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.directory);
    }
}

fn bind(from: &Path, to: &Path) -> anyhow::Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(from), to, None::<&str>, flags, None::<&str>).with_context(|| format!("mount {} on {}", from.display(), to.display()))
}
