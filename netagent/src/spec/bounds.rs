//! What the host's own pool leaves to custom interfaces (I-8).

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::spec::{Addressing, InstanceSpec, SpecError};

/// Private ranges: RFC 1918, RFC 6598, RFC 4193, and the site-local range of RFC 3879, which guides still use.
const CUSTOM_SUBNETS: [&str; 6] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "fc00::/7",
    "fec0::/10",
];

/// What custom interfaces may not touch, and where they may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The pool.
    pub pool: Ipv4Net,
    /// The pool's IPv6 network.
    pub pool6: Option<Ipv6Net>,
    /// Names of the pool's TAPs begin with this, and end in digits.
    pub tap_prefix: String,
    /// Where custom addresses lie.
    pub custom_subnets: Vec<IpNet>,
}

/// Where custom addresses lie by default.
#[must_use]
pub fn default_custom_subnets() -> Vec<IpNet> {
    CUSTOM_SUBNETS
        .iter()
        .filter_map(|subnet| subnet.parse().ok())
        .collect()
}

impl InstanceSpec {
    /// Everything about its custom interfaces that the pool forbids.
    #[must_use]
    pub fn check_bounds(&self, bounds: &Bounds) -> Vec<SpecError> {
        let mut faults = Vec::new();
        for interface in &self.interfaces {
            let Addressing::Custom { ip, ip6, tap_name } = &interface.addressing else {
                continue;
            };
            let networks = [Some(IpNet::V4(*ip)), ip6.map(IpNet::V6)];
            for network in networks.into_iter().flatten() {
                faults.extend(bounds.check_network(network));
            }
            if bounds.is_pool_tap(tap_name) {
                faults.push(SpecError::TapFromPool);
            }
        }
        faults
    }
}

impl Bounds {
    /// What the configuration alone says; which IPv6 network the pool has, the agent knows.
    #[must_use]
    pub fn of(config: &crate::config::Config) -> Self {
        Self {
            pool: config.pool.subnet,
            pool6: config.pool.subnet6,
            tap_prefix: config.pool.tap_prefix.clone(),
            custom_subnets: config.custom.subnets.clone(),
        }
    }

    fn check_network(&self, network: IpNet) -> Option<SpecError> {
        let network = network.trunc();
        let pools = [Some(IpNet::V4(self.pool)), self.pool6.map(IpNet::V6)];
        let overlaps = |pool: &IpNet| pool.contains(&network) || network.contains(pool);
        if pools.iter().flatten().any(overlaps) {
            return Some(SpecError::IpFromPool);
        }
        let mut subnets = self.custom_subnets.iter();
        (!subnets.any(|subnet| subnet.contains(&network))).then_some(SpecError::NotAvailable)
    }

    fn is_pool_tap(&self, name: &str) -> bool {
        name.strip_prefix(&self.tap_prefix)
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
    }
}
