//! What the guest is told as gateway and name server (I-15, I-16).

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::instance::{Interface, Origin};

/// The host's end of a network that holds the guest alone.
const ALONE: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// What the guest is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// The address.
    pub address: Ipv4Addr,
    /// The address that is derived where the user names none; the name server's too.
    pub derived: Ipv4Addr,
    /// Index of the interface with the default route.
    pub interface: usize,
    /// Whether it lies outside that interface's network, so that it must be marked on-link.
    pub on_link: bool,
}

/// The host's end of a custom interface: the last usable address of its network; where that is the guest, the
/// first; of a /31 the other one; beside a /32, 169.254.1.1.
#[must_use]
pub fn host_end(guest: Ipv4Net) -> Ipv4Addr {
    let (network, broadcast) = (u32::from(guest.network()), u32::from(guest.broadcast()));
    let (first, last) = match guest.prefix_len() {
        32 => return ALONE,
        31 => (network, broadcast),
        _ => (network + 1, broadcast - 1),
    };
    if last == u32::from(guest.addr()) {
        first.into()
    } else {
        last.into()
    }
}

/// The gateway of an instance with these interfaces, and the user's own choice where there is one. What is derived
/// comes from the first interface of the pool, else from the primary. The default route goes by the interface
/// whose network holds the gateway, else by the first of the pool, else by the primary.
#[must_use]
pub fn gateway_of(interfaces: &[Interface], chosen: Option<Ipv4Addr>) -> Gateway {
    let first_of_pool = interfaces.iter().position(|one| one.origin == Origin::Pool);
    let source = first_of_pool.unwrap_or(0);
    let derived = interfaces
        .get(source)
        .map_or(ALONE, |interface| interface.host_v4.addr());
    let address = chosen.unwrap_or(derived);
    let holds = |interface: &Interface| interface.guest_v4.contains(&address);
    let holder = interfaces.iter().position(holds);
    Gateway {
        address,
        derived,
        interface: holder.unwrap_or(source),
        on_link: holder.is_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::name::Name;
    use uuid::Uuid;

    fn interface(guest: &str, pool: bool) -> Interface {
        let guest_v4: Ipv4Net = guest.parse().unwrap();
        Interface {
            id: Uuid::nil(),
            name: Name::for_suffix(0),
            slot: 0,
            ifindex: 0,
            tap_name: "t".into(),
            tap_owner: None,
            tap_group: None,
            queues: 1,
            origin: if pool { Origin::Pool } else { Origin::Custom },
            host_v4: Ipv4Net::new_assert(host_end(guest_v4), 32),
            guest_v4,
            guest_v6: None,
            mac: [2; 6],
            model: String::new(),
            autoconfig: true,
            mtu: None,
            relay: None,
        }
    }

    #[test]
    fn the_host_end_is_the_last_usable_address_and_never_the_guests() {
        let check = |guest: &str, expected: &str| {
            assert_eq!(
                host_end(guest.parse().unwrap()).to_string(),
                expected,
                "{guest}"
            );
        };
        check("192.168.0.1/30", "192.168.0.2");
        check("192.168.0.2/30", "192.168.0.1");
        check("10.7.0.9/24", "10.7.0.254");
        check("10.7.0.254/24", "10.7.0.1");
        check("10.7.0.0/31", "10.7.0.1");
        check("10.7.0.1/31", "10.7.0.0");
        check("10.7.0.1/32", "169.254.1.1");
        check("10.0.0.1/1", "127.255.255.254");
    }

    fn check(interfaces: &[(&str, bool)], chosen: Option<&str>, expected: (&str, usize, bool)) {
        let interfaces: Vec<Interface> = interfaces
            .iter()
            .map(|(guest, pool)| interface(guest, *pool))
            .collect();
        let gateway = gateway_of(&interfaces, chosen.map(|text| text.parse().unwrap()));
        let found = (
            gateway.address.to_string(),
            gateway.interface,
            gateway.on_link,
        );
        assert_eq!(found, (expected.0.to_owned(), expected.1, expected.2));
    }

    #[test]
    fn the_gateway_comes_from_the_first_pool_interface_not_from_the_first() {
        let mixed = [("192.168.0.1/30", false), ("172.16.0.1/30", true)];
        check(&mixed, None, ("172.16.0.2", 1, false));
        let custom = [("192.168.0.1/30", false), ("10.7.0.9/24", false)];
        check(&custom, None, ("192.168.0.2", 0, false));
        check(&[("10.7.0.1/32", false)], None, ("169.254.1.1", 0, true));
    }

    #[test]
    fn the_default_route_goes_by_the_network_that_holds_the_gateway() {
        let mixed = [("172.16.0.1/30", true), ("192.168.0.1/24", false)];
        check(&mixed, Some("192.168.0.100"), ("192.168.0.100", 1, false));
        let narrow = [("192.168.0.1/30", false), ("172.16.0.1/30", true)];
        check(&narrow, Some("192.168.0.100"), ("192.168.0.100", 1, true));
        check(
            &[("192.168.0.1/30", false)],
            Some("10.9.9.9"),
            ("10.9.9.9", 0, true),
        );
    }
}
