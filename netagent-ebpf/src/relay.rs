//! Relays: everything of an interface goes through another instance's VM, and comes through it.
//!
//! A packet passes four places, and each half of its flow is one of its own. From the client's TAP it goes to the relay's
//! as it is, but for the MAC addresses: that is the near half, under the client's policy and limits. What the relay's VM
//! forwards comes in by the relay's TAP and is judged as the client's *leg*: to everything else that is an interface like
//! any other, with the client's addresses and the relay's TAP, and what belongs to it comes back to that TAP. From there
//! it is delivered to the client, as long as the near half stands for it.

use netagent_common::drop::DropReason;
use netagent_common::flow::{FlowKey, Opener, Sender};
use netagent_common::net::tcp_flag::RST;
use netagent_common::net::{GATEWAY_MAC, protocol};
use netagent_common::policy::policy_flag;
use netagent_common::services::port;
use netagent_common::vm::Interface;

use crate::conntrack::{self, Generations};
use crate::family::Family;
use crate::fragment::relayed;
use crate::from_uplink::{hand_over, redirect};
use crate::kernel::Skb;
use crate::packet::Origin;
use crate::parse::{self, Header, Kind, Transport};
use crate::reset::{self, Cause};
use crate::verdict::{Action, Dropped, Judged, Packed};
use crate::{limit, listener, maps, opening, policy, publish, quote, resume, spoof};

/// The leg of an interface, while its relay is there.
///
/// # Errors
/// [`DropReason::RelayDown`].
#[inline(always)]
pub fn leg(interface: &Interface) -> Result<&'static Interface, DropReason> {
    match record_of_leg(interface) {
        Some(leg) if leg.ifindex != 0 => Ok(leg),
        Some(_) | None => Err(DropReason::RelayDown),
    }
}

/// The leg of an interface, whether its relay is there or not.
#[inline(always)]
fn record_of_leg(interface: &Interface) -> Option<&'static Interface> {
    let leg = maps::record(interface.leg).ok()?;
    let is_its = leg.policy_flags & policy_flag::LEG != 0
        && leg.client == interface.slot
        && leg.generation == interface.generation;
    is_its.then_some(leg)
}

/// Whether a packet is one of an interface that has a relay.
#[inline(always)]
pub fn is_relayed(skb: Skb) -> bool {
    maps::interface_of(skb)
        .is_ok_and(|interface| interface.policy_flags & policy_flag::RELAYED != 0)
}

/// Whether what the guest asks of its gateway's resolver goes through the relay too.
#[inline(always)]
#[must_use]
pub const fn takes_dns(interface: &Interface) -> bool {
    const RESOLVED_HERE: u32 = policy_flag::NAMES | policy_flag::DNS_STEERED;
    interface.policy_flags & (policy_flag::RELAYED | RESOLVED_HERE) == policy_flag::RELAYED
}

/// The MTU by which a packet to this address was too big, where the flow does not say it: on the way to a relay, and
/// from one to the client.
#[inline(always)]
pub fn mtu<A: Family>(interface: &Interface, destination: A) -> Option<u32> {
    if interface.policy_flags & policy_flag::RELAYED != 0 {
        return leg(interface).ok().map(|leg| leg.mtu);
    }
    let is_to_client =
        interface.policy_flags & policy_flag::LEG != 0 && A::is_first(interface, destination);
    is_to_client.then_some(interface.mtu)
}

/// Who reports an error about a packet of the guest: its gateway. No router passes on what comes from a link-local
/// address (RFC 4291 section 2.5.6), and about what went to a client it is the client that speaks.
#[inline(always)]
pub fn reporter<A: Family>(interface: &Interface, header: &Header<A>) -> Option<A> {
    let is_of_leg = interface.policy_flags & policy_flag::LEG != 0;
    let is_v6 = A::ICMP == protocol::ICMPV6;
    if is_of_leg && (is_v6 || A::is_first(interface, header.destination)) {
        return Some(header.destination);
    }
    A::gateway(interface)
}

