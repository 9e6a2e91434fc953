//! The specification's own cases: every verb in every version, what is wrong with a call, what is asked for twice.

use super::bed::{Guest, NETWORK, address, alone, plugin, runtime, traces, unchanged};
use crate::harness::Group;
use anyhow::{Context as _, ensure};
use overlay_lab::cni::{Call, Reply};
use overlay_lab::lab::{Lab, LabConfig};
use overlay_lab::node::Node;
use serde_json::{Value, json};
use std::thread;

/// Every verb with the version it came with.
const VERBS: [(&str, &str); 6] =
    [("ADD", "0.3.1"), ("DEL", "0.3.1"), ("CHECK", "0.4.0"), ("STATUS", "1.1.0"), ("GC", "1.1.0"), ("VERSION", "0.1.0")];
const SPOKEN: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

pub(crate) fn group() -> Group {
    Group::new("overlay-cni, specification", LabConfig { nodes: 1, pods: 0, ..LabConfig::default() })
        .case("every verb is done in the versions that have it, and refused with code 1 in others", every_verb)
        .case("results have the form of their version", results)
        .case("a missing or wrong variable is code 4 and named", variables)
        .case("what is no configuration is code 6, 7 or 2, and the key is named", configurations)
        .case("an address and a MAC can be asked for", wishes)
        .case("ADD of what is there already fails and disturbs nothing", twice)
        .case("many at once, the same one too, are safe", at_once)
}

/// A whole round of a container in one version; unspoken versions are refused.
fn every_verb(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let runtime = runtime(node)?;
    let before = traces(node)?;
    let one = Guest::new("cni-a")?;
    let order = ["VERSION", "STATUS", "ADD", "CHECK", "GC", "DEL"];
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", "1.2.0", "2.0.0", ""] {
        let mut result = Value::Null;
        for verb in order {
            let config = config(node, version, &result);
            let reply = runtime.call(&runtime.prepare(verb, &one.container, &config))?;
            let since = VERBS.iter().find(|(name, _)| *name == verb).map(|(_, since)| *since).context("a verb")?;
            let spoken = verb == "VERSION" || (SPOKEN.contains(&version) && version >= since);
            let place = || format!("{verb} in {version:?}: {reply}");
            match (verb, spoken) {
                (_, false) => ensure!(reply.error()?.0 == 1, place()),
                ("VERSION", true) => {
                    let answer = reply.result()?;
                    ensure!(answer == json!({ "cniVersion": version, "supportedVersions": SPOKEN }), place());
                }
                ("ADD", true) => result = reply.result().with_context(place)?,
                (_, true) => reply.nothing().with_context(place)?,
            }
        }
        unchanged(node, &before)?;
    }
    let mut no_version = config(node, "", &Value::Null);
    no_version.as_object_mut().context("an object")?.remove("cniVersion");
    ensure!(runtime.call(&runtime.prepare("ADD", &one.container, &no_version))?.error()?.0 == 1, "no version is 0.1.0");
    Ok(())
}

/// The plugin's configuration in one version, with what every verb but ADD wants.
fn config(node: &Node, version: &str, result: &Value) -> Value {
    let mut config = plugin(node);
    config["cniVersion"] = version.into();
    config["name"] = NETWORK.into();
    if !result.is_null() {
        config["prevResult"] = result.clone();
        // For GC: everything stays.
        config["cni.dev/valid-attachments"] = json!([{ "containerID": "cni-a-0123456789abcdef", "ifname": "eth0" }]);
    }
    config
}

