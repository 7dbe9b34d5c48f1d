//! Published and exposed ports: who may open a flow towards a guest, and what becomes of its packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netagent_common::drop::{DropReason, NO_SLOT};
use netagent_common::names::FROM_UPLINK;
use netagent_common::net::{GATEWAY_MAC, protocol, tcp_flag};
use netagent_common::policy::RouteKind;
use netagent_common::vm::Interface;
use netagent_tests::packet::{self, Ends, Packet, Segment, hex};
use netagent_tests::prog_run::{Outcome, Sizes, verdict};
use netagent_tests::published::{Publication, expose, publish, unpublish};
use netagent_tests::scene::{
    self, GATEWAY_V4, GUEST_MAC, GUEST_V4, GUEST_V6, HOST_V4, HOST_V6, OTHER_SLOT, REMOTE_V4,
    REMOTE_V6, SLOT, Scene, back, to,
};

use crate::drops::Case;

const REMOTES: [IpAddr; 2] = [IpAddr::V4(REMOTE_V4), IpAddr::V6(REMOTE_V6)];
const PROTOCOLS: [u8; 2] = [protocol::TCP, protocol::UDP];

/// Port of the host, and of the guest.
const PORTS: (u16, u16) = (8_080, 80);
/// Port of the client.
const CLIENT: u16 = 51_000;
const SYN_ACK: u8 = tcp_flag::SYN | tcp_flag::ACK;

/// The other guest.
const OTHER_MAC: [u8; 6] = [0xaa, 0xfc, 0, 0, 0, 7];
const OTHER_V4: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 26);
const OTHER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xa, 0xb, OTHER_SLOT as u16, 0, 0, 0, 2);

fn publication(protocol: u8, address: IpAddr) -> Publication {
    Publication {
        id: 1,
        protocol,
        address,
        port: PORTS.0,
        guest_port: PORTS.1,
        limited: false,
    }
}

fn unspecified(like: IpAddr) -> IpAddr {
    if like.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    }
}

fn host(like: IpAddr) -> IpAddr {
    if like.is_ipv4() {
        HOST_V4.into()
    } else {
        HOST_V6.into()
    }
}

fn guest(like: IpAddr) -> IpAddr {
    if like.is_ipv4() {
        GUEST_V4.into()
    } else {
        GUEST_V6.into()
    }
}

/// A scene in which the guest's port is published for everybody, at every address.
fn published() -> Scene {
    let mut scene = Scene::usual();
    for remote in REMOTES {
        for protocol in PROTOCOLS {
            let publication = publication(protocol, unspecified(remote));
            publish(&mut scene.datapath, &scene::record(), &publication);
        }
    }
    scene
}

fn message(protocol: u8, ends: &Ends, (src_port, dst_port): (u16, u16), flags: u8) -> Vec<u8> {
    if protocol == protocol::UDP {
        return packet::udp(ends, (src_port, dst_port), b"datagram");
    }
    let segment = Segment {
        src_port,
        dst_port,
        sequence: 7,
        acknowledgement: 9,
        flags,
    };
    packet::tcp(ends, segment, b"segment")
}

/// The first packet of a client at the published port.
fn knock(protocol: u8, ends: &Ends) -> Vec<u8> {
    message(protocol, ends, (CLIENT, PORTS.0), tcp_flag::SYN)
}

fn seen(outcome: &Outcome) -> Packet {
    assert_eq!(
        outcome.verdict,
        verdict::REDIRECT,
        "{}",
        hex(&outcome.bytes)
    );
    packet::assert_checksums(&outcome.bytes);
    Packet::parse(&outcome.bytes).expect("a packet")
}

/// The guest received the client's packet under the client's own address.
fn check_received(outcome: &Outcome, remote: IpAddr, ports: (u16, u16)) {
    let received = seen(outcome);
    let ends = Ends {
        src_mac: GATEWAY_MAC,
        dst_mac: GUEST_MAC,
        src: remote,
        dst: guest(remote),
        ttl: 59,
    };
    assert_eq!((received.ends, received.ports), (ends, ports));
}

/// Nothing of it reached anybody but the guest, which may have been told why.
fn assert_refused(outcome: &Outcome, what: &str) {
    let is_told = outcome.verdict == verdict::REDIRECT
        && Packet::parse(&outcome.bytes).is_some_and(|packet| {
            let is_error = packet.protocol != protocol::TCP && packet.protocol != protocol::UDP;
            is_error && packet.ends.src_mac == GATEWAY_MAC
        });
    assert!(
        is_told || outcome.verdict == verdict::DROP,
        "{what}: {}",
        hex(&outcome.bytes)
    );
}

