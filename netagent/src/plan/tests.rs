use std::collections::{BTreeMap, BTreeSet};

use netagent_common::vm;
use uuid::Uuid;

use super::*;
use crate::config::ports;
use crate::host::fake::{FakeHost, UPLINK, host};
use crate::instance::Before;

const STORE: Uuid = Uuid::from_u128(7);

fn interface(slot: u32, uses: u32, v6: bool) -> (Uuid, WantedInterface) {
    let id = Uuid::from_u128(u128::from(slot) + 100);
    let ifindex = vm::ifindex(slot, uses);
    let record = Interface {
        ifindex,
        slot,
        generation: uses + 1,
        instance: slot,
        guest_mac: [0xaa, 0xfc, 0, 0, 0, slot as u8 + 1],
        ..bytemuck::Zeroable::zeroed()
    };
    let tap = TapSpec {
        name: format!("tap{slot}"),
        ifindex,
        owner: None,
        group: None,
        queues: 1,
        mtu: 1500,
        v6,
        alias: format!("{}{id}", alias_prefix(STORE)),
        lent: false,
    };
    let third = (slot * 4) as u8;
    let wanted = WantedInterface {
        tap,
        record,
        host_v4: Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, third + 1), 30),
        guest_v4: Ipv4Addr::new(172, 16, 0, third + 2),
        guest_v6: v6.then(|| Ipv6Addr::new(0xfd00, 0, 0, slot as u16, 0, 0, 0, 2)),
    };
    (id, wanted)
}

fn wanted(interfaces: &[(u32, u32, bool)]) -> Wanted {
    Wanted {
        store_id: STORE,
        datapath: WantedDatapath {
            uplinks: [UPLINK].into(),
            missing_uplinks: BTreeSet::new(),
            ports: PortRange::default(),
            pools: vec![
                "172.16.0.0/16".parse().unwrap(),
                "fd00::/48".parse().unwrap(),
            ],
            always_denied: routes::always_denied(),
        },
        interfaces: interfaces
            .iter()
            .map(|(slot, uses, v6)| interface(*slot, *uses, *v6))
            .collect(),
        ports: BTreeMap::new(),
        lent: Lent::new(),
    }
}

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

fn plan_of(wanted: &Wanted, host: &FakeHost) -> Plan {
    plan(wanted, &host.state().observed)
}

/// Applies as the agent does: a fault ends the group, one of the host's part ends all instances.
fn apply(plan: &Plan, host: &FakeHost) {
    let mut blocked = false;
    for group in &plan.groups {
        let skipped = blocked && matches!(group.owner, Owner::Instance(_));
        let failed = !skipped && group.steps.iter().any(|step| host.apply_now(step).is_err());
        blocked |= failed && group.owner == Owner::Host;
    }
}

fn converge(wanted: &Wanted, host: &FakeHost) {
    apply(&plan_of(wanted, host), host);
    let rest = plan_of(wanted, host);
    assert!(
        rest.is_empty(),
        "the next plan is not empty: {:#?}",
        texts(&rest)
    );
}

fn texts(plan: &Plan) -> Vec<String> {
    plan.steps().map(Step::to_string).collect()
}

