use std::collections::BTreeSet;
use std::sync::Arc;

use bytemuck::Zeroable;
use proptest::prelude::*;

use super::*;
use crate::plan::publish::Sender;
use crate::policy::compile;
use crate::spec::publish::PortProtocol;

mod relay;

const GUEST: [u8; 4] = [172, 16, 0, 2];
const GATEWAY: [u8; 4] = [172, 16, 0, 1];

/// An instance on a host, as the maps have it.
pub(super) struct Scene {
    pub(super) record: Interface,
    pub(super) policy: PolicySpec,
    deny_private: bool,
    routes: RouteMap,
    links: BTreeMap<u32, ObservedLink>,
    ports: Ports,
    host_ports: BTreeSet<ExposedPort>,
    /// Policy of the instance behind the published port.
    other: PolicySpec,
    pub(super) learned: Vec<LearnedFrom>,
    relay: Option<ByRelay<'static>>,
}

fn policy(text: &str) -> PolicySpec {
    PolicySpec::parse(&serde_json::from_str(text).unwrap()).unwrap()
}

fn target(kind: RouteKind) -> RouteTarget {
    RouteTarget {
        kind,
        ..routes::UNREACHABLE
    }
}

fn route_map() -> RouteMap {
    let out = |next_hop: Option<&str>, source: &str| RouteTarget {
        kind: RouteKind::Uplink,
        ifindex: 2,
        mtu: 1_500,
        next_hop: next_hop.map(|text| text.parse().unwrap()),
        source: Some(source.parse().unwrap()),
    };
    let v4 = "198.51.100.2";
    let routes = [
        ("0.0.0.0/0", out(Some("198.51.100.1"), v4)),
        ("198.51.100.0/24", out(None, v4)),
        ("2001:db8::/32", out(Some("fe80::9"), "2001:db8:100::2")),
        ("198.51.100.2/32", target(RouteKind::Host)),
        ("172.16.0.0/16", target(RouteKind::Instance)),
        ("169.254.0.0/16", target(RouteKind::AlwaysDenied)),
        ("fe80::/10", target(RouteKind::AlwaysDenied)),
        ("172.17.0.0/16", target(RouteKind::NotUplink)),
    ];
    let parsed = routes.map(|(prefix, target)| (prefix.parse().unwrap(), target));
    parsed.into_iter().collect()
}

