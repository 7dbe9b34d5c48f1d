//! Addresses of a request: parsed once, and only those that a guest can have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::spec::SpecError;

const IP: &str = "IP address";
const IP_FORM: &str = "an IPv4 address with its prefix length, such as 192.168.0.1/30; an IPv6 one goes to 'ip6' beside it";
const IP_HOST: &str = "an address that a host of its network can have";
const IP6: &str = "IPv6 address";
const IP6_FORM: &str = "an IPv6 address with a prefix length from 64 to 128, such as fec0::2/64";
const GATEWAY_FORM: &str = "an IPv4 address of a host; the IPv6 gateway is always fe80::1";
const NAMESERVER_FORM: &str = "the IPv4 or IPv6 address of a host";
const SNAT_FORM: &str = "an IPv4 or IPv6 address of an uplink that is no guest's or gateway's, link-local, loopback or metadata";

/// `ip` of an interface: host bits are legal, they are the guest's address.
pub(super) fn ip(text: &str) -> Result<Ipv4Net, SpecError> {
    // Leading zeros are octal to some and decimal to others: only the usual way of writing is taken.
    let net: Option<Ipv4Net> = text.parse().ok();
    let net = net.filter(|net| net.to_string() == text);
    let net = net.ok_or_else(|| fault(IP, text, IP_FORM))?;
    let (address, prefix) = (net.addr(), net.prefix_len());
    let is_edge = prefix < 31 && (address == net.network() || address == net.broadcast());
    if prefix == 0 || is_edge || !is_host_v4(address) {
        return Err(fault(IP, text, IP_HOST));
    }
    Ok(net)
}

/// `ip6` of an interface.
pub(super) fn ip6(text: &str) -> Result<Ipv6Net, SpecError> {
    let net: Ipv6Net = text
        .parse()
        .ok()
        .ok_or_else(|| fault(IP6, text, IP6_FORM))?;
    let fits = (64..=128).contains(&net.prefix_len())
        && is_host_v6(net.addr())
        // The subnet's own address is any router's (RFC 4291 section 2.6.1).
        && (net.prefix_len() > 126 || net.addr() != net.network());
    fits.then_some(net)
        .ok_or_else(|| fault(IP6, text, IP6_FORM))
}

/// `gateway` of an instance.
pub(super) fn gateway(text: &str) -> Result<Ipv4Addr, SpecError> {
    let address = text.parse().ok().filter(|address| is_host_v4(*address));
    address.ok_or_else(|| fault("gateway", text, GATEWAY_FORM))
}

/// `nameserver` of an instance.
pub(super) fn nameserver(text: &str) -> Result<IpAddr, SpecError> {
    let address = text.parse().ok().filter(is_host);
    address.ok_or_else(|| fault("nameserver", text, NAMESERVER_FORM))
}

/// `snat_address` of an instance. Whether the host has it is checked where the host is known.
pub(super) fn snat(text: &str) -> Result<IpAddr, SpecError> {
    let address = text.parse().ok().filter(is_host);
    address.ok_or_else(|| SpecError::snat(text))
}

fn is_host(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_host_v4(*address),
        IpAddr::V6(address) => is_host_v6(*address),
    }
}

impl SpecError {
    /// An address that can be no instance's `snat_address`.
    pub(crate) fn snat(value: &str) -> Self {
        fault("snat_address", value, SNAT_FORM)
    }
}

fn is_host_v4(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first != 0
        && first < 240
        && !address.is_loopback()
        && !address.is_multicast()
        && !address.is_link_local()
}

fn is_host_v6(address: Ipv6Addr) -> bool {
    address.to_ipv4_mapped().is_none()
        && !address.is_unspecified()
        && !address.is_loopback()
        && !address.is_multicast()
        && !address.is_unicast_link_local()
}

fn fault(what: &'static str, value: &str, expected: &'static str) -> SpecError {
    SpecError::Address {
        what,
        value: value.to_owned(),
        expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_guest_can_have_is_an_address() {
        for good in ["192.168.0.1/30", "10.0.0.1/8", "10.7.0.0/31", "10.7.0.1/32"] {
            assert_eq!(
                ip(good).map(|net| net.to_string()).ok().as_deref(),
                Some(good)
            );
        }
        for bad in [
            "",
            "192.168.0.1",
            "192.168.0.1/33",
            "192.168.0.0/30",
            "192.168.0.3/30",
            "0.0.0.1/8",
            "127.0.0.1/8",
            "224.0.0.1/4",
            "169.254.3.1/24",
            "10.0.0.1/0",
            "255.255.255.254/31",
            "fec0::2/64",
            "::ffff:10.0.0.1/120",
            "10.0.0.1/30 ",
            "010.0.0.1/30",
        ] {
            assert!(ip(bad).is_err(), "{bad}");
        }
        for good in ["fec0::2/64", "fd00::2/64", "fd00::2/128", "fd00::/127"] {
            assert!(ip6(good).is_ok(), "{good}");
        }
        for bad in [
            "fec0::2",
            "fec0::2/63",
            "fec0::/64",
            "fe80::2/64",
            "ff02::1/64",
            "::1/128",
            "::ffff:10.0.0.1/120",
            "10.0.0.1/30",
            "::2/129",
        ] {
            assert!(ip6(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_snat_address_is_one_that_the_world_answers() {
        for good in ["198.51.100.7", "10.0.0.7", "2001:db8::7", "fd00::7"] {
            assert_eq!(snat(good).ok(), good.parse().ok());
        }
        for bad in [
            "",
            "eth0",
            "198.51.100.7/32",
            "198.51.100.07",
            "0.0.0.0",
            "127.0.0.1",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::7",
            "ff02::1",
            "::ffff:198.51.100.7",
        ] {
            let error = snat(bad).unwrap_err().to_string();
            let expected = format!("Invalid snat_address '{bad}': use an IPv4 or IPv6 address");
            assert!(error.starts_with(&expected), "{error}");
        }
    }

    #[test]
    fn a_gateway_is_ipv4_and_a_nameserver_either() {
        assert!(gateway("192.168.0.100").is_ok());
        for bad in [
            "fe80::1",
            "::ffff:10.0.0.1",
            "10.0.0.1/24",
            "0.0.0.0",
            "127.0.0.1",
        ] {
            assert!(gateway(bad).is_err(), "{bad}");
        }
        for good in ["1.2.3.4", "2001:db8::53"] {
            assert!(nameserver(good).is_ok(), "{good}");
        }
        for bad in [
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.251",
            "::ffff:1.2.3.4",
            "::",
            "::1",
            "127.0.0.53",
            "dns.example",
            "ff02::fb",
        ] {
            assert!(nameserver(bad).is_err(), "{bad}");
        }
    }
}
