//! `cargo xtask build-ebpf`: compiles overlay-ebpf for BPF and reports what came out.
//!
//! The object is copied to `target/ebpf`, where the agent's build script and the tests look for it. The copy is written only when it
//! differs, so that an unchanged object does not rebuild the agent.

use crate::object::Object;
use crate::setup::{self, Purpose};
use crate::toolchain::{self, Core, TARGET, Toolchain};
use crate::{place, step};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compile the eBPF programs and report toolchain, size, programs and maps.
///
/// The object goes to target/ebpf: overlay-ebpf, overlay-ebpf-debug, overlay-ebpf-log or generator.
#[derive(clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct Args {
    /// With aya-log lines: the agent loads such an object, bpftool refuses it.
    #[arg(long, conflicts_with_all = ["debug", "release", "experiment", "generator"])]
    log: bool,
    /// The two programs behind ADR 0001 instead of the released object: docs/adr/0001-measure.sh runs them.
    #[arg(long, conflicts_with_all = ["debug", "release"])]
    experiment: bool,
    /// What measuring takes instead of the released object: generator and sinks. The agent embeds both; every other verb builds both.
    #[arg(long, conflicts_with_all = ["debug", "release", "experiment"])]
    generator: bool,
    /// Cargo's dev profile, optimised only as far as the verifier needs: for looking at single functions.
    #[arg(long)]
    debug: bool,
    /// The default; what the agent embeds.
    #[arg(long, conflicts_with = "debug")]
    release: bool,
}

/// Which object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// What the agent embeds.
    Release,
    /// Less optimised.
    Debug,
    /// Release with aya-log lines.
    Log,
    /// The programs of ADR 0001.
    Experiment,
    /// Generator and sinks for measuring; the agent embeds it too.
    Generator,
}

impl Variant {
    /// Where the object is put.
    pub(crate) fn path(self) -> PathBuf {
        place::ebpf_objects().join(match self {
            Self::Release => "overlay-ebpf",
            Self::Debug => "overlay-ebpf-debug",
            Self::Log => "overlay-ebpf-log",
            Self::Experiment => "view_cost",
            Self::Generator => "generator",
        })
    }

    /// The binary of the crate, and the feature it takes.
    fn binary(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Release | Self::Debug => ("overlay-ebpf", None),
            Self::Log => ("overlay-ebpf", Some("log")),
            Self::Experiment => ("view_cost", Some("experiment")),
            Self::Generator => ("generator", Some("generator")),
        }
    }

    /// Name of cargo's output folder.
    fn profile(self) -> &'static str {
        if self == Self::Debug { "debug" } else { "release" }
    }
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<()> {
    let variant = match args {
        Args { log: true, .. } => Variant::Log,
        Args { debug: true, .. } => Variant::Debug,
        Args { experiment: true, .. } => Variant::Experiment,
        Args { generator: true, .. } => Variant::Generator,
        _ => Variant::Release,
    };
    setup::ensure(&[Purpose::Ebpf])?;
    let built = build(variant)?;
    print!("{built}");
    Ok(())
}

/// What was built, and by what.
pub(crate) struct Built {
    toolchain: String,
    linker: String,
    path: PathBuf,
    object: Object,
}

/// Compiles everything the agent embeds; returns the released object. `setup` must have been ensured.
pub(crate) fn build_embedded() -> Result<Built> {
    build(Variant::Generator)?;
    build(Variant::Release)
}

