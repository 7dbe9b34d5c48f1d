//! Endpoint-independent mappings: one port towards everybody, for as many ports of a guest as may have one.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netagent_common::drop::DropReason;
use netagent_common::names::{COLLECT_FLOWS, COLLECT_ORPHANS, FROM_VM, map};
use netagent_common::nat::{
    EIM_PORTS, FILTER_PLACES, Mapping, MappingKey, Reverse, ReverseKey, filter_place,
};
use netagent_common::timeouts::Timeouts;
use netagent_common::vm::Interface;
use netagent_tests::packet::{Packet, Segment, tcp, udp};
use netagent_tests::prog_run::{Context, Sizes, verdict};
use netagent_tests::scene::{self, FLOW_LIMIT, GUEST_V4, GUEST_V6, Scene, back, to};

fn scene_with(sizes: Sizes) -> Scene {
    let mut scene = Scene::new(sizes, &scene::record());
    scene.add_other(scene::record());
    scene
}

/// An address of the world in the family of this one.
fn remote(is_v4: bool, number: u8) -> IpAddr {
    if is_v4 {
        Ipv4Addr::new(203, 0, 113, number).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0x200, 0, 0, 0, 0, number.into()).into()
    }
}

/// A guest sends a datagram; its external port.
fn send(scene: &mut Scene, context: Context, from: u16, to_remote: (IpAddr, u16)) -> Option<u16> {
    let bytes = udp(&to(to_remote.0), (from, to_remote.1), b"question");
    let outcome = scene.datapath.run(FROM_VM, &bytes, context);
    (outcome.verdict == verdict::REDIRECT).then(|| Packet::parse(&outcome.bytes).unwrap().ports.0)
}

/// Entries of mappings, each of which the filter knows of, and of nothing else.
fn mappings(scene: &mut Scene) -> usize {
    let v4 = scene
        .datapath
        .entries::<MappingKey<[u8; 4]>, Mapping<[u8; 4]>>(map::MAPPINGS_V4);
    let v6 = scene
        .datapath
        .entries::<MappingKey<[u8; 16]>, Mapping<[u8; 16]>>(map::MAPPINGS_V6);
    let mut counts = vec![0; FILTER_PLACES as usize];
    let places = v4
        .iter()
        .map(|(key, _)| filter_place(key.instance, key.port))
        .chain(
            v6.iter()
                .map(|(key, _)| filter_place(key.instance, key.port)),
        );
    for place in places {
        counts[place as usize] += 1;
    }
    let filter = scene.datapath.array::<u64>(map::MAPPING_FILTER);
    let filter: Vec<u64> = filter.iter().map(|count| count.expect("a count")).collect();
    assert_eq!(filter, counts, "the filter counts what is there");
    v4.len() + v6.len()
}

#[test]
fn a_port_of_the_guest_has_one_port_towards_everybody() {
    for is_v4 in [true, false] {
        let mut scene = scene_with(Sizes::default());
        for from in [4_000, 20_000] {
            let ports: BTreeSet<u16> = (1..=40)
                .flat_map(|number| [(number, 3_478), (number, 53)])
                .map(|(number, port)| {
                    let port = send(
                        &mut scene,
                        scene::FROM_VM,
                        from,
                        (remote(is_v4, number), port),
                    );
                    port.expect("a flow")
                })
                .collect();
            assert_eq!(ports.len(), 1, "{from}: {ports:?}");
            if from == 20_000 {
                assert!(ports.contains(&from), "its own, which lies in the range");
            }
        }
        assert_eq!(mappings(&mut scene), 4, "two entries for each");
    }
}

#[test]
fn further_ports_than_an_instance_may_map_depend_on_the_remote() {
    let mut scene = scene_with(Sizes::default());
    let of = |scene: &mut Scene, from| {
        let ports = (1..=6).map(|number| {
            send(scene, scene::FROM_VM, from, (remote(true, number), 53)).expect("a flow")
        });
        ports.collect::<BTreeSet<u16>>()
    };
    let mapped: Vec<BTreeSet<u16>> = (1_000..1_000 + EIM_PORTS)
        .map(|from| of(&mut scene, from))
        .collect();
    assert!(mapped.iter().all(|ports| ports.len() == 1), "{mapped:?}");
    let distinct: BTreeSet<u16> = mapped.into_iter().flatten().collect();
    assert_eq!(distinct.len(), usize::from(EIM_PORTS));
    for from in 2_000..2_010 {
        let ports = of(&mut scene, from);
        assert!(ports.len() > 1, "{from}: {ports:?}");
        assert!(
            ports.is_disjoint(&distinct),
            "{from}: a mapped port is its guest's alone"
        );
    }
    // TCP has none.
    let segment = Segment {
        src_port: 1_000,
        dst_port: 53,
        flags: netagent_common::net::tcp_flag::SYN,
        ..Default::default()
    };
    let outcome = scene.from_vm(&tcp(&to(remote(true, 1)), segment, b""));
    assert_eq!(outcome.verdict, verdict::REDIRECT);
    assert_eq!(mappings(&mut scene), 2 * usize::from(EIM_PORTS));
}

