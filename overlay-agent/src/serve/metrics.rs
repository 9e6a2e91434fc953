//! The metrics as text, in the `OpenMetrics` format that Prometheus reads. docs/metrics.md lists them; a test compares. No I/O.

use super::Kernel;
use super::report::Snapshot;
use crate::clock::now;
use crate::cluster::{Health, SourceState};
use crate::datapath::Fill;
use crate::status;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode as encode_text;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;

/// The text's type.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// For how long passes took: from a node with few peers to one that waits for somebody else's lock.
pub(super) fn durations() -> Histogram {
    Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0])
}

/// All metrics as text; those of the kernel are left out if it was not read.
pub(super) fn encode(snapshot: Snapshot, durations: Histogram, kernel: Option<Kernel>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("overlay");
    // Registered help gets its full stop from the crate.
    registry.register_with_unit("pass_duration", "How long passes over everything took", Unit::Seconds, durations);
    registry.register_collector(Box::new(Reading { snapshot, kernel }));
    let mut text = String::new();
    encode_text(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Reading {
    snapshot: Snapshot,
    kernel: Option<Kernel>,
}

impl Collector for Reading {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut page = Page(encoder);
        let Snapshot { source, nodes, passes, problems, .. } = &self.snapshot;
        page.gauges("build_info", "The agent's version; always 1.", &[([("version", env!("CARGO_PKG_VERSION"))], 1)])?;
        page.gauge("ready", "Whether one whole pass was made since the agent started.", u64::from(self.snapshot.readiness().is_ok()))?;
        page.gauge("problems", "What `overlay-agent status` would name as a problem.", *problems as u64)?;
        page.gauge("nodes", "Nodes of the list that are used, this one among them.", nodes.known as u64)?;
        page.gauge(
            "nodes_rejected",
            "Nodes of the list that are left out, for a reason `overlay-agent status` names.",
            nodes.rejected as u64,
        )?;
        page.counter("passes", "Passes over everything since the agent started.", passes.made)?;
        page.counter("passes_failed", "Passes that left something undone.", passes.failed)?;
        page.counter("actions", "Things passes changed in the kernel.", passes.actions)?;
        if let Some(source) = source {
            page.source(source)?;
        }
        if let Some(kernel) = &self.kernel {
            page.kernel(kernel)?;
        }
        Ok(())
    }
}

/// The text as it grows.
struct Page<'a>(DescriptorEncoder<'a>);

/// One label and the value of its sample.
type Sample<'a> = ([(&'static str, &'a str); 1], u64);

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> Result<(), fmt::Error> {
        ConstGauge::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> Result<(), fmt::Error> {
        ConstCounter::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    fn gauges(&mut self, name: &str, help: &str, samples: &[Sample<'_>]) -> Result<(), fmt::Error> {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        samples.iter().try_for_each(|(labels, value)| ConstGauge::new(*value).encode(family.encode_family(labels)?))
    }

    fn counters<'a>(&mut self, name: &str, help: &str, samples: impl Iterator<Item = Sample<'a>>) -> Result<(), fmt::Error> {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn source(&mut self, source: &SourceState) -> Result<(), fmt::Error> {
        let healthy = source.health == Health::Healthy;
        let kind = source.kind.to_string();
        self.gauges("source_healthy", "Whether the list of nodes is current.", &[([("kind", &kind)], u64::from(healthy))])?;
        let current = match source.health {
            Health::Healthy => now().as_second(),
            // Of a picture from disk: when it was saved.
            Health::Failing | Health::Starting => source.stale_since.or(source.from_disk).map_or(0, jiff::Timestamp::as_second),
        };
        let help = "When the list of nodes was last known to be current; 0: there is none yet.";
        ConstGauge::new(current).encode(self.0.encode_descriptor(
            "source_last_current_timestamp",
            help,
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?)
    }

    fn kernel(&mut self, kernel: &Kernel) -> Result<(), fmt::Error> {
        let fills = |value: fn(&Fill) -> u32| -> Vec<Sample<'static>> {
            kernel.fills.iter().map(|fill| ([("map", fill.name)], value(fill).into())).collect()
        };
        self.gauges("map_entries", "Entries of a BPF map.", &fills(|fill| fill.entries))?;
        self.gauges("map_capacity", "Entries a BPF map has room for.", &fills(|fill| fill.capacity))?;
        let flows = || status::flows(&kernel.counters);
        let packets = flows().map(|(flow, packets, _)| ([("flow", flow.name())], packets));
        self.counters("packets", "Packets the programs handed on, by what became of them.", packets)?;
        let bytes = flows().map(|(flow, _, bytes)| ([("flow", flow.name())], bytes));
        self.counters("bytes", "Bytes of those packets.", bytes)?;
        let drops = status::drops(&kernel.counters).map(|(reason, packets)| ([("reason", reason.name())], packets));
        self.counters("dropped_packets", "Packets the programs dropped, by reason.", drops)
    }
}
