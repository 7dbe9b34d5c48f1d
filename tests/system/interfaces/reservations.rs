//! What is reserved for an instance, from its creation to its deletion.

use netagent_tests::agent::Agent;
use netagent_tests::deadline::{SOON, wait_until};
use netagent_tests::guest::{Nic, parse_mac};
use netagent_tests::tap::Header;
use netagent_tests::world::World;
use serde_json::{Value, json};

use crate::exchange::Way;

use crate::interfaces::{each, flow, reserve};

/// Loopback, uplink and the way to the servers are all that is there.
fn assert_no_tap(world: &World) {
    let links = world.host.links();
    assert_eq!(links.len(), 3, "{links:?}");
}

#[test]
fn reservations_survive_stop_start_and_restart_and_are_released_by_delete() {
    let world = World::new();
    let mut agent = world.agent("");
    let custom = json!({ "ip": "10.7.0.5/24", "tap_name": "vpc0" });
    let made = agent.create(&json!({ "name": "cycled", "network_interfaces": [{}, custom] }));
    let pending = reserve(&agent, json!({ "name": "pending" }));
    assert_eq!(each(&pending, "tap_name"), ["tap1"]);
    let reserved = |agent: &Agent, before: &Value, status: &str| {
        let now = agent.inspect(before["name"].as_str().unwrap());
        assert_eq!(now["status"], status, "{now}");
        for member in [
            "id",
            "private_ip",
            "gateway",
            "nameserver",
            "guest_mac",
            "tap_device",
        ] {
            assert_eq!(now[member], before[member], "{member}");
        }
        for member in ["id", "name", "tap_name", "ip", "ip6", "tap_ip", "mac"] {
            assert_eq!(each(&now, member), each(before, member), "{member}");
        }
    };
    agent.change("cycled", "stop");
    reserved(&agent, &made, "stopped");
    assert_no_tap(&world);
    for is_killed in [true, false] {
        if is_killed {
            agent.kill9();
        } else {
            agent.stop();
        }
        agent.run();
        reserved(&agent, &made, "stopped");
        reserved(&agent, &pending, "pending");
    }
    // What is reserved is nobody else's, whatever its instance does.
    let next = agent.create(&json!({ "name": "next" }));
    assert_eq!(
        (each(&next, "tap_name"), each(&next, "ip")),
        (vec!["tap2".into()], vec!["172.16.0.10/30".into()])
    );
    agent.refuse(
        &json!({ "network_interfaces": [{ "ip": "10.7.0.5/24", "tap_name": "vpc1" }] }),
        (
            409,
            "Network interface IP address '10.7.0.5/24' is already in use",
        ),
    );
    agent.refuse(
        &json!({ "network_interfaces": [{ "ip": "10.7.0.6/24", "tap_name": "vpc0" }] }),
        (
            409,
            "TAP device 'vpc0' is already in use by another network interface",
        ),
    );
    for _ in 0..2 {
        agent.change("cycled", "start");
        reserved(&agent, &made, "running");
    }
    agent.kill9();
    agent.run();
    reserved(&agent, &made, "running");
    agent.delete("cycled");
    let heir = agent.create(
        &json!({ "network_interfaces": [{}, { "ip": "10.7.0.5/24", "tap_name": "vpc0" }] }),
    );
    assert_eq!(each(&heir, "tap_name"), ["tap0", "vpc0"]);
    assert_eq!(each(&heir, "ip"), ["172.16.0.2/30", "10.7.0.5/24"]);
}

