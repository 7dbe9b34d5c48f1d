//! What a guest sends.

use netagent_common::drop::DropReason;
use netagent_common::flow::{Flow, Opener, Sender};
use netagent_common::net::{GATEWAY_MAC, ethertype, protocol};
use netagent_common::policy::policy_flag::QUARANTINE;
use netagent_common::vm::Interface;

use crate::apart::Apart;
use crate::family::Family;
use crate::kernel::Skb;
use crate::opening::Whole;
use crate::packet::Origin;
use crate::parse::{self, Header, Kind, Transport};
use crate::publish::Entrance;
use crate::relay::FoundBy;
use crate::services::Steered;
use crate::verdict::{Action, Dropped, Judged, Packed};
use crate::{
    arp, conntrack, echo, fragment, from_uplink, icmp, limit, maps, mss, nat, neighbour, opening,
    quote, relay, resume, services, spoof,
};

/// Judges a frame from a TAP.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub fn judge(skb: Skb) -> Result<Action, Dropped> {
    skb.set_no_leg();
    if maps::is_marked(skb) {
        // No frame that a VMM writes has a mark.
        skb.set_mark(0);
        if resume::tells_host(skb) {
            return Ok(Action::Next);
        }
    }
    let interface = maps::interface(skb.ifindex())?;
    if interface.policy_flags & QUARANTINE != 0 {
        // Where `drop_all` is not attached yet, or cannot be.
        return Err(Dropped {
            slot: interface.slot,
            reason: DropReason::Quarantine,
        });
    }
    let mut judged = frame(skb, interface).unwrap_or_else(Packed::refused);
    if judged.is_done() {
        return judged.action().map_err(Dropped::nowhere);
    }
    judged = judged.forgotten();
    if let Some(reason) = judged.refusal()
        && icmp::is_told(reason)
    {
        let ethertype = skb
            .window::<14>(0)
            .map(|ethernet| u16::from_be_bytes(ethernet.two::<12>()));
        judged = match ethertype {
            Ok(ethertype::IPV4) => tell::<[u8; 4]>(skb, reason),
            Ok(ethertype::IPV6) => tell::<[u8; 16]>(skb, reason),
            Ok(_) | Err(_) => judged,
        };
    }
    judged.action().map_err(|reason| Dropped {
        slot: skb.leg().unwrap_or(interface.slot),
        reason,
    })
}

#[inline(always)]
fn tell<A: Apart>(skb: Skb, reason: DropReason) -> Packed {
    let mtu = if reason == DropReason::TooBig {
        A::narrowest(skb).to_number()
    } else {
        0
    };
    A::tell_guest(skb, mtu << 32 | reason as u64)
}

#[inline(always)]
fn frame(skb: Skb, interface: &Interface) -> Result<Packed, DropReason> {
    // Whatever the VMM set: our own mark opens the way into a TAP.
    skb.set_mark(0);
    if skb.vlan_present() {
        return Err(DropReason::Vlan);
    }
    let ethernet = skb.window::<14>(0)?;
    if !ethernet.is_mac::<6, 10>(interface.guest_mac) {
        return Err(DropReason::SpoofedMac);
    }
    let to_gateway = ethernet.is_mac::<0, 4>(GATEWAY_MAC);
    Ok(match u16::from_be_bytes(ethernet.two::<12>()) {
        ethertype::IPV4 => carry_on::<[u8; 4]>(skb, interface, ipv4(skb, interface, to_gateway)),
        ethertype::IPV6 => {
            skb.reach::<{ 14 + 40 + 32 }>(Origin::Vm);
            match neighbour::kind(skb) {
                Some(kind) => neighbour::from_vm(skb, interface, kind),
                None => carry_on::<[u8; 16]>(skb, interface, ipv6(skb, interface, to_gateway)),
            }
        }
        ethertype::ARP => arp::from_vm(skb, interface),
        _ => Packed::refused(DropReason::UnknownEthertype),
    })
}

