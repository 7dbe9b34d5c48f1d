//! Under a list of names: DNS is steered to the resolver whomever it asks (D-2), and what the resolver learned is open
//! (D-4).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use netagent_common::drop::DropReason;
use netagent_common::learned::{Learned, LearnedKey};
use netagent_common::names::{COLLECT_FLOWS, map};
use netagent_common::net::{protocol, tcp_flag};
use netagent_common::policy::{RouteKind, Verdict, policy_flag};
use netagent_common::services::{Client, Place, REMEMBERED_FIRST, SERVERS};
use netagent_common::vm::Interface;
use netagent_tests::deadline::{SOON, wait_until};
use netagent_tests::fragment;
use netagent_tests::packet::{self, Ends, Packet};
use netagent_tests::prog_run::verdict;
use netagent_tests::published::{Publication, publish};
use netagent_tests::scene::{self, GENERATION, HOST_V4, REMOTE_V4, SLOT, Scene, to};

use crate::drops::{Case, Maps, REMOTES};
use crate::policy::{answer, assert_refused, counted, id_of, put, segment, sent, set};
use crate::services::{QUESTIONS, server};

/// Servers in every kind of place.
const PLACES: [&str; 10] = [
    "203.0.113.53",
    "169.254.169.254",
    "198.51.100.2",
    "172.16.9.2",
    "10.9.0.1",
    "127.0.0.53",
    "2001:db8:200::53",
    "fd00:ec2::254",
    "fe80::53",
    "::1",
];

/// A list of names is in force, and this of the world and the rest.
fn listed(scene: &mut Scene, generation: u32, verdicts: (Verdict, Verdict), flags: u32) {
    put(scene, generation, verdicts);
    set(scene, generation, |record| {
        (record.policy, record.policy_flags) = (id_of(generation), policy_flag::NAMES | flags);
    });
}

const NOTHING: (Verdict, Verdict) = (Verdict::NotAllowed, Verdict::NotAllowed);

fn names_only() -> Scene {
    let mut scene = Scene::usual();
    listed(&mut scene, 1, NOTHING, 0);
    scene
}

fn places() -> impl Iterator<Item = IpAddr> {
    PLACES.into_iter().map(|place| place.parse().unwrap())
}

/// What the servers got of a question, which is answered; gives the number of the asked server.
fn ask(scene: &mut Scene, build: crate::nat::Build, asked: IpAddr) -> u8 {
    let question = build(&to(asked), (4_000, 53), b"whose address?");
    let outcome = scene.from_vm(&question);
    assert_eq!(outcome.verdict, verdict::REDIRECT, "{asked}");
    packet::assert_checksums(&outcome.bytes);
    let seen = Packet::parse(&outcome.bytes).unwrap();
    assert_eq!(seen.ends.dst, server(asked.is_ipv4()), "{asked}");
    let (client, number) = match seen.ends.src {
        IpAddr::V4(source) => {
            let client = Client::from_v4(source.octets()).unwrap();
            (client, client.place.0 >> Place::SERVER_SHIFT_V4)
        }
        IpAddr::V6(source) => {
            let (client, _) = Client::from_v6(source.octets()).unwrap();
            (client, client.place.0 >> Place::SERVER_SHIFT_V6)
        }
    };
    assert_eq!(client.slot, SLOT);
    let reply = build(&seen.ends.reversed(), (53, 4_000), b"this one");
    let delivered = scene.from_services(&reply);
    assert_eq!(delivered.verdict, verdict::REDIRECT, "{asked}");
    packet::assert_checksums(&delivered.bytes);
    let delivered = Packet::parse(&delivered.bytes).unwrap();
    assert_eq!(delivered.ends.src, asked);
    assert_eq!(delivered.ends.dst, to(asked).src);
    assert_eq!(delivered.ports, (53, 4_000));
    number & Place::SERVER
}

#[test]
fn d2_a_question_to_any_address_is_the_resolvers_and_the_answer_comes_from_there() {
    let mut scene = names_only();
    for asked in places() {
        for build in QUESTIONS {
            ask(&mut scene, build, asked);
        }
    }
    assert_eq!(scene.open_flows(), 0);
    assert!(scene.datapath.drops().is_empty());
}

