//! Where a guest may go: the route map with the destinations that are always denied (P-5), and what the policy of its
//! instance says of each (P-1 to P-3).

use crate::drop::DropReason;
use crate::wire;

wire! {
    /// What to do with a destination prefix.
    pub struct Route<A> = 20 or 44 bytes {
        /// A [`RouteKind`] as a number.
        pub kind: u32,
        /// Interface index of the uplink.
        pub ifindex: u32,
        /// MTU of the way, bytes.
        pub mtu: u32,
        /// Neighbour on the way; all zeroes where the destination itself is the neighbour.
        pub next_hop: A,
        /// Address that stands for guests on this way.
        pub source: A,
    }
}

/// What a destination is. The numbers are part of the ABI.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(not(target_arch = "bpf"), derive(Debug))]
pub enum RouteKind {
    /// Reached through an uplink.
    Uplink = 1,
    /// The host's own address.
    Host = 2,
    /// The pools: instances and their gateways.
    Instance = 3,
    /// Link-local, metadata, loopback, multicast, broadcast.
    AlwaysDenied = 4,
    /// Reached through another interface than an uplink.
    NotUplink = 5,
    /// The kernel's routes say that it cannot be reached.
    Unreachable = 6,
}

impl RouteKind {
    /// The kind with this number; an unknown one cannot be reached.
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Uplink,
            2 => Self::Host,
            3 => Self::Instance,
            4 => Self::AlwaysDenied,
            5 => Self::NotUplink,
            _ => Self::Unreachable,
        }
    }

    /// Why a guest may not go there.
    ///
    /// # Errors
    /// The reason, for every kind but [`RouteKind::Uplink`].
    pub const fn judge(self) -> Result<(), DropReason> {
        match self {
            Self::Uplink => Ok(()),
            Self::Host => Err(DropReason::HostAddress),
            Self::Instance => Err(DropReason::OtherInstance),
            Self::AlwaysDenied => Err(DropReason::AlwaysDenied),
            Self::NotUplink => Err(DropReason::NotUplink),
            Self::Unreachable => Err(DropReason::NoRoute),
        }
    }
}

/// Names a compiled policy: the first bytes of a hash over what it says, so that an entry under this name says just that.
/// All zeroes where an instance has none, and everything that is not always denied is allowed.
pub type PolicyId = [u8; 16];

/// No policy.
pub const NO_POLICY: PolicyId = [0; 16];

/// What a compiled policy says of the destinations in a prefix. The numbers are part of the ABI. Each policy has an entry
/// of length 0 in both families, so one that is whole has an answer for every address.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(not(target_arch = "bpf"), derive(Debug))]
pub enum Verdict {
    /// No list names it, and none need.
    Default = 1,
    /// One of the allowed networks.
    Allowed = 2,
    /// There are allowed networks, and it is in none.
    NotAllowed = 3,
    /// One of the denied networks, whatever else is said of it.
    Denied = 4,
    /// The configuration denies it to every instance (P-5).
    AlwaysDenied = 5,
    /// Both [`Verdict::AlwaysDenied`] and [`Verdict::Denied`]: the first for what the guest opens, the second for who
    /// opens something towards it.
    DeniedTwice = 6,
}

impl Verdict {
    /// The verdict with this number; an unknown one denies.
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Default,
            2 => Self::Allowed,
            4 => Self::Denied,
            5 => Self::AlwaysDenied,
            6 => Self::DeniedTwice,
            _ => Self::NotAllowed,
        }
    }

    /// Why a guest may not go there.
    ///
    /// # Errors
    /// The reason, for every verdict that denies.
    pub const fn judge(self) -> Result<(), DropReason> {
        match self {
            Self::Default | Self::Allowed => Ok(()),
            Self::NotAllowed => Err(DropReason::NotAllowed),
            Self::Denied => Err(DropReason::DeniedCidr),
            Self::AlwaysDenied | Self::DeniedTwice => Err(DropReason::AlwaysDenied),
        }
    }

    /// Whether it is one of the denied networks, which no peer of the guest may be in (P-3).
    #[must_use]
    pub const fn denies_peers(self) -> bool {
        matches!(self, Self::Denied | Self::DeniedTwice)
    }
}

/// Bits of [`crate::vm::Interface::policy_flags`].
pub mod policy_flag {
    /// The guest opens nothing.
    pub const DENY_ALL: u32 = 1;
    /// What the policy would drop is counted and passes all the same (P-14).
    pub const AUDIT: u32 = 2;
    /// The guest floods: nothing of it passes until it is quiet again.
    pub const QUARANTINE: u32 = 4;
    /// There is a list of names: DNS is steered to the resolver, and addresses that it learned are allowed (D-2, D-4).
    pub const NAMES: u32 = 8;
    /// Whatever the guest asks of port 53 is the resolver's, whom it asks does not matter (R-4, `relay_dns: false`).
    pub const DNS_STEERED: u32 = 16;
    /// Everything goes through a relay, or nowhere.
    pub const RELAYED: u32 = 32;
    /// The record is that of a leg: see [`crate::vm::Interface::leg`].
    pub const LEG: u32 = 64;
    /// Other interfaces have this one as their relay.
    pub const RELAY: u32 = 128;
}
