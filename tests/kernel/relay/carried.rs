//! What passes, and how.

use std::net::{Ipv4Addr, Ipv6Addr};

use netagent_common::flow::{Flow, FlowKey, Opener};
use netagent_common::names::map;
use netagent_common::net::tcp_flag::{ACK, SYN};
use netagent_common::vm::Interface;
use netagent_tests::fragment::fragments;
use netagent_tests::packet::{self, Ends, hex};
use netagent_tests::prog_run::{Context, verdict};
use netagent_tests::scene::{self, FROM_OTHER, GUEST_MAC, back, to};

use super::{
    GUEST_V4, KINDS, Kind, LEG_SLOT, PORTS, RELAY_MAC, REMOTES, SLOT, add_client, check_carried,
    client, forwarded, guest, leg_of, message, pass, question, relay, relayed, returned, seen, tap,
    traffic_of,
};

#[test]
fn everything_goes_through_the_relay_and_comes_through_it_with_addresses_unchanged() {
    for remote in REMOTES {
        for kind in KINDS {
            let mut scene = relayed();
            let first = pass(&mut scene, kind, remote);
            assert_eq!(pass(&mut scene, kind, remote), first, "one flow");
        }
    }
}

#[test]
fn each_half_of_a_flow_is_one_of_its_own_and_counts_once() {
    let mut scene = relayed();
    pass(&mut scene, Kind::Udp, REMOTES[0]);
    pass(&mut scene, Kind::Udp, REMOTES[0]);
    let flows = scene
        .datapath
        .entries::<FlowKey<[u8; 4]>, Flow<[u8; 4]>>(map::FLOWS_V4);
    let mut halves: Vec<(u32, u8)> = flows
        .iter()
        .map(|(key, flow)| (key.instance, flow.opener))
        .collect();
    halves.sort_unstable();
    assert_eq!(
        halves,
        [
            (SLOT, Opener::GuestByRelay as u8),
            (LEG_SLOT, Opener::Guest as u8)
        ]
    );
    assert!(flows.iter().all(|(key, _)| key.guest == GUEST_V4.octets()));
    // What the client sent and received, at its own TAP; nothing of the relay's.
    assert_eq!(traffic_of(&mut scene, SLOT), (2, 2));
    assert_eq!(traffic_of(&mut scene, super::OTHER_SLOT), (0, 0));
}

#[test]
fn two_clients_with_the_same_ports_to_one_server_do_not_mix() {
    const SECOND: u32 = 7;
    const SECOND_LEG: u32 = 101;
    const SECOND_MAC: [u8; 6] = [0xaa, 0xfc, 0, 0, 0, 8];
    let (v4, v6) = (
        Ipv4Addr::new(172, 16, 0, 30),
        Ipv6Addr::new(0xfd00, 0xa, 0xb, 7, 0, 0, 0, 2),
    );
    let mut scene = relayed();
    let second_tap = netagent_common::vm::ifindex(SECOND, 0);
    scene
        .datapath
        .add_device(second_tap, netagent_common::net::GATEWAY_MAC);
    let mut second = Interface {
        ifindex: second_tap,
        slot: SECOND,
        instance: SECOND,
        guest_mac: SECOND_MAC,
        leg: SECOND_LEG,
        generation: scene::GENERATION + 5,
        ..client()
    };
    second.addresses_v4[0] = v4.octets();
    second.addresses_v6[0] = v6.octets();
    scene.datapath.set_interface(&second);
    scene.datapath.set_interface(&Interface {
        slot: SECOND_LEG,
        instance: SECOND_LEG,
        ..leg_of(&second)
    });
    add_client(&mut scene, (v4, v6), (SECOND, SECOND_LEG));
    for remote in REMOTES {
        let own = if remote.is_ipv4() {
            v4.into()
        } else {
            v6.into()
        };
        let first_port = pass(&mut scene, Kind::Udp, remote);
        let ends = Ends {
            src_mac: SECOND_MAC,
            src: own,
            ..to(remote)
        };
        let asked = message(Kind::Udp, &ends, PORTS, SYN);
        let context = Context {
            ifindex: second_tap,
            ingress_ifindex: second_tap,
            ..FROM_OTHER
        };
        let outcome = scene
            .datapath
            .run(netagent_common::names::FROM_VM, &asked, context);
        check_carried(&outcome, &asked, RELAY_MAC);
        let left = seen(&scene.from_other(&message(Kind::Udp, &forwarded(&ends), PORTS, SYN)));
        assert_ne!(left.ports.0, first_port);
        let answer = message(Kind::Udp, &back(remote), (PORTS.1, left.ports.0), ACK);
        let came = seen(&scene.from_uplink(&answer));
        assert_eq!((came.ends.dst, came.ends.dst_mac), (own, RELAY_MAC));
        let ends = Ends {
            dst: own,
            ..returned(remote)
        };
        let forwarded = message(Kind::Udp, &ends, (PORTS.1, PORTS.0), ACK);
        check_carried(&scene.from_other(&forwarded), &forwarded, SECOND_MAC);
    }
}

