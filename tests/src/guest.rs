//! A guest made of raw frames: an instance of the agent, its TAP held open, and its addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netagent_common::net::{GATEWAY_MAC, GATEWAY_V6};
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::deadline::{SOON, wait_until};
use crate::netns::NetNs;
use crate::packet::Ends;
use crate::tap::{Header, Tap};

/// TTL of what guests send in tests.
pub const TTL: u8 = 64;

/// One interface of an instance, as its guest knows it.
#[derive(Debug)]
pub struct Nic {
    /// Name of the TAP.
    pub tap_name: String,
    /// The TAP, held open as a VMM does.
    pub tap: Tap,
    /// The guest's hardware address.
    pub mac: [u8; 6],
    /// The guest's address.
    pub v4: Ipv4Addr,
    /// The guest's IPv6 address; `::` where it has none.
    pub v6: Ipv6Addr,
    /// The gateway's address.
    pub gateway_v4: Ipv4Addr,
}

impl Nic {
    /// Opens the TAP of an interface that the agent answered with.
    ///
    /// # Panics
    /// Where a member is missing.
    #[must_use]
    pub fn open(host: &NetNs, interface: &Value, header: Header) -> Self {
        let text = |name: &str| {
            let value = interface[name].as_str();
            value
                .unwrap_or_else(|| panic!("the interface has no {name}: {interface}"))
                .to_owned()
        };
        let tap_name = text("tap_name");
        let address = |name: &str| {
            text(name)
                .split('/')
                .next()
                .expect("split gives one part")
                .to_owned()
        };
        Self {
            tap: open_and_wait(host, &tap_name, header),
            mac: parse_mac(&text("mac")),
            v4: address("ip").parse().expect("`ip` is an IPv4 network"),
            v6: if interface["ip6"].is_null() {
                Ipv6Addr::UNSPECIFIED
            } else {
                address("ip6").parse().expect("`ip6` is an IPv6 network")
            },
            gateway_v4: address("tap_ip")
                .parse()
                .expect("`tap_ip` is an IPv4 address"),
            tap_name,
        }
    }

    /// Ends of a packet from the guest to `dst` by way of its gateway.
    #[must_use]
    pub fn to(&self, dst: impl Into<IpAddr>) -> Ends {
        let dst = dst.into();
        let src = if dst.is_ipv4() {
            IpAddr::V4(self.v4)
        } else {
            IpAddr::V6(self.v6)
        };
        Ends {
            src_mac: self.mac,
            dst_mac: GATEWAY_MAC,
            src,
            dst,
            ttl: TTL,
        }
    }

    /// The guest's address of one family.
    #[must_use]
    pub fn address(&self, is_v4: bool) -> IpAddr {
        if is_v4 {
            self.v4.into()
        } else {
            self.v6.into()
        }
    }

    /// The gateway's address of one family.
    #[must_use]
    pub fn gateway(&self, is_v4: bool) -> IpAddr {
        if is_v4 {
            self.gateway_v4.into()
        } else {
            Ipv6Addr::from(GATEWAY_V6).into()
        }
    }
}

/// An instance with its interfaces.
#[derive(Debug)]
pub struct Guest {
    /// Name of the instance.
    pub name: String,
    /// What create answered.
    pub answer: Value,
    /// Interfaces in the order of the specification.
    pub nics: Vec<Nic>,
}

impl Guest {
    /// Creates an instance with one interface and opens its TAP.
    #[must_use]
    pub fn create(agent: &Agent, host: &NetNs, name: &str, header: Header) -> Self {
        Self::create_from(agent, host, &json!({ "name": name }), header)
    }

    /// Creates an instance and opens its TAPs.
    ///
    /// # Panics
    /// When it is refused.
    #[must_use]
    pub fn create_from(agent: &Agent, host: &NetNs, spec: &Value, header: Header) -> Self {
        let answer = agent.create(spec);
        let interfaces = answer["network_interfaces"]
            .as_array()
            .expect("create answers with the interfaces");
        let nics = interfaces
            .iter()
            .map(|interface| Nic::open(host, interface, header))
            .collect();
        let name = answer["name"]
            .as_str()
            .expect("create answers with the name")
            .to_owned();
        Self { name, answer, nics }
    }

    /// The first interface.
    #[must_use]
    pub fn nic(&self) -> &Nic {
        &self.nics[0]
    }
}

/// Opens a TAP and waits until the host sends on it: after the carrier comes, the kernel takes a moment, and
/// loses what is sent meanwhile.
fn open_and_wait(host: &NetNs, name: &str, header: Header) -> Tap {
    let tap = Tap::open(host, name, header);
    wait_until("the TAP is operational", SOON, || {
        let link = host.json(&format!("ip -json link show dev {name}"));
        link[0]["operstate"] == "UP"
    });
    tap
}

/// Parses `AA:BB:CC:DD:EE:FF`.
///
/// # Panics
/// Where it is none.
#[must_use]
pub fn parse_mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16).expect("a hardware address"))
        .collect();
    bytes
        .try_into()
        .unwrap_or_else(|_length| panic!("{text} is no hardware address"))
}
