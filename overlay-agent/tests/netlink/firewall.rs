//! The packet filter: our table, and the way through chains that drop what is forwarded.

use crate::sandbox::program;
use anyhow::{Context, Result};
use overlay_agent::firewall::{self, Keeper};
use overlay_agent::model::Firewall;
use std::collections::BTreeSet;
use std::env;

/// The rules as Docker leaves them: a policy that drops, and nothing that lets pods pass.
const DOCKER: &str =
    "*filter\n:FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]\n-A FORWARD -j DOCKER-USER\n-A FORWARD -o docker0 -j DROP\nCOMMIT\n";

fn wanted() -> Firewall {
    let direct = ["10.244.1.0/24", "192.0.2.0/24", "224.0.0.0/4"].map(|net| net.parse().expect("a network"));
    Firewall { masquerade: true, pod_cidr: "10.244.1.0/24".parse().expect("a network"), direct: direct.into(), port: 8472 }
}

/// What one look changed.
async fn changes(keeper: &mut Keeper, wanted: &Firewall) -> Result<Vec<String>> {
    Ok(keeper.keep(wanted).await?.changes)
}

fn ruleset() -> Result<String> {
    program("nft list ruleset", "")
}

pub(crate) async fn the_table_is_written_once_and_found_by_the_next_agent() -> Result<()> {
    let mut keeper = Keeper::default();
    let look = keeper.keep(&wanted()).await?;
    assert_eq!(look.changes, ["write table ip overlay"]);
    assert!(look.state.masquerading && look.state.problems.is_empty(), "{look:?}");
    let written = program("nft -a list ruleset", "")?;
    println!("{written}");
    for words in ["masquerade to :8473-65535 fully-random", "masquerade fully-random", "192.0.2.0/24, 224.0.0.0/4", "srcnat + 10"] {
        assert!(written.contains(words), "{words} is missing");
    }
    assert_eq!(changes(&mut keeper, &wanted()).await?, [""; 0]);
    let mut next = Keeper::default();
    assert_eq!(changes(&mut next, &wanted()).await?, [""; 0]);
    assert_eq!(program("nft -a list ruleset", "")?, written);

    let other = Firewall { port: 4789, ..wanted() };
    assert_eq!(changes(&mut next, &other).await?, ["write table ip overlay"]);
    assert!(ruleset()?.contains(":4790-65535"));
    assert_eq!(changes(&mut next, &Firewall { masquerade: false, ..wanted() }).await?, ["remove table ip overlay"]);
    assert_eq!(ruleset()?, "");
    assert_eq!(changes(&mut next, &Firewall { masquerade: false, ..wanted() }).await?, [""; 0]);
    Ok(())
}

pub(crate) async fn whatever_is_done_to_the_table_is_undone() -> Result<()> {
    let mut keeper = Keeper::default();
    keeper.keep(&wanted()).await?;
    let right = ruleset()?;
    let handle = |words: &str| -> Result<String> {
        let text = program("nft -a list table ip overlay", "")?;
        let line = text.lines().find(|line| line.contains(words)).context("no such rule")?;
        Ok(line.rsplit(' ').next().unwrap_or_default().to_owned())
    };
    for change in [
        "flush ruleset",
        "delete table ip overlay",
        "flush table ip overlay",
        "add rule ip overlay postrouting accept",
        "add chain ip overlay x",
    ] {
        program("nft -f -", change)?;
        assert_eq!(changes(&mut keeper, &wanted()).await?, ["write table ip overlay"], "{change}");
        assert_eq!(ruleset()?, right, "{change}");
    }
    // The same number of rules, and the same first one.
    program("nft -f -", &format!("replace rule ip overlay postrouting handle {} accept", handle("meta mark")?))?;
    assert_eq!(changes(&mut keeper, &wanted()).await?, ["write table ip overlay"]);
    assert_eq!(ruleset()?, right);
    // What an agent finds that begins with half a table.
    program("nft -f -", &format!("delete rule ip overlay postrouting handle {}", handle("meta mark")?))?;
    assert_eq!(changes(&mut Keeper::default(), &wanted()).await?, ["write table ip overlay"]);
    assert_eq!(ruleset()?, right);
    Ok(())
}

pub(crate) async fn pods_pass_forward_where_its_policy_is_to_drop() -> Result<()> {
    for (kind, title) in [("iptables-nft", "FORWARD of iptables-nft"), ("iptables-legacy", "FORWARD of iptables-legacy")] {
        let mut keeper = Keeper::default();
        program(&format!("{kind}-restore"), DOCKER)?;
        let look = keeper.keep(&wanted()).await?;
        assert!(look.changes.contains(&format!("let pods pass {title}")), "{look:?}");
        assert_eq!(look.state.opened, [title]);
        assert_eq!(look.state.problems, BTreeSet::new());
        let saved = program(&format!("{kind} -S FORWARD"), "")?;
        let expected = "-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n-A FORWARD -o docker0 -j DROP\n\
            -A FORWARD -s 10.244.1.0/24 -m comment --comment overlay-agent -j ACCEPT\n\
            -A FORWARD -d 10.244.1.0/24 -m comment --comment overlay-agent -j ACCEPT\n\
            -A FORWARD -i ovl0 -m comment --comment overlay-agent -j ACCEPT\n\
            -A FORWARD -o ovl0 -m comment --comment overlay-agent -j ACCEPT\n";
        assert_eq!(saved, expected);
        assert_eq!(changes(&mut keeper, &wanted()).await?, [""; 0]);
        assert_eq!(changes(&mut Keeper::default(), &wanted()).await?, [""; 0]);

        // What every tool of iptables does to rules: read and written back, all anew, one gone.
        let all = program(&format!("{kind}-save"), "")?;
        program(&format!("{kind}-restore"), &all)?;
        assert_eq!(changes(&mut keeper, &wanted()).await?, [""; 0], "{kind}");
        program(&format!("{kind} -D FORWARD -i ovl0 -m comment --comment overlay-agent -j ACCEPT"), "")?;
        assert_eq!(changes(&mut keeper, &wanted()).await?, [format!("let pods pass {title}")]);
        program(&format!("{kind}-restore"), DOCKER)?;
        assert_eq!(changes(&mut keeper, &wanted()).await?, [format!("let pods pass {title}")]);
        assert_eq!(program(&format!("{kind} -S FORWARD"), "")?, expected);

        program(&format!("{kind} -P FORWARD ACCEPT"), "")?;
        let look = keeper.keep(&wanted()).await?;
        assert_eq!((look.changes, look.state.opened), (vec![format!("take our rules out of {title}")], Vec::new()));
        assert!(!program(&format!("{kind} -S FORWARD"), "")?.contains("overlay-agent"));
    }
    Ok(())
}