/// Compiles one variant, checks it and puts it in place. `setup` must have been ensured.
pub(crate) fn build(variant: Variant) -> Result<Built> {
    let (Some(toolchain), Some(linker)) = (Toolchain::find(), toolchain::linker()) else {
        bail!("no toolchain for BPF or no bpf-linker: run cargo xtask setup ebpf");
    };
    let version = toolchain.version()?;
    let mut cargo = command(&toolchain, &linker, &version.host, "build");
    if variant != Variant::Debug {
        cargo.arg("--release");
    }
    let (bin, feature) = variant.binary();
    cargo.args(["--bin", bin]);
    if let Some(feature) = feature {
        cargo.args(["--features", feature]);
    }
    step::loud(&mut cargo).with_context(|| {
        let (linker, llvm) = (linker.display(), &version.llvm);
        format!("overlay-ebpf did not compile; if it was the linker: {linker} must be built with LLVM {llvm} or later")
    })?;

    let built = place::ebpf_build().join(TARGET).join(variant.profile()).join(bin);
    let bytes = fs::read(&built).with_context(|| format!("cargo left no object at {}", built.display()))?;
    let object = Object::parse(&bytes).with_context(|| format!("{} is not what an eBPF object looks like", built.display()))?;
    if object.has_legacy_maps && variant != Variant::Log {
        bail!("the object has a legacy \"maps\" section, which bpftool refuses: declare the map with #[btf_map] instead of #[map]");
    }
    let path = variant.path();
    put(&path, &bytes)?;
    let core = match toolchain.core {
        Core::Prebuilt => "core prebuilt",
        Core::FromSource => "core from rust-src",
    };
    let toolchain = format!("rustc {} (LLVM {}) at {}, {core}", version.release, version.llvm, toolchain.sysroot.display());
    Ok(Built { toolchain, linker: format!("{} at {}", toolchain::linker_version(&linker)?, linker.display()), path, object })
}

/// `cargo <subcommand> --package overlay-ebpf` with everything that compiling for BPF takes.
pub(crate) fn command(toolchain: &Toolchain, linker: &Path, host: &str, subcommand: &str) -> Command {
    let arch = host.split('-').next().unwrap_or(host);
    let linker = linker.display();
    let flags = [
        // Atomic operations that return a value need v3; every kernel since 5.1 has it.
        "-Ctarget-cpu=v3".to_owned(),
        // What `pt_regs` and the like look like: the machine the programs will run on.
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        format!("-Clinker={linker}"),
        "-Clink-arg=--btf".to_owned(),
        // bpf-linker makes BTF from full debug info.
        "-Cdebuginfo=2".to_owned(),
    ];
    let mut cargo = toolchain.cargo(subcommand);
    cargo.args(["--package", "overlay-ebpf", "--target", TARGET]);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    cargo.env("CARGO_TARGET_DIR", place::ebpf_build());
    // The dev profile as the verifier needs it: no panicking checks, and optimised enough to keep loops and stack small.
    cargo.envs([
        ("CARGO_PROFILE_DEV_OPT_LEVEL", "2"),
        ("CARGO_PROFILE_DEV_CODEGEN_UNITS", "1"),
        ("CARGO_PROFILE_DEV_DEBUG_ASSERTIONS", "false"),
        ("CARGO_PROFILE_DEV_OVERFLOW_CHECKS", "false"),
        ("CARGO_PROFILE_DEV_INCREMENTAL", "false"),
    ]);
    match toolchain.core {
        // Unstable features for exactly the crates that declare them.
        Core::Prebuilt => cargo.env("RUSTC_BOOTSTRAP", "aya_ebpf,overlay_ebpf"),
        // `-Z build-std` is cargo's own unstable flag, and core itself is compiled: nothing narrower than "1" will do.
        Core::FromSource => cargo.env("RUSTC_BOOTSTRAP", "1").args(["-Z", "build-std=core"]),
    };
    cargo
}

/// Writes the file unless it already holds these bytes. The rename keeps a reader from seeing half of it.
fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let folder = path.parent().expect("an object's path has a folder");
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let new = path.with_extension("new");
    fs::write(&new, bytes).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("cannot replace {}", path.display()))
}

impl std::fmt::Display for Built {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.path.strip_prefix(place::workspace()).unwrap_or(&self.path);
        writeln!(f, "toolchain  {}", self.toolchain)?;
        writeln!(f, "linker     {}", self.linker)?;
        writeln!(f, "object     {}, {} bytes", path.display(), self.object.size)?;
        write!(f, "{}", self.object)
    }
}
