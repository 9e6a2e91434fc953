//! The files that settings name and flannel's users bring along.

use super::ConfigError;
use crate::cli::Settings;
use crate::flannel::{BadKey, NetConf};
use crate::install::Template;
use std::path::Path;

/// What can be wrong with a file that a setting names.
#[derive(Debug, thiserror::Error)]
pub enum FileProblem {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    /// Its content.
    #[error(transparent)]
    Wrong(#[from] BadKey),
}

/// The files that flannel's users bring along; what they say counts where nothing else is said.
pub(super) fn read(settings: &Settings) -> Result<(NetConf, Template), ConfigError> {
    let net_conf = read_named("net-conf", settings.net_conf.as_deref(), NetConf::parse)?;
    let template = read_named("cni-conf", settings.cni_conf.as_deref(), Template::parse)?;
    Ok((net_conf, template))
}

/// Reads a file that the setting `name` names; without one, what holds by default.
fn read_named<T: Default>(name: &'static str, path: Option<&Path>, parse: fn(&str) -> Result<T, BadKey>) -> Result<T, ConfigError> {
    let Some(path) = path else { return Ok(T::default()) };
    let text = std::fs::read_to_string(path).map_err(FileProblem::from);
    let parsed = text.and_then(|text| parse(&text).map_err(FileProblem::from));
    parsed.map_err(|problem| ConfigError::BadFile { name, path: path.to_owned(), problem })
}
