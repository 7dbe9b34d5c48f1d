//! The values of a request whose members are known and have the right types.

use serde_json::{Map, Value};

use crate::spec::members::MACHINE;
use crate::spec::name::Name;
use crate::spec::{INTERFACES_MAX, InstanceSpec, InterfaceSpec, Principal, QUEUES_MAX, SpecError};

type Object = Map<String, Value>;

/// Model of a device where none is given (I-3).
const DEFAULT_MODEL: &str = "virtio-net-pci";
/// The number by which the kernel means "nobody": a TAP without owner, which anyone could open.
const NOBODY: u64 = u32::MAX as u64;

/// The instance; its members have the right types.
pub(crate) fn instance(object: &Object) -> Result<InstanceSpec, SpecError> {
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
        return Err(SpecError::InterfaceCount(entries.len()));
    }
    let described = |name: &&str| Some((name.to_string(), object.get(*name)?.clone()));
    Ok(InstanceSpec {
        name: name(object)?,
        interfaces: entries.iter().map(interface).collect::<Result<_, _>>()?,
        autostart: object
            .get("autostart")
            .and_then(Value::as_bool)
            .unwrap_or(true),
        machine: MACHINE.iter().filter_map(described).collect(),
    })
}

/// P-1 and P-2.
pub(crate) fn check_policy(object: &Object) -> Result<(), SpecError> {
    let lists = ["allowed_domains", "allowed_cidrs", "denied_cidrs"];
    let has_lists = lists
        .iter()
        .any(|name| object.get(*name).is_some_and(|list| !list.is_null()));
    match (text(object, "network_policy"), has_lists) {
        (None | Some("allow-all"), _) | (Some("deny-all"), false) | (Some("custom"), true) => {
            Ok(())
        }
        (Some("deny-all"), true) => Err(SpecError::DenyAllWithLists),
        (Some("custom"), false) => Err(SpecError::CustomWithoutLists),
        (Some(other), _) => Err(SpecError::Value {
            member: "network_policy",
            value: other.to_owned(),
            expected: "allow-all, deny-all or custom",
        }),
    }
}

fn interface(object: &Object) -> Result<InterfaceSpec, SpecError> {
    check_addresses(object)?;
    check_mode(object)?;
    let queues = object.get("queues").and_then(Value::as_u64).unwrap_or(1);
    if !(1..=QUEUES_MAX).contains(&queues) {
        let (value, expected) = (queues.to_string(), "1 to 256");
        return Err(SpecError::Value {
            member: "queues",
            value,
            expected,
        });
    }
    Ok(InterfaceSpec {
        name: name(object)?,
        tap_owner: principal(object, "tap_owner")?,
        tap_group: principal(object, "tap_group")?,
        queues: u16::try_from(queues).unwrap_or(1),
        model: text(object, "model").unwrap_or(DEFAULT_MODEL).to_owned(),
    })
}

fn check_addresses(object: &Object) -> Result<(), SpecError> {
    let tap_name = text(object, "tap_name");
    if text(object, "ip").is_some() != tap_name.is_some() {
        return Err(SpecError::IpWithoutTap);
    }
    if let Some(name) = tap_name.filter(|name| !is_link_name(name)) {
        return Err(SpecError::TapName(name.to_owned()));
    }
    text(object, "mac").map_or(Ok(()), check_mac)
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

/// I-7.
fn is_link_name(name: &str) -> bool {
    let refused = |c: char| c == '/' || c == ':' || c.is_whitespace() || c == '\0';
    (1..=15).contains(&name.len()) && !name.contains(refused) && name != "." && name != ".."
}

/// I-12.
fn check_mac(text: &str) -> Result<(), SpecError> {
    let invalid = || SpecError::Mac(text.to_owned());
    let octet = |part: &str| {
        (part.len() == 2)
            .then(|| u8::from_str_radix(part, 16).ok())
            .flatten()
    };
    let octets: Vec<u8> = text.split(':').map_while(octet).collect();
    let [first, second, ..] = octets.as_slice() else {
        return Err(invalid());
    };
    let pool = (*first, *second) == (0xaa, 0xfc);
    let whole = octets.len() == 6 && text.split(':').count() == 6;
    if !whole || pool || octets.iter().all(|octet| *octet == 0) {
        return Err(invalid());
    }
    if first & 1 == 1 {
        Err(SpecError::MulticastMac)
    } else {
        Ok(())
    }
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
