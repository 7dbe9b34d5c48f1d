//! What the world opens by a published port, and what becomes of it.

use std::net::IpAddr;

use netagent_common::drop::DropReason;
use netagent_common::names::COLLECT_FLOWS;
use netagent_common::net::{GATEWAY_MAC, protocol, tcp_flag};
use netagent_common::policy::RouteKind;
use netagent_common::vm::Interface;
use netagent_tests::packet::{self, Ends};
use netagent_tests::prog_run::{Outcome, Sizes, verdict};
use netagent_tests::published::{Publication, publish, unpublish};
use netagent_tests::scene::{self, GUEST_MAC, REMOTE_V4, Scene, back, to};

use crate::published::{
    CLIENT, PORTS, PROTOCOLS, REMOTES, SYN_ACK, assert_refused, drops_of, guest, host, knock,
    message, publication, published, raise_policy_generation, seen, unspecified,
};

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

/// A connection with the ports of one that was reset a moment ago: what its flow was before is not believed any more.
#[test]
fn a_client_that_comes_back_by_the_same_port_is_established_by_its_handshake() {
    for remote in REMOTES {
        let mut scene = published();
        for _ in 0..2 {
            let client = |scene: &mut Scene, flags| {
                let ports = (CLIENT, PORTS.0);
                let segment = message(protocol::TCP, &back(remote), ports, flags);
                seen(&scene.from_uplink(&segment));
            };
            client(&mut scene, tcp_flag::SYN);
            let answer = message(protocol::TCP, &to(remote), (PORTS.1, CLIENT), SYN_ACK);
            seen(&scene.from_vm(&answer));
            client(&mut scene, tcp_flag::ACK);
            // Nobody says anything for longer than a connection may be half open.
            scene.age_flows_by(PORTS.1, 60);
            assert_eq!(scene.datapath.collect(COLLECT_FLOWS).0.removed, 0);
            client(&mut scene, tcp_flag::ACK);
            client(&mut scene, tcp_flag::RST);
        }
    }
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
            // Whoever sends first ends it for both; what the guest sends then is a flow of its own.
            let (first, second) = if guest_speaks_first {
                (guest, world)
            } else {
                (world, guest)
            };
            let told = seen(&first);
            assert_eq!((told.ends.dst, told.ports), (remote, (PORTS.0, CLIENT)));
            assert_ne!(told.kind & tcp_flag::RST, 0);
            if guest_speaks_first {
                assert_eq!(second.verdict, verdict::NEXT, "the host's to answer");
            } else {
                assert_ne!(seen(&second).ports.0, PORTS.0);
            }
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
