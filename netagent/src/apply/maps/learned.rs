//! What names led to, in the pinned maps.

use std::io;
use std::net::IpAddr;

use aya::Pod;
use aya::maps::{HashMap as BpfHash, MapData, MapError};
use netagent_common::learned::{Learned, LearnedKey, LearnedName, LedTo, LedToKey};
use netagent_common::names::map;

use crate::apply::maps::{MapsError, gone, open, present};
use crate::apply::pins::Pins;
use crate::learned::table::{Contents, Open, Place, Table};

type Addresses<A> = BpfHash<MapData, LearnedKey<A>, Learned>;

/// The maps, opened from their pins beside those that the agent has.
pub struct LearnedMaps {
    v4: Addresses<[u8; 4]>,
    v6: Addresses<[u8; 16]>,
    led_to: BpfHash<MapData, LedToKey, LedTo>,
    names: BpfHash<MapData, u32, LearnedName>,
}

impl std::fmt::Debug for LearnedMaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LearnedMaps")
    }
}

impl LearnedMaps {
    /// Opens the maps.
    ///
    /// # Errors
    /// Where one is missing or of another kind.
    pub fn open(pins: &Pins) -> Result<Self, MapsError> {
        Ok(Self {
            v4: open(pins, map::LEARNED_V4)?,
            v6: open(pins, map::LEARNED_V6)?,
            led_to: open(pins, map::LED_TO)?,
            names: open(pins, map::NAMES)?,
        })
    }
}

impl Table for LearnedMaps {
    fn read(&self) -> io::Result<Contents> {
        let mut open = Vec::new();
        for entry in self.v4.iter() {
            let (key, learned) = entry.map_err(io::Error::other)?;
            open.push(((key.instance, IpAddr::from(key.address)), as_open(learned)));
        }
        for entry in self.v6.iter() {
            let (key, learned) = entry.map_err(io::Error::other)?;
            open.push(((key.instance, IpAddr::from(key.address)), as_open(learned)));
        }
        Ok(Contents {
            open,
            led_to: all(&self.led_to)?,
            names: all(&self.names)?,
        })
    }

    fn open(&mut self, (instance, address): Place, generation: u32) -> io::Result<()> {
        let learned = Learned {
            used_ns: 0,
            generation,
            reserved: 0,
        };
        let written = match address {
            IpAddr::V4(address) => self.v4.insert(key(instance, address.octets()), learned, 0),
            IpAddr::V6(address) => self.v6.insert(key(instance, address.octets()), learned, 0),
        };
        written.map_err(io::Error::other)
    }

    fn close(&mut self, (instance, address): Place) -> io::Result<()> {
        let removed = match address {
            IpAddr::V4(address) => self.v4.remove(&key(instance, address.octets())),
            IpAddr::V6(address) => self.v6.remove(&key(instance, address.octets())),
        };
        gone(removed).map_err(io::Error::other)
    }

    fn used_ns(&self, (instance, address): Place) -> io::Result<u64> {
        let learned = match address {
            IpAddr::V4(address) => self.v4.get(&key(instance, address.octets()), 0),
            IpAddr::V6(address) => self.v6.get(&key(instance, address.octets()), 0),
        };
        let learned = present(learned).map_err(io::Error::other)?;
        Ok(learned.map_or(0, |learned| learned.used_ns))
    }

    fn note(&mut self, key: LedToKey, led_to: LedTo) -> io::Result<()> {
        self.led_to.insert(key, led_to, 0).map_err(io::Error::other)
    }

    fn forget(&mut self, key: LedToKey) -> io::Result<()> {
        gone(self.led_to.remove(&key)).map_err(io::Error::other)
    }

    fn name(&mut self, number: u32, name: &LearnedName) -> io::Result<()> {
        self.names.insert(number, name, 0).map_err(io::Error::other)
    }

    fn unname(&mut self, number: u32) -> io::Result<()> {
        gone(self.names.remove(&number)).map_err(io::Error::other)
    }
}

fn key<A>(instance: u32, address: A) -> LearnedKey<A> {
    LearnedKey { instance, address }
}

const fn as_open(learned: Learned) -> Open {
    Open {
        generation: learned.generation,
        used_ns: learned.used_ns,
    }
}

fn all<K: Pod, V: Pod>(map: &BpfHash<MapData, K, V>) -> io::Result<Vec<(K, V)>> {
    let entries: Result<_, MapError> = map.iter().collect();
    entries.map_err(io::Error::other)
}
