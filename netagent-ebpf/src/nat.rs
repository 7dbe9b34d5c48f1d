//! Masquerade: who holds a port, and how addresses and ports are rewritten.
use netagent_common::checksum;
use netagent_common::drop::DropReason;
use netagent_common::flow::{Flow, FlowKey};
use netagent_common::nat::{Reverse, ReverseKey};

use crate::family::{End, Family};
use crate::kernel::{self, Checksum, Skb};
use crate::maps::InsertError;
use crate::parse::{Header, Kind, Transport, checksum_field, transport_offset};
use crate::{mapping, maps, shortcut};

/// The flow as the world sees it.
#[inline(always)]
pub fn reverse_key<A: Copy>(key: &FlowKey<A>, flow: &Flow<A>) -> ReverseKey<A> {
    key_of_port(key, (flow.nat_address, flow.nat_port))
}

/// A new flow as the world would see it by an address and a port.
#[inline(always)]
pub fn key_of_port<A: Copy>(
    key: &FlowKey<A>,
    (nat_address, nat_port): (A, [u8; 2]),
) -> ReverseKey<A> {
    ReverseKey {
        remote: key.remote,
        nat_address,
        remote_port: key.remote_port,
        nat_port,
        protocol: key.protocol,
    }
}

/// The flow as its guest sees it, whose entry this is.
#[inline(always)]
pub const fn flow_key<A: Copy>(key: &ReverseKey<A>, reverse: &Reverse<A>) -> FlowKey<A> {
    FlowKey {
        instance: reverse.instance,
        guest: reverse.guest,
        remote: key.remote,
        guest_port: reverse.guest_port,
        remote_port: key.remote_port,
        protocol: key.protocol,
    }
}

/// Whether the port is one that a process of the host uses: replies to it would be taken from it.
#[inline(always)]
pub fn is_the_hosts<A: Family>(skb: Skb, key: &ReverseKey<A>) -> bool {
    let (remote, local) = (
        (key.remote, key.remote_port),
        (key.nat_address, key.nat_port),
    );
    // Who pings has no port; the identifiers of the host's pings are random.
    key.protocol != u32::from(A::ICMP) && skb.host_has_socket(key.protocol, remote, local)
}

/// Claims a port for a flow: exactly one of several CPUs that try succeeds.
///
/// # Errors
/// Where it is claimed, or there is no room.
#[inline(always)]
pub fn claim<A: Family>(key: &FlowKey<A>, reverse_key: &ReverseKey<A>) -> Result<(), InsertError> {
    let reverse = Reverse {
        tag: shortcut::tag(reverse_key),
        seen: kernel::tick(),
        instance: key.instance,
        slot: 0,
        generation: 0,
        policy_generation: 0,
        guest_port: key.guest_port,
        reserved: [0; 2],
        guest: key.guest,
    };
    maps::insert_reverse(reverse_key, &reverse)
}

/// Whether a reverse entry belongs to this flow.
#[inline(always)]
fn is_of<A: Family>(reverse: &Reverse<A>, key: &FlowKey<A>) -> bool {
    reverse.guest == key.guest
        && reverse.guest_port == key.guest_port
        && reverse.instance == key.instance
}

/// Makes sure that the flow's reverse entry is there, and its mapping stays; false where the port is another flow's, or
/// the host's.
#[inline(never)]
pub fn keep_port<A: Family>(skb: Skb, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
    mapping::refresh(key, flow);
    let reverse_key = reverse_key(key, flow);
    if let Some(reverse) = maps::reverse(&reverse_key) {
        return is_of(reverse, key);
    }
    !is_the_hosts(skb, &reverse_key) && claim(key, &reverse_key).is_ok()
}

/// Gives the flow's port back, unless it is another flow's by now.
#[inline(always)]
pub fn release<A: Family>(key: &FlowKey<A>, flow: &Flow<A>) {
    let reverse_key = reverse_key(key, flow);
    if maps::reverse(&reverse_key).is_some_and(|reverse| is_of(reverse, key)) {
        maps::remove_reverse(&reverse_key);
    }
}