/// Whether the guest may open a flow through its relay. Towards the host itself, where no published port is asked, its
/// listeners decide.
///
/// # Errors
/// Why not; [`DropReason::HostAddress`] and [`DropReason::GatewayClosed`] where a listener may yet be open to it.
#[inline(always)]
pub fn judge_guest_opening<A: Family>(
    interface: &Interface,
    key: &FlowKey<A>,
) -> Result<(), DropReason> {
    judge_by(interface, key, |_, _| Err(listener::closed(interface, key)))
}

/// Whether a flow that the guest opened through its relay may go on.
///
/// # Errors
/// Why not.
#[inline(always)]
pub fn judge_guest<A: Family>(interface: &Interface, key: &FlowKey<A>) -> Result<(), DropReason> {
    judge_by(interface, key, listener::judge)
}

/// What the client's policy says of a flow that goes through its relay. What its relay has a way to is not known here.
#[inline(always)]
fn judge_by<A: Family>(
    interface: &Interface,
    key: &FlowKey<A>,
    listener: impl Fn(&Interface, &FlowKey<A>) -> Result<(), DropReason>,
) -> Result<(), DropReason> {
    policy::judge_any(interface)?;
    let is_dns = is_dns(key);
    if A::is_gateway(interface, key.remote) {
        if is_dns && takes_dns(interface) {
            return Ok(());
        }
        return listener(interface, key);
    }
    // What was not steered came in fragments, or its flow is an older one.
    if is_dns && interface.policy_flags & policy_flag::DNS_STEERED != 0 {
        return Err(DropReason::DnsBypass);
    }
    match conntrack::uplink_route(key.remote) {
        Ok(_) => policy::judge(interface, key),
        // As long as there is a map of routes at all, which says where guests are.
        Err(DropReason::NoRoute) if conntrack::is_instances(key.guest) => {
            policy::judge(interface, key)
        }
        Err(DropReason::HostAddress) => match publish::judge_guest(key) {
            Ok(()) => policy::judge(interface, key),
            Err(DropReason::HostAddress) => listener(interface, key),
            Err(reason) => Err(reason),
        },
        Err(reason) => Err(reason),
    }
}

#[inline(always)]
fn is_dns<A>(key: &FlowKey<A>) -> bool {
    let has_ports = key.protocol == protocol::TCP.into() || key.protocol == protocol::UDP.into();
    has_ports && key.remote_port == port::DNS.to_be_bytes()
}

/// Whether the near half of a flow that others opened at a port of the guest may go on: its far half stands, which is
/// judged by what is published, and they are in no denied network. False where it does not.
///
/// # Errors
/// Why not.
#[inline(always)]
pub fn judge_peer_again<A: Family>(
    interface: &Interface,
    key: &FlowKey<A>,
) -> Result<bool, DropReason> {
    policy::judge_peer(interface, key.remote)?;
    Ok(record_of_leg(interface).is_some_and(|leg| is_opened_at_port(leg, key)))
}

/// Whether the far half of a flow is one that others opened at a port of the client.
#[inline(always)]
fn is_opened_at_port<A: Family>(leg: &Interface, key: &FlowKey<A>) -> bool {
    let far = FlowKey {
        instance: leg.instance,
        ..*key
    };
    maps::flow(&far)
        .is_some_and(|flow| flow.generation == leg.generation && Opener::is_at_a_port(flow.opener))
}

/// Passes a packet of a client, whose flow stands, on to its relay; gives the code of the redirect. Nothing of it changes
/// but the MAC addresses: the relay counts the hop, and by the leg, whose MTU is the lower one of both TAPs, the MSS is
/// clamped.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub fn pass_on<A: Family>(
    skb: Skb,
    interface: &Interface,
    transport: &Transport,
) -> Result<i32, DropReason> {
    let leg = leg(interface)?;
    parse::fits::<A>(skb, transport, leg.mtu)?;
    parse::check_segments(skb, transport)?;
    limit::from_vm(skb, interface, parse::on_the_wire::<A>(skb, transport))?;
    redirect(skb, leg)
}

/// The client that has an address, and its leg, where it is one of this relay.
#[inline(always)]
fn client_at<A: Family>(
    relay: &Interface,
    address: A,
) -> Option<(&'static Interface, &'static Interface)> {
    let found = maps::client(address)?;
    let leg = maps::record(found.leg).ok()?;
    // The entry may be that of an interface which just went, or came in its place.
    if leg.policy_flags & policy_flag::LEG == 0
        || leg.ifindex != relay.ifindex
        || leg.client != found.slot
        || !A::is_first(leg, address)
    {
        return None;
    }
    let client = maps::record(found.slot).ok()?;
    (client.generation == leg.generation).then_some((client, leg))
}

