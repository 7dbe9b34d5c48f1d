//! `[nat]`: the ports that stand for guests, and how long their flows live (N-5, N-6).

use netagent_common::nat::EIM_PORTS;
use netagent_common::timeouts;
use serde::Deserialize;

use crate::config::{ConfigError, PortRange, check};

/// `[nat]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "netagent.example.toml describes every key")]
pub struct Nat {
    pub ports: PortRange,
    pub eim_ports: u16,
    pub filtering: Filtering,
    pub timeouts: Timeouts,
}

/// Whose datagrams reach a guest (RFC 4787, REQ-8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filtering {
    /// Those of addresses and ports that it sent to.
    #[default]
    AddressAndPort,
    /// Anybody's, to a port with an endpoint-independent mapping.
    Endpoint,
}

impl Default for Nat {
    fn default() -> Self {
        Self {
            ports: PortRange::default(),
            eim_ports: EIM_PORTS,
            filtering: Filtering::default(),
            timeouts: Timeouts::default(),
        }
    }
}

/// `[nat.timeouts]`, s
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "netagent.example.toml describes every key")]
pub struct Timeouts {
    pub tcp_established: u64,
    pub tcp_transitory: u64,
    pub tcp_closing: u64,
    pub udp: u64,
    pub udp_unreplied: u64,
    pub icmp: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = timeouts::Timeouts::DEFAULT;
        Self {
            tcp_established: seconds.tcp_established.into(),
            tcp_transitory: seconds.tcp_transitory.into(),
            tcp_closing: seconds.tcp_closing.into(),
            udp: seconds.udp.into(),
            udp_unreplied: seconds.udp_unreplied.into(),
            icmp: seconds.icmp.into(),
        }
    }
}

impl Timeouts {
    /// As the programs take them.
    #[must_use]
    pub fn seconds(&self) -> timeouts::Timeouts {
        // `check` refuses what does not fit.
        let seconds = |value: u64| u16::try_from(value).unwrap_or(u16::MAX);
        timeouts::Timeouts {
            tcp_established: seconds(self.tcp_established),
            tcp_transitory: seconds(self.tcp_transitory),
            tcp_closing: seconds(self.tcp_closing),
            udp: seconds(self.udp),
            udp_unreplied: seconds(self.udp_unreplied),
            icmp: seconds(self.icmp),
        }
    }

    const fn by_key(&self) -> [(&'static str, u64); 6] {
        [
            ("nat.timeouts.tcp_established", self.tcp_established),
            ("nat.timeouts.tcp_transitory", self.tcp_transitory),
            ("nat.timeouts.tcp_closing", self.tcp_closing),
            ("nat.timeouts.udp", self.udp),
            ("nat.timeouts.udp_unreplied", self.udp_unreplied),
            ("nat.timeouts.icmp", self.icmp),
        ]
    }
}

impl Nat {
    /// Checks every value.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for (key, value) in self.timeouts.by_key() {
            check::check(key, (1..=u64::from(u16::MAX)).contains(&value), || {
                format!("{value} must be from 1 to {} seconds", u16::MAX)
            })?;
        }
        Ok(())
    }
}
