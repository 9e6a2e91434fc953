//! `cargo xtask manifests`: writes the Helm chart from the kustomize base, so that there is one source of what is applied.
//!
//! A template is a file of the base in which a few texts stand as `{{ .Values.… }}`; nothing else of Helm's language is used. Reads and
//! writes `manifests/` only. `cargo xtask lint` and the unit tests compare.

use crate::place;
use anyhow::{Context as _, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

/// Write the Helm chart, `manifests/helm/overlay`, from `manifests/base`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only compare; exit code 1 if the chart is not what would be written.
    #[arg(long)]
    check: bool,
}

/// Where the chart is, from the workspace's root.
const CHART: &str = "manifests/helm/overlay";

/// Files of the base that are templates. The namespace is the release's.
const TEMPLATES: [&str; 3] = ["rbac.yaml", "config.yaml", "daemonset.yaml"];

/// A text of the base that a chart's user may want otherwise.
struct Choice {
    /// Its name in values.yaml.
    name: &'static str,
    /// What it is, for whoever reads values.yaml.
    comment: &'static str,
    /// What stands in the base, and by default in values.yaml.
    default: &'static str,
    /// The text before and behind it, on the lines where it stands.
    around: (&'static str, &'static str),
    /// How often it stands there: another number means that the base has changed.
    times: usize,
}

const CHOICES: [Choice; 12] = [
    Choice { name: "image", comment: "The agent's image.", default: "overlay-agent:dev", around: (" image: ", "\n"), times: 2 },
    Choice { name: "imagePullPolicy", comment: "", default: "IfNotPresent", around: (" imagePullPolicy: ", "\n"), times: 2 },
    Choice {
        name: "network",
        comment: "Where all pods have their addresses from: kubeadm's --pod-network-cidr.",
        default: "10.244.0.0/16",
        around: ("\"Network\": \"", "\""),
        times: 1,
    },
    Choice {
        name: "vni",
        comment: "VXLAN network identifier, the same on every node.",
        default: "1",
        around: ("\"VNI\": ", ","),
        times: 1,
    },
    Choice { name: "port", comment: "UDP port of VXLAN, the same on every node.", default: "8472", around: ("\"Port\": ", "\n"), times: 1 },
    Choice {
        name: "receiveMode",
        comment: "How VXLAN packets are received: auto, xdp-redirect, xdp, tc or kernel.",
        default: "auto",
        around: (" receive-mode: ", "\n"),
        times: 1,
    },
    Choice {
        name: "masquerade",
        comment: "Whether what pods send out of the cluster gets their node's address.",
        default: "true",
        around: (" masquerade: ", "\n"),
        times: 1,
    },
    Choice { name: "logFormat", comment: "Form of the log: text or json.", default: "json", around: (" log-format: ", "\n"), times: 1 },
    Choice {
        name: "seccompProfile",
        comment: "Unconfined for containerd before 1.6.9, CRI-O before 1.31 and Docker before 23.0.",
        default: "RuntimeDefault",
        around: ("seccompProfile:\n              type: ", "\n"),
        times: 2,
    },
    Choice { name: "cpuRequest", comment: "", default: "50m", around: ("              cpu: ", "\n"), times: 2 },
    Choice { name: "memoryRequest", comment: "", default: "64Mi", around: ("              memory: ", "\n            limits"), times: 2 },
    Choice {
        name: "memoryLimit",
        comment: "The maps count as the agent's memory.",
        default: "256Mi",
        around: ("              memory: ", "\n          "),
        times: 2,
    },
];

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.check {
        return check();
    }
    for (name, text) in chart()? {
        let path = place::workspace().join(CHART).join(name);
        let folder = path.parent().with_context(|| format!("{} is in no folder", path.display()))?;
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    check()?;
    println!("{CHART} is what manifests/base says");
    Ok(())
}

/// Whether the chart is what would be written, and holds nothing else.
pub(crate) fn check() -> Result<()> {
    let wanted = chart()?;
    let root = place::workspace().join(CHART);
    for (name, text) in &wanted {
        let path = root.join(name);
        ensure!(
            fs::read_to_string(&path).is_ok_and(|found| found == *text),
            "{CHART}/{} is not what manifests/base says: run cargo xtask manifests",
            name.display()
        );
    }
    for folder in [root.clone(), root.join("templates")] {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry?.path();
            let name = path.strip_prefix(&root)?.to_path_buf();
            ensure!(path.is_dir() || wanted.contains_key(&name), "{CHART}/{} is of nobody's making: remove it", name.display());
        }
    }
    Ok(())
}

/// Every file of the chart, by its path in it.
fn chart() -> Result<BTreeMap<PathBuf, String>> {
    let base = place::workspace().join("manifests/base");
    let mut texts = Vec::new();
    for name in TEMPLATES {
        let text = fs::read_to_string(base.join(name)).with_context(|| format!("cannot read manifests/base/{name}"))?;
        ensure!(!text.contains("{{"), "manifests/base/{name} has {{{{, which Helm would read as its own");
        texts.push((name, text.replace("namespace: overlay-system\n", "namespace: {{ .Release.Namespace }}\n")));
    }
    let mut values = "# Written by cargo xtask manifests. What is not here is in the ConfigMap: see templates/config.yaml.\n".to_owned();
    for choice in &CHOICES {
        choose(choice, &mut texts)?;
        if !choice.comment.is_empty() {
            writeln!(values, "# {}", choice.comment)?;
        }
        writeln!(values, "{}: {}", choice.name, choice.default)?;
    }
    let version = env!("CARGO_PKG_VERSION");
    let chart = format!(
        "# Written by cargo xtask manifests, as everything in this folder.\napiVersion: v2\nname: overlay\ndescription: An overlay network for Kubernetes \
         whose data path is eBPF\ntype: application\nversion: {version}\nappVersion: \"{version}\"\n"
    );
    let templates = texts.into_iter().map(|(name, text)| (PathBuf::from("templates").join(name), text));
    Ok([("Chart.yaml".into(), chart), ("values.yaml".into(), values)].into_iter().chain(templates).collect())
}

/// Puts a choice's name in the place of its default.
fn choose(choice: &Choice, texts: &mut [(&str, String)]) -> Result<()> {
    let Choice { name, default, around: (before, behind), times, .. } = choice;
    let written = format!("{before}{default}{behind}");
    // To Helm a number is a float, which it prints as 1e+06 from a million on.
    let cast = if *name == "vni" { "int64 " } else { "" };
    let found: usize = texts.iter().map(|(_, text)| text.matches(&written).count()).sum();
    if found != *times {
        bail!("manifests/base has {written:?} {found} times, and the chart's value {name} stands for {times}: mend xtask/src/manifests.rs");
    }
    for (_, text) in texts {
        *text = text.replace(&written, &format!("{before}{{{{ {cast}.Values.{name} }}}}{behind}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn helm_chart_is_what_the_base_says() {
        if let Err(error) = super::check() {
            panic!("{error:#}");
        }
    }
}
