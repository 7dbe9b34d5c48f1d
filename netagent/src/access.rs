//! Who asks, and what they may: accounts, permissions and tokens.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
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

/// Every secret begins with this, so that one that leaked is found by a search.
const SECRET_PREFIX: &str = "netagent_";

impl TokenRecord {
    /// Makes a token, and the secret that is shown once: 244 random bits.
    #[must_use]
    pub fn new(account: AccountName, net_manager: bool, now_ms: u64) -> (Self, String) {
        let (left, right) = (Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let secret = format!("{SECRET_PREFIX}{left}{right}");
        let record = Self {
            id: Uuid::new_v4(),
            account,
            net_manager,
            hash: hash(&secret),
            created_ms: now_ms,
            revoked_ms: None,
        };
        (record, secret)
    }
}

fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// Whose secret it is. Every token is compared, each in constant time, so the time taken says nothing of which
/// one came close.
#[must_use]
pub fn authenticate(tokens: &[TokenRecord], secret: &str) -> Option<Caller> {
    let hash = hash(secret);
    let mut found = u64::MAX;
    for (index, token) in (0_u64..).zip(tokens) {
        let in_force = Choice::from(u8::from(token.revoked_ms.is_none()));
        found.conditional_assign(&index, token.hash.ct_eq(&hash) & in_force);
    }
    let token = tokens.get(usize::try_from(found).ok()?)?;
    Some(Caller {
        account: token.account.clone(),
        rights: Rights {
            net_manager: token.net_manager,
            local: false,
        },
        actor: format!("token {}", token.id),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(account: &str, net_manager: bool) -> (TokenRecord, String) {
        TokenRecord::new(AccountName::parse(account).unwrap(), net_manager, 1)
    }

    #[test]
    fn a_secret_names_its_account_and_permissions() {
        let (one, first) = token("one", true);
        let (two, second) = token("two", false);
        let tokens = [one, two.clone()];
        let caller = authenticate(&tokens, &first).unwrap();
        assert_eq!(
            (caller.account.as_str(), caller.rights.net_manager),
            ("one", true)
        );
        let caller = authenticate(&tokens, &second).unwrap();
        assert_eq!(
            (caller.account.as_str(), caller.rights.net_manager),
            ("two", false)
        );
        assert!(!caller.rights.local);
        assert_eq!(caller.actor, format!("token {}", two.id));
    }

    #[test]
    fn a_wrong_or_revoked_secret_is_nobodys() {
        let (mut one, secret) = token("one", true);
        assert_eq!(secret.len(), SECRET_PREFIX.len() + 64);
        for wrong in ["", "netagent_", &secret[..20], &secret.to_uppercase()] {
            assert_eq!(authenticate(std::slice::from_ref(&one), wrong), None);
        }
        assert_eq!(authenticate(&[], &secret), None);
        one.revoked_ms = Some(2);
        assert_eq!(authenticate(&[one], &secret), None);
    }

    #[test]
    fn the_secret_is_not_kept() {
        let (record, secret) = token("one", true);
        assert!(!format!("{record:?}").contains(&secret));
    }
}
