//! What the agent's own servers answer to guests. Nothing else comes this way, and nothing goes to the host.

use netagent_common::drop::DropReason;
use netagent_common::net::{GATEWAY_MAC, ethertype, protocol};
use netagent_common::services::{Client, Place, port};
use netagent_common::vm::Interface;

use crate::family::Family;
use crate::kernel::Skb;
use crate::maps;
use crate::packet::Origin;
use crate::parse::{self, Header, ICMP_CHECKSUM_OFFSET, Transport, transport_offset};
use crate::services::{self, LINK_LOCAL, Steered};
use crate::verdict::{Action, Dropped};

const ROUTER_ADVERTISEMENT: u8 = 134;
const HOP_LIMIT: u8 = 255;
const DNS: [u8; 2] = port::DNS.to_be_bytes();
const DHCP_SERVER: [u8; 2] = port::DHCP_SERVER.to_be_bytes();
const DHCP_CLIENT: [u8; 2] = port::DHCP_CLIENT.to_be_bytes();
const EVERYBODY_MAC: [u8; 6] = [0xff; 6];
/// ff02::1, and the address of its frames (RFC 2464 section 7).
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

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
    /// Who asked, by the address that is answered, and the low half of its own.
    fn client_of(address: Self) -> Option<(Client, [u8; 8])>;

    /// From where to where the answer goes; `None` where that guest cannot have asked so.
    fn ends(
        interface: &Interface,
        place: Place,
        host_part: [u8; 8],
        service: Service,
    ) -> Option<Ends<Self>>;
}

impl Answered for [u8; 4] {
    #[inline(always)]
    fn client_of(address: Self) -> Option<(Client, [u8; 8])> {
        Some((Client::from_v4(address)?, [0; 8]))
    }

    #[inline(always)]
    fn ends(
        interface: &Interface,
        place: Place,
        _host_part: [u8; 8],
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
        let other = place.0 & Place::INSTANCE_GATEWAY != 0;
        Some(Ends {
            source: if other {
                interface.instance_gateway_v4
            } else {
                source
            },
            destination,
            mac,
        })
    }
}

impl Answered for [u8; 16] {
    #[inline(always)]
    fn client_of(address: Self) -> Option<(Client, [u8; 8])> {
        Client::from_v6(address)
    }

    #[inline(always)]
    fn ends(
        interface: &Interface,
        place: Place,
        host_part: [u8; 8],
        service: Service,
    ) -> Option<Ends<Self>> {
        if interface.has_v6 == 0 {
            return None;
        }
        let source = interface.gateway_v6;
        if place.0 == Place::ALL_NODES {
            return (service == Service::Router).then_some(Ends {
                source,
                destination: ALL_NODES,
                mac: ALL_NODES_MAC,
            });
        }
        let network = |address: [u8; 16]| {
            let [a, b, c, d, e, f, g, h, ..] = address;
            [a, b, c, d, e, f, g, h]
        };
        let [first, second, third, fourth] = interface.addresses_v6;
        let [a, b, c, d, e, f, g, h] = match place.0 {
            0 => network(first),
            1 => network(second),
            2 => network(third),
            3 => network(fourth),
            _ => LINK_LOCAL,
        };
        let [i, j, k, l, m, n, o, p] = host_part;
        let destination = [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p];
        let is_guests = if place.0 == Place::LINK_LOCAL {
            services::is_guests_link_local(interface, destination)
        } else {
            Self::is_own(interface, destination)
        };
        is_guests.then_some(Ends {
            source,
            destination,
            mac: interface.guest_mac,
        })
    }
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
    let header = A::header(skb).map_err(Dropped::nowhere)?;
    let unsolicited = Dropped::nowhere(DropReason::Unsolicited);
    if header.source != A::SERVER {
        return Err(unsolicited);
    }
    let (client, host_part) = A::client_of(header.destination).ok_or(unsolicited)?;
    let interface = maps::record(client.slot).map_err(Dropped::nowhere)?;
    // It was asked by an earlier instance of this slot.
    if !client.is_of(interface.generation) {
        return Err(unsolicited);
    }
    let sent = send(skb, &header, interface, (client.place, host_part));
    sent.map_err(|reason| Dropped {
        slot: interface.slot,
        reason,
    })
}

#[inline(always)]
fn send<A: Answered>(
    skb: Skb,
    header: &Header<A>,
    interface: &Interface,
    (place, host_part): (Place, [u8; 8]),
) -> Result<Action, DropReason> {
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
    let ends = A::ends(interface, place, host_part, service).ok_or(DropReason::Unsolicited)?;
    let addresses = (ends.source, ends.destination);
    services::readdress(skb, header, addresses, checksum_offset)?;
    skb.window::<12>(0)?.set_macs(ends.mac, GATEWAY_MAC);
    maps::count_to_vm(interface.slot, on_the_wire);
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
