//! flannel's `net-conf.json`: the cluster's network and the tunnel.
//!
//! Keys as of flannel 0.28 (`pkg/subnet/config.go`, `pkg/backend/vxlan/vxlan.go`). With Kubernetes flannel takes a node's network from
//! its podCIDR and has no use for the keys about subnets; neither have we.

use super::keys::{BadKey, Object, object};
use crate::backend::Backend;
use ipnet::{Ipv4Net, Ipv6Net};
use serde_json::{Map, Value};
use std::net::{Ipv4Addr, Ipv6Addr};

const KEYS: [&str; 12] = [
    "Network",
    "IPv6Network",
    "EnableIPv4",
    "EnableIPv6",
    "EnableNFTables",
    "SubnetLen",
    "SubnetMin",
    "SubnetMax",
    "IPv6SubnetLen",
    "IPv6SubnetMin",
    "IPv6SubnetMax",
    "Backend",
];
/// Of the backend vxlan. The last two concern Windows.
const BACKEND_KEYS: [&str; 9] = ["Type", "VNI", "Port", "MTU", "GBP", "Learning", "DirectRouting", "Name", "MacPrefix"];

/// What a `net-conf.json` says to us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetConf {
    /// Where all pods of the cluster get their addresses from.
    pub network: Option<Ipv4Net>,
    /// How packets get to other nodes.
    pub backend: Option<Backend>,
    /// VXLAN network identifier.
    pub vni: Option<u32>,
    /// VXLAN UDP port.
    pub port: Option<u16>,
    /// Bytes the underlay carries.
    pub mtu: Option<u32>,
    /// What is asked for and not done, though pods do not notice: for the log.
    pub notices: Vec<String>,
}

impl NetConf {
    /// Reads the text of the file.
    ///
    /// # Errors
    /// It is no JSON object, a key is unknown, has a wrong type, or asks for what does not exist here.
    pub fn parse(text: &str) -> Result<Self, BadKey> {
        let file = object(text)?;
        let keys = Object::new(&file, "", &KEYS)?;
        if keys.get("EnableIPv4")? == Some(false) {
            return Err(keys.bad("EnableIPv4", "is false: pods have IPv4 addresses here"));
        }
        if keys.get("EnableIPv6")? == Some(true) {
            return Err(keys.bad("EnableIPv6", "is true: pods have no IPv6 addresses here yet"));
        }
        keys.get::<bool>("EnableNFTables")?;
        keys.get::<Ipv6Net>("IPv6Network")?;
        for key in ["SubnetLen", "IPv6SubnetLen"] {
            keys.get::<u8>(key)?;
        }
        for key in ["SubnetMin", "SubnetMax"] {
            keys.get::<Ipv4Addr>(key)?;
        }
        for key in ["IPv6SubnetMin", "IPv6SubnetMax"] {
            keys.get::<Ipv6Addr>(key)?;
        }
        let network = keys.get::<Ipv4Net>("Network")?.map(|network| network.trunc());
        let Some(backend) = keys.get::<Map<String, Value>>("Backend")? else {
            // Without a backend flannel takes udp, which is another format on the wire.
            return Err(keys.bad("Backend", "is missing: write {\"Type\": \"vxlan\"}"));
        };
        Self::backend(&backend).map(|backend| Self { network, ..backend })
    }