/// Whether a question for the link-layer address of this address is answered on an interface: that of a client of the
/// relay, which may be in the relay's own network.
#[inline(always)]
pub fn is_clients<A: Family>(relay: &Interface, address: A) -> bool {
    relay.policy_flags & policy_flag::RELAY != 0 && client_at(relay, address).is_some()
}

/// A fragment whose source nobody looked at: one that is to be judged as a fragment, or none of the guest's own.
#[inline(always)]
pub fn judge_source<A: Family>(skb: Skb) -> Packed {
    let is_own = maps::interface_of(skb)
        .and_then(|interface| A::source(skb).map(|source| A::is_own(interface, source)));
    Packed::refused(if is_own == Ok(true) {
        DropReason::Fragment
    } else {
        DropReason::SpoofedAddress
    })
}

/// Judges a packet from a TAP whose source is not its guest's: [`Judged::Leg`] where it is one of a client, else what
/// became of it on the way to one. Such drops are the leg's, too, as far as there is one.
#[inline(always)]
pub fn judge<A: Family>(skb: Skb) -> Packed {
    Packed::new(judge_foreign::<A>(skb))
}

#[inline(always)]
fn judge_foreign<A: Family>(skb: Skb) -> Result<Judged, DropReason> {
    let relay = maps::interface(skb.ifindex()).map_err(|dropped| dropped.reason)?;
    if let Some((client, leg)) = client_at(relay, A::destination(skb)?) {
        skb.set_leg(leg.slot);
        return deliver::<A>(skb, client);
    }
    let (_, leg) = client_at(relay, A::source(skb)?).ok_or(DropReason::SpoofedAddress)?;
    skb.set_leg(leg.slot);
    if leg.policy_flags & policy_flag::QUARANTINE != 0 {
        return Err(DropReason::Quarantine);
    }
    Ok(Judged::Leg(leg.slot))
}

/// Delivers a packet to a client of the relay that sends it: [`Judged::NoFlow`] where none stands for it,
/// [`Judged::Stale`] where it is to be judged anew.
#[inline(always)]
fn deliver<A: Family>(skb: Skb, client: &Interface) -> Result<Judged, DropReason> {
    skb.reach::<{ 14 + 40 + 20 }>(Origin::Vm);
    check_gateway(skb)?;
    let header = A::header(skb)?;
    if header.first_fragment {
        return Err(DropReason::Fragment);
    }
    let transport = parse::transport(skb, &header)?;
    if transport.kind == Kind::Datagram {
        spoof::check_dhcp::<A>(&transport)?;
    }
    spoof::check_partial_checksum::<A>(skb, transport.kind.checksum_offset())?;
    let key = key_at(client, &header, &transport);
    let Some(flow) = maps::flow(&key) else {
        return Ok(Judged::NoFlow);
    };
    if !Opener::is_by_relay(flow.opener) || !conntrack::is_current(flow, client) {
        return Ok(Judged::Stale);
    }
    conntrack::touch(flow, Sender::World, transport.kind);
    parse::fits::<A>(skb, &transport, client.mtu)?;
    parse::check_segments(skb, &transport)?;
    limit::to_vm(skb, client, parse::on_the_wire::<A>(skb, &transport))?;
    hand_over(skb, client).map(Judged::Done)
}

/// # Errors
/// [`DropReason::NotForGateway`].
#[inline(always)]
fn check_gateway(skb: Skb) -> Result<(), DropReason> {
    if skb.window::<6>(0)?.is_mac::<0, 4>(GATEWAY_MAC) {
        Ok(())
    } else {
        Err(DropReason::NotForGateway)
    }
}

#[inline(always)]
fn key_at<A: Copy>(client: &Interface, header: &Header<A>, transport: &Transport) -> FlowKey<A> {
    FlowKey {
        instance: client.instance,
        guest: header.destination,
        remote: header.source,
        guest_port: transport.destination,
        remote_port: transport.source,
        protocol: header.protocol.into(),
    }
}

