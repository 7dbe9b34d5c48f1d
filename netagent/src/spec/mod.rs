//! What the operator wants: the JSON of an instance, parsed once into types that cannot be wrong.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use ipnet::{Ipv4Net, Ipv6Net};
use serde_json::{Map, Value};

mod address;
mod bounds;
pub mod cidr;
pub mod domain;
pub mod json;
pub mod limit;
mod members;
pub mod name;
pub mod policy;
pub mod publish;
pub mod relay;
mod validate;

pub use bounds::{Bounds, default_custom_subnets};
pub use members::{Described, Kind, MACHINE, described_request, member_names};
pub(crate) use validate::is_model;

use crate::spec::cidr::CidrFault;
use crate::spec::domain::DomainFault;
use crate::spec::limit::LimitsSpec;
use crate::spec::name::Name;
use crate::spec::policy::{PolicyMode, PolicySpec};
use crate::spec::publish::{PortFault, PortsSpec};
use crate::spec::relay::RelaySpec;

/// Interfaces that one instance may have (I-2).
pub const INTERFACES_MAX: usize = netagent_common::vm::INTERFACES_MAX;
/// MTU that may be asked for, bytes: from the lowest of IPv4 (RFC 791) to the length that a packet can have. What
/// the device takes is checked where the device is known.
pub const MTU: RangeInclusive<u32> = 68..=65_535;
/// Queues of a TAP: the kernel's own bound.
pub const QUEUES_MAX: u64 = 256;

/// One instance as it was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceSpec {
    /// Its name; generated where it is omitted.
    pub name: Option<Name>,
    /// One to four interfaces.
    pub interfaces: Vec<InterfaceSpec>,
    /// Whether create starts it.
    pub autostart: bool,
    /// What the guest is told as its gateway (I-15).
    pub gateway: Option<Ipv4Addr>,
    /// What the guest is told as its name server (I-15).
    pub nameserver: Option<IpAddr>,
    /// The host's address under which it leaves towards the world (N-8).
    pub snat_address: Option<IpAddr>,
    /// Published and exposed ports.
    pub ports: PortsSpec,
    /// What its guest may reach.
    pub policy: PolicySpec,
    /// How much it may send, receive and hold open.
    pub limits: LimitsSpec,
    /// The request as it came, without members that are null, policy and limits.
    pub request: Map<String, Value>,
}

/// One interface as it was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct InterfaceSpec {
    /// Its name; generated where it is omitted.
    pub name: Option<Name>,
    /// Where its address and its TAP come from.
    pub addressing: Addressing,
    /// MAC address of the guest; chosen where it is omitted.
    pub mac: Option<[u8; 6]>,
    /// Whether the guest is told to configure it (I-17).
    pub autoconfig: bool,
    /// Owner, group or queues were given, which an existing TAP has already.
    pub tap_options_given: bool,
    /// User that may open the TAP.
    pub tap_owner: Option<Principal>,
    /// Group that may open the TAP.
    pub tap_group: Option<Principal>,
    /// Queues of the TAP.
    pub queues: u16,
    /// Model of the device in the VM.
    pub model: String,
    /// MTU, its own or the instance's; the uplink's where neither is given.
    pub mtu: Option<u32>,
    /// Through whose VM everything of it goes.
    pub relay: Option<RelaySpec>,
}

/// Where an address and a TAP come from (I-6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// Out of the pool.
    Pool,
    /// The user's own.
    Custom {
        /// The guest's address with its prefix.
        ip: Ipv4Net,
        /// The guest's IPv6 address with its prefix.
        ip6: Option<Ipv6Net>,
        /// Name of the TAP.
        tap_name: String,
    },
}

/// What the account may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Permission `net_manager`: without it neither the custom members nor `snat_address` exist.
    pub net_manager: bool,
    /// Feature `custom_network` of the account.
    pub custom_network: bool,
}

impl Grant {
    /// Everything.
    pub const ALL: Self = Self {
        net_manager: true,
        custom_network: true,
    };
}

