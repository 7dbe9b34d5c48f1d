//! The tables that the programs look into, as the book writes them.

use std::fmt;
use std::io;
use std::net::IpAddr;

use netagent_common::learned::{LedTo, LedToKey};

/// An address of an instance.
pub type Place = (u32, IpAddr);

/// What an address is open for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// Generation of the instance's start.
    pub generation: u32,
    /// When a flow was last found with it, ns of the monotonic clock; 0 where none was.
    pub used_ns: u64,
}

/// Everything that the tables hold.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Addresses that are open.
    pub open: Vec<(Place, Open)>,
    /// Which names led there.
    pub led_to: Vec<(LedToKey, LedTo)>,
    /// The names, by number; one that was written or removed by half is not whole.
    pub names: Vec<(u32, String)>,
}

/// The kernel's tables. Removing what is not there is no error.
pub trait Table: fmt::Debug + Send {
    /// Reads everything.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn read(&self) -> io::Result<Contents>;

    /// Opens an address for one start of an instance.
    ///
    /// # Errors
    /// Where the kernel refuses: the table may be full.
    fn open(&mut self, place: Place, generation: u32) -> io::Result<()>;

    /// Closes an address.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn close(&mut self, place: Place) -> io::Result<()>;

    /// When a flow was last found with an address; as [`Open::used_ns`].
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn used_ns(&self, place: Place) -> io::Result<u64>;

    /// Notes that a name led to an address.
    ///
    /// # Errors
    /// Where the kernel refuses: the table may be full.
    fn note(&mut self, key: LedToKey, led_to: LedTo) -> io::Result<()>;

    /// Takes such a note away.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn forget(&mut self, key: LedToKey) -> io::Result<()>;

    /// Gives a name a number.
    ///
    /// # Errors
    /// Where the kernel refuses: the table may be full.
    fn name(&mut self, number: u32, name: &str) -> io::Result<()>;

    /// Takes a number from its name.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn unname(&mut self, number: u32) -> io::Result<()>;
}

/// The key of a note.
#[must_use]
pub fn note_key((instance, address): Place, name: u32) -> LedToKey {
    let address = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    LedToKey {
        instance,
        name,
        address: address.octets(),
    }
}

/// The address that a note is of.
#[must_use]
pub fn place_of(key: &LedToKey) -> Place {
    (key.instance, IpAddr::from(key.address).to_canonical())
}

#[cfg(test)]
pub(crate) mod fake;