/// From a host prepared by `before`, every fault on the way to `after` is survived, and the next plan is empty.
fn check(before: &[(u32, u32, bool)], disturb: impl Fn(&FakeHost), after: &[(u32, u32, bool)]) {
    let prepare = || {
        let host = host();
        converge(&wanted(before), &host);
        disturb(&host);
        host
    };
    let after = wanted(after);
    let host = prepare();
    let count = plan_of(&after, &host).steps().count();
    converge(&after, &host);
    for fault in 0..count {
        let host = prepare();
        host.state().until_fault = Some(fault);
        apply(&plan_of(&after, &host), &host);
        host.state().until_fault = None;
        converge(&after, &host);
    }
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
fn what_others_changed_is_mended() {
    let tap = vm::ifindex(0, 0);
    let one = [(0, 0, true)];
    let edit =
        |change: fn(&mut Observed)| move |host: &FakeHost| change(&mut host.state().observed);
    check(
        &one,
        edit(|host| host.links.get_mut(&65_536).unwrap().mtu = 9000),
        &one,
    );
    check(
        &one,
        edit(|host| host.links.get_mut(&65_536).unwrap().hardened = false),
        &one,
    );
    check(
        &one,
        edit(|host| host.links.get_mut(&65_536).unwrap().addresses.clear()),
        &one,
    );
    check(&one, edit(|host| host.neighbours.clear()), &one);
    check(
        &one,
        edit(|host| host.links.get_mut(&65_536).unwrap().up = false),
        &one,
    );
    check(
        &one,
        edit(|host| host.datapath.as_mut().unwrap().interfaces.clear()),
        &one,
    );
    check(
        &one,
        edit(|host| host.datapath.as_mut().unwrap().routes.clear()),
        &one,
    );
    check(
        &one,
        edit(|host| host.datapath.as_mut().unwrap().severed.extend(["a".into()])),
        &one,
    );
    check(
        &one,
        edit(|host| host.routes.retain(|route| route.ifindex != 65_536)),
        &one,
    );
    check(
        &one,
        edit(|host| host.links.retain(|index, _| *index != 65_536)),
        &one,
    );
    assert_eq!(tap, 65_536);
}

#[test]
fn sysctls_that_others_wrote_are_mended_and_nothing_else() {
    let host = host();
    let wanted = wanted(&[(0, 0, true)]);
    converge(&wanted, &host);
    host.state()
        .observed
        .links
        .get_mut(&65_536)
        .unwrap()
        .hardened = false;
    assert_eq!(
        texts(&plan_of(&wanted, &host)),
        ["mend TAP tap0 (MTU 1500)"]
    );
}

#[test]
fn ipv6_that_others_switched_off_is_switched_on_before_its_address() {
    let host = host();
    let wanted = wanted(&[(0, 0, true)]);
    converge(&wanted, &host);
    let v4_only = |address: &IpNet| address.addr().is_ipv4();
    let mut state = host.state();
    let link = state.observed.links.get_mut(&65_536).unwrap();
    link.addresses.retain(v4_only);
    drop(state);
    assert_eq!(
        texts(&plan_of(&wanted, &host)),
        [
            "mend TAP tap0 (MTU 1500)",
            "add address fe80::1/64 to device 65536"
        ]
    );
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
    let wanted = wanted(&[(0, 0, true)]);
    converge(&wanted, &host);
    host.state().observed.links.get_mut(&65_536).unwrap().name = "mine".into();
    let plan = plan_of(&wanted, &host);
    assert!(plan.is_empty(), "{:?}", texts(&plan));
    assert_eq!(
        plan.problems[0].to_string(),
        "TAP 'tap0' was renamed to 'mine': rename it back"
    );
}

#[test]
fn the_plan_of_one_instance_touches_no_other() {
    let host = host();
    converge(&wanted(&[(0, 0, true)]), &host);
    let observed = host.state().observed.clone();
    let start = plan_start(&wanted(&[(1, 0, true)]), &observed);
    assert!(
        start
            .groups
            .iter()
            .all(|group| group.owner == Owner::Instance(1))
    );
    apply(&start, &host);
    let (_, second) = interface(1, 0, true);
    let observed = host.state().observed.clone();
    let stop = plan_stop(
        &[second.tap.alias].into(),
        &[1].into(),
        &Lent::new(),
        &observed,
    );
    apply(&stop, &host);
    assert!(plan_of(&wanted(&[(0, 0, true)]), &host).is_empty());
    let restart = plan_start(&wanted(&[(0, 1, true)]), &observed);
    assert_eq!(restart.groups[0].owner, Owner::Leftover);
}

#[test]
fn every_step_says_something_else() {
    let (_, interface) = interface(0, 0, true);
    let tap = interface.tap.clone();
    let ifindex = 5;
    let destination = "10.0.0.0/8".parse().unwrap();
    let address = "10.0.0.1".parse().unwrap();
    let target = routes::always_denied_target();
    let steps = [
        Step::LoadDatapath,
        Step::AttachUplink {
            ifindex,
            name: "eth0".into(),
        },
        Step::DetachUplink { ifindex },
        Step::SetRoute {
            destination,
            target,
        },
        Step::RemoveRoute { destination },
        Step::RaiseRouteGeneration,
        Step::WriteInterface {
            record: Box::new(interface.record),
        },
        Step::CreateTap { tap: tap.clone() },
        Step::ConfigureTap { tap },
        Step::AttachTap {
            ifindex,
            name: "tap0".into(),
        },
        Step::AddAddress {
            ifindex,
            address: destination,
        },
        Step::AddNeighbour {
            neighbour: Neighbour {
                ifindex,
                address,
                mac: [0; 6],
            },
        },
        Step::SetLinkUp { ifindex },
        Step::AddGuestRoute {
            ifindex,
            guest: address,
        },
        Step::SetLinkDown { ifindex },
        Step::ClearInterface { slot: 1 },
        Step::DetachTap { ifindex },
        Step::RemoveLink {
            ifindex,
            name: "tap0".into(),
            alias: String::new(),
        },
        Step::RemoveSeveredPin { name: "a".into() },
        Step::CollectFlows,
        Step::UnloadDatapath,
    ];
    let texts: BTreeSet<String> = steps.iter().map(Step::to_string).collect();
    assert_eq!(texts.len(), steps.len());
    assert!(texts.iter().all(|text| !text.contains('\n')));
}

#[test]
fn the_same_input_gives_the_same_plan() {
    let order = [(0, 0, true), (1, 0, false), (2, 0, true)];
    let wanted = wanted(&order);
    let host = host();
    assert_eq!(plan_of(&wanted, &host), plan_of(&wanted, &host));
    let owners: BTreeMap<Owner, usize> = plan_of(&wanted, &host)
        .groups
        .iter()
        .map(|group| (group.owner, 1))
        .collect();
    assert_eq!(owners.len(), 4);
}

mod publish;
mod snat;