fn drops_of(scene: &mut Scene, reason: DropReason) -> u64 {
    let drops = scene.datapath.drops();
    let of = |slot| drops.get(&(slot, reason)).copied().unwrap_or(0);
    of(SLOT) + of(NO_SLOT) + of(OTHER_SLOT)
}

#[test]
fn the_world_reaches_a_published_port_and_hears_its_answers_from_there() {
    for remote in REMOTES {
        for protocol in PROTOCOLS {
            let mut scene = published();
            let first = scene.from_uplink(&knock(protocol, &back(remote)));
            check_received(&first, remote, (CLIENT, PORTS.1));
            let answer = message(protocol, &to(remote), (PORTS.1, CLIENT), SYN_ACK);
            let answered = seen(&scene.from_vm(&answer));
            assert_eq!(
                (answered.ends.src, answered.ends.dst, answered.ports),
                (host(remote), remote, (PORTS.0, CLIENT))
            );
            let next = message(protocol, &back(remote), (CLIENT, PORTS.0), tcp_flag::ACK);
            check_received(&scene.from_uplink(&next), remote, (CLIENT, PORTS.1));
            assert_eq!(scene.open_flows(), 1, "one flow of the instance");
        }
    }
}

#[test]
fn nothing_but_the_start_of_a_connection_opens_one() {
    for remote in REMOTES {
        let mut scene = published();
        for flags in [
            tcp_flag::ACK,
            SYN_ACK,
            tcp_flag::RST,
            tcp_flag::SYN | tcp_flag::RST,
            tcp_flag::FIN | tcp_flag::ACK,
            0,
        ] {
            let segment = message(protocol::TCP, &back(remote), (CLIENT, PORTS.0), flags);
            let outcome = scene.from_uplink(&segment);
            assert_eq!(outcome.verdict, verdict::NEXT, "flags {flags:#x}");
            assert_eq!(outcome.bytes, segment, "the host gets it as it came");
        }
        assert_eq!(scene.open_flows(), 0);
    }
}

#[test]
fn other_ports_protocols_and_addresses_stay_the_hosts() {
    for remote in REMOTES {
        let mut scene = Scene::usual();
        let only = publication(protocol::TCP, host(remote));
        publish(&mut scene.datapath, &scene::record(), &only);
        let second: IpAddr = if remote.is_ipv4() {
            "198.51.100.3".parse().unwrap()
        } else {
            "2001:db8:100::3".parse().unwrap()
        };
        let own = scene::route(RouteKind::Host, remote.is_ipv4(), false);
        scene.change_route(second, &own);
        let others = [
            knock(protocol::UDP, &back(remote)),
            message(
                protocol::TCP,
                &back(remote),
                (CLIENT, PORTS.0 + 1),
                tcp_flag::SYN,
            ),
            knock(protocol::TCP, &back(remote).to(second)),
        ];
        for packet in others {
            assert_eq!(scene.from_uplink(&packet).verdict, verdict::NEXT);
        }
        let knocked = scene.from_uplink(&knock(protocol::TCP, &back(remote)));
        check_received(&knocked, remote, (CLIENT, PORTS.1));
    }
}

#[test]
fn a_port_that_is_published_on_loopback_is_not_reached_from_outside() {
    for loopback in ["127.0.0.1", "::1"] {
        let loopback: IpAddr = loopback.parse().unwrap();
        let remote = if loopback.is_ipv4() {
            REMOTES[0]
        } else {
            REMOTES[1]
        };
        let mut scene = Scene::usual();
        for protocol in PROTOCOLS {
            let publication = publication(protocol, loopback);
            publish(&mut scene.datapath, &scene::record(), &publication);
        }
        for protocol in PROTOCOLS {
            for dst in [loopback, host(remote)] {
                let outcome = scene.from_uplink(&knock(protocol, &back(remote).to(dst)));
                assert_eq!(outcome.verdict, verdict::NEXT, "{dst}");
            }
            let from_guest = scene.from_vm(&knock(protocol, &to(host(remote))));
            assert_refused(&from_guest, "the host's address");
            if loopback.is_ipv4() {
                let from_guest = scene.from_vm(&knock(protocol, &to(loopback)));
                assert_refused(&from_guest, "loopback");
            }
        }
    }
}

