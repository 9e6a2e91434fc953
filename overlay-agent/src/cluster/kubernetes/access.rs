//! How the API server is reached: the kubeconfig or the service account of the pod, made into a client, and anew when that is needed.
//!
//! Reads the files they name. A client keeps the certificate authority a kubeconfig names for as long as it lives, and a token for a
//! minute. It is therefore thrown away whenever a request fails, and once every ten minutes: what is in the files now is what is used,
//! however it was rotated, and a connection that may be dead is never used again.

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// Longest use of a client.
const LONGEST_USE: Duration = Duration::from_mins(10);
/// Longest time for a connection and its TLS handshake.
const CONNECT: Duration = Duration::from_secs(5);

/// Where the API server is and who asks it.
#[derive(Clone, Debug)]
pub enum Access {
    /// As files say.
    Files {
        /// Kubeconfig; `None`: the service account of the agent's pod.
        kubeconfig: Option<PathBuf>,
        /// Address that replaces the configured one.
        api_server: Option<String>,
    },
    /// As said here.
    Config(Box<Config>),
}

/// The API cannot even be tried.
#[derive(Debug, thiserror::Error)]
pub(in crate::cluster) enum AccessError {
    #[error("cannot use the kubeconfig {}: {source}", path.display())]
    Kubeconfig { path: PathBuf, source: kube::config::KubeconfigError },
    #[error("no kubeconfig is set, and this is no pod with a service account: {0}")]
    InCluster(#[source] kube::config::InClusterError),
    #[error("{url} is not a URL: {source}")]
    Url { url: String, source: http::uri::InvalidUri },
    #[error("cannot set up TLS: {0}")]
    Client(#[source] kube::Error),
}

impl Access {
    /// What to call the server as long as nothing was read.
    pub(super) fn place(&self) -> String {
        match self {
            Self::Files { api_server, .. } => api_server.clone().unwrap_or_else(|| "API server not known yet".to_owned()),
            Self::Config(config) => config.cluster_url.to_string(),
        }
    }

    /// A new client, and the address it uses.
    pub(in crate::cluster) async fn connect(&self) -> Result<(Client, String), AccessError> {
        // An error means that a provider is installed already, which is what is wanted.
        rustls::crypto::ring::default_provider().install_default().ok();
        let config = self.config().await?;
        let address = config.cluster_url.to_string();
        Ok((Client::try_from(config).map_err(AccessError::Client)?, address))
    }

    async fn config(&self) -> Result<Config, AccessError> {
        let mut config = match self {
            Self::Config(config) => config.as_ref().clone(),
            Self::Files { kubeconfig, api_server } => {
                let mut config = match kubeconfig {
                    Some(path) => from_file(path).await?,
                    None => Config::incluster().map_err(AccessError::InCluster)?,
                };
                if let Some(url) = api_server {
                    config.cluster_url = url.parse().map_err(|source| AccessError::Url { url: url.clone(), source })?;
                }
                config
            }
        };
        config.connect_timeout = Some(CONNECT);
        // kube would wait by itself for minutes, and nobody would be told.
        config.default_retry = false;
        Ok(config)
    }
}

async fn from_file(path: &Path) -> Result<Config, AccessError> {
    let wrong = |source| AccessError::Kubeconfig { path: path.to_owned(), source };
    let kubeconfig = Kubeconfig::read_from(path).map_err(wrong)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(wrong)
}

/// A client for as long as it is good.
pub(super) struct Door {
    access: Access,
    open: Option<(Client, Instant)>,
}

impl Door {
    pub(super) const fn new(access: Access) -> Self {
        Self { access, open: None }
    }

    /// The client, and the address it uses if it is a new one.
    pub(super) async fn client(&mut self) -> Result<(Client, Option<String>), AccessError> {
        if let Some((client, since)) = &self.open
            && since.elapsed() < LONGEST_USE
        {
            return Ok((client.clone(), None));
        }
        let (client, address) = self.access.connect().await?;
        self.open = Some((client.clone(), Instant::now()));
        Ok((client, Some(address)))
    }

    /// The client is not good any more.
    pub(super) fn close(&mut self) {
        self.open = None;
    }
}