#[test]
fn d2_a_gateway_has_its_own_number_under_a_list_too() {
    let mut scene = names_only();
    for gateway in [
        IpAddr::V4(scene::GATEWAY_V4),
        IpAddr::V6(scene::gateway_v6()),
    ] {
        assert_eq!(ask(&mut scene, packet::udp, gateway), 0);
    }
}

#[test]
fn as_many_servers_are_remembered_as_there_are_numbers_and_the_first_makes_room() {
    for is_v4 in [true, false] {
        let mut scene = names_only();
        let asked = |index: u8| -> IpAddr {
            if is_v4 {
                Ipv4Addr::new(203, 0, 113, index).into()
            } else {
                format!("2001:db8:200::{index:x}").parse().unwrap()
            }
        };
        let fitting = SERVERS as u8 - REMEMBERED_FIRST;
        let numbers: BTreeSet<u8> = (0..fitting)
            .map(|index| ask(&mut scene, packet::udp, asked(index)))
            .collect();
        assert_eq!(numbers.len(), usize::from(fitting));
        let first = ask(&mut scene, packet::udp, asked(0));
        let last = ask(&mut scene, packet::udp, asked(fitting - 1));
        assert_ne!(first, last, "both are remembered");
        assert_eq!(ask(&mut scene, packet::udp, asked(fitting)), first);
        assert_eq!(ask(&mut scene, packet::udp, asked(fitting - 1)), last);
        assert_ne!(ask(&mut scene, packet::udp, asked(0)), first);
    }
}

#[test]
fn without_a_list_of_names_another_server_is_an_address_like_any_other() {
    for flags in [0, policy_flag::AUDIT] {
        let mut scene = Scene::usual();
        put(&mut scene, 1, (Verdict::Allowed, Verdict::NotAllowed));
        set(&mut scene, 1, |record| {
            (record.policy, record.policy_flags) = (id_of(1), flags);
        });
        for remote in REMOTES {
            let outcome = scene.from_vm(&packet::udp(&to(remote), (4_000, 53), b"query"));
            let left = Packet::parse(&outcome.bytes).unwrap();
            assert_eq!(left.ends.dst, remote);
        }
        assert_eq!(scene.open_flows(), 2);
    }
}

#[test]
fn dns_past_the_resolver_is_refused_also_where_the_address_is_allowed() {
    let mut scene = Scene::usual();
    listed(&mut scene, 1, (Verdict::Allowed, Verdict::Allowed), 0);
    let reason = DropReason::DnsBypass;
    for remote in REMOTES {
        for port in [853, 8_853, 5_353, 5_355] {
            let datagram = packet::udp(&to(remote), (4_000, port), b"query");
            assert_refused(&mut scene, reason, &datagram);
            let syn = segment(&to(remote), (4_000, port), tcp_flag::SYN);
            assert_refused(&mut scene, reason, &syn);
        }
        let ping = packet::echo_request(&to(remote), (853, 1), b"no port");
        assert_eq!(scene.from_vm(&ping).verdict, verdict::REDIRECT);
        let near = packet::udp(&to(remote), (853, 854), b"another port");
        assert_eq!(scene.from_vm(&near).verdict, verdict::REDIRECT);
    }
}

#[test]
fn in_audit_mode_dns_past_the_resolver_is_counted_and_passes() {
    let mut scene = Scene::usual();
    let allowed = (Verdict::Allowed, Verdict::Allowed);
    listed(&mut scene, 1, allowed, policy_flag::AUDIT);
    let datagram = packet::udp(&to(REMOTE_V4), (4_000, 853), b"query");
    let left = Packet::parse(&scene.from_vm(&datagram).bytes).unwrap();
    assert_eq!(left.ends.dst, IpAddr::V4(REMOTE_V4));
    let audited = scene.datapath.audited();
    assert_eq!(audited.get(&(SLOT, DropReason::DnsBypass)), Some(&1));
}

