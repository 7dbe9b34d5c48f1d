//! TAPs of the agent: made, removed and found half made.

use netagent_common::policy::policy_flag;

use super::*;

#[test]
fn one_interface_is_made_record_first_and_up_last() {
    let host = host();
    converge(&wanted(&[]), &host);
    let plan = plan_of(&wanted(&[(0, 0, true)]), &host);
    assert_eq!(
        texts(&plan),
        [
            "write interface record 0 (device 65536, generation 1)",
            "create TAP tap0 (65536, owner 0:0, queues 1, MTU 1500)",
            "attach from_vm and to_vm to tap0 (65536)",
            "add address 172.16.0.1/30 to device 65536",
            "add address fe80::1/64 to device 65536",
            "add neighbour 172.16.0.2 to device 65536",
            "add neighbour fd00::2 to device 65536",
            "set device 65536 up",
            "route guest fd00::2 to device 65536",
        ]
    );
    check(&[], |_| {}, &[(0, 0, true), (1, 0, false)]);
}

#[test]
fn removal_is_the_reverse() {
    let host = host();
    converge(&wanted(&[(0, 0, true)]), &host);
    let plan = plan_of(&wanted(&[]), &host);
    assert_eq!(
        texts(&plan),
        [
            "set device 65536 down",
            "clear interface record 0",
            "detach from_vm and to_vm from device 65536",
            "remove TAP tap0 (65536)",
            "remove flows and counters without an interface",
        ]
    );
    check(&[(0, 0, true), (1, 0, false)], |_| {}, &[(1, 0, false)]);
    check(&[(0, 0, true)], |_| {}, &[]);
}

#[test]
fn a_restart_replaces_tap_and_record() {
    check(&[(0, 0, true)], |_| {}, &[(0, 1, true)]);
}

#[test]
fn a_tap_without_programs_goes_down_until_they_are_back() {
    let host = host();
    let wanted = wanted(&[(0, 0, true)]);
    converge(&wanted, &host);
    host.state()
        .observed
        .datapath
        .as_mut()
        .unwrap()
        .attached
        .remove(&65_536);
    let plan = plan_of(&wanted, &host);
    assert_eq!(texts(&plan)[0], "set device 65536 down");
    converge(&wanted, &host);
}

#[test]
fn a_tap_that_lost_its_alias_gets_it_back() {
    let lost = |host: &FakeHost| host.state().observed.links.get_mut(&65_536).unwrap().alias = None;
    check(&[(0, 0, false)], lost, &[(0, 0, false)]);
}

#[test]
fn a_half_made_tap_is_made_anew() {
    let half = |host: &FakeHost| {
        let tap = ObservedLink {
            name: "tap0".into(),
            ..ObservedLink::default()
        };
        host.state().observed.links.insert(65_536, tap);
    };
    check(&[], half, &[(0, 0, false)]);
    let host = host();
    converge(&wanted(&[]), &host);
    half(&host);
    let steps = texts(&plan_of(&wanted(&[(0, 0, false)]), &host));
    assert!(steps.iter().any(|step| step.starts_with("create TAP tap0")));
}

#[test]
fn a_record_nobody_wants_is_put_out_of_force() {
    let host = host();
    converge(&wanted(&[]), &host);
    let (_, stray) = interface(9, 0, false);
    host.state()
        .observed
        .datapath
        .as_mut()
        .unwrap()
        .interfaces
        .insert(9, stray.record);
    let plan = plan_of(&wanted(&[]), &host);
    assert_eq!(
        texts(&plan),
        [
            "clear interface record 9",
            "remove flows and counters without an interface"
        ]
    );
    converge(&wanted(&[]), &host);
}

#[test]
fn a_foreign_device_keeps_out_its_own_instance_only() {
    let host = host();
    converge(&wanted(&[]), &host);
    let foreign = ObservedLink {
        name: "tap0".into(),
        up: true,
        ..ObservedLink::default()
    };
    host.state().observed.links.insert(40, foreign);
    let plan = plan_of(&wanted(&[(0, 0, true), (1, 0, true)]), &host);
    let problem = Problem::ForeignDevice {
        instance: 0,
        name: "tap0".into(),
    };
    assert!(problem.to_string().contains("'tap0'"));
    assert_eq!(plan.problems, [problem]);
    let owners: Vec<Owner> = plan.groups.iter().map(|group| group.owner).collect();
    assert_eq!(owners, [Owner::Instance(1)]);
}

#[test]
fn a_renamed_tap_is_named_and_left_alone() {
    let host = host();
    let mut wanted = wanted(&[(0, 0, true)]);
    converge(&wanted, &host);
    host.state().observed.links.get_mut(&65_536).unwrap().name = "mine".into();
    let plan = plan_of(&wanted, &host);
    assert!(plan.is_empty(), "{:?}", texts(&plan));
    assert_eq!(
        plan.problems[0].to_string(),
        "TAP 'tap0' was renamed to 'mine': rename it back"
    );
    // What its programs know of it follows all the same: they judge what it sends.
    let interfaces = wanted.interfaces.values_mut();
    interfaces.for_each(|one| one.record.policy_flags = policy_flag::DENY_ALL);
    let plan = plan_of(&wanted, &host);
    assert_eq!(
        texts(&plan),
        ["write interface record 0 (device 65536, generation 1)"]
    );
}

#[test]
fn what_denies_comes_before_everything_that_may_fail() {
    let host = host();
    let mut wanted = wanted(&[(0, 0, true), (1, 0, true)]);
    converge(&wanted, &host);
    for one in wanted.interfaces.values_mut() {
        one.record.instance = 0;
        one.record.policy_flags = policy_flag::DENY_ALL;
        one.drop_all = true;
        one.tap.mtu = 1_400;
    }
    let texts = texts(&plan_of(&wanted, &host));
    let first = |text: &str| texts.iter().position(|step| step.starts_with(text));
    let last = |text: &str| texts.iter().rposition(|step| step.starts_with(text));
    assert!(
        last("write interface record") < first("mend TAP"),
        "{texts:?}"
    );
    assert!(last("mend TAP") < first("attach drop_all"), "{texts:?}");
}