#[test]
fn only_those_who_may_reach_a_limited_port() {
    let senders = [
        ("203.0.113.0", 24, "203.0.113.200", "203.0.114.1"),
        ("2001:db8:200::", 64, "2001:db8:200::5", "2001:db8:200:1::5"),
    ];
    for (network, length, inside, outside) in senders {
        let network: IpAddr = network.parse().unwrap();
        let (inside, outside): (IpAddr, IpAddr) =
            (inside.parse().unwrap(), outside.parse().unwrap());
        let mut scene = Scene::usual();
        let limited = Publication {
            limited: true,
            ..publication(protocol::TCP, unspecified(network))
        };
        // Another publication's senders are not this one's.
        scene
            .datapath
            .add_sender(limited.id + 1, (unspecified(network), 0));
        scene.datapath.add_sender(limited.id, (network, length));
        publish(&mut scene.datapath, &scene::record(), &limited);
        let refused = scene.from_uplink(&knock(protocol::TCP, &back(outside)));
        assert_eq!(
            refused.verdict,
            verdict::DROP,
            "the host must not answer for it"
        );
        assert_eq!(drops_of(&mut scene, DropReason::PublishDenied), 1);
        let admitted = scene.from_uplink(&knock(protocol::TCP, &back(inside)));
        check_received(&admitted, inside, (CLIENT, PORTS.1));
    }
}

#[test]
fn a_publication_of_an_earlier_life_leads_nowhere() {
    for remote in REMOTES {
        let mut scene = published();
        scene.datapath.set_interface(&Interface {
            generation: scene::GENERATION + 1,
            ..scene::record()
        });
        let outcome = scene.from_uplink(&knock(protocol::TCP, &back(remote)));
        assert_eq!(outcome.verdict, verdict::DROP);
        assert_eq!(drops_of(&mut scene, DropReason::Unsolicited), 1);
    }
}

#[test]
fn whoever_knocks_a_quarter_of_the_flows_stays_the_guests() {
    let mut scene = Scene::new(
        Sizes::default(),
        &Interface {
            flow_limit: 8,
            ..scene::record()
        },
    );
    publish(
        &mut scene.datapath,
        &scene::record(),
        &publication(protocol::TCP, unspecified(REMOTES[0])),
    );
    let knock = |port| {
        message(
            protocol::TCP,
            &back(REMOTE_V4),
            (port, PORTS.0),
            tcp_flag::SYN,
        )
    };
    for port in 0..6 {
        let admitted = scene.from_uplink(&knock(1_000 + port));
        assert_eq!(admitted.verdict, verdict::REDIRECT, "{port}");
    }
    assert_eq!(scene.from_uplink(&knock(2_000)).verdict, verdict::DROP);
    assert_eq!(drops_of(&mut scene, DropReason::FlowLimit), 1);
    let own = packet::udp(&to(REMOTE_V4), (4_000, 53), b"question");
    assert_eq!(scene.from_vm(&own).verdict, verdict::REDIRECT);
}

#[test]
fn whoever_knocks_and_resets_does_not_fill_the_table_with_closing_flows() {
    const LIMIT: u32 = 64;
    for remote in REMOTES {
        let mut scene = Scene::new(
            Sizes::default(),
            &Interface {
                flow_limit: LIMIT,
                ..scene::record()
            },
        );
        let publication = publication(protocol::TCP, unspecified(remote));
        publish(&mut scene.datapath, &scene::record(), &publication);
        let mut reached: i64 = 0;
        for port in 1_000..1_000 + 4 * LIMIT as u16 {
            for flags in [tcp_flag::SYN, tcp_flag::RST] {
                let segment = message(protocol::TCP, &back(remote), (port, PORTS.0), flags);
                let outcome = scene.from_uplink(&segment);
                let is_first = flags == tcp_flag::SYN;
                reached += i64::from(is_first && outcome.verdict == verdict::REDIRECT);
            }
        }
        assert_eq!(reached, 2 * i64::from(LIMIT * 3 / 4));
        assert_eq!((scene.open_flows(), scene.closing_flows()), (0, reached));
        assert!(drops_of(&mut scene, DropReason::FlowLimit) > 0);
        let own = packet::udp(&to(remote), (4_000, 53), b"question");
        assert_eq!(scene.from_vm(&own).verdict, verdict::REDIRECT);
    }
}

