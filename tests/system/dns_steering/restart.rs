//! How long what was learned stays open (D-5): past its TTL, past the agent's death, and not past its list (P-9).

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use netagent_tests::deadline::{SOON, now, wait_until};
use netagent_tests::dnsmasq::Dnsmasq;
use netagent_tests::resolve::dig;
use netagent_tests::talk::Talk;
use serde_json::Value;

use super::{Scene, Site, both, host, texts};
use crate::policy::site::{put, serve};

/// Time in which a connection that is forbidden ends (P-9).
const END_LIMIT: Duration = Duration::from_secs(1);
/// Time in which an agent that starts again resolves.
const RESUME_LIMIT: Duration = Duration::from_secs(5);

fn records() -> Vec<String> {
    vec![
        host("a.test", 0, 1),
        host("b.test", 1, 1),
        host("c.test", 2, 1),
        // Leads where `a.test` does.
        host("same.test", 0, 1),
    ]
}

/// Resolves both families of a name by glibc's way: with dig, at the gateway.
#[track_caller]
fn resolve(site: &Site, name: &str, index: u8) {
    let gateway = &site.gateways()[0];
    for (kind, address) in ["A", "AAAA"].into_iter().zip(both(index)) {
        let dug = dig(site.netns(), &format!("@{gateway} {name} {kind}"));
        assert_eq!(dug.addresses(), [address].into(), "{name}: {dug:?}");
    }
}

/// The addresses that `explain` names, and the shortest time that they are open still.
fn named(scene: &Scene<Dnsmasq>, name: &str) -> (Vec<IpAddr>, u64) {
    let explained = scene.explain("a", name);
    let learned = explained["addresses"].as_array().unwrap();
    let address = |one: &Value| one["address"].as_str().unwrap().parse().unwrap();
    let mut addresses: Vec<IpAddr> = learned.iter().map(address).collect();
    addresses.sort();
    let left = learned
        .iter()
        .map(|one| one["seconds_left"].as_u64().unwrap());
    (addresses, left.min().unwrap_or(0))
}

/// A connection that ends with a reset when it is used, within a second.
fn check_ends(mut stream: TcpStream, what: &str) {
    stream.set_read_timeout(Some(END_LIMIT)).unwrap();
    // The first word may meet the end already.
    let ended = stream
        .write_all(b"more")
        .and_then(|()| stream.read(&mut [0; 8]).map(|_| ()));
    assert_eq!(
        ended.map_err(|error| error.kind()),
        Err(ErrorKind::ConnectionReset),
        "{what}"
    );
}

/// Some bytes each way, all of which come.
fn talk(talks: &mut [Talk]) {
    for _ in 0..50 {
        talks.iter_mut().for_each(Talk::exchange);
    }
}

#[test]
fn d5_an_address_outlives_its_ttl_and_the_agent() {
    let records = records();
    let mut scene = Scene::new(&texts(&records));
    let servers = [both(0), both(1), both(2)].concat();
    let _servers = serve(&scene.world.outside, &servers);
    let site = scene.listed("a", &["a.test", "b.test"]);
    resolve(&site, "a.test", 0);
    let (addresses, left) = named(&scene, "a.test");
    assert_eq!((addresses, left > 50), (both(0).into(), true));
    wait_until("the TTL is over", SOON, || named(&scene, "a.test").1 <= 57);
    let mut talks = both(0).map(|address| Talk::open(site.netns(), address));
    scene.agent.kill9();
    talk(&mut talks);
    for address in both(0) {
        site.check_open(address);
    }
    for address in both(1) {
        site.check_closed(address);
    }
    let heard = scene.upstream.names().len();
    for server in [site.gateways()[0].as_str(), "203.0.113.9"] {
        for way in ["+notcp", "+tcp"] {
            let dug = dig(site.netns(), &format!("@{server} b.test {way} +time=1"));
            assert_eq!(dug.status, None, "DNS fails closed: {dug:?}");
            talk(&mut talks);
        }
    }
    assert_eq!(scene.upstream.names().len(), heard);
    scene.agent.run();
    talk(&mut talks);
    let began = now();
    resolve(&site, "b.test", 1);
    assert!(began.elapsed() < RESUME_LIMIT, "{:?}", began.elapsed());
    for address in [both(0), both(1)].concat() {
        site.check_open(address);
    }
    let (addresses, left) = named(&scene, "a.test");
    assert_eq!(addresses, both(0));
    assert!((1..=57).contains(&left), "{left}");
    talk(&mut talks);
    // Another start of the instance knows nothing of it.
    drop(talks);
    scene.agent.change("a", "stop");
    scene.agent.change("a", "start");
    assert!(named(&scene, "a.test").0.is_empty());
}

