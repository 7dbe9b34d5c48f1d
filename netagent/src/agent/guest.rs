//! What the guest of an instance is told (G-1, G-2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netagent_common::net::GATEWAY_V6;

use crate::agent::Agent;
use crate::agent::uplink::MTU_MIN_V6;
use crate::gateway::{Gateway, gateway_of};
use crate::guest::{DefaultRoute, GuestConfig, GuestInterface, GuestV6};
use crate::host::Host;
use crate::instance::{Instance, Interface, Origin};
use crate::spec::relay::takes_dns;

/// Where the default routes of an instance go.
struct Routes {
    v4: Gateway,
    /// Index of the interface with the default route of IPv6.
    v6: Option<usize>,
}

impl<H: Host> Agent<H> {
    /// What the guest of an instance is told.
    pub(crate) fn guest_config(&self, instance: &Instance) -> GuestConfig {
        let routes = self.guest_routes(instance);
        let interfaces = instance.interfaces.iter().enumerate();
        GuestConfig {
            hostname: instance.name.to_string(),
            interfaces: interfaces
                .map(|(index, interface)| GuestInterface {
                    index,
                    tap_name: interface.tap_name.clone(),
                    mac: interface.mac,
                    model: interface.model.clone(),
                    queues: interface.queues,
                    mtu: self.mtu_of(interface),
                    autoconfig: interface.autoconfig,
                    address: interface.guest_v4,
                    host: interface.host_v4.addr(),
                    route: (index == routes.v4.interface).then_some(DefaultRoute {
                        gateway: routes.v4.address,
                        on_link: routes.v4.on_link,
                    }),
                    nameservers: vec![nameserver(instance, interface, index, &routes.v4)],
                    v6: self.guest_v6(instance, interface, routes.v6 == Some(index)),
                    relay: self
                        .registry
                        .has_clients(&instance.account, &interface.name),
                })
                .collect(),
        }
    }

    /// The default route of IPv6 goes by the interface of IPv4's, or where that has no IPv6, by the first that has.
    fn guest_routes(&self, instance: &Instance) -> Routes {
        let v4 = gateway_of(&instance.interfaces, instance.gateway);
        let has_v6 = |index: &usize| {
            let interface = instance.interfaces.get(*index);
            interface.is_some_and(|interface| self.has_v6(interface))
        };
        let mut candidates = std::iter::once(v4.interface).chain(0..instance.interfaces.len());
        let v6 = candidates.find(has_v6).filter(|_| self.leads_out_v6);
        Routes { v4, v6 }
    }

    fn has_v6(&self, interface: &Interface) -> bool {
        interface.guest_v6.is_some() && self.mtu_of(interface) >= MTU_MIN_V6
    }

    fn guest_v6(
        &self,
        instance: &Instance,
        interface: &Interface,
        has_route: bool,
    ) -> Option<GuestV6> {
        let gateway = Ipv6Addr::from(GATEWAY_V6);
        let relay = interface.relay.as_ref();
        let by_relay = relay.is_some_and(|one| takes_dns(one.dns, &instance.policy));
        let nameserver = match instance.nameserver {
            Some(IpAddr::V6(nameserver)) => Some(nameserver),
            // No relay passes on what is sent to a link-local address (RFC 4291 section 2.5.6).
            Some(IpAddr::V4(_)) | None => (!by_relay).then_some(gateway),
        };
        let address = interface.guest_v6.filter(|_| self.has_v6(interface))?;
        Some(GuestV6 {
            address,
            whole_network: interface.origin == Origin::Pool,
            gateway: has_route.then_some(gateway),
            nameservers: nameserver.into_iter().collect(),
        })
    }
}

/// The user's choice; where that is none of IPv4, the resolver at a gateway asks it. The derived one belongs to the
/// interface with the default route; any other has its own gateway, which it reaches without a route.
fn nameserver(
    instance: &Instance,
    interface: &Interface,
    index: usize,
    gateway: &Gateway,
) -> Ipv4Addr {
    match instance.nameserver {
        Some(IpAddr::V4(chosen)) => chosen,
        Some(IpAddr::V6(_)) | None if index == gateway.interface => gateway.derived,
        Some(IpAddr::V6(_)) | None => interface.host_v4.addr(),
    }
}
