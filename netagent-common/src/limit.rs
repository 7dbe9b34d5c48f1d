//! Sizes of the maps where the configuration does not say otherwise, and what one interface may use up.

use crate::wire;

/// Flows of the whole host, for each family.
pub const FLOWS_MAX: u32 = 262_144;
/// Entries of the endpoint-independent mappings of the whole host, for each family: one for every so many flows.
pub const FLOWS_PER_MAPPING: u32 = 4;
/// Flows of one instance (N-5).
pub const FLOWS_PER_INSTANCE: u32 = 8_192;
/// Segments of one super-frame: 64 KB in segments of 256 bytes.
pub const SEGMENTS_MAX: u32 = 256;
/// Routes of the host, for each family.
pub const ROUTES_MAX: u32 = 16_384;
/// Drop counters: one for each interface and reason seen.
pub const DROPS_MAX: u32 = 262_144;
/// Fragmented packets on their way, for each family.
pub const FRAGMENTS_MAX: u32 = 65_536;

/// ICMP errors that the programs make for one interface in a second, and at once.
pub const ICMP_ERRORS_PER_SECOND: (u64, u64) = (100, 50);
/// Fragmented packets of one interface in a second, and at once: less than the table holds while they are
/// remembered.
pub const FRAGMENTED_PER_SECOND: (u64, u64) = (4_096, 4_096);

wire! {
    /// What one interface has used up: times, ns of the monotonic clock, up to which everything is paid.
    pub struct Used = 16 bytes {
        /// Of [`ICMP_ERRORS_PER_SECOND`].
        pub icmp_errors_ns: u64,
        /// Of [`FRAGMENTED_PER_SECOND`].
        pub fragmented_ns: u64,
    }
}
