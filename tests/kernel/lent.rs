//! TAPs that the agent did not make: their interface index names no slot.

use netagent_common::drop::{DropReason, NO_SLOT};
use netagent_common::names::{self, map};
use netagent_common::net::GATEWAY_MAC;
use netagent_common::vm::{self, Interface};
use netagent_tests::neighbour::{self, Claim};
use netagent_tests::packet::{Packet, echo_reply, echo_request, udp};
use netagent_tests::prog_run::{Context, Sizes, verdict};
use netagent_tests::scene::{
    self, FROM_HOST, FROM_VM, GATEWAY_V4, GUEST_MAC, GUEST_V4, REMOTE_V4, SLOT, Scene, back, to,
};

/// Index of the lent TAP: its lower bits name a slot that has no record.
const LENT: u32 = 321;
/// Its slot.
const LENT_SLOT: u32 = 65_535;

const FROM_LENT: Context = Context {
    ifindex: LENT,
    ingress_ifindex: LENT,
    ..FROM_VM
};
const TO_LENT: Context = Context {
    ifindex: LENT,
    ..FROM_HOST
};

fn record() -> Interface {
    Interface {
        ifindex: LENT,
        slot: LENT_SLOT,
        instance: LENT_SLOT,
        ..scene::record()
    }
}

/// The scene's guest behind a lent TAP.
fn scene() -> Scene {
    let mut scene = Scene::new(Sizes::default(), &record());
    scene.datapath.add_device(LENT, GATEWAY_MAC);
    lead(&mut scene, LENT, LENT_SLOT);
    scene
}

fn lead(scene: &mut Scene, ifindex: u32, slot: u32) {
    scene
        .datapath
        .insert::<u32, u32>(map::ADOPTED, ifindex, slot);
}

#[test]
fn a_guest_behind_a_lent_tap_reaches_the_world_and_is_reached() {
    let mut scene = scene();
    let question = udp(&to(REMOTE_V4), (4_000, 53), b"question");
    let out = scene.datapath.run(names::FROM_VM, &question, FROM_LENT);
    assert_eq!(
        out.verdict,
        verdict::REDIRECT,
        "{:?}",
        scene.datapath.drops()
    );
    let nat_port = Packet::parse(&out.bytes).unwrap().ports.0;
    let answer = scene.from_uplink(&udp(&back(REMOTE_V4), (53, nat_port), b"answer"));
    assert_eq!(answer.verdict, verdict::REDIRECT);
    let delivered = scene.datapath.run(
        names::TO_VM,
        &answer.bytes,
        Context {
            mark: answer.mark,
            ..TO_LENT
        },
    );
    assert_eq!(delivered.verdict, verdict::NEXT);
    let traffic = scene
        .datapath
        .per_cpu::<vm::Traffic>(map::TRAFFIC, LENT_SLOT);
    let counted = traffic.iter().fold((0, 0), |sum, cpu| {
        (sum.0 + cpu.from_vm_packets, sum.1 + cpu.to_vm_packets)
    });
    assert_eq!(counted, (1, 1), "the slot counts, not the index");
}

#[test]
fn the_gateway_of_a_lent_tap_answers_and_the_host_pings_through_it() {
    let mut scene = scene();
    let guest = Claim {
        mac: GUEST_MAC,
        ip: GUEST_V4,
    };
    let question = neighbour::arp_request(guest, GATEWAY_V4);
    let run = |scene: &mut Scene, bytes: &[u8]| {
        scene.datapath.run(names::FROM_VM, bytes, FROM_LENT).verdict
    };
    assert_eq!(run(&mut scene, &question), verdict::REDIRECT);
    let ends = to(GATEWAY_V4).reversed();
    let ping = scene.datapath.run(
        names::TO_VM,
        &echo_request(&ends, (5, 1), b"hello"),
        TO_LENT,
    );
    assert_eq!(ping.verdict, verdict::NEXT, "{:?}", scene.datapath.drops());
    let pong = echo_reply(&ends.reversed(), (5, 1), b"hello");
    assert_eq!(run(&mut scene, &pong), verdict::NEXT);
}

/// Runs both programs of a TAP on a packet each and expects them to drop it without an interface.
fn check_unknown(scene: &mut Scene, ifindex: u32, reason: DropReason) {
    let question = udp(&to(REMOTE_V4), (4_000, 53), b"question");
    let ping = echo_request(&to(GATEWAY_V4).reversed(), (5, 1), b"hello");
    let context = |of: Context| Context { ifindex, ..of };
    let runs = [
        (names::FROM_VM, question, context(FROM_LENT)),
        (names::TO_VM, ping, context(TO_LENT)),
    ];
    for (count, (program, frame, context)) in (1..).zip(runs) {
        let outcome = scene.datapath.run(program, &frame, context);
        assert_eq!(outcome.verdict, verdict::DROP, "{program} on {ifindex}");
        let drops = scene.datapath.drops();
        assert_eq!(drops.get(&(NO_SLOT, reason)), Some(&count), "{drops:?}");
        assert_eq!(drops.len(), 1, "{program}: {drops:?}");
    }
}

#[test]
fn an_index_whose_lower_bits_happen_to_name_a_slot_is_unknown() {
    let mut scene = Scene::usual();
    scene.datapath.add_device(SLOT, GATEWAY_MAC);
    check_unknown(&mut scene, SLOT, DropReason::UnknownInterface);
}

#[test]
fn an_entry_left_over_leads_to_no_other_interface() {
    let mut scene = Scene::usual();
    scene.datapath.add_device(LENT, GATEWAY_MAC);
    lead(&mut scene, LENT, SLOT);
    check_unknown(&mut scene, LENT, DropReason::UnknownInterface);
}

#[test]
fn a_lent_tap_whose_record_is_out_of_force_is_unknown() {
    let mut scene = scene();
    scene.datapath.set_active(LENT_SLOT, 0);
    check_unknown(&mut scene, LENT, DropReason::UnknownInterface);
}

#[test]
fn a_lent_tap_without_an_entry_is_unknown() {
    let mut scene = scene();
    scene.datapath.remove::<u32, u32>(map::ADOPTED, &LENT);
    check_unknown(&mut scene, LENT, DropReason::UnknownInterface);
}

#[test]
fn a_lent_tap_is_found_although_its_index_names_the_slot_of_another() {
    let mut scene = Scene::usual();
    scene.datapath.add_device(SLOT, GATEWAY_MAC);
    scene.datapath.set_interface(&Interface {
        ifindex: SLOT,
        generation: scene::GENERATION + 1,
        ..record()
    });
    lead(&mut scene, SLOT, LENT_SLOT);
    let question = udp(&to(REMOTE_V4), (4_000, 53), b"question");
    let context = Context {
        ifindex: SLOT,
        ..FROM_LENT
    };
    let out = scene.datapath.run(names::FROM_VM, &question, context);
    assert_eq!(
        out.verdict,
        verdict::REDIRECT,
        "{:?}",
        scene.datapath.drops()
    );
    assert_eq!(scene.from_vm(&question).verdict, verdict::REDIRECT);
    assert_eq!(scene.open_flows(), 1, "each has its own");
}
