//! `cargo xtask setup`: installs what the other verbs need, and nothing that is there already.
//!
//! It says what it installs and why before it does, and asks nothing. It installs by itself on Debian 12 as root only; elsewhere it
//! names the commands. No package it installs starts a service, now or with the machine. bpf-linker and cargo-deny go to `target/tools`, never to the user's own cargo folder.

use crate::refusal::Refusal;
use crate::toolchain::{self, Toolchain};
use crate::{place, step};
use anyhow::{Context as _, Result, bail};
use clap::ValueEnum as _;
use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Command;

/// Install what the other verbs need (they call this themselves).
///
/// Debian 12 as root: done here, without a question. Anywhere else: the commands to run are printed, exit code 2.
/// What is there already is neither installed again nor updated.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to prepare; without it ebpf and lab, which is what build, demo and test need.
    #[arg(value_enum)]
    purposes: Vec<Purpose>,
    /// Only say what is missing; exit code 2 if anything is.
    #[arg(long)]
    check: bool,
}

/// What something is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Purpose {
    /// Compile the eBPF object: a toolchain for the BPF target, bpf-linker.
    Ebpf,
    /// Run demo and tests: iproute2, bpftool, iperf3, tshark, containerd and the like.
    Lab,
    /// Boot other kernels: QEMU, busybox, cpio, bpftool.
    Kernels,
    /// Lint the eBPF crate (clippy for Debian's toolchain).
    Lint,
    /// Check licences and sources of the dependencies: cargo-deny.
    Deny,
}

impl Purpose {
    fn name(self) -> String {
        self.to_possible_value().expect("no purpose is hidden").get_name().to_owned()
    }
}

/// One thing some verb needs.
struct Need {
    name: &'static str,
    why: &'static str,
    present: fn(&'static str) -> bool,
    /// Debian 12 packages that have it, or that building it takes.
    packages: &'static [&'static str],
    /// Arguments to `cargo install`, for what Debian does not package.
    crate_install: &'static [&'static str],
    /// What to run where `setup` cannot install.
    elsewhere: &'static str,
}

/// LLVM that bpf-linker is built against: the one Debian's rustc 1.96 emits bitcode for.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// Programs of the lab: name, what uses it, Debian package.
const LAB: [(&str, &str, &[&str]); 18] = [
    ("ip", "the lab makes nodes, links and pods with it", &["iproute2"]),
    ("bpftool", "shows maps and programs", &["bpftool"]),
    ("iperf3", "TCP transfers of the demo and the tests", &["iperf3"]),
    ("ping", "reachability and MTU", &["iputils-ping"]),
    ("tshark", "decodes outer headers independently of our code", &["tshark"]),
    ("tcpdump", "captures packets", &["tcpdump"]),
    ("ethtool", "reads and sets offloads", &["ethtool"]),
    ("traceroute", "shows the hops a packet takes", &["traceroute"]),
    ("ps", "finds processes left behind", &["procps"]),
    ("sysctl", "per-node kernel settings", &["procps"]),
    ("iptables", "Services as kube-proxy makes them", &["iptables"]),
    ("containerd", "the runtime that starts containers, one per node", &["containerd"]),
    ("ctr", "asks it to", &["containerd"]),
    ("runc", "starts a container for it", &["runc"]),
    ("busybox", "all there is in a container", &["busybox-static"]),
    ("/usr/lib/cni/host-local", "the reference CNI plugins, in a chain with ours and beside it", &["containernetworking-plugins"]),
    ("curl", "asks a real API server, where there is one", &["curl"]),
    ("nft", "the agent's masquerade, and Services as kube-proxy makes them in nftables mode", &["nftables"]),
];

/// Programs of `test kernels`.
const KERNELS: [(&str, &str, &[&str]); 7] = [
    ("qemu-system-x86_64", "boots the kernels", &["qemu-system-x86"]),
    ("busybox", "user space of the booted kernel", &["busybox-static"]),
    ("cpio", "packs its initramfs", &["cpio"]),
    ("bpftool", "loads the object there", &["bpftool"]),
    ("ip", "makes the devices to attach to", &["iproute2"]),
    ("tc", "attaches the TC programs", &["iproute2"]),
    ("xz", "unpacks kernel modules", &["xz-utils"]),
];

