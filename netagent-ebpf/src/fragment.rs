//! Fragments, on a slow path of their own. The first one, which has the ports, is judged and translated as a packet
//! is, and remembered; the later ones follow it. One that comes before its first is dropped: nothing is kept back.

use netagent_common::drop::DropReason;
use netagent_common::flow::{FlowKey, Opener, Sender};
use netagent_common::fragment::{FROM_UPLINK, First as Remembered, FragmentKey, REMEMBERED_NS};
use netagent_common::limit::FRAGMENTED_PER_SECOND;
use netagent_common::nat::ReverseKey;
use netagent_common::net::{ETHERNET_LEN, GATEWAY_MAC, protocol};
use netagent_common::policy::policy_flag;
use netagent_common::vm::Interface;

use crate::apart::Apart;
use crate::conntrack::Again;
use crate::family::{End, Family};
use crate::from_uplink::{flow_of, hand_over, not_a_reply, revalidate, unparsed};
use crate::kernel::{self, ChecksumField, Skb};
use crate::opening::Parsed;
use crate::packet::Origin;
use crate::parse::{self, Header, Kind, Transport, transport_offset};
use crate::verdict::{Action, Dropped, Judged, Packed};
use crate::{conntrack, limit, maps, nat, opening, services, spoof};

pub mod relayed;

/// One fragment of a packet.
#[derive(Clone, Copy)]
pub struct Fragment<A> {
    /// The IP header; the payload is that of this fragment alone.
    pub header: Header<A>,
    /// Protocol number of the packet.
    pub protocol: u8,
    /// Identification; of IPv4 the first two bytes.
    pub id: [u8; 4],
    /// Where in the packet it lies, bytes behind the headers.
    pub offset: u32,
    /// Whether it is not the last one.
    pub has_more: bool,
}

/// Ethernet, IPv6, the fragment header and TCP's.
const REACH: usize = 14 + 40 + 8 + 20;

/// Judges a fragment of a guest; like [`crate::from_vm`], but for the place where ports and addresses are found.
#[inline(always)]
pub fn judge<A: Apart>(skb: Skb, interface: &Interface) -> Packed {
    // Before it is translated. If it may not go on, nor may those that follow it: each finds its flow itself.
    if !remember_of_vm::<A>(skb, interface) {
        return Packed::refused(DropReason::Fragment);
    }
    let judged = A::fragment_from_vm(skb).forgotten();
    if judged.is_stale() {
        let judged = if interface.policy_flags & policy_flag::RELAYED != 0 {
            <First as Parsed<A>>::resume_relayed(skb)
        } else {
            judge_later_anew::<A>(skb, interface)
        };
        if !judged.is_opened() {
            return judged.or_refused_for(DropReason::Fragment);
        }
        return A::fragment_from_vm(skb).or_refused_for(DropReason::Fragment);
    }
    if !judged.is_no_flow() {
        return judged;
    }
    if !keeps_port::<A>(skb, interface) {
        let provided = opening::provide::<A, First>(skb, interface);
        if !provided.is_opened() {
            return provided;
        }
    }
    A::fragment_from_vm(skb).or_refused_for(DropReason::NoRoute)
}

/// Judges a fragment of a guest whose ports are remembered.
#[inline(always)]
pub fn from_vm<A: Family>(skb: Skb) -> Packed {
    let judged = maps::interface_of(skb).and_then(|interface| judge_from_vm::<A>(skb, interface));
    Packed::new(judged)
}

/// A first fragment, which has the ports.
pub struct First;

impl<A: Family> Parsed<A> for First {
    const REACHES_LISTENERS: bool = false;

    #[inline(always)]
    fn parse(skb: Skb, interface: &Interface) -> Result<(FlowKey<A>, Kind), DropReason> {
        let fragment = A::fragment(skb)?;
        let transport = transport(skb, &fragment)?;
        let (guest_port, remote_port) = (transport.source, transport.destination);
        let key = key_from_vm(interface, &fragment, guest_port, remote_port);
        Ok((key, transport.kind))
    }

