//! Which rung of the receive ladder is the fastest on this machine: measured, not believed.
//!
//! Three pairs of scratch nodes are made, one pair for each rung, in network namespaces without a name: each node by a whole pass of the
//! agent, each with a pod. Then the pairs do the same work in turn, several rounds long. Nothing leaves those namespaces, nothing of the
//! host's network is touched, and everything is gone at the end.
//!
//! A NIC of a machine's own cannot be driven from within. What stands for it depends on where its packets come from. A **virtual** NIC
//! hands on what another guest or namespace of the same machine sends, super-packets and all, until an XDP program is attached: a veth
//! does the same, and sockets drive it. A **physical** NIC hands frames to XDP before any skb exists: live frames do the same.
//!
//! [`Measurement::best`] is pure; [`record`] keeps the figures until the kernel or the programs change.

mod bed;
pub mod frames;
mod record;
mod render;
mod work;

pub use bed::remove_scratch;
pub use record::{RECORD, Record, RecordError};
pub use render::render_text;

use crate::datapath::{self, DatapathError, Generator};
use crate::netlink;
use crate::pod::PodError;
use bed::{Pair, Scratch};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// How often each pair does each work.
const ROUNDS: usize = 5;
/// A rung other than the usual one has to be faster by more than this: less is noise, and not worth a driver's restart.
const MARGIN: f64 = 1.05;

/// The rungs that are compared, the first being the one the others are compared with.
pub const RUNGS: [Rung; 3] = [Rung::Tc, Rung::Xdp, Rung::Kernel];

/// A rung that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rung {
    /// TC ingress.
    Tc,
    /// XDP in the driver.
    Xdp,
    /// The kernel's vxlan device.
    Kernel,
}

impl Rung {
    /// As `receive-mode` calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tc => "tc",
            Self::Xdp => "xdp",
            Self::Kernel => "kernel",
        }
    }
}

/// Where a NIC's packets come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A wire: frames, with their checksums filled in.
    Physical,
    /// The same machine: super-packets, whose checksums are still to be filled in.
    Virtual,
}

impl Class {
    /// The rung that is taken unless another one is measurably faster. Frames of a wire can be refused in XDP at a fraction of what an skb
    /// costs; on a virtual NIC, XDP ends the super-packets.
    #[must_use]
    pub const fn usual(self) -> Rung {
        match self {
            Self::Physical => Rung::Xdp,
            Self::Virtual => Rung::Tc,
        }
    }

    const fn works(self) -> &'static [Work] {
        match self {
            Self::Physical => &[Work::Frames],
            Self::Virtual => &[Work::Stream, Work::Requests],
        }
    }
}

/// What a pair does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Small packets as frames, one core: packets per second.
    Frames,
    /// A TCP stream: bytes per second.
    Stream,
    /// TCP requests and responses on several connections: responses per second.
    Requests,
}

impl Work {
    const ALL: [Self; 3] = [Self::Frames, Self::Stream, Self::Requests];

    /// For a person.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Frames => "small frames, one core",
            Self::Stream => "TCP stream",
            Self::Requests => "TCP requests",
        }
    }
}

/// What the rungs did at one work: one sample per round, so that the samples of a round were taken side by side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// The work; its unit is told there.
    pub work: Work,
    /// In the order of [`RUNGS`].
    pub samples: [Vec<f64>; RUNGS.len()],
}

/// The figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// When.
    pub at: Timestamp,
    /// One series per work.
    pub series: Vec<Series>,
}

/// What follows from the figures for a class of NICs.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The rung to take.
    pub rung: Rung,
    /// How fast each is beside the first, over all works of the class, in the order of [`RUNGS`].
    pub speeds: [f64; RUNGS.len()],
}

impl Measurement {
    /// The rung for a class: the usual one, unless another is faster by more than a twentieth.
    #[must_use]
    pub fn best(&self, class: Class) -> Choice {
        let works: Vec<&Series> = self.series.iter().filter(|series| class.works().contains(&series.work)).collect();
        let mut speeds = [1.0; RUNGS.len()];
        for (rung, speed) in speeds.iter_mut().enumerate() {
            // The geometric mean: twice as fast at one work and half as fast at another is neither better nor worse.
            let ratios = works.iter().filter_map(|series| series.ratio(rung));
            let (sum, count) = ratios.fold((0.0, 0.0), |(sum, count), ratio| (sum + ratio.ln(), count + 1.0));
            *speed = if count > 0.0 { f64::exp(sum / count) } else { 1.0 };
        }
        let ranked = RUNGS.into_iter().zip(speeds);
        let usual = ranked.clone().find(|(rung, _)| *rung == class.usual()).map_or(1.0, |(_, speed)| speed);
        let fastest = ranked.max_by(|a, b| a.1.total_cmp(&b.1)).filter(|(_, speed)| *speed > usual * MARGIN);
        Choice { rung: fastest.map_or(class.usual(), |(rung, _)| rung), speeds }
    }
}

