//! The collection of flows that nobody uses any more.

use netagent_common::flow::{Flow, FlowKey, REMOVED_MAX, STALE_NS};
use netagent_common::names::{COLLECT_FLOWS, COLLECT_ORPHANS, map};
use netagent_common::nat::{Reverse, ReverseKey};
use netagent_tests::packet::{Packet, echo_reply, echo_request, udp};
use netagent_tests::prog_run::{Sizes, verdict};
use netagent_tests::scene::{self, REMOTE_V4, SLOT, Scene, back, to};

use crate::drops::REMOTES;

/// More than two runs of a pass may remove.
const FLOWS: u32 = 2 * REMOVED_MAX + 1_000;

fn scene_with(flows: u32, last_seen_ns: u64) -> Scene {
    let mut scene = Scene::new(
        Sizes {
            flows_max: 65_536,
            ..Sizes::default()
        },
        &scene::record(),
    );
    scene.add_flows(flows, last_seen_ns);
    let mut open = scene.datapath.array::<u64>(map::OPEN_FLOWS);
    open.set(SLOT, u64::from(flows), 0).unwrap();
    scene
}

fn flows(scene: &mut Scene) -> usize {
    scene
        .datapath
        .entries::<FlowKey<[u8; 4]>, Flow<[u8; 4]>>(map::FLOWS_V4)
        .len()
}

fn reverses(scene: &mut Scene) -> usize {
    scene
        .datapath
        .entries::<ReverseKey<[u8; 4]>, Reverse<[u8; 4]>>(map::REVERSE_V4)
        .len()
}

/// Runs passes until none says that there is more; how many flows went, and in how many passes.
fn collect_all(scene: &mut Scene, program: &str) -> (u32, u32) {
    let (mut removed, mut passes) = (0, 0);
    loop {
        let (collected, _) = scene.datapath.collect(program);
        assert_eq!(collected.failed, 0);
        assert!(collected.removed <= REMOVED_MAX, "a slice has a bound");
        (removed, passes) = (removed + collected.removed, passes + 1);
        if collected.more == 0 {
            return (removed, passes);
        }
    }
}

/// RFC 5508 REQ-2: not before sixty seconds, though the packets of the world are noted once in some seconds only.
#[test]
fn an_established_flow_ends_no_earlier_than_it_may() {
    const ID: u16 = 4_000;
    let longest_s = 60 + STALE_NS / 1_000_000_000;
    for (age_s, is_removed) in [(61, false), (longest_s - 1, false), (longest_s + 2, true)] {
        let mut scene = Scene::usual();
        let asked = echo_request(&to(REMOTE_V4), (ID, 1), b"ping");
        let outcome = scene.from_vm(&asked);
        assert_eq!(outcome.verdict, verdict::REDIRECT);
        let nat_id = Packet::parse(&outcome.bytes).expect("a packet").ports.0;
        let answer = echo_reply(&back(REMOTE_V4), (nat_id, 1), b"ping");
        assert_eq!(scene.from_uplink(&answer).verdict, verdict::REDIRECT);
        scene.age_flows_by(ID, age_s);
        let removed = collect_all(&mut scene, COLLECT_FLOWS).0;
        assert_eq!(removed, u32::from(is_removed), "{age_s} s");
    }
}

#[test]
fn flows_in_use_stay() {
    let mut scene = scene_with(1_000, u64::MAX / 2);
    let (collected, _) = scene.datapath.collect(COLLECT_FLOWS);
    assert_eq!(
        (collected.seen, collected.removed, collected.more),
        (1_000, 0, 0)
    );
    assert_eq!((flows(&mut scene), reverses(&mut scene)), (1_000, 1_000));
}

#[test]
fn flows_out_of_time_go_in_slices_with_their_ports_and_their_count() {
    // Last heard of when the machine started: nobody runs tests in the first two minutes of a boot.
    let mut scene = scene_with(FLOWS, 0);
    let (removed, passes) = collect_all(&mut scene, COLLECT_FLOWS);
    assert_eq!(removed, FLOWS);
    assert!(passes >= 3, "{passes}");
    assert_eq!((flows(&mut scene), reverses(&mut scene)), (0, 0));
    let open = scene.datapath.array::<u64>(map::OPEN_FLOWS);
    assert_eq!(open.get(&SLOT, 0).unwrap(), 0);
}

#[test]
fn flows_of_an_earlier_start_go_and_are_not_in_the_count_of_the_new_one() {
    let mut scene = scene_with(100, u64::MAX / 2);
    let mut record = scene::record();
    record.generation += 1;
    scene.datapath.set_interface(&record);
    assert_eq!(collect_all(&mut scene, COLLECT_FLOWS), (100, 1));
    assert_eq!((flows(&mut scene), reverses(&mut scene)), (0, 0));
    let open = scene.datapath.array::<u64>(map::OPEN_FLOWS);
    assert_eq!(open.get(&SLOT, 0).unwrap(), 100);
}

#[test]
fn a_port_without_a_flow_is_given_back() {
    let mut scene = scene_with(100, u64::MAX / 2);
    let keys = scene
        .datapath
        .entries::<FlowKey<[u8; 4]>, Flow<[u8; 4]>>(map::FLOWS_V4);
    for (key, _) in keys.into_iter().take(40) {
        scene
            .datapath
            .remove::<FlowKey<[u8; 4]>, Flow<[u8; 4]>>(map::FLOWS_V4, &key);
    }
    let (removed, _) = collect_all(&mut scene, COLLECT_ORPHANS);
    assert_eq!(removed, 40);
    assert_eq!((flows(&mut scene), reverses(&mut scene)), (60, 60));
}

#[test]
fn a_flow_that_was_opened_just_now_is_left_alone() {
    let mut scene = Scene::usual();
    assert_eq!(
        scene
            .from_vm(&udp(&to(REMOTE_V4), (4_000, 53), b"new"))
            .verdict,
        verdict::REDIRECT
    );
    assert_eq!(collect_all(&mut scene, COLLECT_FLOWS).0, 0);
    assert_eq!(collect_all(&mut scene, COLLECT_ORPHANS).0, 0);
    assert_eq!((flows(&mut scene), reverses(&mut scene)), (1, 1));
}

#[test]
fn a_count_that_was_set_to_0_under_live_flows_refuses_no_new_ones() {
    let mut scene = Scene::usual();
    for remote in REMOTES {
        for port in 1..=3 {
            let first = scene.from_vm(&udp(&to(remote), (port, 53), b"first"));
            assert_eq!(first.verdict, verdict::REDIRECT);
            scene.time_out_flows(port);
        }
    }
    let mut open = scene.datapath.array::<u64>(map::OPEN_FLOWS);
    open.set(SLOT, 0, 0).unwrap();
    assert_eq!(collect_all(&mut scene, COLLECT_FLOWS).0, 6);
    assert_eq!(scene.open_flows(), -6, "what was not counted is taken away");
    for remote in REMOTES {
        let new = scene.from_vm(&udp(&to(remote), (4, 53), b"new"));
        let drops = scene.datapath.drops();
        assert_eq!(new.verdict, verdict::REDIRECT, "{remote}: {drops:?}");
    }
    assert_eq!(scene.open_flows(), -4);
}