/// Does what takes a deep stack: within the 512 bytes that nested functions share, it cannot lie below the function
/// that found nothing. So opening a flow parses the packet again.
#[inline(always)]
fn carry_on<A: Apart>(skb: Skb, interface: &Interface, judged: Packed) -> Packed {
    let mut judged = judged;
    if judged.is_done() {
        return judged;
    }
    judged = judged.forgotten();
    if judged.is_refused_for(DropReason::Fragment) {
        judged = A::judge_source(skb).forgotten();
    }
    if judged.is_refused_for(DropReason::SpoofedAddress) {
        judged = from_relay::<A>(skb).forgotten();
        if !judged.is_of_leg() {
            return judged;
        }
        judged = A::judge_again(skb).forgotten();
    }
    let is_stale = judged.is_stale();
    if is_stale || judged.is_no_flow() {
        judged = match maps::interface_of(skb) {
            Ok(interface) if is_stale => opening::provide::<A, Whole>(skb, interface),
            // That there is none was seen just now; should another CPU have opened it, it stands.
            Ok(_) => A::open(skb),
            Err(reason) => Packed::refused(reason),
        }
        .forgotten();
        if judged.is_opened() {
            // By the record in force now, as the flow was: another CPU may have judged it by a newer one than this. Nothing
            // is found again only where the agent changed routes or policy in this very moment.
            judged = A::judge_again(skb)
                .or_refused_for(DropReason::NoRoute)
                .forgotten();
        }
    }
    if judged.is_for_dns() {
        A::dns(skb)
    } else if judged.is_for_dhcp() {
        services::dhcp(skb, interface)
    } else if judged.is_turning_round() {
        match from_uplink::judge_at::<A>(skb, Entrance::TurnedRound) {
            Ok(Action::Next) => Packed::refused_silently(DropReason::HostAddress),
            // Under its own address the packet is what the guest sent.
            Err(dropped) if from_uplink::is_between_guests::<A>(skb, Entrance::TurnedRound) => {
                Packed::refused(dropped.reason)
            }
            Err(dropped) => Packed::refused_silently(dropped.reason),
            done => Packed::of(done.map_err(|dropped| dropped.reason)),
        }
    } else if judged.is_refused_for(DropReason::IcmpError) {
        quoted::<A>(skb)
    } else if judged.is_refused_for(DropReason::Fragment) {
        match maps::interface_of(skb) {
            Ok(interface) => fragment::judge::<A>(skb, interface),
            Err(reason) => Packed::refused(reason),
        }
    } else {
        judged
    }
}

/// A packet whose source is not the guest's own: one that it forwards as a relay, or a spoofed one. Whoever sent what a
/// relay did not deliver is told of its size alone: everything else about it is the client's affair.
#[inline(never)]
fn from_relay<A: Apart>(skb: Skb) -> Packed {
    let mut judged = to_client::<A>(skb).forgotten();
    if judged.is_refused_for(DropReason::IcmpError) {
        judged = from_relay_itself::<A>(skb);
    }
    match judged.refusal() {
        None | Some(DropReason::TooBig) => judged,
        Some(reason) => Packed::refused_silently(reason),
    }
}

#[inline(always)]
fn to_client<A: Apart>(skb: Skb) -> Packed {
    let mut judged = delivered::<A>(skb);
    if judged.is_stale() {
        judged = A::judge_relayed(skb, FoundBy::Inbound as u64).forgotten();
        if let Some(reason) = judged.forbidden() {
            return A::end_at_client(skb, reason);
        }
        if judged.is_opened() {
            judged = delivered::<A>(skb);
        }
    }
    if judged.is_no_flow() {
        judged = A::open_at_client(skb).forgotten();
        if !judged.is_opened() {
            return judged;
        }
        judged = delivered::<A>(skb);
    }
    if judged.is_stale() || judged.is_no_flow() {
        // Its flow was removed, or the policy changed, in this very moment.
        return Packed::refused(DropReason::Unsolicited);
    }
    judged
}

/// As far as a flow stands for it.
#[inline(always)]
fn delivered<A: Apart>(skb: Skb) -> Packed {
    let judged = A::judge_foreign(skb).forgotten();
    if judged.is_refused_for(DropReason::Fragment) {
        A::fragment_to_client(skb).forgotten()
    } else {
        judged
    }
}

/// An ICMP error, about whose flow may have to be judged first.
#[inline(always)]
fn quoted<A: Apart>(skb: Skb) -> Packed {
    let mut judged = A::quote_from_vm(skb).forgotten();
    if judged.is_refused_for(DropReason::IcmpError) && skb.leg().is_none() {
        // A relay's own error about a packet of its client.
        judged = from_relay_itself::<A>(skb);
    }
    if judged.is_stale() {
        if !may_go_on::<A>(skb) {
            return Packed::refused(DropReason::IcmpError);
        }
        judged = A::quote_from_vm(skb).forgotten();
    }
    if judged.is_stale() {
        return Packed::refused(DropReason::IcmpError);
    }
    judged
}

/// Whether the flow that an error of the guest is about may go on.
#[inline(always)]
fn may_go_on<A: Apart>(skb: Skb) -> bool {
    if relay::is_relayed(skb) {
        A::judge_relayed(skb, FoundBy::OutboundReport as u64).is_opened()
    } else {
        quote::judge_from_vm_anew::<A>(skb)
    }
}

