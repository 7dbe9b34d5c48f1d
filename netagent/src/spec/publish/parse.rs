//! The entries of `publish` and `exposed_ports`: texts, numbers and objects.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Map, Value};

use crate::spec::publish::{
    EXPOSE_MAX, ExposedPort, HostPort, PUBLISH_MAX, PortFault, PortProtocol, PublishedPort,
    is_publishable, sender,
};
use crate::spec::{SpecError, cidr};

/// The ports that a request publishes, in its order. Its members have the right types; entries that are wrong are on
/// the list of faults and left out.
pub(super) fn published_ports(
    request: &Map<String, Value>,
    faults: &mut Vec<SpecError>,
) -> Vec<PublishedPort> {
    const MEMBER: &str = "publish";
    let mut ports: Vec<PublishedPort> = Vec::new();
    for entry in entries(request, MEMBER, PUBLISH_MAX, faults) {
        let taken = |port: &PublishedPort| {
            let mut others = ports.iter();
            let other = others.find(|other| other.at.clashes(&port.at));
            other.map(|other| PortFault::Repeated(other.to_string()))
        };
        let parsed = published(entry).and_then(|port| taken(&port).map_or(Ok(port), Err));
        ports.extend(noted(parsed, MEMBER, entry, faults));
    }
    ports
}

/// The ports that a request exposes to the host; as [`published_ports`].
pub(super) fn exposed_ports(
    request: &Map<String, Value>,
    faults: &mut Vec<SpecError>,
) -> BTreeSet<ExposedPort> {
    const MEMBER: &str = "exposed_ports";
    let mut ports = BTreeSet::new();
    for entry in entries(request, MEMBER, EXPOSE_MAX, faults) {
        let parsed = exposed(entry).and_then(|port| {
            let fresh = ports.insert(port);
            fresh
                .then_some(())
                .ok_or_else(|| PortFault::Repeated(port.to_string()))
        });
        noted(parsed, MEMBER, entry, faults);
    }
    ports
}

/// The entries of a member; none where there are too many.
fn entries<'a>(
    request: &'a Map<String, Value>,
    member: &'static str,
    max: usize,
    faults: &mut Vec<SpecError>,
) -> &'a [Value] {
    let list = request.get(member).and_then(Value::as_array);
    let list = list.map(Vec::as_slice).unwrap_or_default();
    if list.len() <= max {
        return list;
    }
    faults.push(SpecError::TooMany {
        member,
        count: list.len(),
        max,
    });
    &[]
}

fn noted<T>(
    parsed: Result<T, PortFault>,
    member: &'static str,
    entry: &Value,
    faults: &mut Vec<SpecError>,
) -> Option<T> {
    let named = |fault| SpecError::Port {
        member,
        entry: shown(entry),
        fault,
    };
    parsed.map_err(|fault| faults.push(named(fault))).ok()
}

/// The entry as an error names it.
fn shown(entry: &Value) -> String {
    match entry.as_str() {
        Some(text) => cidr::shown(text),
        None => cidr::shown(&entry.to_string()),
    }
}

