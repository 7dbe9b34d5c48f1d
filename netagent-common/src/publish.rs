//! Published and exposed ports (N-3, N-4): what the world and the host may open towards a guest. And ports of the host
//! itself, which guests may reach (P-7).

use crate::wire;

wire! {
    /// A port of the host.
    pub struct PublishKey<A> = 8 or 20 bytes {
        /// Address of the host; all zeroes where every address of the host is meant.
        pub address: A,
        /// The port.
        pub port: [u8; 2],
        /// Protocol number.
        pub protocol: u8,
        /// 0.
        pub reserved: u8,
    }
}

wire! {
    /// Where a published port leads.
    pub struct Published<A> = 20 or 32 bytes {
        /// Number of the publication, in the keys of its [`SenderKey`]s: never used again.
        pub id: u32,
        /// Slot of the guest's interface.
        pub slot: u32,
        /// Generation of that interface: another life of the slot is not meant.
        pub generation: u32,
        /// Port of the guest.
        pub guest_port: [u8; 2],
        /// 1 where only senders with a [`SenderKey`] may use it.
        pub limited: u8,
        /// 0.
        pub reserved: u8,
        /// Address of the guest.
        pub guest: A,
    }
}

wire! {
    /// A sender that may use a published port: data of an LPM key. Of its bits, the first 32 are the publication's
    /// number.
    pub struct SenderKey<A> = 8 or 20 bytes {
        /// Number of the publication.
        pub id: u32,
        /// Address, or the first bits of it.
        pub address: A,
    }
}

wire! {
    /// A port of a guest's own address that the host may reach.
    pub struct ExposedKey = 8 bytes {
        /// Number of the instance.
        pub instance: u32,
        /// The port.
        pub port: [u8; 2],
        /// Protocol number.
        pub protocol: u8,
        /// 0.
        pub reserved: u8,
    }
}

wire! {
    /// A port of the host whose listener guests may reach, at every address of the host.
    pub struct HostPortKey = 4 bytes {
        /// The port.
        pub port: [u8; 2],
        /// Protocol number.
        pub protocol: u8,
        /// 0.
        pub reserved: u8,
    }
}

wire! {
    /// A socket of the host that was led to a guest: it asked for a published port.
    pub struct LedKey = 32 bytes {
        /// Cookie of the socket; never 0.
        pub cookie: u64,
        /// Address of the guest; an IPv4 one in the first four bytes.
        pub guest: [u8; 16],
        /// Port of the guest.
        pub port: [u8; 2],
        /// Protocol number.
        pub protocol: u8,
        /// 0.
        pub reserved: [u8; 5],
    }
}

wire! {
    /// What a socket that was led to a guest had asked for.
    pub struct Led = 24 bytes {
        /// Generation of the guest's interface.
        pub generation: u32,
        /// The published port.
        pub port: [u8; 2],
        /// 0.
        pub reserved: [u8; 2],
        /// The address that was asked for; an IPv4 one in the first four bytes.
        pub address: [u8; 16],
    }
}

/// Published ports of all instances, for each family.
pub const PUBLISHED_MAX: u32 = 16_384;
/// Senders of all published ports, for each family.
pub const SENDERS_MAX: u32 = 65_536;
/// Exposed ports of all instances.
pub const EXPOSED_MAX: u32 = 65_536;
/// Ports of the host whose listeners guests may reach.
pub const HOST_PORTS_MAX: u32 = 1_024;
/// Sockets of the host that were led to a guest and have not sent yet.
pub const LED_SOCKETS_MAX: u32 = 16_384;
