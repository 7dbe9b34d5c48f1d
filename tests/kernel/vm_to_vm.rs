//! Instances of one account that reach each other's addresses (P-12).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netagent_common::drop::DropReason;
use netagent_common::net::tcp_flag::{ACK, RST, SYN};
use netagent_common::net::{GATEWAY_MAC, protocol};
use netagent_common::policy::policy_flag::DENY_ALL;
use netagent_common::policy::{PolicyId, Verdict};
use netagent_common::vm::Interface;
use netagent_tests::packet::{self, Ends, Packet, Segment};
use netagent_tests::prog_run::{Outcome, Sizes, verdict};
use netagent_tests::scene::{
    self, GUEST_MAC, GUEST_V4, GUEST_V6, OTHER_SLOT, OTHER_TAP, SLOT, Scene, back, to,
};

/// The other guest.
const OTHER_MAC: [u8; 6] = [0xaa, 0xfc, 0, 0, 0, 7];
const OTHER_V4: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 26);
const OTHER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xa, 0xb, OTHER_SLOT as u16, 0, 0, 0, 2);
const OTHERS: [IpAddr; 2] = [IpAddr::V4(OTHER_V4), IpAddr::V6(OTHER_V6)];
/// The account of both.
const ACCOUNT: u32 = 9;
const POLICY: PolicyId = [3; 16];
/// Of the sender, and of the receiver.
const PORTS: (u16, u16) = (5_000, 80);

#[derive(Clone, Copy, Debug)]
enum Kind {
    Tcp,
    Udp,
    Echo,
}

const KINDS: [Kind; 3] = [Kind::Tcp, Kind::Udp, Kind::Echo];

fn own(other: IpAddr) -> IpAddr {
    if other.is_ipv4() {
        GUEST_V4.into()
    } else {
        GUEST_V6.into()
    }
}

fn segment(ends: &Ends, (src_port, dst_port): (u16, u16), flags: u8) -> Vec<u8> {
    let segment = Segment {
        src_port,
        dst_port,
        sequence: 7,
        acknowledgement: 9,
        flags,
    };
    packet::tcp(ends, segment, b"segment")
}

fn question(kind: Kind, other: IpAddr) -> Vec<u8> {
    match kind {
        Kind::Tcp => segment(&to(other), PORTS, SYN),
        Kind::Udp => packet::udp(&to(other), PORTS, b"datagram"),
        Kind::Echo => packet::echo_request(&to(other), (PORTS.0, 1), b"echo"),
    }
}

/// Ends of a packet from the other guest to the first one.
fn back_to_guest(other: IpAddr) -> Ends {
    Ends {
        src_mac: OTHER_MAC,
        src: other,
        ..to(own(other))
    }
}

fn answer(kind: Kind, other: IpAddr) -> Vec<u8> {
    let ends = back_to_guest(other);
    let ports = (PORTS.1, PORTS.0);
    match kind {
        Kind::Tcp => segment(&ends, ports, SYN | ACK),
        Kind::Udp => packet::udp(&ends, ports, b"datagram"),
        Kind::Echo => packet::echo_reply(&ends, (PORTS.0, 1), b"echo"),
    }
}

fn guest_record(account: u32) -> Interface {
    Interface {
        account,
        ..scene::record()
    }
}

fn other_record(account: u32) -> Interface {
    let mut record = scene::record();
    record.generation += 1;
    record.account = account;
    record.guest_mac = OTHER_MAC;
    record.addresses_v4[0] = OTHER_V4.octets();
    record.addresses_v6[0] = OTHER_V6.octets();
    record
}

/// Guests of these accounts, the first one as it is given.
fn two_guests(guest: &Interface, account: u32) -> Scene {
    let mut scene = Scene::new(Sizes::default(), guest);
    scene.add_other(other_record(account));
    for (slot, v4, v6) in [(SLOT, GUEST_V4, GUEST_V6), (OTHER_SLOT, OTHER_V4, OTHER_V6)] {
        scene.datapath.add_guest(slot, (v4.into(), 32));
        scene.datapath.add_guest(slot, (v6.into(), 64));
    }
    scene
}

fn neighbours() -> Scene {
    two_guests(&guest_record(ACCOUNT), ACCOUNT)
}

fn drops_of(scene: &mut Scene, slot: u32, reason: DropReason) -> u64 {
    let drops = scene.datapath.drops();
    drops.get(&(slot, reason)).copied().unwrap_or(0)
}

