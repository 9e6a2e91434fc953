//! What is compared: a system that forwards between two nodes, at a scale, and the word it has on the command line and in reports.
//!
//! ```text
//! [<build>-]<system>[-steered][-direct][-<services>][@<scale>]
//!
//! tc                 our agent, receiving in TC             flannel           the kernel's vxlan as flannel sets it up
//! xdp                the same, receiving in XDP             flannel-5000      with its rules and kube-proxy's for 5,000 services
//! tc-5000            with kube-proxy's rules                routes            kernel routes and veths, no encapsulation
//! tc-direct          without a tunnel (backend host-gw)
//! old-tc             of the build named `old`               none              pods on the underlay
//! tc@5000            with 5,000 nodes and 1,000 pods        tc@5000x1         with 5,000 nodes and one pod
//! ```

use crate::agent::ReceiveMode;
use anyhow::{Context as _, bail, ensure};
use std::fmt::{self, Write as _};
use std::str::FromStr;

/// What forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// Our agent, forced to a receive mode; with kube-proxy's rules for so many services on both nodes.
    Ours {
        /// How it receives.
        receive_mode: ReceiveMode,
        /// Services in kube-proxy's rules; none: no rules at all.
        services: Option<u32>,
        /// Each flow a pod sends stays on one CPU.
        steered: bool,
        /// The nodes send each other packets as they are: backend host-gw.
        direct: bool,
    },
    /// The kernel's vxlan, a bridge, routes and FDB entries as flannel sets them up; with flannel's rules and kube-proxy's.
    Flannel {
        /// Services in kube-proxy's rules; none: no rules at all.
        services: Option<u32>,
    },
    /// Kernel routes and veths: no bridge, no encapsulation.
    Routes,
    /// No overlay: the pods are on the underlay themselves.
    None,
}

/// How large the cluster is that both nodes of a pair are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scale {
    /// Other nodes that a node knows, its peer among them.
    pub nodes: u32,
    /// Pods on the receiving node; the sending one has one.
    pub pods: usize,
}

impl Scale {
    /// A small cluster.
    pub const SMALL: Self = Self { nodes: 3, pods: 2 };
    /// A large one.
    pub const LARGE: Self = Self { nodes: 5000, pods: 1000 };
}

/// A contender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContenderId {
    /// What forwards.
    pub system: System,
    /// The build it is of; none: this one. Only [`System::Ours`] has builds.
    pub build: Option<String>,
    /// In how large a cluster.
    pub scale: Scale,
}

impl ContenderId {
    /// This system of this build in a small cluster.
    #[must_use]
    pub const fn new(system: System) -> Self {
        Self { system, build: None, scale: Scale::SMALL }
    }

    /// Our agent of this build in a small cluster, with no rules beside it.
    #[must_use]
    pub const fn ours(receive_mode: ReceiveMode) -> Self {
        Self::new(System::Ours { receive_mode, services: None, steered: false, direct: false })
    }

    /// The same at another scale.
    #[must_use]
    pub fn at(mut self, scale: Scale) -> Self {
        self.scale = scale;
        self
    }

    /// Whether packets between the nodes are encapsulated.
    #[must_use]
    pub const fn is_tunnel(&self) -> bool {
        matches!(self.system, System::Ours { direct: false, .. } | System::Flannel { .. })
    }

    /// A name for a column or a chart.
    #[must_use]
    pub fn title(&self) -> String {
        let mut title = match self.system {
            System::Ours { receive_mode, direct: true, .. } => format!("direct, {}", receive_mode.name()),
            System::Ours { receive_mode, steered: false, .. } => format!("overlay, {}", receive_mode.name()),
            System::Ours { receive_mode, steered: true, .. } => format!("overlay, {}, steered", receive_mode.name()),
            System::Flannel { .. } => "kernel vxlan (flannel)".to_owned(),
            System::Routes => "kernel routes".to_owned(),
            System::None => "no overlay".to_owned(),
        };
        if let Some(services) = self.services() {
            let _ = write!(title, ", rules for {services} services");
        }
        if let Some(build) = &self.build {
            let _ = write!(title, ", build {build}");
        }
        if self.scale != Scale::SMALL {
            let _ = write!(title, ", {} nodes, {} pods", self.scale.nodes, self.scale.pods);
        }
        title
    }