fn results(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let one = Guest::new("cni-a")?;
    for version in SPOKEN {
        let list = alone(node, version);
        let result = runtime(node)?.add(&list, &one.container)?;
        let (ip, host, inside) = (&result["ips"][0], &result["interfaces"][0], &result["interfaces"][1]);
        let address = address(&result)?;
        ensure!(result["cniVersion"] == version, "{result}");
        ensure!(ip["version"] == if version < "1.0.0" { json!("4") } else { Value::Null }, "{result}");
        ensure!(ip["address"] == format!("{address}/32") && ip["gateway"] == "169.254.1.1" && ip["interface"] == 1, "{result}");
        ensure!(inside["name"] == "eth0" && inside["sandbox"] == one.ns.path().display().to_string(), "{result}");
        ensure!(
            inside["mac"] == one.ns.mac("eth0")? && inside["mtu"] == if version < "1.1.0" { Value::Null } else { json!(1450) },
            "{result}"
        );
        let name = host["name"].as_str().context("the node's end has no name")?;
        ensure!(host["mac"] == node.ns.mac(name)? && host["sandbox"].is_null(), "{result}");
        ensure!(result["routes"] == json!([{ "dst": "0.0.0.0/0", "gw": "169.254.1.1" }]), "{result}");
        runtime(node)?.del(&list, &one.container, Some(&result))?;
    }
    Ok(())
}

fn variables(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let (runtime, before, one) = (runtime(node)?, traces(node)?, Guest::new("cni-a")?);
    let config = config(node, "1.1.0", &json!({}));
    let with = |verb: &str, name: &'static str, value: Option<&str>| -> anyhow::Result<Reply> {
        let mut call: Call = runtime.prepare(verb, &one.container, &config);
        call.environment.retain(|(known, _)| *known != name);
        call.environment.extend(value.map(|value| (name, value.to_owned())));
        runtime.call(&call)
    };
    let cases: [(&str, &'static str, &[Option<&str>]); 11] = [
        ("ADD", "CNI_COMMAND", &[None, Some(""), Some("ADDD"), Some("add")]),
        ("ADD", "CNI_CONTAINERID", &[None, Some(""), Some("-a"), Some("a/b"), Some("a b")]),
        ("ADD", "CNI_NETNS", &[None, Some(""), Some("/run/netns/absent"), Some("/etc/hostname"), Some("/proc/self/ns/net")]),
        ("ADD", "CNI_IFNAME", &[None, Some(""), Some("."), Some(".."), Some("a/b"), Some("a:b"), Some("a b"), Some("sixteen-letters-")]),
        (
            "ADD",
            "CNI_ARGS",
            &[
                Some("FOO=BAR"),
                Some("FOO"),
                Some("IgnoreUnknown=false;A=B"),
                Some("IP=x"),
                Some("IP=10.9.9.9"),
                Some("MAC=01:00:00:00:00:00"),
            ],
        ),
        ("CHECK", "CNI_NETNS", &[None, Some("/run/netns/absent")]),
        ("CHECK", "CNI_IFNAME", &[None]),
        ("CHECK", "CNI_CONTAINERID", &[None]),
        ("DEL", "CNI_CONTAINERID", &[None, Some("")]),
        ("DEL", "CNI_IFNAME", &[None, Some("a/b")]),
        ("GC", "CNI_PATH", &[None, Some("")]),
    ];
    for (verb, name, values) in cases {
        for value in values {
            let reply = with(verb, name, *value)?;
            let (code, msg) = reply.error().with_context(|| format!("{verb} with {name}={value:?}"))?;
            ensure!(code == 4 && msg.contains(name), "{verb} with {name}={value:?}: {code}: {msg}");
        }
    }
    unchanged(node, &before)
}

