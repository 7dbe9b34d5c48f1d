//! Names by number: each is kept once, as long as it led somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use netagent_common::learned::NAME_PART_LEN;

use crate::learned::table::Table;

/// The names that led to what is open.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    by_text: BTreeMap<Arc<str>, u32>,
    by_number: BTreeMap<u32, Named>,
    /// Those that no note names.
    idle: BTreeSet<u32>,
    next: u32,
    parts: usize,
}

#[derive(Debug)]
struct Named {
    text: Arc<str>,
    /// Notes that name it.
    notes: usize,
}

impl Numbers {
    /// Takes up a name that the table holds. Of equal ones the first number counts; false for any other.
    pub(super) fn resume(&mut self, number: u32, text: &str) -> bool {
        if self.by_text.contains_key(text) {
            return false;
        }
        let text: Arc<str> = text.into();
        self.parts += parts_of(&text);
        self.by_text.insert(Arc::clone(&text), number);
        self.by_number.insert(number, Named { text, notes: 0 });
        self.idle.insert(number);
        self.next = self.next.max(number.wrapping_add(1));
        true
    }

    /// The number of a name, which gets one where it has none.
    pub(super) fn number(&mut self, text: &str, table: &mut dyn Table) -> io::Result<u32> {
        if let Some(number) = self.by_text.get(text) {
            return Ok(*number);
        }
        while self.by_number.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let number = self.next;
        table.name(number, text)?;
        self.next = number.wrapping_add(1);
        let text: Arc<str> = text.into();
        self.parts += parts_of(&text);
        self.by_text.insert(Arc::clone(&text), number);
        self.by_number.insert(number, Named { text, notes: 0 });
        self.idle.insert(number);
        Ok(number)
    }

    /// The name with a number.
    pub(super) fn text(&self, number: u32) -> Option<&str> {
        self.by_number.get(&number).map(|named| &*named.text)
    }

    /// Parts that they take in the table.
    pub(super) const fn parts(&self) -> usize {
        self.parts
    }

    /// Counts a note that names it.
    pub(super) fn count(&mut self, number: u32) {
        if let Some(named) = self.by_number.get_mut(&number) {
            named.notes += 1;
            self.idle.remove(&number);
        }
    }

    /// A note that named it is gone.
    pub(super) fn release(&mut self, number: u32) {
        if let Some(named) = self.by_number.get_mut(&number) {
            named.notes = named.notes.saturating_sub(1);
            if named.notes == 0 {
                self.idle.insert(number);
            }
        }
    }

    /// Takes their numbers from names that no note names.
    pub(super) fn sweep(&mut self, table: &mut dyn Table) -> io::Result<()> {
        while let Some(number) = self.idle.first().copied() {
            table.unname(number)?;
            self.idle.remove(&number);
            if let Some(named) = self.by_number.remove(&number) {
                self.parts = self.parts.saturating_sub(parts_of(&named.text));
                self.by_text.remove(&named.text);
            }
        }
        Ok(())
    }
}

fn parts_of(text: &str) -> usize {
    text.len().div_ceil(NAME_PART_LEN)
}