pub(crate) async fn what_cannot_be_mended_is_named() -> Result<()> {
    let firewalld = |rules: &str| {
        format!(
            "table inet firewalld {{ chain filter_FORWARD {{ type filter hook forward priority 10; policy accept; ct state established accept; {rules} reject with icmpx admin-prohibited; }}; }}"
        )
    };
    let cases = [
        (firewalld(""), "inet firewalld filter_FORWARD"),
        ("table inet filter { chain forward { type filter hook forward priority 0; policy drop; }; }".to_owned(), "inet filter forward"),
        (
            "table ip own { chain f { type filter hook forward priority 0; iifname \"eth1\" accept; counter drop; }; }".to_owned(),
            "ip own f",
        ),
        ("table ip filter { chain FORWARD { type filter hook forward priority 0; counter drop; }; }".to_owned(), "FORWARD of iptables-nft"),
    ];
    let mut keeper = Keeper::default();
    for (rules, name) in cases {
        program("nft -f -", &rules)?;
        let before = ruleset()?;
        let problems = keeper.keep(&wanted()).await?.state.problems;
        println!("{problems:?}");
        assert!(problems.len() == 1 && problems.iter().all(|problem| problem.contains(name)), "{name}: {problems:?}");
        assert!(ruleset()?.starts_with(before.trim_end()), "it was touched: {}", ruleset()?);
        program("nft flush ruleset", "")?;
        assert_eq!(keeper.keep(&wanted()).await?.state.problems, BTreeSet::new());
        program("nft flush ruleset", "")?;
    }
    for rules in [
        firewalld("ip saddr 10.244.0.0/16 accept; ip daddr 10.244.0.0/16 accept;"),
        "table inet f { chain forward { type filter hook forward priority 0; policy drop; iifname \"ovl0\" accept; oifname \"ovl0\" accept; }; }".to_owned(),
        "table inet f { chain forward { type filter hook forward priority 0; policy accept; ip saddr 1.2.3.4 drop; }; }".to_owned(),
        "table ip6 f { chain forward { type filter hook forward priority 0; policy drop; }; }".to_owned(),
        "table ip f { chain in { type filter hook input priority 0; policy drop; }; }".to_owned(),
    ] {
        program("nft -f -", &rules)?;
        assert_eq!(keeper.keep(&wanted()).await?.state.problems, BTreeSet::new(), "{rules}");
        program("nft flush ruleset", "")?;
    }
    Ok(())
}

pub(crate) async fn removal_leaves_the_rules_as_they_were() -> Result<()> {
    program("iptables-nft-restore", DOCKER)?;
    program("nft -f -", "table inet theirs { chain a { type filter hook forward priority 5; policy accept; }; }")?;
    program("iptables-legacy-restore", DOCKER)?;
    let all = || -> Result<String> {
        // The time of day is in the comments.
        let legacy = program("iptables-legacy-save", "")?;
        let legacy: Vec<&str> = legacy.lines().filter(|line| !line.starts_with('#')).collect();
        Ok(format!("{}{}", ruleset()?, legacy.join("\n")))
    };
    let before = all()?;
    Keeper::default().keep(&wanted()).await?;
    assert_ne!(all()?, before);
    let removed = firewall::remove().await?;
    assert_eq!(removed, ["nftables table ip overlay", "rules in FORWARD of iptables-nft", "rules in FORWARD of iptables-legacy"]);
    assert_eq!(all()?, before);
    assert_eq!(firewall::remove().await?, [""; 0]);
    assert_eq!(all()?, before);
    Ok(())
}

pub(crate) async fn a_missing_program_is_a_problem_that_names_its_package() -> Result<()> {
    /// The case runs in a process of its own, as a search path is the whole process's.
    const INSIDE: &str = "OVERLAY_TEST_WITHOUT_PROGRAMS";
    const NAME: &str = "firewall::a_missing_program_is_a_problem_that_names_its_package";
    if env::var_os(INSIDE).is_none() {
        let empty = tempfile::tempdir()?;
        let mut command = std::process::Command::new(env::current_exe()?);
        let output = command.args(["--exact", NAME]).env(INSIDE, "1").env("PATH", empty.path()).output()?;
        assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        return Ok(());
    }
    let look = Keeper::default().keep(&wanted()).await?;
    let problems: Vec<_> = look.state.problems.iter().collect();
    println!("{problems:?}");
    assert!(!look.state.masquerading && problems.len() == 1 && problems[0].contains("install the package nftables"), "{problems:?}");
    let off = Keeper::default().keep(&Firewall { masquerade: false, ..wanted() }).await?;
    assert_eq!(off, firewall::Look::default());
    assert_eq!(firewall::remove().await?, [""; 0]);
    Ok(())
}
