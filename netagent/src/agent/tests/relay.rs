//! Relays: who may be whose, what the datapath is told, and what becomes of it when one goes.

use netagent_common::policy::NO_POLICY;
use netagent_common::policy::policy_flag::{
    AUDIT, DENY_ALL, DNS_STEERED, LEG, NAMES, RELAY, RELAYED,
};
use netagent_common::vm;

use super::*;
use crate::host::Changes;
use crate::spec::policy::PolicySpec;

const GW: &str = r#"{"name": "gw", "network_interfaces": [{"name": "gw-iface"}]}"#;
const BOX: &str = r#"{"name": "box", "network_interfaces": [{"relay": {"name": "gw-iface"}}]}"#;
/// Slot of the leg of the first client.
const LEG_SLOT: u32 = 65_535;

/// The relay is slot 0, its client slot 1.
async fn pair() -> Running {
    let agent = agent().await;
    agent.handle.create(spec(GW)).await.unwrap();
    agent.handle.create(spec(BOX)).await.unwrap();
    agent
}

fn record(host: &FakeHost, slot: u32) -> Option<vm::Interface> {
    let state = host.state();
    let datapath = state.observed.datapath.as_ref().unwrap();
    datapath.interfaces.get(&slot).copied()
}

fn leg(host: &FakeHost) -> (u32, [u8; 6]) {
    let leg = record(host, LEG_SLOT).unwrap();
    (leg.ifindex, leg.guest_mac)
}

const DOWN: (u32, [u8; 6]) = (0, [0; 6]);

fn up(uses: u32) -> (u32, [u8; 6]) {
    (vm::ifindex(0, uses), [0xaa, 0xfc, 0, 0, 0, 1])
}

/// A VMM takes, or leaves, the relay's TAP.
fn set_carrier(host: &FakeHost, ifindex: u32, carrier: bool) {
    let mut state = host.state();
    state.observed.links.get_mut(&ifindex).unwrap().carrier = carrier;
    drop(state);
    host.say(Changes {
        links: [ifindex].into(),
        ..Changes::default()
    });
}

async fn check_settled(agent: &Running) {
    let steps = agent.handle.plan().await.unwrap().steps;
    assert!(steps.is_empty(), "{steps:?}");
}

fn invalid(name: &str) -> String {
    format!(
        "Invalid relay '{name}'. Please make sure the relay exists and does not create a circular dependency"
    )
}

#[tokio::test]
async fn a_client_and_its_relay_are_told_to_the_datapath_as_agreed() {
    let mut config = Config::default();
    config.policy.vm_to_vm = crate::config::policy::VmToVm::Account;
    let agent = running(host(), config).await;
    agent
        .handle
        .create(spec(
            r#"{"name": "gw", "mtu": 1400, "network_interfaces": [{"name": "gw-iface"}]}"#,
        ))
        .await
        .unwrap();
    let (host, handle) = (&agent.host, &agent.handle);
    assert_eq!(record(host, 0).unwrap().policy_flags, 0);
    let client = r#"{"name": "box", "limits": {"pps": 9, "flows": 7}, "bandwidth": 5, "denied_cidrs": ["10.0.0.0/8"],
        "network_interfaces": [{"relay": {"name": "gw-iface"}}, {}, {"relay": {"name": "gw-iface", "relay_dns": false}}]}"#;
    handle.create(spec(client)).await.unwrap();
    let gw = record(host, 0).unwrap();
    let (own, second, third) = (
        record(host, 1).unwrap(),
        record(host, 2).unwrap(),
        record(host, 3).unwrap(),
    );
    assert_eq!((gw.policy_flags, gw.leg, gw.client), (RELAY, 0, 0));
    assert_ne!(gw.account, 0);
    assert_eq!(
        (own.policy_flags, own.leg, own.client),
        (RELAYED, LEG_SLOT, 0)
    );
    assert_eq!(
        (own.account, own.addresses),
        (0, 1),
        "its own address alone"
    );
    assert_eq!(own.addresses_v4[..2], [[172, 16, 0, 6], [0; 4]]);
    assert_eq!(
        (second.policy_flags, second.leg, second.addresses),
        (0, 0, 1)
    );
    assert_ne!(second.account, 0);
    assert_eq!(second.addresses_v4[..2], [[172, 16, 0, 10], [0; 4]]);
    assert_eq!(
        (third.policy_flags, third.leg),
        (RELAYED | DNS_STEERED, LEG_SLOT - 1)
    );
    let leg = record(host, LEG_SLOT).unwrap();
    let expected = vm::Interface {
        ifindex: 0,
        guest_mac: [0; 6],
        slot: LEG_SLOT,
        instance: LEG_SLOT,
        client: 1,
        leg: 0,
        mtu: 1400,
        policy: NO_POLICY,
        policy_flags: LEG,
        bandwidth: netagent_common::limit::Rate::NONE,
        packets: netagent_common::limit::Rate::NONE,
        ..own
    };
    assert_eq!((leg, own.mtu, leg.flow_limit), (expected, 1500, 7));
    assert_ne!(own.policy, NO_POLICY);
    check_settled(&agent).await;
    set_carrier(host, vm::ifindex(0, 0), true);
    wait_for("the relay is up", async || {
        record(host, LEG_SLOT - 1).unwrap().ifindex != 0
    })
    .await;
    let (ifindex, guest_mac) = up(0);
    let expected = vm::Interface {
        ifindex,
        guest_mac,
        ..expected
    };
    assert_eq!(record(host, LEG_SLOT), Some(expected));
    check_settled(&agent).await;
}

