//! Which test reaches a reason to drop that the table of the kernel tests cannot reach.

use netagent_common::drop::DropReason;

/// Reached by the system tests alone: only a real device takes tags off, and leaves checksums to be computed.
pub const SYSTEM: &[DropReason] = &[DropReason::Vlan, DropReason::PartialChecksum];

/// Counted by the agent's servers, not by a program: their own tests and the system tests reach them.
pub const SERVERS: &[DropReason] = &[
    DropReason::MalformedDhcp,
    DropReason::ForeignDhcp,
    DropReason::MalformedRouterSolicit,
];

/// No packet leads there, and why.
pub const OUT_OF_REACH: &[(DropReason, &str)] = &[(
    DropReason::HelperFailed,
    "the helpers fail for want of memory alone: the programs check lengths before they call them",
)];