/// Questions in fragments, in the table of drops.
pub(crate) fn bypass_cases() -> Vec<Case> {
    let flags = Maps::Names;
    let mut cases = Vec::new();
    for remote in REMOTES {
        let whole = packet::udp(&to(remote), (4_000, 53), &[7; 600]);
        let first = fragment::fragment(&whole, (0, 64), 7);
        cases.push(
            Case::from_vm(DropReason::DnsBypass, "first fragment of a question", first).with(flags),
        );
        for port in [853, 8_853, 5_353, 5_355] {
            let bytes = packet::udp(&to(remote), (4_000, port), b"query");
            cases.push(
                Case::from_vm(DropReason::DnsBypass, "another kind of DNS", bytes).with(flags),
            );
        }
    }
    cases
}

/// The state of the table of drops.
pub(crate) fn prepare(scene: &mut Scene) {
    listed(scene, 1, (Verdict::Allowed, Verdict::Allowed), 0);
}

fn learn(scene: &mut Scene, address: IpAddr, (instance, generation): (u32, u32)) {
    let learned = Learned {
        used_ns: 0,
        generation,
        reserved: 0,
    };
    match address {
        IpAddr::V4(address) => {
            let address = address.octets();
            let key = LearnedKey { instance, address };
            scene.datapath.insert(map::LEARNED_V4, key, learned);
        }
        IpAddr::V6(address) => {
            let address = address.octets();
            let key = LearnedKey { instance, address };
            scene.datapath.insert(map::LEARNED_V6, key, learned);
        }
    }
}

/// When flows were found with what was learned.
fn uses(scene: &mut Scene) -> Vec<u64> {
    let v4 = scene
        .datapath
        .entries::<LearnedKey<[u8; 4]>, Learned>(map::LEARNED_V4);
    let v6 = scene
        .datapath
        .entries::<LearnedKey<[u8; 16]>, Learned>(map::LEARNED_V6);
    let v4 = v4.into_iter().map(|(_, learned)| learned.used_ns);
    v4.chain(v6.into_iter().map(|(_, learned)| learned.used_ns))
        .collect()
}

#[test]
fn d4_what_a_name_led_to_is_open_to_its_instance_and_its_start_alone() {
    for remote in REMOTES {
        for number in [protocol::TCP, protocol::UDP, protocol::ICMP] {
            let bytes = other_port(number, &to(remote));
            let mut scene = names_only();
            assert_refused(&mut scene, DropReason::NotAllowed, &bytes);
            for (instance, generation) in [(SLOT + 1, GENERATION), (SLOT, GENERATION - 1)] {
                learn(&mut scene, remote, (instance, generation));
                assert_refused(&mut scene, DropReason::NotAllowed, &bytes);
            }
            learn(&mut scene, remote, (SLOT, GENERATION));
            assert_eq!(scene.from_vm(&bytes).verdict, verdict::REDIRECT);
            assert_eq!(scene.open_flows(), 1);
        }
    }
}

/// As [`sent`], to a port that is none of DNS.
fn other_port(number: u8, ends: &Ends) -> Vec<u8> {
    match number {
        protocol::TCP => segment(ends, (4_000, 443), tcp_flag::SYN),
        protocol::UDP => packet::udp(ends, (4_000, 443), b"datagram"),
        _ => packet::echo_request(ends, (4_000, 1), b"ping"),
    }
}

#[test]
fn p3_denied_networks_beat_what_was_learned() {
    for remote in REMOTES {
        let bytes = other_port(protocol::UDP, &to(remote));
        for (says, reason) in [
            (Verdict::Denied, DropReason::DeniedCidr),
            (Verdict::AlwaysDenied, DropReason::AlwaysDenied),
        ] {
            let mut scene = Scene::usual();
            listed(&mut scene, 1, (says, Verdict::NotAllowed), 0);
            learn(&mut scene, remote, (SLOT, GENERATION));
            assert_refused(&mut scene, reason, &bytes);
        }
    }
    let mut scene = names_only();
    learn(&mut scene, HOST_V4.into(), (SLOT, GENERATION));
    let to_host = other_port(protocol::UDP, &to(HOST_V4));
    let before = counted(&mut scene, DropReason::HostAddress);
    scene.from_vm(&to_host);
    assert_eq!(counted(&mut scene, DropReason::HostAddress), before + 1);
}

#[test]
fn without_a_list_of_names_nothing_that_was_learned_is_open() {
    for remote in REMOTES {
        let mut scene = Scene::usual();
        put(&mut scene, 1, NOTHING);
        learn(&mut scene, remote, (SLOT, GENERATION));
        let bytes = other_port(protocol::UDP, &to(remote));
        assert_refused(&mut scene, DropReason::NotAllowed, &bytes);
    }
}

