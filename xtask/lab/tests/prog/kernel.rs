//! The programs in the kernel: loads the object, fills its maps, runs one packet, says what happened.
//!
//! Touches only what it made: an object whose maps, programs and links go with the process. Nothing is pinned. A packet enters through
//! `BPF_PROG_TEST_RUN`, or by a link the programs were attached to.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, DevMapHash, HashMap, MapData, PerCpuArray};
use aya::programs::tc::{SchedClassifierLinkId, TcAttachType, qdisc_add_clsact};
use aya::programs::xdp::{XdpLinkId, XdpMode};
use aya::programs::{SchedClassifier, Xdp};
use aya::util::KernelVersion;
use aya::{Ebpf, TestRun as _, TestRunOptions};
use overlay_common::abi::{DetourKey, Node, Pod, Settings, Subnet, SubnetKey, Veth, map, program};
use overlay_common::counters::{Counters, Flow};
use overlay_common::reason::DropReason;
use zerocopy::FromBytes as _;

use crate::packet::Addr;
use crate::world;

/// One of the project's programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    UnderlayXdp,
    UnderlayTc,
    FromPod,
    FromHost,
    FromOverlay,
    ToUnderlay,
}

impl Program {
    pub(crate) const ALL: [Self; 6] =
        [Self::UnderlayXdp, Self::UnderlayTc, Self::FromPod, Self::FromHost, Self::FromOverlay, Self::ToUnderlay];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::UnderlayXdp => program::UNDERLAY_XDP,
            Self::UnderlayTc => program::UNDERLAY_TC,
            Self::FromPod => program::FROM_POD,
            Self::FromHost => program::FROM_HOST,
            Self::FromOverlay => program::FROM_OVERLAY,
            Self::ToUnderlay => program::TO_UNDERLAY,
        }
    }

    /// The link the program sits on in the tests' world.
    fn ifindex(self) -> u32 {
        match self {
            Self::UnderlayXdp | Self::UnderlayTc | Self::ToUnderlay => world::UNDERLAY_IFINDEX,
            Self::FromPod => world::POD.ifindex,
            Self::FromHost | Self::FromOverlay => world::OVERLAY_IFINDEX,
        }
    }
}

/// What a TC program finds in its `__sk_buff` besides the packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Skb {
    /// Link the packet is on, where it is not the one of [`Program::ifindex`].
    pub(crate) ifindex: Option<u32>,
    /// Packet mark.
    pub(crate) mark: u32,
    /// Bytes of payload per segment of a super-packet.
    pub(crate) gso_size: u32,
    /// First word of the control buffer: what one program of ours tells the next.
    pub(crate) control: u32,
}

/// What became of one packet.
#[derive(Debug)]
pub(crate) struct Ran {
    /// The program's return value.
    pub(crate) verdict: i32,
    /// How the node received: one of [`overlay_common::abi::receive`].
    pub(crate) receive_mode: u32,
    /// XDP metadata in front of the packet; empty for TC.
    pub(crate) meta: Vec<u8>,
    /// The packet's mark; zero for XDP.
    pub(crate) mark: u32,
    /// First word of the packet's control buffer; zero for XDP.
    pub(crate) control: u32,
    /// The packet afterwards.
    pub(crate) frame: Vec<u8>,
    /// Every counter that is not where it was.
    pub(crate) moved: Moved,
}

/// Counters that moved.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    /// Flow, packets, bytes.
    pub(crate) flows: Vec<(Flow, u64, u64)>,
    /// Reason, packets.
    pub(crate) drops: Vec<(DropReason, u64)>,
}

/// The object in the kernel.
pub(crate) struct Kernel {
    ebpf: Ebpf,
    attached: Vec<Attached>,
    receive_mode: u32,
}

/// A program on a link.
enum Attached {
    Xdp(Program, XdpLinkId),
    Tc(Program, SchedClassifierLinkId),
}

/// The object under test: `OVERLAY_EBPF_OBJECT`, else the one `cargo xtask build-ebpf` puts into the workspace's target directory.
pub(crate) fn object() -> Result<PathBuf> {
    let path = match std::env::var_os("OVERLAY_EBPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/ebpf/overlay-ebpf"),
    };
    ensure!(path.is_file(), "no eBPF object at {}: run `cargo xtask build-ebpf`, or name one in OVERLAY_EBPF_OBJECT", path.display());
    Ok(path)
}

