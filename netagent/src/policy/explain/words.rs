//! How an explanation reads.

use std::fmt;
use std::net::IpAddr;

use crate::policy::explain::{Path, Rule, Service};

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quarantine => f.write_str("policy.quarantine_pps: nothing of the guest passes"),
            Self::NoV6 => f.write_str("the instance has no IPv6"),
            Self::Gateway(service) => write!(f, "{service}"),
            Self::DenyAll => f.write_str("policy deny-all"),
            Self::AllowAll => f.write_str("policy allow-all"),
            Self::DeniedCidr(network) => write!(f, "denied_cidrs: {network}"),
            Self::AllowedCidr(network) => write!(f, "allowed_cidrs: {network}"),
            Self::Private(network) => write!(f, "policy.deny_private: {network}"),
            Self::Learned(learned) => write!(f, "{learned}"),
            Self::NotAllowed => f.write_str("not in allowed_cidrs"),
            Self::NotLearned => {
                f.write_str("not in allowed_cidrs, and no allowed domain led there")
            }
            Self::DnsBypass => {
                f.write_str("a way around allowed_domains: DNS is asked at port 53 alone")
            }
            Self::Unnamed => f.write_str("no list names it"),
            Self::Uncompiled => f.write_str("its lists are not compiled"),
            Self::Destination(network) => write!(f, "no policy opens {network}"),
            Self::Unpublished => f.write_str("the host publishes no such port"),
            Self::HostPort(port) => write!(f, "policy.allow_host_ports: {port}"),
            Self::NotSender => f.write_str("allow_from of the published port"),
            Self::DeniedPeer(network) => {
                write!(f, "denied_cidrs of the instance behind the port: {network}")
            }
            Self::NoRoute => f.write_str("the host has no route"),
            Self::RelayDown(name, reason) => write!(f, "relay {name} is down: {reason}"),
            Self::NoSnatAddress(address) => {
                write!(f, "the host no longer has its snat_address {address}")
            }
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Echo => "the gateway answers echo",
            Self::Dhcp => "the agent serves DHCP, asked from port 68",
            Self::Dns => "the agent's resolver answers",
            Self::RefusedDns => {
                "the agent's resolver answers REFUSED: there are allowed_cidrs, and no allowed_domains"
            }
            Self::ListedDns => "the agent's resolver answers for allowed_domains alone",
            Self::AuditedDns => {
                "the agent's resolver answers, and counts what is not in allowed_domains"
            }
            Self::Nothing => "the gateway serves echo, DNS and DHCP alone",
        })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uplink {
                name,
                next_hop,
                source,
            } => {
                write!(f, "uplink {name}, ")?;
                match next_hop {
                    Some(next_hop) => write!(f, "next hop {next_hop}")?,
                    None => f.write_str("on-link")?,
                }
                match source {
                    Some(source) => write!(f, ", leaves as {source}"),
                    None => Ok(()),
                }
            }
            Self::Resolver => f.write_str("the agent's resolver, whatever address is asked"),
            Self::Gateway => f.write_str("the gateway: echo, DNS and DHCP only"),
            Self::Published {
                instance: Some(name),
            } => {
                write!(f, "published port of instance '{name}'")
            }
            Self::Published { instance: None } => {
                f.write_str("published port of an instance of another account")
            }
            Self::Listener => f.write_str("a listener of the host"),
            Self::Host => f.write_str("an address of the host"),
            Self::OwnAddress => f.write_str("the instance's own address"),
            Self::Instance => f.write_str("another instance, or a gateway"),
            Self::AlwaysDenied(address) => write!(f, "always denied: {}", kind(*address)),
            Self::NotUplink => f.write_str("through an interface that is no uplink"),
            Self::NoRoute => f.write_str("no route"),
        }
    }
}

/// What an address is that no guest reaches. Networks of the host have broadcast addresses that look like any other.
fn kind(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(address) => match address.octets() {
            [0, ..] => "this network",
            [127, ..] => "loopback",
            [169, 254, 169, 254] | [100, 100, 100, 200] => "cloud metadata",
            [169, 254, ..] => "link-local",
            [224..=239, ..] => "multicast",
            [240..=254, ..] => "reserved",
            _ => "broadcast",
        },
        IpAddr::V6(address) => match address.segments() {
            [0xff00..=0xffff, ..] => "multicast",
            [0xfe80..=0xfebf, ..] => "link-local",
            [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => "cloud metadata",
            [0, 0, 0, 0, 0, 0, 0, 0] => "no address",
            [0, 0, 0, 0, 0, 0, 0, 1] => "loopback",
            _ if address.to_ipv4_mapped().is_some() => "IPv4 in IPv6 clothes",
            _ => "not for guests",
        },
    }
}
