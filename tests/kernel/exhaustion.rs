//! How many flows and ports one instance may hold, what of them is used again, and that nobody else is kept from any.

use std::collections::{BTreeMap, BTreeSet};

use netagent_common::drop::DropReason;
use netagent_common::flow::{Flow, FlowKey, FlowState, Opener};
use netagent_common::names::{COLLECT_FLOWS, FROM_VM, map};
use netagent_common::net::protocol;
use netagent_common::net::tcp_flag::{ACK, FIN, RST, SYN};
use netagent_common::timeouts::Timeouts;
use netagent_common::vm::Interface;
use netagent_tests::packet::{Packet, Segment, tcp, udp};
use netagent_tests::prog_run::{Context, Sizes, verdict};
use netagent_tests::scene::{
    self, FLOW_LIMIT, FROM_OTHER as OTHER, FROM_VM as HERE, OTHER_SLOT, REMOTE_V4, Scene, back, to,
};

use crate::drops::REMOTES;

/// Ports in the NAT range.
const RANGE: u16 = 1_024;
const HALF: usize = RANGE as usize / 2;

fn two_instances(range: u16, flow_limit: u32) -> Scene {
    let sizes = Sizes {
        nat_port_count: range,
        flows_max: 16_384,
        ..Sizes::default()
    };
    let record = Interface {
        flow_limit,
        ..scene::record()
    };
    let mut scene = Scene::new(sizes, &record);
    scene.add_other(record);
    scene
}

fn segment(from: u16, flags: u8) -> Segment {
    Segment {
        src_port: from,
        dst_port: 80,
        sequence: 1,
        acknowledgement: 1,
        flags,
    }
}

/// A guest sends a segment; the port by which the world sees it, where it is passed on.
fn send(scene: &mut Scene, context: Context, from: u16, flags: u8) -> Option<u16> {
    let bytes = tcp(&to(REMOTE_V4), segment(from, flags), b"");
    let outcome = scene.datapath.run(FROM_VM, &bytes, context);
    let packet = Packet::parse(&outcome.bytes).unwrap();
    // A refusal may come back as an ICMP error.
    let passes = outcome.verdict == verdict::REDIRECT && packet.protocol == protocol::TCP;
    passes.then_some(packet.ports.0)
}

fn refused(scene: &mut Scene, slot: u32) -> BTreeMap<DropReason, u64> {
    let drops = scene.datapath.drops().into_iter();
    drops
        .filter(|((of, _), _)| *of == slot)
        .map(|((_, reason), count)| (reason, count))
        .collect()
}

#[test]
fn closing_flows_are_no_open_flows_and_become_open_ones_again() {
    for remote in REMOTES {
        let mut scene = Scene::usual();
        let mut nat_port = 0;
        let mut is_vm = |scene: &mut Scene, flags| {
            let outcome = scene.from_vm(&tcp(&to(remote), segment(4_000, flags), b""));
            nat_port = Packet::parse(&outcome.bytes).unwrap().ports.0;
            (outcome.verdict, nat_port)
        };
        let world = |scene: &mut Scene, (_, nat_port): (i32, u16), flags| {
            let segment = Segment {
                src_port: 80,
                dst_port: nat_port,
                ..segment(0, flags)
            };
            scene.from_uplink(&tcp(&back(remote), segment, b"")).verdict
        };
        let counts = |scene: &mut Scene| (scene.open_flows(), scene.closing_flows());
        let open = is_vm(&mut scene, SYN);
        world(&mut scene, open, SYN | ACK);
        assert_eq!(counts(&mut scene), (1, 0), "open");
        is_vm(&mut scene, FIN | ACK);
        assert_eq!(counts(&mut scene), (1, 0), "half closed");
        world(&mut scene, open, FIN | ACK);
        assert_eq!(counts(&mut scene), (0, 1), "closed");
        assert_eq!(is_vm(&mut scene, SYN), open, "the same flow");
        assert_eq!(counts(&mut scene), (1, 0), "opened again");
        world(&mut scene, open, RST);
        assert_eq!(counts(&mut scene), (0, 1), "reset");
        world(&mut scene, open, RST);
        assert_eq!(counts(&mut scene), (0, 1), "and again");
        is_vm(&mut scene, ACK);
        assert_eq!(counts(&mut scene), (1, 0), "the guest ignores the reset");
        is_vm(&mut scene, RST);
        assert_eq!(counts(&mut scene), (0, 1), "reset by the guest");
        scene.age_flows_to_boot(4_000);
        assert_eq!(scene.datapath.collect(COLLECT_FLOWS).0.removed, 1);
        assert_eq!(counts(&mut scene), (0, 0), "removed");
    }
}

