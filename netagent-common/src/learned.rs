//! Addresses that a guest may reach because an allowed name led there (D-4, D-5). The resolver writes them before its
//! answer leaves, and they outlive the agent: beside each address stands which names led to it, so that the next agent
//! knows what a shorter list no longer allows.

use crate::wire;

wire! {
    /// Key of an address that is open to one instance.
    pub struct LearnedKey<A> = 8 or 20 bytes {
        /// Number of the instance.
        pub instance: u32,
        /// The address.
        pub address: A,
    }
}

wire! {
    /// That an address is open. It is as long as this stands, whatever its time to live says: the agent removes what ran
    /// out and is not used.
    pub struct Learned = 16 bytes {
        /// When a flow was opened with it, or a collection pass last found one, ns of the monotonic clock; 0 where none
        /// was.
        pub used_ns: u64,
        /// Generation of the instance's start: for no other is it open.
        pub generation: u32,
        /// Unused.
        pub reserved: u32,
    }
}

wire! {
    /// Key of the note that a name led to an address.
    pub struct LedToKey = 24 bytes {
        /// Number of the instance.
        pub instance: u32,
        /// Number of the name in [`crate::names::map::NAMES`].
        pub name: u32,
        /// The address; an IPv4 one as IPv6 writes it, ::ffff:0:0/96.
        pub address: [u8; 16],
    }
}

wire! {
    /// That a name led to an address.
    pub struct LedTo = 16 bytes {
        /// Up to when, ns of the monotonic clock.
        pub expires_ns: u64,
        /// Generation of the instance's start.
        pub generation: u32,
        /// Unused.
        pub reserved: u32,
    }
}

/// Longest name, bytes, as it is written (RFC 1035 section 2.3.4).
pub const NAME_LEN_MAX: usize = 253;

wire! {
    /// Key of a part of a name: nearly every name has one part.
    pub struct NameKey = 8 bytes {
        /// Number of the name.
        pub name: u32,
        /// Number of the part, from 0 on.
        pub part: u32,
    }
}

/// Bytes of a name in one part: with them an element of the map takes 128 bytes of the kernel.
pub const NAME_PART_LEN: usize = 63;

wire! {
    /// A part of a name that was asked for and allowed, as it is written: lower case, without a dot at its end.
    pub struct NamePart = 64 bytes {
        /// Bytes of it that are in use.
        pub length: u8,
        /// They, and zeroes.
        pub bytes: [u8; NAME_PART_LEN],
    }
}

/// Addresses that are open to one instance at most: the one that was heard of longest ago makes room.
pub const LEARNED_PER_INSTANCE: usize = 1_024;
/// Addresses that are open at once in each family, on the whole host.
pub const LEARNED_MAX: u32 = 262_144;
/// Parts of the names that led to them.
pub const NAME_PARTS_MAX: u32 = 262_144;
