//! The real thing: kube-apiserver and etcd as processes in a namespace of the lab, as the ecosystem's envtest starts them.
//!
//! `KUBEBUILDER_ASSETS` names the folder with the two programs. It is spoken to with curl, which shares no code with the agent's client.

use super::access::Access;
use super::object;
use super::tls::Identity;
use crate::command;
use crate::netns::Ns;
use crate::nodes::NodeEntry;
use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The environment variable that names the folder.
pub const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// Where the server listens, and etcd.
const PORT: u16 = 6443;
/// Where the other one listens while the first is away: on loopback, where no agent is.
const ASIDE: u16 = 6444;
const ETCD: &str = "http://127.0.0.1:2379";

/// How long either may take to start, on two cores with agents running.
const START: Duration = Duration::from_mins(1);

/// May do everything.
const ADMIN: &str = "admin-token";
/// May do what the manifests let the agent do.
const AGENT: &str = "agent-token";

/// The folder, or why there is none and how to get one: the reason of a skip.
pub fn assets() -> Result<PathBuf, String> {
    let how = "get them with `setup-envtest use -p path` and name the folder";
    let Some(folder) = std::env::var_os(ASSETS).map(PathBuf::from) else {
        return Err(format!("{ASSETS} names no folder with kube-apiserver and etcd; {how}"));
    };
    match ["kube-apiserver", "etcd"].into_iter().find(|program| !folder.join(program).is_file()) {
        Some(missing) => Err(format!("{ASSETS} names {}, which has no {missing}; {how}", folder.display())),
        None => Ok(folder),
    }
}

/// A real API server; dropped, its processes are killed.
#[derive(Debug)]
pub struct RealServer {
    assets: PathBuf,
    directory: PathBuf,
    namespace: PathBuf,
    address: Ipv4Addr,
    access: Access,
    /// The one that agents know.
    server: Option<Process>,
    /// Another of the same etcd, as in a control plane of several: what changes while the first is away changes here.
    aside: Option<Process>,
    /// Behind the servers: the last to go.
    _etcd: Process,
}

impl RealServer {
    /// Starts both in a namespace, with everything they write in a directory of their own, and lets the agents read nodes.
    ///
    /// # Errors
    /// One of them does not start: the message quotes its log.
    pub fn start(ns: &Ns, address: Ipv4Addr, assets: &Path, directory: &Path) -> anyhow::Result<Self> {
        if directory.exists() {
            // Of a server before this one: what its etcd knows is of another cluster.
            fs::remove_dir_all(directory).with_context(|| format!("remove {}", directory.display()))?;
        }
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        let identity = Identity::new(address)?;
        let write = |name: &str, text: &str| fs::write(directory.join(name), text).with_context(|| format!("write {name}"));
        write("server.crt", &identity.certificate)?;
        write("server.key", &identity.key)?;
        // Signs tokens of service accounts; nobody here has one, and the server does not start without.
        let accounts = rcgen::KeyPair::generate()?;
        write("accounts.key", &accounts.serialize_pem())?;
        write("accounts.pub", &accounts.public_key_pem())?;
        write("tokens.csv", &format!("{ADMIN},admin,admin,\"system:masters\"\n{AGENT},overlay-agent,overlay-agent\n"))?;
        let access = Access::write(directory, &format!("https://{address}:{PORT}"), Some(&identity.authority), AGENT)?;
        let mut etcd = ns.command(assets.join("etcd"));
        etcd.arg("--data-dir").arg(directory.join("etcd")).args(["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD]);
        etcd.args(["--listen-peer-urls", "http://127.0.0.1:2380", "--unsafe-no-fsync"]);
        let etcd = spawn(&mut etcd, &directory.join("etcd.log"))?;
        let (assets, directory, namespace) = (assets.to_owned(), directory.to_owned(), ns.path());
        let mut real = Self { assets, directory, namespace, address, access, server: None, aside: None, _etcd: etcd };
        real.resume()?;
        real.allow_agents()?;
        Ok(real)
    }

    /// What the agents are started with.
    #[must_use]
    pub const fn access(&self) -> &Access {
        &self.access
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}:{PORT}", self.address)
    }

    /// Kills the server that agents know. Another one goes on, so that nodes can be changed.
    ///
    /// # Errors
    /// It has ended before, or the other does not start: the message quotes its log.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.aside = Some(self.start_server(Ipv4Addr::LOCALHOST, ASIDE)?);
        self.server.take().map(drop).context("kube-apiserver does not run")
    }