impl Kernel {
    /// Loads every program of `object` and fills the maps with the tests' world.
    pub(crate) fn load(object: &Path) -> Result<Self> {
        let mut ebpf = Ebpf::load_file(object).with_context(|| format!("loading {}", object.display()))?;
        for program in Program::ALL {
            let found = ebpf.program_mut(program.name()).with_context(|| format!("the object has no program {}", program.name()))?;
            match program {
                Program::UnderlayXdp => <&mut Xdp>::try_from(found)?.load(),
                _ => <&mut SchedClassifier>::try_from(found)?.load(),
            }
            .with_context(|| format!("loading program {}", program.name()))?;
        }
        let mut kernel = Self { ebpf, attached: Vec::new(), receive_mode: 0 };
        kernel.settings(&world::settings())?;
        for (key, subnet) in world::subnets() {
            kernel.subnet(key, Some(subnet))?;
        }
        for (addr, node) in world::nodes() {
            kernel.node(addr, Some(node))?;
        }
        for (addr, pod) in world::pods() {
            let value: [u8; size_of::<Pod>()] = zerocopy::transmute!(pod);
            HashMap::<_, Addr, [u8; size_of::<Pod>()]>::try_from(kernel.map(map::PODS)?)?.insert(addr, value, 0)?;
        }
        for (ifindex, veth) in world::veths() {
            let value: [u8; size_of::<Veth>()] = zerocopy::transmute!(veth);
            HashMap::<_, u32, [u8; size_of::<Veth>()]>::try_from(kernel.map(map::VETHS)?)?.insert(ifindex, value, 0)?;
        }
        // A device that is not there cannot be an entry: the world's links have been made.
        let mut xdp_veths = DevMapHash::try_from(kernel.map(map::XDP_VETHS)?)?;
        xdp_veths.insert(world::POD.ifindex, world::POD.ifindex, None, 0).context("XDP_VETHS")?;
        Ok(kernel)
    }

    fn map(&mut self, name: &str) -> Result<&mut aya::maps::Map> {
        self.ebpf.map_mut(name).with_context(|| format!("the object has no map {name}"))
    }

    /// Writes `SETTINGS`.
    pub(crate) fn settings(&mut self, settings: &Settings) -> Result<()> {
        self.receive_mode = settings.receive_mode;
        let value: [u8; size_of::<Settings>()] = zerocopy::transmute!(*settings);
        Ok(Array::<&mut MapData, [u8; size_of::<Settings>()]>::try_from(self.map(map::SETTINGS)?)?.set(0, value, 0)?)
    }

    /// Writes or removes an entry of `SUBNETS`.
    pub(crate) fn subnet(&mut self, key: SubnetKey, subnet: Option<Subnet>) -> Result<()> {
        let key: [u8; size_of::<SubnetKey>()] = zerocopy::transmute!(key);
        let mut subnets = HashMap::<_, _, [u8; size_of::<Subnet>()]>::try_from(self.map(map::SUBNETS)?)?;
        match subnet {
            Some(subnet) => {
                let value: [u8; size_of::<Subnet>()] = zerocopy::transmute!(subnet);
                Ok(subnets.insert(key, value, 0)?)
            }
            None => Ok(subnets.remove(&key)?),
        }
    }

    /// Writes or removes an entry of `NODES`.
    pub(crate) fn node(&mut self, addr: Addr, node: Option<Node>) -> Result<()> {
        let mut nodes = HashMap::<_, Addr, [u8; size_of::<Node>()]>::try_from(self.map(map::NODES)?)?;
        match node {
            Some(node) => {
                let value: [u8; size_of::<Node>()] = zerocopy::transmute!(node);
                Ok(nodes.insert(addr, value, 0)?)
            }
            None => Ok(nodes.remove(&addr)?),
        }
    }

    /// Every key of `DETOUR`.
    pub(crate) fn detours(&mut self) -> Result<Vec<DetourKey>> {
        let keys = self.detour_map()?.keys().collect::<Result<Vec<_>, _>>()?;
        keys.iter().map(|key| DetourKey::read_from_bytes(key).map_err(|error| anyhow::anyhow!("DETOUR: {error}"))).collect()
    }

