//! What the guest of an instance may reach, as it was asked for (P-1, P-2).

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use netagent_common::limit::POLICY_ENTRIES_MAX;
use serde_json::{Map, Value, json};

use crate::dns::Permission;
use crate::spec::domain::{Domain, Domains};
use crate::spec::{SpecError, cidr, members};

/// Members that hold a policy.
pub const MEMBERS: [&str; 5] = [
    "network_policy",
    "allowed_domains",
    "allowed_cidrs",
    "denied_cidrs",
    "audit",
];

/// Those of them that are lists. One that is given makes the policy `custom`, empty or not.
const LISTS: [&str; 3] = ["allowed_domains", "allowed_cidrs", "denied_cidrs"];
/// Entries of one list that are named where they are wrong; the rest would say the same.
const FAULTS_MAX: usize = 16;

/// The networks of a list. Shared, for there may be very many.
pub type Networks = Arc<BTreeSet<IpNet>>;

/// The policy of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySpec {
    /// The policy, after a list has made it `custom`.
    pub mode: PolicyMode,
    /// Names whose addresses the guest may reach, and no others but those of `allowed_cidrs`; `None` where no such list
    /// was given.
    pub allowed_domains: Option<Arc<Domains>>,
    /// What the guest may reach, and nothing else; `None` where no such list was given.
    pub allowed_cidrs: Option<Networks>,
    /// What the guest may not reach, whatever else is allowed; `None` where no such list was given.
    pub denied_cidrs: Option<Networks>,
    /// Whether what the policy forbids is only counted (P-14).
    pub audit: bool,
}

/// The three policies (P-1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are the words of the specification")]
pub enum PolicyMode {
    #[default]
    AllowAll,
    DenyAll,
    Custom,
}

impl PolicyMode {
    /// All of them, as they are written.
    pub(crate) const WORDS: [&str; 3] = [
        Self::AllowAll.as_str(),
        Self::DenyAll.as_str(),
        Self::Custom.as_str(),
    ];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AllowAll => "allow-all",
            Self::DenyAll => "deny-all",
            Self::Custom => "custom",
        }
    }

    /// P-1 and P-2, of an object whose members have the right types.
    pub(crate) fn read(object: &Map<String, Value>) -> Result<Self, SpecError> {
        let given = |name: &&str| object.get(*name).is_some_and(|list| !list.is_null());
        let has_lists = LISTS.iter().any(given);
        let named = object.get("network_policy").and_then(Value::as_str);
        match (named, has_lists) {
            (None | Some("allow-all"), false) => Ok(Self::AllowAll),
            (Some("deny-all"), false) => Ok(Self::DenyAll),
            (None | Some("allow-all" | "custom"), true) => Ok(Self::Custom),
            (Some("deny-all"), true) => Err(SpecError::DenyAllWithLists),
            (Some("custom"), false) => Err(SpecError::CustomWithoutLists),
            (Some(other), _) => Err(SpecError::Value {
                member: "network_policy",
                value: cidr::shown(other),
                expected: "allow-all, deny-all or custom",
            }),
        }
    }
}

impl PolicySpec {
    /// Reads it from an object whose members are known and of the right types. Entries that are wrong are on the list of
    /// faults and left out; what [`PolicyMode::read`] refuses is on it already.
    pub(crate) fn read(object: &Map<String, Value>, faults: &mut Vec<SpecError>) -> Self {
        Self {
            mode: PolicyMode::read(object).unwrap_or_default(),
            allowed_domains: entries(object, "allowed_domains", Domain::parse, faults),
            allowed_cidrs: entries(object, "allowed_cidrs", cidr::network, faults),
            denied_cidrs: entries(object, "denied_cidrs", cidr::network, faults),
            audit: object
                .get("audit")
                .and_then(Value::as_bool)
                .unwrap_or_default(),
        }
    }

    /// Reads it from the body of a request that replaces it: what it does not name has its default.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(object: &Map<String, Value>) -> Result<Self, SpecError> {
        members::check_replacement(object, |faults| {
            faults.extend(PolicyMode::read(object).err());
            Self::read(object, faults)
        })
    }

    /// Whether addresses that no list names are denied: there is an allow list, empty or not (P-2).
    #[must_use]
    pub const fn denies_the_rest(&self) -> bool {
        self.allowed_domains.is_some() || self.allowed_cidrs.is_some()
    }

    /// What the guest may ask the resolver for (D-2). Where the policy is only counted, it is answered as ever.
    #[must_use]
    pub fn permission(&self) -> Permission {
        let closed = match (self.mode, &self.allowed_domains) {
            (PolicyMode::AllowAll, _) => false,
            (PolicyMode::DenyAll, _) => true,
            (PolicyMode::Custom, Some(names)) if self.audit => {
                return Permission::Audited(Arc::clone(names));
            }
            (PolicyMode::Custom, Some(names)) => return Permission::Listed(Arc::clone(names)),
            (PolicyMode::Custom, None) => self.allowed_cidrs.is_some(),
        };
        if closed && !self.audit {
            Permission::None
        } else {
            Permission::All
        }
    }

    /// The members that say the same; those that hold their default are left out.
    #[must_use]
    pub fn members(&self) -> Map<String, Value> {
        let list = |networks: &Option<Networks>| networks.as_ref().map(|list| json!(**list));
        let names = self.allowed_domains.as_ref().map(|names| {
            let names = names.iter().map(|name| name.to_string());
            Value::from_iter(names)
        });
        let mode = (self.mode != PolicyMode::AllowAll).then(|| json!(self.mode.as_str()));
        let pairs = [
            ("network_policy", mode),
            ("allowed_domains", names),
            ("allowed_cidrs", list(&self.allowed_cidrs)),
            ("denied_cidrs", list(&self.denied_cidrs)),
            ("audit", self.audit.then_some(Value::Bool(true))),
        ];
        members::object(pairs)
    }
}

/// The entries of a member; `None` where it is absent, or too long.
fn entries<T, F: Into<SpecError>, L: FromIterator<T>>(
    object: &Map<String, Value>,
    member: &'static str,
    parse: impl Fn(&str) -> Result<T, F>,
    faults: &mut Vec<SpecError>,
) -> Option<Arc<L>> {
    let list = object.get(member).and_then(Value::as_array)?;
    if list.len() > POLICY_ENTRIES_MAX {
        faults.push(SpecError::TooMany {
            member,
            count: list.len(),
            max: POLICY_ENTRIES_MAX,
        });
        return None;
    }
    let texts = list.iter().filter_map(Value::as_str);
    let (mut entries, mut wrong) = (Vec::with_capacity(list.len()), 0);
    for parsed in texts.map(parse) {
        match parsed {
            Ok(entry) => entries.push(entry),
            Err(_) if wrong == FAULTS_MAX => break,
            Err(fault) => {
                wrong += 1;
                faults.push(fault.into());
            }
        }
    }
    Some(Arc::new(entries.into_iter().collect()))
}

#[cfg(test)]
mod tests;
