//! Streams of small packets: the agent's generator, driven and timed.
//!
//! Generator and receiver share the core the generator is pinned to: each batch is handled before the next is made, so nothing
//! overflows, and what the sink counts per second is what one core can do, the generator's own share (see the row of the XDP drop)
//! included. Touches the namespaces it is given, nothing else.

use crate::load::cpu::{self, CpuClock, CpuTime};
use crate::netns::Ns;
use anyhow::{Context as _, bail, ensure};
use overlay_agent::datapath::{self, MAX_FRAME, MAX_FRAMES};
use std::time::{Duration, Instant};

/// Frames of the run that warms up and tells how many the counted one needs.
const TRIAL: u32 = 64 * 1024;

/// The bench's programs in the kernel.
pub struct Generator(datapath::Generator);

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
    /// The lab was built without the object (`cargo xtask build`), or the kernel refuses it.
    pub fn load() -> anyhow::Result<Self> {
        Ok(Self(datapath::Generator::load()?))
    }

    /// Counts and ends every IPv4 packet that reaches TC ingress of a device, before any program that is there.
    ///
    /// # Errors
    /// There is no such device, or the kernel has no TCX.
    pub fn sink_at(&mut self, ns: &Ns, interface: &str) -> anyhow::Result<()> {
        ns.enter(|| self.0.sink_at(interface))?.with_context(|| ns.name().to_owned())
    }

    /// Ends every frame in XDP of a device.
    ///
    /// # Errors
    /// As [`Self::sink_at`]; the device has an XDP program already.
    pub fn drop_at(&mut self, ns: &Ns, interface: &str) -> anyhow::Result<()> {
        ns.enter(|| self.0.drop_at(interface))?.with_context(|| ns.name().to_owned())
    }

    /// Redirects every frame from XDP of a device to another one, and changes nothing in it.
    ///
    /// # Errors
    /// As [`Self::drop_at`].
    pub fn redirect_at(&mut self, ns: &Ns, interface: &str, to: &str) -> anyhow::Result<()> {
        let to = ifindex(ns, to)?;
        ns.enter(|| self.0.redirect_at(interface, to))?.with_context(|| ns.name().to_owned())
    }

    /// Takes every sink and limit off again.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn detach_all(&mut self) -> anyhow::Result<()> {
        Ok(self.0.detach_all()?)
    }

    /// Sends `frames` in turn out of a device, all of one length, for about `duration`, from one core.
    ///
    /// The other end of the device needs NAPI: an XDP program, or GRO switched on.
    ///
    /// # Errors
    /// No frames, too many, or of different lengths; the kernel refuses to run the generator.
    pub fn run(&mut self, ns: &Ns, interface: &str, frames: &[impl AsRef<[u8]>], duration: Duration) -> anyhow::Result<Stream> {
        let length = frames.first().context("no frame to send")?.as_ref().len();
        ensure!(frames.len() <= MAX_FRAMES && length <= MAX_FRAME, "{} frames of {length} bytes are too many", frames.len());
        ensure!(frames.iter().all(|frame| frame.as_ref().len() == length), "frames of different lengths");
        self.0.set_frames(ifindex(ns, interface)?, frames)?;
        let generator = &self.0;
        ns.enter(|| {
            cpu::pin(std::thread::available_parallelism()?.get() - 1)?;
            let trial = Instant::now();
            generator.send(TRIAL)?;
            // One system call for all of it: the kernel waits for a grace period at the end of each, tens of milliseconds.
            let frames = f64::from(TRIAL) * duration.as_secs_f64() / trial.elapsed().as_secs_f64();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and is positive")]
            let frames = (frames as u32).max(TRIAL);
            let before = generator.seen()?;
            let clock = CpuClock::start()?;
            generator.send(frames)?;
            Ok(Stream { sent: frames.into(), time: clock.stop()?, received: generator.seen()? - before })
        })?
    }
}

/// Index of a device.
fn ifindex(ns: &Ns, interface: &str) -> anyhow::Result<u32> {
    match ns.enter(|| nix::net::if_::if_nametoindex(interface))? {
        Ok(index) => Ok(index),
        Err(error) => bail!("no device {interface} in {}: {error}", ns.name()),
    }
}
