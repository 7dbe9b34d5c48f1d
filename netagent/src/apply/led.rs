//! Notes for the programs which sockets of the agent lead to guests.

use std::io;
use std::path::PathBuf;

use aya::maps::{HashMap as BpfHash, Map, MapData, MapError};
use netagent_common::names::map;
use netagent_common::publish::{Led, LedKey};

use crate::apply::pins::Pins;
use crate::publish::Leads;

/// The pinned map. It is opened for each socket: a later load may have put another in its place.
#[derive(Debug)]
pub struct LedSockets {
    pin: PathBuf,
}

impl LedSockets {
    /// The map below these pins.
    #[must_use]
    pub fn new(pins: &Pins) -> Self {
        Self {
            pin: pins.map(map::LED_SOCKETS),
        }
    }

    fn insert(&self, key: &LedKey, led: &Led) -> Result<(), MapError> {
        let map = Map::from_map_data(MapData::from_pin(&self.pin)?)?;
        let mut sockets: BpfHash<_, LedKey, Led> = BpfHash::try_from(map)?;
        sockets.insert(key, led, 0)
    }
}

impl Leads for LedSockets {
    fn lead(&self, key: &LedKey, led: &Led) -> io::Result<()> {
        self.insert(key, led).map_err(io::Error::other)
    }
}
