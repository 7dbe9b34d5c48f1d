//! The two address families behind one trait: everything else is written once.

mod ipv4;
pub mod ipv6;

use netagent_common::drop::DropReason;
use netagent_common::vm::{INTERFACES_MAX, Interface};

use crate::kernel::Skb;
use crate::maps::FamilyMaps;
use crate::parse::Header;

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
    /// No address.
    const ZERO: Self;

    /// The address that stands in sixteen bytes, an IPv4 one in the first four.
    fn from_sixteen(bytes: [u8; 16]) -> Self;
    /// The address in sixteen bytes, an IPv4 one in the first four.
    fn to_sixteen(self) -> [u8; 16];
    /// Whether this is a loopback address.
    fn is_loopback(address: Self) -> bool;
    /// Whether an ICMP type is an error message.
    fn is_error(icmp_type: u8) -> bool;
    /// The IP header.
    ///
    /// # Errors
    /// The reason why it is refused.
    fn header(skb: Skb) -> Result<Header<Self>, DropReason>;
    /// The destination, of a header that need not be one that is understood.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] where the frame ends before it.
    fn destination(skb: Skb) -> Result<Self, DropReason>;
    /// Whether the instance may send from this address.
    fn is_own(interface: &Interface, address: Self) -> bool;
    /// The guest's own address on this interface, where it has one.
    fn guest(interface: &Interface) -> Option<Self>;
    /// Whether this is the gateway's address: this interface's, or the one that the guest was told.
    fn is_gateway(interface: &Interface, address: Self) -> bool;
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
    /// Sends the packet to a neighbour.
    fn redirect(ifindex: u32, next_hop: Self, skb: Skb) -> i32;
    /// Source, destination and ports of a header that lies somewhere in the packet: in an ICMP error, or
    /// behind a fragment header.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] where it does not fit.
    fn quoted(skb: Skb) -> Result<Quoted<Self>, DropReason>;
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
    /// The eight bytes behind the IP header.
    pub transport: [[u8; 2]; 4],
}

/// Where the hop limit of an answer starts.
const HOP_LIMIT: u8 = 64;

const _: () = assert!(INTERFACES_MAX == 4, "`is_own` compares four addresses");
