//! What `netagent doctor` says of firewalls, programs and daemons that could be in the way; and whether they are.

use std::os::fd::OwnedFd;

use netagent_tests::agent::Agent;
use netagent_tests::deadline::{SOON, wait_until};
use netagent_tests::guest::Guest;
use netagent_tests::sys;
use netagent_tests::tap::Header;
use netagent_tests::world::{SILENT, UPLINK, World};
use serde_json::Value;

use crate::changes::leaves;
use crate::exchange::{FlowTo, Protocol, Way};

/// What `doctor` says of one thing: result, what it found, and the fix.
fn say(agent: &Agent, check: &str) -> Option<(String, String, String)> {
    let output = agent.try_cli("doctor", &["--json"]);
    let checks: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = checks.as_array().unwrap();
    let found = checks.iter().find(|one| one["check"] == check)?;
    let text = |member: &str| found[member].as_str().unwrap().to_owned();
    Some((text("result"), text("found"), text("fix")))
}

/// It says so and names these; there is a fix.
fn check_noted(agent: &Agent, check: &str, names: &[&str]) {
    let (result, found, fix) = say(agent, check).unwrap_or_else(|| panic!("nothing of {check}"));
    assert_eq!(result, "note", "{check}: {found}");
    for name in names {
        assert!(found.contains(name), "{check}: no {name}: {found}");
    }
    assert!(!fix.is_empty(), "{check}: {found}");
}

/// It has nothing to say any more. A program goes with the last descriptor of its link, and a command that another
/// test starts in this very moment may hold one until it runs.
fn wait_for_good(agent: &Agent, check: &str) {
    wait_until("nothing is in the way", SOON, || {
        say(agent, check).is_some_and(|(result, ..)| result == "ok")
    });
}

const QUESTION: FlowTo = FlowTo {
    protocol: Protocol::Udp,
    remote: SILENT[0],
    ports: (9_000, 7),
};

#[test]
fn a_firewall_that_drops_everything_that_is_forwarded_or_comes_in_does_not_matter() {
    let world = World::new();
    let agent = world.agent("");
    assert_eq!(say(&agent, "firewalls").unwrap().0, "ok");
    let guest = Guest::create(&agent, &world.host, "free", Header::Vnet);
    let wire = world.wire();
    let way = Way::new(&world, guest.nic(), &wire);
    let nft = |words: &str| world.host.shell(&format!("nft add {words}"));
    nft("table inet firewalld");
    nft("table ip filter");
    nft("chain ip filter DOCKER-USER");
    nft("table netdev early");
    for hook in ["input", "forward"] {
        nft(&format!(
            "chain inet firewalld {hook} {{ type filter hook {hook} priority 0 ; policy drop ; }}"
        ));
    }
    // After tc, which has taken what is a guest's; and tc's own redirects are spared what stands on the way out.
    for hook in ["ingress", "egress"] {
        for device in [UPLINK, &guest.nic().tap_name] {
            nft(&format!(
                "chain netdev early {hook}-{device} {{ type filter hook {hook} device {device} priority 0 ; policy drop ; }}"
            ));
        }
    }
    for remote in SILENT {
        way.check(FlowTo { remote, ..QUESTION });
    }
    let names = [
        "inet firewalld (firewalld)",
        "ip filter (Docker)",
        "netdev early",
    ];
    check_noted(&agent, "firewalls", &names);
    assert_eq!(say(&agent, "output chain"), None);
}

#[test]
fn a_chain_that_drops_what_the_host_itself_sends_is_named() {
    let world = World::new();
    let agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "free", Header::Vnet);
    let wire = world.wire();
    let nft = |words: &str| world.host.shell(&format!("nft add {words}"));
    nft("table inet own");
    nft("chain inet own out { type filter hook output priority 0 ; policy accept ; }");
    assert_eq!(say(&agent, "output chain"), None);
    nft("chain inet own out { type filter hook output priority 0 ; policy drop ; }");
    check_noted(&agent, "output chain", &["inet own out"]);
    assert!(leaves(guest.nic(), &wire, SILENT[0], 9_000).is_some());
}

/// Loads a program that returns this, and attaches it to the uplink.
fn put_on(
    world: &World,
    load: fn(&[sys::Instruction]) -> std::io::Result<OwnedFd>,
    attach: fn(&OwnedFd, u32) -> std::io::Result<OwnedFd>,
    value: i32,
) -> OwnedFd {
    let program = load(&sys::returns(value)).unwrap();
    let uplink = world.host.ifindex(UPLINK);
    world.host.run(|| attach(&program, uplink)).unwrap()
}

