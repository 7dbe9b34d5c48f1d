//! The values of a request whose members are known and have the right types.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use netagent_common::net::GATEWAY_MAC;
use serde_json::{Map, Value};

use crate::spec::limit::{self, LimitsSpec};
use crate::spec::name::Name;
use crate::spec::policy::{self, PolicySpec};
use crate::spec::publish::PortsSpec;
use crate::spec::relay::{self, RelaySpec};
use crate::spec::{
    Addressing, INTERFACES_MAX, InstanceSpec, InterfaceSpec, MTU, Principal, QUEUES_MAX, SpecError,
    address, mac_text,
};

type Object = Map<String, Value>;

/// Model of a device where none is given (I-3).
const DEFAULT_MODEL: &str = "virtio-net-pci";
/// Members that a TAP gets when it is made.
const TAP_OPTIONS: [&str; 3] = ["tap_owner", "tap_group", "queues"];
/// The number by which the kernel means "nobody": a TAP without owner, which anyone could open.
const NOBODY: u64 = u32::MAX as u64;

/// The instance, whose members have the right types; values that are wrong are on the list and left out.
pub(crate) fn instance(object: &Object, faults: &mut Vec<SpecError>) -> InstanceSpec {
    let entries = match object.get("network_interfaces") {
        None | Some(Value::Null) => vec![Object::new()],
        Some(list) => {
            let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
            list.iter()
                .filter_map(|entry| entry.as_object().cloned())
                .collect()
        }
    };
    if !(1..=INTERFACES_MAX).contains(&entries.len()) {
        faults.push(SpecError::InterfaceCount(entries.len()));
    }
    let name = noted(name(object), faults).flatten();
    let parse = |member, parse: fn(&str) -> Result<_, SpecError>| {
        text(object, member).map(parse).transpose()
    };
    let gateway = noted(parse("gateway", address::gateway), faults).flatten();
    let nameserver = text(object, "nameserver")
        .map(address::nameserver)
        .transpose();
    let nameserver = noted(nameserver, faults).flatten();
    let snat_address = text(object, "snat_address").map(address::snat).transpose();
    let snat_address = noted(snat_address, faults).flatten();
    let mtu = noted(mtu(object), faults).flatten();
    let interfaces = entries.iter().filter_map(|entry| interface(entry, faults));
    // The interface's own MTU wins.
    let interfaces: Vec<InterfaceSpec> = interfaces
        .map(|interface| InterfaceSpec {
            mtu: interface.mtu.or(mtu),
            ..interface
        })
        .collect();
    check_repeated(&interfaces, gateway, faults);
    let ports = PortsSpec::read(object, faults);
    let policy = PolicySpec::read(object, faults);
    for relay in interfaces.iter().filter_map(|one| one.relay.as_ref()) {
        noted(relay::check_dns(relay.dns, &policy), faults);
    }
    let limits = LimitsSpec::read(object, faults);
    let kept = |name: &str| !policy::MEMBERS.contains(&name) && !limit::MEMBERS.contains(&name);
    let request = object.iter();
    let request = request.filter(|(name, value)| !value.is_null() && kept(name));
    let request = request.map(|(name, value)| (name.clone(), value.clone()));
    let autostart = object.get("autostart").and_then(Value::as_bool);
    InstanceSpec {
        name,
        interfaces,
        autostart: autostart.unwrap_or(true),
        gateway,
        nameserver,
        snat_address,
        ports,
        policy,
        limits,
        request: request.collect(),
    }
}

/// The value, or nothing and its fault on the list.
fn noted<T>(result: Result<T, SpecError>, faults: &mut Vec<SpecError>) -> Option<T> {
    result.map_err(|fault| faults.push(fault)).ok()
}

