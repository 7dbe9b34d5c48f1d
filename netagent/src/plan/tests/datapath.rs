//! What all interfaces share: programs, port ranges and uplinks.

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