/// Members that need the permission `net_manager` and the feature `custom_network`.
const CUSTOM_MEMBERS: [&str; 3] = ["network_interfaces", "gateway", "nameserver"];
/// Members that need the permission alone: they name what is the host's.
const HOST_MEMBERS: [&str; 1] = ["snat_address"];
/// What a template does not keep: one name and one place in the network cannot be many instances' (I-19).
const NOT_IN_TEMPLATE: [&str; 5] = [
    "name",
    "network_interfaces",
    "gateway",
    "nameserver",
    "publish",
];

/// A user or group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// By number.
    Id(u32),
    /// By name, to be looked up.
    Name(String),
}

/// Why a request cannot become a spec. The texts are those of the specification.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Not JSON, or a key twice; the text ends with line and column.
    #[error("Malformed JSON: {0}")]
    Json(#[source] serde_json::Error),
    /// I-1.
    #[error("Unknown member '{0}'")]
    UnknownMember(String),
    /// A member of another type.
    #[error("Member '{member}' must be {expected}")]
    WrongType {
        /// The member.
        member: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// The request is not an object.
    #[error("The request must be a JSON object")]
    NotAnObject,
    /// I-2.
    #[error("An instance has one to four network interfaces, not {0}")]
    InterfaceCount(usize),
    /// I-5.
    #[error(
        "Invalid name '{0}': use up to 63 of a-z, 0-9 and '-', with a letter or digit at both ends"
    )]
    Name(String),
    /// I-6.
    #[error(
        "Network interface must specify an IP address when a TAP device is provided and vice versa"
    )]
    IpWithoutTap,
    /// I-7.
    #[error("Invalid TAP device name '{0}': use up to 15 bytes without '/', ':' and white space")]
    TapName(String),
    /// I-12.
    #[error("Invalid MAC address '{0}'")]
    Mac(String),
    /// I-12.
    #[error("Network interface MAC address must be a unicast address")]
    MulticastMac,
    /// An address that is none, or of the wrong kind.
    #[error("Invalid {what} '{value}': use {expected}")]
    Address {
        /// What it is the value of: `IP address`, `gateway`.
        what: &'static str,
        /// The value.
        value: String,
        /// What may stand there.
        expected: &'static str,
    },
    /// IPv6 without IPv4.
    #[error(
        "Member 'ip6' goes beside 'ip' and 'tap_name': a pool interface has its own IPv6 address"
    )]
    Ip6WithoutIp,
    /// The same thing in two entries.
    #[error("Network interfaces of one instance cannot share the {what} '{value}'")]
    Repeated {
        /// What they share.
        what: &'static str,
        /// The value.
        value: String,
    },
    ///
    #[error(
        "Insufficient license. Please make sure your license is valid and includes custom network configurations"
    )]
    License,
    /// I-8.
    #[error("Network interface IP address cannot be from the platform's address pool")]
    IpFromPool,
    /// I-8.
    #[error("Network interface TAP device cannot be from the platform's device pool")]
    TapFromPool,
    /// I-8.
    #[error("Network interface IP address is not available on this host")]
    NotAvailable,
    /// A value outside its set.
    #[error("Invalid value '{value}' of member '{member}': use {expected}")]
    Value {
        /// The member.
        member: &'static str,
        /// The value.
        value: String,
        /// What may stand there.
        expected: &'static str,
    },
    /// Shorter or longer than a packet can be.
    #[error("Invalid mtu '{0}': use 68 to 65535, or leave it out for the uplink's")]
    Mtu(u64),
    /// P-1.
    #[error(
        "Cannot combine --network-policy deny-all with --allowed-domain, --allowed-cidr, or --denied-cidr."
    )]
    DenyAllWithLists,
    /// P-2.
    #[error("Network policy 'custom' needs allowed_domains, allowed_cidrs or denied_cidrs")]
    CustomWithoutLists,
    /// P-10.
    #[error(transparent)]
    Cidr(#[from] CidrFault),
    /// An entry of `allowed_domains` (D-3).
    #[error(transparent)]
    Domain(#[from] DomainFault),
    /// An entry of `publish` or `exposed_ports`.
    #[error("Invalid entry '{entry}' of member '{member}': {fault}")]
    Port {
        /// The member.
        member: &'static str,
        /// The entry, as it came.
        entry: String,
        /// What is wrong with it.
        fault: PortFault,
    },
    ///
    #[error(
        "Invalid relay '{0}'. Please make sure the relay exists and does not create a circular dependency"
    )]
    Relay(String),
    /// A relay that is none.
    #[error("Member 'relay' needs a 'name'")]
    RelayWithoutName,
    ///
    #[error("relay_dns cannot be combined with allowed_domains")]
    RelayDnsWithDomains,
    /// A list that is too long.
    #[error("Member '{member}' has {count} entries, and may have {max}")]
    TooMany {
        /// The member.
        member: &'static str,
        /// Its entries.
        count: usize,
        /// Its bound.
        max: usize,
    },
    /// Known, and not built yet.
    #[error("Not supported yet: {0}")]
    NotSupported(&'static str),
}

