//! What a client needs to get in: a kubeconfig, a file with the token, a file with the certificate authority.

use crate::agent::AgentConfig;
use anyhow::Context as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The files of one server.
#[derive(Clone, Debug)]
pub struct Access {
    directory: PathBuf,
}

impl Access {
    /// Writes the files into a directory, which is made. The kubeconfig names `url`; without an authority it says nothing of TLS.
    pub(super) fn write(directory: &Path, url: &str, authority: Option<&str>, token: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        let access = Self { directory: directory.to_owned() };
        let mut trust = String::new();
        if let Some(authority) = authority {
            access.write_authority(authority)?;
            trust = format!("\n    certificate-authority: {}", access.authority().display());
        }
        access.write_token(token)?;
        let text = KUBECONFIG.replace("{url}", url).replace("{trust}", &trust).replace("{token}", &access.token().display().to_string());
        replace(&access.kubeconfig(), &text)?;
        Ok(access)
    }

    /// Has an agent, when it is started next, follow the server and no file.
    pub fn aim(&self, config: &mut AgentConfig) {
        config.nodes_file = None;
        config.extra.extend(["--kubeconfig".to_owned(), self.kubeconfig().display().to_string()]);
    }

    /// The kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    /// The file with the certificate authority.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// The file with the bearer token.
    #[must_use]
    pub fn token(&self) -> PathBuf {
        self.directory.join("token")
    }

    /// Replaces the token in one step, as the kubelet does.
    ///
    /// # Errors
    /// The file system says no.
    pub fn write_token(&self, token: &str) -> anyhow::Result<()> {
        replace(&self.token(), token)
    }

    /// Replaces the authority in one step.
    ///
    /// # Errors
    /// The file system says no.
    pub fn write_authority(&self, pem: &str) -> anyhow::Result<()> {
        replace(&self.authority(), pem)
    }
}

fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text).with_context(|| format!("write {}", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("replace {}", path.display()))
}

/// As a node has it, with what rotates in files.
const KUBECONFIG: &str = "\
apiVersion: v1
kind: Config
clusters:
- name: default
  cluster:
    server: {url}{trust}
contexts:
- name: default
  context:
    cluster: default
    user: default
current-context: default
users:
- name: default
  user:
    tokenFile: {token}
";
