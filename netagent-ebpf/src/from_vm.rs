//! What a guest sends.

use netagent_common::drop::DropReason;
use netagent_common::flow::Sender;
use netagent_common::net::{GATEWAY_MAC, ethertype};
use netagent_common::vm::Interface;

use crate::family::Family;
use crate::kernel::Skb;
use crate::parse::{self, Header, Kind, Transport};
use crate::verdict::{Action, Dropped, Packed};
use crate::{arp, conntrack, echo, maps, nat, neighbour, spoof};

/// Judges a frame from a TAP.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub fn judge(skb: Skb) -> Result<Action, Dropped> {
    let interface = maps::interface(skb.ifindex())?;
    let len = skb.len();
    let action = frame(skb, interface).map_err(|reason| Dropped {
        slot: interface.slot,
        reason,
    })?;
    maps::count_from_vm(interface.slot, len);
    Ok(action)
}

#[inline(always)]
fn frame(skb: Skb, interface: &Interface) -> Result<Action, DropReason> {
    // Whatever the VMM set: our own mark opens the way into a TAP.
    skb.set_mark(0);
    if skb.vlan_present() {
        return Err(DropReason::Vlan);
    }
    skb.reach_headers();
    let ethernet = skb.window::<14>(0)?;
    if !ethernet.is_mac::<6, 10>(interface.guest_mac) {
        return Err(DropReason::SpoofedMac);
    }
    let to_gateway = ethernet.is_mac::<0, 4>(GATEWAY_MAC);
    match u16::from_be_bytes(ethernet.two::<12>()) {
        ethertype::IPV4 => opening::<[u8; 4]>(skb, interface, || ipv4(skb, interface, to_gateway)),
        ethertype::IPV6 => opening::<[u8; 16]>(skb, interface, || ipv6(skb, interface, to_gateway)),
        ethertype::ARP => arp::from_vm(skb, interface),
        _ => Err(DropReason::UnknownEthertype),
    }
}

/// Opens a flow where the packet belongs to none. Opening parses the packet again: within the 512 bytes that
/// nested functions share as stack, it cannot lie below the function that found nothing.
#[inline(always)]
fn opening<A: Family>(
    skb: Skb,
    interface: &Interface,
    judge: impl Fn() -> Packed,
) -> Result<Action, DropReason> {
    if let Some(action) = judge().answer()? {
        return Ok(action);
    }
    conntrack::open::<A>(skb, interface)?;
    // Nothing is found again only where the agent changed the routes in this very moment.
    judge().answer()?.ok_or(DropReason::NoRoute)
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
fn judge_ipv4(
    skb: Skb,
    interface: &Interface,
    to_gateway: bool,
) -> Result<Option<Action>, DropReason> {
    let header = <[u8; 4]>::header(skb)?;
    let transport = parse::transport(skb, &header);
    if header.source == [0; 4] {
        return Err(without_address(&header, &transport));
    }
    spoof::check_source(interface, &header)?;
    packet(skb, interface, (&header, &transport?), to_gateway)
}

#[inline(always)]
fn judge_ipv6(
    skb: Skb,
    interface: &Interface,
    to_gateway: bool,
) -> Result<Option<Action>, DropReason> {
    let header = <[u8; 16]>::header(skb)?;
    if let Some(kind) = neighbour::kind(skb, &header) {
        return neighbour::from_vm(skb, interface, kind).answer();
    }
    let transport = parse::transport(skb, &header);
    if let Ok(transport) = transport
        && spoof::is_link_local_echo(interface, &header, transport.kind)
        && to_gateway
    {
        return echo::answer(skb, interface, &header).map(Some);
    }
    spoof::check_source(interface, &header)?;
    packet(skb, interface, (&header, &transport?), to_gateway)
}

/// A packet without source address: a DHCP request ends as broadcast, everything else is spoofed.
#[inline(always)]
fn without_address(
    header: &Header<[u8; 4]>,
    transport: &Result<Transport, DropReason>,
) -> DropReason {
    const CLIENT: [u8; 2] = 68_u16.to_be_bytes();
    const SERVER: [u8; 2] = 67_u16.to_be_bytes();
    match transport {
        Ok(Transport {
            kind: Kind::Datagram,
            source: CLIENT,
            destination: SERVER,
            ..
        }) if header.destination == [255; 4] => DropReason::AlwaysDenied,
        Ok(_) | Err(_) => DropReason::SpoofedAddress,
    }
}

/// Both families: the packet's source is the guest's own. `None` where no flow stands for it.
#[inline(always)]
fn packet<A: Family>(
    skb: Skb,
    interface: &Interface,
    (header, transport): (&Header<A>, &Transport),
    to_gateway: bool,
) -> Result<Option<Action>, DropReason> {
    if header.first_fragment {
        return Err(DropReason::Fragment);
    }
    spoof::check_dhcp(header, transport)?;
    spoof::check_partial_checksum::<A>(skb, transport)?;
    if !to_gateway {
        return Err(DropReason::NotForGateway);
    }
    let key = conntrack::key_from_vm(interface, header, transport);
    let flow = match maps::flow(&key) {
        Some(flow) if conntrack::is_current(flow, interface) => flow,
        _ if header.destination == A::gateway(interface) && transport.kind != Kind::EchoReply => {
            return gateway(skb, interface, (header, transport)).map(Some);
        }
        _ => return Ok(None),
    };
    conntrack::touch(flow, Sender::Vm, transport.kind);
    if flow.uplink == 0 {
        // Only the host's own pings open such flows, and only their replies belong to them.
        let is_reply = transport.kind == Kind::EchoReply;
        return if is_reply {
            Ok(Some(Action::Next))
        } else {
            Err(DropReason::HostAddress)
        };
    }
    let (uplink, next_hop) = (flow.uplink, flow.next_hop);
    parse::fits::<A>(skb, transport, flow.mtu)?;
    if header.hop_limit <= 1 {
        return Err(DropReason::TtlExpired);
    }
    nat::rewrite_source(skb, header, transport, flow)?;
    let next_hop = if next_hop == A::ZERO {
        header.destination
    } else {
        next_hop
    };
    Ok(Some(Action::Redirect(A::redirect(uplink, next_hop, skb))))
}

/// The gateway itself serves echo and nothing else.
#[inline(always)]
fn gateway<A: Family>(
    skb: Skb,
    interface: &Interface,
    (header, transport): (&Header<A>, &Transport),
) -> Result<Action, DropReason> {
    if transport.kind != Kind::EchoRequest {
        return Err(DropReason::GatewayClosed);
    }
    echo::answer(skb, interface, header)
}
