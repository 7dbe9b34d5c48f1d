//! Tables in memory, shared with the test, that fail where it says so.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use netagent_common::learned::{LedTo, LedToKey};

use crate::learned::table::{Contents, Open, Place, Table, place_of};

#[derive(Clone, Debug, Default)]
pub(crate) struct FakeTable(Arc<Mutex<State>>);

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) open: BTreeMap<Place, Open>,
    pub(crate) notes: Vec<(LedToKey, LedTo)>,
    pub(crate) names: BTreeMap<u32, String>,
    /// Writes that still succeed before all fail.
    pub(crate) until_fault: Option<usize>,
    pub(crate) writes: usize,
}

impl FakeTable {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Addresses that are open to an instance.
    pub(crate) fn open_to(&self, instance: u32) -> Vec<IpAddr> {
        let state = self.state();
        let places = state.open.keys().filter(|(number, _)| *number == instance);
        places.map(|(_, address)| *address).collect()
    }

    /// A flow was found with an address.
    pub(crate) fn use_at(&self, place: Place, used_ns: u64) {
        self.state().open.get_mut(&place).unwrap().used_ns = used_ns;
    }

    fn write(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        if state.until_fault == Some(0) {
            return Err(io::Error::other("as the test wants"));
        }
        if let Some(left) = &mut state.until_fault {
            *left -= 1;
        }
        state.writes += 1;
        Ok(state)
    }
}

impl State {
    /// Whatever stands there, whenever it stops: an address that is open has a note of its start with a name.
    pub(crate) fn check(&self) {
        // Of very many each look at all would take very long.
        if self.open.len() > 64 {
            return;
        }
        for (place, open) in &self.open {
            let mut notes = self.notes.iter();
            let told = notes.any(|(key, led_to)| {
                place_of(key) == *place
                    && led_to.generation == open.generation
                    && self.names.contains_key(&key.name)
            });
            assert!(told, "nobody knows why {place:?} is open");
        }
    }
}

impl Table for FakeTable {
    fn read(&self) -> io::Result<Contents> {
        let state = self.state();
        Ok(Contents {
            open: state
                .open
                .iter()
                .map(|(place, open)| (*place, *open))
                .collect(),
            led_to: state.notes.clone(),
            names: state
                .names
                .iter()
                .map(|(number, name)| (*number, name.clone()))
                .collect(),
        })
    }

    fn open(&mut self, place: Place, generation: u32) -> io::Result<()> {
        let mut state = self.write()?;
        let open = Open {
            generation,
            used_ns: 0,
        };
        state.open.insert(place, open);
        state.check();
        Ok(())
    }

    fn close(&mut self, place: Place) -> io::Result<()> {
        self.write()?.open.remove(&place);
        Ok(())
    }

    fn used_ns(&self, place: Place) -> io::Result<u64> {
        let state = self.state();
        Ok(state.open.get(&place).map_or(0, |open| open.used_ns))
    }

    fn note(&mut self, key: LedToKey, led_to: LedTo) -> io::Result<()> {
        let mut state = self.write()?;
        assert!(state.names.contains_key(&key.name), "a note without a name");
        state.notes.retain(|(known, _)| *known != key);
        state.notes.push((key, led_to));
        Ok(())
    }

    fn forget(&mut self, key: LedToKey) -> io::Result<()> {
        let mut state = self.write()?;
        state.notes.retain(|(known, _)| *known != key);
        state.check();
        Ok(())
    }

    fn name(&mut self, number: u32, name: &str) -> io::Result<()> {
        self.write()?.names.insert(number, name.to_owned());
        Ok(())
    }

    fn unname(&mut self, number: u32) -> io::Result<()> {
        let mut state = self.write()?;
        state.names.remove(&number);
        state.check();
        Ok(())
    }
}
