//! Compiled policies as the agent writes them to the pinned maps.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use aya::Pod;
use aya::maps::lpm_trie::Key;
use aya::maps::{HashOfMaps, LpmTrie, Map, MapData};
use netagent::apply::expedite::Expedite;
use netagent::apply::maps::Maps;
use netagent::apply::pins::Pins;
use netagent::apply::programs;
use netagent::policy::Compiled;
use netagent_common::names::map;
use netagent_common::policy::{PolicyId, Verdict};
use netagent_common::vm::Interface;
use netagent_tests::deadline;
use netagent_tests::scene;

use crate::loads::Home;

/// Pinned maps of an agent.
fn maps(home: &Home) -> (Pins, Maps) {
    let pins = home.open();
    programs::load(&pins, &home.options()).unwrap();
    let maps = Maps::open(&pins).unwrap().unwrap();
    (pins, maps)
}

type Policies<A> = HashOfMaps<MapData, PolicyId, LpmTrie<MapData, A, u32>>;

fn pinned<A: Pod>(pins: &Pins, name: &str) -> Policies<A> {
    let data = MapData::from_pin(pins.map(name)).unwrap();
    Map::from_map_data(data).unwrap().try_into().unwrap()
}

fn ids<A: Pod>(pins: &Pins, name: &str) -> BTreeSet<PolicyId> {
    pinned::<A>(pins, name).keys().map(Result::unwrap).collect()
}

/// Names in the maps of both families.
fn names(pins: &Pins) -> [BTreeSet<PolicyId>; 2] {
    [
        ids::<[u8; 4]>(pins, map::POLICIES_V4),
        ids::<[u8; 16]>(pins, map::POLICIES_V6),
    ]
}

/// A policy that denies so many networks of IPv4, every second address one, and one of IPv6.
fn policy(number: u8, denied: u32) -> Compiled {
    let network = |index: u32| {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + 2 * index);
        (format!("{address}/32").parse().unwrap(), Verdict::Denied)
    };
    let everywhere = ("0.0.0.0/0".parse().unwrap(), Verdict::Default);
    let v6 = [
        ("::/0", Verdict::NotAllowed),
        ("2001:db8::/32", Verdict::Allowed),
    ];
    Compiled {
        id: [number; 16],
        v4: (0..denied).map(network).chain([everywhere]).collect(),
        v6: v6
            .map(|(prefix, verdict)| (prefix.parse().unwrap(), verdict))
            .into(),
    }
}

fn naming(id: PolicyId) -> Interface {
    Interface {
        policy: id,
        ..scene::record()
    }
}

/// What the maps say of an address.
fn verdict(pins: &Pins, id: PolicyId, address: &str) -> Verdict {
    let number = match address.parse().unwrap() {
        IpAddr::V4(address) => {
            let trie = pinned::<[u8; 4]>(pins, map::POLICIES_V4)
                .get(&id, 0)
                .unwrap();
            trie.get(&Key::new(32, address.octets()), 0)
        }
        IpAddr::V6(address) => {
            let trie = pinned::<[u8; 16]>(pins, map::POLICIES_V6)
                .get(&id, 0)
                .unwrap();
            trie.get(&Key::new(128, address.octets()), 0)
        }
    };
    Verdict::from_number(number.unwrap())
}

#[test]
fn a_policy_says_in_the_maps_what_it_says_in_the_agent() {
    let home = Home::new();
    let (pins, mut maps) = maps(&home);
    let policy = policy(7, 1_000);
    maps.write_policy(&policy).unwrap();
    for address in [
        "10.0.0.0",
        "10.0.0.1",
        "10.0.7.206",
        "10.0.7.208",
        "2001:db8::1",
        "fd00::1",
    ] {
        let (_, expected) = policy.entry(address.parse().unwrap()).unwrap();
        assert_eq!(verdict(&pins, policy.id, address), expected, "{address}");
    }
    let trie = pinned::<[u8; 4]>(&pins, map::POLICIES_V4)
        .get(&policy.id, 0)
        .unwrap();
    assert_eq!(trie.iter().count(), 1_001);
    let info = aya::maps::loaded_maps().map(Result::unwrap);
    let named = info.filter(|info| info.name_as_str() == Some("policy_07070707"));
    assert!(named.count() >= 2, "bpftool shows which is which");
}

#[test]
fn a_policy_that_a_record_names_stays_and_every_other_goes() {
    let home = Home::new();
    let (pins, mut maps) = maps(&home);
    for number in [1, 2] {
        maps.write_policy(&policy(number, 1)).unwrap();
    }
    maps.write_interface(&naming([1; 16])).unwrap();
    for number in [1, 2] {
        maps.remove_policy(&[number; 16]).unwrap();
    }
    let kept = BTreeSet::from([[1; 16]]);
    assert_eq!(
        (maps.policies(), names(&pins)),
        (kept.clone(), [kept.clone(), kept.clone()])
    );
    // The next start knows it too.
    drop(maps);
    let mut maps = Maps::open(&pins).unwrap().unwrap();
    assert_eq!(maps.policies(), kept);
    maps.remove_policy(&[1; 16]).unwrap();
    assert_eq!(maps.policies(), kept);
    maps.clear_interface(scene::SLOT).unwrap();
    maps.remove_policy(&[1; 16]).unwrap();
    assert_eq!((maps.policies(), names(&pins)), Default::default());
    maps.remove_policy(&[1; 16]).unwrap();
}

