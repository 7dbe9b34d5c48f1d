//! What stays closed, and what happens while the relay is not there.

use std::net::{IpAddr, Ipv4Addr};

use netagent_common::drop::{DropReason, NO_SLOT};
use netagent_common::net::tcp_flag::{ACK, RST, SYN};
use netagent_common::policy::policy_flag::{DENY_ALL, LEG, QUARANTINE};
use netagent_common::vm::Interface;
use netagent_tests::packet::Ends;
use netagent_tests::prog_run::verdict;
use netagent_tests::scene::{GUEST_MAC, back, to};

use super::{
    GUEST_V4, KINDS, Kind, LEG_SLOT, OTHER_SLOT, OTHER_TAP, PORTS, RELAY_MAC, REMOTES, SLOT, Scene,
    check_refused, client, drops_of, forwarded, leg_of, message, pass, question, relay, relayed,
    returned,
};

#[test]
fn a_client_reaches_neither_its_relay_nor_another_guest() {
    for remote in REMOTES {
        for kind in KINDS {
            let mut scene = relayed();
            let stranger: IpAddr = if remote.is_ipv4() {
                Ipv4Addr::new(172, 16, 0, 30).into()
            } else {
                "fd00:a:b:7::2".parse().unwrap()
            };
            for other in [relay(remote), stranger] {
                check_refused(&scene.from_vm(&question(kind, other)), GUEST_MAC);
            }
            assert_eq!(drops_of(&mut scene, SLOT, DropReason::OtherInstance), 2);
        }
    }
}

#[test]
fn a_relay_opens_nothing_towards_its_client() {
    for remote in REMOTES {
        for kind in KINDS {
            let mut scene = relayed();
            let ends = Ends {
                src: relay(remote),
                ..returned(remote)
            };
            let own = message(kind, &ends, PORTS, SYN);
            check_refused(&scene.from_other(&own), RELAY_MAC);
            // Nor in the world's name.
            for flags in [SYN, ACK, SYN | ACK, RST] {
                let forged = message(kind, &returned(remote), (PORTS.1, PORTS.0), flags);
                assert_eq!(scene.from_other(&forged).verdict, verdict::DROP);
            }
            let unsolicited = drops_of(&mut scene, LEG_SLOT, DropReason::Unsolicited);
            assert_eq!(unsolicited, 4, "{:?}", scene.datapath.drops());
        }
    }
}

#[test]
fn a_relay_answers_a_flow_of_its_client_and_no_other() {
    for remote in REMOTES {
        let mut scene = relayed();
        pass(&mut scene, Kind::Udp, remote);
        for (src, ports) in [
            (remote, (PORTS.1 + 1, PORTS.0)),
            (remote, (PORTS.1, PORTS.0 + 1)),
            (relay(remote), (PORTS.1, PORTS.0)),
            (super::scene::ROUTER_V4.into(), (PORTS.1, PORTS.0)),
        ] {
            if src.is_ipv4() != remote.is_ipv4() {
                continue;
            }
            let ends = Ends {
                src,
                ..returned(remote)
            };
            let outcome = scene.from_other(&message(Kind::Udp, &ends, ports, ACK));
            check_refused(&outcome, RELAY_MAC);
        }
    }
}

#[test]
fn a_relay_sends_in_the_name_of_its_own_clients_alone() {
    for remote in REMOTES {
        for kind in KINDS {
            let mut scene = relayed();
            let stranger: IpAddr = if remote.is_ipv4() {
                Ipv4Addr::new(172, 16, 0, 30).into()
            } else {
                "fd00:a:b:7::2".parse().unwrap()
            };
            for src in [stranger, remote] {
                let other: IpAddr = if remote.is_ipv4() {
                    "203.0.113.77".parse().unwrap()
                } else {
                    "2001:db8:200::77".parse().unwrap()
                };
                let ends = Ends {
                    src,
                    ..forwarded(&to(other))
                };
                let outcome = scene.from_other(&message(kind, &ends, PORTS, SYN));
                assert_eq!(outcome.verdict, verdict::DROP, "{src}");
            }
            let spoofed = drops_of(&mut scene, OTHER_SLOT, DropReason::SpoofedAddress);
            assert_eq!(spoofed, 2);
        }
    }
}

#[test]
fn the_client_of_another_relay_is_a_stranger() {
    for remote in REMOTES {
        let mut scene = relayed();
        pass(&mut scene, Kind::Udp, remote);
        // The relay's TAP was made anew, and the leg follows another.
        scene.datapath.set_interface(&Interface {
            ifindex: OTHER_TAP + 0x1_0000,
            ..leg_of(&client())
        });
        let ends = forwarded(&to(remote));
        let sent = scene.from_other(&message(Kind::Udp, &ends, PORTS, SYN));
        assert_eq!(sent.verdict, verdict::DROP);
        let back = message(Kind::Udp, &returned(remote), (PORTS.1, PORTS.0), ACK);
        assert_eq!(scene.from_other(&back).verdict, verdict::DROP);
        assert_eq!(
            drops_of(&mut scene, OTHER_SLOT, DropReason::SpoofedAddress),
            2
        );
    }
}

