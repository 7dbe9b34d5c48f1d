use super::*;
use crate::plan::publish::{Exposure, Ports, PublishedAt, PublishedTo, Sender};
use crate::spec::publish::{ExposedPort, PortProtocol};

fn at(address: &str, port: u16) -> PublishedAt {
    PublishedAt {
        address: address.parse().unwrap(),
        port,
        protocol: PortProtocol::Tcp,
    }
}

fn to(id: u32, slot: u32, generation: u32, limited: bool) -> PublishedTo {
    PublishedTo {
        id,
        slot,
        generation,
        guest: [172, 16, 0, slot as u8 * 4 + 2].into(),
        guest_port: 80,
        limited,
    }
}

fn exposure(instance: u32, port: u16) -> Exposure {
    let protocol = PortProtocol::Tcp;
    Exposure {
        instance,
        port: ExposedPort { port, protocol },
    }
}

fn sender(id: u32, network: &str) -> Sender {
    let network = network.parse().unwrap();
    Sender { id, network }
}

/// A running interface in each of the slots, with a policy generation, and the ports of their instances.
fn publishing(slots: &[(u32, u32, u32)], ports: &[(u32, Ports)]) -> Wanted {
    let interfaces: Vec<_> = slots
        .iter()
        .map(|(slot, uses, _)| (*slot, *uses, false))
        .collect();
    let mut wanted = wanted(&interfaces);
    for interface in wanted.interfaces.values_mut() {
        let of_slot = |(slot, _, _): &&(u32, u32, u32)| *slot == interface.record.slot;
        interface.record.policy_generation = slots.iter().find(of_slot).unwrap().2;
    }
    wanted.ports = ports.iter().cloned().collect();
    wanted
}

fn ports(published: &[(PublishedAt, PublishedTo)], senders: &[Sender], exposed: &[u16]) -> Ports {
    let slot = published.first().map_or(0, |(_, to)| to.slot);
    let generation = published.first().map_or(1, |(_, to)| to.generation);
    Ports {
        published: published.iter().copied().collect(),
        senders: senders.iter().copied().collect(),
        exposed: exposed
            .iter()
            .map(|port| (exposure(slot, *port), generation))
            .collect(),
    }
}

/// Publishes for some, exposes one, and has a second port for everybody.
fn one() -> Wanted {
    let published = [
        (at("0.0.0.0", 8080), to(1, 0, 1, true)),
        (at("0.0.0.0", 9090), to(2, 0, 1, false)),
    ];
    let senders = [sender(1, "10.0.0.0/8"), sender(1, "192.0.2.1/32")];
    publishing(&[(0, 0, 1)], &[(0, ports(&published, &senders, &[80]))])
}

/// The steps of a plan for `after` on a host that has what `before` wants. Every fault among them is survived, at no
/// time more is open than before or after, and the next plan is empty.
fn check(before: &Wanted, after: &Wanted) -> Vec<String> {
    let prepare = || {
        let host = host();
        converge(before, &host);
        host
    };
    let host = prepare();
    let steps = texts(&plan_of(after, &host));
    converge(after, &host);
    let expected: Vec<Ports> = after.ports.values().cloned().collect();
    let there = host.state().observed.datapath.clone().unwrap().ports;
    let published: usize = expected.iter().map(|one| one.published.len()).sum();
    let senders: usize = expected.iter().map(|one| one.senders.len()).sum();
    assert_eq!(
        (there.published.len(), there.senders.len()),
        (published, senders)
    );
    for fault in 0..steps.len() {
        let host = prepare();
        host.state().until_fault = Some(fault);
        apply(&plan_of(after, &host), &host);
        check_not_more(&host, before, after);
        host.state().until_fault = None;
        converge(after, &host);
    }
    steps
}

