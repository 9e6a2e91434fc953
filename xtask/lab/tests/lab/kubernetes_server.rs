//! The API server that the stories of nodes from Kubernetes run on: the development one, or kube-apiserver itself.

use anyhow::{Context as _, bail};
use overlay_lab::agent::AgentConfig;
use overlay_lab::api_server::ApiServer;
use overlay_lab::api_server::real::{self, RealServer};
use overlay_lab::lab::Lab;
use overlay_lab::nodes::NodeEntry;
use overlay_lab::sandbox;
use std::fs;
use std::path::Path;

/// What the agents follow.
#[derive(Debug)]
pub(crate) enum Server {
    Development(ApiServer),
    Real(Box<RealServer>),
}

impl Server {
    /// Starts a development server on the router.
    pub(crate) fn development(lab: &Lab) -> anyhow::Result<Self> {
        Ok(Self::Development(ApiServer::start(&lab.underlay.router, lab.underlay.place(1).router)?))
    }

    /// Starts a real one there.
    pub(crate) fn real(lab: &Lab) -> anyhow::Result<Self> {
        let assets = real::assets().map_err(anyhow::Error::msg)?;
        let directory = Path::new(sandbox::ROOT).join("kube-apiserver");
        let server = RealServer::start(&lab.underlay.router, lab.underlay.place(1).router, &assets, &directory)?;
        Ok(Self::Real(Box::new(server)))
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Development(server) => server.url(),
            Self::Real(server) => server.url(),
        }
    }

    /// Adds or changes a node.
    pub(crate) fn put(&self, entry: &NodeEntry) -> anyhow::Result<()> {
        match self {
            Self::Development(server) => {
                server.put(entry);
                Ok(())
            }
            Self::Real(server) => server.put(entry),
        }
    }

    /// Removes a node.
    pub(crate) fn delete(&self, name: &str) -> anyhow::Result<()> {
        match self {
            Self::Development(server) => server.delete(name),
            Self::Real(server) => server.delete(name),
        }
    }

    /// Goes away.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Development(server) => server.stop(),
            Self::Real(server) => server.stop(),
        }
    }

    /// Comes back.
    pub(crate) fn resume(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Development(server) => server.resume(),
            Self::Real(server) => server.resume(),
        }
    }

    /// Has it forget what it told.
    pub(crate) fn forget_history(&self) -> anyhow::Result<()> {
        let Self::Development(server) = self else { bail!("a real server forgets when it likes to") };
        server.forget_history();
        Ok(())
    }

    /// Has an agent, when it is started next, follow it.
    pub(crate) fn aim(&self, config: &mut AgentConfig) -> anyhow::Result<()> {
        match self {
            Self::Development(server) => {
                let kubeconfig = Path::new(sandbox::ROOT).join("kubeconfig");
                fs::write(&kubeconfig, KUBECONFIG).with_context(|| format!("write {}", kubeconfig.display()))?;
                config.nodes_file = None;
                config.extra = vec!["--kubeconfig".to_owned(), kubeconfig.display().to_string(), "--api-server".to_owned(), server.url()];
            }
            Self::Real(server) => server.access().aim(config),
        }
        Ok(())
    }
}

/// As kubeadm leaves it on a node, with an address that cannot be reached: `--api-server` replaces it.
const KUBECONFIG: &str = "\
apiVersion: v1
kind: Config
clusters:
- name: default
  cluster:
    server: https://192.0.2.1:6443
contexts:
- name: default
  context:
    cluster: default
    user: default
current-context: default
users:
- name: default
  user:
    token: abc123
";
