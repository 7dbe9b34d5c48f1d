//! Guests that reach published ports by the host's address: what they send turns round at the host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netagent_common::drop::DropReason;
use netagent_common::net::{protocol, tcp_flag};
use netagent_common::vm::Interface;
use netagent_tests::packet::Ends;
use netagent_tests::prog_run::verdict;
use netagent_tests::published::{Publication, publish, unpublish};
use netagent_tests::scene::{self, GUEST_MAC, OTHER_SLOT, Scene, back, to};

use crate::published::{
    CLIENT, PORTS, PROTOCOLS, REMOTES, SYN_ACK, assert_refused, drops_of, guest, host, knock,
    message, publication, published, raise_policy_generation, seen, unspecified,
};

/// The other guest.
const OTHER_MAC: [u8; 6] = [0xaa, 0xfc, 0, 0, 0, 7];
const OTHER_V4: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 26);
const OTHER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xa, 0xb, OTHER_SLOT as u16, 0, 0, 0, 2);

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

#[test]
fn a_connection_ends_for_both_guests_when_its_port_is_published_no_more() {
    for remote in REMOTES {
        for client_speaks_first in [false, true] {
            let mut scene = two_guests();
            let host = host(remote);
            let asked = seen(&scene.from_other(&knock(protocol::TCP, &other_to(host))));
            let port = asked.ports.0;
            let answer = message(protocol::TCP, &to(host), (PORTS.1, port), SYN_ACK);
            seen(&scene.from_vm(&answer));
            let next = message(
                protocol::TCP,
                &other_to(host),
                (CLIENT, PORTS.0),
                tcp_flag::ACK,
            );
            seen(&scene.from_other(&next));
            scene.datapath.up(0);
            scene.datapath.up(3);
            unpublish(
                &mut scene.datapath,
                &publication(protocol::TCP, unspecified(remote)),
            );
            raise_policy_generation(&mut scene);
            let outcome = if client_speaks_first {
                scene.from_other(&next)
            } else {
                scene.from_vm(&answer)
            };
            // The frame that the program answers goes to the client in both cases: it is the other end of the flow that ends.
            let client = seen(&outcome);
            assert_eq!(client.ends.dst_mac, OTHER_MAC);
            assert_eq!(
                (client.ends.src, client.ends.dst),
                (host, other_to(host).src)
            );
            assert_eq!(client.ports, (PORTS.0, CLIENT));
            assert_ne!(client.kind & tcp_flag::RST, 0);
            let server = scene.told(0);
            assert_eq!((server.ends.src, server.ends.dst), (host, guest(remote)));
            assert_eq!(server.ports, (port, PORTS.1));
            assert_ne!(server.kind & tcp_flag::RST, 0);
            assert_eq!(drops_of(&mut scene, DropReason::Unsolicited), 1);
        }
    }
}
