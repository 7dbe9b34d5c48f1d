//! What the agent's own servers answer, on its way to the guest that asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netagent_common::drop::{DropReason, NO_SLOT};
use netagent_common::names::{FROM_SERVICES, TO_VM, map};
use netagent_common::net::GATEWAY_MAC;
use netagent_common::services::{Client, Place, SERVICES_HOST_MAC, SERVICES_MAC};
use netagent_common::vm::Traffic;
use netagent_tests::neighbour::{BROADCAST, icmpv6, multicast_mac};
use netagent_tests::packet::{self, Ends, Packet, echo_reply, hex, udp};
use netagent_tests::prog_run::{Context, MARK, Sizes, verdict};
use netagent_tests::scene::{
    self, GATEWAY_V4, GENERATION, GUEST_MAC, GUEST_V4, GUEST_V6, REMOTE_V4, REMOTE_V6, SLOT, Scene,
    TAP, to,
};

use crate::nat::tcp_segment;
use crate::services::{
    ALL_ROUTERS, LINK_LOCAL, OTHERS_V4, PAYLOAD, QUESTIONS, asked_from, client, dhcp, gateways,
    host_part, record, scene, server, solicitation, sources, to_all, to_routers,
};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Ends of what the servers send to this address.
fn answer_to(client: impl Into<IpAddr>) -> Ends {
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
fn dhcp_answer(ends: &Ends) -> Vec<u8> {
    udp(ends, (67, 68), &[2; 301])
}

#[test]
fn dhcp_answers_go_to_the_interfaces_address_or_to_everybody() {
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

/// A router's advertisement, as far as the programs look at it.
fn advertisement(ends: &Ends) -> Vec<u8> {
    let mut body = vec![64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    body.extend([1, 1]);
    body.extend(GATEWAY_MAC);
    packet::icmp(ends, (icmpv6::ROUTER_ADVERTISEMENT, 0), &body)
}

fn from_router(ends: Ends) -> Ends {
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

/// A frame from the servers that no guest may get, and the slot that counts it.
struct Refused {
    what: &'static str,
    reason: DropReason,
    slot: u32,
    bytes: Vec<u8>,
}

/// Answers to places that the guest cannot have asked from, and what no server says.
fn refused() -> Vec<Refused> {
    use DropReason::{TooBig, UnknownProtocol, Unsolicited};
    let (v4, v6) = (client(0).to_v4(), client(0).to_v6(host_part(GUEST_V6)));
    let dns = |to: IpAddr| udp(&answer_to(to), (53, 4_000), PAYLOAD);
    let all = IpAddr::from(client(Place::ALL_NODES).to_v6([0; 8]));
    let unlike_second = client(2).to_v6([9; 8]);
    let gateway = client(Place::LINK_LOCAL).to_v6(host_part(scene::gateway_v6()));
    let router = answer_to(v6);
    let solicitation = solicitation(&from_router(router), &[]);
    let table: Vec<(&'static str, DropReason, Vec<u8>)> = vec![
        ("DNS to all nodes", Unsolicited, dns(all)),
        (
            "an exact address's neighbour",
            Unsolicited,
            dns(unlike_second.into()),
        ),
        ("the gateway itself", Unsolicited, dns(gateway.into())),
        (
            "a forwarded advertisement",
            Unsolicited,
            advertisement(&router),
        ),
        ("a router's question", Unsolicited, solicitation),
        (
            "a ping's answer",
            Unsolicited,
            echo_reply(&answer_to(v4), (1, 1), PAYLOAD),
        ),
        (
            "a ping's answer",
            Unsolicited,
            echo_reply(&answer_to(v6), (1, 1), PAYLOAD),
        ),
        (
            "another port",
            Unsolicited,
            udp(&answer_to(v4), (54, 4_000), PAYLOAD),
        ),
        (
            "another port",
            Unsolicited,
            tcp_segment(&answer_to(v6), (80, 53), PAYLOAD),
        ),
        (
            "DHCP to another port",
            Unsolicited,
            udp(&answer_to(v4), (67, 69), PAYLOAD),
        ),
        (
            "DHCP by TCP",
            Unsolicited,
            tcp_segment(&answer_to(v4), (67, 68), PAYLOAD),
        ),
        (
            "DHCP over IPv6",
            Unsolicited,
            udp(&answer_to(v6), (67, 68), PAYLOAD),
        ),
        (
            "GRE",
            UnknownProtocol,
            packet::ip(&answer_to(v4), 47, &[0; 40]),
        ),
        (
            "too large",
            TooBig,
            udp(&answer_to(v4), (53, 4_000), &[0; 1_500]),
        ),
    ];
    let errors = [packet::icmp(&answer_to(v4), (3, 3), &[0; 48])];
    let errors = errors.map(|bytes| ("a closed port", Unsolicited, bytes));
    let of_slot = |(what, reason, bytes)| Refused {
        what,
        reason,
        slot: SLOT,
        bytes,
    };
    table.into_iter().chain(errors).map(of_slot).collect()
}

/// Frames that lead to no guest at all.
fn lost() -> Vec<Refused> {
    use DropReason::{Fragment, UnknownEthertype, UnknownInterface, Unsolicited};
    let other = |generation, slot| Client {
        slot,
        generation,
        place: Place(0),
    };
    let earlier = other(GENERATION - 1, SLOT);
    let empty_slot = other(GENERATION, SLOT + 1);
    let low_half = host_part(GUEST_V6);
    let dns = |ends: &Ends| udp(ends, (53, 4_000), PAYLOAD);
    let mut fragment = dns(&answer_to(client(0).to_v4()));
    fragment[21] = 9;
    fragment[24..26].fill(0);
    let sum = !packet::fold(packet::sum(&fragment[14..34]));
    fragment[24..26].copy_from_slice(&sum.to_be_bytes());
    let arp = packet::ethernet(BROADCAST, SERVICES_MAC, 0x0806, &[0; 28]);
    let table = vec![
        (
            "an earlier instance",
            Unsolicited,
            dns(&answer_to(earlier.to_v4())),
        ),
        (
            "an earlier instance",
            Unsolicited,
            dns(&answer_to(earlier.to_v6(low_half))),
        ),
        (
            "a slot without record",
            UnknownInterface,
            dns(&answer_to(empty_slot.to_v4())),
        ),
        (
            "a slot without record",
            UnknownInterface,
            dns(&answer_to(empty_slot.to_v6(low_half))),
        ),
        ("the world", Unsolicited, dns(&answer_to(REMOTE_V4))),
        ("the world", Unsolicited, dns(&answer_to(REMOTE_V6))),
        (
            "an address of no slot",
            UnknownInterface,
            dns(&answer_to(GUEST_V4)),
        ),
        (
            "an address of no slot",
            UnknownInterface,
            dns(&answer_to(GUEST_V6)),
        ),
        (
            "another source",
            Unsolicited,
            dns(&answer_to(client(0).to_v4()).from(REMOTE_V4)),
        ),
        (
            "another source",
            Unsolicited,
            dns(&answer_to(client(0).to_v6(low_half)).from(REMOTE_V6)),
        ),
        ("a fragment", Fragment, fragment),
        ("ARP", UnknownEthertype, arp),
        (
            "a router's question",
            Unsolicited,
            solicitation(&answer_to(ALL_ROUTERS), &[]),
        ),
    ];
    let nowhere = |(what, reason, bytes)| Refused {
        what,
        reason,
        slot: NO_SLOT,
        bytes,
    };
    table.into_iter().map(nowhere).collect()
}

/// Runs frames that must not pass, and says which of them did, or were counted as something else.
fn check_refused(scene: &mut Scene, frames: Vec<Refused>) {
    let mut wrong = Vec::new();
    for Refused {
        what,
        reason,
        slot,
        bytes,
    } in frames
    {
        let before = scene.datapath.drops();
        let outcome = scene.from_services(&bytes);
        let mut counted = scene.datapath.drops();
        counted.retain(|key, count| {
            *count -= before.get(key).copied().unwrap_or(0);
            *count != 0
        });
        if outcome.verdict != verdict::DROP || counted != [((slot, reason), 1)].into() {
            wrong.push(format!(
                "{what}, {}: {} {counted:?}",
                reason.name(),
                outcome.verdict
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_but_answers_of_the_servers_reaches_a_guest_and_nothing_the_host() {
    let mut scene = scene();
    check_refused(&mut scene, refused());
    check_refused(&mut scene, lost());
}

#[test]
fn an_address_behind_the_entries_in_use_is_answered_no_more() {
    let mut record = record();
    record.addresses = 1;
    record.prefixes_v6[1..].fill(0);
    let mut scene = Scene::new(Sizes::default(), &record);
    let mut frames = Vec::new();
    for (source, place) in sources() {
        if place == 0 || place == Place::LINK_LOCAL {
            continue;
        }
        let sent = answer_to(asked_from(source, place));
        frames.push(Refused {
            what: "an address that was taken away",
            reason: DropReason::Unsolicited,
            slot: SLOT,
            bytes: udp(&sent, (53, 4_000), PAYLOAD),
        });
    }
    assert_eq!(frames.len(), 2 * OTHERS_V4.len());
    check_refused(&mut scene, frames);
}

#[test]
fn an_interface_without_addresses_of_a_family_gets_no_answer_in_it() {
    let mut record = record();
    (record.addresses, record.has_v6) = (0, 0);
    record.addresses_v4 = [[0; 4]; 4];
    let mut scene = Scene::new(Sizes::default(), &record);
    let all = IpAddr::from(client(Place::ALL_NODES).to_v6([0; 8]));
    let v6 = client(0).to_v6(host_part(GUEST_V6));
    let frames = [
        udp(&answer_to(client(0).to_v4()), (53, 4_000), PAYLOAD),
        dhcp_answer(&answer_to(client(0).to_v4())),
        udp(&answer_to(v6), (53, 4_000), PAYLOAD),
        advertisement(&from_router(answer_to(all))),
    ];
    let refused = |bytes| Refused {
        what: "there is nobody",
        reason: DropReason::Unsolicited,
        slot: SLOT,
        bytes,
    };
    check_refused(&mut scene, frames.into_iter().map(refused).collect());
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
