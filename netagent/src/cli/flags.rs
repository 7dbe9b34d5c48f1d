//! Flags that `create` and `network` share: what may change on an instance that exists.

use std::net::IpAddr;

use clap::{ArgGroup, Args};
use ipnet::IpNet;
use serde_json::{Map, Value, json};

/// What makes a policy.
const CHOICE: [&str; 4] = [
    "network_policy",
    "allowed_domain",
    "allowed_cidr",
    "denied_cidr",
];

/// What the guest may reach.
#[derive(Args, Debug, Default)]
#[group(id = "policy_flags", multiple = true)]
#[command(group = ArgGroup::new("policy_choice").args(CHOICE).multiple(true))]
pub(super) struct PolicyFlags {
    /// allow-all, deny-all or custom [default: allow-all, or custom where a list is named]
    #[arg(long, value_name = "POLICY")]
    network_policy: Option<String>,
    /// Names that the guest may reach, and no others, separated by commas: api.example.com, '*.example.com' for all below
    /// it; '' for none at all
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    allowed_domain: Vec<String>,
    /// Networks that the guest may reach, and no others but allowed domains, separated by commas; '' for none at all
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    allowed_cidr: Vec<String>,
    /// Networks that the guest may not reach, whatever else is allowed, separated by commas
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    denied_cidr: Vec<String>,
    /// Whether what the policy forbids is only counted
    // Alone it would replace the policy with one that forbids nothing.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", requires = "policy_choice")]
    audit: Option<bool>,
}

/// Which ports lead to the guest.
#[derive(Args, Debug, Default)]
#[group(id = "port_flags", multiple = true)]
pub(super) struct PortFlags {
    /// Ports to publish, separated by commas: 8080, 8080:80/udp, 127.0.0.1:8080:80, '8080:80 from 10.0.0.0/8, fd00::/8'
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    publish_port: Vec<String>,
    /// Networks that may use the published ports, separated by commas [default: everybody]
    #[arg(
        long,
        value_name = "CIDR",
        value_delimiter = ',',
        requires = "publish_port"
    )]
    publish_from: Vec<String>,
    /// Ports of the guest's own address that the host may reach, separated by commas: 80/tcp
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    exposed_port: Vec<String>,
}

/// How much the guest may send, receive and hold open.
#[derive(Args, Debug, Default)]
#[group(id = "limit_flags", multiple = true)]
pub(super) struct LimitFlags {
    /// What the guest may send: Mbit/s, or with kbit, mbit or gbit behind it [default: no limit]
    #[arg(long, value_name = "RATE")]
    bandwidth: Option<String>,
    /// What the guest may receive, as --bandwidth [default: no limit]
    #[arg(long, value_name = "RATE")]
    bandwidth_in: Option<String>,
    /// Packets that the guest may send in a second, and as many that it may receive [default: no limit]
    #[arg(long, value_name = "N")]
    limit_pps: Option<u64>,
    /// Flows that it may have open [default: what the configuration of the agent says]
    #[arg(long, value_name = "N")]
    limit_flows: Option<u64>,
}

impl PolicyFlags {
    pub(super) fn members(&self) -> Map<String, Value> {
        // One empty text is how an empty list is named (P-2).
        let list = |items: &Vec<String>| match items.as_slice() {
            [] => None,
            [one] if one.is_empty() => Some(json!([])),
            items => Some(json!(items)),
        };
        object([
            ("network_policy", text(&self.network_policy)),
            ("allowed_domains", list(&self.allowed_domain)),
            ("allowed_cidrs", list(&self.allowed_cidr)),
            ("denied_cidrs", list(&self.denied_cidr)),
            ("audit", self.audit.map(Value::from)),
        ])
    }
}

impl PortFlags {
    pub(super) fn members(&self) -> Map<String, Value> {
        let list = |items: &Vec<String>| (!items.is_empty()).then(|| json!(items));
        object([
            (
                "publish",
                list(&published(&self.publish_port, &self.publish_from)),
            ),
            ("exposed_ports", list(&self.exposed_port)),
        ])
    }
}

impl LimitFlags {
    pub(super) fn members(&self) -> Map<String, Value> {
        let limits = object([
            ("pps", self.limit_pps.map(Value::from)),
            ("flows", self.limit_flows.map(Value::from)),
        ]);
        object([
            ("bandwidth", text(&self.bandwidth)),
            ("bandwidth_in", text(&self.bandwidth_in)),
            ("limits", (!limits.is_empty()).then_some(limits.into())),
        ])
    }
}

/// Entries of `publish`, each for these networks. A network behind a comma belongs to the entry before it, which says
/// `from`.
fn published(ports: &[String], networks: &[String]) -> Vec<String> {
    let from = if networks.is_empty() {
        String::new()
    } else {
        format!(" from {}", networks.join(","))
    };
    let mut entries: Vec<String> = Vec::new();
    for port in ports {
        let is_network = port.contains('/') && port.trim().parse::<IpNet>().is_ok()
            || port.trim().parse::<IpAddr>().is_ok();
        match entries.last_mut() {
            Some(entry) if is_network && entry.contains(" from ") => {
                entry.push(',');
                entry.push_str(port);
            }
            _ => entries.push(port.clone()),
        }
    }
    entries
        .into_iter()
        .map(|entry| format!("{entry}{from}"))
        .collect()
}

/// A flag as the member that holds a text.
pub(super) fn text(value: &Option<String>) -> Option<Value> {
    value.as_ref().map(|value| json!(value))
}

/// The members that have a value.
pub(super) fn object<const N: usize>(members: [(&str, Option<Value>); N]) -> Map<String, Value> {
    let present = members.into_iter();
    present
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
}
