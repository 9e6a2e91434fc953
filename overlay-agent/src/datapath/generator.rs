//! The generator and the sinks: frames at the rate the kernel can make them, and counters where they end.
//!
//! XDP live frames (`BPF_PROG_TEST_RUN` with `BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18) stand for a NIC: redirected into a veth they
//! arrive at its other end as a driver's frames do, in NAPI, batch by batch, before any skb exists.
//!
//! Attaches only to devices it is told of, in the network namespace of the calling thread, and pins nothing: what it attached goes with it.

use super::{DatapathError, privileges};
use aya::Ebpf;
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::tc::{SchedClassifierLinkId, TcAttachOptions};
use aya::programs::xdp::XdpLinkId;
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode};

/// The object this agent was built with; empty when it was built without the eBPF toolchain.
static BUILT_IN: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/generator"));

/// Frames of one batch: what a driver's NAPI poll takes at once.
const BATCH: u32 = 64;
/// Most frames the generator can hold.
pub const MAX_FRAMES: usize = 16_384;
/// Most bytes of a frame.
pub const MAX_FRAME: usize = size_of::<FrameBytes>();

/// `Frame` of `overlay-ebpf/src/bin/generator.rs`.
type FrameBytes = [u8; 120];
/// `Settings` there.
type SettingsWords = [u32; 4];
/// `Seen` there.
type SeenWords = [u64; 2];

const GENERATE: &str = "generate";
const DROP: &str = "drop_xdp";
const REDIRECT: &str = "redirect_xdp";
const SINK: &str = "sink";

/// The programs in the kernel.
pub struct Generator {
    ebpf: Ebpf,
    frames: Array<MapData, FrameBytes>,
    settings: Array<MapData, SettingsWords>,
    seen: PerCpuArray<MapData, SeenWords>,
    attached: Vec<Attached>,
    first: FrameBytes,
    length: usize,
}

/// A program on a device.
#[derive(Debug)]
enum Attached {
    Tc(SchedClassifierLinkId),
    Xdp(&'static str, XdpLinkId),
}

impl Generator {
    /// Loads the programs.
    ///
    /// # Errors
    /// [`DatapathError::NoObject`], or the kernel refuses a program.
    pub fn load() -> Result<Self, DatapathError> {
        if BUILT_IN.is_empty() {
            return Err(DatapathError::NoObject);
        }
        privileges::check()?;
        let mut ebpf = Ebpf::load(BUILT_IN)?;
        for name in [GENERATE, DROP, REDIRECT] {
            refused(name, xdp(&mut ebpf, name)?.load())?;
        }
        refused(SINK, sink(&mut ebpf)?.load())?;
        let mut map = |name| ebpf.take_map(name).ok_or(DatapathError::Missing { kind: "map", name });
        let (frames, settings, seen) = (map("FRAMES")?, map("SETTINGS")?, map("SEEN")?);
        let failed = |name| move |source| DatapathError::Map { name, source };
        Ok(Self {
            frames: frames.try_into().map_err(failed("FRAMES"))?,
            settings: settings.try_into().map_err(failed("SETTINGS"))?,
            seen: seen.try_into().map_err(failed("SEEN"))?,
            ebpf,
            attached: Vec::new(),
            first: [0; MAX_FRAME],
            length: 0,
        })
    }

    /// Counts and ends every IPv4 packet that reaches TC ingress of a device, before any program that is there.
    ///
    /// # Errors
    /// There is no such device, or the kernel has no TCX.
    pub fn sink_at(&mut self, device: &str) -> Result<(), DatapathError> {
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let link = sink(&mut self.ebpf)?.attach_with_options(device, TcAttachType::Ingress, options);
        self.attached.push(Attached::Tc(link.map_err(|error| not_attached(SINK, device, &error))?));
        Ok(())
    }

    /// Ends every frame in XDP of a device, and counts it.
    ///
    /// # Errors
    /// There is no such device, or it has an XDP program.
    pub fn drop_at(&mut self, device: &str) -> Result<(), DatapathError> {
        self.attach_xdp(DROP, device)
    }

    /// Redirects every frame from XDP of a device to another one, by index, and changes nothing in it.
    ///
    /// # Errors
    /// As [`Self::drop_at`].
    pub fn redirect_at(&mut self, device: &str, to: u32) -> Result<(), DatapathError> {
        let mut settings = self.settings()?;
        settings[3] = to;
        self.put_settings(settings)?;
        self.attach_xdp(REDIRECT, device)
    }

