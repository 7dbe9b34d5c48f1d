//! Instances and interfaces in the form in which the API, the database and the test's own notes are compared.

use serde_json::Value;

use crate::agent::Agent;

/// An interface with everything that is reserved for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShownNic {
    /// Id, part of the alias of the TAP.
    pub id: String,
    /// Name in the account.
    pub name: String,
    /// Name of the TAP.
    pub tap_name: String,
    /// The guest's address with its prefix.
    pub ip: String,
    /// The guest's IPv6 address with its prefix.
    pub ip6: Option<String>,
    /// The host's address on the TAP.
    pub tap_ip: String,
    /// The guest's hardware address, in capitals.
    pub mac: String,
}

/// An instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shown {
    /// Name.
    pub name: String,
    /// Id.
    pub id: String,
    /// `running`, `stopped` and so on.
    pub status: String,
    /// Interfaces in the order of the specification.
    pub nics: Vec<ShownNic>,
}

impl ShownNic {
    fn parse(interface: &Value) -> Self {
        let text = |name: &str| {
            let value = interface[name].as_str();
            value
                .unwrap_or_else(|| panic!("the interface has no {name}: {interface}"))
                .to_owned()
        };
        Self {
            id: text("id"),
            name: text("name"),
            tap_name: text("tap_name"),
            ip: text("ip"),
            ip6: interface["ip6"].as_str().map(str::to_owned),
            tap_ip: text("tap_ip"),
            mac: text("mac"),
        }
    }
}

impl Shown {
    /// Takes it from an answer of the API.
    ///
    /// # Panics
    /// Where a member is missing.
    #[must_use]
    pub fn parse(instance: &Value) -> Self {
        let text = |name: &str| {
            let value = instance[name].as_str();
            value
                .unwrap_or_else(|| panic!("the instance has no {name}: {instance}"))
                .to_owned()
        };
        let interfaces = instance["network_interfaces"].as_array();
        Self {
            name: text("name"),
            id: text("id"),
            status: text("status"),
            nics: interfaces
                .unwrap_or_else(|| panic!("the instance has no interfaces: {instance}"))
                .iter()
                .map(ShownNic::parse)
                .collect(),
        }
    }

    /// All instances that the API lists, by name.
    ///
    /// # Panics
    /// When the agent does not answer with a list.
    #[must_use]
    pub fn list(agent: &Agent) -> Vec<Self> {
        let answer = agent.api("GET", "/v1/instances", "");
        assert_eq!(answer.status, 200, "{answer:?}");
        let instances = answer.body.as_array();
        let instances = instances.unwrap_or_else(|| panic!("the API lists: {answer:?}"));
        let mut shown: Vec<Self> = instances.iter().map(Self::parse).collect();
        shown.sort();
        shown
    }
}