#[test]
fn a_closed_connection_makes_room_for_another() {
    const LIMIT: u32 = 10;
    let mut scene = two_instances(RANGE, LIMIT);
    for from in 0..LIMIT as u16 {
        assert!(send(&mut scene, HERE, 1_000 + from, SYN).is_some());
    }
    assert_eq!(send(&mut scene, HERE, 2_000, SYN), None);
    let limited = BTreeMap::from([(DropReason::FlowLimit, 1)]);
    assert_eq!(refused(&mut scene, scene::SLOT), limited);
    assert!(send(&mut scene, HERE, 1_000, RST).is_some());
    assert!(send(&mut scene, HERE, 2_000, SYN).is_some());
    assert_eq!(send(&mut scene, HERE, 2_001, SYN), None);
}

#[test]
fn an_instance_that_resets_all_it_opens_fills_no_table() {
    const LIMIT: u32 = 100;
    let mut scene = two_instances(13_616, LIMIT);
    let opened = (1_000..11_000_u16).filter(|from| {
        let is_open = send(&mut scene, HERE, *from, SYN).is_some();
        is_open && send(&mut scene, HERE, *from, RST).is_some()
    });
    let most = 2 * LIMIT as usize;
    assert_eq!(opened.count(), most, "as many again as it may have open");
    assert_eq!(
        (scene.open_flows(), scene.closing_flows()),
        (0, most as i64)
    );
    let reasons: Vec<DropReason> = refused(&mut scene, scene::SLOT).into_keys().collect();
    assert_eq!(reasons, [DropReason::FlowLimit]);
    assert!(send(&mut scene, OTHER, 1_000, SYN).is_some());
}

#[test]
fn an_instance_gets_half_of_the_range_towards_one_remote_and_another_is_none_the_worse() {
    for first_port in [1_000, 16_384] {
        // Its own ports lie outside the range, or in it.
        let mut scene = two_instances(RANGE, FLOW_LIMIT);
        let ports: Vec<u16> = (first_port..first_port + 900)
            .filter_map(|from| send(&mut scene, HERE, from, SYN))
            .collect();
        let distinct: BTreeSet<u16> = ports.iter().copied().collect();
        assert_eq!(distinct.len(), ports.len(), "no port is given twice");
        assert!(
            (HALF * 8 / 10..=HALF).contains(&ports.len()),
            "{first_port}: {} of {HALF} ports",
            ports.len()
        );
        let reasons = refused(&mut scene, scene::SLOT);
        let exhausted = BTreeMap::from([(DropReason::SnatExhausted, 900 - ports.len() as u64)]);
        assert_eq!(reasons, exhausted, "{first_port}");

        let others: BTreeSet<u16> = (1_000..1_000 + HALF as u16 / 2)
            .filter_map(|from| send(&mut scene, OTHER, from, SYN))
            .collect();
        assert_eq!(others.len(), HALF / 2, "{first_port}");
        assert!(others.is_disjoint(&distinct));
        assert_eq!(refused(&mut scene, OTHER_SLOT), BTreeMap::new());

        let elsewhere = udp(&to(scene::ROUTER_V4), (5_000, 53), b"another remote");
        assert_eq!(scene.from_vm(&elsewhere).verdict, verdict::REDIRECT);
    }
}

#[test]
fn closing_flows_give_their_ports_to_new_ones_of_the_same_instance_and_to_no_other() {
    let mut scene = two_instances(RANGE, 4_096);
    let others: BTreeSet<u16> = (1_000..1_200)
        .map(|from| {
            let port = send(&mut scene, OTHER, from, SYN).expect("a port");
            send(&mut scene, OTHER, from, RST).expect("a flow");
            port
        })
        .collect();
    let mut used = BTreeMap::<u16, usize>::new();
    for from in 1_000..6_000 {
        let port = send(&mut scene, HERE, from, SYN);
        let port = port.unwrap_or_else(|| panic!("{from}: {:?}", scene.datapath.drops()));
        *used.entry(port).or_default() += 1;
        send(&mut scene, HERE, from, RST).expect("a flow");
        assert_eq!(scene.holders(port).len(), 1, "{from}");
    }
    assert!(used.len() <= HALF, "{} ports", used.len());
    assert!(others.iter().all(|port| !used.contains_key(port)));
    // Each flow that lost its port is gone, and so is its count.
    assert_eq!(scene.closing_flows(), used.len() as i64);
    assert_eq!(scene.open_flows(), 0);
    assert_eq!(scene.datapath.drops(), BTreeMap::new());
}

