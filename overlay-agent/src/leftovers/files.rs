//! Files of flannel's: the list of plugins that names its plugin, and what its daemon tells that plugin.

use ipnet::Ipv4Net;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

/// Where flanneld tells its plugin of the node's network.
const SUBNET_FILE: &str = "/run/flannel/subnet.env";
/// Its plugin.
const PLUGIN: &str = "flannel";

/// A file of flannel's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    path: PathBuf,
    what: &'static str,
    networks: Vec<Ipv4Net>,
}

/// Finds them; with what could not be read.
pub(super) fn find(lists: &Path) -> (Vec<File>, Vec<String>) {
    let (mut files, mut unseen) = (Vec::new(), Vec::new());
    match fs::read_dir(lists) {
        Ok(entries) => {
            let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
            paths.sort();
            for path in paths {
                match fs::read(&path) {
                    Ok(text) if names_flannel(&text) => files.push(File { path, what: "list of plugins", networks: Vec::new() }),
                    Ok(_) => {}
                    Err(error) => unseen.push(format!("{}: {error}", path.display())),
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => unseen.push(format!("{}: {error}", lists.display())),
    }
    match fs::read_to_string(SUBNET_FILE) {
        Ok(text) => files.push(File { path: SUBNET_FILE.into(), what: "file", networks: networks(&text) }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => unseen.push(format!("{SUBNET_FILE}: {error}")),
    }
    (files, unseen)
}

/// Whether a configuration of the runtime has flannel's plugin, alone or in a list.
fn names_flannel(text: &[u8]) -> bool {
    let Ok(configuration) = serde_json::from_slice::<Value>(text) else { return false };
    let plugins = configuration["plugins"].as_array().into_iter().flatten();
    plugins.chain([&configuration]).any(|plugin| plugin["type"] == PLUGIN)
}

/// The networks of a `subnet.env`: the cluster's and the node's.
fn networks(text: &str) -> Vec<Ipv4Net> {
    let values =
        text.lines().filter_map(|line| line.split_once('=')).filter(|(key, _)| ["FLANNEL_NETWORK", "FLANNEL_SUBNET"].contains(key));
    // The cluster's may be several, with commas between them.
    values.flat_map(|(_, value)| value.split(',')).filter_map(|value| value.trim().parse().ok()).collect()
}

impl File {
    pub(super) fn networks(&self) -> Vec<Ipv4Net> {
        self.networks.clone()
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.what, self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_flannels_by_what_it_names_and_not_by_its_own_name() {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("10-flannel.conflist", r#"{ "name": "cbr0", "plugins": [{ "type": "flannel" }, { "type": "portmap" }] }"#),
            ("20-old.conf", r#"{ "name": "cbr0", "type": "flannel" }"#),
            ("30-flannel.conflist", r#"{ "name": "other", "plugins": [{ "type": "bridge", "bridge": "cni0" }] }"#),
            ("40-broken.conflist", "{ \"type\": \"flannel\""),
        ] {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let (files, unseen) = find(directory.path());
        let names: Vec<_> = files.iter().filter_map(|file| file.path.strip_prefix(directory.path()).ok()?.to_str()).collect();
        assert_eq!((names, unseen), (vec!["10-flannel.conflist", "20-old.conf"], Vec::new()));
    }

    #[test]
    fn networks_of_a_subnet_file() {
        let text = "FLANNEL_NETWORK=10.244.0.0/16,10.245.0.0/16\nFLANNEL_SUBNET=10.244.3.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
        let networks: Vec<String> = networks(text).iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["10.244.0.0/16", "10.245.0.0/16", "10.244.3.1/24"]);
    }
}