#[tokio::test]
async fn r2_only_an_interface_of_another_instance_that_has_no_relay_can_be_one() {
    let agent = pair().await;
    let handle = &agent.handle;
    let other = Caller {
        account: crate::access::AccountName::parse("other").unwrap(),
        ..caller()
    };
    let foreign = r#"{"network_interfaces": [{"name": "foreign"}]}"#;
    handle.0.create(&other, spec(foreign)).await.unwrap();
    for (text, name) in [
        (
            r#"{"network_interfaces": [{"relay": {"name": "nobody"}}]}"#,
            "nobody",
        ),
        (
            r#"{"network_interfaces": [{"relay": {"name": "foreign"}}]}"#,
            "foreign",
        ),
        (
            r#"{"network_interfaces": [{"name": "me", "relay": {"name": "me"}}]}"#,
            "me",
        ),
        (
            r#"{"name": "me", "network_interfaces": [{"relay": {"name": "me-eth0"}}]}"#,
            "me-eth0",
        ),
        (
            r#"{"network_interfaces": [{"name": "a"}, {"relay": {"name": "a"}}]}"#,
            "a",
        ),
        (
            r#"{"network_interfaces": [{"name": "a", "relay": {"name": "b"}}, {"name": "b", "relay": {"name": "a"}}]}"#,
            "b",
        ),
        (
            r#"{"network_interfaces": [{"relay": {"name": "box-eth0"}}]}"#,
            "box-eth0",
        ),
    ] {
        let asked = spec(text);
        let faults = handle.0.check(&caller(), asked.clone()).await.unwrap();
        assert_eq!(faults.first(), Some(&invalid(name)), "{text}");
        let error = handle.create(asked).await.unwrap_err();
        assert_eq!(error.to_string(), invalid(name), "{text}");
    }
    assert_eq!(handle.list().await.unwrap().len(), 2);
    // Many may have one.
    for name in ["second", "third"] {
        let text = BOX.replace("box", name);
        handle.create(spec(&text)).await.unwrap();
    }
    let gw = handle.inspect("gw".into()).await.unwrap();
    let clients: Vec<&str> = gw.interfaces[0]
        .relay_clients
        .iter()
        .map(|name| name.as_str())
        .collect();
    assert_eq!(clients, ["box-eth0", "second-eth0", "third-eth0"]);
    check_settled(&agent).await;
}