impl InstanceSpec {
    /// Parses the body of a create request.
    ///
    /// # Errors
    /// The first thing that is wrong, in the order of [`InstanceSpec::faults`].
    pub fn parse(body: &[u8], grant: Grant) -> Result<Self, SpecError> {
        let (spec, faults) = Self::examine(body, grant);
        match (faults.into_iter().next(), spec) {
            (None, Some(spec)) => Ok(spec),
            (Some(fault), _) => Err(fault),
            (None, None) => Err(SpecError::NotAnObject),
        }
    }

    /// Everything that is wrong with the body of a create request, in a fixed order: JSON, unknown members, types,
    /// licence, policy, values from the first member to the last, what is not built yet, bounds of this host.
    #[must_use]
    pub fn faults(body: &[u8], grant: Grant, bounds: &Bounds) -> Vec<SpecError> {
        let (spec, mut faults) = Self::examine(body, grant);
        faults.extend(spec.into_iter().flat_map(|spec| spec.check_bounds(bounds)));
        faults
    }

    /// What is sound of a request whose members have the right types, and everything else about it.
    fn examine(body: &[u8], grant: Grant) -> (Option<Self>, Vec<SpecError>) {
        let value = match json::parse(body) {
            Ok(value) => value,
            Err(error) => return (None, vec![SpecError::Json(error)]),
        };
        let Some(object) = value.as_object() else {
            return (None, vec![SpecError::NotAnObject]);
        };
        let mut faults = Vec::new();
        let hidden = if grant.net_manager {
            Vec::new()
        } else {
            [CUSTOM_MEMBERS.as_slice(), HOST_MEMBERS.as_slice()].concat()
        };
        members::check_unknown(object, members::INSTANCE, &hidden, &mut faults);
        let unknown = faults.len();
        members::check_types(object, members::INSTANCE, &mut faults);
        if faults.len() > unknown {
            return (None, faults);
        }
        let is_custom = |name: &&str| object.get(*name).is_some_and(|value| !value.is_null());
        if grant.net_manager && !grant.custom_network && CUSTOM_MEMBERS.iter().any(is_custom) {
            faults.push(SpecError::License);
        }
        faults.extend(PolicyMode::read(object).err());
        let spec = validate::instance(object, &mut faults);
        members::check_supported(object, members::INSTANCE, &mut faults);
        (Some(spec), faults)
    }

    /// What of a request makes more instances like the one that it made (I-19), but for what can be changed: the agent
    /// knows its policy and limits.
    #[must_use]
    pub fn template(request: &Map<String, Value>) -> Map<String, Value> {
        let mut template = request.clone();
        template.retain(|name, _| {
            let changed = policy::MEMBERS.iter().chain(&limit::MEMBERS);
            !NOT_IN_TEMPLATE
                .iter()
                .chain(changed)
                .any(|left| left == name)
        });
        template
    }
}

/// A MAC address as it is written.
#[must_use]
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02X}")).join(":")
}

#[cfg(test)]
mod tests;
