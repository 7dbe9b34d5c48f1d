//! Records as the agent writes them to the pinned maps.

use aya::maps::{HashMap, Map, MapData};
use netagent::apply::maps::Maps;
use netagent::apply::pins::Pins;
use netagent::apply::programs;
use netagent_common::names::map;
use netagent_common::policy::policy_flag::LEG;
use netagent_common::vm::{self, Client, EXACT_ADDRESS, Interface, WHOLE_NETWORK};
use netagent_tests::scene;

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

/// Entries of the map of clients of one family: address, interface and leg.
fn clients<A: aya::Pod + Ord>(pins: &Pins, name: &str) -> Vec<(A, u32, u32)> {
    let pinned = MapData::from_pin(pins.map(name)).unwrap();
    let map: HashMap<MapData, A, Client> = Map::from_map_data(pinned).unwrap().try_into().unwrap();
    let entries = map.iter().map(Result::unwrap);
    let mut entries: Vec<_> = entries.map(|(key, to)| (key, to.slot, to.leg)).collect();
    entries.sort_unstable();
    entries
}

fn clients_v4(pins: &Pins) -> Vec<([u8; 4], u32, u32)> {
    clients(pins, map::CLIENTS_V4)
}

fn clients_v6(pins: &Pins) -> Vec<([u8; 16], u32, u32)> {
    clients(pins, map::CLIENTS_V6)
}

/// The leg in `slot` of the interface in slot 5, whose relay's TAP has this index.
fn leg(slot: u32, ifindex: u32, address: u8, prefix_v6: u8) -> Interface {
    let mut leg = record(slot, ifindex);
    leg.policy_flags = LEG;
    leg.client = 5;
    leg.addresses = 1;
    leg.addresses_v4 = [[10, 0, 0, address], [0; 4], [0; 4], [0; 4]];
    leg.has_v6 = 1;
    leg.addresses_v6 = [v6(address), [0; 16], [0; 16], [0; 16]];
    leg.prefixes_v6 = [prefix_v6, 0, 0, 0];
    leg
}

const fn v6(last: u8) -> [u8; 16] {
    [0xfd, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, last]
}

#[test]
fn r5_the_addresses_of_a_client_lead_to_its_leg_while_that_is_in_force() {
    let home = Home::new();
    let (pins, mut maps) = maps(&home);
    // The index is that of the relay's TAP, lent or not, or of none.
    let whole = leg(65_535, 300, 2, WHOLE_NETWORK);
    maps.write_interface(&whole).unwrap();
    maps.write_interface(&leg(65_534, 0, 3, EXACT_ADDRESS))
        .unwrap();
    assert_eq!(entries(&pins), [], "a leg has no TAP of its own");
    let v4 = [([10, 0, 0, 2], 5, 65_535), ([10, 0, 0, 3], 5, 65_534)];
    assert_eq!(clients_v4(&pins), v4);
    let both = [(v6(0), 5, 65_535), (v6(3), 5, 65_534)];
    assert_eq!(clients_v6(&pins), both, "a network, and an address");
    // Its relay is gone; and it has no IPv6 any more.
    let mut down = Interface {
        ifindex: 0,
        ..whole
    };
    maps.write_interface(&down).unwrap();
    assert_eq!(clients_v4(&pins), v4);
    down.has_v6 = 0;
    maps.write_interface(&down).unwrap();
    assert_eq!(clients_v6(&pins), both[1..]);
    maps.clear_interface(65_535).unwrap();
    assert_eq!(clients_v4(&pins), v4[1..]);
    maps.clear_interface(65_534).unwrap();
    assert_eq!((clients_v4(&pins).len(), clients_v6(&pins).len()), (0, 0));
}

#[test]
fn clients_that_a_killed_agent_left_go_at_the_next_start() {
    let home = Home::new();
    let (pins, mut maps) = maps(&home);
    maps.write_interface(&leg(65_535, 300, 2, WHOLE_NETWORK))
        .unwrap();
    drop(maps);
    let pinned = MapData::from_pin(pins.map(map::CLIENTS_V4)).unwrap();
    let mut left: HashMap<MapData, [u8; 4], Client> =
        Map::from_map_data(pinned).unwrap().try_into().unwrap();
    let client = |slot, leg| Client { slot, leg };
    left.insert([10, 0, 0, 9], client(5, 65_535), 0).unwrap();
    left.insert([10, 0, 0, 8], client(5, 65_000), 0).unwrap();
    let mut maps = Maps::open(&pins).unwrap().unwrap();
    assert_eq!(clients_v4(&pins), [([10, 0, 0, 2], 5, 65_535)]);
    // The one that stays is still known.
    maps.clear_interface(65_535).unwrap();
    assert_eq!(clients_v4(&pins), []);
}
