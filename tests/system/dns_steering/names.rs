//! Which names are answered (D-3), whomever the guest asks, and however (D-2).

use std::collections::BTreeSet;
use std::net::IpAddr;

use netagent_tests::dnsmasq::Dnsmasq;
use netagent_tests::resolve::{Glibc, dig, dig_all};
use netagent_tests::world::{HOST_V4, HOST_V6, SILENT, server_v4, server_v6};

use super::{Scene, Site, both, host, texts};
use crate::policy::site::serve;

/// As users write them.
const LIST: [&str; 6] = [
    "Exact.Test.",
    "*.wild.test",
    "api.corp.test",
    "bücher.test",
    "alias.test",
    "far.test",
];

/// Names that the list allows, and which server they lead to.
const ALLOWED: [(&str, u8); 10] = [
    ("exact.test", 0),
    ("EXACT.tEsT", 0),
    ("exact.test.", 0),
    ("a.wild.test", 1),
    ("x.y.z.wild.test", 2),
    ("X.Y.z.WILD.test", 2),
    ("api.corp.test", 3),
    ("xn--bcher-kva.test", 4),
    // The question counts, not what its name stands for.
    ("alias.test", 5),
    ("far.test", 5),
];

/// Names that it does not allow, and that all exist.
const OTHERS: [&str; 13] = [
    "wild.test",
    "sub.exact.test",
    "web.corp.test",
    "corp.test",
    "test",
    "evilexact.test",
    "evilwild.test",
    "awild.test",
    "exact.test.evil.test",
    "a.wild.test.evil.test",
    "target.test",
    "mid.test",
    "bcher.test",
];

fn records() -> Vec<String> {
    let mut records = vec![
        host("exact.test", 0, 300),
        host("a.wild.test", 1, 300),
        host("x.y.z.wild.test", 2, 300),
        host("api.corp.test", 3, 300),
        host("xn--bcher-kva.test", 4, 300),
        host("target.test", 5, 300),
        "cname=alias.test,target.test".to_owned(),
        "cname=far.test,mid.test".to_owned(),
        "cname=mid.test,target.test".to_owned(),
        "txt-record=exact.test,some words".to_owned(),
        "srv-host=_sip._tcp.wild.test,sip.wild.test,5060".to_owned(),
        // Priority 1, the name itself, and the hints 203.0.113.7 and 2001:db8:200::7.
        "dns-rr=exact.test,65,00010000040004cb0071070006001020010db8020000000000000000000007"
            .to_owned(),
    ];
    let others = OTHERS.iter().filter(|name| !name.starts_with("target"));
    records.extend(
        others
            .filter(|name| !name.starts_with("mid"))
            .map(|name| host(name, 6, 300)),
    );
    records
}

fn addresses(index: u8) -> BTreeSet<IpAddr> {
    both(index).into()
}

/// The list holds whatever the server that is asked.
fn check_table(site: &Site, server: &str, way: &str) {
    let mut cases = Vec::new();
    for is_v4 in [true, false] {
        let kind = if is_v4 { "A" } else { "AAAA" };
        let question = |name: &str| format!("@{server} {name} {kind} {way}");
        let answer = |index| both(index)[usize::from(!is_v4)];
        cases.extend(ALLOWED.map(|(name, index)| (question(name), Some(answer(index)))));
        cases.extend(OTHERS.map(|name| (question(name), None)));
    }
    let questions: Vec<String> = cases.iter().map(|(question, _)| question.clone()).collect();
    let answers = dig_all(site.netns(), &questions);
    for ((question, address), dug) in cases.into_iter().zip(answers) {
        if let Some(address) = address {
            assert!(dug.is("NOERROR"), "{question}: {dug:?}");
            assert_eq!(dug.addresses(), [address].into(), "{question}: {dug:?}");
        } else {
            assert!(dug.is("REFUSED"), "{question}: {dug:?}");
            assert_eq!(dug.records, [], "{question}");
        }
    }
}

/// Nothing but what the list allows reached the world's server.
fn check_unheard(dnsmasq: &Dnsmasq) {
    let heard = dnsmasq.names();
    assert!(!heard.is_empty(), "it was asked");
    for name in heard {
        let name = name.to_lowercase();
        let is_allowed =
            ALLOWED.iter().any(|(allowed, _)| *allowed == name) || name.ends_with(".wild.test");
        assert!(is_allowed, "{name} went on");
    }
}

