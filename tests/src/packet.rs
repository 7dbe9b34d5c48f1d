//! Packets: built with etherparse, taken apart and checked by code of our own.

use std::net::IpAddr;

use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};
use netagent_common::net::{ethertype, protocol};

/// The two ends of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Source hardware address.
    pub src_mac: [u8; 6],
    /// Destination hardware address.
    pub dst_mac: [u8; 6],
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
}

impl Ends {
    /// Who answers whom.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self {
            src_mac: self.dst_mac,
            dst_mac: self.src_mac,
            src: self.dst,
            dst: self.src,
            ttl: self.ttl,
        }
    }

    /// With another destination.
    #[must_use]
    pub fn to(self, dst: impl Into<IpAddr>) -> Self {
        Self {
            dst: dst.into(),
            ..self
        }
    }

    /// With another source.
    #[must_use]
    pub fn from(self, src: impl Into<IpAddr>) -> Self {
        Self {
            src: src.into(),
            ..self
        }
    }

    fn ip(&self) -> PacketBuilderStep<IpHeaders> {
        let ethernet = PacketBuilder::ethernet2(self.src_mac, self.dst_mac);
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                ethernet.ipv4(src.octets(), dst.octets(), self.ttl)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                ethernet.ipv6(src.octets(), dst.octets(), self.ttl)
            }
            (src, dst) => panic!("{src} and {dst} are of two families"),
        }
    }
}

/// Ports, numbers and flags of a TCP segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// [`netagent_common::net::tcp_flag`]s.
    pub flags: u8,
}

/// A UDP datagram.
///
/// # Panics
/// When the payload is too long.
#[must_use]
pub fn udp(ends: &Ends, (src_port, dst_port): (u16, u16), payload: &[u8]) -> Vec<u8> {
    let builder = ends.ip().udp(src_port, dst_port);
    let mut bytes = Vec::with_capacity(builder.size(payload.len()));
    builder
        .write(&mut bytes, payload)
        .expect("the payload fits");
    bytes
}

/// A TCP segment.
///
/// # Panics
/// When the payload is too long.
#[must_use]
pub fn tcp(ends: &Ends, segment: Segment, payload: &[u8]) -> Vec<u8> {
    use netagent_common::net::tcp_flag::{ACK, FIN, RST, SYN};
    let mut header =
        etherparse::TcpHeader::new(segment.src_port, segment.dst_port, segment.sequence, 64_000);
    header.acknowledgment_number = segment.acknowledgement;
    header.syn = segment.flags & SYN != 0;
    header.ack = segment.flags & ACK != 0;
    header.fin = segment.flags & FIN != 0;
    header.rst = segment.flags & RST != 0;
    let builder = ends.ip().tcp_header(header);
    let mut bytes = Vec::with_capacity(builder.size(payload.len()));
    builder
        .write(&mut bytes, payload)
        .expect("the payload fits");
    bytes
}

/// An echo request of the family of `ends`.
#[must_use]
pub fn echo_request(ends: &Ends, (id, sequence): (u16, u16), payload: &[u8]) -> Vec<u8> {
    echo(
        ends,
        if ends.src.is_ipv4() { 8 } else { 128 },
        (id, sequence),
        payload,
    )
}

/// An echo reply of the family of `ends`.
#[must_use]
pub fn echo_reply(ends: &Ends, (id, sequence): (u16, u16), payload: &[u8]) -> Vec<u8> {
    echo(
        ends,
        if ends.src.is_ipv4() { 0 } else { 129 },
        (id, sequence),
        payload,
    )
}

