//! The scratch nodes: two namespaces with a cable between them, each made a node by a pass of the agent, each with a pod.
//!
//! Everything is in namespaces without a name and in one directory of the BPF file system; both go with the values here.

use super::{MeasureError, Rung, Work, frames, work};
use crate::address::Method;
use crate::backend::Backend;
use crate::cli::{LogFormat, ReceiveMode};
use crate::cluster::{Health, SourceKind, SourceState};
use crate::config::{self, Config, Directories, Source};
use crate::datapath::Generator;
use crate::model::{AddressOrigin, ClusterNode, Mac, Topology};
use crate::netlink::{Cable, CableEnd, Namespace, Netlink, ethtool};
use crate::pod::{self, PodRequest};
use crate::reconcile::pass::{Look, Node};
use crate::serve::Listen;
use crate::status::Status;
use frames::{Datagram, Link, Tunnel};
use ipnet::Ipv4Net;
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Runtime;

/// Name of the cable's ends, the NICs of the scratch nodes.
const NIC: &str = "eth0";
/// Name of a pod's device, in the pod.
const POD_DEVICE: &str = "eth0";
/// Name of its other end, on the node.
const POD_VETH: &str = "pod0";
/// Flows of the small frames.
const FLOWS: u16 = 64;

/// Name of the directory of scratch nodes on a BPF file system.
const SCRATCH: &str = "overlay-measure";

/// Removes what a measurement that was killed left on the BPF file system. `false`: nothing was there.
///
/// # Errors
/// The directory cannot be removed.
pub fn remove_scratch(bpffs: &Path) -> Result<bool, MeasureError> {
    // Pins are files, and nothing needs them to go in a certain order: nobody sends to a scratch node any more.
    match fs::remove_dir_all(bpffs.join(SCRATCH)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(source) => Err(MeasureError::Io { what: "remove the directory of scratch maps", source }),
    }
}

/// The directory scratch nodes pin their maps in, below a BPF file system.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn create(bpffs: &Path) -> Result<Self, MeasureError> {
        remove_scratch(bpffs)?;
        make_directory(&bpffs.join(SCRATCH))?;
        Ok(Self(bpffs.to_owned()))
    }

    /// A directory for one node.
    fn node(&self, name: &str) -> Result<PathBuf, MeasureError> {
        let path = self.0.join(SCRATCH).join(name);
        make_directory(&path)?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The next measurement tries again, and `overlay-agent cleanup` does.
        let _ = remove_scratch(&self.0);
    }
}

fn make_directory(path: &Path) -> Result<(), MeasureError> {
    let made = DirBuilder::new().mode(0o700).create(path);
    made.map_err(|source| MeasureError::Io { what: "make a directory for scratch maps", source })
}

/// Two nodes that receive by the same rung: the first sends, the second receives.
pub(super) struct Pair {
    rung: Rung,
    near: End,
    far: End,
}

/// A scratch node and its pod.
pub(super) struct End {
    node: Namespace,
    pub(super) pod: Namespace,
    place: Place,
}

/// Names and numbers of an end. The same in every pair: they never meet.
#[derive(Clone, Copy)]
struct Place {
    name: &'static str,
    address: Ipv4Addr,
    nic: Mac,
    pod: Ipv4Addr,
}

/// RFC 2544's network for measurements, in halves: `.0` the cable, `.1` and `.2` the pods.
const NEAR: Place =
    Place { name: "near", address: Ipv4Addr::new(198, 18, 0, 1), nic: Mac([0x0a, 0x4d, 0, 0, 0, 1]), pod: Ipv4Addr::new(198, 18, 1, 2) };
/// See [`NEAR`].
const FAR: Place =
    Place { name: "far", address: Ipv4Addr::new(198, 18, 0, 2), nic: Mac([0x0a, 0x4d, 0, 0, 0, 2]), pod: Ipv4Addr::new(198, 18, 2, 2) };

impl Place {
    fn cluster_node(self) -> ClusterNode {
        ClusterNode {
            name: self.name.to_owned(),
            address: self.address,
            given_by: AddressOrigin::InternalIp,
            internal_ip: Some(self.address),
            pod_cidr: Ipv4Net::new_assert(self.pod, 24).trunc(),
            vtep_mac: Mac::derived_from(self.address),
            no_tunnel: false,
            notice: None,
        }
    }

    const fn cable_end(self) -> CableEnd {
        CableEnd { name: NIC, mac: self.nic, address: self.address }
    }
}