#[test]
fn a_connection_whose_reverse_entry_went_gets_it_back_from_either_end() {
    for remote in REMOTES {
        for protocol in PROTOCOLS {
            let mut scene = published();
            let first = knock(protocol, &back(remote));
            check_received(&scene.from_uplink(&first), remote, (CLIENT, PORTS.1));
            for _ in 0..3 {
                scene.remove_reverses();
                check_received(&scene.from_uplink(&first), remote, (CLIENT, PORTS.1));
            }
            assert_eq!(scene.holders(PORTS.0), [PORTS.1]);
            assert_eq!(scene.open_flows(), 1);
        }
    }
}

/// The agent changed what is published: every flow is judged anew.
fn raise_policy_generation(scene: &mut Scene) {
    let record = scene::record();
    scene.datapath.set_interface(&Interface {
        policy_generation: record.policy_generation + 1,
        ..record
    });
}

#[test]
fn a_connection_lives_while_its_port_is_published_and_ends_with_that() {
    for remote in REMOTES {
        for guest_speaks_first in [false, true] {
            let mut scene = published();
            scene.from_uplink(&knock(protocol::TCP, &back(remote)));
            let of_world = message(
                protocol::TCP,
                &back(remote),
                (CLIENT, PORTS.0),
                tcp_flag::ACK,
            );
            let of_guest = message(protocol::TCP, &to(remote), (PORTS.1, CLIENT), tcp_flag::ACK);
            let both = |scene: &mut Scene| {
                if guest_speaks_first {
                    let of_guest = scene.from_vm(&of_guest);
                    (scene.from_uplink(&of_world), of_guest)
                } else {
                    (scene.from_uplink(&of_world), scene.from_vm(&of_guest))
                }
            };
            raise_policy_generation(&mut scene);
            let (world, guest) = both(&mut scene);
            check_received(&world, remote, (CLIENT, PORTS.1));
            assert_eq!(seen(&guest).ports, (PORTS.0, CLIENT));

            let gone = publication(protocol::TCP, unspecified(remote));
            unpublish(&mut scene.datapath, &gone);
            scene.datapath.set_interface(&Interface {
                policy_generation: scene::record().policy_generation + 2,
                ..scene::record()
            });
            let (world, guest) = both(&mut scene);
            assert_ne!(
                world.verdict,
                verdict::REDIRECT,
                "nothing reaches the guest"
            );
            // What the guest sends is a flow of its own now, not one from the published port.
            let own = seen(&guest);
            assert_ne!(own.ports.0, PORTS.0);
        }
    }
}

#[test]
fn a_client_whose_ports_are_those_of_a_flow_of_the_guest_waits() {
    for remote in REMOTES {
        let mut scene = published();
        let own = message(protocol::UDP, &to(remote), (PORTS.1, CLIENT), 0);
        assert_eq!(scene.from_vm(&own).verdict, verdict::REDIRECT);
        let knocked = scene.from_uplink(&knock(protocol::UDP, &back(remote)));
        assert_eq!(knocked.verdict, verdict::DROP);
        assert_eq!(drops_of(&mut scene, DropReason::FlowTaken), 1);
    }
}

/// The second instance, with its own addresses.
fn other() -> Interface {
    let mut record = scene::record();
    record.generation += 1;
    record.guest_mac = OTHER_MAC;
    record.addresses_v4[0] = OTHER_V4.octets();
    record.addresses_v6[0] = OTHER_V6.octets();
    record
}

fn other_to(dst: IpAddr) -> Ends {
    let src: IpAddr = if dst.is_ipv4() {
        OTHER_V4.into()
    } else {
        OTHER_V6.into()
    };
    Ends {
        src_mac: OTHER_MAC,
        src,
        ..to(dst)
    }
}

fn two_guests() -> Scene {
    let mut scene = published();
    scene.add_other(other());
    scene
}

