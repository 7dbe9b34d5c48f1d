//! Values that make no sense are refused before anything is done.

use crate::access::AccountName;
use crate::config::{Config, ConfigError};

impl Config {
    /// Checks every value.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.check_pool()?;
        self.check_limits()?;
        self.nat.check()?;
        self.policy.check()?;
        self.check_access()
    }

    fn check_access(&self) -> Result<(), ConfigError> {
        let api = &self.api;
        let pair = api.tls_cert.is_some() == api.tls_key.is_some();
        check("api.tls_cert", pair, || {
            "goes together with api.tls_key: name both or neither".into()
        })?;
        let open = api
            .listen
            .is_some_and(|address| !address.ip().is_loopback());
        check("api.listen", !open || api.tls_cert.is_some(), || {
            "is not loopback: tokens would cross the network in the clear: name api.tls_cert and api.tls_key".into()
        })?;
        let bad = self
            .accounts
            .keys()
            .find(|name| AccountName::parse(name).is_none());
        check("accounts", bad.is_none(), || {
            format!(
                "'{}' is no name of an account: use up to 63 of a-z, 0-9 and '-'",
                bad.map_or("", String::as_str)
            )
        })?;
        let subnets = &self.custom.subnets;
        check(
            "custom.subnets",
            subnets.iter().all(|net| *net == net.trunc()),
            || "a network has host bits: write its first address".into(),
        )
    }

    fn check_pool(&self) -> Result<(), ConfigError> {
        let pool = &self.pool;
        check("pool.subnet", pool.subnet == pool.subnet.trunc(), || {
            format!(
                "{} has host bits: write {}",
                pool.subnet,
                pool.subnet.trunc()
            )
        })?;
        check(
            "pool.subnet",
            (14..=30).contains(&pool.subnet.prefix_len()),
            || format!("{}: the prefix must be from /14 to /30", pool.subnet),
        )?;
        check(
            "pool.subnet6",
            pool.subnet6
                .is_none_or(|net| net.prefix_len() == 48 && net == net.trunc()),
            || "must be a /48 without host bits, such as fd12:3456:789a::/48".into(),
        )?;
        check("pool.tap_prefix", is_tap_prefix(&pool.tap_prefix), || {
            format!(
                "'{}' must be 1 to 9 of a-z, A-Z, 0-9, '-', '_', and must not end in a digit",
                pool.tap_prefix
            )
        })
    }

    fn check_limits(&self) -> Result<(), ConfigError> {
        check(
            "limits.instances",
            (1..=65_536).contains(&self.limits.instances),
            || format!("{} must be from 1 to 65536", self.limits.instances),
        )?;
        check("limits.flows", self.limits.flows > 0, || {
            "must not be 0".into()
        })?;
        check(
            "datapath.flows",
            (1..=1 << 24).contains(&self.datapath.flows),
            || format!("{} must be from 1 to 16777216", self.datapath.flows),
        )?;
        check(
            "uplink",
            self.uplink.iter().all(|name| !name.is_empty()),
            || "is empty: name an interface, or leave it out to take the default route's".into(),
        )
    }
}

pub(super) fn check(
    key: &'static str,
    holds: bool,
    reason: impl Fn() -> String,
) -> Result<(), ConfigError> {
    if holds {
        Ok(())
    } else {
        Err(ConfigError::Value {
            key,
            reason: reason(),
        })
    }
}

/// Six digits must fit behind it in the 15 bytes of an interface name.
fn is_tap_prefix(prefix: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=9).contains(&prefix.len())
        && prefix.bytes().all(allowed)
        && !prefix.ends_with(|last: char| last.is_ascii_digit())
}