#[test]
fn fragments_pass_both_ways() {
    for remote in REMOTES {
        let mut scene = relayed();
        let payload = vec![7; 3_000];
        let asked = packet::udp(&to(remote), PORTS, &payload);
        for piece in fragments(&asked, 1_200, 9) {
            check_carried(&scene.from_vm(&piece), &piece, RELAY_MAC);
        }
        let mut nat_port = 0;
        let at_relay = packet::udp(&forwarded(&to(remote)), PORTS, &payload);
        for (index, piece) in fragments(&at_relay, 1_200, 9).iter().enumerate() {
            let left = scene.from_other(piece);
            assert_eq!(left.verdict, verdict::REDIRECT, "{index}");
            if index == 0 {
                let start = if remote.is_ipv4() { 34 } else { 62 };
                nat_port = u16::from_be_bytes([left.bytes[start], left.bytes[start + 1]]);
            }
        }
        let answer = packet::udp(&back(remote), (PORTS.1, nat_port), &payload);
        for piece in fragments(&answer, 1_200, 10) {
            let came = scene.from_uplink(&piece);
            assert_eq!(came.verdict, verdict::REDIRECT);
            assert_eq!(came.bytes[..6], RELAY_MAC);
        }
        let forwarded = packet::udp(&returned(remote), (PORTS.1, PORTS.0), &payload);
        let pieces = fragments(&forwarded, 1_200, 11);
        let early = scene.from_other(&pieces[1]);
        assert_eq!(early.verdict, verdict::DROP, "before its first");
        for piece in &pieces {
            check_carried(&scene.from_other(piece), piece, GUEST_MAC);
        }
    }
}

#[test]
fn a_super_frame_passes_as_it_is() {
    let mut scene = relayed();
    pass(&mut scene, Kind::Tcp, REMOTES[0]);
    let data = packet::tcp(
        &to(REMOTES[0]),
        packet::Segment {
            src_port: PORTS.0,
            dst_port: PORTS.1,
            sequence: 8,
            acknowledgement: 9,
            flags: ACK,
        },
        &[1; 3_000],
    );
    let outcome = scene.super_frame_from_vm(&data, 600);
    check_carried(&outcome, &data, RELAY_MAC);
    assert_eq!(traffic_of(&mut scene, SLOT).0, 1 + 5, "segments");
}

#[test]
fn what_the_client_and_its_gateway_say_to_each_other_stays_between_them() {
    for gateway in [scene::GATEWAY_V4.into(), scene::gateway_v6().into()] {
        let mut scene = relayed();
        let outcome = scene.from_vm(&packet::echo_request(&to(gateway), (1, 1), b"echo"));
        let reply = seen(&outcome);
        assert_eq!((reply.ends.src, reply.ends.dst_mac), (gateway, GUEST_MAC));
        // The host pings from the gateway's address.
        if gateway.is_ipv4() {
            let ends = Ends {
                dst_mac: GUEST_MAC,
                ..back(gateway).to(guest(gateway))
            };
            let ping = packet::echo_request(&ends, (2, 1), b"echo");
            let outcome = scene.from_host(&ping);
            assert_eq!(outcome.verdict, verdict::NEXT);
            assert_eq!(hex(&outcome.bytes), hex(&ping), "straight to the client");
            let pong = packet::echo_reply(&to(gateway), (2, 1), b"echo");
            assert_eq!(scene.from_vm(&pong).verdict, verdict::NEXT);
        }
    }
}

