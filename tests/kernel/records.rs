//! Records as the agent writes them to the pinned maps.

use aya::maps::{HashMap, Map, MapData};
use netagent::apply::maps::Maps;
use netagent::apply::pins::Pins;
use netagent::apply::programs;
use netagent_common::names::{self, map};
use netagent_common::vm::{self, Interface};
use netagent_tests::scene::{self, Scene};

use crate::loads::Home;

/// Pinned maps of an agent, and the entries that lead to slots.
fn maps(home: &Home) -> (Pins, Maps) {
    let pins = home.open();
    programs::load(&pins, &home.options()).unwrap();
    let maps = Maps::open(&pins).unwrap().unwrap();
    (pins, maps)
}

fn adopted(pins: &Pins) -> HashMap<MapData, u32, u32> {
    let pinned = MapData::from_pin(pins.map(map::ADOPTED)).unwrap();
    Map::from_map_data(pinned).unwrap().try_into().unwrap()
}

fn entries(pins: &Pins) -> Vec<(u32, u32)> {
    let mut entries: Vec<_> = adopted(pins).iter().map(Result::unwrap).collect();
    entries.sort_unstable();
    entries
}

fn record(slot: u32, ifindex: u32) -> Interface {
    Interface {
        slot,
        ifindex,
        ..scene::record()
    }
}

/// The verifier gives up at a million, and a start of the agent waits for it.
#[test]
fn the_verifier_follows_no_program_far() {
    let mut scene = Scene::usual();
    for (program, most) in [
        (names::FROM_VM, 600_000),
        (names::TO_VM, 200_000),
        (names::FROM_UPLINK, 300_000),
        (names::FROM_SERVICES, 50_000),
    ] {
        let followed = scene.datapath.verified_instructions(program);
        println!("{program}: {followed}");
        assert!(followed < most, "{program}: {followed}");
    }
}

#[test]
fn the_index_of_a_lent_tap_leads_to_its_slot_until_the_slot_is_cleared() {
    let home = Home::new();
    let (pins, mut maps) = maps(&home);
    maps.write_interface(&record(5, vm::ifindex(5, 3))).unwrap();
    assert_eq!(entries(&pins), [], "its index names the slot");
    maps.write_interface(&record(65_535, 300)).unwrap();
    maps.write_interface(&record(65_534, 70_000)).unwrap();
    assert_eq!(entries(&pins), [(300, 65_535), (70_000, 65_534)]);
    maps.write_interface(&record(65_535, 301)).unwrap();
    assert_eq!(entries(&pins), [(301, 65_535), (70_000, 65_534)]);
    maps.write_interface(&record(65_534, vm::ifindex(65_534, 1)))
        .unwrap();
    assert_eq!(entries(&pins), [(301, 65_535)]);
    maps.clear_interface(65_535).unwrap();
    assert_eq!(entries(&pins), []);
    maps.clear_interface(65_535).unwrap();
    let slots: Vec<u32> = maps.interfaces().unwrap().into_keys().collect();
    assert_eq!(slots, [5, 65_534]);
}

#[test]
fn an_index_that_moves_to_another_slot_stays_with_it_when_the_first_is_cleared() {
    let home = Home::new();
    let (pins, mut maps) = maps(&home);
    maps.write_interface(&record(65_535, 300)).unwrap();
    maps.write_interface(&record(65_530, 300)).unwrap();
    maps.clear_interface(65_535).unwrap();
    assert_eq!(entries(&pins), [(300, 65_530)]);
}

#[test]
fn entries_that_a_killed_agent_left_go_at_the_next_start() {
    let home = Home::new();
    let (pins, mut maps) = maps(&home);
    maps.write_interface(&record(65_535, 300)).unwrap();
    drop(maps);
    // Killed before the record was in force, and after it was out of force.
    adopted(&pins).insert(301, 65_535, 0).unwrap();
    adopted(&pins).insert(302, 7, 0).unwrap();
    let mut maps = Maps::open(&pins).unwrap().unwrap();
    assert_eq!(entries(&pins), [(300, 65_535)]);
    // The one that stays is still known.
    maps.clear_interface(65_535).unwrap();
    assert_eq!(entries(&pins), []);
}

#[test]
fn slots_in_force_are_found_again_and_quickly() {
    let home = Home::new();
    let (pins, mut maps) = maps(&home);
    let slots = [0, 1, 1_023, 1_024, 40_000, 65_535];
    for slot in slots {
        maps.write_interface(&record(slot, vm::ifindex(slot, 0)))
            .unwrap();
    }
    // The other copy of the record.
    maps.write_interface(&record(1, vm::ifindex(1, 1))).unwrap();
    maps.clear_interface(1_023).unwrap();
    drop(maps);
    let maps = Maps::open(&pins).unwrap().unwrap();
    let found = maps.interfaces().unwrap();
    let expected = [0, 1, 1_024, 40_000, 65_535].map(|slot| {
        let uses = u32::from(slot == 1);
        (slot, record(slot, vm::ifindex(slot, uses)))
    });
    assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
}
