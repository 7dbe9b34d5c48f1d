//! The two address families behind one trait: everything else is written once.

mod ipv4;
pub mod ipv6;

use netagent_common::drop::DropReason;
use netagent_common::vm::{INTERFACES_MAX, Interface};

use crate::fragment::Fragment;
use crate::icmp::Report;
use crate::kernel::Skb;
use crate::maps::FamilyMaps;
use crate::parse::Header;
use crate::reset::Reset;

/// An address family, named by its address.
pub trait Family: FamilyMaps {
    /// Length of the IP header without options, bytes.
    const HEADER_LEN: u32;
    /// Protocol number of its ICMP.
    const ICMP: u8;
    /// ICMP type of an echo request.
    const ECHO_REQUEST: u8;
    /// ICMP type of an echo reply.
    const ECHO_REPLY: u8;
    /// Whether the address of a packet is part of its ICMP checksum.
    const ICMP_HAS_PSEUDO_HEADER: bool;
    /// Length of the header that fragments have besides, bytes.
    const FRAGMENT_HEADER_LEN: u32;
    /// Bytes that the fragments of one packet may have together, behind their headers.
    const FRAGMENTED_MAX: u32;
    /// No address.
    const ZERO: Self;

    /// The address that stands in sixteen bytes, an IPv4 one in the first four.
    fn from_sixteen(bytes: [u8; 16]) -> Self;
    /// The address in sixteen bytes, an IPv4 one in the first four.
    fn to_sixteen(self) -> [u8; 16];
    /// The last four bytes of the address.
    fn last_four(self) -> u32;
    /// Whether this is a loopback address.
    fn is_loopback(address: Self) -> bool;
    /// Whether an ICMP type is an error message.
    fn is_error(icmp_type: u8) -> bool;
    /// Whether an ICMP type is an error that reports what became of a packet, and is believed: no redirect, and
    /// no source quench (RFC 6633).
    fn is_report(icmp_type: u8) -> bool;
    /// The IP header.
    ///
    /// # Errors
    /// The reason why it is refused.
    fn header(skb: Skb) -> Result<Header<Self>, DropReason>;
    /// The headers of a fragment. An atomic one, of IPv6, is one too: the first, with none to follow (RFC 6946).
    ///
    /// # Errors
    /// The reason why it is refused.
    fn fragment(skb: Skb) -> Result<Fragment<Self>, DropReason>;
    /// The destination, of a header that need not be one that is understood.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] where the frame ends before it.
    fn destination(skb: Skb) -> Result<Self, DropReason>;
    /// The source, as [`Family::destination`].
    ///
    /// # Errors
    /// As of that.
    fn source(skb: Skb) -> Result<Self, DropReason>;
    /// Whether the instance may send from this address.
    fn is_own(interface: &Interface, address: Self) -> bool;
    /// Whether the guest may send from this address by its own one on this interface: a leg has no other.
    fn is_first(interface: &Interface, address: Self) -> bool;
    /// The guest's own address on this interface, where it has one.
    fn guest(interface: &Interface) -> Option<Self>;
    /// Whether the host sends to this address of the instance, by a route of its own.
    fn is_routed(interface: &Interface, address: Self) -> bool;
    /// Whether this is the host's own address on the interface's TAP.
    fn is_on_tap(interface: &Interface, address: Self) -> bool;
    /// Whether this is the gateway's address: this interface's, or the one that the guest was told.
    fn is_gateway(interface: &Interface, address: Self) -> bool;
    /// The gateway's address as the guest knows it, where it has one.
    fn gateway(interface: &Interface) -> Option<Self>;
    /// The address under which the guest leaves towards the world, whatever the route says; [`Family::ZERO`] where it
    /// is that of the route.
    fn snat(interface: &Interface) -> Self;
    /// Whether an address is one of a single interface, as far as it shows.
    fn is_unicast(address: Self) -> bool;
    /// What replacing one address by another does to a checksum.
    fn difference(old: Self, new: Self) -> u32;
    /// Replaces the source address and lowers the hop limit, header checksum included.
    ///
    /// # Errors
    /// [`DropReason::HelperFailed`].
    fn rewrite_source(
        skb: Skb,
        header: &Header<Self>,
        source: Self,
        difference: u32,
    ) -> Result<(), DropReason>;
    /// Replaces the destination address and lowers the hop limit, header checksum included.
    ///
    /// # Errors
    /// [`DropReason::HelperFailed`].
    fn rewrite_destination(
        skb: Skb,
        header: &Header<Self>,
        destination: Self,
    ) -> Result<(), DropReason>;
    /// Replaces both addresses and keeps the hop limit, header checksum included; `difference` is what that does to
    /// a checksum.
    ///
    /// # Errors
    /// [`DropReason::HelperFailed`].
    fn rewrite_addresses(
        skb: Skb,
        header: &Header<Self>,
        addresses: (Self, Self),
        difference: u32,
    ) -> Result<(), DropReason>;
    /// Swaps the addresses and sets the hop limit to 64, header checksum included.
    ///
    /// # Errors
    /// [`DropReason::HelperFailed`].
    fn turn_round(skb: Skb, header: &Header<Self>) -> Result<(), DropReason>;
    /// Lets the packet go no further than this host: its hop limit becomes 1, header checksum included. A stack delivers
    /// such a packet, and none forwards it (RFC 1812 section 5.3.1, RFC 8200 section 3).
    ///
    /// # Errors
    /// [`DropReason::HelperFailed`].
    fn end_here(skb: Skb, header: &Header<Self>) -> Result<(), DropReason>;
    /// Sends the packet to a neighbour.
    fn redirect(ifindex: u32, next_hop: Self, skb: Skb) -> i32;
    /// Writes an ICMP error over the packet that it is about, which it quotes up to the first eight bytes of
    /// the transport header. Whatever the frame was before, it is finished then.
    ///
    /// # Errors
    /// [`DropReason::TooBig`] where nobody may be told so; [`DropReason::HelperFailed`].
    fn report(skb: Skb, report: &Report<Self>) -> Result<(), DropReason>;
    /// Writes a reset into a frame of its length.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] where the frame is shorter.
    fn reset(skb: Skb, reset: &Reset<Self>) -> Result<(), DropReason>;
    /// The packet that an ICMP error quotes, which lies within `payload_len` bytes behind the IP header.
    ///
    /// # Errors
    /// [`DropReason::IcmpError`] where its header has options, or its ports are not there.
    fn quoted(skb: Skb, payload_len: u32) -> Result<Quoted<Self>, DropReason>;
    /// Replaces an address of a quoted packet, header checksum included: its source or its destination. Returns
    /// what that does to the sum over the quoted packet.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] where it is not there.
    fn set_quoted(skb: Skb, end: End, address: Self, difference: u32) -> Result<u32, DropReason>;
}

/// One end of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// A packet that an ICMP error quotes.
#[derive(Clone, Copy)]
pub struct Quoted<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Protocol number.
    pub protocol: u8,
    /// How far behind the IP header its transport header lies, bytes: a first fragment of IPv6 has another between.
    pub shift: u32,
    /// The first eight bytes of the transport header.
    pub transport: [[u8; 2]; 4],
}

/// Where the hop limit of an answer starts.
pub const HOP_LIMIT: u8 = 64;
/// Hop limit of what goes no further.
pub const LAST_HOP: u8 = 1;

const _: () = assert!(INTERFACES_MAX == 4, "`is_own` compares four addresses");
