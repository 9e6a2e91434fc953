//! Namespaces, sysctls, and the connection itself.

use crate::sandbox::{ip, ip_all};
use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use overlay_agent::netlink::{Error, Failure, Namespace, Netlink, sysctl};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

fn this_namespace() -> Result<String> {
    Ok(fs::read_link("/proc/thread-self/ns/net")?.display().to_string())
}

pub(crate) async fn namespaces_are_entered_by_their_own_thread() -> Result<()> {
    let before = this_namespace()?;
    let other = Namespace::create()?;
    let there = other.run(this_namespace)??;
    assert_ne!(there, before);
    assert_eq!(Namespace::current()?.run(this_namespace)??, before);

    ip("link add here0 type bridge")?;
    let netlink = Netlink::connect_in(&other)?;
    assert_eq!(netlink.links().await?.into_iter().map(|link| link.name).collect::<Vec<_>>(), ["lo"]);
    assert_eq!(this_namespace()?, before, "the caller moved");

    let error = Namespace::open(Path::new("/run/netns/nowhere")).err().context("there is none")?;
    assert!(matches!(&error, Error::Namespace { source, .. } if source.kind() == ErrorKind::NotFound), "{error:?}");
    assert_eq!(error.to_string(), "cannot open network namespace /run/netns/nowhere");
    let file = Namespace::open(Path::new("/proc/self/status"))?;
    assert!(matches!(file.run(|| ()), Err(Error::Namespace { what, .. }) if what == "enter network namespace /proc/self/status"));
    let panic = std::panic::catch_unwind(|| other.run(|| std::panic::resume_unwind(Box::new("from within"))));
    assert_eq!(panic.err().and_then(|panic| panic.downcast_ref::<&str>().copied()), Some("from within"));
    Ok(())
}

pub(crate) async fn sysctls_are_those_of_the_callers_namespace() -> Result<()> {
    const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
    let other = Namespace::create()?;
    fs::write(FORWARD, "0")?;
    other.run(|| fs::write(FORWARD, "0"))??;
    sysctl::enable_forwarding()?;
    assert_eq!(fs::read_to_string(FORWARD)?, "1\n");
    assert_eq!(other.run(|| fs::read_to_string(FORWARD))??, "0\n");

    ip_all("link add veth.1 type veth peer name veth.2")?;
    let (forwarding, advertisements) = ("/proc/sys/net/ipv4/conf/veth.1/forwarding", "/proc/sys/net/ipv6/conf/veth.1/accept_ra");
    fs::write(forwarding, "0")?;
    fs::write(advertisements, "1")?;
    let closed =
        ["route_localnet", "accept_local", "accept_redirects", "proxy_arp"].map(|key| format!("/proc/sys/net/ipv4/conf/veth.1/{key}"));
    closed.iter().try_for_each(|path| fs::write(path, "1"))?;
    let failed = sysctl::prepare_host_veth("veth.1");
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!((fs::read_to_string(forwarding)?.as_str(), fs::read_to_string(advertisements)?.as_str()), ("1\n", "0\n"));
    for path in &closed {
        assert_eq!(fs::read_to_string(path)?, "0\n", "{path}");
    }

    let failed: Vec<String> = sysctl::prepare_host_veth("nowhere").iter().map(ToString::to_string).collect();
    assert_eq!((failed.len(), failed[0].as_str()), (5, "cannot read /proc/sys/net/ipv4/conf/nowhere/forwarding"), "{failed:?}");
    Ok(())
}

pub(crate) async fn a_read_only_sysctl_that_is_right_is_fine() -> Result<()> {
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    ip("link add veth1 type veth peer name veth2")?;
    fs::write("/proc/sys/net/ipv4/conf/veth1/forwarding", "0")?;
    // Only this case's thread sees this.
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(Some("/proc/sys"), "/proc/sys", None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    mount(None::<&str>, "/proc/sys", None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, None::<&str>)?;

    sysctl::enable_forwarding()?;
    let failed = sysctl::prepare_host_veth("veth1");
    let words: Vec<_> = failed.iter().map(ToString::to_string).collect();
    println!("{words:#?}");
    assert!(words.contains(&"cannot set /proc/sys/net/ipv4/conf/veth1/forwarding to 1, it is 0".to_owned()), "{words:?}");
    Ok(())
}

pub(crate) async fn a_broken_connection_is_an_error() -> Result<()> {
    // The runtime that drives the socket ends; the request must not be taken for done.
    let netlink = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { anyhow::Ok(Netlink::connect()?) })
    })
    .join()
    .expect("the thread ends by itself")?;
    let error = netlink.delete_link("nowhere").await.err().context("it was taken for done")?;
    assert!(matches!(&error, Error::Request { failure: Failure::Closed, .. }), "{error:?}");
    Ok(())
}
