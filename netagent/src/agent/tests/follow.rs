//! What the agent follows of the host: its devices, its MTU, whether it has IPv6.

use super::*;

#[tokio::test]
async fn changes_of_the_host_are_followed() {
    let Running { host, handle, .. } = agent().await;
    handle.create(spec(r#"{"name": "a"}"#)).await.unwrap();
    host.state().observed.links.get_mut(&UPLINK).unwrap().mtu = 1400;
    host.notify();
    wait_for("the new MTU", async || {
        handle.list().await.unwrap()[0].interfaces[0].mtu == 1400
    })
    .await;
    let state = host.state();
    assert_eq!(
        state
            .observed
            .links
            .values()
            .filter(|link| link.mtu == 1400)
            .count(),
        2
    );
    assert_eq!(
        state.observed.datapath.as_ref().unwrap().interfaces[&0].mtu,
        1400
    );
}

#[tokio::test]
async fn an_mtu_that_was_asked_for_stays_and_below_ipv6s_lowest_there_is_no_ipv6() {
    let Running { host, handle, .. } = agent().await;
    handle.create(spec(r#"{"mtu": 1279}"#)).await.unwrap();
    handle.create(spec(r#"{"mtu": 9000}"#)).await.unwrap();
    let made = handle.create(spec("{}")).await.unwrap();
    let check = |expected: [(u32, u8); 3]| {
        let state = host.state();
        let records = &state.observed.datapath.as_ref().unwrap().interfaces;
        let records = records.values();
        let records: Vec<_> = records.map(|one| (one.mtu, one.has_v6)).collect();
        assert_eq!(records, expected);
        let taps = state.observed.links.values();
        let taps = taps.filter(|link| link.alias.is_some());
        let taps: Vec<_> = taps.map(|link| link.mtu).collect();
        assert_eq!(taps, expected.map(|(mtu, _)| mtu));
    };
    check([(1279, 0), (9000, 1), (1500, 1)]);
    for (uplink, followed) in [
        (1000, (1000, 0)),
        (65_536, (65_521, 1)),
        (60, (68, 0)),
        (1280, (1280, 1)),
    ] {
        host.state().observed.links.get_mut(&UPLINK).unwrap().mtu = uplink;
        host.notify();
        wait_for("the MTU", async || {
            handle.list().await.unwrap()[2].interfaces[0].mtu == followed.0
        })
        .await;
        check([(1279, 0), (9000, 1), followed]);
    }
    let shown = handle.list().await.unwrap()[2].interfaces[0].guest_v6;
    assert_eq!(shown, made.interfaces[0].guest_v6);
}

#[tokio::test]
async fn an_existing_device_says_itself_which_mtu_it_takes() {
    let Running { host, handle, .. } = agent().await;
    let tap = ObservedLink {
        name: "vpc0".into(),
        tap: true,
        mtu_range: Some(100..=2000),
        ..ObservedLink::default()
    };
    host.state().observed.links.insert(50, tap);
    let ask = |mtu: u32| {
        let interface = format!(r#"{{"ip": "10.7.0.5/24", "tap_name": "vpc0", "mtu": {mtu}}}"#);
        spec(&format!(
            r#"{{"autostart": false, "network_interfaces": [{interface}]}}"#
        ))
    };
    for mtu in [99, 2001] {
        let error = handle.create(ask(mtu)).await.unwrap_err().to_string();
        let expected = format!("Invalid mtu '{mtu}': TAP device 'vpc0' takes 100 to 2000");
        assert_eq!(error, expected);
    }
    let made = handle.create(ask(2000)).await.unwrap();
    assert_eq!(made.interfaces[0].mtu, 2000);
}

#[tokio::test]
async fn a_host_without_ipv6_gives_guests_none() {
    let bare = host();
    for link in bare.state().observed.links.values_mut() {
        link.addresses.retain(|address| address.addr().is_ipv4());
    }
    let Running { handle, host, .. } = running(bare, Config::default()).await;
    let made = handle.create(spec("{}")).await.unwrap();
    assert_eq!(made.interfaces[0].guest_v6, None);
    assert_eq!(
        host.state().observed.datapath.as_ref().unwrap().interfaces[&0].has_v6,
        0
    );
}