pub(super) fn scene(text: &str) -> Scene {
    let policy = policy(text);
    let flag = |holds, flag| if holds { flag } else { 0 };
    let record = Interface {
        has_v6: 1,
        gateway_v4: GATEWAY,
        instance_gateway_v4: GATEWAY,
        gateway_v6: [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        addresses_v4: [GUEST, [0; 4], [0; 4], [0; 4]],
        policy_flags: flag(policy.mode == PolicyMode::DenyAll, policy_flag::DENY_ALL)
            | flag(policy.audit, policy_flag::AUDIT)
            | flag(policy.allowed_domains.is_some(), policy_flag::NAMES),
        ..Interface::zeroed()
    };
    let uplink = ObservedLink {
        name: "eth0".into(),
        ..ObservedLink::default()
    };
    Scene {
        record,
        policy,
        deny_private: false,
        routes: route_map(),
        links: BTreeMap::from([(2, uplink)]),
        ports: Ports::default(),
        host_ports: BTreeSet::new(),
        other: PolicySpec::default(),
        learned: Vec::new(),
        relay: None,
    }
}

impl Scene {
    /// With ports of the host that are open to guests: 8080, and the resolver's.
    fn opening(mut self) -> Self {
        let protocol = PortProtocol::Tcp;
        self.host_ports = [8_080, 53]
            .map(|port| ExposedPort { port, protocol })
            .into();
        self
    }

    /// With a port of the host that leads to another instance.
    fn publishing(mut self, from: Option<&str>) -> Self {
        let at = PublishedAt {
            address: "0.0.0.0".parse().unwrap(),
            port: 8_080,
            protocol: PortProtocol::Tcp,
        };
        let to = PublishedTo {
            id: 7,
            slot: 9,
            generation: 1,
            guest: "172.16.0.6".parse().unwrap(),
            guest_port: 80,
            limited: from.is_some(),
        };
        self.ports.published.insert(at, to);
        let senders = from.into_iter().map(|network| Sender {
            id: 7,
            network: network.parse().unwrap(),
        });
        self.ports.senders = senders.collect();
        self
    }

    fn explain(&self, question: &Question) -> Explanation {
        let other = compile(&self.other, false);
        let behind = publication(&self.ports, question).map(|to| Behind {
            to,
            name: Some("web"),
            compiled: other.as_deref(),
            audit: self.other.audit,
        });
        self.asked(behind, |in_force| explain(question, in_force))
    }

    pub(super) fn explain_name(&self, name: &str) -> NameExplanation {
        self.asked(None, |in_force| explain_name(name, in_force))
    }

    fn asked<T>(&self, behind: Option<Behind<'_>>, ask: impl FnOnce(&InForce<'_>) -> T) -> T {
        let compiled = compile(&self.policy, self.deny_private);
        ask(&InForce {
            records: &[self.record],
            policy: &self.policy,
            compiled: compiled.as_deref(),
            routes: &self.routes,
            links: &self.links,
            ports: &self.ports,
            host_ports: &self.host_ports,
            behind,
            learned: &self.learned,
            relay: self.relay,
        })
    }

    /// Address, with `/udp` behind it where that is meant; and verdict, reason, rule and path on one line.
    #[track_caller]
    pub(super) fn check(&self, asked: &str, expected: &str) {
        let (address, protocol) = match asked.split_once('/') {
            Some((address, protocol)) => (address, Some(protocol)),
            None => (asked, None),
        };
        let question = Question::parse(address, None, protocol).unwrap();
        let found = self.explain(&question);
        let reason = found.reason.map_or("-", DropReason::name);
        let relay = found.relay.map(|relay| format!("{relay}, "));
        let line = format!(
            "{} {reason}; {}; {}{}",
            found.verdict.as_str(),
            found.rule,
            relay.unwrap_or_default(),
            found.path
        );
        assert_eq!(line, expected, "{asked}");
    }
}

pub(super) const OUT: &str = "uplink eth0, next hop 198.51.100.1, leaves as 198.51.100.2";

#[test]
fn the_way_out_names_uplink_next_hop_and_source() {
    let mut scene = scene("{}");
    scene.check(
        "203.0.113.1",
        &format!("allowed -; policy allow-all; {OUT}"),
    );
    scene.check(
        "198.51.100.9:80",
        "allowed -; policy allow-all; uplink eth0, on-link, leaves as 198.51.100.2",
    );
    scene.check(
        "2001:db8::7",
        "allowed -; policy allow-all; uplink eth0, next hop fe80::9, leaves as 2001:db8:100::2",
    );
    scene.check(
        "2001:db9::7",
        "denied no_route; the host has no route; no route",
    );
    scene.record.has_v6 = 0;
    scene.check(
        "2001:db8::7",
        "denied spoofed_address; the instance has no IPv6; uplink eth0, next hop fe80::9, leaves as 2001:db8:100::2",
    );
}

#[test]
fn n8_the_address_of_its_own_is_named_and_missed_where_it_went() {
    let mut scene = scene("{}");
    scene.record.snat_v4 = [198, 51, 100, 7];
    let path = "uplink eth0, next hop 198.51.100.1, leaves as 198.51.100.7";
    let text = "the host no longer has its snat_address 198.51.100.7";
    scene.check(
        "203.0.113.1",
        &format!("denied snat_address; {text}; {path}"),
    );
    let own = "198.51.100.7/32".parse().unwrap();
    scene.routes.insert(own, target(RouteKind::Host));
    scene.check(
        "203.0.113.1",
        &format!("allowed -; policy allow-all; {path}"),
    );
}