    fn backend(backend: &Map<String, Value>) -> Result<Self, BadKey> {
        // The type first: another one has other keys, and it is the type that is to be named then.
        let kind = backend.iter().find(|(key, _)| key.eq_ignore_ascii_case("type")).map(|(_, value)| value);
        match kind.and_then(Value::as_str) {
            Some("vxlan") => {}
            Some("host-gw") => {
                Object::new(backend, "Backend.", &["Type"])?;
                return Ok(Self { backend: Some(Backend::HostGw), ..Self::default() });
            }
            _ => {
                let what = format!("is {}: \"vxlan\" and \"host-gw\" are what there is here", kind.unwrap_or(&Value::Null));
                return Err(BadKey { path: "Backend.Type".to_owned(), what });
            }
        }
        let keys = Object::new(backend, "Backend.", &BACKEND_KEYS)?;
        if keys.get("GBP")? == Some(true) {
            return Err(keys.bad("GBP", "is true: the tunnel carries no group policies here"));
        }
        let mut notices = Vec::new();
        let direct = keys.get("DirectRouting")? == Some(true);
        if keys.get("Learning")? == Some(true) {
            notices.push("Backend.Learning is true: the list of nodes says all there is to learn".to_owned());
        }
        for key in ["Name", "MacPrefix"] {
            keys.get::<String>(key)?;
        }
        let vni = keys.get::<u32>("VNI")?;
        if vni.is_some_and(|vni| !(1..=0x00ff_ffff).contains(&vni)) {
            return Err(keys.bad("VNI", "has to be 1 to 16777215"));
        }
        // flannel leaves a port and an MTU of 0 to the kernel.
        let port = keys.get::<u16>("Port")?.filter(|port| *port != 0);
        let mtu = keys.get::<u32>("MTU")?.filter(|mtu| *mtu != 0);
        let backend = Some(if direct { Backend::Direct } else { Backend::Vxlan });
        Ok(Self { network: None, backend, vni, port, mtu, notices })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_flannels_manifest_ships() {
        let text = r#"{ "Network": "10.244.0.0/16", "EnableNFTables": false, "Backend": { "Type": "vxlan" } }"#;
        assert_eq!(
            NetConf::parse(text),
            Ok(NetConf { network: Some("10.244.0.0/16".parse().unwrap()), backend: Some(Backend::Vxlan), ..NetConf::default() })
        );
    }

    #[test]
    fn keys_are_matched_in_any_case() {
        let text = r#"{ "network": "10.244.7.9/16", "subnetLen": 24, "SUBNETMIN": "10.244.1.0", "enableIPv4": true,
            "backend": { "type": "vxlan", "vni": 4096, "port": 4789, "mtu": 1400, "directrouting": true, "Learning": null } }"#;
        let conf = NetConf::parse(text).unwrap();
        assert_eq!((conf.vni, conf.port, conf.mtu), (Some(4096), Some(4789), Some(1400)));
        assert_eq!(conf.network, Some("10.244.0.0/16".parse().unwrap()));
        assert_eq!((conf.backend, conf.notices), (Some(Backend::Direct), vec![]));
        let text = r#"{ "Network": "10.244.0.0/16", "Backend": { "TYPE": "host-gw" } }"#;
        assert_eq!(NetConf::parse(text).unwrap().backend, Some(Backend::HostGw));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let vxlan = |more: &str| format!(r#"{{ "Network": "10.244.0.0/16", "Backend": {{ "Type": "vxlan", {more} }} }}"#);
        for (text, told) in [
            ("[]".to_owned(), "the file is no JSON object"),
            (r#"{ "Netwrok": "10.244.0.0/16" }"#.to_owned(), "Netwrok is no key of this file; did you mean Network?"),
            (r#"{ "Network": "10.244.0.0/16" }"#.to_owned(), "Backend is missing: write {\"Type\": \"vxlan\"}"),
            (r#"{ "Network": "10.244.0.0/16", "Backend": { "Type": "udp" } }"#.to_owned(), "Backend.Type is \"udp\""),
            (r#"{ "Network": "10.244.0.0/16", "Backend": { "Type": "host-gw", "VNI": 1 } }"#.to_owned(), "Backend.VNI is no key"),
            (r#"{ "Network": "10.244.0.0" }"#.to_owned(), "Network is \"10.244.0.0\": "),
            (r#"{ "Network": "10.244.0.0/16", "network": "10.1.0.0/16" }"#.to_owned(), "is there more than once"),
            (r#"{ "EnableIPv6": true }"#.to_owned(), "EnableIPv6 is true"),
            (r#"{ "EnableIPv4": false }"#.to_owned(), "EnableIPv4 is false"),
            (vxlan(r#""DirectRoutng": true"#), "Backend.DirectRoutng is no key of this file; did you mean DirectRouting?"),
            (vxlan(r#""VNI": 0"#), "Backend.VNI has to be"),
            (vxlan(r#""VNI": "1""#), "Backend.VNI is \"1\": "),
            (vxlan(r#""Port": 65536"#), "Backend.Port is 65536: "),
            (vxlan(r#""GBP": true"#), "Backend.GBP is true"),
        ] {
            let error = NetConf::parse(&text).expect_err(&text).to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