#[test]
fn flows_of_dns_end_when_a_list_of_names_comes() {
    for remote in REMOTES {
        let mut scene = Scene::usual();
        let left = scene.from_vm(&sent(protocol::UDP, &to(remote), 0));
        let back = answer(protocol::UDP, &scene::back(remote), &left.bytes);
        assert_eq!(scene.from_uplink(&back).verdict, verdict::REDIRECT);
        listed(&mut scene, 1, (Verdict::Allowed, Verdict::Allowed), 0);
        scene.from_uplink(&back);
        assert_eq!(scene.open_flows(), 0, "{remote}");
        ask(&mut scene, packet::udp, remote);
    }
}

#[test]
fn d5_a_collection_pass_notes_which_addresses_flows_use() {
    for remote in REMOTES {
        let mut scene = names_only();
        learn(&mut scene, remote, (SLOT, GENERATION));
        scene.datapath.collect(COLLECT_FLOWS);
        assert_eq!(uses(&mut scene), [0]);
        let bytes = other_port(protocol::UDP, &to(remote));
        assert_eq!(scene.from_vm(&bytes).verdict, verdict::REDIRECT);
        let [opened] = uses(&mut scene)[..] else {
            panic!("one address")
        };
        assert_ne!(opened, 0);
        wait_until("the clock goes on", SOON, || {
            scene.datapath.collect(COLLECT_FLOWS);
            uses(&mut scene)[0] > opened
        });
        let noted = uses(&mut scene)[0];
        scene.time_out_flows(4_000);
        scene.datapath.collect(COLLECT_FLOWS);
        assert_eq!(scene.open_flows(), 0);
        assert_eq!(uses(&mut scene), [noted], "a flow that ends is no use");
    }
}

#[test]
fn d8_interfaces_of_one_instance_share_what_they_may_ask() {
    let mut scene = names_only();
    let record = Interface {
        policy: id_of(1),
        policy_flags: policy_flag::NAMES,
        ..scene::record()
    };
    scene.add_other(record);
    let mut of_same = record;
    (of_same.slot, of_same.ifindex) = (scene::OTHER_SLOT, scene::OTHER_TAP);
    scene.datapath.set_interface(&of_same);
    crate::limits::leave_nothing(&mut scene);
    let question = packet::udp(&to(REMOTE_V4), (4_000, 53), b"query");
    assert_eq!(scene.from_other(&question).verdict, verdict::DROP);
    let drops = scene.datapath.drops();
    let key = (scene::OTHER_SLOT, DropReason::ServiceLimit);
    assert_eq!(drops.get(&key), Some(&1));
}

/// A resolver that always asks from port 53 asks a name server that the guest publishes.
#[test]
fn p3_what_the_world_opened_from_the_port_of_dns_is_answered_also_when_routes_changed() {
    let mut scene = names_only();
    let record = Interface {
        policy: id_of(1),
        policy_flags: policy_flag::NAMES,
        ..scene::record()
    };
    let publication = Publication {
        id: 1,
        protocol: protocol::UDP,
        address: HOST_V4.into(),
        port: 5_300,
        guest_port: 5_301,
        limited: false,
    };
    publish(&mut scene.datapath, &record, &publication);
    let remote = IpAddr::V4(REMOTE_V4);
    let asked = packet::udp(&scene::back(remote), (53, 5_300), b"whose address?");
    let delivered = scene.from_uplink(&asked);
    assert_eq!(delivered.verdict, verdict::REDIRECT);
    assert_eq!(Packet::parse(&delivered.bytes).unwrap().ports, (53, 5_301));
    let answered = |what: &str, scene: &mut Scene| {
        let answer = packet::udp(&to(remote), (5_301, 53), b"this one");
        let left = Packet::parse(&scene.from_vm(&answer).bytes).unwrap();
        assert_eq!((left.ends.dst, left.ports), (remote, (5_300, 53)), "{what}");
    };
    answered("at once", &mut scene);
    let other = scene::route(RouteKind::Uplink, true, true);
    scene.change_route("203.0.113.200".parse().unwrap(), &other);
    answered("by other routes", &mut scene);
}
