//! Flows under a policy that changed: what is permitted goes on, what is not ends for both ends.

use std::net::IpAddr;

use netagent_common::drop::DropReason;
use netagent_common::net::{GATEWAY_MAC, protocol, tcp_flag};
use netagent_common::policy::Verdict;
use netagent_tests::packet::{self, Packet};
use netagent_tests::prog_run::{MARK, verdict};
use netagent_tests::published::{Publication, publish, unpublish};
use netagent_tests::scene::{
    self, GUEST_MAC, GUEST_V4, HOST_V4, REMOTE_V4, SLOT, Scene, UPLINK_MAC, back, to,
};

use crate::policy::{
    PORTS, REMOTES, RST_ACK, SYN_ACK, TRANSPORTS, answer, counted, deny_all, numbers, parsed, put,
    segment, sent, set,
};

/// A flow of the guest that was answered; gives what left first.
fn established(scene: &mut Scene, remote: IpAddr, number: u8) -> Vec<u8> {
    let left = scene.from_vm(&sent(number, &to(remote), tcp_flag::SYN));
    parsed(&left);
    let back = scene.from_uplink(&answer(number, &back(remote), &left.bytes));
    parsed(&back);
    assert_eq!(scene.open_flows(), 1);
    left.bytes
}

#[test]
fn what_the_new_policy_permits_goes_on_as_it_was() {
    for remote in REMOTES {
        for number in TRANSPORTS {
            let mut scene = Scene::usual();
            let left = established(&mut scene, remote, number);
            for generation in 1..4 {
                put(
                    &mut scene,
                    generation,
                    (Verdict::Allowed, Verdict::NotAllowed),
                );
                let packets = [true, false].map(|is_from_vm| is_from_vm == (generation % 2 == 0));
                for is_from_vm in packets {
                    if is_from_vm {
                        let again = scene.from_vm(&sent(number, &to(remote), tcp_flag::ACK));
                        assert_eq!(
                            parsed(&again).ports.0,
                            Packet::parse(&left).unwrap().ports.0
                        );
                    } else {
                        let back = scene.from_uplink(&answer(number, &back(remote), &left));
                        assert_eq!(parsed(&back).ends.dst, to(remote).src);
                    }
                }
            }
            assert_eq!(scene.open_flows(), 1);
            assert_eq!(scene.datapath.drops().values().sum::<u64>(), 0);
        }
    }
}

#[test]
fn a_segment_of_the_guest_ends_its_flow_for_both_ends() {
    for remote in REMOTES {
        for closes in [
            (|scene| put(scene, 1, (Verdict::Denied, Verdict::Default))) as fn(&mut Scene),
            |scene| put(scene, 1, (Verdict::NotAllowed, Verdict::NotAllowed)),
            |scene| set(scene, 1, deny_all),
        ] {
            let mut scene = Scene::usual();
            let left = established(&mut scene, remote, protocol::TCP);
            let nat_port = Packet::parse(&left).unwrap().ports.0;
            scene.datapath.up(0);
            closes(&mut scene);
            let outcome = scene.from_vm(&sent(protocol::TCP, &to(remote), tcp_flag::ACK));
            let peer = parsed(&outcome);
            assert_eq!((peer.ends.src, peer.ends.dst), (back(remote).dst, remote));
            assert_eq!(peer.ports, (nat_port, PORTS.1));
            assert_eq!(peer.kind, RST_ACK);
            assert!(peer.payload.is_empty());
            // In the place of the segment.
            assert_eq!(numbers(&outcome.bytes), (1_000, 2_000));
            assert_ne!(outcome.mark, MARK, "it opens no TAP");
            let guest = scene.told(0);
            assert_eq!((guest.ends.src, guest.ends.dst), (remote, to(remote).src));
            assert_eq!(
                (guest.ends.src_mac, guest.ends.dst_mac),
                (GATEWAY_MAC, GUEST_MAC)
            );
            assert_eq!(guest.ports, (PORTS.1, PORTS.0));
            assert_eq!(guest.kind, tcp_flag::RST);
            assert_eq!(scene.open_flows(), 0);
            assert_eq!(scene.holders(nat_port), Vec::<u16>::new());
            assert_eq!(scene.datapath.drops().values().sum::<u64>(), 1);
        }
    }
}

