//! The relay of an interface: through whose VM everything of it goes.

use serde_json::{Map, Value};

use crate::spec::SpecError;
use crate::spec::name::Name;
use crate::spec::policy::PolicySpec;

/// A relay as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelaySpec {
    /// Name of the interface in the same account through whose VM everything goes.
    pub name: Name,
    /// Whether DNS goes there too, where that was said.
    pub dns: Option<bool>,
}

impl RelaySpec {
    /// The `relay` of an entry of `network_interfaces` whose members have the right types.
    pub(crate) fn read(entry: &Map<String, Value>) -> Result<Option<Self>, SpecError> {
        let Some(relay) = entry.get("relay").and_then(Value::as_object) else {
            return Ok(None);
        };
        let name = relay.get("name").and_then(Value::as_str);
        let name = name.ok_or(SpecError::RelayWithoutName)?;
        Ok(Some(Self {
            // No interface has a name of another form.
            name: Name::parse(name).ok_or_else(|| SpecError::Relay(name.to_owned()))?,
            dns: relay.get("relay_dns").and_then(Value::as_bool),
        }))
    }
}

/// Whether DNS goes through a relay: what was `asked` for, by default yes. A list of names wins, for whoever enforces it
/// must see every query (D-2).
#[must_use]
pub fn takes_dns(asked: Option<bool>, policy: &PolicySpec) -> bool {
    policy.allowed_domains.is_none() && asked.unwrap_or(true)
}

/// what was said of DNS must be possible.
///
/// # Errors
/// Where the relay was to have it and the policy has a list of names.
pub fn check_dns(asked: Option<bool>, policy: &PolicySpec) -> Result<(), SpecError> {
    if asked == Some(true) && policy.allowed_domains.is_some() {
        return Err(SpecError::RelayDnsWithDomains);
    }
    Ok(())
}
