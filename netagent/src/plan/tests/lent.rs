//! TAPs of the user's own, which are lent and given back.

use super::*;
use crate::instance::Before;

/// The user's own address on the user's own TAP, which has index 57 and is up.
fn with_existing_tap(host: &FakeHost) -> Wanted {
    let existing = ObservedLink {
        name: "vpc0".into(),
        mac: [2, 0, 0, 0, 0, 7],
        mtu: 1400,
        up: true,
        ethernet: true,
        tap: true,
        addresses: ["10.7.0.1/24".parse().unwrap()].into(),
        ..ObservedLink::default()
    };
    let before = Before {
        ifindex: 57,
        mac: existing.mac,
        mtu: 1400,
        alias: None,
        up: true,
        addresses: existing.addresses.clone(),
        settings: BTreeMap::new(),
    };
    host.state().observed.links.insert(57, existing);
    let (id, mut interface) = interface(60, 0, false);
    interface.record.ifindex = 57;
    interface.tap.name = "vpc0".into();
    interface.tap.ifindex = 57;
    interface.tap.alias.push_str(LENT);
    interface.tap.lent = true;
    interface.host_v4 = "10.7.0.254/32".parse().unwrap();
    interface.guest_v4 = "10.7.0.9".parse().unwrap();
    let mut wanted = wanted(&[]);
    wanted.lent.insert(interface.tap.alias.clone(), before);
    wanted.interfaces.insert(id, interface);
    wanted
}

#[test]
fn an_existing_tap_is_down_until_its_programs_are_on() {
    let host = host();
    let nothing = wanted(&[]);
    let wanted = with_existing_tap(&host);
    apply(&plan_of(&nothing, &host), &host);
    let steps: Vec<String> = plan_of(&wanted, &host)
        .steps()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        steps,
        [
            "set device 57 down",
            "write interface record 60 (device 57, generation 1)",
            "take TAP vpc0 into use (MTU 1500)",
            "attach from_vm and to_vm to vpc0 (57)",
            "add address 10.7.0.254/32 to device 57",
            "add neighbour 10.7.0.9 to device 57",
            "set device 57 up",
            "route guest 10.7.0.9 to device 57",
        ]
    );
    apply(&plan_of(&wanted, &host), &host);
    assert!(plan_of(&wanted, &host).is_empty());
}

#[test]
fn an_existing_tap_is_given_back_as_it_was_and_never_deleted() {
    let host = host();
    let before = host.state().observed.links.clone();
    let mut wanted = with_existing_tap(&host);
    let lent = host.state().observed.links[&57].clone();
    apply(&plan_of(&wanted, &host), &host);
    wanted.interfaces.clear();
    let steps: Vec<String> = plan_of(&wanted, &host)
        .steps()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        steps,
        [
            "set device 57 down",
            "clear interface record 60",
            "detach from_vm and to_vm from device 57",
            "give TAP vpc0 (57) back as it was",
            "remove flows and counters without an interface",
        ]
    );
    apply(&plan_of(&wanted, &host), &host);
    assert_eq!(host.state().observed.links[&57], lent);
    assert_eq!(host.state().observed.links.len(), before.len() + 1);
    assert!(plan_of(&wanted, &host).is_empty());
}

#[test]
fn an_existing_tap_survives_a_fault_after_every_step() {
    for until in 0..40 {
        let host = host();
        let mut wanted = with_existing_tap(&host);
        host.state().until_fault = Some(until);
        apply(&plan_of(&wanted, &host), &host);
        host.state().until_fault = None;
        apply(&plan_of(&wanted, &host), &host);
        assert!(plan_of(&wanted, &host).is_empty(), "{until}");
        wanted.interfaces.clear();
        host.state().until_fault = Some(until % 5);
        apply(&plan_of(&wanted, &host), &host);
        host.state().until_fault = None;
        apply(&plan_of(&wanted, &host), &host);
        assert!(plan_of(&wanted, &host).is_empty(), "{until}");
        assert_eq!(host.state().observed.links[&57].mac, [2, 0, 0, 0, 0, 7]);
    }
}

#[test]
fn an_existing_tap_that_is_gone_or_no_tap_is_named() {
    let host = host();
    let wanted = with_existing_tap(&host);
    let problem = |host: &FakeHost| plan_of(&wanted, host).problems[0].to_string();
    host.state().observed.links.get_mut(&57).unwrap().tap = false;
    assert!(problem(&host).contains("'vpc0' is no longer the TAP device"));
    host.state().observed.links.remove(&57);
    assert!(problem(&host).contains("TAP device 'vpc0' is gone"));
}

#[test]
fn an_existing_tap_is_given_back_without_drop_all() {
    let host = host();
    let mut wanted = with_existing_tap(&host);
    for interface in wanted.interfaces.values_mut() {
        interface.drop_all = true;
    }
    converge(&wanted, &host);
    let dropping = |host: &FakeHost| {
        let state = host.state();
        state.observed.datapath.as_ref().unwrap().drop_all.clone()
    };
    assert_eq!(dropping(&host), [57].into());
    wanted.interfaces.clear();
    converge(&wanted, &host);
    assert_eq!(dropping(&host), BTreeSet::new());
}