#[test]
fn macs_follow_the_slot_or_are_random_and_kept_or_the_users() {
    let world = World::new();
    let mut agent = world.agent("");
    let custom = |tap: &str, ip: &str| json!({ "ip": ip, "tap_name": tap });
    let own = json!({ "mac": "02:00:00:00:00:0a" });
    let made = agent.create(&json!({
        "name": "macs",
        "network_interfaces": [{}, custom("vpc0", "10.7.0.1/24"), custom("vpc1", "10.7.0.2/24"), own],
    }));
    let macs = each(&made, "mac");
    assert_eq!(
        (macs[0].as_str(), macs[3].to_ascii_lowercase().as_str()),
        ("AA:FC:00:00:00:01", "02:00:00:00:00:0a")
    );
    for random in &macs[1..3] {
        let mac = parse_mac(random);
        assert_eq!(mac[0] & 3, 2, "{random}: unicast and locally administered");
        assert_ne!(mac[..2], [0xaa, 0xfc], "{random}");
    }
    assert_ne!(macs[1], macs[2]);
    for tap in ["tap0", "vpc0", "vpc1"] {
        assert_eq!(world.host.mac(tap), [0xfe, 0xfc, 0, 0, 0, 1], "{tap}");
    }
    agent.change("macs", "stop");
    agent.kill9();
    agent.run();
    assert_eq!(each(&agent.change("macs", "start"), "mac"), macs);

    let with = |mac: &str| json!({ "network_interfaces": [{ "mac": mac }] });
    for bad in [
        "",
        "02:00:00:00:00",
        "02:00:00:00:00:0g",
        "02:00:00:00:00:01:02",
        "0200.0000.0001",
    ] {
        agent.refuse(&with(bad), (400, &format!("Invalid MAC address '{bad}'")));
    }
    for multicast in ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff"] {
        let text = "Network interface MAC address must be a unicast address";
        agent.refuse(&with(multicast), (400, text));
    }
    // The pool's own form, and the address that means none.
    for reserved in [
        "AA:FC:00:00:00:09",
        "aa:fc:12:34:56:78",
        "00:00:00:00:00:00",
    ] {
        agent.refuse(
            &with(reserved),
            (400, &format!("Invalid MAC address '{reserved}'")),
        );
    }
    for taken in ["02:00:00:00:00:0a", "02:00:00:00:00:0A"] {
        let answer = agent.api("POST", "/v1/instances", &with(taken).to_string());
        assert_eq!(answer.status, 409, "{answer:?}");
        let text = answer.message().to_ascii_lowercase();
        assert_eq!(text, "mac address '02:00:00:00:00:0a' is already in use");
    }
}

#[test]
fn an_instance_is_pending_running_and_stopped_and_says_whether_a_vmm_holds_its_tap() {
    let world = World::new();
    let agent = world.agent("");
    let pending = reserve(&agent, json!({ "name": "life" }));
    assert!(
        !world.host.links().contains(&"tap0".to_owned()),
        "nothing is made before the start"
    );
    // Stopping what never ran changes nothing of its reservations.
    let attached =
        |agent: &Agent| agent.inspect("life")["network_interfaces"][0]["attached"].clone();
    assert_eq!(agent.change("life", "start")["status"], "running");
    assert_eq!(attached(&agent), false);
    let nic = Nic::open(&world.host, &pending["network_interfaces"][0], Header::Vnet);
    assert_eq!(attached(&agent), true);
    let wire = world.wire();
    Way::new(&world, &nic, &wire).check(flow(8_000));
    drop(nic);
    wait_until("the TAP is free", SOON, || attached(&agent) == false);
    let before = world.host.ifindex("tap0");
    assert_eq!(agent.change("life", "start")["status"], "running");
    assert_eq!(
        world.host.ifindex("tap0"),
        before,
        "a running instance stays as it is"
    );
    for _ in 0..2 {
        assert_eq!(agent.change("life", "stop")["status"], "stopped");
        assert!(!world.host.links().contains(&"tap0".to_owned()));
    }
    assert_eq!(
        agent.inspect("life")["network_interfaces"][0]["attached"],
        false
    );
    agent.delete("life");
    for (method, path) in [
        ("GET", "/v1/instances/life"),
        ("DELETE", "/v1/instances/life"),
        ("PUT", "/v1/instances/life/start"),
        ("PUT", "/v1/instances/life/stop"),
    ] {
        let answer = agent.api(method, path, "");
        assert_eq!(
            (answer.status, answer.message()),
            (404, "Instance 'life' not found"),
            "{method} {path}"
        );
    }
}
