//! What names led to, in the pinned maps.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use aya::Pod;
use aya::maps::{HashMap as BpfHash, MapData, MapError};
use bytemuck::Zeroable;
use netagent_common::learned::{
    Learned, LearnedKey, LedTo, LedToKey, NAME_LEN_MAX, NAME_PART_LEN, NameKey, NamePart,
};
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
    names: BpfHash<MapData, NameKey, NamePart>,
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
            names: joined(all(&self.names)?),
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

    fn name(&mut self, number: u32, name: &str) -> io::Result<()> {
        if name.len() > NAME_LEN_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (part, text) in (0..).zip(name.as_bytes().chunks(NAME_PART_LEN)) {
            let key = NameKey { name: number, part };
            let part = part_of(text);
            if let Err(error) = self.names.insert(key, part, 0) {
                // What is left would be the end of a shorter name that gets the number later.
                self.unname(number)?;
                return Err(io::Error::other(error));
            }
        }
        Ok(())
    }

    fn unname(&mut self, number: u32) -> io::Result<()> {
        for part in (0..).take(PARTS_MAX) {
            let key = NameKey { name: number, part };
            gone(self.names.remove(&key)).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

const PARTS_MAX: usize = NAME_LEN_MAX.div_ceil(NAME_PART_LEN);

fn part_of(text: &[u8]) -> NamePart {
    let mut part = NamePart::zeroed();
    part.length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    let bytes = part.bytes.iter_mut().zip(text);
    bytes.for_each(|(to, from)| *to = *from);
    part
}

/// Names from their parts. One that was written or removed by half says something else than it did: nobody knows then
/// what it allowed, so it is none.
fn joined(parts: Vec<(NameKey, NamePart)>) -> Vec<(u32, String)> {
    let mut names: BTreeMap<u32, BTreeMap<u32, NamePart>> = BTreeMap::new();
    for (key, part) in parts {
        names.entry(key.name).or_default().insert(key.part, part);
    }
    let text = |parts: &BTreeMap<u32, NamePart>| {
        let is_whole = parts.keys().copied().eq((0..).take(parts.len()));
        let bytes = parts.values().flat_map(|part| {
            let bytes = part.bytes.iter().take(part.length.into());
            bytes.copied()
        });
        let text = String::from_utf8(bytes.collect()).ok();
        text.filter(|_| is_whole).unwrap_or_default()
    };
    names
        .iter()
        .map(|(number, parts)| (*number, text(parts)))
        .collect()
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
