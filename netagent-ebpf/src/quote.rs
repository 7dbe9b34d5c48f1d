//! ICMP errors about packets of flows (RFC 5508 section 4, RFC 4443 section 2.4): they go to whoever sent the packet,
//! and the packet that they quote becomes the one that was sent. They open, refresh and close nothing.

use netagent_common::checksum;
use netagent_common::drop::DropReason;
use netagent_common::flow::{Flow, FlowKey, Opener};
use netagent_common::nat::ReverseKey;
use netagent_common::net::{ETHERNET_LEN, GATEWAY_MAC, protocol};
use netagent_common::vm::Interface;

use crate::conntrack::Again;
use crate::family::{End, Family, Quoted};
use crate::from_uplink::{hand_over, not_a_reply, revalidate};
use crate::kernel::Skb;
use crate::packet::Origin;
use crate::parse::{Header, Kind, checksum_field, transport_offset};
use crate::verdict::{Action, Dropped, Judged, Packed};
use crate::{conntrack, limit, maps, nat, relay, spoof};

/// Ethernet, IP, ICMP, the quoted IP and fragment headers, and of a quoted TCP header as much as to the checksum.
const REACH: usize = 14 + 40 + 8 + 40 + 8 + 18;

/// An error on the uplink. The host's, where it is about none of a guest's packets.
#[inline(never)]
pub fn from_uplink<A: Family>(skb: Skb) -> Packed {
    Packed::with_slot(judge_from_uplink::<A>(skb))
}

#[inline(always)]
fn judge_from_uplink<A: Family>(skb: Skb) -> Result<Judged, Dropped> {
    skb.reach::<REACH>(Origin::Uplink);
    let Ok(header) = A::header(skb) else {
        return Ok(Judged::Done(Action::Next));
    };
    let quoted = A::quoted(skb, header.payload_len);
    let Some((quoted, ports)) = with_ports(quoted) else {
        return not_a_reply(header.destination);
    };
    let (nat_port, _) = ports;
    let key = quoted_by_world(&quoted, ports);
    let Some(reverse) = maps::reverse(&key) else {
        return not_a_reply(header.destination);
    };
    let dropped = |reason| Dropped {
        slot: reverse.instance,
        reason,
    };
    let key = nat::flow_key(&key, reverse);
    let flow = maps::flow(&key).ok_or(dropped(DropReason::IcmpError))?;
    let slot = flow.slot;
    let dropped = |reason| Dropped { slot, reason };
    let interface = maps::record(slot).map_err(dropped)?;
    let is_its_own = flow.generation == interface.generation
        && flow.nat_port == nat_port
        && flow.nat_address == quoted.source
        && header.destination == quoted.source
        && !Opener::turns_round(flow.opener);
    if !is_its_own {
        return Err(dropped(DropReason::IcmpError));
    }
    if flow.policy_generation != interface.policy_generation {
        return Ok(Judged::Stale);
    }
    check(skb, &header, interface.mtu).map_err(dropped)?;
    let ports = (nat_port, key.guest_port);
    let guest = key.guest;
    let difference = A::difference(quoted.source, guest);
    let change = Change {
        end: End::Source,
        address: guest,
        difference,
        ports,
    };
    translate(
        skb,
        &header,
        ((quoted.protocol, quoted.shift), difference),
        &change,
    )
    .map_err(dropped)?;
    limit::to_vm(skb, interface, (1, skb.len())).map_err(dropped)?;
    A::rewrite_destination(skb, &header, guest).map_err(dropped)?;
    hand_over(skb, interface).map(Judged::Done).map_err(dropped)
}

/// Judges the flow that an error on the uplink is about by the policy in force; false where it may not go on.
#[inline(never)]
pub fn judge_anew<A: Family>(skb: Skb) -> bool {
    let Ok(header) = A::header(skb) else {
        return false;
    };
    let Some((quoted, ports)) = with_ports(A::quoted(skb, header.payload_len)) else {
        return false;
    };
    revalidate(&quoted_by_world(&quoted, ports)).is_ok()
}

/// Key of the entry of a packet that an error on the uplink quotes, with its ports, source first.
#[inline(always)]
fn quoted_by_world<A: Family>(
    quoted: &Quoted<A>,
    (nat_port, remote_port): ([u8; 2], [u8; 2]),
) -> ReverseKey<A> {
    ReverseKey {
        remote: quoted.destination,
        nat_address: quoted.source,
        remote_port,
        nat_port,
        protocol: quoted.protocol.into(),
    }
}

/// Judges the flow that an error of the guest is about anew; false where it may not go on.
#[inline(never)]
pub fn judge_from_vm_anew<A: Family>(skb: Skb) -> bool {
    let (Ok(interface), Ok(header)) = (maps::interface_of(skb), A::header(skb)) else {
        return false;
    };
    let Some((quoted, ports)) = with_ports(A::quoted(skb, header.payload_len)) else {
        return false;
    };
    let key = quoted_by_vm(interface, &quoted, ports);
    conntrack::keep_or_forget(&key, interface) == Again::GOES_ON
}