    fn attach_xdp(&mut self, name: &'static str, device: &str) -> Result<(), DatapathError> {
        let link = xdp(&mut self.ebpf, name)?.attach(device, XdpMode::Driver).map_err(|error| not_attached(name, device, &error))?;
        self.attached.push(Attached::Xdp(name, link));
        Ok(())
    }

    /// Takes every sink and limit off again.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn detach_all(&mut self) -> Result<(), DatapathError> {
        for attached in self.attached.drain(..) {
            match attached {
                Attached::Tc(link) => refused(SINK, sink(&mut self.ebpf)?.detach(link))?,
                Attached::Xdp(name, link) => refused(name, xdp(&mut self.ebpf, name)?.detach(link))?,
            }
        }
        Ok(())
    }

    /// Says what is sent, in turn from the first, and by which device, named by its index. No more than [`MAX_FRAMES`] frames of
    /// [`MAX_FRAME`] bytes are taken, and the length of the first counts for all.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_frames(&mut self, ifindex: u32, frames: &[impl AsRef<[u8]>]) -> Result<(), DatapathError> {
        let mut count = 0;
        for frame in frames.iter().take(MAX_FRAMES) {
            let mut bytes = [0; MAX_FRAME];
            let length = frame.as_ref().len().min(MAX_FRAME);
            bytes[..length].copy_from_slice(&frame.as_ref()[..length]);
            if count == 0 {
                (self.first, self.length) = (bytes, length);
            }
            self.frames.set(count, bytes, 0).map_err(|source| DatapathError::Map { name: "FRAMES", source })?;
            count += 1;
        }
        let [.., redirect] = self.settings()?;
        self.put_settings([count, ifindex, 0, redirect])
    }

    /// Makes so many frames and has them handled, on the CPU the caller runs on, in one system call. The device's other end needs NAPI:
    /// an XDP program, or GRO switched on. At its end the kernel waits for a grace period, tens of milliseconds.
    ///
    /// # Errors
    /// The kernel refuses to run the generator.
    pub fn send(&self, frames: u32) -> Result<(), DatapathError> {
        let program: &Xdp = self
            .ebpf
            .program(GENERATE)
            .and_then(|program| program.try_into().ok())
            .ok_or(DatapathError::Missing { kind: "XDP program", name: GENERATE })?;
        let mut options = TestRunOptions::new();
        options.data_in = self.first.get(..self.length);
        options.repeat = frames;
        options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
        refused(GENERATE, program.test_run(options)).map(drop)
    }

    /// Packets all sinks have counted since the programs were loaded.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn seen(&self) -> Result<u64, DatapathError> {
        let seen = self.seen.get(&0, 0).map_err(|source| DatapathError::Map { name: "SEEN", source })?;
        Ok(seen.iter().map(|[packets, _bytes]| packets).sum())
    }

    fn settings(&self) -> Result<SettingsWords, DatapathError> {
        self.settings.get(&0, 0).map_err(|source| DatapathError::Map { name: "SETTINGS", source })
    }

    fn put_settings(&mut self, settings: SettingsWords) -> Result<(), DatapathError> {
        self.settings.set(0, settings, 0).map_err(|source| DatapathError::Map { name: "SETTINGS", source })
    }
}

fn refused<T>(name: &'static str, result: Result<T, ProgramError>) -> Result<T, DatapathError> {
    result.map_err(|source| DatapathError::Program { name: name.to_owned(), source })
}

fn not_attached(program: &'static str, device: &str, error: &ProgramError) -> DatapathError {
    DatapathError::Attach { program, device: device.to_owned(), reason: error.to_string() }
}

fn xdp<'ebpf>(ebpf: &'ebpf mut Ebpf, name: &'static str) -> Result<&'ebpf mut Xdp, DatapathError> {
    ebpf.program_mut(name).and_then(|program| program.try_into().ok()).ok_or(DatapathError::Missing { kind: "XDP program", name })
}

fn sink(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, DatapathError> {
    ebpf.program_mut(SINK).and_then(|program| program.try_into().ok()).ok_or(DatapathError::Missing { kind: "TC program", name: SINK })
}