impl Series {
    /// How much a rung, by its place in [`RUNGS`], did beside the first: the median of the rounds. `None` without a sample.
    #[must_use]
    pub fn ratio(&self, rung: usize) -> Option<f64> {
        let [first, ..] = &self.samples;
        let pairs = self.samples.get(rung)?.iter().zip(first);
        median(pairs.filter(|(a, b)| **a > 0.0 && **b > 0.0).map(|(a, b)| a / b).collect())
    }

    /// What a rung did: the median.
    #[must_use]
    pub fn median(&self, rung: usize) -> Option<f64> {
        median(self.samples.get(rung)?.clone())
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// Maps and programs.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// Namespaces and devices. Making a namespace takes `CAP_SYS_ADMIN`.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// A scratch pod.
    #[error(transparent)]
    Pod(#[from] PodError),
    /// A scratch node is not what it should be.
    #[error("a scratch node that receives by {rung} is incomplete: {errors}")]
    Node {
        /// Its rung.
        rung: &'static str,
        /// What its pass reported.
        errors: String,
    },
    /// Sockets or files.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Packets did not arrive.
    #[error("none of {work} arrived at a scratch node that receives by {rung}", work = work.title())]
    Lost {
        /// What was sent.
        work: Work,
        /// Its rung.
        rung: &'static str,
    },
}

/// Measures. Takes some seconds and both ends' CPU time; `told` is called with what is done next. Blocking.
///
/// `bpffs` is a BPF file system, on which a directory is used beside the agent's; what an interrupted measurement left in it is removed
/// first. Two at once would disturb each other: the caller holds the agent's lock.
///
/// # Errors
/// [`MeasureError`]; nothing is left behind.
pub fn measure(bpffs: &Path, told: &mut dyn FnMut(&str)) -> Result<Measurement, MeasureError> {
    // What the kernel or the build cannot do at all shows first.
    let mut generator = Generator::load()?;
    told("scratch nodes, two for each rung");
    let scratch = Scratch::create(bpffs)?;
    let pairs = RUNGS.iter().map(|rung| Pair::create(&scratch, *rung)).collect::<Result<Vec<_>, _>>()?;
    let mut series = Work::ALL.map(|work| Series { work, samples: [const { Vec::new() }; RUNGS.len()] });
    for round in 1..=ROUNDS {
        told(&format!("round {round} of {ROUNDS}"));
        for Series { work, samples } in &mut series {
            // The order turns: whoever comes first finds other caches than whoever comes last.
            for place in 0..pairs.len() {
                let rung = (place + round) % pairs.len();
                let (Some(pair), Some(samples)) = (pairs.get(rung), samples.get_mut(rung)) else { continue };
                samples.push(pair.work(*work, &mut generator)?);
            }
        }
    }
    Ok(Measurement { at: crate::clock::now(), series: series.into() })
}

/// What a measurement is true of: another kernel or other programs want a new one.
#[must_use]
pub fn subject() -> String {
    let kernel = nix::sys::utsname::uname().map_or_else(|_| String::new(), |name| name.release().to_string_lossy().into_owned());
    format!("Linux {kernel}, programs {:016x}", datapath::built_in_digest())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measurement(samples: &[(Work, [f64; 3])]) -> Measurement {
        let series = samples.iter().map(|(work, rates)| Series { work: *work, samples: rates.map(|rate| vec![rate; 3]) }).collect();
        Measurement { at: Timestamp::UNIX_EPOCH, series }
    }

    #[test]
    fn the_usual_rung_stays_unless_another_is_clearly_faster() {
        for (rates, physical, virtual_) in [
            ([100.0, 104.0, 50.0], Rung::Xdp, Rung::Tc),
            ([100.0, 97.0, 50.0], Rung::Xdp, Rung::Tc),
            ([100.0, 120.0, 50.0], Rung::Xdp, Rung::Xdp),
            ([100.0, 80.0, 50.0], Rung::Tc, Rung::Tc),
            ([100.0, 80.0, 300.0], Rung::Kernel, Rung::Kernel),
        ] {
            let all = Work::ALL.map(|work| (work, rates));
            assert_eq!(measurement(&all).best(Class::Physical).rung, physical, "{rates:?}");
            assert_eq!(measurement(&all).best(Class::Virtual).rung, virtual_, "{rates:?}");
        }
    }

    #[test]
    fn a_class_is_judged_by_its_own_works() {
        let measurement = measurement(&[
            (Work::Frames, [100.0, 200.0, 10.0]),
            (Work::Stream, [100.0, 50.0, 80.0]),
            (Work::Requests, [100.0, 200.0, 80.0]),
        ]);
        assert_eq!(measurement.best(Class::Physical).rung, Rung::Xdp);
        let choice = measurement.best(Class::Virtual);
        assert_eq!(choice.rung, Rung::Tc);
        assert!((choice.speeds[1] - 1.0).abs() < 1e-9 && (choice.speeds[2] - 0.8).abs() < 1e-9, "{choice:?}");
    }

    #[test]
    fn nothing_measured_leaves_the_usual_rung() {
        assert_eq!(measurement(&[]).best(Class::Physical).rung, Rung::Xdp);
        assert_eq!(measurement(&[(Work::Frames, [0.0; 3])]).best(Class::Physical).rung, Rung::Xdp);
    }
}