/// Key of the flow of a packet that an error of the guest quotes, with its ports, source first.
#[inline(always)]
fn quoted_by_vm<A: Family>(
    interface: &Interface,
    quoted: &Quoted<A>,
    (remote_port, guest_port): ([u8; 2], [u8; 2]),
) -> FlowKey<A> {
    FlowKey {
        instance: interface.instance,
        guest: quoted.destination,
        remote: quoted.source,
        guest_port,
        remote_port,
        protocol: quoted.protocol.into(),
    }
}

/// An error of the guest about a packet that the world sent it. Its source is known to be the guest's own.
#[inline(always)]
pub fn from_vm<A: Family>(skb: Skb) -> Packed {
    let judged = maps::interface_of(skb).and_then(|interface| judge_from_vm::<A>(skb, interface));
    Packed::new(judged)
}

#[inline(always)]
fn judge_from_vm<A: Family>(skb: Skb, interface: &Interface) -> Result<Judged, DropReason> {
    skb.reach::<REACH>(Origin::Vm);
    if !skb.window::<6>(0)?.is_mac::<0, 4>(GATEWAY_MAC) {
        return Err(DropReason::NotForGateway);
    }
    let header = A::header(skb)?;
    let quoted = A::quoted(skb, header.payload_len);
    let (quoted, ports) = with_ports(quoted).ok_or(DropReason::IcmpError)?;
    let (_, guest_port) = ports;
    // Whoever sent the packet is told, and nobody else.
    if quoted.source != header.destination {
        return Err(DropReason::IcmpError);
    }
    let key = quoted_by_vm(interface, &quoted, ports);
    let flow: &Flow<A> = maps::flow(&key).ok_or(DropReason::IcmpError)?;
    if Opener::is_by_relay(flow.opener) {
        if !conntrack::is_current(flow, interface) {
            return Ok(Judged::Stale);
        }
        let leg = relay::leg(interface)?;
        check_report::<A>(skb, leg.mtu)?;
        limit::from_vm(skb, interface, (1, skb.len()))?;
        return hand_over(skb, leg).map(Judged::Done);
    }
    if flow.uplink == 0 || Opener::turns_round(flow.opener) {
        return Err(DropReason::IcmpError);
    }
    if !conntrack::is_current(flow, interface) {
        return Ok(Judged::Stale);
    }
    // Copied before the packet is touched, since the record may change meanwhile.
    let (address, nat_port, uplink, next_hop) =
        (flow.nat_address, flow.nat_port, flow.uplink, flow.next_hop);
    check(skb, &header, flow.mtu)?;
    let difference = A::difference(header.source, address);
    let change = Change {
        end: End::Destination,
        address,
        difference: A::difference(quoted.destination, address),
        ports: (guest_port, nat_port),
    };
    translate(
        skb,
        &header,
        ((quoted.protocol, quoted.shift), difference),
        &change,
    )?;
    A::rewrite_source(skb, &header, address, difference)?;
    limit::from_vm(skb, interface, (1, skb.len()))?;
    let next_hop = if next_hop == A::ZERO {
        header.destination
    } else {
        next_hop
    };
    let code = A::redirect(uplink, next_hop, skb);
    Ok(Judged::Done(Action::Redirect(code)))
}

/// An error that a relay passes on to its client, or makes itself. Nothing of it changes.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub fn to_client<A: Family>(skb: Skb, client: &Interface) -> Result<Judged, DropReason> {
    skb.reach::<REACH>(Origin::Vm);
    let key = key_at_client::<A>(skb, client).ok_or(DropReason::IcmpError)?;
    let flow: &Flow<A> = maps::flow(&key).ok_or(DropReason::IcmpError)?;
    if !Opener::is_by_relay(flow.opener) {
        return Err(DropReason::IcmpError);
    }
    if !conntrack::is_current(flow, client) {
        return Ok(Judged::Stale);
    }
    check_report::<A>(skb, client.mtu)?;
    limit::to_vm(skb, client, (1, skb.len()))?;
    hand_over(skb, client).map(Judged::Done)
}

/// Key of the flow of a packet of a client that an error for it quotes.
#[inline(always)]
pub fn key_at_client<A: Family>(skb: Skb, client: &Interface) -> Option<FlowKey<A>> {
    let header = A::header(skb).ok()?;
    if header.protocol != A::ICMP || header.first_fragment {
        return None;
    }
    let (quoted, (guest_port, remote_port)) = with_ports(A::quoted(skb, header.payload_len))?;
    // Whoever sent the packet is told, and nobody else.
    (quoted.source == header.destination).then_some(FlowKey {
        instance: client.instance,
        guest: quoted.source,
        remote: quoted.destination,
        guest_port,
        remote_port,
        protocol: quoted.protocol.into(),
    })
}

/// Key of the flow of a packet to a client that an error of the client quotes.
#[inline(always)]
pub fn key_of_client<A: Family>(skb: Skb, client: &Interface) -> Option<FlowKey<A>> {
    let header = A::header(skb).ok()?;
    let (quoted, ports) = with_ports(A::quoted(skb, header.payload_len))?;
    Some(quoted_by_vm(client, &quoted, ports))
}

