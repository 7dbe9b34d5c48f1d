//! What goes through a relay.

use super::*;

/// A client of the relay `gw`, which is down for a reason or up.
fn client(text: &str, down: Option<&'static str>, dns: bool) -> Scene {
    let mut scene = scene(text).opening();
    let steered = if dns { 0 } else { policy_flag::DNS_STEERED };
    scene.record.policy_flags |= policy_flag::RELAYED | steered;
    scene.relay = Some(ByRelay {
        name: "gw",
        down,
        flags: scene.record.policy_flags,
    });
    scene
}

#[test]
fn r1_a_client_is_judged_by_its_policy_and_goes_through_its_relay() {
    let open = client("{}", None, true);
    open.check(
        "203.0.113.1",
        &format!("allowed -; policy allow-all; gw, {OUT}"),
    );
    // The host knows no way; the relay may.
    open.check("[2001:db9::7]", "allowed -; policy allow-all; gw, no route");
    open.check(
        "198.51.100.2:8080",
        "allowed -; policy.allow_host_ports: 8080/tcp; gw, a listener of the host",
    );
    let denied = "no policy opens 172.16.0.0/16; gw, another instance, or a gateway";
    open.check("172.16.0.9", &format!("denied other_instance; {denied}"));
    let listed = client(r#"{"denied_cidrs": ["203.0.113.0/24"]}"#, None, true);
    let expected = format!("denied denied_cidr; denied_cidrs: 203.0.113.0/24; gw, {OUT}");
    listed.check("203.0.113.1", &expected);
    let closed = client(r#"{"network_policy": "deny-all"}"#, None, true);
    closed.check(
        "203.0.113.1",
        &format!("denied deny_all; policy deny-all; gw, {OUT}"),
    );
}

#[test]
fn r7_what_is_allowed_is_dropped_while_the_relay_is_down_and_what_is_the_gateways_is_not() {
    let down = client(
        r#"{"denied_cidrs": ["203.0.113.0/24"]}"#,
        Some("gone"),
        true,
    );
    let is_down = "denied relay_down; relay gw is down: gone";
    down.check("192.0.2.1", &format!("{is_down}; gw, {OUT}"));
    down.check("192.0.2.1:53", &format!("{is_down}; gw, {OUT}"));
    let gateway = "the gateway: echo, DNS and DHCP only";
    down.check("172.16.0.1:53", &format!("{is_down}; gw, {gateway}"));
    let expected = format!("denied denied_cidr; denied_cidrs: 203.0.113.0/24; gw, {OUT}");
    down.check("203.0.113.1", &expected);
    down.check(
        "172.16.0.1",
        &format!("allowed -; the gateway answers echo; {gateway}"),
    );
    let dhcp = "allowed -; the agent serves DHCP, asked from port 68";
    down.check("172.16.0.1:67/udp", &format!("{dhcp}; {gateway}"));
    let audited = client(
        r#"{"network_policy": "deny-all", "audit": true}"#,
        Some("gone"),
        true,
    );
    audited.check("192.0.2.1", &format!("{is_down}; gw, {OUT}"));
}

#[test]
fn r4_dns_is_the_relays_or_the_agents() {
    let answers = "allowed -; the agent's resolver answers";
    let gateway = "the gateway: echo, DNS and DHCP only";
    let with = client("{}", None, true);
    with.check("172.16.0.1:53", &format!("{answers}; gw, {gateway}"));
    with.check(
        "203.0.113.1:53",
        &format!("allowed -; policy allow-all; gw, {OUT}"),
    );
    let name = |scene: &Scene| {
        let found = scene.explain_name("a.example");
        (found.verdict, found.reason, found.rule.to_string())
    };
    let has_it = "the relay gw has the question: it answers, or passes it on";
    assert_eq!(name(&with), (Verdict::Allowed, None, has_it.to_owned()));
    let down = client("{}", Some("gone"), true);
    let expected = (
        Verdict::Denied,
        Some(DropReason::RelayDown),
        "relay gw is down: gone".to_owned(),
    );
    assert_eq!(name(&down), expected);
    let names = r#"{"allowed_domains": ["a.example"]}"#;
    for without in [
        client("{}", Some("gone"), false),
        client(names, Some("gone"), true),
    ] {
        assert_eq!(name(&without).0, Verdict::Allowed);
        let found = without.explain(&Question::parse("203.0.113.1:53", None, None).unwrap());
        assert_eq!(
            (found.verdict, found.path, found.relay),
            (Verdict::Allowed, Path::Resolver, None)
        );
    }
}
