//! Relays in the store.

use super::*;
use crate::instance::Relay;

fn relay(name: &str, dns: Option<bool>, leg: u32) -> Option<Relay> {
    let name = Name::parse(name).unwrap();
    Some(Relay { name, dns, leg })
}

#[test]
fn relays_come_back_as_they_were_whether_there_are_such_or_not() {
    let scratch = scratch();
    let mut store = Store::open(&scratch.path).unwrap();
    let mut made = instance("a", &[0, 1, 2, 3]);
    let relays = [
        relay("gone", None, 65_535),
        relay("gw", Some(true), 65_534),
        relay("gw", Some(false), 65_533),
        None,
    ];
    for (interface, relay) in made.interfaces.iter_mut().zip(relays) {
        interface.relay = relay;
    }
    store.commit(&[insert(&made)]).unwrap();
    made.life = Life::Running;
    store
        .commit(&[Change::Update(Box::new(made.clone()))])
        .unwrap();
    drop(store);
    let store = Store::open(&scratch.path).unwrap();
    assert_eq!(store.load().unwrap().instances, [made]);
}

#[test]
fn a_leg_shares_its_slot_with_nothing() {
    let with_leg = |name: &str, slot, leg| {
        let mut one = instance(name, &[slot]);
        one.interfaces[0].relay = relay("gw", None, leg);
        one
    };
    let check = |second: Instance, fits: bool| {
        let scratch = scratch();
        let mut store = Store::open(&scratch.path).unwrap();
        store.commit(&[insert(&with_leg("a", 0, 9))]).unwrap();
        let result = store.commit(&[insert(&second)]);
        match result {
            Ok(()) => assert!(fits, "{second:?}"),
            Err(StoreError::Conflict(_)) => assert!(!fits, "{second:?}"),
            Err(error) => panic!("{error}"),
        }
    };
    check(with_leg("b", 1, 8), true);
    check(with_leg("b", 1, 9), false);
    check(with_leg("b", 1, 0), false);
    check(with_leg("b", 9, 8), false);
    check(with_leg("b", 1, 1), false);
    check(instance("b", &[9]), false);
}

#[test]
fn a_damaged_relay_is_named() {
    let scratch = scratch();
    let mut store = Store::open(&scratch.path).unwrap();
    let mut made = instance("a", &[0]);
    made.interfaces[0].relay = relay("gw", None, 9);
    store.commit(&[insert(&made)]).unwrap();
    let spoil = "UPDATE interfaces SET relay = 'No Name'";
    store.connection.execute(spoil, []).unwrap();
    let error = store.load().unwrap_err().to_string();
    assert!(error.contains("relay is 'No Name'"), "{error}");
}