#[test]
fn where_half_of_the_range_is_mapped_further_ports_depend_on_the_remote() {
    const RANGE: u16 = 64;
    let mut scene = scene_with(Sizes {
        nat_port_count: RANGE,
        eim_ports: 1_000,
        ..Sizes::default()
    });
    for from in 1_000..1_000 + RANGE {
        send(&mut scene, scene::FROM_VM, from, (remote(true, 1), 53));
        send(&mut scene, scene::FROM_OTHER, from, (remote(true, 2), 53));
    }
    let half = usize::from(RANGE / 2);
    let entries = mappings(&mut scene);
    assert_eq!(entries, 2 * half, "of both instances together");
    let reasons: BTreeSet<DropReason> = scene
        .datapath
        .drops()
        .into_keys()
        .map(|(_, reason)| reason)
        .collect();
    assert!(
        reasons
            .iter()
            .all(|reason| *reason == DropReason::SnatExhausted),
        "{reasons:?}"
    );
}

#[test]
fn no_mappings_where_none_are_configured() {
    let mut scene = scene_with(Sizes {
        eim_ports: 0,
        ..Sizes::default()
    });
    send(&mut scene, scene::FROM_VM, 4_000, (remote(true, 1), 53)).expect("a flow");
    assert_eq!(mappings(&mut scene), 0);
}

#[test]
fn a_mapped_port_is_no_other_instances_towards_anybody() {
    const RANGE: u16 = 256;
    let mut scene = scene_with(Sizes {
        nat_port_count: RANGE,
        ..Sizes::default()
    });
    let mapped: BTreeSet<u16> = (1_000..1_030)
        .map(|from| send(&mut scene, scene::FROM_VM, from, (remote(true, 1), 53)).expect("a flow"))
        .collect();
    // The other sends from the very ports, elsewhere, and from many.
    let own = mapped
        .iter()
        .copied()
        .chain(3_000..3_060)
        .collect::<Vec<u16>>();
    for from in own {
        if let Some(port) = send(&mut scene, scene::FROM_OTHER, from, (remote(true, 2), 53)) {
            assert!(!mapped.contains(&port), "{from} got {port}");
        }
    }
}

/// Longer than a mapping lives, and no longer than a machine runs that was just started.
const LONG_S: u32 = Timeouts::DEFAULT.udp as u32 + 2;

#[test]
fn a_mapping_lives_as_long_as_the_guest_sends_and_ends_with_the_instance() {
    for is_v4 in [true, false] {
        let mut scene = scene_with(Sizes::default());
        let first = send(&mut scene, scene::FROM_VM, 4_000, (remote(is_v4, 1), 53));
        let keep = |scene: &mut Scene| {
            scene.datapath.collect(COLLECT_FLOWS);
            scene.datapath.collect(COLLECT_ORPHANS);
            mappings(scene)
        };
        assert_eq!(keep(&mut scene), 2);
        // Not used for a long time, and then by a packet of a flow that is there still.
        scene.age_mappings(LONG_S);
        scene.age_flows(4_000);
        send(&mut scene, scene::FROM_VM, 4_000, (remote(is_v4, 1), 53));
        assert_eq!(keep(&mut scene), 2, "the guest sends by it");
        // Or by a new flow.
        scene.age_mappings(LONG_S);
        let second = send(&mut scene, scene::FROM_VM, 4_000, (remote(is_v4, 2), 53));
        assert_eq!((second, keep(&mut scene)), (first, 2));
        scene.age_mappings(LONG_S);
        assert_eq!(keep(&mut scene), 0, "nobody used it");
        assert_eq!(scene.mappings_counted(), (0, 0));

        send(&mut scene, scene::FROM_VM, 4_000, (remote(is_v4, 3), 53)).expect("a flow");
        assert_eq!(scene.mappings_counted(), (1, 1));
        scene.datapath.set_active(scene::SLOT, 0);
        assert_eq!(keep(&mut scene), 0, "the instance is gone");
    }
}

#[test]
fn an_instance_started_anew_in_the_slot_inherits_no_mapping() {
    let mut scene = scene_with(Sizes {
        filters_nobody: true,
        ..Sizes::default()
    });
    let before = send(&mut scene, scene::FROM_VM, 4_000, (remote(true, 1), 53)).expect("a flow");
    let record = Interface {
        generation: scene::GENERATION + 1,
        ..scene::record()
    };
    scene.datapath.set_interface(&record);
    let stray = udp(&back(remote(true, 9)), (53, before), b"for the one before");
    assert_eq!(scene.from_uplink(&stray).verdict, verdict::NEXT);
    let after = send(&mut scene, scene::FROM_VM, 4_000, (remote(true, 1), 53));
    assert_ne!(after, Some(before));
    scene.datapath.collect(COLLECT_ORPHANS);
    assert_eq!(mappings(&mut scene), 0, "it went with the one before");
}