    /// What it is, in a sentence.
    #[must_use]
    pub fn what(&self) -> &'static str {
        match self.system {
            System::Ours { direct: true, .. } => {
                "our agent and its programs with backend host-gw: no tunnel, source checks and counters on"
            }
            System::Ours { services: None, steered: true, .. } => "the same, each flow a pod sends kept on one CPU (RPS of its veth)",
            System::Ours { services: None, .. } => "our agent and its programs, source checks and counters on",
            System::Ours { services: Some(_), .. } => "our agent and its programs, kube-proxy's iptables rules beside them",
            System::Flannel { services: None } => {
                "the kernel's vxlan device, a bridge, routes and FDB entries, as flannel sets them up; no rules"
            }
            System::Flannel { services: Some(_) } => "the same with the iptables rules of flannel and of kube-proxy",
            System::Routes => "kernel routes and veths as host-gw and Calico without encapsulation have them; no bridge, no rules",
            System::None => "pods plugged into the underlay: the ceiling",
        }
    }

    /// Services in kube-proxy's rules on its nodes; none: there are no rules.
    #[must_use]
    pub const fn services(&self) -> Option<u32> {
        match self.system {
            System::Ours { services, .. } | System::Flannel { services } => services,
            System::Routes | System::None => None,
        }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, services) = match self {
            Self::Ours { receive_mode, services, steered, direct } => {
                let words = [(*steered, "-steered"), (*direct, "-direct")].map(|(is, word)| if is { word } else { "" });
                write!(f, "{}{}", receive_mode.name(), words.concat())?;
                ("", services)
            }
            Self::Flannel { services } => ("flannel", services),
            Self::Routes => ("routes", &None),
            Self::None => ("none", &None),
        };
        match services {
            Some(services) => write!(f, "{name}-{services}"),
            None => f.write_str(name),
        }
    }
}

impl FromStr for System {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (name, services) = match text.rsplit_once('-') {
            Some((name, services)) if services.bytes().all(|byte| byte.is_ascii_digit()) => (name, Some(services.parse()?)),
            _ => (text, None),
        };
        Ok(match (name, services) {
            ("flannel", services) => Self::Flannel { services },
            ("routes", None) => Self::Routes,
            ("none", None) => Self::None,
            _ => {
                let (name, direct) = name.strip_suffix("-direct").map_or((name, false), |name| (name, true));
                let (name, steered) = name.strip_suffix("-steered").map_or((name, false), |name| (name, true));
                let receive_mode = forced().find(|mode| mode.name() == name);
                let receive_mode = receive_mode.with_context(|| format!("there is no contender {text}"))?;
                Self::Ours { receive_mode, services, steered, direct }
            }
        })
    }
}

impl fmt::Display for ContenderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(build) = &self.build {
            write!(f, "{build}-")?;
        }
        write!(f, "{}", self.system)?;
        match self.scale {
            Scale::SMALL => Ok(()),
            Scale { nodes, pods } if pods == Scale::LARGE.pods => write!(f, "@{nodes}"),
            Scale { nodes, pods } => write!(f, "@{nodes}x{pods}"),
        }
    }
}

impl FromStr for ContenderId {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (name, scale) = match text.split_once('@') {
            None => (text, Scale::SMALL),
            Some((name, scale)) => (name, parse_scale(scale).with_context(|| format!("the scale of contender {text}"))?),
        };
        // A build's name may look like anything: the longest rest that is a system is one.
        if let Ok(system) = name.parse() {
            return Ok(Self { system, build: None, scale });
        }
        for (dash, _) in name.match_indices('-') {
            if let Ok(system @ System::Ours { .. }) = name[dash + 1..].parse() {
                ensure!(dash > 0, "the build of contender {text} has no name");
                return Ok(Self { system, build: Some(name[..dash].to_owned()), scale });
            }
        }
        let known: Vec<&str> = forced().map(ReceiveMode::name).chain(["flannel", "routes", "none"]).collect();
        bail!("there is no contender {text}: known are {}, with services and scale such as tc-5000@5000", known.join(", "))
    }
}

/// Every way to receive that an agent can be told.
fn forced() -> impl Iterator<Item = ReceiveMode> {
    ReceiveMode::FORCED.into_iter()
}

fn parse_scale(text: &str) -> anyhow::Result<Scale> {
    let (nodes, pods) = match text.split_once('x') {
        Some((nodes, pods)) => (nodes, pods.parse()?),
        None => (text, Scale::LARGE.pods),
    };
    let scale = Scale { nodes: nodes.parse()?, pods };
    ensure!(scale.nodes >= 1 && scale.pods >= 1, "a pair has two nodes and a pod on each");
    Ok(scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_again() {
        let names = [
            "tc",
            "xdp",
            "kernel",
            "tc-direct",
            "xdp-redirect-direct",
            "tc-steered-direct",
            "tc-5000",
            "flannel",
            "flannel-100",
            "routes",
            "none",
            "tc@5000",
            "xdp-100@7x2",
            "routes@5000x1",
        ];
        let of_builds = ["old-tc", "v1.2-rc1-xdp-5000@5000", "a-b-kernel", "old-xdp-redirect-direct"];
        for name in names.into_iter().chain(of_builds) {
            assert_eq!(name.parse::<ContenderId>().map(|id| id.to_string()).map_err(|error| error.to_string()), Ok(name.to_owned()));
        }
    }

    #[test]
    fn what_does_not_exist_is_refused() {
        for name in ["", "tcp", "auto", "none-5", "old-flannel", "-tc", "tc@", "tc@0", "tc@5000x0", "flannel-x"] {
            assert!(name.parse::<ContenderId>().is_err(), "{name}");
        }
    }
}