#[test]
fn a_segment_of_the_world_ends_its_flow_for_both_ends() {
    for remote in REMOTES {
        let mut scene = Scene::usual();
        let left = established(&mut scene, remote, protocol::TCP);
        let nat_port = Packet::parse(&left).unwrap().ports.0;
        scene.datapath.up(0);
        put(&mut scene, 1, (Verdict::Denied, Verdict::Default));
        let late = segment(&back(remote), (PORTS.1, nat_port), tcp_flag::ACK);
        let outcome = scene.from_uplink(&late);
        let peer = parsed(&outcome);
        assert_eq!((peer.ends.src, peer.ends.dst), (back(remote).dst, remote));
        assert_eq!(peer.ends.src_mac, UPLINK_MAC);
        assert_eq!(peer.ends.dst_mac, back(remote).src_mac);
        assert_eq!(peer.ports, (nat_port, PORTS.1));
        assert_eq!(peer.kind, tcp_flag::RST);
        assert_eq!(numbers(&outcome.bytes).0, 2_000, "what the peer expects");
        let guest = scene.told(0);
        assert_eq!((guest.ends.src, guest.ends.dst), (remote, to(remote).src));
        assert_eq!(guest.ends.dst_mac, GUEST_MAC);
        assert_eq!(guest.ports, (PORTS.1, PORTS.0));
        assert_eq!(guest.kind, RST_ACK);
        assert_eq!(counted(&mut scene, DropReason::DeniedCidr), 1);
        assert_eq!(scene.open_flows(), 0);
        // Nothing more of it is the guest's.
        let more = scene.from_uplink(&late);
        assert_ne!(more.verdict, verdict::REDIRECT);
    }
}

#[test]
fn who_sent_anything_else_is_told_that_it_may_not() {
    for remote in REMOTES {
        for number in [protocol::UDP, protocol::ICMP] {
            let mut scene = Scene::usual();
            established(&mut scene, remote, number);
            put(&mut scene, 1, (Verdict::Denied, Verdict::Default));
            crate::policy::assert_refused(
                &mut scene,
                DropReason::DeniedCidr,
                &sent(number, &to(remote), 0),
            );
            assert_eq!(scene.open_flows(), 0);

            let mut scene = Scene::usual();
            let left = established(&mut scene, remote, number);
            put(&mut scene, 1, (Verdict::Denied, Verdict::Default));
            let outcome = scene.from_uplink(&answer(number, &back(remote), &left));
            let told = parsed(&outcome);
            assert_eq!(told.ends.dst, remote);
            assert_ne!(told.protocol, protocol::UDP);
            assert_eq!(counted(&mut scene, DropReason::DeniedCidr), 1);
            assert_eq!(scene.open_flows(), 0);
        }
    }
}

#[test]
fn a_reset_ends_its_flow_and_reaches_the_other_end_without_being_answered() {
    for remote in REMOTES {
        let mut scene = Scene::usual();
        let left = established(&mut scene, remote, protocol::TCP);
        let nat_port = Packet::parse(&left).unwrap().ports.0;
        put(&mut scene, 1, (Verdict::Denied, Verdict::Default));
        let reset = scene.from_vm(&sent(protocol::TCP, &to(remote), tcp_flag::RST));
        let peer = parsed(&reset);
        assert_eq!(
            (peer.kind, peer.ports),
            (tcp_flag::RST, (nat_port, PORTS.1))
        );
        assert!(peer.payload.is_empty());
        assert_eq!(scene.open_flows(), 0);
        assert_eq!(counted(&mut scene, DropReason::DeniedCidr), 1);

        let mut scene = Scene::usual();
        let left = established(&mut scene, remote, protocol::TCP);
        let nat_port = Packet::parse(&left).unwrap().ports.0;
        put(&mut scene, 1, (Verdict::Denied, Verdict::Default));
        let reset = segment(&back(remote), (PORTS.1, nat_port), tcp_flag::RST);
        let guest = parsed(&scene.from_uplink(&reset));
        assert_eq!((guest.kind, guest.ends.dst_mac), (tcp_flag::RST, GUEST_MAC));
        assert_eq!(guest.ports, (PORTS.1, PORTS.0));
        assert_eq!(scene.open_flows(), 0);
        assert_eq!(counted(&mut scene, DropReason::DeniedCidr), 1);
    }
}

