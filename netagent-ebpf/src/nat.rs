//! Masquerade: ports are claimed, addresses and ports are rewritten.

use netagent_common::drop::DropReason;
use netagent_common::flow::{Flow, FlowKey};
use netagent_common::nat::{PORT_TRIES, Reverse, ReverseKey, candidate};

use crate::family::Family;
use crate::kernel::{self, Skb};
use crate::maps::{self, InsertError};
use crate::parse::{Header, Kind, Transport, checksum_field, transport_offset};

/// The flow as the world sees it.
#[inline(always)]
pub fn reverse_key<A: Copy>(key: &FlowKey<A>, flow: &Flow<A>) -> ReverseKey<A> {
    ReverseKey {
        remote: key.remote,
        nat_address: flow.nat_address,
        remote_port: key.remote_port,
        nat_port: flow.nat_port,
        protocol: key.protocol,
    }
}

/// Claims a port for a new flow: the guest's own where it is free, else one near a random start.
///
/// # Errors
/// [`DropReason::SnatExhausted`] and [`DropReason::FlowTableFull`].
#[inline(never)]
pub fn claim<A: Family>(key: &FlowKey<A>, nat_address: &A) -> Result<u16, DropReason> {
    let mut reverse_key = ReverseKey {
        remote: key.remote,
        nat_address: *nat_address,
        remote_port: key.remote_port,
        nat_port: [0; 2],
        protocol: key.protocol,
    };
    let reverse = Reverse {
        created_s: (kernel::now_ns() / 1_000_000_000) as u32,
        instance: key.instance,
        guest_port: key.guest_port,
        reserved: [0; 2],
        guest: key.guest,
    };
    let (own, seed, ports) = (
        u16::from_be_bytes(key.guest_port),
        kernel::random(),
        maps::nat_ports(),
    );
    for attempt in 0..PORT_TRIES {
        let port = candidate(own, seed, attempt, ports);
        reverse_key.nat_port = port.to_be_bytes();
        match maps::insert_reverse(&reverse_key, &reverse) {
            Ok(()) => return Ok(port),
            Err(InsertError::Exists) => {}
            Err(InsertError::Full) => return Err(DropReason::FlowTableFull),
        }
    }
    Err(DropReason::SnatExhausted)
}

/// Makes a packet of the guest one of the host's.
///
/// # Errors
/// [`DropReason::HelperFailed`].
#[inline(always)]
pub fn rewrite_source<A: Family>(
    skb: Skb,
    header: &Header<A>,
    transport: &Transport,
    flow: &Flow<A>,
) -> Result<(), DropReason> {
    // Copied before the packet is touched, since the record may change meanwhile.
    let (address, port, difference) = (flow.nat_address, flow.nat_port, flow.address_difference);
    if port != transport.source {
        set_port::<A>(skb, transport.kind, End::Source, (transport.source, port))?;
    }
    correct_for_address::<A>(skb, transport.kind, difference)?;
    A::rewrite_source(skb, header, address, difference)
}

/// Makes a packet of the world one for the guest.
///
/// # Errors
/// [`DropReason::HelperFailed`].
#[inline(always)]
pub fn rewrite_destination<A: Family>(
    skb: Skb,
    header: &Header<A>,
    transport: &Transport,
    (guest, guest_port): (A, [u8; 2]),
) -> Result<(), DropReason> {
    if guest_port != transport.destination {
        set_port::<A>(
            skb,
            transport.kind,
            End::Destination,
            (transport.destination, guest_port),
        )?;
    }
    correct_for_address::<A>(
        skb,
        transport.kind,
        A::difference(header.destination, guest),
    )?;
    A::rewrite_destination(skb, header, guest)
}

#[derive(Clone, Copy)]
enum End {
    Source,
    Destination,
}

#[inline(always)]
fn set_port<A: Family>(
    skb: Skb,
    kind: Kind,
    end: End,
    (old, new): ([u8; 2], [u8; 2]),
) -> Result<(), DropReason> {
    let ports = skb.window::<8>(transport_offset::<A>())?;
    match (kind, end) {
        (Kind::EchoRequest | Kind::EchoReply, _) => ports.set_two::<4>(new),
        (_, End::Source) => ports.set_two::<0>(new),
        (_, End::Destination) => ports.set_two::<2>(new),
    }
    skb.correct_l4_checksum_for_word(checksum_field::<A>(kind), old, new)
}

#[inline(always)]
fn correct_for_address<A: Family>(skb: Skb, kind: Kind, difference: u32) -> Result<(), DropReason> {
    let is_echo = matches!(kind, Kind::EchoRequest | Kind::EchoReply);
    if is_echo && !A::ICMP_HAS_PSEUDO_HEADER {
        return Ok(());
    }
    skb.correct_l4_checksum_for_address(checksum_field::<A>(kind), difference)
}