fn echo(ends: &Ends, kind: u8, (id, sequence): (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::from(id.to_be_bytes());
    body.extend(sequence.to_be_bytes());
    body.extend(payload);
    icmp(ends, (kind, 0), &body)
}

/// An ICMP or ICMPv6 message with this type, code, and what follows the checksum.
#[must_use]
pub fn icmp(ends: &Ends, (kind, code): (u8, u8), body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(body);
    let number = if ends.src.is_ipv4() {
        protocol::ICMP
    } else {
        protocol::ICMPV6
    };
    let mut bytes = ip(ends, number, &message);
    let checksum = transport_checksum(&bytes).expect("an IP packet");
    let start = bytes.len() - message.len();
    bytes[start + 2..start + 4].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// An IP packet with any protocol and payload.
///
/// # Panics
/// When the payload is too long.
#[must_use]
pub fn ip(ends: &Ends, number: u8, payload: &[u8]) -> Vec<u8> {
    // etherparse wants extension headers as such; here they are bytes like any other.
    const NOTHING_KNOWN: u8 = 253;
    let is_v6 = ends.src.is_ipv6();
    let written = if is_v6 { NOTHING_KNOWN } else { number };
    let mut bytes = Vec::new();
    ends.ip()
        .write(&mut bytes, written.into(), payload)
        .expect("the payload fits");
    if is_v6 {
        bytes[20] = number;
    }
    bytes
}

/// A frame of any type.
#[must_use]
pub fn ethernet(dst_mac: [u8; 6], src_mac: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::from(dst_mac);
    bytes.extend(src_mac);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The same frame with a VLAN tag of this type (0x8100, 0x88a8) and number.
#[must_use]
pub fn tagged(bytes: &[u8], tag_type: u16, number: u16) -> Vec<u8> {
    let mut tagged = Vec::from(&bytes[..12]);
    tagged.extend(tag_type.to_be_bytes());
    tagged.extend(number.to_be_bytes());
    tagged.extend(&bytes[12..]);
    tagged
}

/// The Internet checksum's sum, not folded.
#[must_use]
pub fn sum(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low));
    bytes.chunks(2).map(word).sum()
}

/// Folds a sum to sixteen bits.
#[must_use]
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The same IPv4 packet with a header checksum that fits.
#[must_use]
pub fn with_header_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = 14 + usize::from(bytes[14] & 15) * 4;
    bytes[24..26].fill(0);
    let checksum = !fold(sum(&bytes[14..end]));
    bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// Where the parts of a packet are, without options or extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Protocol number.
    pub protocol: u8,
    /// Offset of the transport header in the frame.
    pub start: usize,
    /// Offset of its checksum from there.
    pub checksum_offset: usize,
    /// Offset of the payload in the frame.
    pub payload: usize,
    /// Offset of the end of the packet in the frame.
    pub end: usize,
}

/// Finds the transport header; `None` where it is not TCP, UDP or ICMP over plain IP.
#[must_use]
pub fn transport(bytes: &[u8]) -> Option<Transport> {
    let word = |at: usize| {
        Some(usize::from(u16::from_be_bytes([
            *bytes.get(at)?,
            *bytes.get(at + 1)?,
        ])))
    };
    let (number, start, end) = match u16::try_from(word(12)?).ok()? {
        ethertype::IPV4 => (
            *bytes.get(23)?,
            14 + usize::from(*bytes.get(14)? & 15) * 4,
            14 + word(16)?,
        ),
        ethertype::IPV6 => (*bytes.get(20)?, 54, 54 + word(18)?),
        _ => return None,
    };
    let (checksum_offset, header) = match number {
        protocol::TCP => (16, usize::from(*bytes.get(start + 12)? >> 4) * 4),
        protocol::UDP => (UDP_CHECKSUM, 8),
        protocol::ICMP | protocol::ICMPV6 => (2, 8),
        _ => return None,
    };
    Some(Transport {
        protocol: number,
        start,
        checksum_offset,
        payload: start + header,
        end,
    })
}

/// Offset of the checksum in a UDP header (RFC 768); TCP has it elsewhere.
pub const UDP_CHECKSUM: usize = 6;