#[test]
fn only_whom_the_guest_asked_reaches_it_unless_nobody_is_filtered() {
    for filters_nobody in [false, true] {
        for is_v4 in [true, false] {
            let mut scene = scene_with(Sizes {
                filters_nobody,
                ..Sizes::default()
            });
            let known = remote(is_v4, 1);
            let port = send(&mut scene, scene::FROM_VM, 4_000, (known, 53)).expect("a flow");
            let others = [
                (known, 54),
                (remote(is_v4, 2), 53),
                (remote(is_v4, 3), 9_999),
            ];
            for (index, (from, from_port)) in others.into_iter().enumerate() {
                let bytes = udp(&back(from), (from_port, port), b"stranger");
                let outcome = scene.from_uplink(&bytes);
                if filters_nobody {
                    assert_eq!(outcome.verdict, verdict::REDIRECT, "{from} {from_port}");
                    let packet = Packet::parse(&outcome.bytes).unwrap();
                    assert_eq!(packet.ports, (from_port, 4_000));
                    let guest: IpAddr = if is_v4 {
                        GUEST_V4.into()
                    } else {
                        GUEST_V6.into()
                    };
                    assert_eq!((packet.ends.src, packet.ends.dst), (from, guest));
                    assert_eq!(scene.open_flows(), index as i64 + 2);
                    let answer = send(&mut scene, scene::FROM_VM, 4_000, (from, from_port));
                    assert_eq!(answer, Some(port), "it answers by the same port");
                } else {
                    assert_eq!(outcome.verdict, verdict::NEXT, "{from} {from_port}");
                    assert_eq!(outcome.bytes, bytes);
                    assert_eq!(scene.open_flows(), 1);
                }
            }
            let elsewhere = udp(&back(known), (53, port ^ 1), b"to another port");
            assert_eq!(scene.from_uplink(&elsewhere).verdict, verdict::NEXT);
        }
    }
}

#[test]
fn what_strangers_open_waits_half_a_minute_for_the_guest() {
    for is_v4 in [true, false] {
        let mut scene = scene_with(Sizes {
            filters_nobody: true,
            ..Sizes::default()
        });
        let port = send(&mut scene, scene::FROM_VM, 4_000, (remote(is_v4, 1), 53)).expect("a flow");
        let [answered, ignored] = [2, 3].map(|number| remote(is_v4, number));
        for stranger in [answered, ignored, ignored] {
            let bytes = udp(&back(stranger), (9_999, port), b"knock");
            assert_eq!(scene.from_uplink(&bytes).verdict, verdict::REDIRECT);
        }
        let answer = send(&mut scene, scene::FROM_VM, 4_000, (answered, 9_999));
        assert_eq!(answer, Some(port));
        assert_eq!(scene.open_flows(), 3);
        // The guest's own may wait for two minutes.
        scene.age_flows_by(4_000, 60);
        assert_eq!(scene.datapath.collect(COLLECT_FLOWS).0.removed, 1);
        let again = udp(&back(ignored), (9_999, port), b"knock");
        assert_eq!(scene.from_uplink(&again).verdict, verdict::REDIRECT);
    }
}

/// What stands where a datagram has its length is the start of a segment's sequence number, which the sender chooses.
#[test]
fn no_segment_gets_in_by_the_port_of_a_mapping() {
    for is_v4 in [true, false] {
        let mut scene = scene_with(Sizes {
            filters_nobody: true,
            ..Sizes::default()
        });
        let port = send(&mut scene, scene::FROM_VM, 4_000, (remote(is_v4, 1), 53)).expect("a flow");
        for length in [20, 24, 8] {
            let segment = Segment {
                src_port: 9_999,
                dst_port: port,
                sequence: length << 16,
                flags: netagent_common::net::tcp_flag::SYN,
                ..Default::default()
            };
            let bytes = tcp(&back(remote(is_v4, 2)), segment, b"");
            let outcome = scene.from_uplink(&bytes);
            assert_eq!((outcome.verdict, &outcome.bytes), (verdict::NEXT, &bytes));
            assert_eq!(scene.open_flows(), 1, "the guest's own");
        }
    }
}

#[test]
fn the_world_takes_no_more_than_half_of_what_a_guest_may_have_open() {
    let mut scene = scene_with(Sizes {
        filters_nobody: true,
        ..Sizes::default()
    });
    let port = send(&mut scene, scene::FROM_VM, 4_000, (remote(true, 1), 53)).expect("a flow");
    let reached = (1_000..3_000_u16).filter(|from| {
        let bytes = udp(&back(remote(true, 2)), (*from, port), b"flood");
        scene.from_uplink(&bytes).verdict == verdict::REDIRECT
    });
    assert_eq!(reached.count(), FLOW_LIMIT as usize / 2 - 1);
    assert!(send(&mut scene, scene::FROM_VM, 5_000, (remote(true, 3), 53)).is_some());
    let reverses = scene
        .datapath
        .entries::<ReverseKey<[u8; 4]>, Reverse<[u8; 4]>>(map::REVERSE_V4);
    assert_eq!(
        reverses.len(),
        FLOW_LIMIT as usize / 2 + 1,
        "no port without a flow"
    );
}