    #[inline(always)]
    fn resume(skb: Skb, interface: &Interface) -> Packed
    where
        A: Apart,
    {
        judge_first_anew::<A>(skb, interface)
    }

    /// Nobody answers a fragment.
    #[inline(always)]
    fn end(_skb: Skb, reason: u64) -> Packed
    where
        A: Apart,
    {
        Packed::refused(DropReason::from_number(reason as u32).unwrap_or(DropReason::Fragment))
    }

    #[inline(always)]
    fn open(skb: Skb) -> Packed
    where
        A: Apart,
    {
        A::open_by_fragment(skb)
    }
}

/// Judges the flow of a guest's first fragment anew, as [`crate::resume::judge_from_vm`] does.
#[inline(never)]
fn judge_first_anew<A: Family>(skb: Skb, interface: &Interface) -> Packed {
    match <First as Parsed<A>>::parse(skb, interface) {
        Ok((key, _)) => judge_key_anew(&key, interface),
        Err(reason) => Packed::refused(reason),
    }
}

/// Judges the flow of a guest's later fragment anew.
#[inline(never)]
fn judge_later_anew<A: Family>(skb: Skb, interface: &Interface) -> Packed {
    let Ok(fragment) = A::fragment(skb) else {
        return Packed::refused(DropReason::Fragment);
    };
    let key_of_first = key(interface.instance, &fragment);
    let Ok(transport) = ports(skb, &fragment, &key_of_first) else {
        return Packed::refused(DropReason::Fragment);
    };
    let (source, destination) = (transport.source, transport.destination);
    judge_key_anew(
        &key_from_vm(interface, &fragment, source, destination),
        interface,
    )
}

#[inline(always)]
fn judge_key_anew<A: Family>(key: &FlowKey<A>, interface: &Interface) -> Packed {
    let again = conntrack::keep_or_forget(key, interface);
    match again.forbidden() {
        Some(reason) => Packed::refused(reason),
        None if again == Again::GOES_ON => Packed::new(Ok(Judged::Opened)),
        None => Packed::new(Ok(Judged::NoFlow)),
    }
}

/// Whether the flow of a first fragment, which was refreshed, stands and has its port.
#[inline(never)]
fn keeps_port<A: Family>(skb: Skb, interface: &Interface) -> bool {
    let Ok((key, _)) = <First as Parsed<A>>::parse(skb, interface) else {
        return false;
    };
    let Some(flow) = maps::flow(&key) else {
        return false;
    };
    if !conntrack::is_current(flow, interface) || flow.uplink == 0 {
        return false;
    }
    let keeps = nat::keep_port(skb, &key, flow);
    if !keeps {
        // It is another flow's: this one gets a new one.
        conntrack::forget(&key, flow, interface);
    }
    keeps
}

