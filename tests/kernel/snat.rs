//! N-8: an instance leaves under an address of the host that it names, and under no other.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netagent_common::drop::DropReason;
use netagent_common::flow::{Flow, FlowKey};
use netagent_common::names::map;
use netagent_common::net::GATEWAY_MAC;
use netagent_common::policy::RouteKind;
use netagent_common::vm::Interface;
use netagent_tests::fragment::{fragments, reassembled};
use netagent_tests::packet::{self, Ends, Packet, hex, udp};
use netagent_tests::prog_run::{Outcome, Sizes, verdict};
use netagent_tests::route::RouteTo;
use netagent_tests::scene::{self, GUEST_MAC, OTHER_TAP, Scene, UPLINK, back, to};

use crate::drops::{Case, Maps, REMOTES, udp_to};
use crate::errors::{check_told, no_route};
use crate::fragments::{from_uplink, from_vm, pass, payload};
use crate::nat::{self, Build, PROTOCOLS};
use crate::quotes::{delivered, error, late, reports, router};

const V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 77);
const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0x77);

/// The address under which the instance leaves towards another.
fn own(remote: IpAddr) -> IpAddr {
    if remote.is_ipv4() {
        V4.into()
    } else {
        V6.into()
    }
}

pub(crate) fn record() -> Interface {
    Interface {
        snat_v4: V4.octets(),
        snat_v6: V6.octets(),
        ..scene::record()
    }
}

/// The operator adds the address, or takes it away: what leads there then is the route of its network.
fn set(scene: &mut Scene, address: IpAddr, present: bool) {
    let kind = if present {
        RouteKind::Host
    } else {
        RouteKind::Uplink
    };
    scene.change_route(address, &scene::route(kind, address.is_ipv4(), false));
}

fn scene_with(sizes: Sizes, record: &Interface) -> Scene {
    let mut scene = Scene::new(sizes, record);
    for remote in REMOTES {
        set(&mut scene, own(remote), true);
    }
    scene
}

fn usual() -> Scene {
    scene_with(Sizes::default(), &record())
}

/// Ends of what the world sends to the instance's address.
fn back_to_own(remote: IpAddr) -> Ends {
    back(remote).to(own(remote))
}

/// What left towards a remote, by its ends and ports.
fn left(outcome: &Outcome) -> Option<(IpAddr, u16)> {
    let packet = Packet::parse(&outcome.bytes)?;
    (outcome.verdict == verdict::REDIRECT && packet.ends.dst_mac != GUEST_MAC)
        .then_some((packet.ends.src, packet.ports.0))
}

/// The guest sends under `address`, and the far end answers: byte for byte. Returns the external port.
fn check_both_ways(
    scene: &mut Scene,
    (remote, address): (IpAddr, IpAddr),
    (sent, answered): (Build, Build),
    port: u16,
) -> u16 {
    let payload = b"seventeen bytes..";
    let out = scene.from_vm(&sent(&to(remote), (port, 53), payload));
    let drops = scene.datapath.drops();
    assert_eq!(out.verdict, verdict::REDIRECT, "{remote}: {drops:?}");
    packet::assert_checksums(&out.bytes);
    let nat_port = Packet::parse(&out.bytes).unwrap().ports.0;
    let expected = sent(&late(to(remote)).from(address), (nat_port, 53), payload);
    assert_eq!(hex(&out.bytes[12..]), hex(&expected[12..]), "{remote}");

    let answer = answered(&back(remote).to(address), (53, nat_port), payload);
    let into = scene.from_uplink(&answer);
    let drops = scene.datapath.drops();
    assert_eq!(into.verdict, verdict::REDIRECT, "{remote}: {drops:?}");
    let expected = answered(&delivered(remote, remote), (53, port), payload);
    assert_eq!(hex(&into.bytes), hex(&expected), "{remote}");
    nat_port
}

#[test]
fn n8_a_guest_leaves_under_its_own_address_and_replies_reach_it() {
    let mut scene = usual();
    for remote in nat::REMOTES {
        for protocol in PROTOCOLS {
            let ends = (remote, own(remote));
            let first = check_both_ways(&mut scene, ends, protocol, 4_000);
            let again = check_both_ways(&mut scene, ends, protocol, 4_000);
            assert_eq!(first, again, "a flow keeps its port");
            assert_eq!(check_both_ways(&mut scene, ends, protocol, 20_000), 20_000);
        }
    }
    assert!(scene.datapath.drops().is_empty());
}