#[test]
fn programs_of_others_on_the_uplink_are_named() {
    const XDP_DROP: i32 = 1;
    const XDP_PASS: i32 = 2;
    const TCX_PASS: i32 = 0;
    const TCX_NEXT: i32 = -1;
    const TCX_DROP: i32 = 2;
    let check = "uplink programs";
    let world = World::new();
    // What stands there before the agent comes is asked before it.
    let ahead = put_on(
        &world,
        sys::load_classifier,
        sys::attach_tcx_ingress,
        TCX_NEXT,
    );
    let agent = world.agent("");
    check_noted(&agent, check, &["uplink0: tcx ingress"]);
    let guest = Guest::create(&agent, &world.host, "held", Header::Vnet);
    let wire = world.wire();
    let way = Way::new(&world, guest.nic(), &wire);
    way.check(QUESTION);
    drop(ahead);
    wait_for_good(&agent, check);
    // What comes later is asked after it, and does no harm.
    let behind = put_on(
        &world,
        sys::load_classifier,
        sys::attach_tcx_ingress,
        TCX_PASS,
    );
    way.check(QUESTION);
    assert_eq!(say(&agent, check).unwrap().0, "ok");
    drop(behind);
    let out = put_on(
        &world,
        sys::load_classifier,
        sys::attach_tcx_egress,
        TCX_DROP,
    );
    check_noted(&agent, check, &["uplink0: tcx egress"]);
    let leaves = || leaves(guest.nic(), &wire, SILENT[0], 9_000).is_some();
    assert!(!leaves(), "it sees what guests send");
    drop(out);
    wait_for_good(&agent, check);
    let xdp = put_on(&world, sys::load_xdp, sys::attach_xdp, XDP_PASS);
    check_noted(&agent, check, &["uplink0: XDP"]);
    way.check(QUESTION);
    drop(xdp);
    wait_for_good(&agent, check);
    let port = way.check(QUESTION);
    let xdp = put_on(&world, sys::load_xdp, sys::attach_xdp, XDP_DROP);
    check_noted(&agent, check, &["uplink0: XDP"]);
    let reply = netagent_tests::packet::udp(&way.back(SILENT[0]), (7, port), b"lost");
    wire.send_bytes(reply);
    // What the guest asks itself is answered, so the frame before would have come by now.
    assert!(leaves());
    let mut arrived = std::iter::from_fn(|| guest.nic().tap.receive_now());
    let lost = |frame: netagent_tests::frame::Frame| frame.completed().ends_with(b"lost");
    assert!(!arrived.any(lost), "it sees what guests get");
    drop(xdp);
    wait_for_good(&agent, check);
    way.check(QUESTION);
}

#[test]
fn filters_of_others_on_the_uplink_are_named() {
    let world = World::new();
    let agent = world.agent("[datapath]\nattach = \"clsact\"\n");
    let check = "uplink programs";
    assert_eq!(say(&agent, check).unwrap().0, "ok");
    let tc = |words: &str| world.host.shell(&format!("tc filter {words}"));
    tc(&format!(
        "add dev {UPLINK} ingress pref 60 protocol ip u32 match u32 0 0 classid 1:1"
    ));
    assert_eq!(say(&agent, check).unwrap().0, "ok", "it comes after ours");
    tc(&format!(
        "add dev {UPLINK} ingress pref 7 protocol ip u32 match u32 0 0 classid 1:1"
    ));
    check_noted(&agent, check, &["uplink0: tc ingress pref 7 u32"]);
    tc(&format!("delete dev {UPLINK} ingress pref 7 protocol ip"));
    tc(&format!(
        "add dev {UPLINK} egress pref 8 protocol ip u32 match u32 0 0 classid 1:1"
    ));
    check_noted(&agent, check, &["uplink0: tc egress pref 8 u32"]);
}

#[test]
fn an_uplink_that_is_not_there_is_named() {
    let world = World::new();
    let mut agent = Agent::prepare(&world.host, Some("uplink0,uplink9"), "");
    check_noted(&agent, "uplink", &["uplink0, MTU 1500; not there: uplink9"]);
    agent = Agent::prepare(&world.host, Some("uplink9"), "");
    let (result, found, _) = say(&agent, "uplink").unwrap();
    assert_eq!(result, "MISSING");
    assert!(found.contains("uplink 'uplink9' does not exist"), "{found}");
    agent = Agent::prepare(&world.host, None, "");
    let (result, found, fix) = say(&agent, "uplink").unwrap();
    assert_eq!((&*result, &*found, &*fix), ("ok", "uplink0, MTU 1500", ""));
}
