//! How a guest's requests reach the agent's own servers, in their private network namespace (D-1, G-1, M-8).
//!
//! `from_vm` gives a steered packet a source address that says all that the way back needs: which slot and which
//! start of it asked, from which of its addresses, and whom. The server answers that address, and `from_services`
//! reads it. So nothing is kept for a request: no table that a guest could fill, and none that a crash could empty.

use crate::wire;

/// MAC address of the servers' end of the veth.
pub const SERVICES_MAC: [u8; 6] = [0xfe, 0xfc, 0, 0, 0, 2];
/// MAC address of the host's end: the neighbour that all answers are sent to.
pub const SERVICES_HOST_MAC: [u8; 6] = [0xfe, 0xfc, 0, 0, 0, 3];

/// Address of the servers, IPv4.
pub const SERVER_V4: [u8; 4] = [10, 0, 0, 1];
/// The next hop of all their answers, IPv4.
pub const NEXT_HOP_V4: [u8; 4] = [10, 0, 0, 2];
/// Address of the servers, IPv6.
pub const SERVER_V6: [u8; 16] = [0xfd, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// First of the 65,536 interface indices of ways to the servers. No other device gets one: the kernel counts up from 1,
/// and a slot's TAP has one of these only at its 32,767th use.
pub const WAY_INDEX_FIRST: u32 = 0x7fff_0000;

/// The next hop of all their answers, IPv6.
pub const NEXT_HOP_V6: [u8; 16] = [0xfd, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// Ports of the services.
pub mod port {
    /// DNS, RFC 1035.
    pub const DNS: u16 = 53;
    /// DNS over TLS (RFC 7858) and over QUIC (RFC 9250).
    pub const DNS_OVER_TLS: u16 = 853;
    /// DNS over QUIC, as its drafts had it.
    pub const DNS_OVER_QUIC_EARLY: u16 = 8853;
    /// Multicast DNS, RFC 6762.
    pub const MDNS: u16 = 5353;
    /// LLMNR, RFC 4795.
    pub const LLMNR: u16 = 5355;
    /// Where names are asked for past a resolver at [`DNS`]: dropped where a list of names holds (D-2).
    pub const DNS_BYPASSES: [u16; 4] = [DNS_OVER_TLS, DNS_OVER_QUIC_EARLY, MDNS, LLMNR];

    /// DHCP server, RFC 2131.
    pub const DHCP_SERVER: u16 = 67;
    /// DHCP client, RFC 2131.
    pub const DHCP_CLIENT: u16 = 68;
}

/// Who asked, as the servers see it: the source address of a steered packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(not(target_arch = "bpf"), derive(Debug))]
pub struct Client {
    /// Slot of the interface.
    pub slot: u32,
    /// Generation of the interface, as much of it as the address holds (see [`Client::is_of`]).
    pub generation: u32,
    /// What the way back needs besides.
    pub place: Place,
}

/// From which address a packet came and which one it asked: a few bits of the address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(not(target_arch = "bpf"), derive(Debug))]
pub struct Place(pub u8);

impl Place {
    /// IPv4, bits 0 and 1: which of the interface's `addresses_v4` the packet came from. IPv6: the same for
    /// `addresses_v6`.
    pub const ADDRESS: u8 = 0b011;
    /// IPv4: where the number of the asked server begins: 0 is `gateway_v4`, [`Place::INSTANCE_GATEWAY`] the other
    /// gateway, and from [`REMEMBERED_FIRST`] on they are those of [`Asked`].
    pub const SERVER_SHIFT_V4: u32 = 2;
    /// As [`Place::SERVER_SHIFT_V4`], for IPv6, which has one gateway.
    pub const SERVER_SHIFT_V6: u32 = 3;
    /// Bits of the number of the asked server.
    pub const SERVER: u8 = 0b1111;
    /// IPv4: number of `instance_gateway_v4`.
    pub const INSTANCE_GATEWAY: u8 = 1;
    /// IPv6: which kind of source the packet had.
    pub const KIND_V6: u8 = 0b111;
    /// IPv4, set by the DHCP server in the address that it answers: to everybody on the link, since the guest has
    /// no address yet.
    pub const BROADCAST: u8 = 0b100;
    /// IPv6: the packet came from a link-local address.
    pub const LINK_LOCAL: u8 = 0b100;
    /// IPv6: the packet came from the unspecified address; the answer goes to all nodes. The servers answer this
    /// too where nobody asked.
    pub const ALL_NODES: u8 = 0b101;
}

/// Numbers that a name server may have in a [`Place`].
pub const SERVERS: usize = 1 << Place::SERVER.count_ones();
/// The first of those that are remembered for an interface, in each family; the one remembered first makes room.
pub const REMEMBERED_FIRST: u8 = 2;

wire! {
    /// Name servers that a guest asked whose questions are steered (D-2): the answers come from them, as it seems.
    pub struct Asked<A> = 72 or 264 bytes {
        /// Which of `servers` was written last; 0 where none was.
        pub last: u32,
        /// Unused.
        pub reserved: u32,
        /// Their addresses by number, from [`REMEMBERED_FIRST`] on; all zeroes where none is.
        pub servers: [A; SERVERS],
    }
}

/// Bits of the generation that an IPv4 address of a client holds.
const GENERATION_BITS_V4: u32 = 8;
/// Bits of the place that an IPv4 address of a client holds.
const PLACE_BITS_V4: u32 = 6;
/// Those that an IPv6 address holds, beside the eighth, which is the servers' own.
const PLACE_V6: u8 = 0b111_1111;

impl Client {
    /// Whether it asked in this generation of its slot: an answer to an earlier one must not reach the next (S-5).
    #[inline(always)]
    #[must_use]
    pub const fn is_of(self, generation: u32) -> bool {
        let mask = (1 << GENERATION_BITS_V4) - 1;
        self.generation & mask == generation & mask
    }

    /// The address as IPv4: 128.0.0.0/2, so that it is unicast whatever the slot.
    #[inline(always)]
    #[must_use]
    pub const fn to_v4(self) -> [u8; 4] {
        let generation = self.generation & ((1 << GENERATION_BITS_V4) - 1);
        let place = self.place.0 as u32 & ((1 << PLACE_BITS_V4) - 1);
        (0b10 << 30 | generation << (16 + PLACE_BITS_V4) | place << 16 | self.slot & 0xffff)
            .to_be_bytes()
    }

    /// The client with this IPv4 address; `None` where it is none of a client.
    #[inline(always)]
    #[must_use]
    pub const fn from_v4(address: [u8; 4]) -> Option<Self> {
        let word = u32::from_be_bytes(address);
        if word >> 30 != 0b10 {
            return None;
        }
        Some(Self {
            slot: word & 0xffff,
            generation: word >> (16 + PLACE_BITS_V4) & ((1 << GENERATION_BITS_V4) - 1),
            place: Place((word >> 16 & ((1 << PLACE_BITS_V4) - 1)) as u8),
        })
    }

    /// The address as IPv6: fd00::/9 with the place in the second byte, then slot, generation, and the low half
    /// of the guest's own address.
    #[inline(always)]
    #[must_use]
    pub const fn to_v6(self, host_part: [u8; 8]) -> [u8; 16] {
        let [_, _, s, t] = self.slot.to_be_bytes();
        let [e, f, g, h] = self.generation.to_be_bytes();
        let [i, j, k, l, m, n, o, p] = host_part;
        [
            0xfd,
            self.place.0 & PLACE_V6,
            s,
            t,
            e,
            f,
            g,
            h,
            i,
            j,
            k,
            l,
            m,
            n,
            o,
            p,
        ]
    }

    /// The client with this IPv6 address, and the low half of its own; `None` where it is none of a client.
    #[inline(always)]
    #[must_use]
    pub const fn from_v6(address: [u8; 16]) -> Option<(Self, [u8; 8])> {
        let [
            0xfd,
            place @ 0..=PLACE_V6,
            s,
            t,
            e,
            f,
            g,
            h,
            i,
            j,
            k,
            l,
            m,
            n,
            o,
            p,
        ] = address
        else {
            return None;
        };
        if place & Place::KIND_V6 > Place::ALL_NODES {
            return None;
        }
        let client = Self {
            slot: u32::from_be_bytes([0, 0, s, t]),
            generation: u32::from_be_bytes([e, f, g, h]),
            place: Place(place),
        };
        Some((client, [i, j, k, l, m, n, o, p]))
    }
}

wire! {
    /// What holds for the way to the servers.
    pub struct Services = 8 bytes {
        /// Interface index of the host's end of the veth; 0 while there are no servers: nothing is steered then.
        pub ifindex: u32,
        /// Unused.
        pub reserved: u32,
    }
}

wire! {
    /// What may still be sent to the servers: two token buckets.
    pub struct Allowance = 16 bytes {
        /// By slot: time up to which requests of DHCP and router solicitations are paid, ns of the monotonic clock.
        pub configuration_ns: u64,
        /// By number of the instance, over all its interfaces (D-8): time up to which DNS packets are paid, likewise.
        pub dns_ns: u64,
    }
}

/// DHCP requests and router solicitations that one interface may send in a second, after a burst of twice as many.
pub const CONFIGURATION_PER_SECOND: u64 = 16;
/// DNS packets that one instance may send in a second, after a burst of as many; each segment counts.
pub const DNS_PER_SECOND: u64 = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    fn client(slot: u32, generation: u32, place: u8) -> Client {
        Client {
            slot,
            generation,
            place: Place(place),
        }
    }

    #[test]
    fn an_ipv4_address_says_who_asked_and_is_always_unicast() {
        for slot in [0, 1, 255, 65_535] {
            for place in 0..64 {
                let address = client(slot, 0xff, place).to_v4();
                assert!((128..192).contains(&address[0]), "{address:?}");
                assert_eq!(Client::from_v4(address), Some(client(slot, 0xff, place)));
            }
        }
        assert_eq!(Client::from_v4(SERVER_V4), None);
        assert_eq!(Client::from_v4([192, 0, 2, 1]), None);
    }

    #[test]
    fn an_ipv6_address_says_who_asked_and_keeps_the_low_half() {
        let host_part = [1, 2, 3, 4, 5, 6, 7, 8];
        for place in (0..128).filter(|place| place & Place::KIND_V6 <= Place::ALL_NODES) {
            let asked = client(65_535, u32::MAX, place);
            assert_eq!(
                Client::from_v6(asked.to_v6(host_part)),
                Some((asked, host_part))
            );
        }
        assert_eq!(Client::from_v6(SERVER_V6), None);
        assert_eq!(Client::from_v6(NEXT_HOP_V6), None);
    }

    #[test]
    fn an_answer_belongs_to_the_start_that_asked() {
        let asked = Client::from_v4(client(7, 0x1234_5678, 0).to_v4()).unwrap();
        assert!(asked.is_of(0x1234_5678));
        assert!(!asked.is_of(0x1234_5679));
    }
}
