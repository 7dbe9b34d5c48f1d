//! What the agent's own servers answer, on its way to the guest that asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netagent_common::drop::{DropReason, NO_SLOT};
use netagent_common::names::{FROM_SERVICES, TO_VM, map};
use netagent_common::net::GATEWAY_MAC;
use netagent_common::services::{Place, SERVICES_HOST_MAC, SERVICES_MAC};
use netagent_common::vm::Traffic;
use netagent_tests::neighbour::{BROADCAST, icmpv6, multicast_mac};
use netagent_tests::packet::{self, Ends, Packet, hex, udp};
use netagent_tests::prog_run::{Context, MARK, Sizes, verdict};
use netagent_tests::scene::{
    self, GATEWAY_V4, GUEST_MAC, GUEST_V4, GUEST_V6, REMOTE_V4, SLOT, Scene, TAP, to,
};

use crate::nat::tcp_segment;
use crate::services::{
    LINK_LOCAL, PAYLOAD, QUESTIONS, asked_from, client, dhcp, gateways, host_part, record, scene,
    server, solicitation, sources, to_all, to_routers,
};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Ends of what the servers send to this address.
pub(crate) fn answer_to(client: impl Into<IpAddr>) -> Ends {
    let dst = client.into();
    Ends {
        src_mac: SERVICES_MAC,
        dst_mac: SERVICES_HOST_MAC,
        src: server(dst.is_ipv4()),
        dst,
        ttl: 64,
    }
}

/// Ends of what the guest at `guest` gets from `gateway`.
fn delivered(gateway: IpAddr, guest: IpAddr) -> Ends {
    Ends {
        src_mac: GATEWAY_MAC,
        dst_mac: GUEST_MAC,
        src: gateway,
        dst: guest,
        ttl: 64,
    }
}

/// An answer reaches the guest as `expected`, and nothing else of it changes.
fn check(scene: &mut Scene, build: impl Fn(&Ends) -> Vec<u8>, (sent, expected): (&Ends, &Ends)) {
    let outcome = scene.from_services(&build(sent));
    assert_eq!(
        (outcome.verdict, outcome.mark),
        (verdict::REDIRECT, MARK),
        "{sent:?}: {:?}",
        scene.datapath.drops()
    );
    packet::assert_checksums(&outcome.bytes);
    assert_eq!(hex(&outcome.bytes), hex(&build(expected)), "{sent:?}");
    let context = Context {
        ifindex: TAP,
        ingress_ifindex: scene::SERVICES,
        mark: outcome.mark,
        gso_size: 0,
    };
    let last = scene.datapath.run(TO_VM, &outcome.bytes, context);
    assert_eq!((last.verdict, last.mark), (verdict::NEXT, 0), "{sent:?}");
}

#[test]
fn an_answer_of_the_resolver_comes_from_the_gateway_that_was_asked() {
    let mut scene = scene();
    for (source, place) in sources() {
        for (gateway, bit) in gateways(source) {
            for build in QUESTIONS {
                let answer = |ends: &Ends| build(ends, (53, 4_000), PAYLOAD);
                let sent = answer_to(asked_from(source, place | bit));
                check(&mut scene, answer, (&sent, &delivered(gateway, source)));
            }
        }
    }
    assert!(scene.datapath.drops().is_empty());
    assert_eq!(scene.open_flows(), 0);
}

#[test]
fn the_answer_to_what_the_servers_got_reaches_who_asked() {
    let mut scene = scene();
    for (source, _) in sources() {
        for (gateway, _) in gateways(source) {
            let question = udp(&to(gateway).from(source), (4_000, 53), PAYLOAD);
            let seen = Packet::parse(&scene.from_vm(&question).bytes).unwrap();
            let answer = udp(&seen.ends.reversed(), (seen.ports.1, seen.ports.0), b"yes");
            let outcome = scene.from_services(&answer);
            let expected = udp(&to(gateway).from(source).reversed(), (53, 4_000), b"yes");
            assert_eq!(hex(&outcome.bytes), hex(&expected), "{source} of {gateway}");
        }
    }
}

/// A DHCP server's answer, as far as the programs look at it.
pub(crate) fn dhcp_answer(ends: &Ends) -> Vec<u8> {
    udp(ends, (67, 68), &[2; 301])
}

#[test]
pub(crate) fn dhcp_answers_go_to_the_interfaces_address_or_to_everybody() {
    let mut scene = scene();
    let gateway = IpAddr::V4(GATEWAY_V4);
    for place in 0..4 {
        let to_one = delivered(gateway, GUEST_V4.into());
        let sent = answer_to(client(place).to_v4());
        check(&mut scene, dhcp_answer, (&sent, &to_one));
        let to_everybody = Ends {
            dst_mac: BROADCAST,
            ..to_one.to(Ipv4Addr::BROADCAST)
        };
        let sent = answer_to(client(place | Place::BROADCAST).to_v4());
        check(&mut scene, dhcp_answer, (&sent, &to_everybody));
    }
}

#[test]
fn a_dhcp_answer_arrives_however_small_the_mtu_is() {
    let mut record = record();
    record.mtu = 68;
    let mut scene = Scene::new(Sizes::default(), &record);
    let sent = answer_to(client(Place::BROADCAST).to_v4());
    let outcome = scene.from_services(&dhcp_answer(&sent));
    assert_eq!(outcome.verdict, verdict::REDIRECT);
    let sent = answer_to(client(0).to_v4());
    let outcome = scene.from_services(&udp(&sent, (53, 4_000), &[0; 41]));
    assert_eq!(
        outcome.verdict,
        verdict::DROP,
        "DNS is cut to size, or asked by TCP"
    );
}