/// Sum of the pseudo-header of a TCP, UDP or ICMPv6 packet; 0 for ICMP, which has none.
#[must_use]
pub fn pseudo_sum(bytes: &[u8]) -> Option<u64> {
    let Transport {
        protocol: number,
        start,
        end,
        ..
    } = transport(bytes)?;
    if number == protocol::ICMP {
        return Some(0);
    }
    let addresses = if start == 54 { 22..54 } else { 26..34 };
    Some(sum(bytes.get(addresses)?) + u64::from(number) + (end.checked_sub(start)?) as u64)
}

/// The checksum that the transport header should carry.
#[must_use]
pub fn transport_checksum(bytes: &[u8]) -> Option<u16> {
    let Transport {
        protocol: number,
        start,
        checksum_offset,
        end,
        ..
    } = transport(bytes)?;
    let mut segment = Vec::from(bytes.get(start..end)?);
    segment
        .get_mut(checksum_offset..checksum_offset + 2)?
        .fill(0);
    match !fold(pseudo_sum(bytes)? + sum(&segment)) {
        0 if number == protocol::UDP => Some(0xffff),
        checksum => Some(checksum),
    }
}

/// Checks every checksum of a finished frame by computing it anew.
///
/// # Panics
/// Where one is wrong, or the frame is not TCP, UDP or ICMP over IP.
pub fn assert_checksums(bytes: &[u8]) {
    let Transport {
        start,
        checksum_offset,
        end,
        ..
    } = transport(bytes).unwrap_or_else(|| panic!("neither TCP, UDP nor ICMP: {}", hex(bytes)));
    assert!(end <= bytes.len(), "cut short: {}", hex(bytes));
    if bytes[12..14] == ethertype::IPV4.to_be_bytes() {
        assert_eq!(
            fold(sum(&bytes[14..start])),
            0xffff,
            "IPv4 header checksum: {}",
            hex(bytes)
        );
    }
    let field = start + checksum_offset;
    let carried = u16::from_be_bytes([bytes[field], bytes[field + 1]]);
    let expected = transport_checksum(bytes).expect("found above");
    // 0 and 0xffff are the same number in one's complement; both are seen for TCP.
    assert_eq!(
        carried % 0xffff,
        expected % 0xffff,
        "transport checksum: {}",
        hex(bytes)
    );
}

/// What a packet says, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Hardware addresses, addresses, TTL.
    pub ends: Ends,
    /// Protocol number.
    pub protocol: u8,
    /// Source and destination port; of an echo, identifier and sequence number.
    pub ports: (u16, u16),
    /// Type of an ICMP message, flags of a TCP segment, else 0.
    pub kind: u8,
    /// What follows the transport header.
    pub payload: Vec<u8>,
}

impl Packet {
    /// Takes a frame apart; `None` where it is not TCP, UDP or ICMP over plain IP.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let Transport {
            protocol: number,
            start,
            payload,
            end,
            ..
        } = transport(bytes)?;
        let word = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
        let (src, dst, ttl): (IpAddr, IpAddr, u8) = if bytes.get(14)? >> 4 == 4 {
            let address = |at: usize| <[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok();
            (address(26)?.into(), address(30)?.into(), *bytes.get(22)?)
        } else {
            let address = |at: usize| <[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok();
            (address(22)?.into(), address(38)?.into(), *bytes.get(21)?)
        };
        let mac = |at: usize| <[u8; 6]>::try_from(bytes.get(at..at + 6)?).ok();
        let (ports, kind) = match number {
            protocol::TCP => ((word(start)?, word(start + 2)?), *bytes.get(start + 13)?),
            protocol::UDP => ((word(start)?, word(start + 2)?), 0),
            _ => ((word(start + 4)?, word(start + 6)?), *bytes.get(start)?),
        };
        Some(Self {
            ends: Ends {
                src_mac: mac(6)?,
                dst_mac: mac(0)?,
                src,
                dst,
                ttl,
            },
            protocol: number,
            ports,
            kind,
            payload: Vec::from(bytes.get(payload..end)?),
        })
    }
}

/// Bytes as text, for messages.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
