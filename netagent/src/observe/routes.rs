//! Reads the kernel's routes and permanent neighbours.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "the enums are the kernel's, and open"
)]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHop,
    RouteNextHopFlags, RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::netlink::{Netlink, NetlinkError};
use crate::plan::{KernelRoute, KernelRouteKind, Neighbour};

const TABLE_MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;
const TABLE_LOCAL: u32 = 255;

/// Routes of the tables main and local, in order.
///
/// # Errors
/// Where netlink refuses.
pub async fn read(netlink: &Netlink) -> Result<Vec<KernelRoute>, NetlinkError> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        for answer in netlink
            .dump(RouteNetlinkMessage::GetRoute(question))
            .await?
        {
            if let RouteNetlinkMessage::NewRoute(message) = answer {
                routes.extend(observed(&message));
            }
        }
    }
    routes.sort();
    Ok(routes)
}

/// Routes through one device. `strict` is a connection that heeds what a dump is limited to.
///
/// # Errors
/// Where netlink refuses.
pub async fn read_of(strict: &Netlink, ifindex: u32) -> Result<Vec<KernelRoute>, NetlinkError> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        question.attributes.push(RouteAttribute::Oif(ifindex));
        let answers = strict.dump(RouteNetlinkMessage::GetRoute(question)).await?;
        for answer in answers {
            if let RouteNetlinkMessage::NewRoute(message) = answer {
                let found = observed(&message).into_iter();
                routes.extend(found.filter(|route| route.ifindex == ifindex));
            }
        }
    }
    Ok(routes)
}

/// Permanent neighbours on one device. `strict` is a connection that heeds what a dump is limited to.
///
/// # Errors
/// Where netlink refuses.
pub async fn read_neighbours_of(
    strict: &Netlink,
    ifindex: u32,
) -> Result<BTreeSet<Neighbour>, NetlinkError> {
    let mut question = NeighbourMessage::default();
    question
        .attributes
        .push(NeighbourAttribute::IfIndex(ifindex));
    let answers = strict
        .dump(RouteNetlinkMessage::GetNeighbour(question))
        .await?;
    let found = answers.into_iter().filter_map(permanent);
    Ok(found.filter(|one| one.ifindex == ifindex).collect())
}

/// Permanent neighbours.
///
/// # Errors
/// Where netlink refuses.
pub async fn read_neighbours(netlink: &Netlink) -> Result<BTreeSet<Neighbour>, NetlinkError> {
    let question = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
    let answers = netlink.dump(question).await?;
    Ok(answers.into_iter().filter_map(permanent).collect())
}

fn permanent(answer: RouteNetlinkMessage) -> Option<Neighbour> {
    let RouteNetlinkMessage::NewNeighbour(message) = answer else {
        return None;
    };
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in message.attributes {
        if let NeighbourAttribute::Destination(destination) = attribute {
            address = match destination {
                NeighbourAddress::Inet(found) => Some(IpAddr::V4(found)),
                NeighbourAddress::Inet6(found) => Some(IpAddr::V6(found)),
                _ => None,
            };
        } else if let NeighbourAttribute::LinkLayerAddress(found) = attribute {
            mac = found.try_into().ok();
        }
    }
    Some(Neighbour {
        ifindex: message.header.ifindex,
        address: address?,
        mac: mac?,
    })
}

fn observed(message: &RouteMessage) -> Option<KernelRoute> {
    let unspecified = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        // Multicast and label routes are no business of ours.
        _ => return None,
    };
    let dead = message.header.flags.contains(RouteFlags::Dead)
        || message.header.flags.contains(RouteFlags::Cloned);
    if dead {
        return None;
    }
    let mut table = u32::from(message.header.table);
    let mut destination = unspecified;
    let mut route = KernelRoute {
        destination: IpNet::new(unspecified, message.header.destination_prefix_length).ok()?,
        kind: kind(message.header.kind)?,
        ifindex: 0,
        gateway: None,
        source: None,
        metric: 0,
        mtu: None,
    };
    for attribute in &message.attributes {
        if let RouteAttribute::Table(number) = attribute {
            table = *number;
        } else if let RouteAttribute::Destination(address) = attribute {
            destination = ip(address)?;
        } else {
            read_attribute(attribute, &mut route);
        }
    }
    route.destination = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
    [TABLE_MAIN, TABLE_LOCAL].contains(&table).then_some(route)
}

fn read_attribute(attribute: &RouteAttribute, route: &mut KernelRoute) {
    if let RouteAttribute::Oif(ifindex) = attribute {
        route.ifindex = *ifindex;
    } else if let RouteAttribute::Gateway(address) = attribute {
        route.gateway = ip(address);
    } else if let RouteAttribute::Via(via) = attribute {
        route.gateway = through(via);
    } else if let RouteAttribute::PrefSource(address) = attribute {
        route.source = ip(address);
    } else if let RouteAttribute::Priority(metric) = attribute {
        route.metric = *metric;
    } else if let RouteAttribute::Metrics(metrics) = attribute {
        route.mtu = metrics.iter().find_map(|metric| {
            if let RouteMetric::Mtu(mtu) = metric {
                Some(*mtu)
            } else {
                None
            }
        });
    } else if let RouteAttribute::MultiPath(hops) = attribute {
        read_first_hop(hops, route);
    }
}

/// Of several ways the first that is not dead: the programs know one way for each destination.
fn read_first_hop(hops: &[RouteNextHop], route: &mut KernelRoute) {
    let lives = |hop: &&RouteNextHop| !hop.flags.contains(RouteNextHopFlags::Dead);
    let Some(hop) = hops.iter().find(lives).or(hops.first()) else {
        return;
    };
    route.ifindex = hop.interface_index;
    for attribute in &hop.attributes {
        if let RouteAttribute::Gateway(address) = attribute {
            route.gateway = ip(address);
        } else if let RouteAttribute::Via(via) = attribute {
            route.gateway = through(via);
        }
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn through(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(address) => Some(IpAddr::V4(*address)),
        RouteVia::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// `None` for types that lead nowhere and forbid nothing.
fn kind(kind: RouteType) -> Option<KernelRouteKind> {
    match kind {
        RouteType::Unicast => Some(KernelRouteKind::Unicast),
        RouteType::Local | RouteType::Anycast => Some(KernelRouteKind::Local),
        RouteType::Broadcast | RouteType::Multicast => Some(KernelRouteKind::Broadcast),
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw => {
            Some(KernelRouteKind::Refused)
        }
        _ => None,
    }
}
