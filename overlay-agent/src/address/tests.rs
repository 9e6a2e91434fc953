use super::*;
use crate::address::Target;

fn entry(nic: &str, address: &str) -> LocalAddress {
    LocalAddress { nic: nic.to_owned(), address: address.parse().unwrap(), up: true, loopback: nic == "lo" }
}

fn host() -> Vec<LocalAddress> {
    [
        ("lo", "127.0.0.1"),
        ("docker0", "172.17.0.1"),
        ("eth0", "192.0.2.11"),
        ("eth0", "192.0.2.12"),
        ("ens5", "10.1.0.5"),
        ("ovl0", "10.244.1.1"),
        ("ens6", "169.254.7.7"),
    ]
    .map(|(nic, address)| entry(nic, address))
    .into()
}

#[expect(clippy::unnecessary_wraps, reason = "as it stands among the facts")]
fn given(address: &str, by: AddressOrigin) -> Option<Given> {
    Some(Given { address: address.parse().unwrap(), by, internal_ip: Some("192.0.2.11".parse().unwrap()) })
}

fn by(method: &str, given: Option<Given>) -> Result<String, String> {
    let method: Method = method.parse().map_err(|error: crate::address::BadMethod| error.to_string())?;
    let facts = Facts { local: &host(), given, route: None, publishing: false };
    choose(&method, &facts).map(|choice| format!("{} {}", choice.address, choice.how)).map_err(|error| error.to_string())
}

#[test]
fn methods_choose_what_they_say() {
    let node = given("192.0.2.11", AddressOrigin::InternalIp);
    for (method, chosen) in [
        ("kubernetes-internal-ip", "192.0.2.11 InternalIP of the Node"),
        ("interface=eth0", "192.0.2.11 interface=eth0: on eth0"),
        ("interface=ens*", "10.1.0.5 interface=ens*: on ens5"),
        ("interface=nic9,ens?", "10.1.0.5 interface=nic9,ens?: on ens5"),
        ("interface=/^e(th|ns)[0-9]{1,2}$/", "192.0.2.11 interface=/^e(th|ns)[0-9]{1,2}$/: on eth0"),
        ("interface=docker0", "172.17.0.1 interface=docker0: on docker0"),
        ("skip-interface=eth*", "10.1.0.5 skip-interface=eth*: on ens5"),
        ("skip-interface=ens5", "192.0.2.11 skip-interface=ens5: on eth0"),
        ("cidr=10.0.0.0/8,192.0.2.0/24", "10.1.0.5 cidr=10.0.0.0/8,192.0.2.0/24: on ens5"),
        ("cidr=198.51.100.0/24,192.0.2.0/24", "192.0.2.11 cidr=198.51.100.0/24,192.0.2.0/24: on eth0"),
    ] {
        assert_eq!(by(method, node).as_deref(), Ok(chosen), "{method}");
    }
    assert_eq!(by("interface=eth0", given("192.0.2.12", AddressOrigin::InternalIp)).unwrap(), "192.0.2.12 interface=eth0: on eth0");
    assert_eq!(by("interface=eth0", None).unwrap(), "192.0.2.11 interface=eth0: on eth0", "without a Node the first");
}

#[test]
fn an_operators_annotation_counts_before_any_method() {
    for origin in [AddressOrigin::OverlayPublicIp, AddressOrigin::FlannelPublicIpOverwrite] {
        assert_eq!(by("interface=eth0", given("10.1.0.5", origin)).unwrap(), format!("10.1.0.5 {origin}"));
    }
    // What flannel wrote by itself does not.
    assert!(by("interface=eth0", given("10.1.0.5", AddressOrigin::FlannelPublicIp)).unwrap().starts_with("192.0.2.11 "));
}

#[test]
fn what_fits_nothing_is_told_with_what_there_is() {
    let has = "it has 172.17.0.1 on docker0, 192.0.2.11 on eth0, 192.0.2.12 on eth0, 10.1.0.5 on ens5, 169.254.7.7 on ens6";
    let node = given("192.0.2.11", AddressOrigin::InternalIp);
    for method in ["interface=eth9", "cidr=203.0.113.0/24", "skip-interface=e*", "interface=lo", "interface=ens6", "interface=ovl0"] {
        assert_eq!(by(method, node).unwrap_err(), format!("{method} fits no address of this node; {has}"));
    }
    let away = by("kubernetes-internal-ip", given("192.0.2.99", AddressOrigin::FlannelPublicIp)).unwrap_err();
    assert_eq!(away, format!("192.0.2.99 (annotation flannel.alpha.coreos.com/public-ip of the Node) is no address of this node; {has}"));
    let facts = Facts { local: &host(), given: node, route: None, publishing: false };
    let explicit = choose(&Method::Explicit("192.0.2.99".parse().unwrap()), &facts).unwrap_err();
    assert_eq!(explicit.to_string(), format!("192.0.2.99 (setting public-ip) is no address of this node; {has}"));
    assert_eq!(by("kubernetes-internal-ip", None).unwrap_err(), "the list of nodes gives this node no usable address");
}