/// Every port leads where it led or will lead, and a limited one has no sender that it has neither before nor after.
fn check_not_more(host: &FakeHost, before: &Wanted, after: &Wanted) {
    let there = host.state().observed.datapath.clone().unwrap().ports;
    let known = |is: &dyn Fn(&Ports) -> bool| {
        let mut all = before.ports.values().chain(after.ports.values());
        all.any(is)
    };
    for (at, to) in &there.published {
        assert!(known(&|ports| ports.published.get(at) == Some(to)), "{at}");
        // Whoever will be allowed is so before the port leads there: no sender finds it closed in between.
        let wanted = after.ports.values();
        let new = wanted
            .clone()
            .any(|ports| ports.published.get(at) == Some(to));
        for sender in wanted.flat_map(|ports| &ports.senders) {
            let of_it = sender.id == to.id && new;
            assert!(!of_it || there.senders.contains(sender), "{at} {sender:?}");
        }
    }
    for sender in &there.senders {
        assert!(known(&|ports| ports.senders.contains(sender)), "{sender:?}");
    }
    for exposure in there.exposed.keys() {
        assert!(
            known(&|ports| ports.exposed.contains_key(exposure)),
            "{exposure}"
        );
    }
}

#[test]
fn ports_are_there_before_their_interface_and_senders_before_their_port() {
    let steps = check(&wanted(&[]), &one());
    assert_eq!(
        steps[..6],
        [
            "let 10.0.0.0/8 use publication 1",
            "let 192.0.2.1/32 use publication 1",
            "publish 0.0.0.0:8080/tcp to 172.16.0.2:80 for its senders (publication 1)",
            "publish 0.0.0.0:9090/tcp to 172.16.0.2:80 for all (publication 2)",
            "expose port 80/tcp of instance 0",
            "write interface record 0 (device 65536, generation 1)",
        ]
    );
}

#[test]
fn p9_a_change_takes_back_first_and_raises_the_generation_last() {
    let published = [
        (at("0.0.0.0", 8080), to(3, 0, 1, true)),
        (at("0.0.0.0", 7070), to(4, 0, 1, false)),
    ];
    let senders = [sender(3, "192.0.2.0/24")];
    let after = publishing(&[(0, 0, 2)], &[(0, ports(&published, &senders, &[81]))]);
    assert_eq!(
        check(&one(), &after),
        [
            "publish 0.0.0.0:9090/tcp no longer",
            "expose port 80/tcp of instance 0 no longer",
            "let 192.0.2.0/24 use publication 3",
            "publish 0.0.0.0:7070/tcp to 172.16.0.2:80 for all (publication 4)",
            "publish 0.0.0.0:8080/tcp to 172.16.0.2:80 for its senders (publication 3)",
            "expose port 81/tcp of instance 0",
            "let 10.0.0.0/8 use publication 1 no longer",
            "let 192.0.2.1/32 use publication 1 no longer",
            "write interface record 0 (device 65536, generation 1)",
        ]
    );
}

#[test]
fn what_stays_is_not_touched() {
    let mut after = one();
    let ports = after.ports.get_mut(&0).unwrap();
    ports.published.remove(&at("0.0.0.0", 9090));
    for interface in after.interfaces.values_mut() {
        interface.record.policy_generation = 2;
    }
    assert_eq!(
        check(&one(), &after),
        [
            "publish 0.0.0.0:9090/tcp no longer",
            "write interface record 0 (device 65536, generation 1)",
        ]
    );
}

#[test]
fn a_port_goes_from_one_instance_to_another() {
    let first = [(at("0.0.0.0", 8080), to(1, 0, 1, true))];
    let second = [(at("0.0.0.0", 8080), to(2, 1, 1, false))];
    let senders = [sender(1, "10.0.0.0/8")];
    let before = publishing(
        &[(0, 0, 1), (1, 0, 1)],
        &[(0, ports(&first, &senders, &[]))],
    );
    let after = publishing(&[(0, 0, 2), (1, 0, 2)], &[(1, ports(&second, &[], &[]))]);
    assert_eq!(
        check(&before, &after),
        [
            "let 10.0.0.0/8 use publication 1 no longer",
            "write interface record 0 (device 65536, generation 1)",
            "publish 0.0.0.0:8080/tcp to 172.16.0.6:80 for all (publication 2)",
            "write interface record 1 (device 65537, generation 1)",
        ]
    );
}

