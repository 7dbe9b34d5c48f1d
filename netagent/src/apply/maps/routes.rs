//! The route map, as destinations and what is to be done with them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use aya::Pod;
use aya::maps::MapError;
use aya::maps::lpm_trie::Key;
use bytemuck::Zeroable;
use ipnet::IpNet;
use netagent_common::names::map;
use netagent_common::policy::{Route, RouteKind};

use crate::apply::maps::{Maps, MapsError, Routes, failed, gone};
use crate::plan::RouteTarget;

impl Maps {
    /// The route map.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn routes(&self) -> Result<BTreeMap<IpNet, RouteTarget>, MapsError> {
        let mut routes = read_routes(&self.routes_v4).map_err(failed(map::ROUTES_V4))?;
        routes.extend(read_routes(&self.routes_v6).map_err(failed(map::ROUTES_V6))?);
        Ok(routes)
    }

    /// Writes an entry of the route map.
    ///
    /// # Errors
    /// Where the kernel refuses: the map may be full.
    pub fn set_route(&mut self, destination: IpNet, target: &RouteTarget) -> Result<(), MapsError> {
        let mixed = || MapsError::MixedFamilies(destination);
        match destination {
            IpNet::V4(net) => {
                let route = route(target, |address| octets_v4(address).ok_or_else(mixed))?;
                let key = Key::new(net.prefix_len().into(), net.network().octets());
                self.routes_v4
                    .insert(&key, route, 0)
                    .map_err(failed(map::ROUTES_V4))
            }
            IpNet::V6(net) => {
                let route = route(target, |address| octets_v6(address).ok_or_else(mixed))?;
                let key = Key::new(net.prefix_len().into(), net.network().octets());
                self.routes_v6
                    .insert(&key, route, 0)
                    .map_err(failed(map::ROUTES_V6))
            }
        }
    }

    /// Removes an entry of the route map; one that is not there is removed.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn remove_route(&mut self, destination: IpNet) -> Result<(), MapsError> {
        match destination {
            IpNet::V4(net) => {
                let key = Key::new(net.prefix_len().into(), net.network().octets());
                gone(self.routes_v4.remove(&key)).map_err(failed(map::ROUTES_V4))
            }
            IpNet::V6(net) => {
                let key = Key::new(net.prefix_len().into(), net.network().octets());
                gone(self.routes_v6.remove(&key)).map_err(failed(map::ROUTES_V6))
            }
        }
    }
}

fn route<A: Zeroable>(
    target: &RouteTarget,
    octets: impl Fn(IpAddr) -> Result<A, MapsError>,
) -> Result<Route<A>, MapsError> {
    let or_zero = |address: Option<IpAddr>| address.map_or_else(|| Ok(A::zeroed()), &octets);
    Ok(Route {
        kind: target.kind as u32,
        ifindex: target.ifindex,
        mtu: target.mtu,
        next_hop: or_zero(target.next_hop)?,
        source: or_zero(target.source)?,
    })
}

fn read_routes<A>(routes: &Routes<A>) -> Result<BTreeMap<IpNet, RouteTarget>, MapError>
where
    A: Pod + Into<IpAddr>,
    Route<A>: Pod,
{
    let address =
        |octets: A| Some(octets.into()).filter(|address: &IpAddr| !address.is_unspecified());
    let mut found = BTreeMap::new();
    for entry in routes.iter() {
        let (key, route) = entry?;
        // A prefix longer than its family cannot be in the map: the kernel refuses it.
        let Ok(destination) = IpNet::new(
            key.data().into(),
            u8::try_from(key.prefix_len()).unwrap_or(u8::MAX),
        ) else {
            continue;
        };
        let target = RouteTarget {
            kind: RouteKind::from_number(route.kind),
            ifindex: route.ifindex,
            mtu: route.mtu,
            next_hop: address(route.next_hop),
            source: address(route.source),
        };
        found.insert(destination, target);
    }
    Ok(found)
}

fn octets_v4(address: IpAddr) -> Option<[u8; 4]> {
    if let IpAddr::V4(address) = address {
        Some(address.octets())
    } else {
        None
    }
}

fn octets_v6(address: IpAddr) -> Option<[u8; 16]> {
    if let IpAddr::V6(address) = address {
        Some(address.octets())
    } else {
        None
    }
}
