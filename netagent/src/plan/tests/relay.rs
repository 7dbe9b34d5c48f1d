//! Legs: the relay is slot 0, its client slot 1, the client's leg slot 9.

use netagent_common::policy::policy_flag::{LEG, RELAY, RELAYED};

use super::*;

const LEG_SLOT: u32 = 9;

/// The relay in its `relay_use`-th life, where it runs, and its client.
fn with_relay(relay_use: Option<u32>) -> Wanted {
    let relay = relay_use.map(|uses| (0, uses, true));
    let all: Vec<_> = relay.into_iter().chain([(1, 0, true)]).collect();
    let mut wanted = wanted(&all);
    let mut at = None;
    for interface in wanted.interfaces.values_mut() {
        if interface.record.slot == 0 {
            interface.record.policy_flags = RELAY;
            at = Some(interface.record);
        }
    }
    for interface in wanted.interfaces.values_mut() {
        if interface.record.slot == 1 {
            interface.record.policy_flags = RELAYED;
            interface.record.leg = LEG_SLOT;
            interface.leg = Some(Interface {
                slot: LEG_SLOT,
                instance: LEG_SLOT,
                client: 1,
                leg: 0,
                policy_flags: LEG,
                ifindex: at.map_or(0, |relay| relay.ifindex),
                guest_mac: at.map_or([0; 6], |relay| relay.guest_mac),
                ..interface.record
            });
        }
    }
    wanted
}

fn leg(host: &FakeHost) -> Option<Interface> {
    let state = host.state();
    let datapath = state.observed.datapath.as_ref().unwrap();
    datapath.interfaces.get(&LEG_SLOT).copied()
}

fn set_carrier(host: &FakeHost, ifindex: u32, carrier: bool) {
    let mut state = host.state();
    state.observed.links.get_mut(&ifindex).unwrap().carrier = carrier;
}

/// Where the relay runs and a VMM holds its TAP.
fn up() -> FakeHost {
    let host = host();
    converge(&with_relay(Some(0)), &host);
    set_carrier(&host, vm::ifindex(0, 0), true);
    converge(&with_relay(Some(0)), &host);
    assert_eq!(leg(&host).unwrap().ifindex, vm::ifindex(0, 0));
    host
}

/// Every fault on the way is survived, and the fake host sees that nothing is led to a TAP that is not there.
fn check(before: impl Fn() -> FakeHost, after: &Wanted, expected: u32) {
    let host = before();
    let count = plan_of(after, &host).steps().count();
    converge(after, &host);
    assert_eq!(leg(&host).unwrap().ifindex, expected);
    for fault in 0..count {
        let host = before();
        host.state().until_fault = Some(fault);
        apply(&plan_of(after, &host), &host);
        host.state().until_fault = None;
        converge(after, &host);
        assert_eq!(leg(&host).unwrap().ifindex, expected, "{fault}");
    }
}

#[test]
fn r7_a_leg_leads_to_its_relay_while_a_vmm_holds_that() {
    check(host, &with_relay(Some(0)), 0);
    check(host, &with_relay(None), 0);
    let held = || {
        let host = host();
        converge(&with_relay(Some(0)), &host);
        set_carrier(&host, vm::ifindex(0, 0), true);
        host
    };
    check(held, &with_relay(Some(0)), vm::ifindex(0, 0));
    let let_go = || {
        let host = up();
        set_carrier(&host, vm::ifindex(0, 0), false);
        host
    };
    check(let_go, &with_relay(Some(0)), 0);
}

#[test]
fn r7_a_relay_that_goes_or_comes_again_is_left_first() {
    check(up, &with_relay(None), 0);
    check(up, &with_relay(Some(1)), 0);
    let gone = || {
        let host = up();
        let mut state = host.state();
        state.observed.links.remove(&vm::ifindex(0, 0));
        let datapath = state.observed.datapath.as_mut().unwrap();
        datapath.attached.remove(&vm::ifindex(0, 0));
        drop(state);
        host
    };
    check(gone, &with_relay(Some(0)), 0);
}

#[test]
fn a_leg_goes_with_its_interface_and_its_relay_keeps_its_tap() {
    let host = up();
    let mut wanted = with_relay(Some(0));
    wanted.interfaces.retain(|_, one| one.record.slot == 0);
    let plan = plan_of(&wanted, &host);
    let texts = texts(&plan);
    assert!(
        !texts.iter().any(|text| text.contains("tap0")),
        "{texts:#?}"
    );
    converge(&wanted, &host);
    assert_eq!(leg(&host), None);
    let client = with_relay(Some(0));
    let client = client.interfaces.into_values();
    let alias = client.map(|one| one.tap.alias).nth(1).unwrap();
    let host = up();
    let observed = host.state().observed.clone();
    let slots = [1, LEG_SLOT].into();
    apply(
        &plan_stop(&[alias].into(), &slots, &Lent::new(), &observed),
        &host,
    );
    assert_eq!(leg(&host), None);
    assert!(plan_of(&wanted, &host).is_empty());
}

#[test]
fn a_leg_comes_before_the_record_of_its_interface_and_nothing_else_waits_for_it() {
    let host = host();
    let plan = plan_of(&with_relay(Some(0)), &host);
    let group = plan
        .groups
        .iter()
        .find(|group| group.owner == Owner::Instance(1));
    let records: Vec<String> = group
        .unwrap()
        .steps
        .iter()
        .map(Step::to_string)
        .take(2)
        .collect();
    let expected = [
        "write leg record 9 of interface 1 (device 0, generation 1)",
        "write interface record 1 (device 65537, generation 1)",
    ];
    assert_eq!(records, expected);
    // What turns a leg away is nobody's who may wait.
    let host = up();
    set_carrier(&host, vm::ifindex(0, 0), false);
    let plan = plan_of(&with_relay(Some(0)), &host);
    let owners: Vec<Owner> = plan.groups.iter().map(|group| group.owner).collect();
    assert_eq!(owners, [Owner::Leftover]);
}
