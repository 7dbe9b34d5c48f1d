//! The DNS readers against mutated messages: the bounded run of what `fuzz/` does without end (see its README for why
//! both).

use dns::Fate;
use mutate::{Random, seeds};

#[path = "../../fuzz/src/dns.rs"]
mod dns;
mod mutate;

/// Mutated messages of a run: a few seconds without optimisation.
const RUNS: u32 = 200_000;
/// Changes to one message at most.
const CHANGES_MAX: usize = 2;
/// Where the question begins.
const QUESTION_AT: usize = 12;
/// Bytes that mean something: lengths at their ends, pointers, types, keys of services.
const TELLING: &[u8] = &[
    0, 1, 2, 3, 4, 5, 6, 12, 16, 28, 39, 41, 46, 63, 64, 65, 127, 128, 192, 193, 252, 254, 255,
];

#[test]
fn messages_of_the_corpus_are_taken() {
    let fates: Vec<Fate> = seeds("dns").iter().map(|seed| dns::check(seed)).collect();
    let count = |fate| fates.iter().filter(|other| **other == fate).count();
    assert_eq!(count(Fate::Refused), 0, "{fates:?}");
    assert!(count(Fate::Query) >= 6, "{fates:?}");
    assert!(count(Fate::Leading) >= 8, "{fates:?}");
    assert!(count(Fate::Barren) >= 3, "{fates:?}");
}

#[test]
fn whatever_comes_no_forbidden_address_passes_and_nothing_but_the_question_leaves() {
    let seeds = seeds("dns");
    let mut random = Random::new(TELLING, QUESTION_AT);
    let mut taken = 0_u32;
    let mut leading = 0_u32;
    let mut refused = 0_u32;
    for _ in 0..RUNS {
        let mut message = random.pick(&seeds).clone();
        for _ in 0..=random.below(CHANGES_MAX) {
            random.change(&mut message, &seeds);
        }
        match dns::check(&message) {
            Fate::Refused => refused += 1,
            Fate::Query => taken += 1,
            Fate::Leading => leading += 1,
            Fate::Barren => {}
        }
    }
    // None is so rare that the run would not try it.
    for count in [taken, leading, refused] {
        assert!(count > RUNS / 20, "{taken} {leading} {refused}");
    }
}