/// What must be one interface's alone, already within the instance.
fn check_repeated(
    interfaces: &[InterfaceSpec],
    gateway: Option<Ipv4Addr>,
    faults: &mut Vec<SpecError>,
) {
    let mut seen = BTreeSet::new();
    for interface in interfaces {
        let mut values: Vec<(&'static str, String)> = Vec::new();
        values.extend(
            interface
                .name
                .as_ref()
                .map(|name| ("name", name.to_string())),
        );
        values.extend(interface.mac.map(|mac| ("MAC address", mac_text(mac))));
        if let Addressing::Custom { ip, ip6, tap_name } = &interface.addressing {
            values.push(("IP address", ip.addr().to_string()));
            values.extend(ip6.map(|ip6| ("IPv6 address", ip6.addr().to_string())));
            values.push(("TAP device", tap_name.clone()));
            if gateway == Some(ip.addr()) {
                faults.push(SpecError::Address {
                    what: "gateway",
                    value: ip.addr().to_string(),
                    expected: "another address than the guest's own",
                });
            }
        }
        for (what, value) in values {
            if !seen.insert((what, value.clone())) {
                faults.push(SpecError::Repeated { what, value });
            }
        }
    }
}

fn interface(object: &Object, faults: &mut Vec<SpecError>) -> Option<InterfaceSpec> {
    let addressing = addressing(object, faults);
    let mac = text(object, "mac").map(mac).transpose();
    let mac = noted(mac, faults).flatten();
    noted(check_mode(object), faults);
    let queues = object.get("queues").and_then(Value::as_u64).unwrap_or(1);
    if !(1..=QUEUES_MAX).contains(&queues) {
        let (value, expected) = (queues.to_string(), "1 to 256");
        let member = "queues";
        faults.push(SpecError::Value {
            member,
            value,
            expected,
        });
    }
    let model = noted(model(object), faults);
    let name = noted(name(object), faults).flatten();
    let tap_owner = noted(principal(object, "tap_owner"), faults).flatten();
    let tap_group = noted(principal(object, "tap_group"), faults).flatten();
    let relay = noted(RelaySpec::read(object), faults).flatten();
    let given = |member: &&str| object.get(*member).is_some_and(|value| !value.is_null());
    Some(InterfaceSpec {
        name,
        addressing: addressing?,
        mac,
        autoconfig: object
            .get("autoconfig")
            .and_then(Value::as_bool)
            .unwrap_or(true),
        tap_options_given: TAP_OPTIONS.iter().any(given),
        tap_owner,
        tap_group,
        queues: u16::try_from(queues).unwrap_or(1),
        model: model?.to_owned(),
        mtu: noted(mtu(object), faults).flatten(),
        relay,
    })
}

/// M-7.
fn mtu(object: &Object) -> Result<Option<u32>, SpecError> {
    let asked = object.get("mtu").and_then(Value::as_u64);
    let checked = |asked| {
        let fits = u32::try_from(asked).ok().filter(|mtu| MTU.contains(mtu));
        fits.ok_or(SpecError::Mtu(asked))
    };
    asked.map(checked).transpose()
}

/// I-6: `ip` and `tap_name`, both or neither; `None` where they cannot be.
fn addressing(object: &Object, faults: &mut Vec<SpecError>) -> Option<Addressing> {
    let (ip, tap_name) = (text(object, "ip"), text(object, "tap_name"));
    let ip6 = text(object, "ip6").map(address::ip6).transpose();
    let ip6 = noted(ip6, faults).flatten();
    if let Some(name) = tap_name.filter(|name| !is_link_name(name)) {
        faults.push(SpecError::TapName(name.to_owned()));
    }
    match (ip, tap_name) {
        (None, None) if text(object, "ip6").is_some() => {
            faults.push(SpecError::Ip6WithoutIp);
            None
        }
        (None, None) => Some(Addressing::Pool),
        (Some(ip), Some(tap_name)) => Some(Addressing::Custom {
            ip: noted(address::ip(ip), faults)?,
            ip6,
            tap_name: tap_name.to_owned(),
        }),
        (Some(_), None) | (None, Some(_)) => {
            faults.push(SpecError::IpWithoutTap);
            None
        }
    }
}

fn check_mode(object: &Object) -> Result<(), SpecError> {
    match text(object, "mode") {
        None | Some("nat" | "bridge" | "direct" | "socket" | "tsi") => Ok(()),
        Some(other) => Err(SpecError::Value {
            member: "mode",
            value: other.to_owned(),
            expected: "nat, bridge, direct, socket or tsi",
        }),
    }
}

fn model(object: &Object) -> Result<&str, SpecError> {
    match text(object, "model") {
        None => Ok(DEFAULT_MODEL),
        Some(model) if is_model(model) => Ok(model),
        Some(other) => Err(SpecError::Value {
            member: "model",
            value: other.to_owned(),
            expected: "a name that `qemu-system-x86_64 -device help` lists",
        }),
    }
}

/// Whether this can be the name of a device. What holds more would add arguments of the tenant's choice to QEMU's.
pub(crate) fn is_model(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty() && !name.starts_with('-') && name.bytes().all(plain)
}

/// I-7, and what no path or log line survives: control characters, and `%`, which the kernel would number.
fn is_link_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"/:%".contains(&byte);
    (1..=15).contains(&name.len()) && name.bytes().all(plain) && name != "." && name != ".."
}

/// I-12.
fn mac(text: &str) -> Result<[u8; 6], SpecError> {
    let invalid = || SpecError::Mac(text.to_owned());
    let octet = |part: &str| {
        let hex = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        hex.then(|| u8::from_str_radix(part, 16).ok()).flatten()
    };
    let octets: Option<Vec<u8>> = text.split(':').map(octet).collect();
    let mac: [u8; 6] = octets
        .and_then(|octets| octets.try_into().ok())
        .ok_or_else(invalid)?;
    let [first, second, ..] = mac;
    if (first, second) == (0xaa, 0xfc) || mac == [0; 6] || mac == GATEWAY_MAC {
        return Err(invalid());
    }
    if first & 1 == 1 {
        return Err(SpecError::MulticastMac);
    }
    Ok(mac)
}

fn name(object: &Object) -> Result<Option<Name>, SpecError> {
    text(object, "name")
        .map(|name| Name::parse(name).ok_or_else(|| SpecError::Name(name.to_owned())))
        .transpose()
}

fn principal(object: &Object, member: &'static str) -> Result<Option<Principal>, SpecError> {
    match object.get(member) {
        Some(Value::String(name)) => Ok(Some(Principal::Name(name.clone()))),
        Some(Value::Number(id)) => {
            let fits = id
                .as_u64()
                .filter(|id| *id < NOBODY)
                .and_then(|id| u32::try_from(id).ok());
            let id = fits.map(Principal::Id).ok_or_else(|| SpecError::Value {
                member,
                value: id.to_string(),
                expected: "a number below 4294967295",
            })?;
            Ok(Some(id))
        }
        _ => Ok(None),
    }
}

fn text<'a>(object: &'a Object, member: &str) -> Option<&'a str> {
    object.get(member).and_then(Value::as_str)
}
