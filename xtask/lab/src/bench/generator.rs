//! The generator and the sinks: frames at the rate the kernel can make them, and counters where they end.
//!
//! XDP live frames (`BPF_PROG_TEST_RUN` with `BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18) stand for a NIC: redirected into a veth they
//! arrive at its other end as a driver's frames do, in NAPI, batch by batch, before any skb exists. Generator and receiver share the core
//! the generator is pinned to: each batch is handled before the next is made, so nothing overflows, and what the sink counts per second
//! is what one core can do, the generator's own share (see the row of the XDP drop) included.
//!
//! The only module of the lab that uses aya. Touches the namespaces it is given, nothing else.

use crate::load::cpu::{self, CpuClock, CpuTime};
use crate::netns::Ns;
use anyhow::{Context as _, bail, ensure};
use aya::Ebpf;
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::tc::SchedClassifierLinkId;
use aya::programs::xdp::XdpLinkId;
use aya::programs::{SchedClassifier, TcAttachType, TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use std::path::Path;
use std::time::{Duration, Instant};

/// Frames of one batch: what a driver's NAPI poll takes at once.
const BATCH: u32 = 64;
/// Frames of the run that warms up and tells how many the counted one needs.
const TRIAL: u32 = 64 * 1024;
/// Most frames the generator can hold.
pub const MAX_FRAMES: usize = 16_384;

/// `Frame` of `overlay-ebpf/src/bin/bench.rs`.
type FrameBytes = [u8; 120];
/// `Settings` there.
type SettingsWords = [u32; 4];
/// `Seen` there.
type SeenWords = [u64; 2];

/// The bench's programs in the kernel.
pub struct Generator {
    ebpf: Ebpf,
    frames: Array<MapData, FrameBytes>,
    settings: Array<MapData, SettingsWords>,
    seen: PerCpuArray<MapData, SeenWords>,
    attached: Vec<Attached>,
}

/// A program on a device.
enum Attached {
    Tc(SchedClassifierLinkId),
    Xdp(&'static str, XdpLinkId),
}

/// What a stream of frames became.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// Frames the generator made.
    pub sent: u64,
    /// Packets the sink saw.
    pub received: u64,
    /// Time on the clock and on all cores.
    pub time: CpuTime,
}

impl Stream {
    /// Packets per second and busy core. Work that was handed to another core counts as that core's.
    #[must_use]
    pub fn per_core(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate to be read by a person")]
        let received = self.received as f64;
        received / self.core_seconds()
    }

    /// Nanoseconds of CPU time per packet, the generator's included.
    #[must_use]
    pub fn nanoseconds_per_packet(&self) -> f64 {
        1e9 / self.per_core()
    }

    /// Seconds of one core. The generator never sleeps, so one core was busy all the time; the accounting, which samples, may say less.
    fn core_seconds(&self) -> f64 {
        self.time.busy.max(self.time.wall).as_secs_f64()
    }
}

impl Generator {
    /// Loads the programs.
    ///
    /// # Errors
    /// There is no object (`cargo xtask build-ebpf --bench`), or the kernel refuses it.
    pub fn load() -> anyhow::Result<Self> {
        let object = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/ebpf/bench");
        ensure!(object.is_file(), "no eBPF object at {}: run `cargo xtask build-ebpf --bench`", object.display());
        let mut ebpf = Ebpf::load_file(&object).with_context(|| format!("load {}", object.display()))?;
        for name in ["generate", "drop_xdp", "redirect_xdp"] {
            xdp(&mut ebpf, name)?.load().with_context(|| format!("load program {name}"))?;
        }
        sink(&mut ebpf)?.load().context("load program sink")?;
        let mut map = |name: &str| ebpf.take_map(name).with_context(|| format!("the object has no map {name}"));
        let (frames, settings, seen) = (map("FRAMES")?.try_into()?, map("SETTINGS")?.try_into()?, map("SEEN")?.try_into()?);
        Ok(Self { ebpf, frames, settings, seen, attached: Vec::new() })
    }

    /// Counts and ends every IPv4 packet that reaches TC ingress of a device, before any program that is there.
    ///
    /// # Errors
    /// There is no such device, or the kernel has no TCX.
    pub fn sink_at(&mut self, ns: &Ns, interface: &str) -> anyhow::Result<()> {
        let program = sink(&mut self.ebpf)?;
        let options = aya::programs::tc::TcAttachOptions::TcxOrder(aya::programs::LinkOrder::first());
        let link = ns
            .enter(|| program.attach_with_options(interface, TcAttachType::Ingress, options))?
            .with_context(|| format!("attach the sink to {interface} of {}", ns.name()))?;
        self.attached.push(Attached::Tc(link));
        Ok(())
    }

    /// Ends every frame in XDP of a device.
    ///
    /// # Errors
    /// As [`Self::sink_at`]; the device has an XDP program already.
    pub fn drop_at(&mut self, ns: &Ns, interface: &str) -> anyhow::Result<()> {
        self.attach_xdp("drop_xdp", ns, interface)
    }

    /// Redirects every frame from XDP of a device to another one, and changes nothing in it.
    ///
    /// # Errors
    /// As [`Self::drop_at`].
    pub fn redirect_at(&mut self, ns: &Ns, interface: &str, to: &str) -> anyhow::Result<()> {
        let mut settings = self.settings.get(&0, 0)?;
        settings[3] = ifindex(ns, to)?;
        self.settings.set(0, settings, 0)?;
        self.attach_xdp("redirect_xdp", ns, interface)
    }

    fn attach_xdp(&mut self, name: &'static str, ns: &Ns, interface: &str) -> anyhow::Result<()> {
        let program = xdp(&mut self.ebpf, name)?;
        let link = ns
            .enter(|| program.attach(interface, XdpMode::Driver))?
            .with_context(|| format!("attach {name} to {interface} of {}", ns.name()))?;
        self.attached.push(Attached::Xdp(name, link));
        Ok(())
    }

    /// Takes every sink and limit off again.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn detach_all(&mut self) -> anyhow::Result<()> {
        for attached in self.attached.drain(..) {
            match attached {
                Attached::Tc(link) => sink(&mut self.ebpf)?.detach(link)?,
                Attached::Xdp(name, link) => xdp(&mut self.ebpf, name)?.detach(link)?,
            }
        }
        Ok(())
    }

    /// Sends `frames` in turn out of a device, all of one length, for about `duration`, from one core.
    ///
    /// The other end of the device needs NAPI: an XDP program, or GRO switched on.
    ///
    /// # Errors
    /// No frames, too many, or of different lengths; the kernel refuses to run the generator.
    pub fn run(&mut self, ns: &Ns, interface: &str, frames: &[impl AsRef<[u8]>], duration: Duration) -> anyhow::Result<Stream> {
        let first = frames.first().context("no frame to send")?.as_ref();
        ensure!(frames.len() <= MAX_FRAMES, "{} frames, of which {MAX_FRAMES} are possible", frames.len());
        for (index, frame) in (0..).zip(frames) {
            let frame = frame.as_ref();
            ensure!(frame.len() == first.len(), "a frame of {} bytes among frames of {}", frame.len(), first.len());
            let mut bytes = [0; size_of::<FrameBytes>()];
            bytes.get_mut(..frame.len()).context("a frame is too long")?.copy_from_slice(frame);
            self.frames.set(index, bytes, 0)?;
        }
        let [_, _, _, redirect] = self.settings.get(&0, 0)?;
        self.settings.set(0, [u32::try_from(frames.len())?, ifindex(ns, interface)?, 0, redirect], 0)?;
        let program: &Xdp = self.ebpf.program("generate").context("the object has no program generate")?.try_into()?;
        let seen = &self.seen;
        ns.enter(|| {
            cpu::pin(std::thread::available_parallelism()?.get() - 1)?;
            let trial = Instant::now();
            live_frames(program, first, TRIAL)?;
            // One system call for all of it: the kernel waits for a grace period at the end of each, tens of milliseconds.
            let frames = f64::from(TRIAL) * duration.as_secs_f64() / trial.elapsed().as_secs_f64();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and is positive")]
            let frames = (frames as u32).max(TRIAL);
            let before = packets(seen)?;
            let clock = CpuClock::start()?;
            live_frames(program, first, frames)?;
            Ok(Stream { sent: frames.into(), time: clock.stop()?, received: packets(seen)? - before })
        })?
    }
}

/// One system call: makes and handles so many frames.
fn live_frames(program: &Xdp, data: &[u8], frames: u32) -> anyhow::Result<()> {
    let mut options = TestRunOptions::new();
    options.data_in = Some(data);
    options.repeat = frames;
    options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
    program.test_run(options).context("run the generator")?;
    Ok(())
}

fn packets(seen: &PerCpuArray<MapData, SeenWords>) -> anyhow::Result<u64> {
    Ok(seen.get(&0, 0)?.iter().map(|[packets, _bytes]| packets).sum())
}

fn xdp<'ebpf>(ebpf: &'ebpf mut Ebpf, name: &str) -> anyhow::Result<&'ebpf mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?.try_into()?)
}

fn sink(ebpf: &mut Ebpf) -> anyhow::Result<&mut SchedClassifier> {
    Ok(ebpf.program_mut("sink").context("the object has no program sink")?.try_into()?)
}

/// Index of a device.
fn ifindex(ns: &Ns, interface: &str) -> anyhow::Result<u32> {
    match ns.enter(|| nix::net::if_::if_nametoindex(interface))? {
        Ok(index) => Ok(index),
        Err(error) => bail!("no device {interface} in {}: {error}", ns.name()),
    }
}
