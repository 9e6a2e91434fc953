//! The command line: what may be said, with its help. Nothing is decided here; [`crate::config`] turns it into a validated `Config`.
//!
//! [`Settings`] is the one list of settings. The configuration file is read through it too, so a setting cannot exist in one place only.

mod settings;
mod values;

pub use settings::{Places, Runtime, Settings};
pub use values::{LogFormat, MIN_MTU, ReceiveMode};

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Exit codes of `overlay-agent status`, told by its help.
const STATUS_AFTER_HELP: &str = "\
Exit codes:
  0  healthy
  1  the status could not be read
  2  wrong usage
  3  degraded: the agent is not running, a node is left out, a peer cannot be reached, or the last pass had errors";

/// Told by the help of `measure`.
const MEASURE_AFTER_HELP: &str = "\
Needs CAP_SYS_ADMIN beside the agent's own capabilities: network namespaces take it.

  overlay-agent measure            figures, and what follows for a virtual and for a physical NIC
  overlay-agent measure --again    measure anew

Exit codes: 0 done, 1 failed, 2 wrong usage.";

/// Exit codes of `overlay-agent cleanup`, told by its help.
const CLEANUP_AFTER_HELP: &str = "\
Exit codes:
  0  removed, or nothing to remove
  1  failed, or not wanted after all
  2  wrong usage, or nobody there to be asked";

/// Told by the help of every command with settings.
const FILE_AFTER_HELP: &str = "\
Every setting may also stand in the file named by --config, under the name of its flag:

  vni: 1
  receive-mode: tc

A flag wins over the environment, the environment over the file. Exit codes: 0 done, 1 failed, 2 wrong usage.";

/// An overlay network for Kubernetes whose data path is eBPF: the agent of one node.
#[derive(Debug, Parser)]
#[command(name = "overlay-agent", version, about, propagate_version = true, max_term_width = 120)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent of this node
    ///
    /// Follows the list of nodes, keeps the kernel programs, maps, routes and the overlay device as they should be, and repairs what breaks.
    /// On SIGTERM it ends and leaves the data path running: pods keep talking while it is upgraded.
    #[command(after_help = FILE_AFTER_HELP)]
    Run(Box<RunArgs>),
    /// Measure which way of receiving is the fastest on this machine, for `receive-mode: auto`
    ///
    /// Makes scratch nodes in network namespaces without a name, sends between them for about ten seconds, and keeps the figures in the state
    /// directory until kernel or programs change. Touches nothing of the host's network. To be run before the agent; the manifests do.
    #[command(after_help = MEASURE_AFTER_HELP)]
    Measure(MeasureArgs),
    /// Show what the agent of this node knows and does
    #[command(after_help = STATUS_AFTER_HELP)]
    Status(StatusArgs),
    /// Remove every trace of the agent from this node: programs, maps, pins, routes, neighbours, packet filter rules, the overlay device
    ///
    /// Pods of this node lose the network. Stop the agent first. With --foreign nothing of the agent's is removed, and it may run.
    #[command(after_help = CLEANUP_AFTER_HELP)]
    Cleanup(CleanupArgs),
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Read settings from this YAML file as well
    #[arg(long, value_name = "FILE", env = "OVERLAY_CONFIG")]
    pub config: Option<PathBuf>,
    #[expect(missing_docs, reason = "clap would print it as help")]
    #[command(flatten)]
    pub settings: Settings,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The file the agent was started with; read for the settings below
    #[arg(long, value_name = "FILE", env = "OVERLAY_CONFIG")]
    pub config: Option<PathBuf>,
    #[expect(missing_docs, reason = "clap would print it as help")]
    #[command(flatten)]
    pub places: Places,
    #[expect(missing_docs, reason = "clap would print it as help")]
    #[command(flatten)]
    pub runtime: Runtime,
    /// How to print it
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: OutputFormat,
}

/// Arguments of `measure`.
#[derive(Debug, Args)]
pub struct MeasureArgs {
    /// The file the agent is started with; read for `state-dir` and `bpffs`
    #[arg(long, value_name = "FILE", env = "OVERLAY_CONFIG")]
    pub config: Option<PathBuf>,
    #[expect(missing_docs, reason = "clap would print it as help")]
    #[command(flatten)]
    pub places: Places,
    /// Measure even if kernel and programs are still those of the last measurement
    #[arg(long)]
    pub again: bool,
    /// Exit with 0 when nothing can be measured: the agent works without
    #[arg(long)]
    pub optional: bool,
    /// How to print it
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: OutputFormat,
}

/// Arguments of `cleanup`.
#[derive(Debug, Args)]
pub struct CleanupArgs {
    /// The file the agent was started with; read for the settings below
    #[arg(long, value_name = "FILE", env = "OVERLAY_CONFIG")]
    pub config: Option<PathBuf>,
    #[expect(missing_docs, reason = "clap would print it as help")]
    #[command(flatten)]
    pub places: Places,
    #[expect(missing_docs, reason = "clap would print it as help")]
    #[command(flatten)]
    pub runtime: Runtime,
    /// Remove what another network left on this node instead, after asking: devices, rules, files
    ///
    /// Remove the other network's own pods first (flannel's DaemonSet), or it makes everything anew. Pods that it started lose the network.
    #[arg(long, value_name = "NETWORK")]
    pub foreign: Option<Foreign>,
    /// Do not ask
    #[arg(long, requires = "foreign")]
    pub yes: bool,
}

/// A network whose leftovers are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Foreign {
    /// flannel with the vxlan backend.
    Flannel,
}

/// How `status` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// Tables for a person.
    Text,
    /// One JSON object.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_setting_has_help_and_a_heading() {
        let command = Settings::augment_args(clap::Command::new("settings"));
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "--{} has no help", argument.get_id());
            assert!(argument.get_help_heading().is_some(), "--{} has no heading", argument.get_id());
        }
    }

    #[test]
    fn refuses_values_the_kernel_or_the_protocol_cannot_have() {
        for (flag, value) in [
            ("vni", "0"),
            ("vni", "16777216"),
            ("port", "0"),
            ("port", "65536"),
            ("mtu", "625"),
            ("mtu", "65536"),
            ("receive-mode", "skb"),
            ("underlay-interface", "abcdefghijklmnop"),
            ("underlay-interface", "a b"),
            ("node-name", ""),
            ("node-name", "a\nb"),
            ("api-server", "10.0.0.1"),
            ("api-server", "ftp://10.0.0.1"),
            ("masquerade", "maybe"),
            ("cluster-cidr", "10.244.0.0"),
            ("cluster-cidr", "fd00::/8"),
            ("non-masquerade-cidrs", "10.0.0.1/8"),
            ("non-masquerade-cidrs", "10.0.0.0/8,0.0.0.0/0"),
            ("resync-interval", "0"),
            ("listen", "8473"),
            ("log-format", "xml"),
            ("cni-conf-name", "10-overlay.conf"),
            ("cni-conf-name", "../10-overlay.conflist"),
        ] {
            let result = Cli::try_parse_from(["overlay-agent", "run", &format!("--{flag}={value}")]);
            assert!(result.is_err(), "--{flag}={value} was accepted");
        }
    }
}