#[test]
fn d2_d3_the_list_holds_at_both_gateways_over_udp_and_tcp() {
    let records = records();
    let scene = Scene::new(&texts(&records));
    let site = scene.listed("a", &LIST);
    for server in site.gateways() {
        for way in ["+notcp", "+tcp"] {
            check_table(&site, &server, way);
        }
    }
    check_unheard(&scene.upstream);
}

#[test]
fn d2_d3_the_list_holds_at_every_other_address_over_udp_and_tcp() {
    let records = records();
    let scene = Scene::new(&texts(&records));
    let site = scene.listed("a", &LIST);
    let other = scene.listed("b", &LIST);
    // A server of the world (also the one that the agent asks), nobody's, the host's, another guest's, and those that
    // no policy opens.
    let servers = [
        server_v4(8).to_string(),
        server_v6(8).to_string(),
        server_v4(super::UPSTREAM).to_string(),
        SILENT[0].to_string(),
        SILENT[1].to_string(),
        HOST_V4.to_string(),
        HOST_V6.to_string(),
        other.gateway_v4.to_string(),
        "169.254.169.254".to_owned(),
        "fd00:ec2::254".to_owned(),
    ];
    for server in servers {
        for way in ["+notcp", "+tcp"] {
            check_table(&site, &server, way);
        }
    }
    check_unheard(&scene.upstream);
}

#[test]
fn d2_d3_programs_that_use_glibc_find_what_the_list_allows_and_nothing_else() {
    let records = records();
    let scene = Scene::new(&texts(&records));
    let site = scene.listed("a", &LIST);
    let [v4, v6] = site.gateways();
    let elsewhere = server_v6(8).to_string();
    for (server, options) in [
        (v4.as_str(), ""),
        (v6.as_str(), ""),
        (v4.as_str(), "use-vc"),
        (elsewhere.as_str(), "edns0"),
        ("169.254.169.254", "single-request-reopen"),
    ] {
        let glibc = Glibc::new(site.netns(), &[server], options);
        for (name, index) in ALLOWED {
            let found = glibc.resolve(name);
            assert_eq!(found, addresses(index), "{server} {options} {name}");
        }
        for name in OTHERS {
            assert_eq!(glibc.resolve(name), [].into(), "{server} {options} {name}");
        }
    }
    check_unheard(&scene.upstream);
}

#[test]
fn d3_other_records_of_allowed_names_pass_and_any_does_not() {
    let records = records();
    let scene = Scene::new(&texts(&records));
    let _servers = serve(&scene.world.outside, &[both(5), both(6)].concat());
    let site = scene.listed("a", &LIST);
    let [gateway, _] = site.gateways();
    let ask = |words: &str| dig(site.netns(), &format!("@{gateway} {words}"));
    let record = |kind: &str, data: &str| [(kind.to_owned(), data.to_owned())];
    let text = ask("exact.test TXT");
    assert_eq!(text.records, record("TXT", "\"some words\""));
    let service = ask("_sip._tcp.wild.test SRV");
    assert_eq!(service.records, record("SRV", "0 0 5060 sip.wild.test."));
    for hinted in both(6) {
        site.check_closed(hinted);
    }
    let hints = "1 . ipv4hint=203.0.113.7 ipv6hint=2001:db8:200::7";
    assert_eq!(ask("exact.test HTTPS").records, record("HTTPS", hints));
    for hinted in both(6) {
        site.check_open(hinted);
    }
    for server in both(5) {
        site.check_closed(server);
    }
    let alias = ask("alias.test A");
    let chain = [record("CNAME", "target.test."), record("A", "203.0.113.6")].concat();
    assert_eq!(alias.records, chain);
    site.check_open(both(5)[0]);
    assert!(ask("exact.test ANY").is("REFUSED"));
    assert!(ask("exact.test ANY +tcp").is("REFUSED"));
    assert!(ask("a.wild.test AXFR").records.is_empty());
    assert!(ask("corp.test TXT").is("REFUSED"));
    assert!(ask("exact.test TXT -c CH").is("REFUSED"));
    assert!(ask("nobody.wild.test A").is("NXDOMAIN"));
    // A name without addresses of a family.
    let empty = ask("exact.test MX");
    assert!(empty.is("NOERROR") && empty.records.is_empty(), "{empty:?}");
    let queries = scene.upstream.queries();
    assert!(
        queries
            .iter()
            .all(|(kind, name)| kind != "ANY" && name != "corp.test")
    );
}