    /// Notes `key` in `DETOUR`, as `from_pod` does when it sends a packet to the stack.
    pub(crate) fn add_detour(&mut self, key: DetourKey) -> Result<()> {
        let key: [u8; size_of::<DetourKey>()] = zerocopy::transmute!(key);
        Ok(self.detour_map()?.insert(key, u64::MAX.to_ne_bytes(), 0)?)
    }

    /// Forgets every entry of `DETOUR`.
    pub(crate) fn clear_detours(&mut self) -> Result<()> {
        let mut map = self.detour_map()?;
        for key in map.keys().collect::<Result<Vec<_>, _>>()? {
            map.remove(&key)?;
        }
        Ok(())
    }

    fn detour_map(&mut self) -> Result<HashMap<&mut MapData, [u8; size_of::<DetourKey>()], [u8; 8]>> {
        Ok(HashMap::try_from(self.map(map::DETOUR)?)?)
    }

    /// Attaches `program` to the ingress of `link`, XDP in native mode.
    pub(crate) fn attach(&mut self, program: Program, link: &str) -> Result<()> {
        let what = || format!("attaching {} to {link}", program.name());
        let attached = if program == Program::UnderlayXdp {
            Attached::Xdp(program, self.xdp(program)?.attach(link, XdpMode::Driver).with_context(what)?)
        } else {
            if KernelVersion::current()? < KernelVersion::new(6, 6, 0) {
                // Below TCX the programs hang on a qdisc, which may be there from the last time.
                let _present = qdisc_add_clsact(link);
            }
            Attached::Tc(program, self.tc(program)?.attach(link, TcAttachType::Ingress).with_context(what)?)
        };
        self.attached.push(attached);
        Ok(())
    }

    /// Takes every program off its link.
    pub(crate) fn detach_all(&mut self) -> Result<()> {
        for attached in std::mem::take(&mut self.attached) {
            match attached {
                Attached::Xdp(program, link) => self.xdp(program)?.detach(link)?,
                Attached::Tc(program, link) => self.tc(program)?.detach(link)?,
            }
        }
        Ok(())
    }

    fn xdp(&mut self, program: Program) -> Result<&mut Xdp> {
        Ok(self.ebpf.program_mut(program.name()).context("no such program")?.try_into()?)
    }

    fn tc(&mut self, program: Program) -> Result<&mut SchedClassifier> {
        Ok(self.ebpf.program_mut(program.name()).context("no such program")?.try_into()?)
    }

    /// Sum over all CPUs.
    pub(crate) fn counters(&mut self) -> Result<Vec<u64>> {
        let map = PerCpuArray::<_, [u8; size_of::<Counters>()]>::try_from(self.map(map::COUNTERS)?)?;
        let mut sum = vec![0u64; size_of::<Counters>() / 8];
        for cpu in map.get(&0, 0)?.iter() {
            for (total, word) in sum.iter_mut().zip(cpu.chunks_exact(8)) {
                *total += u64::from_ne_bytes(word.try_into().expect("eight bytes"));
            }
        }
        Ok(sum)
    }

    /// Runs `frame` through `program`.
    pub(crate) fn run(&mut self, program: Program, frame: &[u8], skb: Skb) -> Result<Ran> {
        let before = self.counters()?;
        let ran = match program {
            Program::UnderlayXdp => self.run_xdp(program, frame)?,
            _ => self.run_tc(program, frame, skb)?,
        };
        let after = self.counters()?;
        Ok(Ran { moved: Moved::between(&before, &after), receive_mode: self.receive_mode, ..ran })
    }