/// Makes a packet of the guest one of the host's.
///
/// # Errors
/// [`DropReason::HelperFailed`].
#[inline(always)]
pub fn rewrite_source<A: Family>(
    skb: Skb,
    (header, transport): (&Header<A>, &Transport),
    flow: &Flow<A>,
    checksum: Checksum,
) -> Result<(), DropReason> {
    // Copied before the packet is touched, since the record may change meanwhile.
    let (address, new, address_difference) =
        (flow.nat_address, flow.nat_port, flow.address_difference);
    let (kind, old) = (transport.kind, transport.source);
    if new != old {
        set_port::<A>(skb, kind, End::Source, new)?;
    }
    correct_for::<A>(skb, kind, checksum, ((old, new), address_difference))?;
    A::rewrite_source(skb, header, address, address_difference)
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
    let (kind, old) = (transport.kind, transport.destination);
    if guest_port != old {
        set_port::<A>(skb, kind, End::Destination, guest_port)?;
    }
    let address_difference = A::difference(header.destination, guest);
    correct_for::<A>(
        skb,
        kind,
        skb.received_checksum(),
        ((old, guest_port), address_difference),
    )?;
    A::rewrite_destination(skb, header, guest)
}

#[inline(always)]
fn set_port<A: Family>(skb: Skb, kind: Kind, end: End, port: [u8; 2]) -> Result<(), DropReason> {
    let ports = skb.window::<8>(transport_offset::<A>())?;
    match (kind, end) {
        (Kind::EchoRequest | Kind::EchoReply, _) => ports.set_two::<4>(port),
        (_, End::Source) => ports.set_two::<0>(port),
        (_, End::Destination) => ports.set_two::<2>(port),
    }
    Ok(())
}

/// Corrects the transport checksum for a port and an address that change.
#[inline(always)]
fn correct_for<A: Family>(
    skb: Skb,
    kind: Kind,
    checksum: Checksum,
    ((old, new), address_difference): (([u8; 2], [u8; 2]), u32),
) -> Result<(), DropReason> {
    let mut difference = 0;
    if has_pseudo_header::<A>(kind) {
        difference = address_difference;
    }
    match checksum {
        Checksum::Full => {
            difference = checksum::add(difference, checksum::word_difference(old, new));
            correct::<A>(skb, kind, true, difference)
        }
        // What is still to be computed covers the port anyway.
        Checksum::Partial => correct::<A>(skb, kind, false, difference),
        Checksum::Unknown => {
            if new != old {
                skb.correct_l4_checksum_for_word(checksum_field::<A>(kind), old, new)?;
            }
            correct_for_address::<A>(skb, kind, address_difference)
        }
    }
}

/// Corrects a checksum on which nothing outside of the packet depends. A full one is the complement of the sum; one that
/// is still to be computed holds the sum over the pseudo header.
#[inline(always)]
fn correct<A: Family>(
    skb: Skb,
    kind: Kind,
    is_full: bool,
    difference: u32,
) -> Result<(), DropReason> {
    let field = checksum_field::<A>(kind);
    let place = skb.window::<2>(field.offset)?;
    let old = place.two::<0>();
    if field.zero_is_none && old == [0; 2] {
        return Ok(());
    }
    let mut new = if is_full {
        checksum::corrected(old, difference)
    } else {
        checksum::fold(checksum::add(u16::from_ne_bytes(old).into(), difference)).to_ne_bytes()
    };
    if field.zero_is_none && new == [0; 2] {
        new = [0xff; 2];
    }
    place.set_two::<0>(new);
    Ok(())
}

#[inline(always)]
fn has_pseudo_header<A: Family>(kind: Kind) -> bool {
    match kind {
        Kind::Segment(_) | Kind::Datagram => true,
        Kind::EchoRequest | Kind::EchoReply => A::ICMP_HAS_PSEUDO_HEADER,
    }
}

#[inline(always)]
fn correct_for_address<A: Family>(skb: Skb, kind: Kind, difference: u32) -> Result<(), DropReason> {
    if !has_pseudo_header::<A>(kind) {
        return Ok(());
    }
    skb.correct_l4_checksum_for_address(checksum_field::<A>(kind), difference)
}
