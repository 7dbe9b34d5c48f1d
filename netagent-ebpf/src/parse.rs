//! What the headers say, checked once.

use netagent_common::drop::DropReason;
use netagent_common::limit::SEGMENTS_MAX;
use netagent_common::net::{ETHERNET_LEN, protocol, tcp_flag};

use crate::family::Family;
use crate::kernel::{ChecksumField, Skb};

/// An IP header without options, which agrees with the length of the frame.
#[derive(Clone, Copy)]
pub struct Header<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Protocol number.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// The first of several fragments: it has ports, but the checksum covers more than is here.
    pub first_fragment: bool,
    /// Bytes behind the header.
    pub payload_len: u32,
}

/// What the header behind it says of the flow.
#[derive(Clone, Copy)]
pub struct Transport {
    /// Kind of packet.
    pub kind: Kind,
    /// Port of the sender; of an echo request, its identifier.
    pub source: [u8; 2],
    /// Port of the receiver; of an echo reply, its identifier.
    pub destination: [u8; 2],
    /// Length of the header, bytes.
    pub len: u32,
}

/// Kind of packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A TCP segment with these flags.
    Segment(u8),
    /// A UDP datagram.
    Datagram,
    /// An echo request.
    EchoRequest,
    /// An echo reply.
    EchoReply,
}

/// Offset of the checksum in an ICMP or ICMPv6 header.
pub const ICMP_CHECKSUM_OFFSET: u32 = 2;

impl Kind {
    /// Offsets, from the start of the transport header, of its checksum and of the port or identifier of the
    /// end that `source` names.
    #[inline(always)]
    #[must_use]
    pub const fn checksum_offset(self) -> u32 {
        match self {
            Self::Segment(_) => 16,
            Self::Datagram => 6,
            Self::EchoRequest | Self::EchoReply => ICMP_CHECKSUM_OFFSET,
        }
    }

    /// Whether it is a segment that opens, answers or ends a connection.
    #[inline(always)]
    #[must_use]
    pub const fn is_eventful(self) -> bool {
        match self {
            Self::Segment(flags) => tcp_flag::is_eventful(flags),
            Self::Datagram | Self::EchoRequest | Self::EchoReply => false,
        }
    }

    /// Whether it is a segment that opens a connection or answers one that does, and may announce an MSS.
    #[inline(always)]
    #[must_use]
    pub const fn opens(self) -> bool {
        match self {
            Self::Segment(flags) => flags & tcp_flag::SYN != 0,
            Self::Datagram | Self::EchoRequest | Self::EchoReply => false,
        }
    }
}

/// Offset of the transport header.
#[inline(always)]
#[must_use]
pub const fn transport_offset<A: Family>() -> u32 {
    ETHERNET_LEN + A::HEADER_LEN
}

/// Parses the transport header.
///
/// # Errors
/// The reason why the packet belongs to no flow.
#[inline(always)]
pub fn transport<A: Family>(skb: Skb, header: &Header<A>) -> Result<Transport, DropReason> {
    match header.protocol {
        protocol::TCP => tcp(skb, header),
        protocol::UDP => udp(skb, header),
        number if number == A::ICMP => icmp::<A>(skb),
        _ => Err(DropReason::UnknownProtocol),
    }
}

/// Parses a TCP header.
///
/// # Errors
/// [`DropReason::Malformed`].
#[inline(always)]
pub fn tcp<A: Family>(skb: Skb, header: &Header<A>) -> Result<Transport, DropReason> {
    tcp_at(skb, transport_offset::<A>(), header.payload_len)
}

/// The same at any place, in a packet that ends `payload_len` bytes behind it.
///
/// # Errors
/// [`DropReason::Malformed`].
#[inline(always)]
pub fn tcp_at(skb: Skb, at: u32, payload_len: u32) -> Result<Transport, DropReason> {
    let segment = skb.window::<20>(at)?;
    let len = u32::from(segment.byte::<12>() >> 4) * 4;
    if len < 20 || len > payload_len {
        return Err(DropReason::Malformed);
    }
    Ok(Transport {
        kind: Kind::Segment(segment.byte::<13>()),
        source: segment.two::<0>(),
        destination: segment.two::<2>(),
        len,
    })
}

