//! `--keep`: the lab stays up until Ctrl-C, and a person is told how to get into it.

use crate::agent;
use crate::lab::Lab;
use crate::sandbox::Sandbox;
use anyhow::Context as _;
use nix::sys::signal::{SigSet, Signal};
use std::fmt::Write as _;
use std::io::{Write as _, stderr};

/// Prints what to try and waits for SIGINT or SIGTERM.
pub(super) fn wait(lab: &Lab, sandbox: Sandbox) -> anyhow::Result<()> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block().context("block signals")?;
    // A terminal that went away is no reason to end: then nobody reads this, and SIGHUP comes.
    let _ = stderr().write_all(commands(lab, sandbox)?.as_bytes());
    signals.wait().context("wait for a signal")?;
    let _ = writeln!(stderr(), "\nTaking everything down.");
    Ok(())
}

fn commands(lab: &Lab, sandbox: Sandbox) -> anyhow::Result<String> {
    let node = lab.nodes.first().context("no node")?;
    let pods = lab.pods();
    let from = pods.first().context("no pod")?;
    let to = pods.iter().find(|to| to.node != from.node).context("no pod on another node")?;
    let places = format!("--bpffs {} --state-dir {}", node.config.bpffs.display(), node.config.state_dir.display());
    let mut lines = vec![
        ("a shell inside the lab; the lines below are for it", format!("nsenter -t {} -m -n -p -u -i", sandbox.init)),
        ("nodes and pods are network namespaces", "ip netns list".to_owned()),
        ("from pod to pod", format!("ip netns exec {} ping {}", from.name, to.address)),
        ("packets on the wire", format!("ip netns exec {} tcpdump -n -i eth0 -T vxlan udp port 8472", node.name)),
        ("what an agent knows", format!("{} status {places}", agent::binary()?.display())),
        ("what it says", format!("tail -f {}", node.config.state_dir.join("agent.log").display())),
        ("which node has which pods, and how it is reached", format!("bpftool map dump pinned {}/maps/SUBNETS", node.pins().display())),
        ("what may come from which node", format!("bpftool map dump pinned {}/maps/NODES", node.pins().display())),
        nodes(lab),
    ];
    if let Some(containerd) = &node.runtime {
        let place = containerd.place();
        let ctr = format!(
            "nsenter --net={} --mount={} -- ctr --address {}",
            node.ns.path().display(),
            place.mounts().display(),
            place.socket().display()
        );
        lines.push(("a program in a container", format!("{ctr} task exec --exec-id look {} ip address", from.name)));
        let run = format!("{ctr} run --rm --tty {} {} mine sh", place.run_flags().join(" "), place.rootfs().display());
        lines.push(("another container", run));
        lines.push(("what the runtime is told", format!("cat {}", place.configurations().join("10-overlay.conflist").display())));
    }
    let mut text = "\nThe lab stays up. Ctrl-C takes it down. From another terminal, as root:\n".to_owned();
    for (what, command) in lines {
        let _ = writeln!(text, "\n  # {what}\n  {command}");
    }
    Ok(text)
}

/// How to look at the list of nodes, or to change it.
fn nodes(lab: &Lab) -> (&'static str, String) {
    let Some(api) = &lab.api else {
        return ("the list of nodes: take one out and watch the maps", format!("editor {}", lab.nodes_file.path().display()));
    };
    let (access, url) = (&api.access, api.server.url());
    let curl = format!(
        "ip netns exec {} curl --cacert {} -H \"Authorization: Bearer $(cat {})\" '{url}/api/v1/nodes?watch=true'",
        lab.underlay.router.name(),
        access.authority().display(),
        access.token().display()
    );
    ("what the API server tells the agents, as it happens", curl)
}
