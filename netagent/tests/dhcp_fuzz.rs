//! The DHCP reader against mutated messages: the bounded run of what `fuzz/` does without end (see its README for
//! why both).

use dhcp::Fate;
use mutate::{Random, seeds};

#[path = "../../fuzz/src/dhcp.rs"]
mod dhcp;
mod mutate;

/// Mutated messages of a run, each given to three interfaces: a few seconds without optimisation.
const RUNS: u32 = 70_000;
/// Changes to one message at most.
const CHANGES_MAX: usize = 4;
/// Where the options begin.
const OPTIONS_AT: usize = 240;
/// Bytes that mean something: message types, lengths at their ends, and the options that the server reads.
const TELLING: &[u8] = &[
    0, 1, 2, 3, 4, 5, 7, 8, 50, 52, 53, 54, 55, 57, 61, 80, 82, 127, 128, 254, 255,
];

#[test]
fn messages_of_real_clients_are_taken() {
    let seeds = seeds("dhcp");
    let fates: Vec<Fate> = seeds.iter().map(|seed| dhcp::check(seed)).collect();
    let answered = fates.iter().filter(|fate| **fate == Fate::Answered);
    assert!(answered.count() >= 12, "{fates:?}");
    assert!(fates.contains(&Fate::Silence), "{fates:?}");
    assert!(!fates.contains(&Fate::Refused), "{fates:?}");
}

#[test]
fn mutated_messages_are_refused_or_answered_with_what_is_reserved() {
    let seeds = seeds("dhcp");
    let mut random = Random::new(TELLING, OPTIONS_AT);
    let mut answered = 0u32;
    let mut refused = 0u32;
    for _ in 0..RUNS {
        let mut message = random.pick(&seeds).clone();
        for _ in 0..=random.below(CHANGES_MAX) {
            random.change(&mut message, &seeds);
        }
        match dhcp::check(&message) {
            Fate::Answered => answered += 1,
            Fate::Refused => refused += 1,
            Fate::Silence => {}
        }
    }
    // Neither is so rare that the run would not try it.
    assert!(answered > RUNS / 20, "{answered}");
    assert!(refused > RUNS / 20, "{refused}");
}
