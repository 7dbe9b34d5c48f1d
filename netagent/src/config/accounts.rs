//! What the operator grants to accounts, and which of the host's objects requests may name.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::Deserialize;

use crate::access::AccountName;
use crate::spec::default_custom_subnets;

/// `[accounts.<name>]`; an account without a table has the defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "netagent.example.toml describes every key")]
pub struct Account {
    pub instances: Option<u32>,
    pub custom_network: bool,
    pub published_ports: Option<u32>,
}

/// `[custom]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "netagent.example.toml describes every key")]
pub struct Custom {
    pub subnets: Vec<IpNet>,
}

/// `[modes]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "netagent.example.toml describes every key")]
pub struct Modes {
    pub taps: Option<Vec<String>>,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            instances: None,
            custom_network: true,
            published_ports: None,
        }
    }
}

impl Default for Custom {
    fn default() -> Self {
        Self {
            subnets: default_custom_subnets(),
        }
    }
}

impl Modes {
    /// Whether a request may name this existing TAP: by default any that comes through the unix socket.
    #[must_use]
    pub fn allows_tap(&self, name: &str, local: bool) -> bool {
        let fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => pattern == name,
        };
        self.taps
            .as_ref()
            .map_or(local, |patterns| patterns.iter().any(fits))
    }
}

/// What an account may, by its name.
#[must_use]
pub fn of(accounts: &BTreeMap<String, Account>, name: &AccountName) -> Account {
    accounts.get(name.as_str()).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn existing_taps_are_any_for_the_socket_and_none_for_tokens_unless_they_are_named() {
        let default = Modes::default();
        assert!(default.allows_tap("vpc0", true) && !default.allows_tap("vpc0", false));
        let named = Modes {
            taps: Some(vec!["vpc*".into(), "lab".into()]),
        };
        for local in [true, false] {
            assert!(named.allows_tap("vpc7", local) && named.allows_tap("lab", local));
            assert!(!named.allows_tap("lab1", local) && !named.allows_tap("tap0", local));
        }
    }
}
