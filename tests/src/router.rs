//! Router solicitations as guests send them, and advertisements taken apart (RFC 4861, RFC 8106).

use std::net::Ipv6Addr;
use std::time::Duration;

use netagent_common::net::{GATEWAY_MAC, GATEWAY_V6};

use crate::deadline::{Deadline, SOON};
use crate::guest::Nic;
use crate::neighbour::{icmpv6, multicast_mac};
use crate::packet::{self, Ends, Packet};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// A prefix that is advertised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Its address.
    pub address: Ipv6Addr,
    /// Its length.
    pub length: u8,
    /// Whether its addresses are on the link.
    pub is_on_link: bool,
    /// Whether the guest makes an address of its own in it.
    pub is_autonomous: bool,
    /// Valid and preferred lifetime, s.
    pub lifetimes: (u32, u32),
}

/// A router advertisement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// Of the frame and the packet.
    pub ends: Ends,
    /// Hop limit that the guest shall use.
    pub hop_limit: u8,
    /// M, O and others.
    pub flags: u8,
    /// How long the sender is a default router, s.
    pub lifetime: u16,
    /// Hardware address of the sender.
    pub mac: Option<[u8; 6]>,
    /// MTU of the link.
    pub mtu: Option<u32>,
    /// Prefixes.
    pub prefixes: Vec<Prefix>,
    /// Name servers with their lifetime, s.
    pub name_servers: Vec<(Ipv6Addr, u32)>,
}

impl Advertisement {
    /// Reads a frame; `None` where it is another packet.
    ///
    /// # Panics
    /// Where it is an advertisement that RFC 4861, 6.1.2 would have dropped.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let packet = Packet::parse(bytes)?;
        if packet.protocol != 58 || packet.kind != icmpv6::ROUTER_ADVERTISEMENT {
            return None;
        }
        packet::assert_checksums(bytes);
        assert_eq!(packet.ends.ttl, 255, "hop limit");
        assert_eq!(packet.ends.src_mac, GATEWAY_MAC);
        assert_eq!(packet.ends.src, Ipv6Addr::from(GATEWAY_V6));
        let body = &bytes[54..];
        let mut advertisement = Self {
            ends: packet.ends,
            hop_limit: body[4],
            flags: body[5],
            lifetime: u16::from_be_bytes([body[6], body[7]]),
            mac: None,
            mtu: None,
            prefixes: Vec::new(),
            name_servers: Vec::new(),
        };
        let mut rest = &body[16..];
        while let [kind, eighths, ..] = *rest {
            let length = usize::from(eighths) * 8;
            assert!(length > 0, "an option without a length");
            advertisement.read_option(kind, &rest[..length]);
            rest = &rest[length..];
        }
        assert!(rest.is_empty(), "half an option");
        Some(advertisement)
    }

    fn read_option(&mut self, kind: u8, option: &[u8]) {
        let number = |at: usize| {
            let four = option[at..at + 4].try_into().expect("four bytes");
            u32::from_be_bytes(four)
        };
        let address = |at: usize| {
            let sixteen: [u8; 16] = option[at..at + 16].try_into().expect("sixteen bytes");
            Ipv6Addr::from(sixteen)
        };
        match kind {
            1 => self.mac = Some(option[2..8].try_into().expect("six bytes")),
            3 => self.prefixes.push(Prefix {
                address: address(16),
                length: option[2],
                is_on_link: option[3] & 0x80 != 0,
                is_autonomous: option[3] & 0x40 != 0,
                lifetimes: (number(4), number(8)),
            }),
            5 => self.mtu = Some(number(4)),
            25 => {
                for at in (8..option.len()).step_by(16) {
                    self.name_servers.push((address(at), number(4)));
                }
            }
            other => panic!("an option of an unexpected kind, {other}"),
        }
    }

    /// Whether it went to everybody on the link.
    #[must_use]
    pub fn is_to_all(&self) -> bool {
        self.ends.dst == ALL_NODES && self.ends.dst_mac == multicast_mac(ALL_NODES)
    }
}

/// The link-local address that a guest makes of its hardware address (RFC 4291, appendix A).
#[must_use]
pub fn link_local([a, b, c, d, e, f]: [u8; 6]) -> Ipv6Addr {
    let word = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        word(a ^ 2, b),
        word(c, 0xff),
        word(0xfe, d),
        word(e, f),
    )
}

/// A router solicitation from an address, with these options.
#[must_use]
pub fn solicitation(nic: &Nic, src: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    let ends = Ends {
        src_mac: nic.mac,
        dst_mac: multicast_mac(ALL_ROUTERS),
        src: src.into(),
        dst: ALL_ROUTERS.into(),
        ttl: 255,
    };
    let body = [&[0; 4], options].concat();
    packet::icmp(&ends, (icmpv6::ROUTER_SOLICITATION, 0), &body)
}

/// The option with the guest's own hardware address.
#[must_use]
pub fn own_mac(nic: &Nic) -> Vec<u8> {
    [&[1, 1], nic.mac.as_slice()].concat()
}

/// The next advertisement that reaches a guest, of which `wanted` holds.
///
/// # Panics
/// When none comes.
pub fn advertised(nic: &Nic, mut wanted: impl FnMut(&Advertisement) -> bool) -> Advertisement {
    nic.tap.receive_where(Deadline::after(SOON), |frame| {
        Advertisement::parse(&frame.completed()).filter(&mut wanted)
    })
}

/// Asks from the unspecified address, and takes the answer.
pub fn ask(nic: &Nic) -> Advertisement {
    ask_from(nic, Ipv6Addr::UNSPECIFIED)
}

/// Asks from an address, and takes the answer, passing over those that nobody asked for.
pub fn ask_from(nic: &Nic, src: Ipv6Addr) -> Advertisement {
    let options = if src.is_unspecified() {
        Vec::new()
    } else {
        own_mac(nic)
    };
    nic.tap.send_bytes(solicitation(nic, src, &options));
    advertised(nic, |_| true)
}

/// Every advertisement that reaches the guest from now on, for a while.
#[must_use]
pub fn advertised_within(nic: &Nic, while_: Duration) -> Vec<Advertisement> {
    let deadline = Deadline::after(while_);
    let frames = std::iter::from_fn(|| nic.tap.receive(deadline));
    frames
        .filter_map(|frame| Advertisement::parse(&frame.completed()))
        .collect()
}
