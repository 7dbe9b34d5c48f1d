//! What the agent's own servers answer to guests. Nothing else comes this way, and nothing goes to the host.

use netagent_common::drop::DropReason;
use netagent_common::net::{GATEWAY_MAC, ethertype, protocol};
use netagent_common::services::{Client, Place, port};
use netagent_common::vm::Interface;

use crate::family::Family;
use crate::kernel::Skb;
use crate::packet::Origin;
use crate::parse::{self, Header, ICMP_CHECKSUM_OFFSET, Transport, transport_offset};
use crate::services::{self, Steered};
use crate::verdict::{Action, Dropped, Packed};
use crate::{asked, limit, maps};

const ROUTER_ADVERTISEMENT: u8 = 134;
const HOP_LIMIT: u8 = 255;
const DNS: [u8; 2] = port::DNS.to_be_bytes();
const DHCP_SERVER: [u8; 2] = port::DHCP_SERVER.to_be_bytes();
const DHCP_CLIENT: [u8; 2] = port::DHCP_CLIENT.to_be_bytes();
const EVERYBODY_MAC: [u8; 6] = [0xff; 6];
/// ff02::1, and the address of its frames (RFC 2464 section 7).
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// fe80::/64.
const LINK_LOCAL: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Which server answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// DHCP.
    Dhcp,
    /// DNS.
    Dns,
    /// Router advertisements.
    Router,
}

/// The ends of an answer as the guest is to see them.
#[derive(Clone, Copy)]
pub struct Ends<A> {
    source: A,
    destination: A,
    mac: [u8; 6],
}

/// A family whose answers find their way back.
pub trait Answered: Steered {
    /// Who asked, by the address that is answered.
    fn client_of(answered: Self) -> Option<Client>;

    /// From where to where the answer goes; `None` where that guest cannot have asked so.
    fn ends(
        interface: &Interface,
        place: Place,
        answered: Self,
        service: Service,
    ) -> Option<Ends<Self>>;
}

impl Answered for [u8; 4] {
    #[inline(always)]
    fn client_of(answered: Self) -> Option<Client> {
        Client::from_v4(answered)
    }

    #[inline(always)]
    fn ends(
        interface: &Interface,
        place: Place,
        _answered: Self,
        service: Service,
    ) -> Option<Ends<Self>> {
        let [first, second, third, fourth] = interface.addresses_v4;
        if interface.addresses == 0 {
            return None;
        }
        let mac = interface.guest_mac;
        let source = interface.gateway_v4;
        if service == Service::Dhcp {
            let to_all = place.0 & Place::BROADCAST != 0;
            return Some(Ends {
                source,
                destination: if to_all { [255; 4] } else { first },
                mac: if to_all { EVERYBODY_MAC } else { mac },
            });
        }
        let address = place.0 & Place::ADDRESS;
        let destination = match address {
            0 => first,
            1 => second,
            2 => third,
            _ => fourth,
        };
        if address >= interface.addresses {
            return None;
        }
        let source = match place.0 >> Place::SERVER_SHIFT_V4 & Place::SERVER {
            0 => source,
            Place::INSTANCE_GATEWAY => interface.instance_gateway_v4,
            number => asked::server(interface, number)?,
        };
        Some(Ends {
            source,
            destination,
            mac,
        })
    }
}

impl Answered for [u8; 16] {
    #[inline(always)]
    fn client_of(answered: Self) -> Option<Client> {
        let (client, _) = Client::from_v6(answered)?;
        Some(client)
    }

    #[inline(always)]
    fn ends(
        interface: &Interface,
        place: Place,
        answered: Self,
        service: Service,
    ) -> Option<Ends<Self>> {
        if interface.has_v6 == 0 {
            return None;
        }
        let (kind, number) = (
            place.0 & Place::KIND_V6,
            place.0 >> Place::SERVER_SHIFT_V6 & Place::SERVER,
        );
        let to_all = kind == Place::ALL_NODES;
        let [_, low]: [u64; 2] = bytemuck::cast(answered);
        let [first, second, third, fourth] = &interface.addresses_v6;
        let [high, low] = match kind {
            0 => [network(first), low],
            1 => [network(second), low],
            2 => [network(third), low],
            3 => [network(fourth), low],
            Place::LINK_LOCAL => [network(&LINK_LOCAL), low],
            _ => bytemuck::cast(ALL_NODES),
        };
        let destination = bytemuck::cast([high, low]);
        let may_ask = match kind {
            0..=3 => Self::is_own(interface, destination),
            Place::LINK_LOCAL => destination != interface.gateway_v6,
            _ => to_all && service == Service::Router,
        };
        if !may_ask {
            return None;
        }
        let source = if number == 0 || service != Service::Dns {
            interface.gateway_v6
        } else {
            asked::server(interface, number)?
        };
        Some(Ends {
            source,
            destination,
            mac: if to_all {
                ALL_NODES_MAC
            } else {
                interface.guest_mac
            },
        })
    }
}

