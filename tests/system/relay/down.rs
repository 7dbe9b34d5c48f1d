//! A relay that is not there: its clients fail closed, and recover by themselves; and agents that come and go (S-2).

use std::thread;

use netagent_tests::deadline::{SOON, wait_until};
use netagent_tests::relay::{SHIELD, SHIELD_INTERFACE, Scene, Vm, client, packets_of, shield};
use netagent_tests::talk::Talk;
use netagent_tests::world::SERVERS;
use serde_json::{Value, json};

use crate::policy::site::serve;
use crate::relay::{FAMILIES, pings, server};

/// The clients' packets go nowhere, and are counted.
fn check_closed(scene: &Scene, what: &str) {
    let client = scene.client();
    // What was on its way has arrived by the first drop.
    wait_until(&format!("{what}: relay_down"), SOON, || {
        assert!(!pings(client.netns(), server(true, 0)), "{what}");
        scene.drops("sandbox", "relay_down") > 0
    });
    drop(scene.uplink.left());
    for is_v4 in FAMILIES {
        let before = scene.drops("sandbox", "relay_down");
        assert!(!pings(client.netns(), server(is_v4, 0)), "{what}");
        scene.wait_for_drop("sandbox", "relay_down", before);
    }
    let own = FAMILIES.map(netagent_tests::world::host_address);
    let left = packets_of(&scene.uplink.left()).into_iter();
    let left: Vec<_> = left
        .filter(|packet| own.contains(&packet.ends.src))
        .collect();
    assert_eq!(left, [], "{what}: nothing leaves by the uplink");
}

/// Whether the plan has nothing to do.
fn assert_nothing_to_do(scene: &Scene, what: &str) {
    let plan = scene.agent.api("GET", "/v1/plan", "").body;
    assert_eq!(plan, json!({"steps": [], "problems": []}), "{what}");
}

/// What the client's interface says of its relay.
fn shown(scene: &Scene) -> Value {
    scene.agent.inspect("sandbox")["network_interfaces"][0]["relay"].clone()
}

#[test]
fn r7_clients_fail_closed_whatever_happens_to_their_relay_and_recover_by_themselves() {
    let mut scene = Scene::new("", &[client("sandbox")]);
    assert_eq!(shown(&scene)["name"], SHIELD_INTERFACE);

    scene.kill_relay();
    check_closed(&scene, "the VMM is gone");
    assert_nothing_to_do(&scene, "the VMM is gone");
    scene.boot_relay();
    scene.wait_for_relay();

    scene.agent.change(SHIELD, "stop");
    check_closed(&scene, "the relay is stopped");
    assert_nothing_to_do(&scene, "the relay is stopped");
    scene.kill_relay();
    let tap = scene.agent.change(SHIELD, "start");
    let tap = tap["network_interfaces"][0]["tap_name"].as_str().unwrap();
    let index = scene.world.host.ifindex(tap);
    check_closed(&scene, "started, without a VMM");
    scene.boot_relay();
    scene.wait_for_relay();

    let refused = scene
        .agent
        .api("DELETE", &format!("/v1/instances/{SHIELD}"), "");
    assert_eq!(refused.status, 409, "{refused:?}");
    assert!(refused.message().contains("sandbox"), "{refused:?}");
    scene.wait_for_relay();

    let forced = format!("/v1/instances/{SHIELD}?force=true");
    let deleted = scene.agent.api("DELETE", &forced, "");
    assert_eq!(deleted.status, 204, "{deleted:?}");
    scene.kill_relay();
    check_closed(&scene, "the relay is deleted");
    assert_nothing_to_do(&scene, "the relay is deleted");
    scene.agent.create(&shield());
    check_closed(&scene, "made anew, without a VMM");
    scene.boot_relay();
    scene.wait_for_relay();
    let tap = scene.relay().tap_name().to_owned();
    assert_ne!(scene.world.host.ifindex(&tap), index, "a new index");
    assert_nothing_to_do(&scene, "it is back");
}

#[test]
fn r7_a_client_that_is_made_before_its_relay_runs_waits_for_it() {
    let mut scene = Scene::new("", &[]);
    scene.agent.change(SHIELD, "stop");
    scene.kill_relay();
    let sandbox = Vm::create(&scene.world, &scene.agent, &client("sandbox"));
    scene.clients.push(sandbox);
    check_closed(&scene, "a stopped relay");
    scene.agent.change(SHIELD, "start");
    scene.boot_relay();
    scene.wait_for_relay();
    scene.agent.change("sandbox", "stop");
    assert_nothing_to_do(&scene, "a stopped client");
    scene.agent.change("sandbox", "start");
    scene.clients.clear();
    let sandbox = Vm::boot(&scene.world.host, &scene.agent.inspect("sandbox"));
    scene.clients.push(sandbox);
    scene.wait_for_relay();
    scene.agent.delete("sandbox");
    scene.agent.delete(SHIELD);
    assert_nothing_to_do(&scene, "both are deleted");
}

#[test]
fn s2_flows_through_a_relay_go_on_without_the_agent_and_after_its_restart() {
    let mut scene = Scene::new("", &[client("sandbox")]);
    let _servers = serve(
        &scene.world.outside,
        &FAMILIES.map(|is_v4| server(is_v4, 0)),
    );
    let open =
        |scene: &Scene| FAMILIES.map(|is_v4| Talk::open(scene.client().netns(), server(is_v4, 0)));
    let mut before = open(&scene);
    scene.agent.kill9();
    before.iter_mut().for_each(Talk::exchange);
    let mut without = open(&scene);
    scene.agent.run();
    before.iter_mut().for_each(Talk::exchange);
    without.iter_mut().for_each(Talk::exchange);
    open(&scene).iter_mut().for_each(Talk::exchange);
    assert_nothing_to_do(&scene, "started again");
    assert_eq!(scene.drops("sandbox", "relay_down"), 0);

    // An agent that starts finds out what happened meanwhile.
    scene.agent.kill9();
    scene.kill_relay();
    scene.agent.run();
    check_closed(&scene, "the VMM went while no agent ran");
    scene.boot_relay();
    scene.wait_for_relay();
}

#[test]
fn r7_connections_outlive_a_relay_that_crashes_under_traffic() {
    let mut scene = Scene::new("", &[client("sandbox")]);
    let remotes: Vec<_> = (0..SERVERS / 4)
        .flat_map(|index| FAMILIES.map(|is_v4| server(is_v4, index)))
        .collect();
    let _servers = serve(&scene.world.outside, &remotes);
    let netns = scene.client().netns();
    let mut talks: Vec<Talk> = remotes
        .iter()
        .map(|remote| Talk::open(netns, *remote))
        .collect();
    for _ in 0..2 {
        thread::scope(|scope| {
            let talking = scope.spawn(|| {
                for _ in 0..20 {
                    talks.iter_mut().for_each(Talk::say);
                }
            });
            scene.kill_relay();
            talking.join().unwrap();
        });
        scene.boot_relay();
        scene.wait_for_relay();
        for talk in &mut talks {
            talk.try_hear().expect("the connection lives");
        }
    }
    talks.iter_mut().for_each(Talk::exchange);
}