#[test]
fn what_an_agent_left_that_was_killed_between_the_families_is_found_at_the_next_start() {
    let home = Home::new();
    let (pins, mut maps) = maps(&home);
    for number in [1, 2, 3] {
        maps.write_policy(&policy(number, 1)).unwrap();
    }
    drop(maps);
    pinned::<[u8; 16]>(&pins, map::POLICIES_V6)
        .remove(&[1; 16])
        .unwrap();
    pinned::<[u8; 4]>(&pins, map::POLICIES_V4)
        .remove(&[2; 16])
        .unwrap();
    let mut maps = Maps::open(&pins).unwrap().unwrap();
    let half = BTreeSet::from([[1; 16], [2; 16]]);
    let kept = BTreeSet::from([[3; 16]]);
    assert_eq!((maps.policies(), maps.half_policies()), (kept, half));
    maps.remove_policy(&[2; 16]).unwrap();
    maps.write_policy(&policy(1, 1)).unwrap();
    assert_eq!(verdict(&pins, [1; 16], "10.0.0.0"), Verdict::Denied);
    check_whole(&pins, &maps, &[1, 3]);
}

/// These policies are whole, and nothing is left of others.
fn check_whole(pins: &Pins, maps: &Maps, numbers: &[u8]) {
    let expected: BTreeSet<PolicyId> = numbers.iter().map(|number| [*number; 16]).collect();
    assert_eq!(
        (maps.policies(), maps.half_policies()),
        (expected.clone(), BTreeSet::new())
    );
    assert_eq!(names(pins), [expected.clone(), expected]);
}

#[test]
fn a_policy_for_which_one_family_has_no_place_is_completed_or_removed() {
    let home = Home::new();
    let (pins, maps) = maps(&home);
    drop(maps);
    // Room for one.
    pin_policies(&pins, map::POLICIES_V6, "key 20 value 4", 1);
    let mut maps = Maps::open(&pins).unwrap().unwrap();
    maps.write_policy(&policy(1, 1)).unwrap();
    let half = BTreeSet::from([[2; 16]]);
    for _ in 0..2 {
        maps.write_policy(&policy(2, 1)).unwrap_err();
        let found = (maps.policies(), maps.half_policies());
        assert_eq!(found, ([[1; 16]].into(), half.clone()));
    }
    maps.remove_policy(&[2; 16]).unwrap();
    check_whole(&pins, &maps, &[1]);
    maps.write_policy(&policy(2, 1)).unwrap_err();
    maps.remove_policy(&[1; 16]).unwrap();
    maps.write_policy(&policy(2, 1)).unwrap();
    check_whole(&pins, &maps, &[2]);
}

#[test]
fn a_thousand_replacements_leave_one_policy_and_the_record_that_names_it() {
    let home = Home::new();
    let (pins, mut maps) = maps(&home);
    let _guard = Expedite::open(true).unwrap().guard().unwrap();
    let mut before = None;
    for round in 0..1_000_u32 {
        let number = if round % 2 == 0 { 1 } else { 2 };
        maps.write_policy(&policy(number, 10)).unwrap();
        maps.write_interface(&naming([number; 16])).unwrap();
        if let Some(before) = before.replace([number; 16]) {
            maps.remove_policy(&before).unwrap();
        }
    }
    let kept = BTreeSet::from([[2; 16]]);
    assert_eq!(names(&pins), [kept.clone(), kept]);
    let record = maps.record_in_force(scene::SLOT).unwrap();
    assert_eq!(record, Some(naming([2; 16])));
}

/// Pins another map of policies, with tries of this shape.
fn pin_policies(pins: &Pins, name: &str, inner_shape: &str, entries: u32) {
    let bpftool = |arguments: &str| {
        let status = Command::new("bpftool").args(arguments.split(' ')).status();
        assert!(status.unwrap().success(), "{arguments}");
    };
    let inner = pins.map("inner");
    let inner = inner.display();
    bpftool(&format!(
        "map create {inner} type lpm_trie {inner_shape} entries 1 name i flags 1"
    ));
    let outer = pins.map(name);
    std::fs::remove_file(&outer).unwrap();
    let outer = outer.display();
    bpftool(&format!(
        "map create {outer} type hash_of_maps key 16 value 4 entries {entries} name o flags 1 inner_map pinned {inner}"
    ));
}

#[test]
fn maps_that_take_other_inner_maps_are_made_anew() {
    let home = Home::new();
    let (pins, maps) = maps(&home);
    drop(maps);
    assert!(programs::keeps_maps(&pins, &home.options()).unwrap());
    // Values of eight bytes, not four.
    pin_policies(&pins, map::POLICIES_V4, "key 8 value 8", 32_768);
    assert!(!programs::keeps_maps(&pins, &home.options()).unwrap());
    programs::load(&pins, &home.options()).unwrap();
    assert!(programs::keeps_maps(&pins, &home.options()).unwrap());
    let mut maps = Maps::open(&pins).unwrap().unwrap();
    maps.write_policy(&policy(1, 1)).unwrap();
}

/// The figure is for a reader; the bound is one that no loaded machine misses.
#[test]
fn ten_thousand_networks_are_replaced_in_a_moment() {
    let home = Home::new();
    let (_pins, mut maps) = maps(&home);
    maps.write_policy(&policy(1, 10_000)).unwrap();
    maps.write_interface(&naming([1; 16])).unwrap();
    let next = policy(2, 10_000);
    let _guard = Expedite::open(true).unwrap().guard().unwrap();
    let start = deadline::now();
    maps.write_policy(&next).unwrap();
    let written = start.elapsed();
    maps.write_interface(&naming([2; 16])).unwrap();
    maps.remove_policy(&[1; 16]).unwrap();
    let replaced = start.elapsed();
    eprintln!("written in {written:?}, replaced in {replaced:?}");
    assert!(replaced.as_millis() < 2_000, "{replaced:?}");
}