#[test]
fn the_gateway_serves_echo_dns_and_dhcp() {
    let open = scene("{}");
    let at = "the gateway: echo, DNS and DHCP only";
    open.check(
        "172.16.0.1",
        &format!("allowed -; the gateway answers echo; {at}"),
    );
    open.check(
        "fe80::1",
        &format!("allowed -; the gateway answers echo; {at}"),
    );
    for asked in ["172.16.0.1:53", "172.16.0.1:53/udp", "[fe80::1]:53"] {
        open.check(
            asked,
            &format!("allowed -; the agent's resolver answers; {at}"),
        );
    }
    open.check(
        "172.16.0.1:67/udp",
        &format!("allowed -; the agent serves DHCP, asked from port 68; {at}"),
    );
    open.check(
        "172.16.0.1:80",
        &format!("denied gateway_closed; the gateway serves echo, DNS and DHCP alone; {at}"),
    );
    scene(r#"{"allowed_cidrs": ["0.0.0.0/0"]}"#).check(
        "172.16.0.1:53",
        &format!(
            "allowed -; the agent's resolver answers REFUSED: there are allowed_cidrs, and no allowed_domains; {at}"
        ),
    );
    let closed = scene(r#"{"network_policy": "deny-all"}"#);
    closed.check(
        "172.16.0.1:53",
        &format!("denied deny_all; policy deny-all; {at}"),
    );
    closed.check(
        "172.16.0.1",
        &format!("allowed -; the gateway answers echo; {at}"),
    );
}

#[test]
fn p7_a_listener_of_the_host_is_reached_where_the_configuration_opens_its_port() {
    let open = || scene("{}").opening();
    let at = "policy.allow_host_ports: 8080/tcp; a listener of the host";
    let allowed = format!("allowed -; {at}");
    for asked in ["172.16.0.1:8080", "[fe80::1]:8080", "198.51.100.2:8080"] {
        open().check(asked, &allowed);
    }
    let gateway = "the gateway: echo, DNS and DHCP only";
    let closed = "denied gateway_closed; the gateway serves echo, DNS and DHCP alone";
    open().check("172.16.0.1:8080/udp", &format!("{closed}; {gateway}"));
    open().check(
        "172.16.0.1:53",
        &format!("allowed -; the agent's resolver answers; {gateway}"),
    );
    open().check(
        "198.51.100.2:53",
        "allowed -; policy.allow_host_ports: 53/tcp; a listener of the host",
    );
    open().check(
        "198.51.100.2:8081",
        "denied host_address; the host publishes no such port; an address of the host",
    );
    open().check(
        "172.16.0.5:8080",
        "denied other_instance; no policy opens 172.16.0.0/16; another instance, or a gateway",
    );
    // What is published there wins.
    let published = open().publishing(None);
    published.check(
        "198.51.100.2:8080",
        "allowed -; policy allow-all; published port of instance 'web'",
    );
    published.check("172.16.0.1:8080", &format!("{closed}; {gateway}"));
    let denied = r#"{"denied_cidrs": ["172.16.0.1/32"]}"#;
    scene(denied).opening().check(
        "172.16.0.1:8080",
        "denied denied_cidr; denied_cidrs: 172.16.0.1/32; a listener of the host",
    );
    scene(denied).opening().check("198.51.100.2:8080", &allowed);
    let not_allowed = "not_allowed; not in allowed_cidrs; a listener of the host";
    let lists = scene(r#"{"allowed_cidrs": ["198.51.100.2/32"]}"#).opening();
    lists.check("198.51.100.2:8080", &allowed);
    lists.check("172.16.0.1:8080", &format!("denied {not_allowed}"));
    scene(r#"{"allowed_cidrs": [], "audit": true}"#)
        .opening()
        .check("172.16.0.1:8080", &format!("audited {not_allowed}"));
    let shut = scene(r#"{"network_policy": "deny-all"}"#).opening();
    for asked in ["172.16.0.1:8080", "198.51.100.2:8080"] {
        shut.check(
            asked,
            "denied deny_all; policy deny-all; a listener of the host",
        );
    }
}

#[test]
fn p3_deny_all_comes_before_everything_but_the_gateway() {
    let closed = scene(r#"{"network_policy": "deny-all"}"#).publishing(None);
    closed.check(
        "203.0.113.1",
        &format!("denied deny_all; policy deny-all; {OUT}"),
    );
    closed.check(
        "198.51.100.2:8080",
        "denied deny_all; policy deny-all; published port of instance 'web'",
    );
    closed.check(
        "169.254.169.254",
        "denied deny_all; policy deny-all; always denied: cloud metadata",
    );
}

#[test]
fn p5_what_is_always_denied_is_so_under_every_policy() {
    for text in ["{}", r#"{"allowed_cidrs": ["0.0.0.0/0"], "audit": true}"#] {
        let scene = scene(text);
        scene.check(
            "169.254.1.1:80",
            "denied always_denied; no policy opens 169.254.0.0/16; always denied: link-local",
        );
        scene.check(
            "172.16.0.6",
            "denied other_instance; no policy opens 172.16.0.0/16; another instance, or a gateway",
        );
        scene.check(
            "172.16.0.2",
            "denied other_instance; no policy opens 172.16.0.0/16; the instance's own address",
        );
        scene.check(
            "172.17.0.9:80",
            "denied not_uplink; no policy opens 172.17.0.0/16; through an interface that is no uplink",
        );
        scene.check(
            "198.51.100.2:22",
            "denied host_address; the host publishes no such port; an address of the host",
        );
    }
}

#[test]
fn the_lists_answer_with_the_operators_network() {
    let text = r#"{"allowed_cidrs": ["10.0.0.0/8", "203.0.113.0/24"], "denied_cidrs": ["10.1.0.0/16", "10.1.2.0/24"]}"#;
    let lists = scene(text);
    lists.check(
        "10.1.2.3",
        &format!("denied denied_cidr; denied_cidrs: 10.1.0.0/16; {OUT}"),
    );
    lists.check(
        "10.9.0.1",
        &format!("allowed -; allowed_cidrs: 10.0.0.0/8; {OUT}"),
    );
    lists.check(
        "192.0.2.1",
        &format!("denied not_allowed; not in allowed_cidrs; {OUT}"),
    );
    lists.check(
        "2001:db9::1",
        "denied not_allowed; not in allowed_cidrs; no route",
    );
    let mut deny = scene(r#"{"denied_cidrs": ["10.1.0.0/16"]}"#);
    deny.check("10.9.0.1", &format!("allowed -; no list names it; {OUT}"));
    deny.deny_private = true;
    deny.check(
        "10.9.0.1",
        &format!("denied always_denied; policy.deny_private: 10.0.0.0/8; {OUT}"),
    );
}

#[test]
fn n3_a_published_port_is_judged_by_its_senders_and_both_instances_lists() {
    let at = "published port of instance 'web'";
    let asked = "198.51.100.2:8080";
    scene("{}")
        .publishing(None)
        .check(asked, &format!("allowed -; policy allow-all; {at}"));
    scene("{}")
        .publishing(Some("172.16.0.0/24"))
        .check(asked, &format!("allowed -; policy allow-all; {at}"));
    let limited = scene("{}").publishing(Some("192.0.2.0/24"));
    limited.check(
        asked,
        &format!("denied publish_denied; allow_from of the published port; {at}"),
    );
    limited.check(
        "198.51.100.2:8080/udp",
        "denied host_address; the host publishes no such port; an address of the host",
    );
    scene(r#"{"denied_cidrs": ["198.51.100.0/24"]}"#)
        .publishing(None)
        .check(
            asked,
            &format!("denied denied_cidr; denied_cidrs: 198.51.100.0/24; {at}"),
        );
    let mut refused = scene("{}").publishing(None);
    refused.other = policy(r#"{"denied_cidrs": ["172.16.0.0/24"]}"#);
    refused.check(
        asked,
        &format!(
            "denied denied_cidr; denied_cidrs of the instance behind the port: 172.16.0.0/24; {at}"
        ),
    );
}

#[test]
fn p14_what_the_policy_forbids_is_audited_and_nothing_else() {
    let lists = scene(r#"{"allowed_cidrs": [], "denied_cidrs": ["10.0.0.0/8"], "audit": true}"#);
    lists.check(
        "203.0.113.1",
        &format!("audited not_allowed; not in allowed_cidrs; {OUT}"),
    );
    lists.check(
        "10.0.0.1",
        &format!("audited denied_cidr; denied_cidrs: 10.0.0.0/8; {OUT}"),
    );
    lists.check(
        "2001:db9::7",
        "denied no_route; the host has no route; no route",
    );
    let mut closed = scene(r#"{"network_policy": "deny-all", "audit": true}"#);
    closed.check(
        "203.0.113.1",
        &format!("audited deny_all; policy deny-all; {OUT}"),
    );
    closed.deny_private = true;
    closed.check(
        "10.0.0.1",
        &format!("denied always_denied; policy.deny_private: 10.0.0.0/8; {OUT}"),
    );
    let mut flooding = scene("{}");
    flooding.record.policy_flags |= policy_flag::QUARANTINE;
    flooding.check(
        "203.0.113.1",
        &format!("denied quarantine; policy.quarantine_pps: nothing of the guest passes; {OUT}"),
    );
}

fn networks() -> impl Strategy<Value = Option<BTreeSet<IpNet>>> {
    // Few bits, so that networks and addresses meet.
    let v4 = (0_u32..64, 20_u8..=32);
    let v4 = v4.prop_map(|(bits, length)| (IpAddr::V4((0xcb00_7100 | bits).into()), length));
    let v6 = (0_u128..64, 110_u8..=128);
    let v6 = v6.prop_map(|(bits, length)| {
        let address = 0x2001_0db8_u128 << 96 | bits;
        (IpAddr::V6(address.into()), length)
    });
    let network = prop_oneof![v4, v6]
        .prop_map(|(address, length)| IpNet::new(address, length).unwrap().trunc());
    prop::option::of(prop::collection::btree_set(network, 0..6))
}

fn addresses() -> impl Strategy<Value = IpAddr> {
    let v4 = (0_u32..80).prop_map(|bits| IpAddr::V4((0xcb00_7100 | bits).into()));
    let v6 = (0_u128..80).prop_map(|bits| IpAddr::V6((0x2001_0db8_u128 << 96 | bits).into()));
    prop_oneof![v4, v6]
}

proptest! {
    #[test]
    fn the_verdict_is_that_of_reading_the_lists(
        allowed in networks(),
        denied in networks(),
        address in addresses(),
        audit in any::<bool>(),
    ) {
        let holds = |list: &Option<BTreeSet<IpNet>>| {
            let mut networks = list.iter().flatten();
            networks.any(|network| network.contains(&address))
        };
        let expected = if holds(&denied) {
            Some(DropReason::DeniedCidr)
        } else if allowed.is_some() && !holds(&allowed) {
            Some(DropReason::NotAllowed)
        } else {
            None
        };
        let verdict = match expected {
            None => Verdict::Allowed,
            Some(_) if audit => Verdict::Audited,
            Some(_) => Verdict::Denied,
        };
        let mut scene = scene("{}");
        scene.policy = PolicySpec {
            mode: if allowed.is_some() || denied.is_some() { PolicyMode::Custom } else { PolicyMode::AllowAll },
            allowed_domains: None,
            allowed_cidrs: allowed.clone().map(Arc::new),
            denied_cidrs: denied.clone().map(Arc::new),
            audit,
        };
        scene.record.policy_flags = if audit { policy_flag::AUDIT } else { 0 };
        let found = scene.explain(&Question { address, packet: Packet::Echo });
        prop_assert_eq!((found.verdict, found.reason), (verdict, expected));
        if let Rule::DeniedCidr(network) = found.rule {
            prop_assert!(denied.unwrap().contains(&network));
        } else if let Rule::AllowedCidr(network) = found.rule {
            prop_assert!(allowed.unwrap().contains(&network));
        }
    }
}
