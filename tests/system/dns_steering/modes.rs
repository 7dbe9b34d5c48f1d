//! Port 53 under the other policies (D-2, P-14).

use std::net::{IpAddr, Ipv4Addr};

use netagent_tests::name_server::{NameServer, PORT, ask_tcp, ask_udp};
use netagent_tests::resolve::dig;
use netagent_tests::world::{server_v4, server_v6};
use serde_json::json;

use super::{Scene, both, host, texts};
use crate::policy::site::{drops, put, serve};

/// What the world's other name server answers.
const DIRECT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const OTHER: u8 = 8;

fn others(scene: &Scene<netagent_tests::dnsmasq::Dnsmasq>) -> Vec<NameServer> {
    let start = |address| NameServer::start(&scene.world.outside, (address, PORT), DIRECT);
    both(OTHER).into_iter().map(start).collect()
}

#[test]
fn p14_in_audit_mode_every_name_is_answered_and_dns_still_is_the_resolvers() {
    let records = [host("a.test", 0, 300), host("b.test", 1, 300)];
    let scene = Scene::new(&texts(&records));
    let servers = [both(0), both(1)].concat();
    let _servers = serve(&scene.world.outside, &servers);
    let direct = others(&scene);
    let spec = json!({ "name": "a", "allowed_domains": ["a.test"], "audit": true });
    let site = scene.boot(&spec);
    for server in [site.gateways()[0].clone(), server_v4(OTHER).to_string()] {
        for (name, index) in [("a.test", 0), ("b.test", 1)] {
            let dug = dig(site.netns(), &format!("@{server} {name}"));
            assert_eq!(
                dug.addresses(),
                [server_v4(index).into()].into(),
                "{server}"
            );
        }
    }
    assert!(direct.iter().all(|server| server.queries().is_empty()));
    // What the list does not lead to passes, and is counted.
    site.check_open(server_v4(0));
    let before = audited(&scene.agent, "not_allowed");
    site.check_open(server_v4(1));
    assert!(audited(&scene.agent, "not_allowed") > before);
    let explained = scene.explain("a", "b.test");
    assert_eq!(explained["verdict"], "audited", "{explained}");
    put(&scene.agent, "a", r#"{"allowed_domains": ["a.test"]}"#);
    site.check_closed(server_v4(1));
    site.check_open(server_v4(0));
    let gateway = &site.gateways()[0];
    assert!(dig(site.netns(), &format!("@{gateway} b.test")).is("REFUSED"));
}

fn audited(agent: &netagent_tests::agent::Agent, reason: &str) -> u64 {
    agent.inspect("a")["audited"][reason].as_u64().unwrap_or(0)
}

#[test]
fn d2_under_deny_all_dns_is_dropped() {
    let records = [host("a.test", 0, 300)];
    let scene = Scene::new(&texts(&records));
    let _direct = others(&scene);
    let site = scene.boot(&json!({ "name": "a", "network_policy": "deny-all" }));
    for server in [site.gateways()[0].clone(), server_v4(OTHER).to_string()] {
        let before = drops(&scene.agent, "a", "deny_all");
        let dug = dig(site.netns(), &format!("@{server} a.test +time=1"));
        assert_eq!(dug.status, None, "{server}: {dug:?}");
        assert!(drops(&scene.agent, "a", "deny_all") > before, "{server}");
    }
    assert_eq!(scene.upstream.names(), [""; 0]);
}

#[test]
fn d2_under_networks_alone_the_gateway_refuses_and_the_lists_judge_other_servers() {
    let records = [host("a.test", 0, 300)];
    let scene = Scene::new(&texts(&records));
    let direct = others(&scene);
    let allowed = format!("{}/32", server_v4(OTHER));
    let site = scene.boot(&json!({ "name": "a", "allowed_cidrs": [allowed] }));
    for gateway in site.gateways() {
        for way in ["+notcp", "+tcp"] {
            let dug = dig(site.netns(), &format!("@{gateway} a.test {way}"));
            assert!(dug.is("REFUSED"), "{gateway} {way}: {dug:?}");
        }
    }
    let place = (IpAddr::from(server_v4(OTHER)), PORT);
    let reply = ask_udp(site.netns(), place, "www.test").unwrap();
    assert_eq!(reply.last, DIRECT.octets());
    let replies = ask_tcp(site.netns(), place, &["www.test"]).unwrap();
    assert_eq!(replies[0].last, DIRECT.octets());
    let closed = (IpAddr::from(server_v6(OTHER)), PORT);
    assert!(ask_udp(site.netns(), closed, "www.test").is_err());
    let heard: Vec<usize> = direct.iter().map(|one| one.queries().len()).collect();
    assert_eq!(heard, [2, 0]);
    assert_eq!(scene.upstream.names(), [""; 0]);
}

#[test]
fn d2_without_a_list_to_keep_to_another_server_is_an_ordinary_address() {
    let records = [host("a.test", 0, 300)];
    let scene = Scene::new(&texts(&records));
    let direct = others(&scene);
    let site = scene.boot(&json!({ "name": "a" }));
    let mut asked = 0;
    for policy in ["{}", r#"{"denied_cidrs": ["192.0.2.0/24"]}"#] {
        put(&scene.agent, "a", policy);
        for address in both(OTHER) {
            let reply = ask_udp(site.netns(), (address, PORT), "www.test").unwrap();
            assert_eq!(reply.last, DIRECT.octets());
            let replies = ask_tcp(site.netns(), (address, PORT), &["www.test"]).unwrap();
            assert_eq!(replies[0].last, DIRECT.octets());
        }
        asked += 2;
        assert!(direct.iter().all(|one| one.queries().len() == asked));
        for gateway in site.gateways() {
            let dug = dig(site.netns(), &format!("@{gateway} a.test"));
            assert_eq!(dug.addresses(), [server_v4(0).into()].into());
        }
    }
    // With a list of names it is steered at once, and back.
    put(&scene.agent, "a", r#"{"allowed_domains": ["a.test"]}"#);
    for address in both(OTHER) {
        let reply = ask_udp(site.netns(), (address, PORT), "www.test").unwrap();
        assert_eq!(reply.code, 5, "{reply:?}");
    }
    put(&scene.agent, "a", "{}");
    for address in both(OTHER) {
        let reply = ask_udp(site.netns(), (address, PORT), "www.test").unwrap();
        assert_eq!(reply.last, DIRECT.octets());
    }
}