#[test]
fn ports_go_with_their_instance() {
    let steps = check(&one(), &wanted(&[]));
    assert_eq!(
        steps[..6],
        [
            "publish 0.0.0.0:8080/tcp no longer",
            "publish 0.0.0.0:9090/tcp no longer",
            "expose port 80/tcp of instance 0 no longer",
            "let 10.0.0.0/8 use publication 1 no longer",
            "let 192.0.2.1/32 use publication 1 no longer",
            "set device 65536 down",
        ]
    );
    // So they do where that instance alone is looked at.
    let host = host();
    converge(&one(), &host);
    let aliases: BTreeSet<String> = one()
        .interfaces
        .values()
        .map(|one| one.tap.alias.clone())
        .collect();
    let observed = host.state().observed.clone();
    let stop = plan_stop(&aliases, &[0].into(), &Lent::new(), &observed);
    assert_eq!(texts(&stop), steps);
}

#[test]
fn a_restart_leads_the_ports_to_the_new_life() {
    let published = [
        (at("0.0.0.0", 8080), to(1, 0, 2, true)),
        (at("0.0.0.0", 9090), to(2, 0, 2, false)),
    ];
    let senders = [sender(1, "10.0.0.0/8"), sender(1, "192.0.2.1/32")];
    let after = publishing(&[(0, 1, 1)], &[(0, ports(&published, &senders, &[80]))]);
    let steps = check(&one(), &after);
    let of_ports = steps
        .iter()
        .filter(|step| step.starts_with("publish") || step.starts_with("expose"));
    assert_eq!(of_ports.count(), 3, "{steps:#?}");
}

#[test]
fn what_belongs_to_nobody_goes_and_what_others_removed_comes_back() {
    let host = host();
    converge(&one(), &host);
    {
        let mut state = host.state();
        let ports = &mut state.observed.datapath.as_mut().unwrap().ports;
        ports.published.insert(at("0.0.0.0", 1), to(9, 7, 1, true));
        ports.published.remove(&at("0.0.0.0", 8080));
        ports.senders.insert(sender(9, "10.0.0.0/8"));
        ports.senders.insert(sender(77, "10.0.0.0/8"));
        ports.senders.remove(&sender(1, "10.0.0.0/8"));
        ports.exposed.insert(exposure(7, 1), 1);
    }
    assert_eq!(
        texts(&plan_of(&one(), &host)),
        [
            "publish 0.0.0.0:1/tcp no longer",
            "expose port 1/tcp of instance 7 no longer",
            "let 10.0.0.0/8 use publication 9 no longer",
            "let 10.0.0.0/8 use publication 77 no longer",
            "let 10.0.0.0/8 use publication 1",
            "publish 0.0.0.0:8080/tcp to 172.16.0.2:80 for its senders (publication 1)",
        ]
    );
    converge(&one(), &host);
}

#[test]
fn one_instances_start_touches_no_other_instances_ports() {
    let host = host();
    converge(&one(), &host);
    let other = [(
        at("::", 8081),
        PublishedTo {
            guest: "fd00::6".parse().unwrap(),
            ..to(5, 1, 1, false)
        },
    )];
    let started = publishing(&[(1, 0, 1)], &[(1, ports(&other, &[], &[]))]);
    let observed = host.state().observed.clone();
    let steps = texts(&plan_start(&started, &observed));
    assert_eq!(
        steps[0],
        "publish [::]:8081/tcp to [fd00::6]:80 for all (publication 5)"
    );
    assert!(
        !steps.iter().any(|step| step.contains("no longer")),
        "{steps:#?}"
    );
}