    fn run_xdp(&mut self, program: Program, frame: &[u8]) -> Result<Ran> {
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex. Given so that the kernel returns it:
        // the returned `data` is where the packet starts behind the metadata.
        let mut ctx = [0u8; 24];
        let len = u32::try_from(frame.len())?;
        ctx[4..8].copy_from_slice(&len.to_ne_bytes());
        let mut ctx_out = [0u8; 24];
        let mut out = vec![0u8; frame.len() + 512];
        let result = self.xdp(program)?.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&ctx),
            ctx_out: Some(&mut ctx_out),
            ..TestRunOptions::new()
        })?;
        out.truncate(usize::try_from(result.data_size_out)?);
        let meta_len = usize::try_from(u32::from_ne_bytes(ctx_out[..4].try_into().expect("four bytes")))?;
        let packet = out.split_off(meta_len);
        Ok(Ran {
            verdict: result.return_value.cast_signed(),
            receive_mode: 0,
            meta: out,
            mark: 0,
            control: 0,
            frame: packet,
            moved: Moved::default(),
        })
    }

    fn run_tc(&mut self, program: Program, frame: &[u8], skb: Skb) -> Result<Ran> {
        // struct __sk_buff; the kernel accepts these fields and wants every other one to be zero (net/bpf/test_run.c, convert___skb_to_skb).
        const MARK: usize = 8;
        const INGRESS_IFINDEX: usize = 36;
        const IFINDEX: usize = 40;
        const CONTROL: usize = 48;
        const GSO_SEGS: usize = 164;
        const GSO_SIZE: usize = 176;
        let mut ctx = [0u8; 192];
        let mut put = |offset: usize, value: u32| ctx[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        let ifindex = skb.ifindex.unwrap_or_else(|| program.ifindex());
        put(MARK, skb.mark);
        put(CONTROL, skb.control);
        put(INGRESS_IFINDEX, ifindex);
        put(IFINDEX, ifindex);
        if skb.gso_size > 0 {
            put(GSO_SEGS, u32::try_from(frame.len())?.div_ceil(skb.gso_size));
            put(GSO_SIZE, skb.gso_size);
        }
        let mut ctx_out = [0u8; 192];
        let mut out = vec![0u8; frame.len() + 512];
        let result = self.tc(program)?.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&ctx),
            ctx_out: Some(&mut ctx_out),
            ..TestRunOptions::new()
        })?;
        let len = usize::try_from(result.data_size_out)?;
        if len > out.len() {
            bail!("the program made {len} bytes of {}", frame.len());
        }
        out.truncate(len);
        let [mark, control] = [MARK, CONTROL].map(|at| u32::from_ne_bytes(ctx_out[at..at + 4].try_into().expect("four bytes")));
        let verdict = result.return_value.cast_signed();
        Ok(Ran { verdict, receive_mode: 0, meta: Vec::new(), mark, control, frame: out, moved: Moved::default() })
    }
}

impl Moved {
    /// What moved between two readings of the counters.
    pub(crate) fn between(before: &[u64], after: &[u64]) -> Self {
        let grown: Vec<u64> = before.iter().zip(after).map(|(before, after)| after - before).collect();
        let (flows, drops) = grown.split_at(Flow::ALL.len() * 2);
        let flows = Flow::ALL.iter().zip(flows.chunks_exact(2)).map(|(flow, pair)| (*flow, pair[0], pair[1]));
        let drops = DropReason::ALL.iter().zip(drops).map(|(reason, packets)| (*reason, *packets));
        Self {
            flows: flows.filter(|(_, packets, bytes)| packets + bytes > 0).collect(),
            drops: drops.filter(|(_, packets)| *packets > 0).collect(),
        }
    }

    /// Takes one packet of `bytes` off each of `flows`.
    pub(crate) fn without(&mut self, flows: &[Flow], bytes: u64) -> Result<()> {
        for flow in flows {
            let Some(entry) = self.flows.iter_mut().find(|(found, packets, sum)| found == flow && *packets >= 1 && *sum >= bytes) else {
                bail!("the good packet sent after this one did not count {}: {self}", flow.name());
            };
            (entry.1, entry.2) = (entry.1 - 1, entry.2 - bytes);
        }
        self.flows.retain(|(_, packets, bytes)| packets + bytes > 0);
        Ok(())
    }

    /// Whether any counter moved at all.
    pub(crate) fn nothing(&self) -> bool {
        self.flows.is_empty() && self.drops.is_empty()
    }
}

impl std::fmt::Display for Moved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.nothing() {
            return f.write_str("no counter moved");
        }
        let flows = self.flows.iter().map(|(flow, packets, bytes)| format!("{} +{packets} ({bytes} bytes)", flow.name()));
        let drops = self.drops.iter().map(|(reason, packets)| format!("drop {} +{packets}", reason.name()));
        f.write_str(&flows.chain(drops).collect::<Vec<_>>().join(", "))
    }
}

/// Bytes as rows of sixteen, for a failing row.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let line = |(n, line): (usize, &[u8])| {
        format!("    {:04x}  {}\n", n * 16, line.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "))
    };
    bytes.chunks(16).enumerate().map(line).collect()
}
