//! Sizes of the maps where the configuration does not say otherwise.

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