    /// Starts the server that agents know and waits until it is ready.
    ///
    /// # Errors
    /// It does not start: the message quotes its log.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        self.server = Some(self.start_server(self.address, PORT)?);
        self.aside = None;
        Ok(())
    }

    /// Starts a server and waits until it is ready.
    fn start_server(&self, address: Ipv4Addr, port: u16) -> anyhow::Result<Process> {
        let file = |name: &str| self.directory.join(name).display().to_string();
        let log = self.directory.join(format!("kube-apiserver-{port}.log"));
        let mut command = self.inside(&self.assets.join("kube-apiserver"));
        for (flag, value) in [
            ("etcd-servers", ETCD.to_owned()),
            ("bind-address", address.to_string()),
            ("advertise-address", self.address.to_string()),
            ("secure-port", port.to_string()),
            ("tls-cert-file", file("server.crt")),
            ("tls-private-key-file", file("server.key")),
            ("cert-dir", self.directory.display().to_string()),
            ("token-auth-file", file("tokens.csv")),
            ("authorization-mode", "RBAC".to_owned()),
            ("service-account-issuer", "https://lab.example.org".to_owned()),
            ("service-account-key-file", file("accounts.pub")),
            ("service-account-signing-key-file", file("accounts.key")),
            ("service-cluster-ip-range", "10.96.0.0/24".to_owned()),
            ("disable-admission-plugins", "ServiceAccount".to_owned()),
        ] {
            command.arg(format!("--{flag}={value}"));
        }
        let mut server = spawn(&mut command, &log)?;
        let start = Instant::now();
        while self.ask_at((address, port), "GET", "/readyz", None).is_err() {
            if let Some(status) = server.0.try_wait()? {
                bail!("kube-apiserver ended ({status}); its log:\n{}", crate::agent::log_tail(&log));
            }
            ensure!(start.elapsed() < START, "kube-apiserver is not ready after {START:?}; its log:\n{}", crate::agent::log_tail(&log));
            thread::sleep(Duration::from_millis(100));
        }
        Ok(server)
    }

    /// Adds or changes a node. A podCIDR cannot be changed once it is set: then the node is deleted and created anew.
    ///
    /// # Errors
    /// The server says no.
    pub fn put(&self, entry: &NodeEntry) -> anyhow::Result<()> {
        let mut node: Value = serde_json::from_str(&object::node(entry, "", object::HEARTBEAT))?;
        if let Some(metadata) = node["metadata"].as_object_mut() {
            // What the server alone writes.
            for field in ["managedFields", "resourceVersion", "uid", "creationTimestamp"] {
                metadata.remove(field);
            }
        }
        let path = format!("/api/v1/nodes/{}", entry.name);
        match self.ask("GET", &path, None) {
            Ok(known) if known["spec"]["podCIDR"].is_null() || known["spec"]["podCIDR"] == node["spec"]["podCIDR"] => {
                self.ask(
                    "PATCH",
                    &path,
                    Some(&json!({ "metadata": { "annotations": node["metadata"]["annotations"] }, "spec": node["spec"] })),
                )?;
                let status = json!({ "status": { "addresses": node["status"]["addresses"] } });
                return self.ask("PATCH", &format!("{path}/status"), Some(&status)).map(drop);
            }
            Ok(_) => self.delete(&entry.name)?,
            Err(_) => {}
        }
        self.ask("POST", "/api/v1/nodes", Some(&node)).map(drop)
    }

    /// Removes a node.
    ///
    /// # Errors
    /// The server says no.
    pub fn delete(&self, name: &str) -> anyhow::Result<()> {
        self.ask("DELETE", &format!("/api/v1/nodes/{name}"), None).map(drop)
    }

    /// Three verbs on one resource, as in the manifests.
    fn allow_agents(&self) -> anyhow::Result<()> {
        let group = "rbac.authorization.k8s.io";
        let role = json!({
            "metadata": { "name": "overlay-agent" },
            "rules": [{ "apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"] }],
        });
        self.ask("POST", &format!("/apis/{group}/v1/clusterroles"), Some(&role))?;
        let binding = json!({
            "metadata": { "name": "overlay-agent" },
            "roleRef": { "apiGroup": group, "kind": "ClusterRole", "name": "overlay-agent" },
            "subjects": [{ "apiGroup": group, "kind": "User", "name": "overlay-agent" }],
        });
        self.ask("POST", &format!("/apis/{group}/v1/clusterrolebindings"), Some(&binding)).map(drop)
    }

    /// A request of the administrator to the server there is; the answer as JSON, null where it is none.
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let place = if self.aside.is_some() { (Ipv4Addr::LOCALHOST, ASIDE) } else { (self.address, PORT) };
        self.ask_at(place, method, path, body)
    }

    fn ask_at(&self, (address, port): (Ipv4Addr, u16), method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let mut curl = self.inside(Path::new("curl"));
        curl.args(["--silent", "--show-error", "--fail-with-body", "--max-time", "20", "--request", method, "--cacert"]);
        // Both have the certificate of the first.
        curl.arg(self.access.authority()).args(["--connect-to", &format!("::{address}:{port}")]);
        curl.args(["--header", &format!("Authorization: Bearer {ADMIN}")]);
        if let Some(body) = body {
            let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
            curl.args(["--header", &format!("Content-Type: {kind}"), "--data-binary", &body.to_string()]);
        }
        let text = command::run(curl.arg(self.url() + path))?;
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace.display())).arg("--").arg(program);
        command
    }
}

/// A process that ends with this.
#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Either fails only when the process has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(command: &mut Command, log: &Path) -> anyhow::Result<Process> {
    let output = File::options().create(true).append(true).open(log).with_context(|| format!("open {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    command.spawn().map(Process).with_context(|| format!("start `{}`", command::line(command)))
}
