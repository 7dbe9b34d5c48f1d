//! Addresses that no answer leads a guest to (D-6): what is always denied (P-5), as the route map in force says it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use netagent_common::policy::{RouteKind, Verdict};

use crate::plan::publish::Ports;
use crate::plan::routes::RouteMap;
use crate::policy::Compiled;

/// What an address is to guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Answers may lead there.
    Free,
    /// One of an instance, or of a gateway: it depends on who asks.
    Instance,
    /// No answer leads there.
    Forbidden,
}

/// What the host has of P-5's ranges.
#[derive(Debug)]
pub struct Forbidden {
    routes: Arc<RouteMap>,
    /// Lengths of the prefixes in it, longest first, of IPv4 and of IPv6: no others are tried, for each address of each
    /// answer is looked up.
    lengths: [Vec<u8>; 2],
    private: Option<Arc<Compiled>>,
    published: BTreeSet<IpAddr>,
}

impl Forbidden {
    /// Takes the route map, what the configuration denies to every instance, and the addresses of
    /// [`published_for_guests`].
    #[must_use]
    pub fn new(
        routes: Arc<RouteMap>,
        private: Option<Arc<Compiled>>,
        published: BTreeSet<IpAddr>,
    ) -> Self {
        let lengths = [true, false].map(|is_v4| {
            let prefixes = routes.keys().filter(|one| one.addr().is_ipv4() == is_v4);
            let lengths: BTreeSet<u8> = prefixes.map(IpNet::prefix_len).collect();
            lengths.into_iter().rev().collect()
        });
        Self {
            routes,
            lengths,
            private,
            published,
        }
    }

    /// The route map that it was made from.
    #[must_use]
    pub const fn routes(&self) -> &Arc<RouteMap> {
        &self.routes
    }

    pub(super) fn standing(&self, address: IpAddr) -> Standing {
        let carried = embedded(address).map(IpAddr::V4);
        if carried.is_some_and(|carried| self.is_closed(carried)) || self.is_private(address) {
            return Standing::Forbidden;
        }
        match self.kind(address) {
            RouteKind::Uplink | RouteKind::Unreachable => Standing::Free,
            RouteKind::Host if self.is_published(address) => Standing::Free,
            RouteKind::Instance => Standing::Instance,
            RouteKind::Host | RouteKind::AlwaysDenied | RouteKind::NotUplink => Standing::Forbidden,
        }
    }

    /// Whether it is closed to one that comes to it by a translator, whom no published port and no account is meant for.
    fn is_closed(&self, address: IpAddr) -> bool {
        match self.kind(address) {
            RouteKind::Uplink | RouteKind::Unreachable => self.is_private(address),
            RouteKind::Host
            | RouteKind::Instance
            | RouteKind::AlwaysDenied
            | RouteKind::NotUplink => true,
        }
    }

    fn kind(&self, address: IpAddr) -> RouteKind {
        let [v4, v6] = &self.lengths;
        let lengths = if address.is_ipv4() { v4 } else { v6 };
        let found = lengths.iter().find_map(|length| {
            let prefix = IpNet::new(address, *length).ok()?.trunc();
            self.routes.get(&prefix)
        });
        found.map_or(RouteKind::Unreachable, |target| target.kind)
    }

    fn is_private(&self, address: IpAddr) -> bool {
        let entry = self.private.as_ref().and_then(|one| one.entry(address));
        entry.is_some_and(|(_, verdict)| match verdict {
            Verdict::AlwaysDenied | Verdict::DeniedTwice => true,
            Verdict::Default | Verdict::Allowed | Verdict::NotAllowed | Verdict::Denied => false,
        })
    }

    fn is_published(&self, address: IpAddr) -> bool {
        self.published.contains(&address) || self.published.contains(&unspecified(address))
    }
}

/// Addresses of the host with a published port that guests may use (N-3); the unspecified one stands for all of its
/// family. `guests` are the networks of the guests.
#[must_use]
pub fn published_for_guests(ports: &Ports, guests: &[IpNet]) -> BTreeSet<IpAddr> {
    let holds_guests = |network: &IpNet| {
        let mut guests = guests.iter();
        guests.any(|guests| guests.contains(network) || network.contains(guests))
    };
    let senders = ports.senders.iter();
    let open: BTreeSet<u32> = senders
        .filter(|sender| holds_guests(&sender.network))
        .map(|sender| sender.id)
        .collect();
    let published = ports.published.iter();
    published
        .filter(|(_, to)| !to.limited || open.contains(&to.id))
        .map(|(at, _)| at.address)
        .collect()
}