fn published(entry: &Value) -> Result<PublishedPort, PortFault> {
    match entry {
        Value::Object(object) => published_object(object),
        Value::String(text) => published_text(text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => Err(PortFault::Form),
    }
}

fn published_text(text: &str) -> Result<PublishedPort, PortFault> {
    let (place, senders) = match text.split_once(" from") {
        Some((place, senders)) => (place, Some(senders)),
        None => (text, None),
    };
    let allow_from = senders.map(|senders| {
        // "from10.0.0.0/8" is no word of ours.
        if !(senders.is_empty() || senders.starts_with(' ')) {
            return Err(PortFault::Form);
        }
        let separated = senders.split([',', ' ']);
        sender::networks(separated.filter(|text| !text.is_empty()))
    });
    let allow_from = allow_from.transpose()?;
    let (ports, protocol) = with_protocol(place)?;
    let (address, ports) = with_address(ports)?;
    let (host_port, guest_port) = match (address, ports.split_once(':')) {
        (_, Some((host_port, guest_port))) => (port(host_port)?, port(guest_port)?),
        (None, None) => (port(ports)?, port(ports)?),
        // Of an address and one port, which of the two ports it is would be a guess.
        (Some(_), None) => return Err(PortFault::Form),
    };
    let at = HostPort {
        port: host_port,
        protocol,
        address,
    };
    Ok(PublishedPort {
        at,
        guest_port,
        allow_from,
    })
}

/// What stands before the protocol, and the protocol: TCP where none is named.
fn with_protocol(text: &str) -> Result<(&str, PortProtocol), PortFault> {
    match text.split_once('/') {
        None => Ok((text, PortProtocol::Tcp)),
        Some((ports, protocol)) => Ok((ports, known(protocol)?)),
    }
}

fn known(protocol: &str) -> Result<PortProtocol, PortFault> {
    PortProtocol::parse(protocol).ok_or_else(|| PortFault::Protocol(protocol.to_owned()))
}

/// The address before the ports, where there is one, and the ports.
fn with_address(text: &str) -> Result<(Option<IpAddr>, &str), PortFault> {
    let malformed = |address: &str| PortFault::Address(address.to_owned());
    if let Some(rest) = text.strip_prefix('[') {
        let (address, ports) = rest.split_once("]:").ok_or(PortFault::Form)?;
        let parsed: Option<Ipv6Addr> = address.parse().ok();
        let parsed = parsed.ok_or_else(|| malformed(address))?;
        return Ok((Some(publishable(parsed.into())?), ports));
    }
    match text.split(':').count() {
        0..=2 => Ok((None, text)),
        3 => {
            let (address, ports) = text.split_once(':').ok_or(PortFault::Form)?;
            let parsed: Option<Ipv4Addr> = address.parse().ok();
            let parsed = parsed.ok_or_else(|| malformed(address))?;
            Ok((Some(publishable(parsed.into())?), ports))
        }
        _ => Err(PortFault::Form),
    }
}

fn publishable(address: IpAddr) -> Result<IpAddr, PortFault> {
    let kind = PortFault::AddressKind(address);
    is_publishable(address).then_some(address).ok_or(kind)
}

/// A number as it is usually written: no sign, no zero before it.
fn port(text: &str) -> Result<u16, PortFault> {
    let number = text
        .parse()
        .ok()
        .filter(|port: &u16| port.to_string() == text);
    let number = number.filter(|port| *port > 0);
    number.ok_or_else(|| PortFault::Port(text.to_owned()))
}

fn published_object(object: &Map<String, Value>) -> Result<PublishedPort, PortFault> {
    let number = |member: &str| {
        let value = object.get(member).filter(|value| !value.is_null());
        value.map(number).transpose()
    };
    let text = |member: &str| object.get(member).and_then(Value::as_str);
    let host_port = number("host_port")?.ok_or(PortFault::NoHostPort)?;
    let address = text("address").map(|text| {
        let address: Option<IpAddr> = text.parse().ok();
        publishable(address.ok_or_else(|| PortFault::Address(text.to_owned()))?)
    });
    let networks = object.get("allow_from").and_then(Value::as_array);
    let networks = networks.map(|list| sender::networks(list.iter().filter_map(Value::as_str)));
    let protocol = text("proto").map(known).transpose()?;
    let at = HostPort {
        port: host_port,
        protocol: protocol.unwrap_or(PortProtocol::Tcp),
        address: address.transpose()?,
    };
    Ok(PublishedPort {
        at,
        guest_port: number("guest_port")?.unwrap_or(host_port),
        allow_from: networks.transpose()?,
    })
}

fn number(value: &Value) -> Result<u16, PortFault> {
    let number = value.as_u64().and_then(|number| u16::try_from(number).ok());
    number
        .filter(|port| *port > 0)
        .ok_or_else(|| PortFault::Port(value.to_string()))
}

pub(super) fn exposed(entry: &Value) -> Result<ExposedPort, PortFault> {
    let Some(text) = entry.as_str() else {
        return Ok(ExposedPort {
            port: number(entry)?,
            protocol: PortProtocol::Tcp,
        });
    };
    if text.is_empty() || text.contains([':', ' ']) {
        return Err(PortFault::ExposedForm);
    }
    let (text, protocol) = with_protocol(text)?;
    Ok(ExposedPort {
        port: port(text)?,
        protocol,
    })
}