#[test]
fn of_the_closing_flows_that_are_found_the_oldest_is_used_again() {
    // A window of one port, or of all: every try finds the same.
    let mut scene = two_instances(16, 4_096);
    let first: Vec<u16> = (1_000..1_050)
        .map_while(|from| send(&mut scene, HERE, from, SYN))
        .collect();
    assert_eq!(first.len(), 7, "half of sixteen, without the one outside");
    for (from, age) in (1_000..1_007).zip([5, 4, 7, 6, 3, 2, 1]) {
        send(&mut scene, HERE, from, RST).expect("a flow");
        scene.age_flows_by(from, age);
    }
    let order: Vec<u16> = (2_000..2_007)
        .map(|from| send(&mut scene, HERE, from, SYN).expect("an old port"))
        .collect();
    let oldest_first = [2, 3, 0, 1, 4, 5, 6].map(|index| first[index]);
    assert_eq!(order, oldest_first);
    assert_eq!(send(&mut scene, HERE, 3_000, SYN), None, "all are open now");
}

/// The usual times, but none that is longer than a machine runs that was just started: a flow cannot be older.
const YOUNG: Timeouts = Timeouts {
    tcp_established: 250,
    ..Timeouts::DEFAULT
};

/// Writes a state and an opener into the flow of a port of the guest, and says whether it is removed when it is so old.
fn is_removed(build: Build, (state, opener): (FlowState, Opener), age_s: u64) -> bool {
    let sizes = Sizes {
        tcp_established: YOUNG.tcp_established,
        ..Sizes::default()
    };
    let mut scene = Scene::new(sizes, &scene::record());
    let outcome = scene.from_vm(&build(&to(REMOTE_V4), 4_000));
    assert_eq!(outcome.verdict, verdict::REDIRECT);
    let name = map::FLOWS_V4;
    let flows = scene
        .datapath
        .entries::<FlowKey<[u8; 4]>, Flow<[u8; 4]>>(name);
    for (key, mut flow) in flows {
        (flow.state, flow.opener) = (state as u8, opener as u8);
        flow.last_seen_ns -= age_s * 1_000_000_000;
        scene
            .datapath
            .insert::<FlowKey<[u8; 4]>, Flow<[u8; 4]>>(name, key, flow);
    }
    scene.datapath.collect(COLLECT_FLOWS).0.removed == 1
}

type Build = fn(&netagent_tests::packet::Ends, u16) -> Vec<u8>;

#[test]
fn flows_live_as_long_as_their_timeout_says() {
    let tcp: Build = |ends, from| tcp(ends, segment(from, SYN), b"");
    let udp: Build = |ends, from| udp(ends, (from, 53), b"");
    let echo: Build = |ends, from| netagent_tests::packet::echo_request(ends, (from, 1), b"");
    let times = YOUNG;
    use FlowState::{Closed, Established, Opening, Reset, VmClosed, WorldClosed};
    let guest = Opener::Guest;
    let table = [
        (tcp, (Established, guest), times.tcp_established),
        (tcp, (Opening, guest), times.tcp_transitory),
        (tcp, (VmClosed, guest), times.tcp_transitory),
        (tcp, (WorldClosed, guest), times.tcp_transitory),
        (tcp, (Closed, guest), times.tcp_closing),
        (tcp, (Reset, guest), times.tcp_closing),
        (tcp, (Opening, Opener::World), 30),
        (udp, (Established, guest), times.udp),
        (udp, (Opening, guest), times.udp_unreplied),
        (udp, (Opening, Opener::World), 30),
        (echo, (Opening, guest), times.icmp),
        (echo, (Established, guest), times.icmp),
    ];
    for (line, (protocol, flow, seconds)) in table.into_iter().enumerate() {
        let seconds = u64::from(seconds);
        // What may not end early lives on for as long as packets may go unnoticed; what both ends ended does not.
        let (kept, removed) = match flow.0.stale_ns() {
            0 => (seconds - 2, seconds + 1),
            stale_ns => {
                let stale = stale_ns / 1_000_000_000;
                (seconds + stale - 1, seconds + stale + 1)
            }
        };
        assert!(!is_removed(protocol, flow, kept), "line {line}");
        assert!(is_removed(protocol, flow, removed), "line {line}");
    }
}

#[test]
fn who_has_very_many_closing_flows_keeps_them_for_a_shorter_time() {
    const LIMIT: u32 = 100;
    let mut scene = two_instances(RANGE, LIMIT);
    let close = |scene: &mut Scene, from| {
        send(scene, HERE, from, SYN).expect("room");
        send(scene, HERE, from, RST).expect("a flow");
        scene.age_flows_by(from, 10);
    };
    (1_000..1_050).for_each(|from| close(&mut scene, from));
    assert_eq!(scene.datapath.collect(COLLECT_FLOWS).0.removed, 0);
    (1_050..1_060).for_each(|from| close(&mut scene, from));
    let removed = scene.datapath.collect(COLLECT_FLOWS).0.removed;
    assert_eq!(removed, 10, "down to half of what it may have open");
    assert_eq!(scene.closing_flows(), 50);
}