#[tokio::test]
async fn r2_who_is_waited_for_as_a_relay_can_have_none() {
    let agent = pair().await;
    let handle = &agent.handle;
    handle
        .create(spec(
            r#"{"name": "far", "network_interfaces": [{"name": "far"}]}"#,
        ))
        .await
        .unwrap();
    handle
        .create(spec(
            r#"{"name": "wait", "network_interfaces": [{"relay": {"name": "far"}}]}"#,
        ))
        .await
        .unwrap();
    handle.delete_by_force("far").await.unwrap();
    let second_level = r#"{"name": "far", "network_interfaces": [{"name": "far", "relay": {"name": "gw-iface"}}]}"#;
    let error = handle.create(spec(second_level)).await.unwrap_err();
    assert_eq!(error.to_string(), invalid("gw-iface"));
    // By its generated name too.
    handle.create(spec(r#"{"name": "gen"}"#)).await.unwrap();
    handle
        .create(spec(
            r#"{"name": "wait2", "network_interfaces": [{"relay": {"name": "gen-eth0"}}]}"#,
        ))
        .await
        .unwrap();
    handle.delete_by_force("gen").await.unwrap();
    let generated = r#"{"name": "gen", "network_interfaces": [{"relay": {"name": "gw-iface"}}]}"#;
    let error = handle.create(spec(generated)).await.unwrap_err();
    assert_eq!(error.to_string(), invalid("gw-iface"));
    // Who waits for them no longer keeps them from it.
    handle.delete("wait".into()).await.unwrap();
    handle.create(spec(second_level)).await.unwrap();
}

#[tokio::test]
async fn r7_a_relay_that_stops_and_comes_again_with_another_index_is_followed() {
    let agent = pair().await;
    let (host, handle) = (&agent.host, &agent.handle);
    set_carrier(host, vm::ifindex(0, 0), true);
    wait_for("the relay is up", async || leg(host) == up(0)).await;
    let status = async || {
        let state = handle.inspect("box".into()).await.unwrap();
        assert_eq!(state.status, Status::Running);
        state.interfaces[0]
            .relay
            .clone()
            .unwrap()
            .inspected
            .unwrap()
    };
    assert_eq!(status().await, Ok(()));
    let generation = record(host, LEG_SLOT).unwrap().generation;
    set_carrier(host, vm::ifindex(0, 0), false);
    wait_for("its VMM is gone", async || leg(host) == DOWN).await;
    let reason = "no VMM holds TAP device 'tap0' of instance 'gw'";
    assert_eq!(status().await, Err(reason.into()));
    set_carrier(host, vm::ifindex(0, 0), true);
    wait_for("its VMM is back", async || leg(host) == up(0)).await;
    handle.stop("gw".into()).await.unwrap();
    assert_eq!(leg(host), DOWN, "with the answer");
    assert_eq!(status().await, Err("instance 'gw' does not run".into()));
    check_settled(&agent).await;
    handle.start("gw".into()).await.unwrap();
    assert_eq!(leg(host), DOWN, "nobody holds the new TAP");
    set_carrier(host, vm::ifindex(0, 1), true);
    wait_for("the relay is up again", async || leg(host) == up(1)).await;
    assert_eq!(
        record(host, LEG_SLOT).unwrap().generation,
        generation,
        "of the same life"
    );
    // Somebody removes its TAP.
    host.state().observed.links.remove(&vm::ifindex(0, 1));
    host.notify();
    wait_for("nothing leads there", async || leg(host) == DOWN).await;
    check_settled(&agent).await;
}

#[tokio::test]
async fn r7_a_relay_that_was_deleted_by_force_is_found_again_by_its_name() {
    let agent = pair().await;
    let (host, handle) = (&agent.host, &agent.handle);
    set_carrier(host, vm::ifindex(0, 0), true);
    wait_for("the relay is up", async || leg(host) == up(0)).await;
    let error = handle.delete("gw".into()).await.unwrap_err().to_string();
    let expected = "Network interface 'gw-iface' is the relay of 'box-eth0' of instance 'box': delete those first, or delete it with force";
    assert!(error.starts_with(expected), "{error}");
    assert_eq!(leg(host), up(0));
    handle.delete_by_force("gw").await.unwrap();
    assert_eq!(leg(host), DOWN);
    let shown = handle.inspect("box".into()).await.unwrap();
    let relay = shown.interfaces[0].relay.clone().unwrap();
    assert_eq!(
        relay.inspected,
        Some(Err("there is no network interface 'gw-iface'".into()))
    );
    check_settled(&agent).await;
    // Its slot and its name become those of others.
    handle.create(spec(r#"{"name": "other"}"#)).await.unwrap();
    set_carrier(host, vm::ifindex(0, 1), true);
    let made = handle.create(spec(GW)).await.unwrap();
    assert_eq!(made.interfaces[0].relay_clients.len(), 1);
    assert_eq!(record(host, 2).unwrap().policy_flags, RELAY);
    assert_eq!(leg(host), DOWN);
    set_carrier(host, vm::ifindex(2, 0), true);
    wait_for("the new relay is up", async || {
        leg(host).0 == vm::ifindex(2, 0)
    })
    .await;
    handle.delete("box".into()).await.unwrap();
    assert_eq!(record(host, LEG_SLOT), None);
    assert_eq!(record(host, 2).unwrap().policy_flags, 0);
    handle.delete("gw".into()).await.unwrap();
    check_settled(&agent).await;
}

#[tokio::test]
async fn a_restart_keeps_everything_and_follows_what_changed_meanwhile() {
    let agent = pair().await;
    set_carrier(&agent.host, vm::ifindex(0, 0), true);
    wait_for("the relay is up", async || leg(&agent.host) == up(0)).await;
    let (host, directory) = agent.ended().await;
    let before = host.state().applied.len();
    let second = running_on(host.clone(), Config::default(), directory).await;
    assert_eq!(host.state().applied.len(), before, "nothing was to be done");
    let shown = second.handle.inspect("box".into()).await.unwrap();
    let relay = shown.interfaces[0].relay.clone().unwrap();
    assert_eq!(
        (relay.name.as_str(), relay.dns, relay.inspected),
        ("gw-iface", true, Some(Ok(())))
    );
    // The slot of the leg is taken.
    let custom =
        r#"{"name": "c", "network_interfaces": [{"ip": "10.7.0.5/24", "tap_name": "vpc0"}]}"#;
    second.handle.create(spec(custom)).await.unwrap();
    assert_eq!(record(&host, LEG_SLOT).unwrap().policy_flags, LEG);
    assert_eq!(
        record(&host, LEG_SLOT - 1).unwrap().addresses_v4[0],
        [10, 7, 0, 5]
    );
    let (host, directory) = second.ended().await;
    host.state()
        .observed
        .links
        .get_mut(&vm::ifindex(0, 0))
        .unwrap()
        .carrier = false;
    let third = running_on(host.clone(), Config::default(), directory.clone()).await;
    assert_eq!(leg(&host), DOWN);
    let (_, directory) = third.ended().await;
    // After a reboot.
    let fresh = running_on(super::host(), Config::default(), directory).await;
    assert_eq!(leg(&fresh.host), DOWN);
    check_settled(&fresh).await;
}

async fn replace(handle: &Local, key: &str, body: &str) -> Result<InstanceState, RequestError> {
    let policy = PolicySpec::parse(&serde_json::from_str(body).unwrap()).unwrap();
    handle.0.replace_policy(&caller(), key.into(), policy).await
}

#[tokio::test]
async fn r4_a_policy_with_names_takes_dns_from_a_relay_that_was_not_promised_it() {
    let agent = pair().await;
    let (host, handle) = (&agent.host, &agent.handle);
    let promised = BOX
        .replace("box", "sure")
        .replace("}}]", r#", "relay_dns": true}}]"#);
    handle.create(spec(&promised)).await.unwrap();
    let names = r#"{"allowed_domains": ["a.example"]}"#;
    let error = replace(handle, "sure", names).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "relay_dns cannot be combined with allowed_domains"
    );
    let changed = replace(handle, "box", names).await.unwrap();
    assert!(!changed.interfaces[0].relay.clone().unwrap().dns);
    let own = record(host, 1).unwrap();
    assert_eq!(own.policy_flags, RELAYED | NAMES | DNS_STEERED);
    let leg = record(host, LEG_SLOT).unwrap();
    assert_eq!(
        (leg.policy_flags, leg.policy_generation),
        (LEG, own.policy_generation)
    );
    replace(handle, "box", r#"{"network_policy": "deny-all"}"#)
        .await
        .unwrap();
    assert_eq!(record(host, 1).unwrap().policy_flags, RELAYED | DENY_ALL);
    assert_eq!(record(host, LEG_SLOT).unwrap().policy_flags, LEG | DENY_ALL);
    replace(
        handle,
        "box",
        r#"{"network_policy": "deny-all", "audit": true}"#,
    )
    .await
    .unwrap();
    assert_eq!(
        record(host, 1).unwrap().policy_flags,
        RELAYED | DENY_ALL | AUDIT
    );
    assert_eq!(record(host, LEG_SLOT).unwrap().policy_flags, LEG);
    check_settled(&agent).await;
}

#[tokio::test]
async fn drop_all_is_not_on_a_relay() {
    let agent = agent().await;
    let (host, handle) = (&agent.host, &agent.handle);
    host.state().open_flows = Some(0);
    let denied = GW.replace("\"gw\"", r#""gw", "network_policy": "deny-all""#);
    handle.create(spec(&denied)).await.unwrap();
    let has = |slot| {
        let state = host.state();
        let datapath = state.observed.datapath.as_ref().unwrap();
        datapath.drop_all.contains(&vm::ifindex(slot, 0))
    };
    wait_for("drop_all comes", async || has(0)).await;
    // One that does not run makes it a relay all the same.
    let client = BOX.replace(
        "\"box\"",
        r#""box", "autostart": false, "network_policy": "deny-all""#,
    );
    handle.create(spec(&client)).await.unwrap();
    assert!(!has(0));
    assert_eq!(record(host, 0).unwrap().policy_flags, RELAY | DENY_ALL);
    handle.start("box".into()).await.unwrap();
    wait_for("drop_all comes to the client", async || has(1)).await;
    assert!(!has(0));
    check_settled(&agent).await;
    handle.delete("box".into()).await.unwrap();
    assert!(has(0));
    check_settled(&agent).await;
}

#[tokio::test]
async fn what_is_published_and_exposed_leads_to_the_leg() {
    let agent = agent().await;
    let (host, handle) = (&agent.host, &agent.handle);
    handle.create(spec(GW)).await.unwrap();
    let client = BOX.replace(
        "\"box\"",
        r#""box", "publish": ["8080:80"], "exposed_ports": [80]"#,
    );
    handle.create(spec(&client)).await.unwrap();
    let ports = || {
        host.state()
            .observed
            .datapath
            .as_ref()
            .unwrap()
            .ports
            .clone()
    };
    let own = record(host, 1).unwrap();
    let there = ports();
    assert!(
        there
            .published
            .values()
            .all(|to| (to.slot, to.generation) == (LEG_SLOT, own.generation))
    );
    assert_eq!(there.published.len(), 2);
    let exposed: Vec<u32> = there.exposed.keys().map(|one| one.instance).collect();
    assert_eq!(exposed, [LEG_SLOT]);
    check_settled(&agent).await;
    let none = crate::spec::publish::PortsSpec::default();
    let changed = handle
        .0
        .publish(&caller(), "box".into(), none.clone())
        .await
        .unwrap();
    assert!(changed.published.is_empty() && ports().published.is_empty());
    assert!(ports().exposed.is_empty());
    let both = serde_json::json!({"publish": ["8080:80"], "exposed_ports": [80]});
    let both = crate::spec::publish::PortsSpec::parse(both.as_object().unwrap()).unwrap();
    handle
        .0
        .publish(&caller(), "box".into(), both)
        .await
        .unwrap();
    handle.stop("box".into()).await.unwrap();
    assert_eq!(ports(), crate::plan::publish::Ports::default());
    check_settled(&agent).await;
}

#[tokio::test]
async fn r8_an_existing_tap_can_be_a_relays() {
    let agent = agent().await;
    let (host, handle) = (&agent.host, &agent.handle);
    let tap = |carrier| ObservedLink {
        name: "vpc0".into(),
        tap: true,
        up: carrier,
        carrier,
        ..ObservedLink::default()
    };
    host.state().observed.links.insert(50, tap(false));
    let relay = r#"{"name": "gw", "network_interfaces": [{"name": "gw-iface", "ip": "10.7.0.5/24", "tap_name": "vpc0"}]}"#;
    handle.create(spec(relay)).await.unwrap();
    let custom = r#"{"name": "box", "network_interfaces": [{"ip": "10.7.0.6/24", "tap_name": "vpc1", "relay": {"name": "gw-iface"}}]}"#;
    handle.create(spec(custom)).await.unwrap();
    let leg = || {
        let state = host.state();
        let records = state
            .observed
            .datapath
            .as_ref()
            .unwrap()
            .interfaces
            .values();
        let legs = records.filter(|one| one.policy_flags & LEG != 0);
        legs.map(|leg| (leg.ifindex, leg.addresses_v4[0]))
            .collect::<Vec<_>>()
    };
    assert_eq!(leg(), [(0, [10, 7, 0, 6])]);
    set_carrier(host, 50, true);
    wait_for("the relay is up", async || leg()[0].0 == 50).await;
    check_settled(&agent).await;
    // Its owner makes it anew.
    let mut state = host.state();
    state.observed.links.remove(&50);
    state.observed.links.insert(51, tap(false));
    let datapath = state.observed.datapath.as_mut().unwrap();
    datapath.attached.remove(&50);
    drop(state);
    host.notify();
    wait_for("the new one is in use", async || {
        let state = host.state();
        state
            .observed
            .datapath
            .as_ref()
            .unwrap()
            .attached
            .contains(&51)
    })
    .await;
    assert_eq!(leg()[0].0, 0);
    set_carrier(host, 51, true);
    wait_for("the relay is up again", async || leg()[0].0 == 51).await;
    handle.stop("gw".into()).await.unwrap();
    assert_eq!(leg()[0].0, 0);
    check_settled(&agent).await;
}

#[tokio::test]
async fn r7_a_client_that_is_in_trouble_is_turned_away_from_a_relay_that_goes() {
    let agent = pair().await;
    let (host, handle) = (&agent.host, &agent.handle);
    set_carrier(host, vm::ifindex(0, 0), true);
    wait_for("the relay is up", async || leg(host) == up(0)).await;
    host.state().refuse = Some("tap1");
    host.state().observed.links.remove(&vm::ifindex(1, 0));
    host.notify();
    wait_for("the client is in trouble", async || {
        handle.list().await.unwrap()[1].status == Status::Error
    })
    .await;
    assert_eq!(leg(host), up(0));
    handle.stop("gw".into()).await.unwrap();
    assert_eq!(leg(host), DOWN);
}

#[tokio::test]
async fn requests_that_wait_together_see_each_other() {
    let agent = agent().await;
    let handle = &agent.handle;
    let asked = [
        GW.to_owned(),
        BOX.to_owned(),
        BOX.replace("box", "second"),
        r#"{"network_interfaces": [{"relay": {"name": "box-eth0"}}]}"#.to_owned(),
    ];
    let made = asked.iter().map(|text| handle.create(spec(text)));
    let made = futures_util::future::join_all(made).await;
    let refused: Vec<bool> = made.iter().map(Result::is_err).collect();
    assert_eq!(refused, [false, false, false, true]);
    check_settled(&agent).await;
}

#[tokio::test]
async fn an_inspection_counts_what_is_dropped_on_both_sides_and_traffic_on_one() {
    let agent = pair().await;
    let shown = agent.handle.inspect("box".into()).await.unwrap();
    let (_, counters) = shown.interfaces[0].inspected.clone().unwrap();
    let dropped: u64 = counters.drops.values().sum();
    assert_eq!((dropped, counters.traffic.from_vm_packets), (14, 1));
}