fn configurations(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let (runtime, before, one) = (runtime(node)?, traces(node)?, Guest::new("cni-a")?);
    let with = |more: Value| {
        let mut config = config(node, "1.1.0", &Value::Null);
        config.as_object_mut().into_iter().for_each(|object| object.extend(more.as_object().cloned().unwrap_or_default()));
        config.to_string()
    };
    let cases = [
        ("ADD", String::new(), 6, "JSON"),
        ("ADD", "{".to_owned(), 6, "JSON"),
        ("ADD", "[]".to_owned(), 6, "JSON"),
        ("ADD", "\u{feff}{}".to_owned(), 6, "JSON"),
        ("ADD", "[".repeat(100_000), 6, "JSON"),
        ("ADD", with(json!({ "name": "" })), 7, "name"),
        ("ADD", with(json!({ "name": null })), 7, "name"),
        ("ADD", with(json!({ "ipam": { "ranges": ["10.99.0.0/24"] } })), 7, "ipam.ranges"),
        ("ADD", with(json!({ "ipam": { "ranges": ["10.244.1.1", "10.244.1.0", "10.244.1.255"] } })), 7, "ipam.ranges"),
        ("ADD", with(json!({ "ipam": { "type": "absent" } })), 7, "ipam.type"),
        ("ADD", with(json!({ "ipam": { "type": "/bin/sh" } })), 7, "ipam.type"),
        ("ADD", with(json!({ "isDefaultGateway": true })), 2, "isDefaultGateway with value true"),
        ("ADD", with(json!({ "bpfFs": "/x" })), 2, "did you mean bpffs?"),
        ("ADD", with(json!({ "runtimeConfig": { "portMappings": [] } })), 2, "runtimeConfig.portMappings"),
        ("CHECK", with(json!({ "bpfFs": "/x" })), 2, "bpfFs"),
        ("STATUS", with(json!({ "bpfFs": "/x" })), 2, "bpfFs"),
        ("GC", with(json!({ "bpfFs": "/x" })), 2, "bpfFs"),
        ("CHECK", with(json!({})), 7, "prevResult"),
        ("CHECK", with(json!({ "prevResult": [] })), 7, "prevResult"),
        ("CHECK", with(json!({ "prevResult": {} })), 3, "has no device eth0"),
        ("GC", with(json!({})), 7, "cni.dev/valid-attachments"),
        ("ADD", with(json!({ "stateDir": "/proc/nowhere" })), 5, "/proc/nowhere"),
    ];
    for (verb, input, code, part) in cases {
        let mut call = runtime.prepare(verb, &one.container, &Value::Null);
        (call.plugin, call.input) = ("overlay-cni".to_owned(), input);
        let shown: String = call.input.chars().take(100).collect();
        let (found, msg) = runtime.call(&call)?.error().with_context(|| format!("{verb}: {shown}"))?;
        ensure!(found == code && msg.contains(part), "{verb} with {shown}: {found}: {msg}; expected {code} with {part:?}");
    }
    // Long is not wrong.
    let mut long = runtime.prepare("DEL", &one.container, &Value::Null);
    (long.plugin, long.input) = ("overlay-cni".to_owned(), with(json!({ "name": "x".repeat(300_000) })));
    runtime.call(&long)?.nothing()?;
    // What was made has to be taken away, whatever the configuration says by now.
    let mut del = runtime.prepare("DEL", &one.container, &Value::Null);
    (del.plugin, del.input) =
        ("overlay-cni".to_owned(), with(json!({ "unknown": 1, "steerFlows": 5, "prevResult": 7, "ipam": { "x": 1 } })));
    runtime.call(&del)?.nothing()?;
    unchanged(node, &before)
}