#[track_caller]
fn check_passed(outcome: &Outcome, sent: &[u8], dst_mac: [u8; 6]) {
    assert_eq!(outcome.verdict, verdict::REDIRECT, "{:?}", outcome.bytes);
    packet::assert_checksums(&outcome.bytes);
    let (sent, seen) = (Packet::parse(sent), Packet::parse(&outcome.bytes));
    let (sent, seen) = (sent.unwrap(), seen.unwrap());
    assert_eq!(
        (seen.ends.src_mac, seen.ends.dst_mac),
        (GATEWAY_MAC, dst_mac)
    );
    assert_eq!(
        (seen.ends.src, seen.ends.dst),
        (sent.ends.src, sent.ends.dst)
    );
    assert_eq!(seen.ports, sent.ports);
    assert!(seen.ends.ttl < sent.ends.ttl);
}

/// Nothing of it reached the other guest; its own may have been told why.
#[track_caller]
fn check_refused(outcome: &Outcome, guest_mac: [u8; 6]) {
    let is_told = Packet::parse(&outcome.bytes).is_some_and(|packet| {
        packet.ends.dst_mac == guest_mac && packet.ends.src_mac == GATEWAY_MAC
    });
    assert!(
        outcome.verdict == verdict::DROP || (outcome.verdict == verdict::REDIRECT && is_told),
        "{:?}",
        outcome.bytes
    );
}

#[test]
fn guests_of_one_account_reach_each_other_under_their_own_addresses() {
    for other in OTHERS {
        for kind in KINDS {
            let mut scene = neighbours();
            for _ in 0..2 {
                let asked = question(kind, other);
                check_passed(&scene.from_vm(&asked), &asked, OTHER_MAC);
                let answered = answer(kind, other);
                check_passed(&scene.from_other(&answered), &answered, GUEST_MAC);
            }
        }
    }
}

#[test]
fn without_an_account_in_common_guests_are_strangers() {
    for (guest, other_account) in [(0, 0), (ACCOUNT, 0), (0, ACCOUNT), (ACCOUNT, ACCOUNT + 1)] {
        let mut scene = two_guests(&guest_record(guest), other_account);
        for other in OTHERS {
            for kind in KINDS {
                check_refused(&scene.from_vm(&question(kind, other)), GUEST_MAC);
            }
        }
        assert_eq!(drops_of(&mut scene, SLOT, DropReason::OtherInstance), 6);
    }
}

#[test]
fn the_lists_of_the_sender_and_the_denied_networks_of_the_other_decide() {
    for (of_sender, verdict, reason) in [
        (true, Verdict::Denied, Some(DropReason::DeniedCidr)),
        (true, Verdict::NotAllowed, Some(DropReason::NotAllowed)),
        (true, Verdict::Allowed, None),
        (false, Verdict::Denied, Some(DropReason::DeniedCidr)),
        (false, Verdict::NotAllowed, None),
    ] {
        let named = Interface {
            policy: POLICY,
            ..guest_record(ACCOUNT)
        };
        let sender = if of_sender {
            named
        } else {
            guest_record(ACCOUNT)
        };
        let mut scene = two_guests(&sender, ACCOUNT);
        scene.datapath.set_policy(
            POLICY,
            &[
                ((Ipv4Addr::UNSPECIFIED.into(), 0), verdict),
                ((Ipv6Addr::UNSPECIFIED.into(), 0), verdict),
            ],
        );
        if !of_sender {
            scene.add_other(Interface {
                policy: POLICY,
                ..other_record(ACCOUNT)
            });
        }
        for other in OTHERS {
            for kind in KINDS {
                let asked = question(kind, other);
                let outcome = scene.from_vm(&asked);
                match reason {
                    None => check_passed(&outcome, &asked, OTHER_MAC),
                    Some(_) => {
                        assert_eq!(outcome.verdict, verdict::REDIRECT, "it is told");
                        check_refused(&outcome, GUEST_MAC);
                    }
                }
            }
        }
        if let Some(reason) = reason {
            assert_eq!(drops_of(&mut scene, SLOT, reason), 6, "{verdict:?}");
        }
    }
}