impl Pair {
    pub(super) fn create(scratch: &Scratch, rung: Rung) -> Result<Self, MeasureError> {
        let near = End { node: Namespace::create()?, pod: Namespace::create()?, place: NEAR };
        let far = End { node: Namespace::create()?, pod: Namespace::create()?, place: FAR };
        let cable = Cable { near: NEAR.cable_end(), far: FAR.cable_end(), prefix: 24, mtu: 1500 };
        runtime()?.block_on(async { Netlink::connect_in(&near.node)?.create_cable(&cable, &far.node).await })?;
        for end in [&near, &far] {
            let bpffs = scratch.node(&format!("{}-{}", rung.name(), end.place.name))?;
            end.start(&bpffs, rung)?;
        }
        // A veth takes redirected frames only if its other end has NAPI.
        let gro = |source| MeasureError::Io { what: "switch GRO of a scratch NIC on", source };
        far.node.run(|| ethtool::set_gro(NIC, true))?.map_err(gro)?;
        Ok(Self { rung, near, far })
    }

    /// Does a work once; the figure is told at [`Work`].
    pub(super) fn work(&self, work: Work, generator: &mut Generator) -> Result<f64, MeasureError> {
        let rate = match work {
            Work::Stream => work::stream(&self.near.pod, &self.far.pod, FAR.pod)?,
            Work::Requests => work::requests(&self.near.pod, &self.far.pod, FAR.pod)?,
            Work::Frames => {
                self.far.pod.run(|| generator.sink_at(POD_DEVICE))??;
                let sent = self.near.node.run(|| work::frames(generator, NIC, &tunnelled()))?;
                generator.detach_all()?;
                sent?
            }
        };
        if rate > 0.0 { Ok(rate) } else { Err(MeasureError::Lost { work, rung: self.rung.name() }) }
    }
}

impl End {
    /// Makes the namespace a node, by the agent's own pass, and wires its pod.
    fn start(&self, bpffs: &Path, rung: Rung) -> Result<(), MeasureError> {
        let config = config(self.place, bpffs, rung);
        let nodes = [NEAR, FAR].map(|place| (place.name.to_owned(), place.cluster_node())).into();
        let topology = Arc::new(Topology { nodes, rejected: Vec::new(), unconfirmed: false });
        self.node.run(|| -> Result<(), MeasureError> {
            let mut status = Status::new(config.node_name.clone(), no_source());
            let complete = runtime()?.block_on(async {
                let mut node = Node::new(&config, Netlink::connect()?)?;
                Ok::<_, MeasureError>(node.pass(&topology, Look::Everything, &mut status).await)
            })?;
            if !complete {
                let errors = status.last_pass.map(|pass| pass.errors.join("; ")).unwrap_or_default();
                return Err(MeasureError::Node { rung: rung.name(), errors });
            }
            let namespace = PathBuf::from(format!("/proc/self/fd/{}", self.pod.as_raw_fd()));
            let request = PodRequest {
                host_name: POD_VETH,
                title: "",
                namespace: &namespace,
                pod_name: POD_DEVICE,
                address: self.place.pod,
                mac: None,
                steer_flows: false,
            };
            pod::wire(bpffs, &request)?;
            Ok(())
        })?
    }
}

/// Small packets from the near pod to the far one, in the tunnel.
fn tunnelled() -> Vec<[u8; frames::TUNNELLED_LEN]> {
    let (near, far) = (NEAR.cluster_node(), FAR.cluster_node());
    let tunnel = Tunnel {
        underlay: Link { source: NEAR.nic.0, destination: FAR.nic.0 },
        overlay: Link { source: near.vtep_mac.0, destination: far.vtep_mac.0 },
        source: near.address,
        destination: far.address,
        port: config::DEFAULT_PORT,
        vni: config::DEFAULT_VNI,
    };
    (0..FLOWS).map(|flow| frames::tunnelled(&tunnel, &Datagram::of_flow(NEAR.pod, FAR.pod, flow))).collect()
}

fn config(place: Place, bpffs: &Path, rung: Rung) -> Config {
    Config {
        node_name: place.name.to_owned(),
        source: Source::File(PathBuf::new()),
        address: Method::default(),
        publish: false,
        underlay_interface: None,
        backend: Backend::Vxlan,
        vni: config::DEFAULT_VNI,
        port: config::DEFAULT_PORT,
        receive_mode: match rung {
            Rung::Tc => ReceiveMode::Tc,
            Rung::Xdp => ReceiveMode::Xdp,
            Rung::Kernel => ReceiveMode::Kernel,
        },
        mtu: None,
        // Nothing leaves the scratch nodes.
        masquerade: false,
        direct: Vec::new(),
        runtime: None,
        notices: Vec::new(),
        directories: Directories { bpffs: bpffs.to_owned(), state_dir: PathBuf::new(), pods_dir: PathBuf::new() },
        ebpf_object: None,
        resync_interval: config::DEFAULT_RESYNC_INTERVAL,
        listen: Listen::Off,
        log_format: LogFormat::default(),
    }
}

/// Scratch nodes know the cluster without asking anybody.
fn no_source() -> SourceState {
    SourceState { health: Health::Healthy, ..SourceState::new(SourceKind::File, String::new()) }
}

fn runtime() -> Result<Runtime, MeasureError> {
    let builder = tokio::runtime::Builder::new_current_thread().enable_all().build();
    builder.map_err(|source| MeasureError::Io { what: "start a runtime", source })
}
