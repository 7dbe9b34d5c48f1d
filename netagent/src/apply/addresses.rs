//! Addresses, neighbours and routes of links, through netlink.

use std::net::IpAddr;

use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};

use crate::netlink::{Netlink, NetlinkError};
use crate::plan::Neighbour;

/// Gives a link an address; an IPv6 one is valid at once, without duplicate detection.
pub async fn add_address(
    netlink: &Netlink,
    ifindex: u32,
    address: IpNet,
) -> Result<(), NetlinkError> {
    let mut message = address_of(ifindex, address);
    if address.addr().is_ipv6() {
        message
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    netlink
        .change(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
        .await
}

/// Takes an address off a link; one that it has not is off.
///
/// # Errors
/// Where netlink refuses.
pub async fn remove_address(
    netlink: &Netlink,
    ifindex: u32,
    address: IpNet,
) -> Result<(), NetlinkError> {
    let message = RouteNetlinkMessage::DelAddress(address_of(ifindex, address));
    match netlink.change(message, 0).await {
        Err(error) if error.is(Errno::EADDRNOTAVAIL) => Ok(()),
        result => result,
    }
}

fn address_of(ifindex: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.index = ifindex;
    message.attributes = vec![
        AddressAttribute::Address(address.addr()),
        AddressAttribute::Local(address.addr()),
    ];
    message
}

/// Makes a neighbour permanent, so that the host never asks the guest.
pub async fn add_neighbour(netlink: &Netlink, neighbour: &Neighbour) -> Result<(), NetlinkError> {
    let mut message = NeighbourMessage::default();
    message.header.family = family(neighbour.address);
    message.header.ifindex = neighbour.ifindex;
    message.header.state = NeighbourState::Permanent;
    let address = match neighbour.address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    };
    message.attributes = vec![
        NeighbourAttribute::Destination(address),
        NeighbourAttribute::LinkLayerAddress(neighbour.mac.to_vec()),
    ];
    netlink
        .change(
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
        .await
}

/// Routes everything of a family to one next hop.
pub async fn add_default_route(
    netlink: &Netlink,
    ifindex: u32,
    next_hop: IpAddr,
) -> Result<(), NetlinkError> {
    let mut message = route(next_hop, ifindex, RouteScope::Universe);
    let gateway = RouteAttribute::Gateway(route_address(next_hop));
    message.attributes.push(gateway);
    put_route(netlink, message).await
}

/// Routes the guest's address to its TAP.
pub async fn add_guest_route(
    netlink: &Netlink,
    ifindex: u32,
    guest: IpAddr,
) -> Result<(), NetlinkError> {
    let scope = if guest.is_ipv4() {
        RouteScope::Link
    } else {
        RouteScope::Universe
    };
    let mut message = route(guest, ifindex, scope);
    message.header.destination_prefix_length = IpNet::from(guest).prefix_len();
    let destination = RouteAttribute::Destination(route_address(guest));
    message.attributes.push(destination);
    put_route(netlink, message).await
}

/// A route of the main table and of this address' family, by a link.
fn route(address: IpAddr, ifindex: u32, scope: RouteScope) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(address);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Unicast;
    message.header.scope = scope;
    message.attributes.push(RouteAttribute::Oif(ifindex));
    message
}

async fn put_route(netlink: &Netlink, message: RouteMessage) -> Result<(), NetlinkError> {
    let message = RouteNetlinkMessage::NewRoute(message);
    netlink.change(message, NLM_F_CREATE | NLM_F_REPLACE).await
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}
