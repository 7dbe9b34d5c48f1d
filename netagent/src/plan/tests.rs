mod datapath;
mod drop_all;
mod lent;
mod mend;
mod policies;
mod publish;
mod relay;
mod snat;
mod taps;

use std::collections::{BTreeMap, BTreeSet};

use netagent_common::vm;
use uuid::Uuid;

use super::*;
use crate::config::ports;
use crate::host::fake::{FakeHost, UPLINK, host};
use crate::spec::publish::PortProtocol;

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
        drop_all: false,
        leg: None,
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
            open: BTreeSet::new(),
            host_ports: BTreeSet::new(),
        },
        interfaces: interfaces
            .iter()
            .map(|(slot, uses, v6)| interface(*slot, *uses, *v6))
            .collect(),
        ports: BTreeMap::new(),
        policies: BTreeMap::new(),
        lent: Lent::new(),
    }
}

fn plan_of(wanted: &Wanted, host: &FakeHost) -> Plan {
    plan(wanted, &host.state().observed)
}

/// Applies as the agent does: a fault ends the group, and after one of the host's part instances go on without it.
fn apply(plan: &Plan, host: &FakeHost) {
    let is_loaded = host.state().observed.datapath.is_some();
    let mut blocked = false;
    for group in plan.groups.clone() {
        let group = match group.owner {
            Owner::Instance(_) if blocked && !is_loaded => continue,
            Owner::Instance(_) if blocked => group.without_host(),
            Owner::Instance(_) | Owner::Host | Owner::Leftover | Owner::Unnamed => group,
        };
        let failed = group.steps.iter().any(|step| host.apply_now(step).is_err());
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

fn host_port_steps() -> [Step; 2] {
    let protocol = PortProtocol::Tcp;
    let port = ExposedPort { port: 80, protocol };
    [Step::OpenHostPort { port }, Step::CloseHostPort { port }]
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
        Step::AttachDropAll {
            ifindex,
            name: "tap0".into(),
        },
        Step::DetachDropAll { ifindex },
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
        Step::WritePolicy {
            policy: policies::policy(1),
        },
        Step::RemovePolicy { id: [1; 16] },
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
    let steps = [&steps[..], &host_port_steps()].concat();
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