/// Marks the answer of [`find`] where it is one.
const FOUND: u64 = 1 << 63;
/// In that answer: the packet may open a flow at a port.
const OPENS: u64 = 1 << 62;

/// The client to which its relay sends a packet.
#[inline(always)]
fn receiver<A: Family>(skb: Skb) -> Option<&'static Interface> {
    let relay = maps::interface(skb.ifindex()).ok()?;
    let (client, _) = client_at(relay, A::destination(skb).ok()?)?;
    Some(client)
}

/// The key of the flow of a packet on its way to a client, whole or a fragment, and in the answer the slot of the client.
/// A function of its own so that what it needs of the stack is free again afterwards.
#[inline(never)]
fn find<A: Family>(skb: Skb, key: &mut FlowKey<A>) -> u64 {
    let Some(client) = receiver::<A>(skb) else {
        return 0;
    };
    let kind;
    match A::header(skb) {
        Ok(header) if !header.first_fragment => {
            let Ok(transport) = parse::transport(skb, &header) else {
                return 0;
            };
            *key = key_at(client, &header, &transport);
            kind = Some(transport.kind);
        }
        Ok(_) | Err(_) => {
            let Some((of_fragment, of_first)) = relayed::key_at_client(skb, client) else {
                return 0;
            };
            *key = of_fragment;
            kind = of_first;
        }
    }
    let opens = match kind {
        Some(Kind::Segment(flags)) => flags & RST == 0,
        Some(Kind::Datagram | Kind::EchoRequest) => true,
        Some(Kind::EchoReply) | None => false,
    };
    FOUND | if opens { OPENS } else { 0 } | u64::from(client.slot)
}

#[inline(always)]
const fn no_key<A: Family>() -> FlowKey<A> {
    FlowKey {
        instance: 0,
        guest: A::ZERO,
        remote: A::ZERO,
        guest_port: [0; 2],
        remote_port: [0; 2],
        protocol: 0,
    }
}

/// What the flow of a packet is found by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum FoundBy {
    /// The packet, which its relay sends to a client.
    Inbound,
    /// The packet that an ICMP error for a client quotes.
    InboundReport,
    /// The packet, which a client sends.
    Outbound,
    /// The packet that an ICMP error of a client quotes.
    OutboundReport,
}

/// Judges the near half of a flow anew, as [`resume::judge_from_vm`] does; the number is a [`FoundBy`].
#[inline(always)]
pub fn judge_anew<A: Family>(skb: Skb, by: u64) -> Packed {
    let mut key = no_key::<A>();
    let found = if by == FoundBy::Inbound as u64 {
        find(skb, &mut key)
    } else if by == FoundBy::InboundReport as u64 {
        find_quoted(skb, &mut key)
    } else if by == FoundBy::Outbound as u64 {
        find_outbound(skb, &mut key)
    } else {
        find_quoted_outbound(skb, &mut key)
    };
    let judged = match maps::record(found as u32) {
        Ok(client) if found & FOUND != 0 => {
            let again = conntrack::revalidate_relayed(&key, client);
            resume::judged(&key, client, again)
        }
        Ok(_) | Err(_) => None,
    };
    Packed::new(Ok(judged.unwrap_or(Judged::NoFlow)))
}

/// As [`find`], of a packet that a client sends.
#[inline(never)]
fn find_outbound<A: Family>(skb: Skb, key: &mut FlowKey<A>) -> u64 {
    let Ok(interface) = maps::interface_of(skb) else {
        return 0;
    };
    match A::header(skb) {
        Ok(header) if !header.first_fragment => {
            let Ok(transport) = parse::transport(skb, &header) else {
                return 0;
            };
            *key = conntrack::key_from_vm(interface, &header, &transport);
        }
        Ok(_) | Err(_) => match relayed::key_of_client(skb, interface) {
            Some(of_fragment) => *key = of_fragment,
            None => return 0,
        },
    }
    FOUND | u64::from(interface.slot)
}

/// As [`find`], of the packet that an ICMP error of a client quotes.
#[inline(never)]
fn find_quoted_outbound<A: Family>(skb: Skb, key: &mut FlowKey<A>) -> u64 {
    let Ok(interface) = maps::interface_of(skb) else {
        return 0;
    };
    match quote::key_of_client(skb, interface) {
        Some(quoted) => *key = quoted,
        None => return 0,
    }
    FOUND | u64::from(interface.slot)
}