fn wishes(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let runtime = runtime(node)?;
    let (mut one, two) = (Guest::new("cni-a")?, Guest::new("cni-b")?);
    let mut list = alone(node, "1.0.0");
    list.plugins[0]["capabilities"] = json!({ "ips": true, "mac": true, "dns": true });
    list.plugins[0]["dns"] = json!({ "nameservers": ["10.96.0.10"] });
    let args = "IgnoreUnknown=1;IP=10.244.1.200;MAC=0a:00:00:00:00:07;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0";
    args.clone_into(&mut one.container.args);
    let result = runtime.add(&list, &one.container)?;
    ensure!(address(&result)?.octets()[3] == 200 && result["dns"]["nameservers"][0] == "10.96.0.10", "{result}");
    ensure!(one.ns.mac("eth0")? == "0a:00:00:00:00:07");
    ensure!(node.ns.ip("link show")?.contains("alias shop/web-0"));
    runtime.check(&list, &one.container, &result)?;
    ensure!(overlay_lab::probe::ping::once(&one.ns, node.gateway())?.is_some(), "a MAC of its own keeps it from the node");
    // The same address again, by capability.
    let mut other = two.container.clone();
    other.capabilities = json!({ "ips": ["10.244.1.200/24"] }).as_object().cloned().unwrap_or_default();
    let error = runtime.add(&list, &other).err().context("one address for two pods")?.to_string();
    ensure!(error.contains("\"code\":102") && error.contains("10.244.1.200 is in use by pod shop/web-0"), "{error}");
    for reserved in [0, 1, 255] {
        other.capabilities = json!({ "ips": [format!("10.244.1.{reserved}")] }).as_object().cloned().unwrap_or_default();
        let error = runtime.add(&list, &other).err().context("a reserved address")?.to_string();
        ensure!(error.contains("\"code\":7") && error.contains("runtimeConfig.ips"), "{error}");
    }
    runtime.del(&list, &one.container, Some(&result))
}

fn twice(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let (runtime, before, list) = (runtime(node)?, traces(node)?, alone(node, "1.1.0"));
    let (one, two) = (Guest::new("cni-a")?, Guest::new("cni-b")?);
    let result = runtime.add(&list, &one.container)?;
    let wired = traces(node)?;
    let refused = |container, part: &str| -> anyhow::Result<()> {
        let error = runtime.add(&list, container).err().context("an ADD that had to fail")?.to_string();
        ensure!(error.contains("\"code\":100") && error.contains(part), "{error}");
        unchanged(node, &wired)?;
        runtime.check(&list, &one.container, &result)
    };
    refused(&one.container, "has its device eth0 already")?;
    // The same id in another namespace, another id in the same namespace.
    let mut moved = one.container.clone();
    moved.netns.clone_from(&two.container.netns);
    refused(&moved, "has its device eth0 already")?;
    let mut renamed = two.container.clone();
    renamed.netns.clone_from(&one.container.netns);
    refused(&renamed, "a device eth0 exists already in the pod's network namespace")?;
    // Another device of the same container is another attachment.
    let mut second = one.container.clone();
    "net1".clone_into(&mut second.ifname);
    let error = runtime.add(&list, &second).err().context("two default routes")?.to_string();
    ensure!(error.contains("\"code\":103") && error.contains("169.254.1.1"), "{error}");
    unchanged(node, &wired)?;
    runtime.del(&list, &one.container, Some(&result))?;
    unchanged(node, &before)
}

fn at_once(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let (runtime, before, list) = (&runtime(node)?, traces(node)?, &alone(node, "1.1.0"));
    let guests = (0..16).map(|number| Guest::new(&format!("cni-{number}"))).collect::<anyhow::Result<Vec<_>>>()?;
    // Each of 16 containers by four at once: one wins.
    let results: Vec<anyhow::Result<Value>> = thread::scope(|scope| {
        let calls = guests.iter().flat_map(|one| [one; 4]);
        let running: Vec<_> = calls.map(|one| scope.spawn(|| runtime.add(list, &one.container))).collect();
        running.into_iter().map(|call| call.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let mut addresses = std::collections::BTreeSet::new();
    for four in results.chunks(4) {
        let won: Vec<_> = four.iter().flatten().collect();
        ensure!(won.len() == 1, "{} of four at once succeeded: {four:?}", won.len());
        addresses.insert(address(won[0])?);
        ensure!(four.iter().filter_map(|result| result.as_ref().err()).all(|error| error.to_string().contains("\"code\":100")), "{four:?}");
    }
    ensure!(addresses.len() == 16, "16 pods have {} addresses", addresses.len());
    thread::scope(|scope| {
        let calls = guests.iter().flat_map(|one| [one; 4]);
        let running: Vec<_> = calls.map(|one| scope.spawn(|| runtime.del(list, &one.container, None))).collect();
        running.into_iter().try_for_each(|call| call.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    unchanged(node, &before)
}
