//! O-3: what `explain` says is what happens to the packet.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, Ordering};

use netagent_common::net::tcp_flag::SYN;
use netagent_tests::agent::Agent;
use netagent_tests::deadline::{Deadline, SOON, wait_until};
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::netns::{NetNs, join_by_veth};
use netagent_tests::packet::{self, Packet, Segment};
use netagent_tests::raw::Raw;
use netagent_tests::tap::Header;
use netagent_tests::world::{HOST_V4, SILENT, World};
use serde_json::{Value, json};

/// No two questions are about the same flow.
static NEXT: AtomicU16 = AtomicU16::new(20_000);

struct Scene {
    wire: Raw,
    guest: Guest,
    /// Behind two published ports: one for everybody, and one for a network in which no guest is.
    other: Guest,
    agent: Agent,
    world: World,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let agent = world.agent("");
        let guest = Guest::create(&agent, &world.host, "a", Header::Vnet);
        let ports = ["8080:80/udp", "8081:80/udp from 192.0.2.0/24"];
        let spec = json!({ "name": "other", "publish": ports });
        let other = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
        let wire = world.wire();
        Self {
            wire,
            guest,
            other,
            agent,
            world,
        }
    }

    fn nic(&self) -> &Nic {
        self.guest.nic()
    }

    fn policy(&self, body: &Value) {
        let body = body.to_string();
        let answer = self.agent.api("PUT", "/v1/instances/a/policy", &body);
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    fn explain(&self, asked: &str) -> Value {
        let mut words = vec!["explain", "a"];
        match asked.split_once('/') {
            Some((address, protocol)) => words.extend([address, "--protocol", protocol]),
            None => words.push(asked),
        }
        words.push("--json");
        self.agent.say_json(&words)
    }

    fn count(&self, of: &str, reason: &str) -> u64 {
        self.agent.inspect("a")[of][reason].as_u64().unwrap_or(0)
    }

    /// Sends what was asked about, and gives what it carries.
    fn send(&self, answer: &Value) -> Vec<u8> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let payload = format!("asked about {number}").into_bytes();
        let address: IpAddr = answer["address"].as_str().unwrap().parse().unwrap();
        let ends = self.nic().to(address);
        let port = answer["port"].as_u64().unwrap_or(0).try_into().unwrap();
        let bytes = match answer["protocol"].as_str().unwrap() {
            "udp" => packet::udp(&ends, (number, port), &payload),
            "tcp" => {
                let segment = Segment {
                    src_port: number,
                    dst_port: port,
                    flags: SYN,
                    ..Segment::default()
                };
                packet::tcp(&ends, segment, &payload)
            }
            _ => packet::echo_request(&ends, (number, 1), &payload),
        };
        self.nic().tap.send_bytes(bytes);
        payload
    }

    /// What is asked (`/udp` behind it where that is meant), the verdict, and the reason, or else the way, of which this
    /// is a part.
    #[track_caller]
    fn check(&self, asked: &str, verdict: &str, expected: &str) {
        let answer = self.explain(asked);
        assert_eq!(answer["verdict"], verdict, "{asked}: {answer}");
        let of = if verdict == "audited" {
            "audited"
        } else {
            "drops"
        };
        let reason = answer["reason"].as_str().unwrap_or_default();
        let before = self.count(of, reason);
        let payload = self.send(&answer);
        if verdict == "allowed" {
            assert!(reason.is_empty(), "{asked}: {answer}");
            let path = answer["path"].as_str().unwrap();
            assert!(path.contains(expected), "{asked}: {answer}");
        } else {
            assert_eq!(reason, expected, "{asked}: {answer}");
            wait_until("it is counted as explained", SOON, || {
                self.count(of, reason) == before + 1
            });
        }
        if verdict == "denied" {
            let left = std::iter::from_fn(|| self.wire.receive_now());
            let mut left = left.filter_map(|received| Packet::parse(&received.frame.bytes));
            assert!(left.all(|packet| packet.payload != payload), "{asked}");
        } else {
            self.check_arrives(&answer, &payload);
        }
    }

    fn check_arrives(&self, answer: &Value, payload: &[u8]) {
        let deadline = Deadline::after(SOON);
        let its = |bytes: &[u8]| Packet::parse(bytes).filter(|packet| packet.payload == payload);
        if answer["uplink"].is_string() {
            let packet = self
                .wire
                .receive_where(deadline, |received| its(&received.frame.bytes));
            assert_eq!(answer["source"], packet.ends.src.to_string(), "{answer}");
            assert_eq!(answer["address"], packet.ends.dst.to_string(), "{answer}");
        } else if answer["path"].as_str().unwrap().contains("published") {
            let tap = &self.other.nic().tap;
            tap.receive_where(deadline, |frame| its(&frame.completed()));
        } else {
            let tap = &self.nic().tap;
            tap.receive_where(deadline, |frame| its(&frame.completed()));
        }
    }
}