const fn unspecified(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// The IPv4 address to which a translator or a tunnel on the way would bring a packet: mapped and compatible (RFC 4291
/// section 2.5.5), 6to4 (RFC 3056 section 2), NAT64 (RFC 6052 section 2.1).
const fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else {
        return None;
    };
    let (high, low) = match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => (high, low),
        _ => return None,
    };
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Some(Ipv4Addr::new(a, b, c, d))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::RouteTarget;
    use crate::plan::publish::{PublishedAt, PublishedTo, Sender};
    use crate::policy::compile_around;
    use crate::spec::policy::PolicySpec;
    use crate::spec::publish::PortProtocol;

    fn map() -> Arc<RouteMap> {
        let routes = [
            ("0.0.0.0/0", RouteKind::Uplink),
            ("::/0", RouteKind::Uplink),
            ("127.0.0.0/8", RouteKind::AlwaysDenied),
            ("169.254.0.0/16", RouteKind::AlwaysDenied),
            ("169.254.7.0/24", RouteKind::Uplink),
            ("fe80::/10", RouteKind::AlwaysDenied),
            ("::1/128", RouteKind::AlwaysDenied),
            ("::ffff:0:0/96", RouteKind::AlwaysDenied),
            ("172.16.0.0/16", RouteKind::Instance),
            ("fd00:1::/48", RouteKind::Instance),
            ("172.17.0.0/16", RouteKind::NotUplink),
            ("198.51.100.2/32", RouteKind::Host),
            ("198.51.100.3/32", RouteKind::Host),
            ("2001:db8:100::2/128", RouteKind::Host),
            ("192.0.2.0/24", RouteKind::Unreachable),
        ];
        let target = |kind| RouteTarget {
            kind,
            ..crate::plan::routes::UNREACHABLE
        };
        let parsed = routes.map(|(prefix, kind)| (prefix.parse().unwrap(), target(kind)));
        Arc::new(parsed.into_iter().collect())
    }

    fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn check(forbidden: &Forbidden, table: &[(&str, Standing)]) {
        for (address, expected) in table {
            let found = forbidden.standing(address.parse().unwrap());
            assert_eq!(found, *expected, "{address}");
        }
    }

    use Standing::{Forbidden as Closed, Free, Instance};

    #[test]
    fn d6_what_is_always_denied_is_forbidden_in_every_clothes() {
        check(
            &Forbidden::new(map(), None, BTreeSet::new()),
            &[
                ("203.0.113.1", Free),
                ("2001:db8::1", Free),
                ("10.0.0.1", Free),
                ("192.0.2.1", Free),
                ("127.0.0.1", Closed),
                ("169.254.169.254", Closed),
                ("169.254.7.1", Free),
                ("172.17.0.9", Closed),
                ("198.51.100.2", Closed),
                ("2001:db8:100::2", Closed),
                ("172.16.0.1", Instance),
                ("fd00:1::2", Instance),
                ("fe80::1", Closed),
                ("::1", Closed),
                // Every way of writing an IPv4 address into an IPv6 one.
                ("::ffff:203.0.113.1", Closed),
                ("::127.0.0.1", Closed),
                ("::203.0.113.1", Free),
                ("2002:7f00:1::1", Closed),
                ("2002:a9fe:a9fe:1:2:3:4:5", Closed),
                ("2002:ac10:1::", Closed),
                ("2002:cb00:7101::1", Free),
                ("64:ff9b::172.17.0.9", Closed),
                ("64:ff9b::198.51.100.2", Closed),
                ("64:ff9b::203.0.113.1", Free),
            ],
        );
    }

    #[test]
    fn d6_an_address_with_a_published_port_is_no_secret_and_another_is() {
        let one = Forbidden::new(map(), None, addresses(&["198.51.100.2"]));
        check(
            &one,
            &[
                ("198.51.100.2", Free),
                ("198.51.100.3", Closed),
                ("2001:db8:100::2", Closed),
                // A translator on the way asks the host as a stranger.
                ("64:ff9b::198.51.100.2", Closed),
            ],
        );
        let all = Forbidden::new(map(), None, addresses(&["0.0.0.0"]));
        check(
            &all,
            &[
                ("198.51.100.3", Free),
                ("2001:db8:100::2", Closed),
                ("127.0.0.1", Closed),
                ("169.254.169.254", Closed),
                ("172.16.0.1", Instance),
            ],
        );
        let all = Forbidden::new(map(), None, addresses(&["::"]));
        check(&all, &[("2001:db8:100::2", Free), ("198.51.100.3", Closed)]);
    }

    #[test]
    fn d6_private_ranges_are_forbidden_where_the_configuration_denies_them() {
        let with = |opened: &[IpNet]| {
            let private = compile_around(&PolicySpec::default(), true, opened);
            Forbidden::new(map(), private, addresses(&["0.0.0.0"]))
        };
        check(
            &with(&[]),
            &[
                ("203.0.113.1", Free),
                ("10.0.0.1", Closed),
                ("fd77::1", Closed),
                ("172.16.0.2", Closed),
                ("2002:a00:1::1", Closed),
                ("64:ff9b::10.0.0.1", Closed),
                ("198.51.100.2", Free),
            ],
        );
        check(
            &with(&["172.16.0.0/16".parse().unwrap()]),
            &[("172.16.0.2", Instance), ("172.18.0.2", Closed)],
        );
    }

    #[test]
    fn n3_ports_that_no_guest_may_use_publish_no_address() {
        let guests = ["172.16.0.0/16".parse().unwrap()];
        let published = |from: Option<&str>| {
            let at = PublishedAt {
                address: "198.51.100.2".parse().unwrap(),
                port: 80,
                protocol: PortProtocol::Tcp,
            };
            let to = PublishedTo {
                id: 7,
                slot: 1,
                generation: 1,
                guest: "172.16.0.2".parse().unwrap(),
                guest_port: 80,
                limited: from.is_some(),
            };
            let senders = from.map(|network| Sender {
                id: 7,
                network: network.parse().unwrap(),
            });
            let ports = Ports {
                published: [(at, to)].into(),
                senders: senders.into_iter().collect(),
                ..Ports::default()
            };
            published_for_guests(&ports, &guests)
        };
        let open = addresses(&["198.51.100.2"]);
        assert_eq!(published(None), open);
        assert_eq!(published(Some("172.16.3.4/32")), open);
        assert_eq!(published(Some("0.0.0.0/0")), open);
        assert_eq!(published(Some("192.0.2.0/24")), addresses(&[]));
    }
}