#[test]
fn n8_the_other_family_leaves_as_before() {
    let only = [
        Interface {
            snat_v6: [0; 16],
            ..record()
        },
        Interface {
            snat_v4: [0; 4],
            ..record()
        },
    ];
    for record in only {
        let mut scene = scene_with(Sizes::default(), &record);
        for remote in REMOTES {
            let has_own = remote.is_ipv4() == (record.snat_v4 != [0; 4]);
            let address = if has_own {
                own(remote)
            } else {
                nat::host(remote)
            };
            check_both_ways(&mut scene, (remote, address), PROTOCOLS[0], 4_000);
        }
    }
}

#[test]
fn n8_instances_share_an_address_and_no_port_of_it() {
    let mut scene = usual();
    scene.add_other(record());
    for remote in REMOTES {
        let mut seen = BTreeSet::new();
        for port in 20_000..20_100 {
            let bytes = nat::tcp_segment(&to(remote), (port, 53), b"both");
            for outcome in [scene.from_vm(&bytes), scene.from_other(&bytes)] {
                let (address, nat_port) = left(&outcome).expect("it leaves");
                assert_eq!(address, own(remote));
                assert!(seen.insert(nat_port), "{nat_port} is given twice");
            }
        }
    }
}

#[test]
fn n8_an_instance_beside_it_leaves_with_the_uplinks_address() {
    let mut scene = usual();
    scene.add_other(scene::record());
    for remote in REMOTES {
        let bytes = udp(&to(remote), (20_000, 53), b"the other");
        let ends = |address| Some((address, 20_000));
        assert_eq!(left(&scene.from_vm(&bytes)), ends(own(remote)));
        // The same port towards the same remote: it is another address's.
        assert_eq!(left(&scene.from_other(&bytes)), ends(nat::host(remote)));
    }
}

#[test]
fn n8_a_port_has_one_port_of_the_address_towards_everybody_and_is_reached_there() {
    let sizes = Sizes {
        filters_nobody: true,
        ..Sizes::default()
    };
    let mut scene = scene_with(sizes, &record());
    for (known, stranger) in REMOTES
        .into_iter()
        .zip(["203.0.113.77", "2001:db8:200::77"])
    {
        let stranger: IpAddr = stranger.parse().unwrap();
        let found = [known, stranger, nat::REMOTES[2]]
            .into_iter()
            .filter(|remote| remote.is_ipv4() == known.is_ipv4())
            .map(|remote| left(&scene.from_vm(&udp(&to(remote), (4_000, 53), b"hello"))).unwrap());
        let found: BTreeSet<(IpAddr, u16)> = found.collect();
        assert_eq!(found.len(), 1, "{found:?}");
        let (address, nat_port) = found.into_iter().next().unwrap();
        assert_eq!(address, own(known));

        let inward = |address| udp(&back(stranger).to(address), (9_999, nat_port), b"stranger");
        let reached = scene.from_uplink(&inward(own(known)));
        assert_eq!(reached.verdict, verdict::REDIRECT);
        let packet = Packet::parse(&reached.bytes).unwrap();
        assert_eq!(packet.ends.dst, nat::guest(known));
        let answer = udp(&to(stranger), (4_000, 9_999), b"answer");
        assert_eq!(left(&scene.from_vm(&answer)), Some((address, nat_port)));
        // The port is not the instance's on another address of the host.
        let elsewhere = scene.from_uplink(&inward(nat::host(known)));
        assert_eq!(elsewhere.verdict, verdict::NEXT);

        set(&mut scene, own(known), false);
        let (slots, other_port) = (scene.open_flows(), 9_998);
        let late = udp(&back_to_own(stranger), (other_port, nat_port), b"too late");
        assert_eq!(scene.from_uplink(&late).verdict, verdict::NEXT);
        assert_eq!(scene.open_flows(), slots, "and opens nothing");
    }
}

#[test]
fn n8_errors_about_what_left_under_it_are_translated_both_ways() {
    let mut scene = usual();
    for remote in REMOTES {
        for protocol in PROTOCOLS {
            let sent = protocol.0(&late(to(remote)), (4_000, 53), b"seventeen bytes..");
            let out = scene.from_vm(&protocol.0(&to(remote), (4_000, 53), b"seventeen bytes.."));
            let (_, nat_port) = left(&out).expect("it leaves");
            for report in reports(remote.is_ipv4()) {
                let src = router(remote);
                let about = error(&back(src).to(own(remote)), report, (&out.bytes, 1_000));
                let into = scene.from_uplink(&about);
                let expected = error(&delivered(src, remote), report, (&sent, 1_000));
                assert_eq!(hex(&into.bytes), hex(&expected), "{report:?}");
            }
            let answer = protocol.1(&back_to_own(remote), (53, nat_port), b"an answer");
            let got = scene.from_uplink(&answer);
            let answer = protocol.1(&late(back_to_own(remote)), (53, nat_port), b"an answer");
            let report = reports(remote.is_ipv4())[1];
            let refused = error(&to(remote), report, (&got.bytes, 1_000));
            let out = scene.from_vm(&refused);
            let ends = late(to(remote)).from(own(remote));
            let expected = error(&ends, report, (&answer, 1_000));
            assert_eq!(hex(&out.bytes[12..]), hex(&expected[12..]), "{remote}");
        }
    }
    assert!(scene.datapath.drops().is_empty());
}

