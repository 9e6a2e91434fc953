//! `cargo xtask test kernels`: does the object load and attach on the kernels we say we support?
//!
//! Boots Debian's kernels under QEMU's own emulation (no KVM), with an initramfs of busybox, bpftool and iproute2 taken from this machine. The kernels
//! come from Debian's packages and are unpacked below `target/kernels`; nothing is installed. Needs no root once the packages are there.

use crate::build_ebpf::Variant;
use crate::object::Object;
use crate::refusal::Refusal;
use crate::test::Tally;
use crate::{place, step};
use anyhow::{Context as _, Result, bail};
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A supported kernel: its series and the Debian meta package that depends on its newest build.
struct Kernel {
    series: &'static str,
    package: &'static str,
}

const KERNELS: [Kernel; 2] = [
    // The oldest: TC programs are attached over netlink, as there is no TCX before 6.6.
    Kernel { series: "6.1", package: "linux-image-cloud-amd64" },
    Kernel { series: "6.12", package: "linux-image-6.12-cloud-amd64" },
];

/// Modules the devices and hooks take, in the order they depend on each other.
const MODULES: [&str; 6] = ["veth", "udp_tunnel", "ip6_udp_tunnel", "vxlan", "sch_ingress", "cls_bpf"];

/// Programs of this machine that run in the booted one, besides busybox.
const PROGRAMS: [&str; 3] = ["bpftool", "ip", "tc"];

/// A boot takes seconds; the verifier under emulation some more. Beyond this the kernel hangs.
const DEADLINE: Duration = Duration::from_mins(2);

const INIT: &str = include_str!("kernels/init.sh");

/// Runs the suite on the object in `target/ebpf`. `filter` is part of a test's name; none means all of them.
pub(crate) fn run(filter: Option<&str>) -> Result<Tally> {
    println!("== kernels");
    let mut tally = Tally::default();
    for kernel in &KERNELS {
        let name = format!("loads and attaches on Linux {}", kernel.series);
        if filter.is_some_and(|filter| !name.contains(filter)) {
            continue;
        }
        let folder = unpacked(kernel)?;
        let initramfs = pack(&folder)?;
        let start = Instant::now();
        let console = boot(&folder, &initramfs)?;
        let said: Vec<&str> = console.lines().filter_map(|line| line.trim_end().strip_prefix("xtask: ")).collect();
        for line in &said {
            println!("  {line}");
        }
        let seconds = start.elapsed().as_secs_f64();
        if said.last() == Some(&"passed") {
            tally.passed += 1;
            println!("PASS {name} ({seconds:.1} s)");
        } else {
            print!("{console}");
            println!("FAIL {name} ({seconds:.1} s)");
            tally.fail(format!("kernels: FAILED {name}"));
        }
    }
    Ok(tally)
}

/// The kernel and its modules, downloaded and unpacked unless they are there already.
fn unpacked(kernel: &Kernel) -> Result<PathBuf> {
    let folder = place::workspace().join("target/kernels").join(kernel.series);
    if folder.join("vmlinuz").is_file() {
        return Ok(folder);
    }
    let work = folder.with_extension("unpacking");
    // What an interrupted run left is of no use.
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(work.join("tree")).with_context(|| format!("cannot create {}", work.display()))?;

    let package = newest(kernel.package)?;
    step::quiet(
        &format!("download {package}"),
        "kernel-download",
        Command::new("apt-get").args(["download", &package]).current_dir(&work),
    )?;
    let deb = entry_of(&work, |name| name.starts_with(&package))?;
    step::quiet(&format!("unpack {package}"), "kernel-unpack", Command::new("dpkg").arg("--extract").arg(&deb).arg(work.join("tree")))?;

    let ready = work.join("ready");
    fs::create_dir_all(ready.join("modules"))?;
    fs::rename(entry_of(&work.join("tree/boot"), |name| name.starts_with("vmlinuz-"))?, ready.join("vmlinuz"))?;
    let release = entry_of(&work.join("tree/lib/modules"), |_| true)?;
    for module in MODULES {
        unpack_module(&release, module, &ready.join("modules"))?;
    }
    let _ = fs::remove_dir_all(&folder);
    fs::rename(&ready, &folder).with_context(|| format!("cannot put {} in place", folder.display()))?;
    fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    Ok(folder)
}

/// The package a meta package stands for today.
fn newest(meta: &str) -> Result<String> {
    let depends = || step::output(Command::new("apt-cache").args(["depends", meta]));
    let named = |text: &str| {
        text.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-").map(|rest| format!("linux-image-{rest}")))
    };
    if let Some(package) = depends().ok().and_then(|text| named(&text)) {
        return Ok(package);
    }
    if !place::is_root() {
        return Err(Refusal(format!("apt does not know the package {meta}: run sudo apt-get update")).into());
    }
    step::quiet("apt-get update", "apt-update", Command::new("apt-get").arg("update"))?;
    named(&depends()?).with_context(|| format!("the Debian package {meta} depends on no kernel image"))
}

