//! Where a guest may go: the route map, and the kinds of destinations that are always denied (P-5).

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
