//! What all interfaces share: programs, port ranges and uplinks.

use netagent_common::policy::policy_flag::DENY_ALL;

use super::*;

#[test]
fn programs_of_another_build_are_replaced_and_nothing_else_is_touched() {
    let host = host();
    let wanted = wanted(&[(0, 0, true)]);
    apply(&plan_of(&wanted, &host), &host);
    host.state().observed.datapath.as_mut().unwrap().stale = true;
    let plan = plan_of(&wanted, &host);
    assert_eq!(plan.steps().collect::<Vec<_>>(), [&Step::LoadDatapath]);
    apply(&plan, &host);
    assert!(plan_of(&wanted, &host).is_empty());
}

#[test]
fn an_empty_host_gets_a_datapath() {
    check(&[], |_| {}, &[]);
    let plan = plan_of(&wanted(&[]), &host());
    let steps = texts(&plan);
    assert_eq!(steps[0], "reserve ports 16384-29999 for guests");
    assert_eq!(steps[1], "load the programs and make their maps");
    assert_eq!(steps[2], "attach from_uplink to eth0 (2)");
}

#[test]
fn p7_ports_of_the_host_are_opened_and_what_is_closed_is_closed_first_and_before_instances() {
    let host = host();
    let with = |entries: &[&str]| {
        let mut wanted = wanted(&[(0, 0, true)]);
        let ports = entries.iter().map(|entry| (*entry).into());
        wanted.datapath.host_ports = ports
            .map(|entry| ExposedPort::parse(&entry).unwrap())
            .collect();
        wanted
    };
    converge(&with(&["8080", "53/udp"]), &host);
    let changed = with(&["53", "8080"]);
    let plan = plan_of(&changed, &host);
    let expected = [
        "close port 53/udp of the host to guests",
        "open port 53/tcp of the host to guests",
    ];
    assert_eq!(texts(&plan), expected);
    let empty = plan_of(&changed, &crate::host::fake::host());
    let position = |text: &str| texts(&empty).iter().position(|one| one.starts_with(text));
    assert!(position("open port 8080/tcp") < position("write interface record"));
    converge(&changed, &host);
    converge(&wanted(&[(0, 0, true)]), &host);
    let observed = &host.state().observed;
    let datapath = observed.datapath.as_ref().unwrap();
    assert!(datapath.host_ports.is_empty());
}

#[test]
fn ports_are_reserved_beside_others_and_an_earlier_range_goes() {
    let list = |text: &str| ports::parse_list(text);
    let reserved = |host: &FakeHost| {
        let reserved = host.state().observed.reserved_ports.clone();
        (
            ports::print_list(&reserved.all),
            ports::print_list(&reserved.own),
        )
    };
    let host = host();
    host.state().observed.reserved_ports.all = list("80,20000-30000");
    converge(&wanted(&[]), &host);
    let text = |all: &str, own: &str| (all.to_owned(), own.to_owned());
    let both = text("80-80,16384-30000", "16384-19999");
    assert_eq!(reserved(&host), both);

    let mut other = wanted(&[]);
    other.datapath.ports = PortRange {
        first: 10_000,
        last: 10_999,
    };
    converge(&other, &host);
    let other = text("80-80,10000-10999,20000-30000", "10000-10999");
    assert_eq!(reserved(&host), other);

    // Somebody takes them out.
    host.state().observed.reserved_ports = ReservedPorts::default();
    converge(&wanted(&[]), &host);
    assert_eq!(reserved(&host), text("16384-29999", "16384-29999"));
}

#[test]
fn an_uplink_that_is_none_any_more_is_detached() {
    let host = host();
    converge(&wanted(&[]), &host);
    let mut other = wanted(&[]);
    other.datapath.uplinks = [3].into();
    let steps = texts(&plan_of(&other, &host));
    assert_eq!(steps[0], "attach from_uplink to docker0 (3)");
    assert_eq!(
        steps[steps.len() - 2..],
        [
            "let flows look up their way again",
            "detach from_uplink from device 2"
        ]
    );
    let routes = &steps[1..steps.len() - 2];
    assert!(!routes.is_empty() && routes.iter().all(|step| step.contains("route ")));
    other.datapath.missing_uplinks = ["eth9".to_owned()].into();
    let plan = plan_of(&other, &host);
    let name = "eth9".to_owned();
    assert_eq!(plan.problems, [Problem::UplinkGone { name }]);
    assert_eq!(plan.problems[0].owner(), Owner::Host);
}

#[test]
fn several_uplinks_are_attached_before_the_first_route_through_any() {
    let host = host();
    let mut both = wanted(&[]);
    both.datapath.uplinks.insert(3);
    let steps = texts(&plan_of(&both, &host));
    let place = |text: &str| {
        steps
            .iter()
            .position(|step| step.starts_with(text))
            .unwrap()
    };
    let first_route = place("route ");
    assert!(
        place("attach from_uplink to eth0") < first_route,
        "{steps:?}"
    );
    assert!(
        place("attach from_uplink to docker0") < first_route,
        "{steps:?}"
    );
}

#[test]
fn while_the_host_is_blocked_what_runs_is_closed_further_and_nothing_opens() {
    let host = host();
    converge(&wanted(&[(0, 0, true), (1, 0, true)]), &host);
    let mut after = wanted(&[(0, 0, true), (1, 0, true), (2, 0, true)]);
    for interface in after.interfaces.values_mut() {
        interface.record.policy_flags = DENY_ALL;
    }
    let mut state = host.state();
    // Somebody took the programs off the uplink and off a TAP.
    let datapath = state.observed.datapath.as_mut().unwrap();
    let first = vm::ifindex(0, 0);
    datapath
        .attached
        .retain(|ifindex| ![UPLINK, first].contains(ifindex));
    state.applied.clear();
    state.refuse = Some("attach from_uplink");
    drop(state);
    apply(&plan_of(&after, &host), &host);
    let record = |slot: u32| {
        let (ifindex, generation) = (vm::ifindex(slot, 0), 1);
        format!("write interface record {slot} (device {ifindex}, generation {generation})")
    };
    let applied: Vec<String> = host
        .state()
        .applied
        .iter()
        .map(ToString::to_string)
        .collect();
    let down = format!("set device {first} down");
    assert_eq!(applied, [down, record(0), record(1), record(2)]);
    host.state().refuse = None;
    converge(&after, &host);
}

#[test]
fn where_no_datapath_can_be_loaded_no_tap_is_touched() {
    let host = host();
    let wanted = wanted(&[(0, 0, true)]);
    converge(&wanted, &host);
    let mut state = host.state();
    // As an agent of another version finds it.
    state.observed.datapath = None;
    state.refuse = Some("load the programs");
    drop(state);
    let plan = plan_of(&wanted, &host);
    let downs = plan
        .steps()
        .filter(|step| matches!(step, Step::SetLinkDown { .. }));
    assert_eq!(downs.count(), 1);
    apply(&plan, &host);
    assert!(host.state().observed.links[&vm::ifindex(0, 0)].up);
}