/// The one entry of a folder whose name fits.
fn entry_of(folder: &Path, fits: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let found = names.find(|path| path.file_name().is_some_and(|name| fits(&name.to_string_lossy())));
    found.with_context(|| format!("{} does not hold what a kernel package should", folder.display()))
}

/// Copies a module to `into`, decompressed: busybox's insmod takes plain files only.
fn unpack_module(release: &Path, module: &str, into: &Path) -> Result<()> {
    let listing = step::output(Command::new("find").arg(release).args(["-name", &format!("{module}.ko*")]))?;
    let file = listing.lines().map(Path::new).next().with_context(|| format!("the kernel package holds no module {module}"))?;
    let to = into.join(format!("{module}.ko"));
    if file.extension().is_some_and(|extension| extension == "xz") {
        let plain = fs::File::create(&to).with_context(|| format!("cannot create {}", to.display()))?;
        let status = Command::new("xz").args(["--decompress", "--stdout"]).arg(file).stdout(plain).status().context("cannot start xz")?;
        step::check(status).with_context(|| format!("xz cannot decompress {}", file.display()))
    } else {
        copy(file, &to)
    }
}

/// Packs the initramfs: init, busybox, our programs with their libraries, modules and the object.
fn pack(kernel: &Path) -> Result<PathBuf> {
    let root = kernel.join("root");
    let _ = fs::remove_dir_all(&root);
    for folder in ["bin", "modules", "dev"] {
        fs::create_dir_all(root.join(folder)).with_context(|| format!("cannot create {}", root.display()))?;
    }
    let init = root.join("init");
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    copy(&located("busybox")?, &root.join("bin/busybox"))?;
    for name in PROGRAMS {
        let program = located(name)?;
        copy(&program, &root.join("tools").join(name))?;
        for library in libraries(&program)? {
            copy(&library, &root.join(library.strip_prefix("/").unwrap_or(&library)))?;
        }
    }
    for module in MODULES {
        copy(&kernel.join("modules").join(format!("{module}.ko")), &root.join("modules").join(format!("{module}.ko")))?;
    }
    fs::write(root.join("modules/order"), MODULES.map(|module| format!("{module}.ko\n")).concat())?;

    let path = Variant::Release.path();
    let object = fs::read(&path).with_context(|| format!("cannot read {}: run cargo xtask build-ebpf", path.display()))?;
    let mut programs = String::new();
    for (name, program) in Object::parse(&object)?.programs {
        writeln!(programs, "{name} {}", program.section).expect("a String takes any text");
    }
    fs::write(root.join("object"), object)?;
    // Any bytes will do for running a program once more than never.
    fs::write(root.join("frame"), [0; 64])?;
    fs::write(root.join("programs"), programs)?;
    archive(&root, &kernel.join("initramfs"))
}

fn archive(root: &Path, file: &Path) -> Result<PathBuf> {
    let names = step::output(Command::new("find").arg(".").current_dir(root))?;
    let out = fs::File::create(file).with_context(|| format!("cannot create {}", file.display()))?;
    let mut cpio = Command::new("cpio")
        .args(["--quiet", "--create", "--format=newc", "--owner=+0:+0"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(out)
        .spawn()
        .context("cannot start cpio")?;
    cpio.stdin.take().expect("stdin is piped").write_all(names.as_bytes()).context("cpio does not read the list of files")?;
    step::check(cpio.wait()?).context("cpio cannot pack the initramfs")?;
    Ok(file.to_owned())
}

fn located(name: &str) -> Result<PathBuf> {
    place::program(name).with_context(|| format!("{name} is not installed: run cargo xtask setup kernels"))
}

/// Shared libraries and the loader, as `ldd` names them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listing = step::output(Command::new("ldd").arg(program))?;
    Ok(listing.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().expect("the target is a file in a folder");
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fs::copy(from, to).map(drop).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

/// Boots, waits for the machine to power off, and gives back what it printed.
fn boot(kernel: &Path, initramfs: &Path) -> Result<String> {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "768"])
        .args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"])
        .arg("-kernel")
        .arg(kernel.join("vmlinuz"))
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = qemu.spawn().with_context(|| format!("cannot start {}", step::describe(&qemu)))?;
    let mut stdout = child.stdout.take().expect("stdout is piped");
    let reader = std::thread::spawn(move || {
        let mut console = Vec::new();
        stdout.read_to_end(&mut console).map(|_| console)
    });
    let start = Instant::now();
    let hung = loop {
        if child.try_wait().context("cannot wait for QEMU")?.is_some() {
            break false;
        }
        if start.elapsed() > DEADLINE {
            child.kill().context("cannot stop QEMU")?;
            child.wait().context("cannot wait for QEMU")?;
            break true;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let console = match reader.join() {
        Ok(console) => console.context("cannot read the console")?,
        Err(_) => bail!("the thread that reads the console panicked"),
    };
    let mut console = String::from_utf8_lossy(&console).into_owned();
    if hung {
        console.push_str("\nQEMU was stopped: the kernel did not power off in time\n");
    }
    Ok(console)
}