#[test]
fn n8_a_packet_in_pieces_leaves_under_it() {
    let mut scene = usual();
    let payload = payload(3_000);
    for remote in REMOTES {
        let whole = udp(&to(remote), (4_000, 53), &payload);
        let out = reassembled(&pass(&mut scene, from_vm, &fragments(&whole, 512, 77)));
        packet::assert_checksums(&out);
        let packet = Packet::parse(&out).unwrap();
        assert_eq!(packet.ends.src, own(remote));
        assert_eq!(packet.payload, payload);
        let whole = udp(&back_to_own(remote), (53, packet.ports.0), &payload);
        let into = pass(&mut scene, from_uplink, &fragments(&whole, 512, 78));
        let into = reassembled(&into);
        packet::assert_checksums(&into);
        let packet = Packet::parse(&into).unwrap();
        assert_eq!(
            (packet.ends.dst, packet.ports.1),
            (nat::guest(remote), 4_000)
        );
        assert_eq!(packet.ends.src_mac, GATEWAY_MAC);
    }
}

pub(crate) fn gone_cases() -> Vec<Case> {
    let case = |remote: IpAddr| Case::from_vm(DropReason::SnatAddress, "gone", udp_to(remote));
    REMOTES.map(|remote| case(remote).with(Maps::NoSnat)).into()
}

#[test]
fn n8_nothing_leaves_while_the_host_lacks_the_address_and_all_is_well_when_it_is_back() {
    for protocol in PROTOCOLS {
        let mut scene = usual();
        for remote in REMOTES {
            let (address, sent) = (own(remote), protocol.0);
            check_both_ways(&mut scene, (remote, address), protocol, 4_000);
            set(&mut scene, address, false);
            // Neither the flow that was open nor a new one.
            for port in [4_000, 4_001] {
                let bytes = sent(&to(remote), (port, 53), b"not like this");
                let told = (DropReason::SnatAddress, no_route(remote.is_ipv4()));
                check_told(&mut scene, &bytes, told);
            }
            let pieces = fragments(&udp(&to(remote), (4_002, 53), &payload(1_000)), 512, 9);
            for piece in pieces {
                assert_eq!(left(&scene.from_vm(&piece)), None);
            }
            assert!(uplinks(&mut scene, remote).is_empty(), "the flow is gone");
            set(&mut scene, address, true);
            for port in [4_000, 4_001] {
                check_both_ways(&mut scene, (remote, address), protocol, port);
            }
        }
    }
}

/// The ways out of the instance's flows in one family.
fn uplinks(scene: &mut Scene, remote: IpAddr) -> Vec<u32> {
    let datapath = &mut scene.datapath;
    if remote.is_ipv4() {
        let flows = datapath.entries::<FlowKey<[u8; 4]>, Flow<[u8; 4]>>(map::FLOWS_V4);
        flows.into_iter().map(|(_, flow)| flow.uplink).collect()
    } else {
        let flows = datapath.entries::<FlowKey<[u8; 16]>, Flow<[u8; 16]>>(map::FLOWS_V6);
        flows.into_iter().map(|(_, flow)| flow.uplink).collect()
    }
}

#[test]
fn n8_a_flow_keeps_the_address_on_every_way_as_long_as_the_host_has_it() {
    for remote in REMOTES {
        let mut scene = usual();
        scene.datapath.add_device(OTHER_TAP, GATEWAY_MAC);
        let protocol = PROTOCOLS[1];
        let ends = (remote, own(remote));
        let first = check_both_ways(&mut scene, ends, protocol, 4_000);
        assert_eq!(uplinks(&mut scene, remote), [UPLINK]);
        // Another uplink with another address: without one of its own, a guest's flow ends here.
        let moved = RouteTo {
            ifindex: OTHER_TAP,
            source: Some(if remote.is_ipv4() {
                "192.0.2.2".parse().unwrap()
            } else {
                "2001:db8:110::2".parse().unwrap()
            }),
            ..scene::route(RouteKind::Uplink, remote.is_ipv4(), true)
        };
        scene.change_route(remote, &moved);
        let second = check_both_ways(&mut scene, ends, protocol, 4_000);
        assert_eq!((second, scene.open_flows()), (first, 1));
        assert_eq!(uplinks(&mut scene, remote), [OTHER_TAP]);
    }
}