/// A router's advertisement, as far as the programs look at it.
pub(crate) fn advertisement(ends: &Ends) -> Vec<u8> {
    let mut body = vec![64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    body.extend([1, 1]);
    body.extend(GATEWAY_MAC);
    packet::icmp(ends, (icmpv6::ROUTER_ADVERTISEMENT, 0), &body)
}

pub(crate) fn from_router(ends: Ends) -> Ends {
    Ends { ttl: 255, ..ends }
}

#[test]
fn router_advertisements_go_to_who_asked_or_to_all_nodes() {
    let mut scene = scene();
    let gateway = IpAddr::V6(scene::gateway_v6());
    for (source, place) in sources() {
        if source.is_ipv4() {
            continue;
        }
        let sent = from_router(answer_to(asked_from(source, place)));
        let expected = from_router(delivered(gateway, source));
        check(&mut scene, advertisement, (&sent, &expected));
    }
    let everybody = Ends {
        dst_mac: multicast_mac(ALL_NODES),
        ..from_router(delivered(gateway, ALL_NODES.into()))
    };
    for low_half in [[0; 8], host_part(LINK_LOCAL)] {
        let asked = client(Place::ALL_NODES).to_v6(low_half);
        let sent = from_router(answer_to(asked));
        check(&mut scene, advertisement, (&sent, &everybody));
    }
}

#[test]
fn an_instance_started_anew_in_the_slot_gets_no_answer_to_the_one_before() {
    let mut scene = scene();
    let question = udp(&to(GATEWAY_V4), (4_000, 53), PAYLOAD);
    let solicitation = solicitation(&to_routers(LINK_LOCAL), &[]);
    let renewal = dhcp(&to_all(GUEST_V4));
    let seen = [question, solicitation, renewal].map(|frame| {
        let outcome = scene.from_vm(&frame);
        Packet::parse(&outcome.bytes).unwrap().ends.reversed()
    });
    let mut next = record();
    next.generation += 1;
    scene.datapath.set_interface(&next);
    let [question, solicitation, renewal] = seen;
    let answers = [
        udp(&question, (53, 4_000), PAYLOAD),
        advertisement(&from_router(solicitation)),
        dhcp_answer(&renewal),
    ];
    for answer in answers {
        assert_eq!(scene.from_services(&answer).verdict, verdict::DROP);
    }
    let drops = scene.datapath.drops();
    assert_eq!(drops, [((NO_SLOT, DropReason::Unsolicited), 3)].into());
}

#[test]
fn a_foreign_mark_opens_nothing() {
    let mut scene = scene();
    let stray = udp(&answer_to(REMOTE_V4), (53, 4_000), PAYLOAD);
    let context = Context {
        mark: MARK,
        ..scene::FROM_SERVICES
    };
    let outcome = scene.datapath.run(FROM_SERVICES, &stray, context);
    assert_eq!((outcome.verdict, outcome.mark), (verdict::DROP, 0));
}

#[test]
fn super_frames_of_the_resolver_pass_and_are_counted_by_their_segments() {
    const PAYLOAD_LEN: usize = 3_000;
    const SEGMENT: u32 = 1_000;
    for source in [IpAddr::V4(GUEST_V4), GUEST_V6.into()] {
        let mut scene = scene();
        let sent = answer_to(asked_from(source, 0));
        let bytes = tcp_segment(&sent, (53, 4_000), &[7; PAYLOAD_LEN]);
        let context = Context {
            gso_size: SEGMENT,
            ..scene::FROM_SERVICES
        };
        let outcome = scene.datapath.run(FROM_SERVICES, &bytes, context);
        assert_eq!(outcome.verdict, verdict::REDIRECT, "{source}");
        packet::assert_checksums(&outcome.bytes);
        let cpus = scene.datapath.per_cpu::<Traffic>(map::TRAFFIC, SLOT);
        let packets: u64 = cpus.iter().map(|cpu| cpu.to_vm_packets).sum();
        let counted: u64 = cpus.iter().map(|cpu| cpu.to_vm_bytes).sum();
        let headers = bytes.len() - PAYLOAD_LEN;
        assert_eq!((packets, counted), (3, (PAYLOAD_LEN + 3 * headers) as u64));
    }
}

/// A valid answer of some server; every number gives another one.
pub(crate) fn any_answer(number: u32) -> Vec<u8> {
    let sources = sources();
    let (source, place) = sources[number as usize % sources.len()];
    let sent = answer_to(asked_from(source, place));
    match number / 16 % 4 {
        0 => udp(&sent, (53, 4_000), PAYLOAD),
        1 => tcp_segment(&sent, (53, 4_000), PAYLOAD),
        2 if source.is_ipv6() => advertisement(&from_router(sent)),
        _ => dhcp_answer(&answer_to(client(place).to_v4())),
    }
}

/// Whether an answer may go there beside the addresses that questions come from: to everybody, to the guest's
/// network, or to its link.
pub(crate) fn is_guests(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address == Ipv4Addr::BROADCAST,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            let networks = [
                [0xfd00, 0xa, 0xb, 5],
                [0xfd00, 0xa, 0xb, 6],
                [0xfe80, 0, 0, 0],
            ];
            address == ALL_NODES
                || (networks.contains(&[a, b, c, d]) && address != scene::gateway_v6())
        }
    }
}