#[test]
fn a_nic_that_is_down_is_not_chosen() {
    let local: Vec<_> = host().into_iter().map(|entry| LocalAddress { up: entry.nic != "eth0", ..entry }).collect();
    let facts = Facts { local: &local, given: None, route: None, publishing: false };
    let error = choose(&"interface=eth0".parse().unwrap(), &facts).unwrap_err().to_string();
    assert!(error.contains("192.0.2.11 on eth0 (down)"), "{error}");
}

#[test]
fn the_address_that_reaches_a_target_is_the_kernels_word() {
    let target = "203.0.113.7".parse().unwrap();
    let facts = |route| Facts { local: Box::leak(Box::new(host())), given: None, route, publishing: false };
    let method: Method = "can-reach=api.example.org".parse().unwrap();
    assert_eq!(method, Method::CanReach(Target::Name("api.example.org".to_owned())));
    let choice = choose(&method, &facts(Some((target, Some("10.1.0.5".parse().unwrap()))))).unwrap();
    assert_eq!(choice.how, "can-reach=api.example.org: what the kernel sends to 203.0.113.7 from");
    assert!(choose(&method, &facts(Some((target, None)))).unwrap_err().to_string().contains("no route to 203.0.113.7"));
    assert!(choose(&method, &facts(None)).unwrap_err().to_string().contains("can-reach=api.example.org: the name has no IPv4"));
}

#[test]
fn whoever_publishes_follows_the_internal_ip_and_not_its_own_echo() {
    let stale = given("192.0.2.12", AddressOrigin::FlannelPublicIp);
    let facts = Facts { local: &host(), given: stale, route: None, publishing: true };
    assert_eq!(choose(&Method::KubernetesInternalIp, &facts).unwrap().address.to_string(), "192.0.2.11");
    let facts = Facts { publishing: false, ..facts };
    assert_eq!(choose(&Method::KubernetesInternalIp, &facts).unwrap().address.to_string(), "192.0.2.12");
}

#[test]
fn what_is_no_method_is_told_with_all_that_are() {
    let error = |text: &str| text.parse::<Method>().unwrap_err().to_string();
    let all =
        "the methods are kubernetes-internal-ip, interface=eth0,ens*, can-reach=192.0.2.1, cidr=192.0.2.0/24, skip-interface=docker*,br-*";
    assert_eq!(error("interfaces=eth0"), format!("there is no method \"interfaces\" (did you mean interface?); {all}"));
    assert_eq!(error("first-found"), format!("there is no method \"first-found\"; {all}"));
    assert_eq!(error(""), format!("there is no method \"\"; {all}"));
    assert_eq!(error("interface"), "interface needs a value, like interface=eth0,ens*");
    assert_eq!(error("cidr="), "cidr needs a value, like cidr=192.0.2.0/24");
    assert_eq!(error("kubernetes-internal-ip=a"), "kubernetes-internal-ip takes no value");
    assert_eq!(error("cidr=10.0.0.1/8"), "cidr: 10.0.0.1/8 has host bits set; the network is 10.0.0.0/8");
    assert_eq!(error("cidr=10.0.0.0/8,x"), "cidr: \"x\" is no network like 192.0.2.0/24");
    assert_eq!(error("can-reach=fd00::1"), "can-reach: \"fd00::1\" is neither an IPv4 address nor a name");
    assert_eq!(error("can-reach=1.2.3"), "can-reach: \"1.2.3\" is neither an IPv4 address nor a name");
    assert_eq!(error("interface=a b"), "interface: \"a b\" is no name of a NIC");
    assert!(error("interface=/ens(/").starts_with("interface: /ens(/: "), "{}", error("interface=/ens(/"));
    assert!(error("interface=/ens").contains("between two slashes"));
    for text in
        ["kubernetes-internal-ip", "interface=eth0,/a{1,2}/", "can-reach=192.0.2.1", "cidr=10.0.0.0/8,192.0.2.0/24", "skip-interface=a*"]
    {
        assert_eq!(text.parse::<Method>().unwrap().to_string(), text);
    }
}