#[test]
fn flows_of_the_world_end_with_their_publication_or_their_peer() {
    let publication = Publication {
        id: 1,
        protocol: protocol::TCP,
        address: HOST_V4.into(),
        port: 8_080,
        guest_port: 80,
        limited: false,
    };
    let open = || {
        let mut scene = Scene::usual();
        publish(&mut scene.datapath, &scene::record(), &publication);
        let knock = segment(&back(REMOTE_V4), (51_000, 8_080), tcp_flag::SYN);
        parsed(&scene.from_uplink(&knock));
        let reply = segment(&to(REMOTE_V4), (80, 51_000), SYN_ACK);
        parsed(&scene.from_vm(&reply));
        scene.datapath.up(0);
        scene
    };
    // Not by deny-all: others opened it.
    let mut scene = open();
    set(&mut scene, 1, deny_all);
    let data = segment(&to(REMOTE_V4), (80, 51_000), tcp_flag::ACK);
    assert_eq!(parsed(&scene.from_vm(&data)).kind, tcp_flag::ACK);

    let mut scene = open();
    unpublish(&mut scene.datapath, &publication);
    set(&mut scene, 1, |_| {});
    let peer = parsed(&scene.from_vm(&data));
    assert_eq!((peer.kind, peer.ports), (RST_ACK, (8_080, 51_000)));
    assert_eq!(scene.told(0).kind, tcp_flag::RST);
    assert_eq!(counted(&mut scene, DropReason::Unsolicited), 1);

    let mut scene = open();
    put(&mut scene, 1, (Verdict::Denied, Verdict::Default));
    let more = segment(&back(REMOTE_V4), (51_000, 8_080), tcp_flag::ACK);
    let peer = parsed(&scene.from_uplink(&more));
    assert_eq!(
        (peer.kind, peer.ends.dst),
        (tcp_flag::RST, REMOTE_V4.into())
    );
    let guest = scene.told(0);
    assert_eq!((guest.kind, guest.ends.dst), (RST_ACK, GUEST_V4.into()));
    assert_eq!(guest.ports, (51_000, 80));
}

#[test]
fn errors_and_fragments_are_of_the_flow_that_they_are_about() {
    for (says, passes) in [(Verdict::Allowed, true), (Verdict::Denied, false)] {
        for remote in REMOTES {
            let report = crate::quotes::reports(remote.is_ipv4())[0];
            let expected = if passes {
                verdict::REDIRECT
            } else {
                verdict::DROP
            };
            // From the world, and from the guest, each as the first to come after the change.
            let mut scene = Scene::usual();
            let left = established(&mut scene, remote, protocol::UDP);
            put(&mut scene, 1, (says, Verdict::Default));
            let error = crate::quotes::error(&back(remote), report, (&left, 1_000));
            assert_eq!(scene.from_uplink(&error).verdict, expected);

            let mut scene = Scene::usual();
            let left = established(&mut scene, remote, protocol::UDP);
            let reply = answer(protocol::UDP, &back(remote), &left);
            let arrived = scene.from_uplink(&reply).bytes;
            put(&mut scene, 1, (says, Verdict::Default));
            let error = crate::quotes::error(&to(remote), report, (&arrived, 1_000));
            let outcome = scene.from_vm(&error);
            assert_eq!(outcome.verdict, expected);

            // The second piece of a datagram whose first went before the change.
            let mut scene = Scene::usual();
            let whole = packet::udp(&to(remote), PORTS, &[7; 2_400]);
            let pieces = netagent_tests::fragment::fragments(&whole, 1_000, 9);
            assert_eq!(scene.from_vm(&pieces[0]).verdict, verdict::REDIRECT);
            put(&mut scene, 1, (says, Verdict::Default));
            let outcome = scene.from_vm(&pieces[1]);
            let went_on =
                outcome.verdict == verdict::REDIRECT && outcome.bytes.len() >= pieces[1].len();
            assert_eq!(went_on, passes);
            assert_eq!(
                scene
                    .datapath
                    .drops()
                    .contains_key(&(SLOT, DropReason::DeniedCidr)),
                !passes
            );
        }
    }
}