/// What `b.test` opened ends, and what `a.test` opened goes on.
fn check_narrowed(
    scene: &Scene<Dnsmasq>,
    site: &Site,
    mut kept: [Talk; 2],
    ending: [TcpStream; 2],
) {
    talk(&mut kept);
    let policy = r#"{"allowed_domains": ["a.test", "c.test"]}"#;
    put(&scene.agent, "a", policy);
    for (stream, address) in ending.into_iter().zip(both(1)) {
        check_ends(stream, &address.to_string());
    }
    talk(&mut kept);
    for address in both(0) {
        site.check_open(address);
    }
    for address in both(1) {
        site.check_closed(address);
    }
    assert!(named(scene, "b.test").0.is_empty());
    assert_eq!(named(scene, "a.test").0, both(0));
    assert!(named(scene, "same.test").0.is_empty());
    resolve(site, "c.test", 2);
    both(2)
        .into_iter()
        .for_each(|address| site.check_open(address));
    let gateway = &site.gateways()[0];
    assert!(dig(site.netns(), &format!("@{gateway} b.test")).is("REFUSED"));
    talk(&mut kept);
}

#[test]
fn d5_a_shorter_list_ends_what_it_no_longer_leads_to_and_harms_nothing_else() {
    for is_killed in [false, true] {
        let records = records();
        let mut scene = Scene::new(&texts(&records));
        let servers = [both(0), both(1), both(2)].concat();
        let _servers = serve(&scene.world.outside, &servers);
        let site = scene.listed("a", &["*.test"]);
        resolve(&site, "a.test", 0);
        resolve(&site, "same.test", 0);
        resolve(&site, "b.test", 1);
        let kept = both(0).map(|address| Talk::open(site.netns(), address));
        let ending = both(1).map(|address| {
            let mut stream = site.connect(address).unwrap();
            stream.write_all(b"word").unwrap();
            stream.read_exact(&mut [0; 4]).unwrap();
            stream
        });
        if is_killed {
            scene.agent.kill9();
            scene.agent.run();
        }
        check_narrowed(&scene, &site, kept, ending);
    }
}

#[test]
fn d5_without_names_nothing_that_was_learned_is_open_and_no_later_list_brings_it_back() {
    let records = records();
    let scene = Scene::new(&texts(&records));
    let _servers = serve(&scene.world.outside, &both(0));
    let site = scene.listed("a", &["a.test"]);
    for policy in [
        r#"{"allowed_cidrs": []}"#,
        r#"{"allowed_domains": []}"#,
        r#"{"network_policy": "deny-all"}"#,
    ] {
        resolve(&site, "a.test", 0);
        both(0)
            .into_iter()
            .for_each(|address| site.check_open(address));
        put(&scene.agent, "a", policy);
        assert!(scene.explain("a", &both(0)[0].to_string())["verdict"] == "denied");
        put(&scene.agent, "a", r#"{"allowed_domains": ["a.test"]}"#);
        both(0)
            .into_iter()
            .for_each(|address| site.check_closed(address));
    }
}
