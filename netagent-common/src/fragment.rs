//! Fragments: what is kept of a first one, so that the later ones, which have no ports, can follow it.

use crate::wire;

wire! {
    /// One fragmented packet on its way.
    pub struct FragmentKey<A> = 20 or 44 bytes {
        /// Number of the instance that sends it; [`FROM_UPLINK`] where the world does, with
        /// [`FROM_RELAY`] that to which a relay sends it.
        pub scope: u32,
        /// Source address, before translation.
        pub source: A,
        /// Destination address, before translation.
        pub destination: A,
        /// Identification; of IPv4 the first two bytes.
        pub id: [u8; 4],
        /// Protocol number.
        pub protocol: u32,
    }
}

wire! {
    /// What its first fragment said. Everything else is its flow's, which is looked up for every fragment: none goes
    /// where the flow may not go any more.
    pub struct First = 16 bytes {
        /// When it passed, ns of the monotonic clock.
        pub seen_ns: u64,
        /// Port of the sender; of an echo request, its identifier.
        pub source_port: [u8; 2],
        /// Port of the receiver; of an echo reply, its identifier.
        pub destination_port: [u8; 2],
        /// Where the next fragment starts, bytes: none may reach into the first one (RFC 1858, RFC 3128).
        pub end: u32,
    }
}

/// The scope of what the world sends: no instance has this number.
pub const FROM_UPLINK: u32 = u32::MAX;

/// Bit of the scope of what a relay passes on to its client, beside the number of the client's instance.
pub const FROM_RELAY: u32 = 1 << 31;

/// How long after its first fragment a packet is known, ns: as long as receivers wait for the rest at least
/// (RFC 1122, section 3.3.2).
pub const REMEMBERED_NS: u64 = 15_000_000_000;
