//! The DHCP reader against mutated messages: the bounded run of what `fuzz/` does without end (see its README for
//! why both).

use std::fs;
use std::path::Path;

use dhcp::Fate;

#[path = "../../fuzz/src/dhcp.rs"]
mod dhcp;

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

/// Marsaglia's xorshift: the same numbers in every run, so that a failure can be repeated.
struct Random(u64);

impl Random {
    /// A number below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or(0) % end
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        from.get(self.below(from.len())).expect("below the length")
    }

    fn byte(&mut self) -> u8 {
        match self.below(3) {
            0 => u8::try_from(self.below(256)).expect("below 256"),
            _ => *self.pick(TELLING),
        }
    }

    /// A place in `message`, mostly among the options.
    fn place(&mut self, message: &[u8]) -> usize {
        let first = match self.below(4) {
            0 => 0,
            _ => OPTIONS_AT.min(message.len()),
        };
        first + self.below(message.len() - first + 1)
    }

    /// One change to `message`.
    fn change(&mut self, message: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.place(message);
        match self.below(7) {
            0 => message.truncate(at),
            1 => message.insert(at, self.byte()),
            2 => {
                let end = message.len().min(at + self.below(8));
                message.drain(at..end);
            }
            3 => {
                let option = [self.byte(), self.byte(), self.byte(), self.byte()];
                message.splice(at..at, option);
            }
            4 => {
                let other = self.pick(seeds);
                let from = other.get(at..).unwrap_or_default();
                message.splice(at.., from.iter().copied());
            }
            _ => {
                let byte = self.byte();
                if let Some(there) = message.get_mut(at) {
                    *there = byte;
                }
            }
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/dhcp");
    let entries = fs::read_dir(&corpus).expect("the corpus is part of the repository");
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("a readable directory").path())
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| fs::read(path).expect("a readable seed"))
        .collect()
}

#[test]
fn messages_of_real_clients_are_taken() {
    let seeds = seeds();
    let fates: Vec<Fate> = seeds.iter().map(|seed| dhcp::check(seed)).collect();
    let answered = fates.iter().filter(|fate| **fate == Fate::Answered);
    assert!(answered.count() >= 12, "{fates:?}");
    assert!(fates.contains(&Fate::Silence), "{fates:?}");
    assert!(!fates.contains(&Fate::Refused), "{fates:?}");
}

#[test]
fn mutated_messages_are_refused_or_answered_with_what_is_reserved() {
    let seeds = seeds();
    let mut random = Random(0x6e65_7461_6765_6e74);
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