#[test]
fn o3_an_open_policy_reaches_the_world_and_nothing_of_the_host() {
    let scene = Scene::new();
    for remote in SILENT {
        scene.check(&remote.to_string(), "allowed", "uplink uplink0");
    }
    scene.check(&format!("{}:443", SILENT[0]), "allowed", "next hop");
    scene.check(&format!("[{}]:443/udp", SILENT[3]), "allowed", "on-link");
    scene.check("169.254.169.254:80", "denied", "always_denied");
    let other = scene.other.nic().v4;
    scene.check(&format!("{other}:80"), "denied", "other_instance");
    scene.check(&format!("{HOST_V4}:22"), "denied", "host_address");
    scene.check(&format!("{HOST_V4}"), "denied", "host_address");
    let published = "published port of instance 'other'";
    scene.check(&format!("{HOST_V4}:8080/udp"), "allowed", published);
    scene.check(&format!("{HOST_V4}:8081/udp"), "denied", "publish_denied");
    let gateway = scene.nic().gateway_v4;
    scene.check(&gateway.to_string(), "allowed", "the gateway");
    scene.check(&format!("{gateway}:80"), "denied", "gateway_closed");
}

#[test]
fn o3_routes_of_the_host_are_followed() {
    let scene = Scene::new();
    let (host, management) = (&scene.world.host, NetNs::new());
    join_by_veth((host, "mgmt0"), (&management, "mgmt1"));
    host.ip("address add 10.77.0.1/24 dev mgmt0");
    host.ip("route add unreachable 192.0.2.128/25");
    for (asked, reason) in [
        ("10.77.0.9:7/udp", "not_uplink"),
        ("192.0.2.200", "no_route"),
    ] {
        wait_until("the agent follows", SOON, || {
            scene.explain(asked)["reason"] == reason
        });
        scene.check(asked, "denied", reason);
    }
}

#[test]
fn o3_lists_deny_all_and_audit_are_what_packets_meet() {
    let scene = Scene::new();
    let lists = json!({ "allowed_cidrs": ["203.0.113.0/24", "2001:db8:200::/64"], "denied_cidrs": ["203.0.113.128/25"] });
    let published = format!("{HOST_V4}:8080/udp");
    scene.policy(&lists);
    let denied = format!("{}:7/udp", SILENT[0]);
    scene.check(&denied, "denied", "denied_cidr");
    assert_eq!(
        scene.explain(&denied)["rule"],
        "denied_cidrs: 203.0.113.128/25"
    );
    scene.check(&SILENT[1].to_string(), "allowed", "uplink uplink0");
    scene.check(&SILENT[2].to_string(), "denied", "not_allowed");
    scene.check(&published, "denied", "not_allowed");
    let mut audit = lists;
    audit["audit"] = json!(true);
    scene.policy(&audit);
    scene.check(&denied, "audited", "denied_cidr");
    scene.check(&SILENT[2].to_string(), "audited", "not_allowed");
    scene.check(&published, "audited", "not_allowed");
    scene.check("169.254.169.254:80", "denied", "always_denied");
    let shown = scene.agent.cli("inspect", &["a"]);
    assert!(shown.contains("AUDIT WOULD DROP BECAUSE"), "{shown}");
    wait_until("the log says it", 2 * SOON, || {
        let log = scene.agent.log();
        log.lines().any(|line| {
            line.contains("audit: the policy would drop") && line.contains("not_allowed")
        })
    });
    scene.policy(&json!({ "network_policy": "deny-all" }));
    scene.check(&SILENT[1].to_string(), "denied", "deny_all");
    scene.check(&published, "denied", "deny_all");
    let gateway = scene.nic().gateway_v4;
    scene.check(&format!("{gateway}:53/udp"), "denied", "deny_all");
    scene.check(&gateway.to_string(), "allowed", "the gateway");
}

#[test]
fn o3_a_stopped_instance_is_explained_and_bad_questions_are_told_what_is_wrong() {
    let scene = Scene::new();
    scene.agent.change("a", "stop");
    let answer = scene.explain(&SILENT[0].to_string());
    assert_eq!(
        (&answer["runs"], &answer["verdict"]),
        (&json!(false), &json!("allowed"))
    );
    let said = scene.agent.cli("explain", &["a", "169.254.169.254:80"]);
    for line in [
        "verdict  denied (always_denied)",
        "rule     no policy opens 169.254.0.0/16",
        "path     always denied: cloud metadata",
        "note     the instance does not run (stopped): this is what would hold if it did",
    ] {
        assert!(said.lines().any(|one| one == line), "{line}: {said}");
    }
    for (words, text) in [
        (
            ["a", "example.org:443"],
            "'example.org' is a name, which has neither port nor protocol",
        ),
        (["a", "192.0.2.1:0"], "'0' is no port"),
        (["nobody", "192.0.2.1"], "Instance 'nobody' not found"),
    ] {
        let output = scene.agent.try_cli("explain", &words);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{complaint}");
        assert!(complaint.contains(text), "{complaint}");
    }
}