#[inline(always)]
fn judge_from_vm<A: Family>(skb: Skb, interface: &Interface) -> Result<Judged, DropReason> {
    skb.reach::<REACH>(Origin::Vm);
    let is_to_gateway = skb.window::<6>(0)?.is_mac::<0, 4>(GATEWAY_MAC);
    let fragment = A::fragment(skb)?;
    let header = fragment.header;
    if !A::is_own(interface, header.source) {
        return Err(DropReason::SpoofedAddress);
    }
    if !is_to_gateway {
        return Err(DropReason::NotForGateway);
    }
    spoof::check_no_partial_checksum(skb)?;
    check(skb, &fragment)?;
    // The gateway's services need none.
    if A::is_gateway(interface, header.destination) {
        return Err(DropReason::Fragment);
    }
    let transport = if header.first_fragment {
        transport(skb, &fragment)?
    } else {
        remembered_ports(remembered::<A>(skb, interface.instance))?
    };
    if transport.kind == Kind::Datagram {
        spoof::check_dhcp::<A>(&transport)?;
    }
    let key = key_from_vm(
        interface,
        &fragment,
        transport.source,
        transport.destination,
    );
    let flow = match maps::flow(&key) {
        Some(flow) if conntrack::is_current(flow, interface) => flow,
        _ if header.first_fragment => return Ok(Judged::NoFlow),
        Some(_) => return Ok(Judged::Stale),
        None => return Err(DropReason::Fragment),
    };
    if Opener::is_by_relay(flow.opener) {
        if header.first_fragment {
            conntrack::touch(flow, Sender::Vm, transport.kind);
        }
        return relayed::to_relay(skb, interface);
    }
    if flow.uplink == 0 {
        return Err(DropReason::HostAddress);
    }
    // Towards a published port of the host it would have to be put together first.
    if Opener::turns_round(flow.opener) {
        return Err(DropReason::Fragment);
    }
    if header.first_fragment {
        let refreshed = conntrack::touch(flow, Sender::Vm, transport.kind);
        if refreshed {
            // `open` looks after its port.
            return Ok(Judged::NoFlow);
        }
    }
    // Copied before the packet is touched, since the record may change meanwhile.
    let (uplink, next_hop, address) = (flow.uplink, flow.next_hop, flow.nat_address);
    let (difference, nat_port) = (flow.address_difference, flow.nat_port);
    passes(skb, &header, flow.mtu)?;
    if header.first_fragment {
        let change = (End::Source, transport.source, nat_port);
        rewrite_transport::<A>(skb, transport.kind, change, difference)?;
    }
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

/// A fragment on the uplink. The host's, where it belongs to no flow of a guest.
#[inline(never)]
pub fn from_uplink<A: Family>(skb: Skb) -> Packed {
    Packed::with_slot(judge_from_uplink::<A>(skb))
}

/// Judges the flow of a fragment on the uplink by the policy in force; false where it may not go on.
#[inline(never)]
pub fn judge_anew<A: Family>(skb: Skb) -> bool {
    let Ok(fragment) = A::fragment(skb) else {
        return false;
    };
    let Ok(transport) = ports(skb, &fragment, &key(FROM_UPLINK, &fragment)) else {
        return false;
    };
    revalidate(&reverse_key(&fragment, &transport)).is_ok()
}

#[inline(always)]
fn reverse_key<A: Family>(fragment: &Fragment<A>, transport: &Transport) -> ReverseKey<A> {
    ReverseKey {
        remote: fragment.header.source,
        nat_address: fragment.header.destination,
        remote_port: transport.source,
        nat_port: transport.destination,
        protocol: fragment.protocol.into(),
    }
}

#[inline(always)]
fn judge_from_uplink<A: Family>(skb: Skb) -> Result<Judged, Dropped> {
    skb.reach::<REACH>(Origin::Uplink);
    let Ok(fragment) = A::fragment(skb) else {
        return unparsed::<A>(skb);
    };
    let header = fragment.header;
    let fragment_key = key(FROM_UPLINK, &fragment);
    let Ok(transport) = ports(skb, &fragment, &fragment_key) else {
        return not_a_reply(header.destination);
    };
    let reverse_key = reverse_key(&fragment, &transport);
    let Some(reverse) = maps::reverse(&reverse_key) else {
        return not_a_reply(header.destination);
    };
    let (flow, interface) = flow_of(&reverse_key, reverse)?;
    let slot = interface.slot;
    let dropped = |reason| Dropped { slot, reason };
    // Between a guest and a published port nothing comes from the world, whatever address it bears.
    if Opener::turns_round(flow.opener) {
        return Err(dropped(DropReason::Unsolicited));
    }
    if flow.policy_generation != interface.policy_generation {
        return Ok(Judged::Stale);
    }
    check(skb, &fragment).map_err(dropped)?;
    if header.first_fragment {
        conntrack::touch(flow, Sender::World, transport.kind);
    }
    passes(skb, &header, interface.mtu).map_err(dropped)?;
    let (guest, guest_port) = (reverse.guest, reverse.guest_port);
    if header.first_fragment {
        remember(interface, &fragment_key, &fragment, &transport).map_err(dropped)?;
        let change = (End::Destination, transport.destination, guest_port);
        let difference = A::difference(header.destination, guest);
        rewrite_transport::<A>(skb, transport.kind, change, difference).map_err(dropped)?;
    }
    limit::to_vm(skb, interface, (1, skb.len())).map_err(dropped)?;
    A::rewrite_destination(skb, &header, guest).map_err(dropped)?;
    hand_over(skb, interface).map(Judged::Done).map_err(dropped)
}

/// Remembers a first fragment of a guest; false where there is no room.
#[inline(never)]
fn remember_of_vm<A: Family>(skb: Skb, interface: &Interface) -> bool {
    skb.reach::<REACH>(Origin::Vm);
    let Ok(fragment) = A::fragment(skb) else {
        return true;
    };
    let Ok(transport) = transport(skb, &fragment) else {
        return true;
    };
    let key = key(interface.instance, &fragment);
    remember(interface, &key, &fragment, &transport).is_ok()
}

/// Marks the answer of [`remembered`] where it is one.
const KNOWN: u64 = 1 << 32;

/// The ports of a later fragment of a guest, source first, with [`KNOWN`]; 0 where its first is not known.
#[inline(never)]
fn remembered<A: Family>(skb: Skb, scope: u32) -> u64 {
    let Ok(fragment) = A::fragment(skb) else {
        return 0;
    };
    let Ok(transport) = ports(skb, &fragment, &key(scope, &fragment)) else {
        return 0;
    };
    let ([a, b], [c, d]) = (transport.source, transport.destination);
    KNOWN | u64::from(u32::from_be_bytes([a, b, c, d]))
}

#[inline(always)]
fn remembered_ports(answer: u64) -> Result<Transport, DropReason> {
    if answer & KNOWN == 0 {
        return Err(DropReason::Fragment);
    }
    let [a, b, c, d] = (answer as u32).to_be_bytes();
    Ok(later([a, b], [c, d]))
}

/// What a later fragment says of its flow: it has no transport header.
#[inline(always)]
const fn later(source: [u8; 2], destination: [u8; 2]) -> Transport {
    Transport {
        // Of no account.
        kind: Kind::EchoReply,
        source,
        destination,
        len: 0,
    }
}

#[inline(always)]
fn key<A: Family>(scope: u32, fragment: &Fragment<A>) -> FragmentKey<A> {
    FragmentKey {
        scope,
        source: fragment.header.source,
        destination: fragment.header.destination,
        id: fragment.id,
        protocol: fragment.protocol.into(),
    }
}

#[inline(always)]
fn key_from_vm<A: Family>(
    interface: &Interface,
    fragment: &Fragment<A>,
    guest_port: [u8; 2],
    remote_port: [u8; 2],
) -> FlowKey<A> {
    FlowKey {
        instance: interface.instance,
        guest: fragment.header.source,
        remote: fragment.header.destination,
        guest_port,
        remote_port,
        protocol: fragment.protocol.into(),
    }
}

/// Whether it is a fragment that a sender makes: all but the last are whole eights, none reaches behind the longest
/// packet, and no device cuts them up.
#[inline(always)]
fn check<A: Family>(skb: Skb, fragment: &Fragment<A>) -> Result<(), DropReason> {
    let len = fragment.header.payload_len;
    let is_odd = fragment.has_more && !len.is_multiple_of(8);
    if is_odd || fragment.offset + len > A::FRAGMENTED_MAX || skb.gso_size() != 0 {
        return Err(DropReason::Fragment);
    }
    Ok(())
}

/// Where the transport header of a first fragment lies.
#[inline(always)]
const fn offset<A: Family>() -> u32 {
    transport_offset::<A>() + A::FRAGMENT_HEADER_LEN
}

/// Ports and kind of a fragment: its own, or those of the first one.
///
/// # Errors
/// [`DropReason::Fragment`] where that is not known, or this one reaches into it; why a first one belongs to no flow.
#[inline(always)]
fn ports<A: Family>(
    skb: Skb,
    fragment: &Fragment<A>,
    key: &FragmentKey<A>,
) -> Result<Transport, DropReason> {
    if fragment.header.first_fragment {
        return transport(skb, fragment);
    }
    let first = maps::first_fragment(key).ok_or(DropReason::Fragment)?;
    let is_old = kernel::now_ns() > first.seen_ns + REMEMBERED_NS;
    if is_old || fragment.offset < first.end {
        return Err(DropReason::Fragment);
    }
    Ok(later(first.source_port, first.destination_port))
}

/// The transport header of a first fragment, which must hold all of it (RFC 1858, RFC 7112).
///
/// # Errors
/// [`DropReason::Fragment`] where it does not, or this is a later one; [`DropReason::UnknownProtocol`].
#[inline(always)]
pub fn transport<A: Family>(skb: Skb, fragment: &Fragment<A>) -> Result<Transport, DropReason> {
    let at = offset::<A>();
    let len = fragment.header.payload_len;
    if !fragment.header.first_fragment {
        return Err(DropReason::Fragment);
    }
    match fragment.protocol {
        protocol::TCP => parse::tcp_at(skb, at, len),
        protocol::UDP if len >= 8 => {
            let len_max = if fragment.has_more { u32::MAX } else { len };
            parse::udp_at(skb, at, len_max)
        }
        number if number == A::ICMP && len >= 8 => parse::icmp_at::<A>(skb, at),
        number if number == A::ICMP || number == protocol::UDP => Err(DropReason::Malformed),
        _ => Err(DropReason::UnknownProtocol),
    }
    .map_err(|reason| {
        if matches!(reason, DropReason::Malformed | DropReason::IcmpError) {
            DropReason::Fragment
        } else {
            reason
        }
    })
}

/// Whether a fragment can go on by a way of this MTU.
#[inline(always)]
fn passes<A: Family>(skb: Skb, header: &Header<A>, mtu: u32) -> Result<(), DropReason> {
    fits(skb, mtu)?;
    if header.hop_limit <= 1 {
        return Err(DropReason::TtlExpired);
    }
    Ok(())
}

#[inline(always)]
fn fits(skb: Skb, mtu: u32) -> Result<(), DropReason> {
    if skb.len() - ETHERNET_LEN > mtu {
        return Err(DropReason::TooBig);
    }
    Ok(())
}

/// Remembers a first fragment that others will follow, at the expense of the interface whose flow it is.
#[inline(always)]
fn remember<A: Family>(
    interface: &Interface,
    key: &FragmentKey<A>,
    fragment: &Fragment<A>,
    transport: &Transport,
) -> Result<(), DropReason> {
    if !fragment.has_more {
        return Ok(());
    }
    let used = maps::used(interface.slot).ok_or(DropReason::Fragment)?;
    if services::pay(&mut used.fragmented_ns, 1, FRAGMENTED_PER_SECOND).is_err() {
        return Err(DropReason::Fragment);
    }
    let first = Remembered {
        seen_ns: kernel::now_ns(),
        source_port: transport.source,
        destination_port: transport.destination,
        end: fragment.header.payload_len,
    };
    if maps::remember_fragment(key, &first) {
        Ok(())
    } else {
        Err(DropReason::Fragment)
    }
}

/// Replaces the port of a first fragment and corrects its checksum, which is that of the whole packet.
#[inline(always)]
fn rewrite_transport<A: Family>(
    skb: Skb,
    kind: Kind,
    (end, old, new): (End, [u8; 2], [u8; 2]),
    address_difference: u32,
) -> Result<(), DropReason> {
    let at = offset::<A>();
    let field = ChecksumField {
        offset: at + kind.checksum_offset(),
        zero_is_none: matches!(kind, Kind::Datagram),
    };
    let ports = skb.window::<8>(at)?;
    let is_echo = matches!(kind, Kind::EchoRequest | Kind::EchoReply);
    match end {
        _ if is_echo => ports.set_two::<4>(new),
        End::Source => ports.set_two::<0>(new),
        End::Destination => ports.set_two::<2>(new),
    }
    skb.correct_l4_checksum_for_word(field, old, new)?;
    if is_echo && !A::ICMP_HAS_PSEUDO_HEADER {
        return Ok(());
    }
    skb.correct_l4_checksum_for_address(field, address_difference)
}