#[test]
fn an_account_that_changes_under_a_flow_ends_its_packets() {
    for other in OTHERS {
        for kind in KINDS {
            let mut scene = neighbours();
            let asked = question(kind, other);
            check_passed(&scene.from_vm(&asked), &asked, OTHER_MAC);
            scene.add_other(other_record(ACCOUNT + 1));
            check_refused(&scene.from_other(&answer(kind, other)), OTHER_MAC);
            check_refused(&scene.from_vm(&asked), GUEST_MAC);
            assert_eq!(drops_of(&mut scene, SLOT, DropReason::OtherInstance), 1);
        }
    }
}

#[test]
fn the_senders_policy_decides_and_the_others_does_not_let_it_in_by_answering() {
    for other in OTHERS {
        for kind in KINDS {
            let denied = Interface {
                policy_flags: DENY_ALL,
                ..guest_record(ACCOUNT)
            };
            let mut scene = two_guests(&denied, ACCOUNT);
            check_refused(&scene.from_vm(&question(kind, other)), GUEST_MAC);
            assert_eq!(drops_of(&mut scene, SLOT, DropReason::DenyAll), 1);
            // The other one may ask it, and is answered.
            let ends = back_to_guest(other);
            let (asked, answered) = match kind {
                Kind::Tcp => (
                    segment(&ends, PORTS, SYN),
                    segment(&to(other), (PORTS.1, PORTS.0), SYN | ACK),
                ),
                Kind::Udp => (
                    packet::udp(&ends, PORTS, b"datagram"),
                    packet::udp(&to(other), (PORTS.1, PORTS.0), b"datagram"),
                ),
                Kind::Echo => (
                    packet::echo_request(&ends, (PORTS.0, 1), b"echo"),
                    packet::echo_reply(&to(other), (PORTS.0, 1), b"echo"),
                ),
            };
            check_passed(&scene.from_other(&asked), &asked, GUEST_MAC);
            check_passed(&scene.from_vm(&answered), &answered, OTHER_MAC);
        }
    }
}

#[test]
fn a_flow_ends_when_the_senders_policy_forbids_it_and_a_connection_by_a_reset() {
    for other in OTHERS {
        for kind in KINDS {
            let mut scene = neighbours();
            let asked = question(kind, other);
            check_passed(&scene.from_vm(&asked), &asked, OTHER_MAC);
            let answered = answer(kind, other);
            check_passed(&scene.from_other(&answered), &answered, GUEST_MAC);
            let before = guest_record(ACCOUNT);
            scene.datapath.set_interface(&Interface {
                policy_generation: before.policy_generation + 1,
                policy_flags: DENY_ALL,
                ..before
            });
            let next = match kind {
                Kind::Tcp => segment(&to(other), PORTS, ACK),
                Kind::Udp | Kind::Echo => asked,
            };
            scene.datapath.up(0);
            let told = scene.from_vm(&next);
            if matches!(kind, Kind::Tcp) {
                let guest = scene.told(0);
                check_reset(&guest, (other, own(other)), (PORTS.1, PORTS.0));
                assert_eq!(guest.ends.dst_mac, GUEST_MAC);
                check_other_reset(&told, other);
            } else {
                check_refused(&told, GUEST_MAC);
            }
            // What it was asked by does not let the other one go on.
            let stray = scene.from_other(&answered);
            check_refused(&stray, OTHER_MAC);
            assert_eq!(drops_of(&mut scene, SLOT, DropReason::DenyAll), 1);
        }
    }
}

/// The other guest was told that the connection, which the first one opened, is over.
#[track_caller]
fn check_other_reset(outcome: &Outcome, other: IpAddr) {
    assert_eq!(outcome.verdict, verdict::REDIRECT);
    packet::assert_checksums(&outcome.bytes);
    let reset = Packet::parse(&outcome.bytes).unwrap();
    assert_eq!(reset.ends.dst_mac, OTHER_MAC);
    check_reset(&reset, (own(other), other), PORTS);
}

#[track_caller]
fn check_reset(reset: &Packet, (src, dst): (IpAddr, IpAddr), ports: (u16, u16)) {
    assert_eq!(reset.protocol, protocol::TCP);
    assert_eq!((reset.ends.src, reset.ends.dst), (src, dst));
    assert_eq!(reset.ports, ports);
    assert_ne!(reset.kind & RST, 0);
    assert!(reset.payload.is_empty());
}

