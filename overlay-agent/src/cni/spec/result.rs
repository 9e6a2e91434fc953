//! What ADD answers, and what a runtime passes on as `prevResult`.
//!
//! One type for all versions, as rich as the newest; written, it has the form of the version asked for. What others put into a
//! `prevResult` and this plugin has no name for is kept and passed on.

use super::Version;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The result of an ADD.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attached {
    /// Devices that were made or changed, on the node and in the container.
    #[serde(deserialize_with = "nothing_is_default")]
    pub interfaces: Vec<Interface>,
    /// Addresses, each on one of `interfaces`.
    #[serde(deserialize_with = "nothing_is_default")]
    pub ips: Vec<Ip>,
    /// Routes inside the container.
    #[serde(deserialize_with = "nothing_is_default")]
    pub routes: Vec<Route>,
    /// Name servers and the like.
    #[serde(deserialize_with = "nothing_is_default")]
    pub dns: Map<String, Value>,
    /// What is of no interest here.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MAC, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Its MTU, since 1.1.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The namespace it is in; none for a device of the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// What is of no interest here.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// An address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ip {
    /// Address and prefix length: `10.244.1.7/32`.
    pub address: String,
    /// Its next hop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Its device: an index into `interfaces`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<i64>,
    /// What is of no interest here, `version` (until 0.4.0) among it.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// A route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Route {
    /// Where it leads: `0.0.0.0/0`.
    pub dst: String,
    /// Its next hop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gw: Option<String>,
    /// What is of no interest here.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// Go writes an empty list as `null`.
fn nothing_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl Attached {
    /// The result in the form of `version`.
    ///
    /// # Errors
    /// None that is known of: every part of it has a JSON form.
    pub fn report(mut self, version: Version) -> Result<Value, serde_json::Error> {
        self.rest.insert("cniVersion".to_owned(), version.name().into());
        for ip in &mut self.ips {
            ip.rest.remove("version");
            if version < Version::V1_0_0 {
                let family = if ip.address.contains(':') { "6" } else { "4" };
                ip.rest.insert("version".to_owned(), family.into());
            }
        }
        if version < Version::V1_1_0 {
            self.interfaces.iter_mut().for_each(|interface| interface.mtu = None);
        }
        serde_json::to_value(self)
    }
}

#[cfg(test)]
#[path = "result_tests.rs"]
mod tests;