#[test]
fn another_guest_reaches_a_published_port_through_the_hosts_address() {
    for remote in REMOTES {
        for protocol in PROTOCOLS {
            let mut scene = two_guests();
            let host = host(remote);
            let asked = scene.from_other(&knock(protocol, &other_to(host)));
            let received = seen(&asked);
            assert_eq!(
                (received.ends.dst_mac, received.ends.dst, received.ends.src),
                (GUEST_MAC, guest(remote), host),
                "it comes under the host's address"
            );
            let port = received.ports.0;
            assert_eq!(received.ports.1, PORTS.1);
            let answer = message(protocol, &to(host), (PORTS.1, port), SYN_ACK);
            let answered = seen(&scene.from_vm(&answer));
            assert_eq!(
                (answered.ends.dst_mac, answered.ends.src, answered.ends.dst),
                (OTHER_MAC, host, other_to(host).src)
            );
            assert_eq!(answered.ports, (PORTS.0, CLIENT));
            let next = message(protocol, &other_to(host), (CLIENT, PORTS.0), tcp_flag::ACK);
            assert_eq!(seen(&scene.from_other(&next)).ports, (port, PORTS.1));
        }
    }
}

#[test]
fn nothing_from_the_world_gets_into_a_connection_between_guests_whatever_address_it_bears() {
    for remote in REMOTES {
        for protocol in PROTOCOLS {
            let mut scene = two_guests();
            let host = host(remote);
            let asked = seen(&scene.from_other(&knock(protocol, &other_to(host))));
            let port = asked.ports.0;
            // As the published port would answer, and as the other guest would go on.
            for ports in [(PORTS.0, port), (port, PORTS.0)] {
                let forged = message(protocol, &back(host), ports, tcp_flag::ACK);
                let outcome = scene.from_uplink(&forged);
                assert_eq!(outcome.verdict, verdict::DROP, "{ports:?}");
            }
            assert_eq!(drops_of(&mut scene, DropReason::Unsolicited), 2);
            let answer = message(protocol, &to(host), (PORTS.1, port), SYN_ACK);
            assert_eq!(seen(&scene.from_vm(&answer)).ports, (PORTS.0, CLIENT));
        }
    }
}

#[test]
fn a_guest_reaches_its_own_published_port() {
    for remote in REMOTES {
        let mut scene = published();
        let host = host(remote);
        let asked = seen(&scene.from_vm(&knock(protocol::TCP, &to(host))));
        assert_eq!(
            (asked.ends.dst_mac, asked.ends.dst),
            (GUEST_MAC, guest(remote))
        );
        let answer = message(protocol::TCP, &to(host), (PORTS.1, asked.ports.0), SYN_ACK);
        let answered = seen(&scene.from_vm(&answer));
        assert_eq!(
            (answered.ends.src, answered.ends.dst, answered.ports),
            (host, guest(remote), (PORTS.0, CLIENT))
        );
    }
}

#[test]
fn a_guest_that_may_not_does_not_reach_a_limited_port_by_the_hosts_address() {
    for remote in REMOTES {
        let mut scene = two_guests();
        let limited = Publication {
            limited: true,
            ..publication(protocol::TCP, unspecified(remote))
        };
        publish(&mut scene.datapath, &scene::record(), &limited);
        // The host's own address does not stand for guests here.
        let host = host(remote);
        let whole = if remote.is_ipv4() { 32 } else { 128 };
        scene.datapath.add_sender(limited.id, (host, whole));
        let asked = scene.from_other(&knock(protocol::TCP, &other_to(host)));
        assert_refused(&asked, "not for this guest");
        assert_eq!(drops_of(&mut scene, DropReason::PublishDenied), 1);
        scene
            .datapath
            .add_sender(limited.id, (other_to(host).src, whole));
        let asked = scene.from_other(&knock(protocol::TCP, &other_to(host)));
        assert_eq!(seen(&asked).ends.dst_mac, GUEST_MAC);
    }
}

#[test]
fn a_guest_behind_a_published_port_does_not_reach_what_else_the_host_has() {
    for remote in REMOTES {
        let mut scene = two_guests();
        let host = host(remote);
        let asked = seen(&scene.from_other(&knock(protocol::TCP, &other_to(host))));
        // From its published port, but to another port of the host's address than the client's.
        for port in [22, asked.ports.0 + 1] {
            let stray = message(protocol::TCP, &to(host), (PORTS.1, port), SYN_ACK);
            assert_refused(&scene.from_vm(&stray), "a stray");
        }
        assert_eq!(drops_of(&mut scene, DropReason::HostAddress), 2);
    }
}

