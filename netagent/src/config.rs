//! The configuration: a file, overridden by flags and `NETAGENT_*` variables.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use ipnet::{Ipv4Net, Ipv6Net};
use netagent_common::limit::{FLOWS_MAX, FLOWS_PER_INSTANCE};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::host::Attach;

pub mod accounts;
mod check;
pub mod dns;
pub mod nat;
pub mod policy;
pub mod ports;
mod uplink;

use crate::access::AccountName;
use crate::config::accounts::{Account, Custom, Modes};
use crate::config::dns::Dns;
use crate::config::nat::Nat;
use crate::config::policy::Policy;

/// Read where no other file is named.
pub const DEFAULT_FILE: &str = "/etc/netagent/netagent.toml";
/// Where the API listens by default.
pub const DEFAULT_SOCKET: &str = "/run/netagent/netagent.sock";

/// Everything that can be configured. `netagent.example.toml` describes every key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "netagent.example.toml describes every key")]
pub struct Config {
    pub state_dir: PathBuf,
    pub bpf_dir: PathBuf,
    #[serde(deserialize_with = "uplink::read_names")]
    pub uplink: Vec<String>,
    pub api: Api,
    pub pool: Pool,
    pub limits: Limits,
    pub datapath: Datapath,
    pub nat: Nat,
    pub publish: Publish,
    pub policy: Policy,
    pub dns: Dns,
    pub custom: Custom,
    pub modes: Modes,
    pub accounts: BTreeMap<String, Account>,
}

/// `[api]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "netagent.example.toml describes every key")]
pub struct Api {
    pub socket: PathBuf,
    pub group: String,
    pub listen: Option<SocketAddr>,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
}

/// `[pool]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "netagent.example.toml describes every key")]
pub struct Pool {
    pub subnet: Ipv4Net,
    pub subnet6: Option<Ipv6Net>,
    pub tap_prefix: String,
    pub gateway: GatewayPlace,
}

/// Which of a slot's two addresses is the host's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GatewayPlace {
    /// Host first, guest last.
    #[default]
    First,
    /// Guest first, host last.
    Last,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "netagent.example.toml describes every key")]
pub struct Limits {
    pub instances: u32,
    pub flows: u32,
}

/// `[datapath]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "netagent.example.toml describes every key")]
pub struct Datapath {
    pub attach: Attach,
    pub expedite_rcu: bool,
    pub flows: u32,
}

/// `[publish]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "netagent.example.toml describes every key")]
pub struct Publish {
    pub ports: PortRange,
}

/// A range of ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

/// Flags and variables that override the file.
#[derive(Args, Clone, Debug, Default)]
pub struct Overrides {
    /// Configuration file [default: /etc/netagent/netagent.toml, where it exists]
    #[arg(long, env = "NETAGENT_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of the agent's own files
    #[arg(long, env = "NETAGENT_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Directory of the pinned maps and programs
    #[arg(long, env = "NETAGENT_BPF_DIR", value_name = "DIR")]
    pub bpf_dir: Option<PathBuf>,
    /// Unix socket of the API
    #[arg(long, env = "NETAGENT_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Interfaces that lead to the world, separated by commas [default: the default route's]
    #[arg(
        long,
        env = "NETAGENT_UPLINK",
        value_name = "NAMES",
        value_delimiter = ','
    )]
    pub uplink: Vec<String>,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}: make it readable, or name another with --config", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not TOML, or holds an unknown key or a value of the wrong type.
    #[error("{path} line {line}: {reason}: see netagent.example.toml for every key", path = path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where.
        line: usize,
        /// Why, naming the key.
        reason: String,
    },
    /// A value that makes no sense.
    #[error("configuration key {key}: {reason}")]
    Value {
        /// The key with its table.
        key: &'static str,
        /// What is wrong and how to mend it.
        reason: String,
    },
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/netagent".into(),
            bpf_dir: "/sys/fs/bpf/netagent".into(),
            uplink: Vec::new(),
            api: Api::default(),
            pool: Pool::default(),
            limits: Limits::default(),
            datapath: Datapath::default(),
            nat: Nat::default(),
            publish: Publish::default(),
            policy: Policy::default(),
            dns: Dns::default(),
            custom: Custom::default(),
            modes: Modes::default(),
            accounts: BTreeMap::new(),
        }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self {
            socket: DEFAULT_SOCKET.into(),
            group: "netagent".into(),
            listen: None,
            tls_cert: None,
            tls_key: None,
        }
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            subnet: Ipv4Net::new_assert([172, 16, 0, 0].into(), 16),
            subnet6: None,
            tap_prefix: "tap".into(),
            gateway: GatewayPlace::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            instances: 16_384,
            flows: FLOWS_PER_INSTANCE,
        }
    }
}

impl Default for Datapath {
    fn default() -> Self {
        Self {
            attach: Attach::default(),
            expedite_rcu: true,
            flows: FLOWS_MAX,
        }
    }
}

impl Default for Publish {
    fn default() -> Self {
        let ports = PortRange {
            first: 1_024,
            last: 65_535,
        };
        Self { ports }
    }
}

impl Default for PortRange {
    fn default() -> Self {
        Self {
            first: 16_384,
            last: 29_999,
        }
    }
}

impl PortRange {
    /// Whether the port lies in it.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Number of ports.
    #[must_use]
    pub const fn count(self) -> u16 {
        self.last - self.first + 1
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let ends = text.split_once('-').and_then(|(first, last)| {
            Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
        });
        match ends {
            Some((first, last)) if first > 0 && first < last => Ok(Self { first, last }),
            _ => Err(D::Error::custom(format!(
                "'{text}' is no port range such as \"16384-29999\""
            ))),
        }
    }
}

impl Config {
    /// Reads the file, applies flags and variables, and checks the values.
    ///
    /// # Errors
    /// One line that says what is wrong and how to mend it.
    pub fn load(overrides: &Overrides) -> Result<Self, ConfigError> {
        let mut config = match &overrides.config {
            Some(path) => Self::read(path)?,
            None if Path::new(DEFAULT_FILE).exists() => Self::read(Path::new(DEFAULT_FILE))?,
            None => Self::default(),
        };
        config.apply(overrides);
        config.check()?;
        Ok(config)
    }

    fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = 1 + text
                .bytes()
                .take(start)
                .filter(|byte| *byte == b'\n')
                .count();
            let reason = error.message().replace('\n', " ");
            ConfigError::Parse {
                path: path.to_owned(),
                line,
                reason,
            }
        })
    }

    fn apply(&mut self, overrides: &Overrides) {
        let set = |place: &mut PathBuf, value: &Option<PathBuf>| {
            if let Some(value) = value {
                place.clone_from(value);
            }
        };
        set(&mut self.state_dir, &overrides.state_dir);
        set(&mut self.bpf_dir, &overrides.bpf_dir);
        set(&mut self.api.socket, &overrides.socket);
        if !overrides.uplink.is_empty() {
            self.uplink.clone_from(&overrides.uplink);
        }
    }

    /// What an account may.
    #[must_use]
    pub fn account(&self, name: &AccountName) -> Account {
        accounts::of(&self.accounts, name)
    }
}

#[cfg(test)]
mod tests;
