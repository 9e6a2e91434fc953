//! Flags and file made one, setting by setting: what is said first counts.

use super::{ConfigError, DEFAULT_BPFFS, DEFAULT_PODS_DIR, DEFAULT_STATE_DIR, Directories, read_file};
use crate::cli::{Places, Settings};
use std::path::Path;

impl Settings {
    /// What is said here, and what `other` says of the rest.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            node_name: self.node_name.or(other.node_name),
            nodes_file: self.nodes_file.or(other.nodes_file),
            kubeconfig: self.kubeconfig.or(other.kubeconfig),
            api_server: self.api_server.or(other.api_server),
            public_ip: self.public_ip.or(other.public_ip),
            node_address: self.node_address.or(other.node_address),
            publish: self.publish.or(other.publish),
            underlay_interface: self.underlay_interface.or(other.underlay_interface),
            backend: self.backend.or(other.backend),
            vni: self.vni.or(other.vni),
            port: self.port.or(other.port),
            receive_mode: self.receive_mode.or(other.receive_mode),
            mtu: self.mtu.or(other.mtu),
            net_conf: self.net_conf.or(other.net_conf),
            cni_conf: self.cni_conf.or(other.cni_conf),
            runtime: self.runtime.or(other.runtime),
            masquerade: self.masquerade.or(other.masquerade),
            cluster_cidr: self.cluster_cidr.or(other.cluster_cidr),
            non_masquerade_cidrs: self.non_masquerade_cidrs.or(other.non_masquerade_cidrs),
            places: self.places.or(other.places),
            ebpf_object: self.ebpf_object.or(other.ebpf_object),
            resync_interval: self.resync_interval.or(other.resync_interval),
            listen: self.listen.or(other.listen),
            log_format: self.log_format.or(other.log_format),
        }
    }
}

impl Places {
    /// Puts flags and the file the agent was started with together; flags win. For commands that need nothing but the places.
    pub fn load(self, file: Option<&Path>) -> Result<Directories, ConfigError> {
        let file = file.map(read_file).transpose()?.unwrap_or_default();
        Ok(self.or(file.places).resolve())
    }

    fn or(self, other: Self) -> Self {
        Self {
            bpffs: self.bpffs.or(other.bpffs),
            state_dir: self.state_dir.or(other.state_dir),
            pods_dir: self.pods_dir.or(other.pods_dir),
        }
    }

    pub(super) fn resolve(self) -> Directories {
        Directories {
            bpffs: self.bpffs.unwrap_or_else(|| DEFAULT_BPFFS.into()),
            state_dir: self.state_dir.unwrap_or_else(|| DEFAULT_STATE_DIR.into()),
            pods_dir: self.pods_dir.unwrap_or_else(|| DEFAULT_PODS_DIR.into()),
        }
    }
}