fn needs(purpose: Purpose) -> Vec<Need> {
    let program = |&(name, why, packages): &(&'static str, &'static str, &'static [&'static str])| Need {
        name,
        why,
        present: |name| place::program(name).is_some(),
        packages,
        crate_install: &[],
        elsewhere: "your package manager",
    };
    match purpose {
        Purpose::Ebpf => vec![
            Need {
                name: "Rust for BPF",
                why: "compiles overlay-ebpf",
                present: |_| Toolchain::find().is_some(),
                packages: &["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"],
                crate_install: &[],
                elsewhere: "rustup toolchain install nightly --component rust-src",
            },
            Need {
                name: "bpf-linker",
                why: "links overlay-ebpf and writes its BTF",
                present: |_| toolchain::linker().is_some(),
                packages: &["llvm-22-dev", "libpolly-22-dev", "clang-22", "zlib1g-dev", "libzstd-dev", "gcc", "libc6-dev"],
                crate_install: &["--version", "0.13.0", "--no-default-features", "--features", "llvm-22", "bpf-linker"],
                elsewhere: "cargo install --locked bpf-linker",
            },
        ],
        Purpose::Lab => LAB.iter().map(program).collect(),
        Purpose::Kernels => KERNELS.iter().map(program).collect(),
        Purpose::Lint => vec![Need {
            name: "clippy for BPF",
            why: "lints overlay-ebpf with the toolchain that compiles it",
            present: |_| Toolchain::find().is_some_and(|toolchain| place::is_executable(&toolchain.sysroot.join("bin/cargo-clippy"))),
            packages: &["rust-web-clippy"],
            crate_install: &[],
            elsewhere: "rustup component add clippy --toolchain nightly",
        }],
        Purpose::Deny => vec![Need {
            name: "cargo-deny",
            why: "checks licences and sources of the dependencies",
            present: |name| place::program(name).is_some(),
            packages: &["gcc", "libc6-dev"],
            crate_install: &["--version", "0.20.2", "cargo-deny"],
            elsewhere: "cargo install --locked cargo-deny",
        }],
    }
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<()> {
    let purposes: &[Purpose] = if args.purposes.is_empty() { &[Purpose::Ebpf, Purpose::Lab] } else { &args.purposes };
    let missing = missing(purposes);
    if missing.is_empty() {
        println!("everything is there");
        return Ok(());
    }
    if args.check {
        let names: Vec<_> = missing.iter().map(|need| need.name).collect();
        let purposes = purposes.iter().map(|purpose| purpose.name()).collect::<Vec<_>>().join(" ");
        return Err(Refusal(format!("missing: {}; run cargo xtask setup {purposes}", names.join(", "))).into());
    }
    install(&missing)?;
    verify(purposes)
}

/// What the other verbs call first: silent when everything is there.
pub(crate) fn ensure(purposes: &[Purpose]) -> Result<()> {
    let missing = missing(purposes);
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing)?;
    verify(purposes)
}

fn missing(purposes: &[Purpose]) -> Vec<Need> {
    purposes.iter().flat_map(|&purpose| needs(purpose)).filter(|need| !(need.present)(need.name)).collect()
}

fn verify(purposes: &[Purpose]) -> Result<()> {
    if let Some(need) = missing(purposes).first() {
        bail!("{} is still missing after its installation; the installers' output is in {}", need.name, place::logs().display());
    }
    Ok(())
}

fn install(missing: &[Need]) -> Result<()> {
    let packages = absent_packages(missing)?;
    if !can_install() {
        return Err(Refusal(format!("this is not Debian 12, so install {} yourself", by_hand(missing))).into());
    }
    if !packages.is_empty() && !place::is_root() {
        let list = packages.iter().copied().collect::<Vec<_>>().join(" ");
        let command = format!("sudo apt-get update && sudo apt-get install --yes --no-install-recommends {list}");
        return Err(Refusal(format!("Debian packages are missing and only root may install them: run {command}")).into());
    }

    eprintln!("setup: missing here");
    for need in missing {
        eprintln!("    {}: {}", need.name, need.why);
    }
    if !packages.is_empty() {
        let list: Vec<&str> = packages.into_iter().collect();
        eprintln!("setup: installing the Debian packages {}", list.join(" "));
        step::quiet("apt-get update", "apt-update", apt().arg("update"))?;
        let label = format!("apt-get install ({} packages)", list.len());
        let _quiet = NoServices::begin()?;
        step::quiet(&label, "apt-install", apt().args(["install", "--yes", "--no-install-recommends"]).args(&list))?;
        disable_services(&list)?;
    }
    for need in missing.iter().filter(|need| !need.crate_install.is_empty()) {
        cargo_install(need)?;
    }
    Ok(())
}

