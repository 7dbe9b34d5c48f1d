//! Ports that the world and the host may open towards a guest (N-3, N-4): their two ways of writing, parsed once.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use netagent_common::net::protocol;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

mod parse;
mod sender;

use crate::spec::cidr::CidrFault;
use crate::spec::{SpecError, members};

/// Ports that one instance may publish.
pub const PUBLISH_MAX: usize = 1_024;
/// Ports that one instance may expose.
pub const EXPOSE_MAX: usize = 1_024;
/// Networks that one published port may name behind `from`.
pub const ALLOW_FROM_MAX: usize = 256;

/// The published and exposed ports of an instance, as they were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortsSpec {
    /// Ports of the host that lead to it, in the order of the request (N-3).
    pub published: Vec<PublishedPort>,
    /// Ports of its own addresses that the host may reach (N-4).
    pub exposed: BTreeSet<ExposedPort>,
}

/// A port of the host that leads to a port of the guest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublishedPort {
    /// Where it is reached.
    pub at: HostPort,
    /// Port of the guest.
    pub guest_port: u16,
    /// Networks whose hosts may use it; `None` where everybody may. Never empty.
    pub allow_from: Option<BTreeSet<IpNet>>,
}

/// A port of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Number of the port.
    pub port: u16,
    /// Protocol.
    pub protocol: PortProtocol,
    /// Address of the host; `None` where every address of the host is meant.
    pub address: Option<IpAddr>,
}

/// A port without an address: of the guest's own that the host may reach, above all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExposedPort {
    /// Number of the port.
    pub port: u16,
    /// Protocol.
    pub protocol: PortProtocol,
}

/// Protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum PortProtocol {
    Tcp,
    Udp,
}

impl PortProtocol {
    /// Its number in IP headers.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
        }
    }
}

/// What is wrong with an entry of `publish` or `exposed_ports`. The texts of networks are those of P-10.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortFault {
    /// Neither of the ways of writing.
    #[error(
        "use <host port>, <host port>:<guest port> or <address>:<host port>:<guest port>, with /tcp or /udp behind it, and ' from <network>, ...' where not everybody may use it"
    )]
    Form,
    /// An exposed port that is none.
    #[error("use <port>, with /tcp or /udp behind it")]
    ExposedForm,
    /// A port that is no number, 0, or above 65535.
    #[error("'{0}' is no port: use 1 to 65535")]
    Port(String),
    /// Another protocol.
    #[error("protocol '{0}' is not known: use tcp or udp")]
    Protocol(String),
    /// A name, or nothing that an address could be.
    #[error(
        "'{0}' is no IP address: use one of the host's, an IPv6 one in brackets, or leave it out for all of them"
    )]
    Address(String),
    /// An address that a host cannot have for itself.
    #[error(
        "address {0} cannot be published on: use a unicast address of the host, or leave it out for all of them"
    )]
    AddressKind(IpAddr),
    /// Nothing behind `from`.
    #[error("it names nobody who may use it: name networks, or leave that out for everybody")]
    NoSender,
    /// Too much behind `from`.
    #[error("it names more than {ALLOW_FROM_MAX} networks")]
    Senders,
    /// P-10.
    #[error(transparent)]
    Cidr(#[from] CidrFault),
    /// An object without the one member that it must have.
    #[error("member 'host_port' is missing")]
    NoHostPort,
    /// The list has the port already.
    #[error("entry '{0}' of the list has that port already")]
    Repeated(String),
}

impl PortsSpec {
    /// Reads them from an object whose members are known and of the right types. Entries that are wrong are on the list
    /// of faults and left out.
    pub(crate) fn read(object: &Map<String, Value>, faults: &mut Vec<SpecError>) -> Self {
        Self {
            published: parse::published_ports(object, faults),
            exposed: parse::exposed_ports(object, faults),
        }
    }

    /// Reads them from the body of a request that replaces them: what it does not name is none.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(object: &Map<String, Value>) -> Result<Self, SpecError> {
        members::check_replacement(object, |faults| Self::read(object, faults))
    }
}

impl PortProtocol {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// What `text` names.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Tcp, Self::Udp]
            .into_iter()
            .find(|protocol| protocol.as_str() == text)
    }
}

impl ExposedPort {
    /// Reads it as requests and the configuration have it: a number, or a text with or without a protocol.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(entry: &Value) -> Result<Self, PortFault> {
        parse::exposed(entry)
    }
}

impl HostPort {
    /// Whether the two cannot be bound at once: the same port, and the same address or all of them.
    #[must_use]
    pub fn clashes(&self, other: &Self) -> bool {
        let meet =
            self.address.is_none() || other.address.is_none() || self.address == other.address;
        (self.port, self.protocol) == (other.port, other.protocol) && meet
    }

    /// Number and protocol, as errors name them.
    #[must_use]
    pub const fn number(&self) -> ExposedPort {
        ExposedPort {
            port: self.port,
            protocol: self.protocol,
        }
    }
}

impl PublishedPort {
    /// Whether a client with this address may use it. An IPv4 address in IPv6 clothes is judged as what it is.
    #[must_use]
    pub fn allows(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.allow_from
            .as_ref()
            .is_none_or(|networks| networks.iter().any(|network| network.contains(&client)))
    }
}

impl fmt::Display for PortProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// As it is written in a request, whole.
impl fmt::Display for PublishedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at.address {
            None => {}
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
        }
        write!(
            f,
            "{}:{}/{}",
            self.at.port, self.guest_port, self.at.protocol
        )?;
        let networks = self.allow_from.iter().flatten();
        for (index, network) in networks.enumerate() {
            f.write_str(if index == 0 { " from " } else { "," })?;
            write!(f, "{network}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ExposedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            None => {}
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
        }
        write!(f, "{}", self.number())
    }
}

/// Whether a host can have it for itself and programs can tell it: no group, no "any", no IPv4 in IPv6 clothes, and no
/// IPv6 address that means another host on every link.
const fn is_publishable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, ..] = address.octets();
            first != 0 && first < 224
        }
        IpAddr::V6(address) => {
            address.to_ipv4_mapped().is_none()
                && !address.is_unspecified()
                && !address.is_multicast()
                && !address.is_unicast_link_local()
        }
    }
}

#[cfg(test)]
mod tests;