/// Source and destination.
type Ports = ([u8; 2], [u8; 2]);

/// The ports of a quoted packet, source first: of an echo, the identifier on the side of whoever asked. `None` for
/// anything else of ICMP: there are no errors about errors.
#[inline(always)]
fn with_ports<A: Family>(quoted: Result<Quoted<A>, DropReason>) -> Option<(Quoted<A>, Ports)> {
    let quoted = quoted.ok()?;
    let [first, second, identifier, _] = quoted.transport;
    if quoted.protocol != A::ICMP {
        return Some((quoted, (first, second)));
    }
    let [kind, _] = first;
    if kind == A::ECHO_REQUEST {
        Some((quoted, (identifier, [0; 2])))
    } else if kind == A::ECHO_REPLY {
        Some((quoted, ([0; 2], identifier)))
    } else {
        None
    }
}

/// Whether an error can be passed on, by a way of this MTU.
///
/// # Errors
/// Why not.
#[inline(always)]
fn check<A: Family>(skb: Skb, header: &Header<A>, mtu: u32) -> Result<(), DropReason> {
    check_report::<A>(skb, mtu)?;
    if header.hop_limit <= 1 {
        return Err(DropReason::TtlExpired);
    }
    Ok(())
}

/// Whether it is an error that may be passed on, by a way of this MTU on which nobody counts a hop.
///
/// # Errors
/// Why not.
#[inline(always)]
fn check_report<A: Family>(skb: Skb, mtu: u32) -> Result<(), DropReason> {
    let kind = skb.window::<1>(transport_offset::<A>())?.byte::<0>();
    if !A::is_report(kind) || skb.gso_size() != 0 {
        return Err(DropReason::IcmpError);
    }
    // The kernel would write it over what is translated here.
    spoof::check_no_partial_checksum(skb)?;
    if skb.len() - ETHERNET_LEN > mtu {
        return Err(DropReason::TooBig);
    }
    Ok(())
}

/// What is changed in a quoted packet.
struct Change<A> {
    /// On which of its sides.
    end: End,
    address: A,
    /// What the new address does to a checksum.
    difference: u32,
    /// The old port and the new one.
    ports: ([u8; 2], [u8; 2]),
}

/// Changes the quoted packet with its checksums, and the checksum of the error, one of whose own addresses changes
/// by `outer`; `transport` is protocol and [`Quoted::shift`].
#[inline(always)]
fn translate<A: Family>(
    skb: Skb,
    header: &Header<A>,
    (transport, outer): ((u8, u32), u32),
    change: &Change<A>,
) -> Result<(), DropReason> {
    let of_address = A::set_quoted(skb, change.end, change.address, change.difference)?;
    let of_transport = translate_transport(skb, header, transport, change)?;
    let field = checksum_field::<A>(Kind::EchoRequest);
    let difference = checksum::add(of_address, of_transport);
    skb.correct_l4_checksum_for_payload(field, difference)?;
    if A::ICMP_HAS_PSEUDO_HEADER {
        skb.correct_l4_checksum_for_address(field, outer)?;
    }
    Ok(())
}

/// Changes port and checksum of a quoted packet; returns what that does to the sum over it.
#[inline(always)]
fn translate_transport<A: Family>(
    skb: Skb,
    header: &Header<A>,
    (number, shift): (u8, u32),
    change: &Change<A>,
) -> Result<u32, DropReason> {
    /// How much of the error and of a TCP header is needed for its checksum.
    const TO_TCP_CHECKSUM: u32 = 8 + 18;
    let start = transport_offset::<A>() + 8 + A::HEADER_LEN + shift;
    let transport = skb.window::<8>(start)?;
    let (old, new) = change.ports;
    let of_port = checksum::word_difference(old, new);
    let of_both = checksum::add(of_port, change.difference);
    if number == A::ICMP {
        transport.set_two::<4>(new);
        let of_message = if A::ICMP_HAS_PSEUDO_HEADER {
            of_both
        } else {
            of_port
        };
        let old = transport.two::<2>();
        let new = checksum::corrected(old, of_message);
        transport.set_two::<2>(new);
        return Ok(checksum::add(of_port, checksum::word_difference(old, new)));
    }
    match change.end {
        End::Source => transport.set_two::<0>(new),
        End::Destination => transport.set_two::<2>(new),
    }
    if number == protocol::UDP {
        let old = transport.two::<6>();
        if old == [0; 2] {
            return Ok(of_port);
        }
        let new = match checksum::corrected(old, of_both) {
            [0, 0] => [0xff; 2],
            checksum => checksum,
        };
        transport.set_two::<6>(new);
        return Ok(checksum::add(of_port, checksum::word_difference(old, new)));
    }
    if header.payload_len < A::HEADER_LEN + shift + TO_TCP_CHECKSUM {
        return Ok(of_port);
    }
    let field = skb.window::<2>(start + 16)?;
    let old = field.two::<0>();
    let new = checksum::corrected(old, of_both);
    field.set_two::<0>(new);
    Ok(checksum::add(of_port, checksum::word_difference(old, new)))
}
