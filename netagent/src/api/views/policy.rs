//! Policy and limits of an instance on the wire.

use ipnet::IpNet;
use serde::Serialize;
use utoipa::ToSchema;

use crate::spec::limit::LimitsSpec;
use crate::spec::policy::{Networks, PolicySpec};

/// What the guest may reach.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PolicyView {
    /// `allow-all`, `deny-all` or `custom`.
    network_policy: &'static str,
    /// Names that the guest may reach, and no others, where such a list was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_domains: Option<Vec<String>>,
    /// How many they are, where the list itself is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_domain_count: Option<usize>,
    /// Networks that the guest may reach, and no others but those names, where such a list was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    allowed_cidrs: Option<Vec<IpNet>>,
    /// How many they are, where the list itself is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_cidr_count: Option<usize>,
    /// Networks that the guest may not reach, where such a list was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    denied_cidrs: Option<Vec<IpNet>>,
    /// How many they are, where the list itself is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    denied_cidr_count: Option<usize>,
    /// Whether what the policy forbids is only counted.
    audit: bool,
}

/// How much the instance may send, receive and hold open.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RatesView {
    /// What the guest may send: `50mbit`; null where it is not limited.
    bandwidth: Option<String>,
    /// What the guest may receive.
    bandwidth_in: Option<String>,
    limits: LimitsView,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LimitsView {
    /// Packets that the guest may send in a second, and as many that it may receive; null where they are not limited.
    pps: Option<u32>,
    /// Flows that the instance may have open; null for as many as the configuration says.
    flows: Option<u32>,
}

impl PolicyView {
    /// Without the lists, which may be very long.
    pub(super) fn brief(mut self) -> Self {
        self.allowed_domain_count = self.allowed_domains.take().map(|list| list.len());
        self.allowed_cidr_count = self.allowed_cidrs.take().map(|list| list.len());
        self.denied_cidr_count = self.denied_cidrs.take().map(|list| list.len());
        self
    }
}

impl From<PolicySpec> for PolicyView {
    fn from(policy: PolicySpec) -> Self {
        let list = |networks: Option<Networks>| {
            let networks = networks?;
            Some(networks.iter().copied().collect())
        };
        let names = policy.allowed_domains.map(|names| {
            let names = names.iter();
            names.map(|name| name.to_string()).collect()
        });
        Self {
            network_policy: policy.mode.as_str(),
            allowed_domains: names,
            allowed_domain_count: None,
            allowed_cidrs: list(policy.allowed_cidrs),
            allowed_cidr_count: None,
            denied_cidrs: list(policy.denied_cidrs),
            denied_cidr_count: None,
            audit: policy.audit,
        }
    }
}

impl From<LimitsSpec> for RatesView {
    fn from(limits: LimitsSpec) -> Self {
        Self {
            bandwidth: limits.bandwidth.map(|rate| rate.to_string()),
            bandwidth_in: limits.bandwidth_in.map(|rate| rate.to_string()),
            limits: LimitsView {
                pps: limits.pps,
                flows: limits.flows,
            },
        }
    }
}