/// A packet of the host to the guest, from the gateway's own address.
fn of_host(remote: IpAddr) -> Ends {
    let gateway: IpAddr = if remote.is_ipv4() {
        GATEWAY_V4.into()
    } else {
        "fd00:a:b:5::1".parse().unwrap()
    };
    back(remote).from(gateway).to(guest(remote))
}

#[test]
fn the_host_reaches_exposed_ports_and_no_others() {
    for remote in [REMOTES[0], IpAddr::V6(HOST_V6)] {
        for protocol in PROTOCOLS {
            let mut scene = Scene::usual();
            let ends = if remote.is_ipv4() {
                of_host(remote)
            } else {
                back(remote).from(HOST_V6).to(GUEST_V6)
            };
            let to_port = |port, flags| message(protocol, &ends, (CLIENT, port), flags);
            assert_eq!(
                scene.from_host(&to_port(PORTS.1, tcp_flag::SYN)).verdict,
                verdict::DROP
            );
            expose(&mut scene.datapath, &scene::record(), (PORTS.1, protocol));
            let reached = scene.from_host(&to_port(PORTS.1, tcp_flag::SYN));
            assert_eq!(reached.verdict, verdict::NEXT);
            assert_eq!(
                scene
                    .from_host(&to_port(PORTS.1 + 1, tcp_flag::SYN))
                    .verdict,
                verdict::DROP
            );
            let answer = |port, flags| message(protocol, &to(ends.src), (port, CLIENT), flags);
            let answered = scene.from_vm(&answer(PORTS.1, SYN_ACK));
            assert_eq!(answered.verdict, verdict::NEXT, "the host's stack gets it");
            let stray = scene.from_vm(&answer(PORTS.1 + 1, SYN_ACK));
            assert_refused(&stray, "and nothing else");
        }
    }
}

#[test]
fn what_the_host_opened_ends_when_the_port_is_exposed_no_more() {
    let mut scene = Scene::usual();
    let record = scene::record();
    expose(&mut scene.datapath, &record, (PORTS.1, protocol::TCP));
    let of_host = message(
        protocol::TCP,
        &of_host(REMOTES[0]),
        (CLIENT, PORTS.1),
        tcp_flag::SYN,
    );
    assert_eq!(scene.from_host(&of_host).verdict, verdict::NEXT);
    let answer = message(protocol::TCP, &to(GATEWAY_V4), (PORTS.1, CLIENT), SYN_ACK);
    raise_policy_generation(&mut scene);
    assert_eq!(
        scene.from_vm(&answer).verdict,
        verdict::NEXT,
        "it is exposed still"
    );
    expose(
        &mut scene.datapath,
        &Interface {
            generation: record.generation + 1,
            ..record
        },
        (PORTS.1, protocol::TCP),
    );
    scene.datapath.set_interface(&Interface {
        policy_generation: record.policy_generation + 2,
        ..record
    });
    assert_refused(&scene.from_vm(&answer), "it is exposed no more");
    assert_eq!(scene.from_host(&of_host).verdict, verdict::DROP);
}

/// Packets for published ports that are dropped.
pub(crate) fn denied_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for remote in REMOTES {
        let outsider = knock(protocol::TCP, &back(remote));
        cases.push(
            Case::from_vm(DropReason::PublishDenied, "from outside", outsider)
                .seen_by(FROM_UPLINK, scene::FROM_UPLINK)
                .with(crate::drops::Maps::Limited),
        );
        let taken = message(
            protocol::TCP,
            &back(remote),
            (5_000, PORTS.0),
            tcp_flag::SYN,
        );
        cases.push(
            Case::from_vm(DropReason::FlowTaken, "the guest's ports", taken)
                .seen_by(FROM_UPLINK, scene::FROM_UPLINK)
                .with(crate::drops::Maps::Taken),
        );
    }
    cases
}

/// Publishes a port in both families: only for others, or for everybody while the guest has a flow with the port.
pub(crate) fn prepare(scene: &mut Scene, limited: bool) {
    for remote in REMOTES {
        let publication = Publication {
            limited,
            ..publication(protocol::TCP, unspecified(remote))
        };
        publish(&mut scene.datapath, &scene::record(), &publication);
        if !limited {
            let own = message(protocol::TCP, &to(remote), (PORTS.1, 5_000), tcp_flag::SYN);
            assert_eq!(scene.from_vm(&own).verdict, verdict::REDIRECT);
        }
    }
}