#[test]
fn a_client_s_address_comes_in_by_no_other_tap() {
    for remote in REMOTES {
        let mut scene = relayed();
        // At its own TAP under the relay's address, and from a guest that is nobody's relay.
        let ends = Ends {
            src: relay(remote),
            ..to(remote)
        };
        let forged = message(Kind::Udp, &ends, PORTS, SYN);
        assert_eq!(scene.from_vm(&forged).verdict, verdict::DROP);
        assert_eq!(drops_of(&mut scene, SLOT, DropReason::SpoofedAddress), 1);
    }
}

#[test]
fn a_stranger_in_the_network_of_a_client_s_address_blinds_nobody() {
    // Somebody has the first address of the network in which the client has its own.
    let mut scene = relayed();
    let mut network = super::GUEST_V6.octets();
    network[8..].fill(0);
    let maps = netagent_common::names::map::CLIENTS_V6;
    let found = |slot, leg| netagent_common::vm::Client { slot, leg };
    scene
        .datapath
        .remove::<[u8; 16], netagent_common::vm::Client>(maps, &network);
    for (address, client) in [
        (network, found(9, 109)),
        (super::GUEST_V6.octets(), found(SLOT, LEG_SLOT)),
    ] {
        scene
            .datapath
            .insert::<[u8; 16], netagent_common::vm::Client>(maps, address, client);
    }
    pass(&mut scene, Kind::Udp, REMOTES[1]);
}

/// The scene, once the relay is not there in one of the ways in which that can be.
fn without_relay() -> Vec<(&'static str, Interface, bool)> {
    let leg = leg_of(&client());
    vec![
        ("it is down", Interface { ifindex: 0, ..leg }, true),
        (
            "the leg is of an earlier life",
            Interface {
                generation: leg.generation - 1,
                ..leg
            },
            true,
        ),
        ("the leg is another's", Interface { client: 9, ..leg }, true),
        (
            "the slot is no leg",
            Interface {
                policy_flags: leg.policy_flags & !LEG,
                ..leg
            },
            true,
        ),
        ("there is no leg", leg, false),
    ]
}

#[test]
fn without_its_relay_nothing_of_a_client_goes_anywhere() {
    for (what, leg, is_there) in without_relay() {
        for remote in REMOTES {
            for is_open in [false, true] {
                let mut scene = relayed();
                if is_open {
                    pass(&mut scene, Kind::Tcp, remote);
                }
                scene.datapath.set_interface(&leg);
                if !is_there {
                    scene.datapath.set_active(LEG_SLOT, 0);
                }
                let flags = if is_open { ACK } else { SYN };
                let sent = message(Kind::Tcp, &to(remote), PORTS, flags);
                check_refused(&scene.from_vm(&sent), GUEST_MAC);
                let counted = drops_of(&mut scene, SLOT, DropReason::RelayDown);
                assert_eq!(counted, 1, "{what}: {:?}", scene.datapath.drops());
            }
        }
    }
}

#[test]
fn replies_stay_out_while_the_relay_is_down_and_pass_when_it_is_back() {
    for remote in REMOTES {
        let mut scene = relayed();
        let nat_port = pass(&mut scene, Kind::Udp, remote);
        let answer = message(Kind::Udp, &back(remote), (PORTS.1, nat_port), ACK);
        let leg = leg_of(&client());
        scene
            .datapath
            .set_interface(&Interface { ifindex: 0, ..leg });
        assert_eq!(scene.from_uplink(&answer).verdict, verdict::DROP);
        assert_eq!(drops_of(&mut scene, LEG_SLOT, DropReason::RelayDown), 1);
        scene.datapath.set_interface(&leg);
        assert_eq!(
            pass(&mut scene, Kind::Udp, remote),
            nat_port,
            "the same flow"
        );
    }
}

#[test]
fn what_the_host_sends_does_not_reach_a_client_past_its_relay() {
    let mut scene = relayed();
    let leg = leg_of(&client());
    for ifindex in [OTHER_TAP, 0] {
        scene.datapath.set_interface(&Interface { ifindex, ..leg });
        for kind in [Kind::Tcp, Kind::Udp] {
            let ends = Ends {
                dst_mac: GUEST_MAC,
                ..back(super::scene::HOST_V4).to(GUEST_V4)
            };
            let sent = message(kind, &ends, PORTS, SYN);
            assert_eq!(scene.from_host(&sent).verdict, verdict::DROP);
        }
    }
    assert_eq!(drops_of(&mut scene, LEG_SLOT, DropReason::Unsolicited), 2);
    assert_eq!(drops_of(&mut scene, SLOT, DropReason::RelayDown), 2);
    assert_eq!(drops_of(&mut scene, NO_SLOT, DropReason::RelayDown), 0);
}

#[test]
fn a_relay_sends_nothing_for_a_client_that_may_send_nothing() {
    for (flags, reason) in [
        (LEG | DENY_ALL, DropReason::DenyAll),
        (LEG | QUARANTINE, DropReason::Quarantine),
    ] {
        for remote in REMOTES {
            let mut scene: Scene = relayed();
            scene.datapath.set_interface(&Interface {
                policy_flags: flags,
                ..leg_of(&client())
            });
            let ends = forwarded(&to(remote));
            check_refused(
                &scene.from_other(&message(Kind::Udp, &ends, PORTS, SYN)),
                RELAY_MAC,
            );
            assert_eq!(drops_of(&mut scene, LEG_SLOT, reason), 1);
        }
    }
}
