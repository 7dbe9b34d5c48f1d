//! Answers that would turn a guest against what is near it (D-6).

use std::net::{IpAddr, SocketAddr};

use netagent_tests::dnsmasq::Dnsmasq;
use netagent_tests::resolve::dig;
use netagent_tests::world::{HOST_V4, HOST_V6, server_v4, server_v6};
use serde_json::json;

use super::{Scene, Site};

/// What no answer leads to.
const NEAR: [&str; 20] = [
    "169.254.169.254",
    "169.254.1.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.9.9.9",
    "0.0.0.0",
    "224.0.0.251",
    "255.255.255.255",
    "172.16.0.1",
    "198.51.100.2",
    "::1",
    "::",
    "fe80::1",
    "fd00:ec2::254",
    "ff02::fb",
    "2001:db8:100::2",
    "::ffff:169.254.169.254",
    "::ffff:127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
];

fn records() -> Vec<String> {
    let mut records = Vec::new();
    for (index, near) in NEAR.iter().enumerate() {
        records.push(format!("host-record=near{index}.test,{near},60"));
        let near: IpAddr = near.parse().unwrap();
        let good = good(near);
        records.push(format!("host-record=mixed{index}.test,{near},60"));
        records.push(format!("host-record=mixed{index}.test,{good},60"));
        // A guest comes by it by an alias too.
        records.push(format!("cname=alias{index}.test,near{index}.test"));
    }
    // Hints: 169.254.169.254 and 203.0.113.2.
    records.push("dns-rr=hinted.test,65,00010000040004a9fea9fe".to_owned());
    records.push("dns-rr=good.test,65,00010000040004cb007102".to_owned());
    records
}

fn good(near: IpAddr) -> IpAddr {
    if near.is_ipv4() {
        server_v4(1).into()
    } else {
        server_v6(1).into()
    }
}

fn check(scene: &Scene<Dnsmasq>, site: &Site, (gateway, way): (&str, &str)) {
    let ask = |name: &str, kind: &str| {
        let words = format!("@{gateway} {name} {kind} {way}");
        (dig(site.netns(), &words), words)
    };
    for (index, near) in NEAR.iter().enumerate() {
        let near: IpAddr = near.parse().unwrap();
        let kind = if near.is_ipv4() { "A" } else { "AAAA" };
        for name in [format!("near{index}.test"), format!("alias{index}.test")] {
            let (dug, words) = ask(&name, kind);
            assert!(dug.is("NXDOMAIN"), "{near}: {words}: {dug:?}");
            assert_eq!(dug.addresses(), [].into(), "{near}: {words}");
        }
        let (dug, words) = ask(&format!("mixed{index}.test"), kind);
        assert!(dug.is("NOERROR"), "{near}: {words}: {dug:?}");
        assert_eq!(dug.addresses(), [good(near)].into(), "{near}: {words}");
        let explained = scene.explain("a", &SocketAddr::new(near, 80).to_string());
        assert_ne!(explained["verdict"], "allowed", "{near}: {explained}");
    }
    let (dug, words) = ask("hinted.test", "HTTPS");
    assert!(dug.is("NXDOMAIN"), "{words}: {dug:?}");
    let (dug, words) = ask("good.test", "HTTPS");
    assert!(dug.is("NOERROR"), "{words}: {dug:?}");
}

#[test]
fn d6_addresses_near_the_guest_are_taken_out_of_answers() {
    assert!(NEAR.contains(&HOST_V4.to_string().as_str()));
    assert!(NEAR.contains(&HOST_V6.to_string().as_str()));
    let records = records();
    let scene = Scene::new(&super::texts(&records));
    let domains: Vec<String> = (0..NEAR.len())
        .flat_map(|index| ["near", "mixed", "alias"].map(|name| format!("{name}{index}.test")))
        .chain(["hinted.test".to_owned(), "good.test".to_owned()])
        .collect();
    let site = scene.boot(&json!({ "name": "a", "allowed_domains": domains }));
    let [v4, v6] = site.gateways();
    check(&scene, &site, (&v4, "+notcp"));
    check(&scene, &site, (&v6, "+tcp"));
}

#[test]
fn d6_the_addresses_of_guests_and_gateways_and_of_private_networks_are_taken_out_too() {
    let records = [
        "host-record=own.test,172.16.0.2,60",
        "host-record=gateway.test,172.16.0.1,60",
        "host-record=other.test,172.16.0.6,60",
        "host-record=private.test,10.1.2.3,fd12::3,60",
    ];
    let scene = Scene::new(&records);
    let site = scene.listed("a", &["*.test"]);
    let other = scene.listed("b", &["*.test"]);
    let explained = scene.explain("a", &other.gateway_v4.to_string());
    assert_eq!(explained["reason"], "other_instance", "{explained}");
    for one in [&site, &other] {
        let gateway = &one.gateways()[0];
        for name in ["own.test", "gateway.test", "other.test"] {
            let dug = dig(one.netns(), &format!("@{gateway} {name}"));
            assert!(dug.is("NXDOMAIN"), "{name}: {dug:?}");
        }
    }
    let private = |site: &Site| {
        let gateway = &site.gateways()[0];
        ["A", "AAAA"].map(|kind| dig(site.netns(), &format!("@{gateway} private.test {kind}")))
    };
    // A private network behind the uplink is the world's, unless the configuration says otherwise.
    assert!(private(&site).iter().all(|dug| dug.is("NOERROR")));
    let mut scene = scene;
    scene.agent.stop();
    let configuration = super::configuration();
    let denying = format!("{configuration}[policy]\ndeny_private = true\n");
    scene.agent.configure(&denying);
    scene.agent.run();
    let dug = private(&site);
    assert!(dug.iter().all(|dug| dug.is("NXDOMAIN")), "{dug:?}");
}
