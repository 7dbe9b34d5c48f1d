//! What becomes of clients when their relay goes and comes.

use super::*;

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
    let make_anew = || {
        let mut state = host.state();
        state.observed.links.remove(&50);
        state.observed.links.insert(51, tap(false));
        let datapath = state.observed.datapath.as_mut().unwrap();
        datapath.attached.remove(&50);
    };
    make_anew();
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
async fn i19_a_template_has_no_relay_and_says_so() {
    let agent = pair().await;
    let found = async |key| {
        let handle = &agent.handle.0;
        handle.template(&caller(), key).await.unwrap()
    };
    let made = found("box".to_owned()).await;
    assert!(!made.request.contains_key("network_interfaces"));
    let expected = "network interface 'box-eth0' has the relay 'gw-iface', and what is made of this template has none";
    assert_eq!(made.warnings, [expected]);
    assert!(found("gw".to_owned()).await.warnings.is_empty());
}

#[tokio::test]
async fn r9_the_guest_of_a_relay_is_told_to_forward_and_its_client_who_answers_for_names() {
    let agent = pair().await;
    let handle = &agent.handle;
    let steered = BOX
        .replace("box", "own")
        .replace("}}]", r#", "relay_dns": false}}]"#);
    handle.create(spec(&steered)).await.unwrap();
    let told = async |key: &str| {
        let guest = handle.0.guest(&caller(), key.to_owned()).await.unwrap();
        let first = &guest.interfaces[0];
        let servers = first.v6.as_ref().unwrap().nameservers.len();
        (first.relay, first.nameservers.len(), servers)
    };
    assert_eq!(told("gw").await, (true, 1, 1));
    assert_eq!(
        told("box").await,
        (false, 1, 0),
        "fe80::1 is behind no relay"
    );
    assert_eq!(told("own").await, (false, 1, 1));
    handle.delete("box".into()).await.unwrap();
    handle.delete("own".into()).await.unwrap();
    assert_eq!(told("gw").await, (false, 1, 1));
}
