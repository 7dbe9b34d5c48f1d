//! What the operator wants: the JSON of an instance, parsed once into types that cannot be wrong.

use serde_json::{Map, Value};

pub mod json;
mod members;
pub mod name;
mod validate;

use crate::spec::name::Name;

/// Interfaces that one instance may have (I-2).
pub const INTERFACES_MAX: usize = netagent_common::vm::INTERFACES_MAX;
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
    /// Members that describe the VM: stored and returned, not read.
    pub machine: Map<String, Value>,
}

/// One interface as it was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct InterfaceSpec {
    /// Its name; generated where it is omitted.
    pub name: Option<Name>,
    /// User that may open the TAP.
    pub tap_owner: Option<Principal>,
    /// Group that may open the TAP.
    pub tap_group: Option<Principal>,
    /// Queues of the TAP.
    pub queues: u16,
    /// Model of the device in the VM.
    pub model: String,
}

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
    /// P-1.
    #[error(
        "Cannot combine --network-policy deny-all with --allowed-domain, --allowed-cidr, or --denied-cidr."
    )]
    DenyAllWithLists,
    /// P-2.
    #[error("Network policy 'custom' needs allowed_domains, allowed_cidrs or denied_cidrs")]
    CustomWithoutLists,
    /// Known, and not built yet.
    #[error("Not supported yet: {0}")]
    NotSupported(&'static str),
}

impl InstanceSpec {
    /// Parses the body of a create request: first unknown members, then wrong values, then what is not
    /// built yet.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(body: &[u8]) -> Result<Self, SpecError> {
        let value = json::parse(body).map_err(SpecError::Json)?;
        let object = value.as_object().ok_or(SpecError::NotAnObject)?;
        members::check_unknown(object, members::INSTANCE)?;
        members::check_types(object, members::INSTANCE)?;
        validate::check_policy(object)?;
        let spec = validate::instance(object)?;
        members::check_supported(object, members::INSTANCE)?;
        Ok(spec)
    }
}

#[cfg(test)]
mod tests;