#[inline(always)]
fn from_relay_itself<A: Apart>(skb: Skb) -> Packed {
    let mut judged = A::report_to_client(skb).forgotten();
    if judged.is_stale() && A::judge_relayed(skb, FoundBy::InboundReport as u64).is_opened() {
        judged = A::report_to_client(skb).forgotten();
    }
    if judged.is_stale() {
        return Packed::refused(DropReason::IcmpError);
    }
    judged
}

/// A family whose packets guests send.
pub trait Sent: Steered {
    /// Judges a packet of the guest.
    fn judge(skb: Skb, interface: &Interface, to_gateway: bool) -> Packed;
}

impl Sent for [u8; 4] {
    #[inline(always)]
    fn judge(skb: Skb, interface: &Interface, to_gateway: bool) -> Packed {
        ipv4(skb, interface, to_gateway)
    }
}

impl Sent for [u8; 16] {
    #[inline(always)]
    fn judge(skb: Skb, interface: &Interface, to_gateway: bool) -> Packed {
        ipv6(skb, interface, to_gateway)
    }
}

/// Judges a packet by what was found out about it meanwhile: a flow of its own, or that it is one of a leg.
#[inline(always)]
pub fn judge_again<A: Sent>(skb: Skb) -> Packed {
    let to_gateway = skb
        .window::<6>(0)
        .map(|ethernet| ethernet.is_mac::<0, 4>(GATEWAY_MAC));
    match (maps::interface_of(skb), to_gateway) {
        (Ok(interface), Ok(to_gateway)) => A::judge(skb, interface, to_gateway),
        (Err(reason), _) | (_, Err(reason)) => Packed::refused(reason),
    }
}

#[inline(never)]
fn ipv4(skb: Skb, interface: &Interface, to_gateway: bool) -> Packed {
    Packed::new(judge_ipv4(skb, interface, to_gateway))
}

#[inline(never)]
fn ipv6(skb: Skb, interface: &Interface, to_gateway: bool) -> Packed {
    Packed::new(judge_ipv6(skb, interface, to_gateway))
}

#[inline(always)]
fn judge_ipv4(skb: Skb, interface: &Interface, to_gateway: bool) -> Result<Judged, DropReason> {
    skb.reach::<{ 14 + 20 + 20 }>(Origin::Vm);
    let header = <[u8; 4]>::header(skb)?;
    if !<[u8; 4]>::is_own(interface, header.source) {
        return without_address(skb, interface, &header);
    }
    by_protocol(skb, interface, &header, to_gateway)
}

/// A guest that has no address yet asks for one by DHCP, and does nothing else.
#[inline(always)]
fn without_address(
    skb: Skb,
    interface: &Interface,
    header: &Header<[u8; 4]>,
) -> Result<Judged, DropReason> {
    if header.source == [0; 4]
        && header.protocol == protocol::UDP
        && let Ok(datagram) = parse::udp(skb, header)
        && services::is_dhcp(interface, header, &datagram)
    {
        return Ok(Judged::Dhcp);
    }
    Err(DropReason::SpoofedAddress)
}

#[inline(always)]
fn judge_ipv6(skb: Skb, interface: &Interface, to_gateway: bool) -> Result<Judged, DropReason> {
    let header = <[u8; 16]>::header(skb)?;
    if <[u8; 16]>::is_own(interface, header.source) {
        return by_protocol(skb, interface, &header, to_gateway);
    }
    if to_gateway && spoof::is_link_local_echo(skb, interface, &header) {
        spoof::check_partial_checksum::<[u8; 16]>(skb, parse::ICMP_CHECKSUM_OFFSET)?;
        return echo::answer(skb, interface, &header).map(Judged::Done);
    }
    if to_gateway && services::is_link_local_dns(skb, interface, &header) {
        if relay::takes_dns(interface) {
            // No relay can pass it on, and nothing goes past the relay.
            return Err(DropReason::GatewayClosed);
        }
        return Ok(Judged::Dns);
    }
    Err(spoof::foreign_v6(&header))
}

/// One copy of what follows for each protocol: offsets and kinds are constants in it, not values to be carried along.
#[inline(always)]
fn by_protocol<A: Steered>(
    skb: Skb,
    interface: &Interface,
    header: &Header<A>,
    to_gateway: bool,
) -> Result<Judged, DropReason> {
    if header.first_fragment {
        return Err(DropReason::Fragment);
    }
    match header.protocol {
        protocol::TCP => {
            let transport = parse::tcp(skb, header)?;
            packet(skb, interface, (header, &transport), to_gateway)
        }
        protocol::UDP => {
            let transport = parse::udp(skb, header)?;
            spoof::check_dhcp::<A>(&transport)?;
            if services::is_dhcp(interface, header, &transport) {
                return Ok(Judged::Dhcp);
            }
            packet(skb, interface, (header, &transport), to_gateway)
        }
        number if number == A::ICMP => {
            let transport = parse::icmp::<A>(skb)?;
            packet(skb, interface, (header, &transport), to_gateway)
        }
        _ => Err(DropReason::UnknownProtocol),
    }
}

