//! A guest with a stack of its own, on every way by which people connect guests: the same simulated VMM pumps the
//! same frames for each, so what differs is what the host makes of them.

pub mod bulk;
pub mod cable;
pub mod host;
pub mod machine;
pub mod pair;
pub mod passt;
pub mod pingpong;
mod plain;
mod probe;
pub mod rounds;
pub mod rules;
pub mod way;
pub mod work;

/// Core of the VMM. What it hands to the host's TAP is carried there, up to the far end of the uplink.
pub const VMM_CORE: usize = 0;
/// Core of the programs at both ends.
pub const PROGRAM_CORE: usize = 1;