#[test]
fn who_sends_to_a_guest_that_is_gone_is_reset_alone() {
    for other in OTHERS {
        let mut scene = neighbours();
        let asked = question(Kind::Tcp, other);
        check_passed(&scene.from_vm(&asked), &asked, OTHER_MAC);
        let answered = answer(Kind::Tcp, other);
        check_passed(&scene.from_other(&answered), &answered, GUEST_MAC);
        scene.datapath.up(0);
        scene.datapath.set_active(OTHER_SLOT, 0);
        let before = guest_record(ACCOUNT);
        scene.datapath.set_interface(&Interface {
            policy_generation: before.policy_generation + 1,
            ..before
        });
        let ended = scene.from_vm(&segment(&to(other), PORTS, ACK));
        assert_eq!(ended.verdict, verdict::DROP, "nobody else is told");
        let guest = scene.told(0);
        check_reset(&guest, (other, own(other)), (PORTS.1, PORTS.0));
        assert_eq!(guest.ends.dst_mac, GUEST_MAC);
        let drops: u64 = scene.datapath.drops().values().sum();
        assert_eq!(drops, 1);
    }
}

#[test]
fn a_connection_ends_for_both_when_the_network_of_who_opened_it_is_denied_by_the_other() {
    for other in OTHERS {
        for answers_first in [false, true] {
            let mut scene = neighbours();
            let asked = question(Kind::Tcp, other);
            check_passed(&scene.from_vm(&asked), &asked, OTHER_MAC);
            let answered = answer(Kind::Tcp, other);
            check_passed(&scene.from_other(&answered), &answered, GUEST_MAC);
            scene.datapath.up(0);
            scene.datapath.up(3);
            let everything = [
                ((Ipv4Addr::UNSPECIFIED.into(), 0), Verdict::Denied),
                ((Ipv6Addr::UNSPECIFIED.into(), 0), Verdict::Denied),
            ];
            scene.datapath.set_policy(POLICY, &everything);
            let before = other_record(ACCOUNT);
            scene.datapath.set_interface(&Interface {
                ifindex: OTHER_TAP,
                slot: OTHER_SLOT,
                instance: OTHER_SLOT,
                policy: POLICY,
                policy_generation: before.policy_generation + 1,
                ..before
            });
            let ended = if answers_first {
                scene.from_other(&answered)
            } else {
                scene.from_vm(&segment(&to(other), PORTS, ACK))
            };
            // In the place of the segment goes what tells the guest that opened it.
            assert_eq!(ended.verdict, verdict::REDIRECT);
            packet::assert_checksums(&ended.bytes);
            let (guest, told) = (Packet::parse(&ended.bytes).unwrap(), scene.told(3));
            assert_eq!(
                (guest.ends.dst_mac, told.ends.dst_mac),
                (GUEST_MAC, OTHER_MAC)
            );
            check_reset(&guest, (other, own(other)), (PORTS.1, PORTS.0));
            check_reset(&told, (own(other), other), PORTS);
            assert_eq!(drops_of(&mut scene, OTHER_SLOT, DropReason::DeniedCidr), 1);
        }
    }
}

#[test]
fn a_flow_that_stays_permitted_outlives_a_change_of_either_policy() {
    for other in OTHERS {
        for kind in KINDS {
            let mut scene = neighbours();
            let asked = question(kind, other);
            check_passed(&scene.from_vm(&asked), &asked, OTHER_MAC);
            let before = guest_record(ACCOUNT);
            scene.datapath.set_interface(&Interface {
                policy_generation: before.policy_generation + 1,
                ..before
            });
            let changed = other_record(ACCOUNT);
            scene.add_other(Interface {
                policy_generation: changed.policy_generation + 1,
                ..changed
            });
            let answered = answer(kind, other);
            check_passed(&scene.from_other(&answered), &answered, GUEST_MAC);
            check_passed(&scene.from_vm(&asked), &asked, OTHER_MAC);
        }
    }
}

#[test]
fn nothing_of_the_world_gets_into_what_guests_say_to_each_other() {
    for other in OTHERS {
        let mut scene = neighbours();
        let asked = question(Kind::Udp, other);
        check_passed(&scene.from_vm(&asked), &asked, OTHER_MAC);
        for (src, dst, ports) in [
            (own(other), other, PORTS),
            (other, own(other), (PORTS.1, PORTS.0)),
        ] {
            let forged = packet::udp(&back(src).to(dst), ports, b"forged");
            assert_eq!(scene.from_uplink(&forged).verdict, verdict::DROP);
        }
    }
}