/// The upper half of an address, as a word: bytes one by one would each take a word of the stack.
#[inline(always)]
fn network(address: &[u8; 16]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *address;
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// Judges a frame from the servers' namespace.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub fn judge(skb: Skb) -> Result<Action, Dropped> {
    skb.set_mark(0);
    if skb.vlan_present() {
        return Err(Dropped::nowhere(DropReason::Vlan));
    }
    skb.reach::<{ 14 + 40 + 20 }>(Origin::Vm);
    let ethernet = skb.window::<14>(0).map_err(Dropped::nowhere)?;
    match u16::from_be_bytes(ethernet.two::<12>()) {
        ethertype::IPV4 => answer::<[u8; 4]>(skb),
        ethertype::IPV6 => answer::<[u8; 16]>(skb),
        _ => Err(Dropped::nowhere(DropReason::UnknownEthertype)),
    }
}

#[inline(always)]
fn answer<A: Answered>(skb: Skb) -> Result<Action, Dropped> {
    let interface = asker::<A>(skb).map_err(Dropped::nowhere)?;
    send::<A>(skb, interface)
        .action()
        .map_err(|reason| Dropped {
            slot: interface.slot,
            reason,
        })
}

/// The interface that the answer is for.
#[inline(always)]
fn asker<A: Answered>(skb: Skb) -> Result<&'static Interface, DropReason> {
    let header = A::header(skb)?;
    if header.source != A::SERVER {
        return Err(DropReason::Unsolicited);
    }
    let client = A::client_of(header.destination).ok_or(DropReason::Unsolicited)?;
    let interface = maps::record(client.slot)?;
    // It was asked by an earlier instance of this slot.
    if !client.is_of(interface.generation) {
        return Err(DropReason::Unsolicited);
    }
    Ok(interface)
}

/// One function for each family, which parses anew: both in one would take all of the stack.
#[inline(never)]
fn send<A: Answered>(skb: Skb, interface: &Interface) -> Packed {
    Packed::of(judge_answer::<A>(skb, interface))
}

#[inline(always)]
fn judge_answer<A: Answered>(skb: Skb, interface: &Interface) -> Result<Action, DropReason> {
    let header = &A::header(skb)?;
    let client = A::client_of(header.destination).ok_or(DropReason::Unsolicited)?;
    if header.first_fragment {
        return Err(DropReason::Fragment);
    }
    let (service, checksum_offset, on_the_wire) = if header.protocol == A::ICMP {
        check_advertisement(skb, header)?;
        (Service::Router, ICMP_CHECKSUM_OFFSET, (1, skb.len()))
    } else {
        let transport = parse::transport(skb, header)?;
        let service = service_of(header, &transport)?;
        // A guest takes 576 bytes by DHCP before it knows its MTU (RFC 2131 section 2).
        if service == Service::Dns {
            parse::fits::<A>(skb, &transport, interface.mtu)?;
        }
        let on_the_wire = parse::on_the_wire::<A>(skb, &transport);
        (service, transport.kind.checksum_offset(), on_the_wire)
    };
    let ends = A::ends(interface, client.place, header.destination, service)
        .ok_or(DropReason::Unsolicited)?;
    let addresses = (ends.source, ends.destination);
    services::readdress(skb, header, addresses, checksum_offset)?;
    if interface.ifindex == 0 {
        return Err(DropReason::RelayDown);
    }
    skb.window::<12>(0)?.set_macs(ends.mac, GATEWAY_MAC);
    limit::to_vm(skb, interface, on_the_wire)?;
    skb.set_mark(maps::mark());
    Ok(Action::Redirect(skb.redirect(interface.ifindex)))
}

#[inline(always)]
fn service_of<A: Family>(header: &Header<A>, transport: &Transport) -> Result<Service, DropReason> {
    let ports = (transport.source, transport.destination);
    if transport.source == DNS {
        Ok(Service::Dns)
    } else if header.protocol == protocol::UDP
        && A::ICMP == protocol::ICMP
        && ports == (DHCP_SERVER, DHCP_CLIENT)
    {
        Ok(Service::Dhcp)
    } else {
        Err(DropReason::Unsolicited)
    }
}

/// Of ICMP the servers send router advertisements alone, with a hop limit that says that nobody forwarded them.
#[inline(always)]
fn check_advertisement<A: Family>(skb: Skb, header: &Header<A>) -> Result<(), DropReason> {
    let kind = skb.window::<1>(transport_offset::<A>())?.byte::<0>();
    let is_v6 = A::ICMP == protocol::ICMPV6;
    if is_v6 && kind == ROUTER_ADVERTISEMENT && header.hop_limit == HOP_LIMIT {
        Ok(())
    } else {
        Err(DropReason::Unsolicited)
    }
}