#[test]
fn the_relay_finds_its_clients_behind_the_gateway_s_link_layer_address() {
    use netagent_tests::neighbour::{self, Claim};
    let mut scene = relayed();
    let sender = Claim {
        mac: RELAY_MAC,
        ip: super::RELAY_V4,
    };
    for (asked, is_answered) in [
        (GUEST_V4, true),
        (scene::GATEWAY_V4, true),
        (Ipv4Addr::new(172, 16, 0, 77), false),
    ] {
        let outcome = scene.from_other(&neighbour::arp_request(sender, asked));
        let reply = (outcome.verdict == verdict::REDIRECT)
            .then(|| neighbour::parse_arp_reply(&outcome.bytes).unwrap());
        let gateway = Claim {
            mac: netagent_common::net::GATEWAY_MAC,
            ip: asked,
        };
        let expected = is_answered.then_some((gateway, sender));
        assert_eq!(reply, expected, "{asked}");
    }
    let client_v6 = super::GUEST_V6;
    let stranger = Ipv6Addr::new(0xfd00, 0xa, 0xb, 0x77, 0, 0, 0, 2);
    for (asked, is_answered) in [(client_v6, true), (stranger, false)] {
        let asking = neighbour::solicitation(RELAY_MAC, super::RELAY_V6, asked);
        let outcome = scene.from_other(&asking);
        let reply = (outcome.verdict == verdict::REDIRECT)
            .then(|| neighbour::parse_advertisement(&outcome.bytes).unwrap());
        let expected = is_answered.then_some((asked, netagent_common::net::GATEWAY_MAC));
        assert_eq!(reply, expected, "{asked}");
    }
    // Nobody's relay answers for nobody.
    let mut plain = relayed();
    plain.datapath.set_interface(&Interface {
        ifindex: super::OTHER_TAP,
        slot: super::OTHER_SLOT,
        instance: super::OTHER_SLOT,
        policy_flags: 0,
        ..super::relay_record()
    });
    let outcome = plain.from_other(&neighbour::arp_request(sender, GUEST_V4));
    assert_eq!(outcome.verdict, verdict::DROP);
}

#[test]
fn the_relay_has_its_own_traffic_and_its_own_flows() {
    for remote in REMOTES {
        let mut scene = relayed();
        pass(&mut scene, Kind::Udp, remote);
        let ends = Ends {
            src_mac: RELAY_MAC,
            src: relay(remote),
            ..to(remote)
        };
        let left = seen(&scene.from_other(&message(Kind::Udp, &ends, PORTS, SYN)));
        let answer = message(Kind::Udp, &back(remote), (PORTS.1, left.ports.0), ACK);
        let came = seen(&scene.from_uplink(&answer));
        assert_eq!(
            (came.ends.dst, came.ends.dst_mac),
            (relay(remote), RELAY_MAC)
        );
        assert_eq!(traffic_of(&mut scene, super::OTHER_SLOT), (1, 1));
    }
}

#[test]
fn the_tap_of_entry_decides_not_the_control_buffer() {
    // Whatever lies in the buffer, a client's packet is the client's.
    let mut scene = relayed();
    let asked = question(Kind::Udp, REMOTES[0]);
    let context = Context {
        ifindex: tap(),
        ingress_ifindex: tap(),
        ..FROM_OTHER
    };
    let outcome = scene
        .datapath
        .run(netagent_common::names::FROM_VM, &asked, context);
    check_carried(&outcome, &asked, RELAY_MAC);
}