/// Opens the near half of a flow that was opened at a port of the client, by a packet for it: [`Judged::Opened`].
#[inline(always)]
pub fn open<A: Family>(skb: Skb) -> Packed {
    Packed::new(open_at_client::<A>(skb).map(|()| Judged::Opened))
}

#[inline(always)]
fn open_at_client<A: Family>(skb: Skb) -> Result<(), DropReason> {
    let mut key = no_key::<A>();
    let found = find(skb, &mut key);
    if found & OPENS == 0 {
        return Err(DropReason::Unsolicited);
    }
    let client = maps::record(found as u32)?;
    let generations = Generations::now(client);
    if !judge_peer_again(client, &key)? {
        return Err(DropReason::Unsolicited);
    }
    opening::open_at_client(client, &key, generations)
}

/// Tells both ends of a connection, whose near half a packet for the client just ended, by resets; of anything else the
/// drop, for the reason with this number, is the answer.
#[inline(always)]
pub fn end<A: Family>(skb: Skb, reason: u64) -> Packed {
    let reason = DropReason::from_number(reason as u32).unwrap_or(DropReason::Unsolicited);
    let told = tell_both::<A>(skb).ok_or(reason).inspect(|_| {
        let slot = skb.leg().unwrap_or(netagent_common::drop::NO_SLOT);
        maps::count_drop(Dropped { slot, reason });
    });
    Packed::of(told)
}

#[inline(always)]
fn tell_both<A: Family>(skb: Skb) -> Option<Action> {
    let relay = maps::interface(skb.ifindex()).ok()?;
    let header = A::header(skb).ok()?;
    let (client, _) = client_at(relay, header.destination)?;
    let transport = parse::transport(skb, &header).ok()?;
    let cause = Cause::read(skb, &header, &transport);
    if !cause.is_segment() {
        return None;
    }
    let back = skb.window::<12>(0).ok()?.swapped_macs();
    let (remote, guest) = (header.source, header.destination);
    let ports = [transport.source, transport.destination];
    reset::write(skb, &cause.for_receiver(back, (remote, guest), ports)).ok()?;
    if !cause.is_answered() {
        return hand_over(skb, client).ok();
    }
    skb.window::<12>(0)
        .ok()?
        .set_macs(client.guest_mac, GATEWAY_MAC);
    skb.set_mark(maps::mark());
    skb.send_copy(client.ifindex);
    let ports = [transport.destination, transport.source];
    reset::write(skb, &cause.for_sender(back, (guest, remote), ports)).ok()?;
    skb.set_mark(maps::mark());
    Some(Action::Redirect(skb.redirect(relay.ifindex)))
}

/// Judges a fragment for a client, whose ports are remembered.
#[inline(always)]
pub fn fragment<A: Family>(skb: Skb) -> Packed {
    let client = receiver::<A>(skb).ok_or(DropReason::SpoofedAddress);
    Packed::new(client.and_then(|client| {
        check_gateway(skb)?;
        relayed::to_client::<A>(skb, client)
    }))
}

/// Judges an ICMP error for a client, of which the relay's own are the one thing that it may send there itself.
#[inline(always)]
pub fn report<A: Family>(skb: Skb) -> Packed {
    let relay = maps::interface(skb.ifindex()).map_err(|dropped| dropped.reason);
    let judged = relay.and_then(|relay| {
        let found = client_at(relay, A::destination(skb)?);
        let (client, leg) = found.ok_or(DropReason::IcmpError)?;
        skb.set_leg(leg.slot);
        check_gateway(skb)?;
        quote::to_client::<A>(skb, client)
    });
    Packed::new(judged)
}

/// As [`find`], of the packet that an ICMP error for a client quotes.
#[inline(never)]
fn find_quoted<A: Family>(skb: Skb, key: &mut FlowKey<A>) -> u64 {
    let Some(client) = receiver::<A>(skb) else {
        return 0;
    };
    let Some(quoted) = quote::key_at_client(skb, client) else {
        return 0;
    };
    *key = quoted;
    FOUND | u64::from(client.slot)
}
