//! Who asks, and what they may: accounts, permissions and tokens.

use std::fmt;

use uuid::Uuid;

/// Name of an account; same form as the name of an instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AccountName(String);

/// The account of the unix socket.
pub const DEFAULT_ACCOUNT: &str = "default";

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Whose objects exist for them.
    pub account: AccountName,
    /// What they may.
    pub rights: Rights,
    /// For log and audit: `uid 0 pid 4711` on the unix socket, `token <id>` on TCP.
    pub actor: String,
}

/// What a caller may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Permission `net_manager`: the custom members exist for them.
    pub net_manager: bool,
    /// They speak through the unix socket: host-wide questions, tokens, any existing TAP.
    pub local: bool,
}

/// A token as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    /// Its id, which may be shown.
    pub id: Uuid,
    /// Whose it is.
    pub account: AccountName,
    /// Permission `net_manager`.
    pub net_manager: bool,
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// When it was created, milliseconds since 1970.
    pub created_ms: u64,
    /// When it was revoked, where it was.
    pub revoked_ms: Option<u64>,
}

impl AccountName {
    /// The name, where `text` has the form of I-5.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        crate::spec::name::Name::parse(text).map(|_| Self(text.to_owned()))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for AccountName {
    fn default() -> Self {
        Self(DEFAULT_ACCOUNT.to_owned())
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Caller {
    /// Who asks through the unix socket: the default account with every permission.
    #[must_use]
    pub fn local(actor: impl Into<String>) -> Self {
        Self {
            account: AccountName::default(),
            rights: Rights {
                net_manager: true,
                local: true,
            },
            actor: actor.into(),
        }
    }
}
