//! What the container runtime of this node has to find: the plugin, and the list of plugins that names it. Kept, not only put there.
//!
//! Writes two files below the directories it is told, by rename, and nothing else; a pass of the agent calls [`Installer::ensure`] once the
//! node is ready, and whatever happens in the directories is a reason for another pass. The list is what tells a runtime that pods may be
//! started: it stays when the agent ends or a later pass fails, because the data path and the plugin work without the agent.

mod conflist;
mod files;
mod watch;

pub use conflist::Template;

use crate::status::RuntimeFiles;
use files::Installed;
use std::io;
use std::path::{Path, PathBuf};
use tracing::info;
use watch::Watcher;

pub use crate::cni::configuration::PLUGIN;
/// File name of the list unless configured.
pub const DEFAULT_LIST_NAME: &str = "10-overlay.conflist";
/// Plugins of a runtime's configuration directory that go-cni and libcni consider, by the end of their name.
const LIST_ENDS: [&str; 3] = ["conf", "conflist", "json"];

/// Where the runtime looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimePlaces {
    /// Directory of the lists of plugins.
    pub configurations: PathBuf,
    /// Directory of the plugins.
    pub plugins: PathBuf,
    /// File name of our list.
    pub list_name: String,
}

/// The files cannot be put in place.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file or directory cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The plugin is not where the agent is.
    #[error("the plugin to install is not beside the agent: there is no {}", .0.display())]
    NoPlugin(PathBuf),
    /// The operator's list names plugins the runtime would not find.
    #[error("the list of plugins names {}, and {} does not have it: nothing is installed", missing.join(" and "), plugins.display())]
    MissingPlugins {
        /// The plugins.
        missing: Vec<String>,
        /// Directory of the plugins.
        plugins: PathBuf,
    },
}

impl InstallError {
    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

impl RuntimePlaces {
    /// The list of plugins.
    #[must_use]
    pub fn list(&self) -> PathBuf {
        self.configurations.join(&self.list_name)
    }

    /// The plugin.
    #[must_use]
    pub fn plugin(&self) -> PathBuf {
        self.plugins.join(PLUGIN)
    }

    /// Takes both files away, the list first. Returns what was there.
    ///
    /// # Errors
    /// One of them cannot be removed.
    pub fn remove(&self) -> Result<Vec<PathBuf>, InstallError> {
        let mut removed = Vec::new();
        for path in [self.list(), self.plugin()] {
            if files::remove(&path)? {
                removed.push(path);
            }
        }
        Ok(removed)
    }
}

/// Keeps the two files in place.
#[derive(Debug)]
pub struct Installer {
    places: RuntimePlaces,
    template: Template,
    source: PathBuf,
    watcher: Watcher,
    installed: Installed,
}

impl Installer {
    /// Nothing is written yet. The plugin is taken from the directory the agent's own program is in.
    ///
    /// # Errors
    /// The agent cannot find its own program.
    pub fn new(places: RuntimePlaces, template: Template) -> Result<Self, InstallError> {
        let own = Path::new("/proc/self/exe");
        let source = own.read_link().map_err(|source| InstallError::io(own, source))?.with_file_name(PLUGIN);
        let watcher = Watcher::new([places.configurations.clone(), places.plugins.clone()]);
        Ok(Self { places, template, source, watcher, installed: Installed::default() })
    }

    /// Puts in place what is missing or not as it should be.
    ///
    /// # Errors
    /// [`InstallError`]; what was there before still is.
    pub fn ensure(&mut self) -> Result<RuntimeFiles, InstallError> {
        files::make_directories(&self.places)?;
        // Watched first, then looked at: what changes in between is seen by one or the other.
        self.watcher.renew();
        if !self.source.is_file() {
            return Err(InstallError::NoPlugin(self.source.clone()));
        }
        if self.installed.program(&self.source, &self.places.plugin())? {
            info!(file = %self.places.plugin().display(), "plugin installed");
        }
        let there = |plugin: &str| plugin == PLUGIN || self.places.plugins.join(plugin).is_file();
        let rendered = self.template.render(there).map_err(|missing| {
            let plugins = self.places.plugins.clone();
            InstallError::MissingPlugins { missing, plugins }
        })?;
        if files::put_text(&self.places.list(), &rendered.text)? {
            info!(file = %self.places.list().display(), "list of plugins written: pods may be started");
        }
        let (plugins, list) = (self.places.plugins.display(), self.places.list());
        let notices = rendered.left_out.iter().map(|(plugin, loss)| format!("{plugin} is not in {plugins}: {loss}")).collect();
        let problems = files::sorted_before(&self.places)?
            .map(|other| format!("{} sorts before {}: the runtime uses it and not ours", other.display(), list.display()));
        Ok(RuntimeFiles { list, plugin: self.places.plugin(), notices, problems: problems.into_iter().collect() })
    }

    /// Waits until something happens in one of the directories.
    pub async fn changed(&mut self) {
        self.watcher.changed().await;
    }
}

#[cfg(test)]
mod tests;
