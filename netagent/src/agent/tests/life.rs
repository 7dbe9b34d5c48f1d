//! The life of an instance that nothing disturbs.

use std::collections::BTreeSet;

use super::*;

#[tokio::test]
async fn an_instance_lives_from_create_to_delete() {
    let Running { host, handle, .. } = agent().await;
    let made = handle.create(spec(r#"{"name": "a"}"#)).await.unwrap();
    assert_eq!(made.status, Status::Running);
    let first = &made.interfaces[0];
    assert_eq!(first.tap_name, "tap0");
    assert_eq!(first.guest_v4.to_string(), "172.16.0.2/30");
    assert_eq!(first.guest_v6.unwrap().to_string(), "fd12:3456:789a::2/64");
    assert_eq!((first.name.as_str(), first.mtu), ("a-eth0", 1500));
    assert_eq!(tap_names(&host), ["tap0"]);

    let stopped = handle.stop("a".into()).await.unwrap();
    assert_eq!(
        (stopped.status, tap_names(&host).len()),
        (Status::Stopped, 0)
    );
    let again = handle.start(made.id.to_string()).await.unwrap();
    assert_eq!(
        (again.status, again.interfaces[0].tap_name.as_str()),
        (Status::Running, "tap0")
    );
    handle.delete("a".into()).await.unwrap();
    assert!(tap_names(&host).is_empty());
    assert!(
        host.state()
            .observed
            .datapath
            .as_ref()
            .unwrap()
            .interfaces
            .is_empty()
    );
    assert!(matches!(
        handle.inspect("a".into()).await,
        Err(RequestError::NotFound(_))
    ));
    assert!(handle.plan().await.unwrap().steps.is_empty());
}

#[tokio::test]
async fn every_start_has_its_own_device_and_generation() {
    let Running { host, handle, .. } = agent().await;
    let of_first_record = || {
        let state = host.state();
        let record = &state.observed.datapath.as_ref().unwrap().interfaces[&0];
        (record.ifindex, record.generation)
    };
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        handle.create(spec(r#"{"name": "a"}"#)).await.unwrap();
        assert!(seen.insert(of_first_record()));
        handle.stop("a".into()).await.unwrap();
        handle.start("a".into()).await.unwrap();
        assert!(seen.insert(of_first_record()));
        handle.delete("a".into()).await.unwrap();
    }
}

#[tokio::test]
async fn the_interfaces_of_one_instance_know_each_other() {
    let Running { host, handle, .. } = agent().await;
    handle
        .create(spec(r#"{"network_interfaces": [{}, {}]}"#))
        .await
        .unwrap();
    let datapath = host.state().observed.datapath.clone().unwrap();
    let second = datapath.interfaces[&1];
    assert_eq!(
        (second.instance, second.addresses, second.has_v6),
        (0, 2, 1)
    );
    assert_eq!(second.addresses_v4[..2], [[172, 16, 0, 6], [172, 16, 0, 2]]);
    assert_eq!(
        second.addresses_v6[0][..8],
        [0xfd, 0x12, 0x34, 0x56, 0x78, 0x9a, 0, 1]
    );
    assert_eq!(second.prefixes_v6, [64, 64, 0, 0]);
    assert_eq!(second.gateway_v4, [172, 16, 0, 5]);
}

#[tokio::test]
async fn without_autostart_addresses_are_reserved_and_no_device_is_made() {
    let Running { host, handle, .. } = agent().await;
    let made = handle
        .create(spec(r#"{"autostart": false}"#))
        .await
        .unwrap();
    assert_eq!(made.status, Status::Pending);
    assert!(made.name.as_str().starts_with("vm-"));
    assert!(tap_names(&host).is_empty());
    let next = handle.create(spec("{}")).await.unwrap();
    assert_eq!(next.interfaces[0].tap_name, "tap1");
}

#[tokio::test]
async fn an_inspection_shows_counters_and_who_holds_the_tap() {
    let Running { host, handle, .. } = agent().await;
    handle.create(spec(r#"{"name": "a"}"#)).await.unwrap();
    let attached = async || {
        handle.inspect("a".into()).await.unwrap().interfaces[0]
            .inspected
            .clone()
            .unwrap()
            .0
    };
    assert!(!attached().await);
    let ifindex = netagent_common::vm::ifindex(0, 0);
    host.state()
        .observed
        .links
        .get_mut(&ifindex)
        .unwrap()
        .carrier = true;
    assert!(attached().await);
    assert!(
        handle.list().await.unwrap()[0].interfaces[0]
            .inspected
            .is_none()
    );
}

#[tokio::test]
async fn requests_that_wait_together_get_places_of_their_own() {
    let Running { handle, host, .. } = agent().await;
    let creates = (0..64).map(|_| handle.create(spec("{}")));
    let made = futures_util::future::join_all(creates).await;
    let taps: BTreeSet<String> = made
        .into_iter()
        .map(|one| one.unwrap().interfaces[0].tap_name.clone())
        .collect();
    assert_eq!(taps.len(), 64);
    assert_eq!(tap_names(&host).len(), 64);
    assert!(handle.plan().await.unwrap().steps.is_empty());
}
