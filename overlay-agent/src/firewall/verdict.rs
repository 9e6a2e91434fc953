//! Reads what a chain says of packets no rule of it chose: from the words of `nft list chain` and `iptables -S`. Pure.
//!
//! Chains are other people's, and what they all do cannot be known. Two things can be read safely: that a chain ends in a drop of
//! everything, and that somebody wrote rules about our pods.

use ipnet::Ipv4Net;

/// The rule in the text of `nft list chain` that drops or rejects everything that reaches it, if that is the chain's last.
pub(super) fn nft_refusal(text: &str) -> Option<&str> {
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty() && *line != "}")?;
    let counted =
        last.strip_prefix("counter packets ").and_then(|rest| rest.split_once(" bytes ")).and_then(|(_, rest)| rest.split_once(' '));
    let verdict = counted.map_or(last, |(_, rest)| rest.trim_start());
    matches!(verdict.split_whitespace().next(), Some("drop" | "reject")).then_some(last)
}

/// Whether a rule of `iptables -S` drops or rejects whatever reaches it.
pub(super) fn iptables_refuses(rule: &str) -> bool {
    let mut words = rule.split_whitespace().skip(2).peekable();
    if words.next_if_eq(&"-m").is_some() {
        // A comment is no condition. One of several words makes this a rule that is not understood.
        let comment = words.next() == Some("comment") && words.next() == Some("--comment") && words.next().is_some();
        if !comment {
            return false;
        }
    }
    words.next() == Some("-j") && matches!(words.next(), Some("DROP" | "REJECT"))
}

/// Whether rules speak of the pods: of a network with all of them in it, or of the overlay device.
pub(super) fn speaks_of_pods(text: &str, pods: Ipv4Net, device: &str) -> bool {
    text.split(|c: char| c.is_whitespace() || "{},\"".contains(c))
        .any(|word| word == device || word.parse::<Ipv4Net>().is_ok_and(|net| net.prefix_len() > 0 && net.contains(&pods)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_of_nft_that_ends_in_a_refusal() {
        let chain = |last: &str| {
            format!("table inet f {{\n\tchain forward {{\n\t\ttype filter hook forward priority 0; policy accept;\n\t\t{last}\n\t}}\n}}\n")
        };
        for last in
            ["drop", "reject with icmpx admin-prohibited", "counter packets 12 bytes 3456 drop", "counter packets 0 bytes 0  reject"]
        {
            assert_eq!(nft_refusal(&chain(last)), Some(last));
        }
        for last in ["accept", "ip saddr 10.0.0.0/8 drop", "jump dropped", "counter packets 1 bytes 2 accept", "iifname \"a\" reject", ""] {
            assert_eq!(nft_refusal(&chain(last)), None, "{last}");
        }
    }

    #[test]
    fn a_rule_of_iptables_that_refuses_everything() {
        for rule in [
            "-A FORWARD -j DROP",
            "-A FORWARD -j REJECT --reject-with icmp-host-prohibited",
            "-A FORWARD -m comment --comment last -j DROP",
        ] {
            assert!(iptables_refuses(rule), "{rule}");
        }
        for rule in [
            "-A FORWARD -i docker0 -j DROP",
            "-A FORWARD -j DOCKER-USER",
            "-A FORWARD -m conntrack --ctstate INVALID -j DROP",
            "-P FORWARD DROP",
        ] {
            assert!(!iptables_refuses(rule), "{rule}");
        }
    }

    #[test]
    fn rules_about_the_pods() {
        let pods = "10.244.1.0/24".parse().unwrap();
        for text in [
            "ip saddr 10.244.0.0/16 accept",
            "-A FORWARD -s 10.244.1.0/24 -j ACCEPT",
            "oifname \"ovl0\" accept",
            "{ 10.0.0.0/8, 1.1.1.0/24 }",
        ] {
            assert!(speaks_of_pods(text, pods, "ovl0"), "{text}");
        }
        for text in ["ip saddr 10.245.0.0/16 accept", "ip saddr 10.244.1.128/25 drop", "0.0.0.0/0", "oifname \"ovl01\"", ""] {
            assert!(!speaks_of_pods(text, pods, "ovl0"), "{text}");
        }
    }
}
