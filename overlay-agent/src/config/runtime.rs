//! The settings about the container runtime, made one: both of its directories or neither.

use super::{ConfigError, read_file};
use crate::cli::Runtime;
use crate::install::{DEFAULT_LIST_NAME, RuntimePlaces};
use crate::leftovers::DEFAULT_LISTS;
use std::path::{Path, PathBuf};

impl Runtime {
    /// Puts flags and the file the agent was started with together; flags win. For `cleanup`.
    pub fn load(self, file: Option<&Path>) -> Result<Option<RuntimePlaces>, ConfigError> {
        let file = file.map(read_file).transpose()?.unwrap_or_default();
        self.or(file.runtime).resolve()
    }

    /// Where the runtime has its lists of plugins: as set, or where runtimes have them. For `status` and `cleanup --foreign`.
    pub fn lists(self, file: Option<&Path>) -> Result<PathBuf, ConfigError> {
        let file = file.map(read_file).transpose()?.unwrap_or_default();
        Ok(self.or(file.runtime).cni_conf_dir.unwrap_or_else(|| DEFAULT_LISTS.into()))
    }

    pub(super) fn or(self, other: Self) -> Self {
        Self {
            cni_conf_dir: self.cni_conf_dir.or(other.cni_conf_dir),
            cni_bin_dir: self.cni_bin_dir.or(other.cni_bin_dir),
            cni_conf_name: self.cni_conf_name.or(other.cni_conf_name),
        }
    }

    pub(super) fn resolve(self) -> Result<Option<RuntimePlaces>, ConfigError> {
        let list_name = self.cni_conf_name.unwrap_or_else(|| DEFAULT_LIST_NAME.to_owned());
        match (self.cni_conf_dir, self.cni_bin_dir) {
            (Some(configurations), Some(plugins)) => Ok(Some(RuntimePlaces { configurations, plugins, list_name })),
            (Some(_), None) => Err(ConfigError::HalfARuntime { set: "cni-conf-dir", missing: "cni-bin-dir" }),
            (None, Some(_)) => Err(ConfigError::HalfARuntime { set: "cni-bin-dir", missing: "cni-conf-dir" }),
            (None, None) => Ok(None),
        }
    }
}
