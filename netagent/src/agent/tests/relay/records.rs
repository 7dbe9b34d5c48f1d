//! What the datapath is told of relays and their clients.

use super::*;

/// An instance with three interfaces, of which the first and the third have a relay.
async fn three() -> Running {
    let mut config = Config::default();
    config.policy.vm_to_vm = crate::config::policy::VmToVm::Account;
    let agent = running(host(), config).await;
    let relay = GW.replace("\"gw\"", r#""gw", "mtu": 1400"#);
    agent.handle.create(spec(&relay)).await.unwrap();
    assert_eq!(record(&agent.host, 0).unwrap().policy_flags, 0);
    let client = r#"{"name": "box", "limits": {"pps": 9, "flows": 7}, "bandwidth": 5, "denied_cidrs": ["10.0.0.0/8"],
        "network_interfaces": [{"relay": {"name": "gw-iface"}}, {}, {"relay": {"name": "gw-iface", "relay_dns": false}}]}"#;
    agent.handle.create(spec(client)).await.unwrap();
    agent
}

#[tokio::test]
async fn a_client_and_its_relay_are_told_to_the_datapath_as_agreed() {
    let agent = three().await;
    let host = &agent.host;
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
}

#[tokio::test]
async fn a_leg_is_its_client_on_the_tap_of_the_relay() {
    let agent = three().await;
    let host = &agent.host;
    let own = record(host, 1).unwrap();
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
        bandwidth: own.bandwidth.doubled(),
        bandwidth_in: own.bandwidth_in.doubled(),
        packets: own.packets.doubled(),
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
async fn an_inspection_counts_what_is_dropped_on_both_sides_and_traffic_on_one() {
    let agent = pair().await;
    let shown = agent.handle.inspect("box".into()).await.unwrap();
    let (_, counters) = shown.interfaces[0].inspected.clone().unwrap();
    let dropped: u64 = counters.drops.values().sum();
    assert_eq!((dropped, counters.traffic.from_vm_packets), (14, 1));
}

#[tokio::test]
async fn p5_what_the_configuration_denies_to_everybody_a_relay_denies_for_its_clients_too() {
    let mut config = Config::default();
    config.policy.deny_private = true;
    let agent = running(host(), config).await;
    agent.handle.create(spec(GW)).await.unwrap();
    let client = r#"{"name": "box", "denied_cidrs": ["203.0.113.0/24"], "network_interfaces": [{"relay": {"name": "gw-iface"}}]}"#;
    agent.handle.create(spec(client)).await.unwrap();
    let (gw, own, leg) = (
        record(&agent.host, 0).unwrap(),
        record(&agent.host, 1).unwrap(),
        record(&agent.host, LEG_SLOT).unwrap(),
    );
    assert_ne!(leg.policy, NO_POLICY);
    assert_ne!(leg.policy, own.policy, "not by the client's own lists");
    assert_eq!(leg.policy, gw.policy, "that of everybody without lists");
    check_settled(&agent).await;
}

#[tokio::test]
async fn r3_a_gateway_that_is_the_relay_s_own_address_is_refused() {
    let agent = running(host(), Config::default()).await;
    agent.handle.create(spec(GW)).await.unwrap();
    let address = std::net::Ipv4Addr::from(record(&agent.host, 0).unwrap().addresses_v4[0]);
    let client = format!(
        r#"{{"gateway": "{address}", "network_interfaces": [{{"relay": {{"name": "gw-iface"}}}}]}}"#
    );
    let refused = agent.handle.create(spec(&client)).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("is the address of the relay 'gw-iface'"),
        "{refused}"
    );
}
