//! Messages of a corpus, changed here and there: the same ones in every run.

use std::fs;
use std::path::Path;

/// Marsaglia's xorshift: the same numbers in every run, so that a failure can be repeated.
pub(crate) struct Random {
    state: u64,
    /// Bytes that mean something in a message.
    telling: &'static [u8],
    /// Where most changes are made from.
    first: usize,
}

impl Random {
    pub(crate) fn new(telling: &'static [u8], first: usize) -> Self {
        Self {
            state: 0x6e65_7461_6765_6e74,
            telling,
            first,
        }
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        usize::try_from(self.state >> 33).unwrap_or(0) % end
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        from.get(self.below(from.len())).expect("below the length")
    }

    fn byte(&mut self) -> u8 {
        match self.below(3) {
            0 => u8::try_from(self.below(256)).expect("below 256"),
            _ => *self.pick(self.telling),
        }
    }

    /// A place in `message`.
    fn place(&mut self, message: &[u8]) -> usize {
        let first = match self.below(4) {
            0 => 0,
            _ => self.first.min(message.len()),
        };
        first + self.below(message.len() - first + 1)
    }

    /// One change to `message`.
    pub(crate) fn change(&mut self, message: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.place(message);
        match self.below(7) {
            0 => message.truncate(at),
            1 => message.insert(at, self.byte()),
            2 => {
                let end = message.len().min(at + self.below(8));
                message.drain(at..end);
            }
            3 => {
                let several = [self.byte(), self.byte(), self.byte(), self.byte()];
                message.splice(at..at, several);
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

/// The messages of a corpus, by name.
pub(crate) fn seeds(corpus: &str) -> Vec<Vec<u8>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(corpus);
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
