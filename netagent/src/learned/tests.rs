use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use netagent_common::learned::LEARNED_PER_INSTANCE;
use proptest::prelude::*;

use super::*;
use crate::learned::book::Book;
use crate::learned::table::fake::FakeTable;
use crate::spec::domain::Domain;

const START: Start = Start {
    instance: 7,
    generation: 3,
};
const OTHER: Start = Start {
    instance: 8,
    generation: 4,
};

fn names(entries: &[&str]) -> Arc<Domains> {
    let domains = entries.iter().map(|entry| Domain::parse(entry).unwrap());
    Arc::new(domains.collect())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What two running instances learned on these tables.
fn addresses(table: &FakeTable) -> Addresses {
    let addresses = Addresses::default();
    let running = [START, OTHER];
    addresses.resume(Box::new(table.clone()), &running).unwrap();
    addresses
}

fn learn(addresses: &Addresses, start: Start, name: &str, to: &[&str]) -> io::Result<()> {
    let to: Vec<_> = to.iter().map(|text| (ip(text), Duration::ZERO)).collect();
    addresses.learn(start, name, &to)
}

fn open(table: &FakeTable, start: Start) -> Vec<String> {
    let open = table.open_to(start.instance);
    open.iter().map(IpAddr::to_string).collect()
}

#[test]
fn d4_what_an_allowed_name_led_to_is_open_to_that_instance_alone() {
    let table = FakeTable::default();
    let addresses = addresses(&table);
    addresses.retain(START, &names(&["a.example"])).unwrap();
    addresses.retain(OTHER, &names(&["*.example"])).unwrap();
    learn(
        &addresses,
        START,
        "a.example",
        &["192.0.2.1", "2001:db8::1"],
    )
    .unwrap();
    assert_eq!(open(&table, START), ["192.0.2.1", "2001:db8::1"]);
    assert!(open(&table, OTHER).is_empty());
    for (start, name) in [
        (START, "b.example"),
        (OTHER, "example"),
        (
            Start {
                generation: 2,
                ..START
            },
            "a.example",
        ),
        (
            Start {
                instance: 9,
                ..START
            },
            "a.example",
        ),
    ] {
        learn(&addresses, start, name, &["192.0.2.9"]).unwrap_err();
    }
    assert_eq!(table.state().open.len(), 2);
}

#[test]
fn nothing_is_learned_before_the_tables_are_there_and_a_list_is_known() {
    let addresses = Addresses::default();
    addresses.retain(START, &names(&["a.example"])).unwrap_err();
    learn(&addresses, START, "a.example", &["192.0.2.1"]).unwrap_err();
    let table = FakeTable::default();
    addresses.resume(Box::new(table.clone()), &[START]).unwrap();
    learn(&addresses, START, "a.example", &["192.0.2.1"]).unwrap_err();
    assert!(table.state().open.is_empty());
}

#[test]
fn d5_an_address_is_open_for_a_minute_at_least_and_longer_while_a_flow_uses_it() {
    let table = FakeTable::default();
    let addresses = addresses(&table);
    addresses.retain(START, &names(&["a.example"])).unwrap();
    learn(&addresses, START, "a.example", &["192.0.2.1", "192.0.2.2"]).unwrap();
    let now = now_ns();
    let minute = 60_000_000_000;
    addresses.expire(now + minute - 2_000_000_000).unwrap();
    assert_eq!(open(&table, START).len(), 2, "their minute is not over");
    let later = now + 2 * minute;
    table.use_at((7, ip("192.0.2.1")), later + 5);
    addresses.expire(later).unwrap();
    assert_eq!(open(&table, START), ["192.0.2.1"], "a flow uses it");
    let [led] = &addresses.of_instance(7)[..] else {
        panic!("one address")
    };
    assert_eq!(
        (led.name.as_str(), led.address),
        ("a.example", ip("192.0.2.1"))
    );
    addresses.expire(later + minute).unwrap();
    let state = table.state();
    assert!(state.open.is_empty() && state.notes.is_empty() && state.names.is_empty());
}

#[test]
fn d5_the_longest_time_to_live_counts_and_a_day_at_most() {
    let table = FakeTable::default();
    let addresses = addresses(&table);
    addresses
        .retain(START, &names(&["a.example", "b.example"]))
        .unwrap();
    let to = |seconds| vec![(ip("192.0.2.1"), Duration::from_secs(seconds))];
    addresses.learn(START, "a.example", &to(3_600)).unwrap();
    addresses.learn(START, "b.example", &to(90)).unwrap();
    addresses.learn(START, "a.example", &to(10)).unwrap();
    let left = |name: &str| {
        let led = addresses.of_instance(7);
        let led = led.iter().find(|led| led.name == name).unwrap();
        led.left.as_secs_f64().round()
    };
    assert!((3_599.0..=3_600.0).contains(&left("a.example")));
    assert!((89.0..=90.0).contains(&left("b.example")));
    addresses
        .learn(START, "b.example", &to(u32::MAX.into()))
        .unwrap();
    assert!((86_399.0..=86_400.0).contains(&left("b.example")));
    addresses.expire(now_ns() + 3_700_000_000_000).unwrap();
    assert_eq!(open(&table, START), ["192.0.2.1"]);
}

#[test]
fn a_name_that_is_asked_for_all_the_time_costs_no_write_each_time() {
    let table = FakeTable::default();
    let addresses = addresses(&table);
    addresses.retain(START, &names(&["a.example"])).unwrap();
    learn(&addresses, START, "a.example", &["192.0.2.1"]).unwrap();
    let before = table.state().writes;
    for _ in 0..100 {
        learn(&addresses, START, "a.example", &["192.0.2.1"]).unwrap();
    }
    assert!(table.state().writes <= before + 2);
}

#[test]
fn p9_a_shorter_list_closes_what_only_other_names_led_to() {
    let table = FakeTable::default();
    let addresses = addresses(&table);
    let long = names(&["a.example", "b.example", "*.c.example"]);
    addresses.retain(START, &long).unwrap();
    addresses.retain(OTHER, &long).unwrap();
    learn(&addresses, START, "a.example", &["192.0.2.1", "192.0.2.2"]).unwrap();
    learn(&addresses, START, "b.example", &["192.0.2.2", "192.0.2.3"]).unwrap();
    learn(&addresses, START, "x.c.example", &["192.0.2.4"]).unwrap();
    learn(&addresses, OTHER, "b.example", &["192.0.2.3"]).unwrap();
    addresses.retain(START, &names(&["a.example"])).unwrap();
    assert_eq!(open(&table, START), ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(open(&table, OTHER), ["192.0.2.3"]);
    let led = addresses.of_instance(7);
    assert!(led.iter().all(|led| led.name == "a.example"), "{led:?}");
    assert_eq!(led.len(), 2);
    learn(&addresses, START, "b.example", &["192.0.2.3"]).unwrap_err();
    addresses.forget(7).unwrap();
    assert!(open(&table, START).is_empty());
    assert_eq!(open(&table, OTHER), ["192.0.2.3"]);
}

#[test]
fn p9_what_networks_allow_as_well_is_closed_after_they_are_in_force() {
    let table = FakeTable::default();
    let addresses = addresses(&table);
    addresses
        .retain(START, &names(&["a.example", "b.example"]))
        .unwrap();
    learn(&addresses, START, "b.example", &["192.0.2.1", "192.0.2.2"]).unwrap();
    let list = names(&["a.example"]);
    let is_allowed = |address| address == ip("192.0.2.1");
    addresses.retain_before(START, &list, is_allowed).unwrap();
    assert_eq!(open(&table, START), ["192.0.2.1"]);
    learn(&addresses, START, "b.example", &["192.0.2.1"]).unwrap_err();
    addresses.retain(START, &list).unwrap();
    assert!(table.state().open.is_empty());
}

#[test]
fn another_start_of_an_instance_begins_at_nothing() {
    let table = FakeTable::default();
    let addresses = addresses(&table);
    let list = names(&["a.example"]);
    addresses.retain(START, &list).unwrap();
    learn(&addresses, START, "a.example", &["192.0.2.1"]).unwrap();
    let next = Start {
        generation: 4,
        ..START
    };
    addresses.retain(next, &list).unwrap();
    assert!(open(&table, START).is_empty());
    learn(&addresses, START, "a.example", &["192.0.2.1"]).unwrap_err();
    learn(&addresses, next, "a.example", &["192.0.2.1"]).unwrap();
    assert_eq!(table.state().open[&(7, ip("192.0.2.1"))].generation, 4);
}

#[test]
fn d5_over_its_bound_an_instance_forgets_the_oldest_that_no_flow_uses() {
    let table = FakeTable::default();
    let addresses = addresses(&table);
    addresses.retain(START, &names(&["*.example"])).unwrap();
    addresses.retain(OTHER, &names(&["*.example"])).unwrap();
    learn(&addresses, OTHER, "x.example", &["198.51.100.1"]).unwrap();
    let address = |index: usize| format!("10.0.{}.{}", index / 256, index % 256);
    for index in 0..LEARNED_PER_INSTANCE {
        learn(&addresses, START, "n.example", &[&address(index)]).unwrap();
    }
    learn(&addresses, START, "n.example", &[&address(0)]).unwrap();
    table.use_at((7, ip(&address(1))), 1);
    learn(&addresses, START, "n.example", &["192.0.2.1"]).unwrap();
    let open = open(&table, START);
    assert_eq!(open.len(), LEARNED_PER_INSTANCE);
    for (index, is_open) in [(0, true), (1, true), (2, false), (3, true)] {
        assert_eq!(open.contains(&address(index)), is_open, "{index}");
    }
    assert_eq!(table.open_to(8).len(), 1);
}

#[test]
fn an_answer_over_the_bound_takes_no_room_from_itself_and_flows_that_ended_give_theirs() {
    let table = FakeTable::default();
    let addresses = addresses(&table);
    addresses.retain(START, &names(&["*.example"])).unwrap();
    let address = |index: usize| format!("10.0.{}.{}", index / 256, index % 256);
    let now = now_ns();
    for index in 0..LEARNED_PER_INSTANCE {
        learn(&addresses, START, "n.example", &[&address(index)]).unwrap();
        table.use_at((7, ip(&address(index))), now);
    }
    let first = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
    learn(&addresses, START, "n.example", &first).unwrap();
    let is_open = |text: &str| open(&table, START).contains(&text.to_owned());
    assert!(first.into_iter().all(is_open), "all others are in use");
    // A pass that found no flow any more.
    addresses.expire(now + 10_000_000_000).unwrap();
    let second = ["192.0.2.4", "192.0.2.5"];
    learn(&addresses, START, "n.example", &second).unwrap();
    assert!(first.into_iter().chain(second).all(is_open));
    assert_eq!(open(&table, START).len(), LEARNED_PER_INSTANCE);
}

#[test]
fn d8_an_instance_opens_so_many_addresses_at_once_and_no_more() {
    let mut book = Book::read(Box::new(FakeTable::default()), &[START, OTHER]).unwrap();
    for start in [START, OTHER] {
        book.retain(start, &names(&["*.example"]), (0, &|_| false))
            .unwrap();
    }
    let burst = 2 * u32::try_from(LEARNED_PER_INSTANCE).unwrap();
    let some = |numbers: std::ops::Range<u32>| -> BTreeMap<IpAddr, u64> {
        let address = |index: u32| IpAddr::from((0x0a00_0000 + index).to_be_bytes());
        numbers.map(|index| (address(index), u64::MAX)).collect()
    };
    let now_ns = 1_000_000_000_000;
    let mut learn = |start, at_ns, numbers| book.learn(start, "n.example", (at_ns, &some(numbers)));
    learn(START, now_ns, 0..burst).unwrap();
    learn(START, now_ns, burst..burst + 1).unwrap_err();
    learn(START, now_ns, burst - 100..burst).unwrap();
    learn(OTHER, now_ns, 0..100).unwrap();
    learn(START, now_ns + 1_000_000_000, burst..burst + 512).unwrap();
    learn(START, now_ns + 1_000_000_000, burst + 512..burst + 513).unwrap_err();
}

#[test]
fn d8_many_names_of_one_address_are_bounded_too() {
    let table = FakeTable::default();
    let mut book = Book::read(Box::new(table.clone()), &[START]).unwrap();
    book.retain(START, &names(&["*.example"]), (0, &|_| false))
        .unwrap();
    let to = |last: u8| BTreeMap::from([(IpAddr::from([192, 0, 2, last]), u64::MAX)]);
    for number in 0..100_u64 {
        let name = format!("n{number}.example");
        let expires_ns = number + 1;
        let to = to(1)
            .into_keys()
            .map(|address| (address, expires_ns * 2_000_000_000));
        book.learn(START, &name, (0, &to.collect())).unwrap();
    }
    {
        let state = table.state();
        assert_eq!(state.notes.len(), 32);
        let kept: Vec<&str> = state.names.values().map(String::as_str).collect();
        assert!(
            kept.contains(&"n99.example") && !kept.contains(&"n0.example"),
            "{kept:?}"
        );
    }
    let refused = (100..4_096).find(|number| {
        let name = format!("n{number}.example");
        book.learn(START, &name, (0, &to(1))).is_err()
    });
    assert_eq!(refused, Some(2_048));
    assert_eq!(
        table.state().names.len(),
        32,
        "a name that was refused is not kept"
    );
}

#[test]
fn a_name_that_ran_out_keeps_nothing_open_that_another_one_led_to() {
    let table = FakeTable::default();
    let mut book = Book::read(Box::new(table.clone()), &[START]).unwrap();
    book.retain(START, &names(&["a.example", "b.example"]), (0, &|_| false))
        .unwrap();
    let until = |expires_ns| BTreeMap::from([(ip("192.0.2.1"), expires_ns)]);
    book.learn(START, "a.example", (0, &until(1_000))).unwrap();
    book.learn(START, "b.example", (0, &until(9_000))).unwrap();
    book.retain(START, &names(&["a.example"]), (5_000, &|_| false))
        .unwrap();
    assert!(table.state().open.is_empty());
    book.learn(START, "a.example", (5_000, &until(6_000)))
        .unwrap();
    book.retain(
        START,
        &names(&["a.example", "c.example"]),
        (9_000, &|_| false),
    )
    .unwrap();
    assert_eq!(table.open_to(7).len(), 1, "a flow may use it still");
}

#[test]
fn what_an_agent_left_is_taken_up_by_the_next_one() {
    let table = FakeTable::default();
    let list = names(&["a.example", "b.example"]);
    let first = addresses(&table);
    first.retain(START, &list).unwrap();
    first.retain(OTHER, &list).unwrap();
    learn(&first, START, "a.example", &["192.0.2.1", "192.0.2.2"]).unwrap();
    learn(&first, START, "b.example", &["192.0.2.2"]).unwrap();
    learn(&first, OTHER, "b.example", &["192.0.2.3"]).unwrap();
    let expected = first.of_instance(7);
    drop(first);
    let next = Addresses::default();
    next.resume(Box::new(table.clone()), &[START]).unwrap();
    assert!(open(&table, OTHER).is_empty(), "it does not run");
    let found = next.of_instance(7);
    let names_of = |led: &[LedThere]| -> Vec<(String, IpAddr)> {
        led.iter()
            .map(|led| (led.name.clone(), led.address))
            .collect()
    };
    assert_eq!(names_of(&found), names_of(&expected));
    next.retain(START, &names(&["b.example"])).unwrap();
    assert_eq!(open(&table, START), ["192.0.2.2"]);
    learn(&next, START, "b.example", &["192.0.2.9"]).unwrap();
    let state = table.state();
    assert_eq!(state.names.len(), 1);
    state.check();
}

#[test]
fn a_refused_write_opens_nothing_and_is_made_up_for() {
    for writes in 0..12 {
        let table = FakeTable::default();
        let addresses = addresses(&table);
        addresses
            .retain(START, &names(&["a.example", "b.example"]))
            .unwrap();
        learn(&addresses, START, "b.example", &["192.0.2.1"]).unwrap();
        table.state().until_fault = Some(writes);
        let learned = learn(&addresses, START, "a.example", &["192.0.2.1", "192.0.2.2"]);
        let is_open = open(&table, START) == ["192.0.2.1", "192.0.2.2"];
        assert_eq!(learned.is_ok(), is_open && writes >= 4, "{writes}");
        let narrowed = addresses.retain(START, &names(&["b.example"]));
        if narrowed.is_ok() {
            assert_eq!(open(&table, START), ["192.0.2.1"], "{writes}");
        }
        table.state().until_fault = None;
        addresses.retain(START, &names(&["b.example"])).unwrap();
        assert_eq!(open(&table, START), ["192.0.2.1"], "{writes}");
        addresses.forget(7).unwrap();
        let state = table.state();
        assert!(state.open.is_empty() && state.notes.is_empty(), "{writes}");
        assert!(state.names.is_empty(), "{writes}: {:?}", state.names.len());
    }
}

#[derive(Clone, Debug)]
enum Act {
    Learn(bool, u8, u8),
    Retain(bool, u8),
    Expire(u8),
    Forget(bool),
    Restart,
    Fault(u8),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (any::<bool>(), 0..4_u8, 0..6_u8).prop_map(|(is_other, name, address)| Act::Learn(is_other, name, address)),
        3 => (any::<bool>(), any::<u8>()).prop_map(|(is_other, list)| Act::Retain(is_other, list)),
        1 => (0..200_u8).prop_map(Act::Expire),
        1 => any::<bool>().prop_map(Act::Forget),
        1 => Just(Act::Restart),
        1 => (0..6_u8).prop_map(Act::Fault),
    ]
}

fn list(bits: u8) -> Arc<Domains> {
    let chosen = (0..4).filter(|bit| bits & 1 << bit != 0);
    let entries: Vec<String> = chosen.map(|bit| format!("n{bit}.example")).collect();
    names(&entries.iter().map(String::as_str).collect::<Vec<_>>())
}

proptest! {
    /// Whatever happens, an open address has a name, the name is allowed once a list was put in force, and a restart finds
    /// what the book said.
    #[test]
    fn the_book_and_the_tables_say_the_same(acts in proptest::collection::vec(act(), 1..60)) {
        let table = FakeTable::default();
        let mut book = addresses(&table);
        for act in acts {
            let start = |is_other| if is_other { OTHER } else { START };
            match act {
                Act::Learn(is_other, name, address) => {
                    let to = format!("192.0.2.{address}");
                    learn(&book, start(is_other), &format!("n{name}.example"), &[&to]).ok();
                }
                Act::Retain(is_other, bits) => {
                    let (start, list) = (start(is_other), list(bits));
                    if book.retain(start, &list).is_ok() {
                        for led in book.of_instance(start.instance) {
                            prop_assert!(list.allows(&led.name));
                        }
                    }
                }
                Act::Expire(seconds) => {
                    book.expire(now_ns() + u64::from(seconds) * 1_000_000_000).ok();
                }
                Act::Forget(is_other) => {
                    if book.forget(start(is_other).instance).is_ok() {
                        prop_assert!(table.open_to(start(is_other).instance).is_empty());
                    }
                }
                Act::Restart => {
                    table.state().until_fault = None;
                    book = addresses(&table);
                }
                Act::Fault(writes) => table.state().until_fault = Some(writes.into()),
            }
            table.state().check();
        }
        table.state().until_fault = None;
        let before = [7, 8].map(|instance| book.of_instance(instance).into_iter().map(|led| led.address).collect::<std::collections::BTreeSet<_>>());
        let open = [7, 8].map(|instance| table.open_to(instance).into_iter().collect::<std::collections::BTreeSet<_>>());
        prop_assert_eq!(&before, &open);
        let next = addresses(&table);
        let after = [7, 8].map(|instance| next.of_instance(instance).into_iter().map(|led| led.address).collect::<std::collections::BTreeSet<_>>());
        prop_assert_eq!(after, open);
    }
}