/// While it exists, packages being installed start no service: the lab runs its own containerd, nobody asked for one on this machine.
///
/// Debian's own way (invoke-rc.d(8), deb-systemd-invoke(1p)): a script that says no. One that is there already is the administrator's,
/// as in every container image, and stays.
struct NoServices {
    ours: bool,
}

impl NoServices {
    const POLICY: &str = "/usr/sbin/policy-rc.d";

    fn begin() -> Result<Self> {
        let no = "#!/bin/sh\n# Put here by `cargo xtask setup` for the time of one installation.\nexit 101\n";
        let opened = fs::File::options().write(true).create_new(true).mode(0o755).open(Self::POLICY);
        match opened {
            Ok(mut file) => {
                file.write_all(no.as_bytes()).with_context(|| format!("cannot write {}", Self::POLICY))?;
                Ok(Self { ours: true })
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Self { ours: false }),
            Err(error) => Err(error).with_context(|| format!("cannot create {}", Self::POLICY)),
        }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(Self::POLICY)
        {
            eprintln!("setup: remove {} yourself: {error}", Self::POLICY);
        }
    }
}

/// What was just installed is not to start with the machine either. Without systemd there is nothing that would start it.
fn disable_services(installed: &[&str]) -> Result<()> {
    if !installed.contains(&"containerd") || !Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    step::quiet("systemctl disable containerd", "containerd", Command::new("systemctl").args(["disable", "containerd.service"]))
}

/// The packages of these needs that dpkg does not list as installed.
fn absent_packages(missing: &[Need]) -> Result<BTreeSet<&'static str>> {
    let mut packages: BTreeSet<&str> = missing.iter().flat_map(|need| need.packages).copied().collect();
    if packages.is_empty() || place::program("dpkg-query").is_none() {
        return Ok(packages);
    }
    // dpkg-query's exit code is 1 as soon as one package is unknown; what it does know is printed all the same.
    let format = "${Package} ${db:Status-Status}\n";
    let known = Command::new("dpkg-query").args(["--show", "--showformat", format]).args(&packages).output()?;
    for line in String::from_utf8_lossy(&known.stdout).lines() {
        if let Some((package, "installed")) = line.split_once(' ') {
            packages.remove(package);
        }
    }
    Ok(packages)
}

fn apt() -> Command {
    let mut apt = Command::new("apt-get");
    // Without a terminal to ask on, tshark's and others' configuration takes its defaults; another apt-get is waited for.
    apt.env("DEBIAN_FRONTEND", "noninteractive").args(["--quiet", "--option", "DPkg::Lock::Timeout=300"]);
    apt
}

fn cargo_install(need: &Need) -> Result<()> {
    let build = place::tools().join("build");
    let mut cargo = step::cargo();
    cargo.args(["install", "--locked", "--force", "--root"]).arg(place::tools()).args(need.crate_install);
    cargo.env("CARGO_TARGET_DIR", &build).env("LLVM_PREFIX", LLVM_PREFIX).env_remove("RUSTFLAGS");
    step::quiet(&format!("cargo install {}", need.name), need.name, &mut cargo)?;
    // Some hundred megabytes of no further use; a rebuild after a failed removal is still correct.
    let _ = fs::remove_dir_all(build);
    Ok(())
}

/// Whether this is the one system whose packages are known here: Debian 12.
pub(crate) fn can_install() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let has = |wanted: &str| release.lines().any(|line| line.replace('"', "") == wanted);
    has("ID=debian") && has("VERSION_ID=12") && place::program("apt-get").is_some()
}

/// "what (how)" for each thing, where xtask cannot install.
fn by_hand(missing: &[Need]) -> String {
    missing.iter().map(|need| format!("{} ({})", need.name, need.elsewhere)).collect::<Vec<_>>().join(", ")
}