/// Both families: the packet's source is the guest's own. [`Judged::NoFlow`] where no flow stands for it,
/// [`Judged::Stale`] where one does that is to be judged anew.
#[inline(always)]
fn packet<A: Steered>(
    skb: Skb,
    interface: &Interface,
    (header, transport): (&Header<A>, &Transport),
    to_gateway: bool,
) -> Result<Judged, DropReason> {
    if !to_gateway {
        return Err(DropReason::NotForGateway);
    }
    let checksum = spoof::check_partial_checksum::<A>(skb, transport.kind.checksum_offset())?;
    let key = conntrack::key_from_vm(interface, header, transport);
    let flow = match maps::flow(&key) {
        Some(flow) if conntrack::is_current(flow, interface) => flow,
        None if A::is_gateway(interface, header.destination)
            && transport.kind != Kind::EchoReply =>
        {
            return gateway(skb, interface, (header, transport));
        }
        // What somebody opened towards the guest from that port is no question.
        Some(flow) if Opener::is_at_a_port(flow.opener) => return Ok(Judged::Stale),
        // Whomever it asks.
        _ if services::is_steered(interface, transport) => return Ok(Judged::Dns),
        Some(_) => return Ok(Judged::Stale),
        None => return Ok(Judged::NoFlow),
    };
    if flow.uplink == 0 {
        if Opener::is_by_relay(flow.opener) {
            conntrack::touch(flow, Sender::Vm, transport.kind);
            let code = relay::pass_on::<A>(skb, interface, transport)?;
            return Ok(Judged::Done(Action::Redirect(code)));
        }
        return to_host(skb, interface, flow, (header, transport));
    }
    let refreshed = conntrack::touch(flow, Sender::Vm, transport.kind);
    if refreshed && !nat::keep_port(skb, &key, flow) {
        // Its port is another flow's: it gets a new one.
        conntrack::forget(&key, flow, interface);
        return Ok(Judged::NoFlow);
    }
    let (uplink, next_hop, opener) = (flow.uplink, flow.next_hop, flow.opener);
    parse::fits::<A>(skb, transport, flow.mtu)?;
    parse::check_segments(skb, transport)?;
    if header.hop_limit <= 1 {
        return Err(DropReason::TtlExpired);
    }
    if transport.kind.opens() {
        mss::clamp::<A>(skb, transport.len, flow.mtu.min(interface.mtu));
    }
    nat::rewrite_source(skb, (header, transport), flow, checksum)?;
    limit::from_vm(skb, interface, parse::on_the_wire::<A>(skb, transport))?;
    if Opener::turns_round(opener) {
        return Ok(Judged::TurnsRound);
    }
    let next_hop = if next_hop == A::ZERO {
        header.destination
    } else {
        next_hop
    };
    let code = A::redirect(uplink, next_hop, skb);
    Ok(Judged::Done(Action::Redirect(code)))
}

/// The host itself opened such a flow, or one of its listeners is the other end.
#[inline(always)]
fn to_host<A: Family>(
    skb: Skb,
    interface: &Interface,
    flow: &mut Flow<A>,
    (header, transport): (&Header<A>, &Transport),
) -> Result<Judged, DropReason> {
    if transport.kind == Kind::EchoRequest {
        return Err(DropReason::HostAddress);
    }
    parse::check_segments(skb, transport)?;
    conntrack::touch(flow, Sender::Vm, transport.kind);
    if transport.kind != Kind::EchoReply {
        // Whatever the host's own rules make of it, and should the address be no longer the host's.
        A::end_here(skb, header)?;
    }
    limit::from_vm(skb, interface, parse::on_the_wire::<A>(skb, transport))?;
    Ok(Judged::Done(Action::Next))
}

/// The gateway itself serves echo, DNS and DHCP. Anything else is for a listener of the host, where guests may reach it.
#[inline(always)]
fn gateway<A: Steered>(
    skb: Skb,
    interface: &Interface,
    (header, transport): (&Header<A>, &Transport),
) -> Result<Judged, DropReason> {
    if services::is_dns(transport) {
        if relay::takes_dns(interface) {
            return Ok(Judged::NoFlow);
        }
        return Ok(Judged::Dns);
    }
    if transport.kind != Kind::EchoRequest {
        return Ok(Judged::NoFlow);
    }
    echo::answer(skb, interface, header).map(Judged::Done)
}