/// Parses a UDP header.
///
/// # Errors
/// [`DropReason::Malformed`].
#[inline(always)]
pub fn udp<A: Family>(skb: Skb, header: &Header<A>) -> Result<Transport, DropReason> {
    udp_at(skb, transport_offset::<A>(), header.payload_len)
}

/// The same at any place; the datagram has at most `len_max` bytes.
///
/// # Errors
/// [`DropReason::Malformed`].
#[inline(always)]
pub fn udp_at(skb: Skb, at: u32, len_max: u32) -> Result<Transport, DropReason> {
    let datagram = skb.window::<8>(at)?;
    let len = u32::from(u16::from_be_bytes(datagram.two::<4>()));
    if len < 8 || len > len_max {
        return Err(DropReason::Malformed);
    }
    Ok(Transport {
        kind: Kind::Datagram,
        source: datagram.two::<0>(),
        destination: datagram.two::<2>(),
        len: 8,
    })
}

/// Parses an ICMP or ICMPv6 header.
///
/// # Errors
/// [`DropReason::IcmpError`]; [`DropReason::UnknownProtocol`] where it is no echo.
#[inline(always)]
pub fn icmp<A: Family>(skb: Skb) -> Result<Transport, DropReason> {
    icmp_at::<A>(skb, transport_offset::<A>())
}

/// The same at any place.
///
/// # Errors
/// As of [`icmp`].
#[inline(always)]
pub fn icmp_at<A: Family>(skb: Skb, at: u32) -> Result<Transport, DropReason> {
    let message = skb.window::<8>(at)?;
    let identifier = message.two::<4>();
    let (kind, source, destination) = match message.byte::<0>() {
        kind if kind == A::ECHO_REQUEST => (Kind::EchoRequest, identifier, [0; 2]),
        kind if kind == A::ECHO_REPLY => (Kind::EchoReply, [0; 2], identifier),
        kind if A::is_error(kind) => return Err(DropReason::IcmpError),
        _ => return Err(DropReason::UnknownProtocol),
    };
    Ok(Transport {
        kind,
        source,
        destination,
        len: 8,
    })
}

/// The checksum field of the transport header.
#[inline(always)]
#[must_use]
pub const fn checksum_field<A: Family>(kind: Kind) -> ChecksumField {
    ChecksumField {
        offset: transport_offset::<A>() + kind.checksum_offset(),
        zero_is_none: matches!(kind, Kind::Datagram),
    }
}

/// Whether a super-frame can be cut up with little work.
///
/// # Errors
/// [`DropReason::TooManySegments`]; [`DropReason::Malformed`] where the packet is nothing that is cut up.
#[inline(always)]
pub fn check_segments(skb: Skb, transport: &Transport) -> Result<(), DropReason> {
    let gso_size = skb.gso_size();
    if gso_size == 0 {
        return Ok(());
    }
    if skb.len() > gso_size * SEGMENTS_MAX {
        return Err(DropReason::TooManySegments);
    }
    match transport.kind {
        Kind::Segment(_) | Kind::Datagram => Ok(()),
        Kind::EchoRequest | Kind::EchoReply => Err(DropReason::Malformed),
    }
}

/// Packets and bytes of the link layer as the wire carries them: each segment of a super-frame has its own headers.
#[inline(always)]
pub fn on_the_wire<A: Family>(skb: Skb, transport: &Transport) -> (u32, u32) {
    let (len, gso_size) = (skb.len(), skb.gso_size());
    let headers = transport_offset::<A>() + transport.len;
    if gso_size == 0 || len <= headers {
        return (1, len);
    }
    let segments = (len - headers).div_ceil(gso_size);
    (segments, len + (segments - 1) * headers)
}

/// Whether the packet, or each segment of a super-frame, fits an MTU.
///
/// # Errors
/// [`DropReason::TooBig`] where it does not.
#[inline(always)]
pub fn fits<A: Family>(skb: Skb, transport: &Transport, mtu: u32) -> Result<(), DropReason> {
    let gso_size = skb.gso_size();
    let size = match gso_size {
        0 => skb.len() - ETHERNET_LEN,
        _ => A::HEADER_LEN + transport.len + gso_size,
    };
    if size > mtu {
        Err(DropReason::TooBig)
    } else {
        Ok(())
    }
}
