//! Our table as text for `nft -f -`. Pure: the same rules give the same text, and so the same fingerprint.

use crate::model::{FIREWALL_TABLE, Firewall, OVERLAY_DEVICE};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// kube-proxy's mark, as mask and value, on what it is going to masquerade itself (`--iptables-masquerade-bit` 14, its default).
const KUBE_PROXY_MARK: u32 = 0x4000;

/// A table to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// For `nft -f -`.
    pub(super) text: String,
    /// Stands at the start of the first rule's comment.
    pub(super) fingerprint: String,
    /// How many rules it has.
    pub(super) rules: usize,
}

/// Renders the table. Its one transaction takes away what has the name and makes it anew, so that it is right whatever was there before,
/// and there is no moment without it.
///
/// The chain comes behind kube-proxy's and everyone else's at `srcnat`: the first that gives a connection a source decides, and whoever
/// has a special wish goes before the rule for all. Connections that began before the table keep what they have.
pub(super) fn table(firewall: &Firewall) -> Table {
    let rules = rules(firewall);
    let mut hasher = DefaultHasher::new();
    rules.hash(&mut hasher);
    let fingerprint = format!("overlay-agent {:016x}", hasher.finish());
    let mut text = format!(
        "add table ip {FIREWALL_TABLE}\n\
         delete table ip {FIREWALL_TABLE}\n\
         table ip {FIREWALL_TABLE} {{\n\
         \tchain postrouting {{\n\
         \t\ttype nat hook postrouting priority srcnat + 10; policy accept;\n"
    );
    for (index, (rule, comment)) in rules.iter().enumerate() {
        let comment = if index == 0 { format!("{fingerprint}: {comment}") } else { (*comment).to_owned() };
        // Writing to a String does not fail.
        let _ = writeln!(text, "\t\t{rule} comment \"{comment}\"");
    }
    text.push_str("\t}\n}\n");
    Table { text, fingerprint, rules: rules.len() }
}

/// Every rule with its reason.
fn rules(firewall: &Firewall) -> Vec<(String, &'static str)> {
    let Firewall { pod_cidr, direct, port, .. } = firewall;
    let direct = direct.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    // A source port is chosen at random, so that two CPUs that choose at the same time choose differently: the second packet would be
    // lost. It must not become the VXLAN port: what came back to it would be taken for tunnel packets. The larger side of it remains.
    let ports = if *port < 1 << 15 { format!("{}-65535", port + 1) } else { format!("1024-{}", port - 1) };
    vec![
        (format!("ip saddr != {pod_cidr} return"), "only what pods of this node send"),
        // Not by destination: the device says which packets stay in the cluster, for any number of nodes, and nothing has to be written
        // when one comes or goes.
        (format!("oifname \"{OVERLAY_DEVICE}\" return"), "to other nodes' pods"),
        (format!("ip daddr {{ {direct} }} return"), "destinations that see the pod's address"),
        (format!("meta mark & {KUBE_PROXY_MARK:#x} == {KUBE_PROXY_MARK:#x} return"), "kube-proxy masquerades these"),
        (format!("meta l4proto udp masquerade to :{ports} fully-random"), "never from the VXLAN port"),
        ("masquerade fully-random".to_owned(), "out of the cluster"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn firewall(port: u16) -> Firewall {
        let direct = ["10.244.0.0/16", "192.0.2.0/24", "224.0.0.0/4"].map(|net| net.parse().unwrap());
        Firewall { masquerade: true, pod_cidr: "10.244.1.0/24".parse().unwrap(), direct: direct.into(), port }
    }

    #[test]
    fn the_table_as_nft_reads_it() {
        let Table { text, fingerprint, rules } = table(&firewall(8472));
        let expected = "\
add table ip overlay
delete table ip overlay
table ip overlay {
	chain postrouting {
		type nat hook postrouting priority srcnat + 10; policy accept;
		ip saddr != 10.244.1.0/24 return comment \"FINGERPRINT: only what pods of this node send\"
		oifname \"ovl0\" return comment \"to other nodes' pods\"
		ip daddr { 10.244.0.0/16, 192.0.2.0/24, 224.0.0.0/4 } return comment \"destinations that see the pod's address\"
		meta mark & 0x4000 == 0x4000 return comment \"kube-proxy masquerades these\"
		meta l4proto udp masquerade to :8473-65535 fully-random comment \"never from the VXLAN port\"
		masquerade fully-random comment \"out of the cluster\"
	}
}
";
        assert_eq!(text.replace(&fingerprint, "FINGERPRINT"), expected);
        assert_eq!(rules, 6);
    }

    #[test]
    fn no_port_of_udp_is_the_vxlan_port() {
        for (port, ports) in [(1, "2-65535"), (4789, "4790-65535"), (32_767, "32768-65535"), (32_768, "1024-32767"), (65_535, "1024-65534")]
        {
            let text = table(&firewall(port)).text;
            assert!(text.contains(&format!("udp masquerade to :{ports} fully-random")), "{text}");
        }
    }

    #[test]
    fn the_fingerprint_is_that_of_the_rules() {
        assert_eq!(table(&firewall(8472)), table(&firewall(8472)));
        assert_ne!(table(&firewall(8472)).fingerprint, table(&firewall(8473)).fingerprint);
    }
}
