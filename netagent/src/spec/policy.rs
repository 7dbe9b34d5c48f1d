//! What the guest of an instance may reach, as it was asked for (P-1, P-2).

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use netagent_common::limit::POLICY_ENTRIES_MAX;
use serde_json::{Map, Value, json};

use crate::dns::Permission;
use crate::spec::domain::{Domain, Domains};
use crate::spec::{SpecError, cidr, members};

/// Members that hold a policy (A-1).
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
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<PolicySpec, SpecError> {
        PolicySpec::parse(
            serde_json::from_str::<Value>(text)
                .unwrap()
                .as_object()
                .unwrap(),
        )
    }

    fn check_error(text: &str, expected: &str) {
        assert_eq!(parsed(text).unwrap_err().to_string(), expected, "{text}");
    }

    fn list(networks: &[&str]) -> Option<Networks> {
        let networks = networks.iter().map(|text| text.parse().unwrap());
        Some(Arc::new(networks.collect()))
    }

    #[test]
    fn p1_a_list_makes_the_policy_custom_and_so_does_an_empty_one() {
        let mode = |text: &str| parsed(text).unwrap().mode;
        assert_eq!(mode("{}"), PolicyMode::AllowAll);
        assert_eq!(
            mode(r#"{"network_policy": "deny-all"}"#),
            PolicyMode::DenyAll
        );
        assert_eq!(mode(r#"{"allowed_cidrs": null}"#), PolicyMode::AllowAll);
        for text in [
            r#"{"allowed_cidrs": ["10.0.0.0/8"]}"#,
            r#"{"allowed_cidrs": []}"#,
            r#"{"denied_cidrs": []}"#,
            r#"{"allowed_domains": []}"#,
            r#"{"allowed_domains": ["example.org"]}"#,
            r#"{"network_policy": "allow-all", "denied_cidrs": ["::/0"]}"#,
            r#"{"network_policy": "custom", "allowed_cidrs": []}"#,
        ] {
            assert_eq!(mode(text), PolicyMode::Custom, "{text}");
        }
    }

    #[test]
    fn p1_deny_all_goes_with_no_list_and_custom_needs_one() {
        let combined = "Cannot combine --network-policy deny-all with --allowed-domain, --allowed-cidr, or --denied-cidr.";
        for member in LISTS {
            let text = format!(r#"{{"network_policy": "deny-all", "{member}": []}}"#);
            check_error(&text, combined);
        }
        let needs = "Network policy 'custom' needs allowed_domains, allowed_cidrs or denied_cidrs";
        check_error(r#"{"network_policy": "custom"}"#, needs);
        check_error(
            r#"{"network_policy": "custom", "denied_cidrs": null}"#,
            needs,
        );
        check_error(
            r#"{"network_policy": "Deny-All"}"#,
            "Invalid value 'Deny-All' of member 'network_policy': use allow-all, deny-all or custom",
        );
    }

    #[test]
    fn p2_an_empty_list_is_a_list() {
        let policy = parsed(r#"{"allowed_cidrs": []}"#).unwrap();
        assert_eq!(policy.allowed_cidrs, list(&[]));
        assert_eq!(
            (&policy.allowed_domains, &policy.denied_cidrs),
            (&None, &None)
        );
        assert!(policy.denies_the_rest());
        let policy = parsed(r#"{"allowed_domains": []}"#).unwrap();
        assert_eq!(policy.allowed_domains, Some(Arc::default()));
        assert!(policy.denies_the_rest());
        let policy = parsed(r#"{"denied_cidrs": []}"#).unwrap();
        assert!(!policy.denies_the_rest());
    }

    #[test]
    fn d2_the_lists_say_what_may_be_asked_for() {
        let check = |text: &str, expected: Permission| {
            assert_eq!(parsed(text).unwrap().permission(), expected, "{text}");
        };
        let names = |entries: &[&str]| {
            let names = entries.iter().map(|entry| Domain::parse(entry).unwrap());
            Arc::new(names.collect::<Domains>())
        };
        let one = || names(&["a.example"]);
        check("{}", Permission::All);
        check(r#"{"audit": true}"#, Permission::All);
        check(r#"{"denied_cidrs": ["10.0.0.0/8"]}"#, Permission::All);
        check(r#"{"allowed_cidrs": []}"#, Permission::None);
        check(
            r#"{"allowed_cidrs": ["::/0"], "denied_cidrs": []}"#,
            Permission::None,
        );
        check(r#"{"network_policy": "deny-all"}"#, Permission::None);
        check(
            r#"{"network_policy": "deny-all", "audit": true}"#,
            Permission::All,
        );
        check(r#"{"allowed_cidrs": [], "audit": true}"#, Permission::All);
        let domains = r#""allowed_domains": ["A.example."]"#;
        check(&format!("{{{domains}}}"), Permission::Listed(one()));
        for other in ["allowed_cidrs", "denied_cidrs"] {
            let text = format!(r#"{{{domains}, "{other}": ["::/0"]}}"#);
            check(&text, Permission::Listed(one()));
        }
        check(
            &format!(r#"{{{domains}, "audit": true}}"#),
            Permission::Audited(one()),
        );
        check(r#"{"allowed_domains": []}"#, Permission::Listed(names(&[])));
    }

    #[test]
    fn d3_a_wrong_name_refuses_the_policy_and_is_named() {
        check_error(
            r#"{"allowed_domains": ["example.org", "a..example"]}"#,
            "Invalid domain: \"a..example\": a label is empty. Expected a name like api.example.com, or *.example.com for all names below it",
        );
        check_error(
            r#"{"allowed_domains": [7]}"#,
            "Member 'allowed_domains' must be a list of texts",
        );
    }

    #[test]
    fn both_families_duplicates_and_overlaps_are_one_list() {
        let policy = parsed(
            r#"{"allowed_cidrs": ["10.1.2.3/8", "10.0.0.0/8", "10.9.0.0/16", "2001:db8::1/32"], "audit": true}"#,
        );
        let policy = policy.unwrap();
        let expected = list(&["10.0.0.0/8", "10.9.0.0/16", "2001:db8::/32"]);
        assert_eq!(policy.allowed_cidrs, expected);
        assert!(policy.audit);
    }

    #[test]
    fn p10_a_wrong_entry_refuses_the_policy_in_the_words_of_the_specification() {
        check_error(
            r#"{"allowed_cidrs": ["10.0.0.0/8", "0.0.0.0"]}"#,
            "Invalid CIDR format: \"0.0.0.0\". Expected format: x.x.x.x/y",
        );
        check_error(
            r#"{"denied_cidrs": ["::"]}"#,
            "Invalid CIDR format: \"::\". Expected format: x.x.x.x/y",
        );
        check_error(
            r#"{"denied_cidrs": ["10.0.0.0/33"]}"#,
            "Invalid CIDR prefix length: 33",
        );
        check_error(
            r#"{"allowed_cidrs": ["2001:db8::/129"]}"#,
            "Invalid CIDR prefix length: 129",
        );
    }

    #[test]
    fn a_list_of_other_things_and_a_list_over_its_bound_are_refused_by_member() {
        let text = "Member 'denied_cidrs' must be a list of texts";
        check_error(r#"{"denied_cidrs": [7]}"#, text);
        check_error(r#"{"denied_cidrs": "10.0.0.0/8"}"#, text);
        check_error(r#"{"colour": 1}"#, "Unknown member 'colour'");
        for (member, entry) in [
            ("allowed_cidrs", "10.0.0.0/8"),
            ("allowed_domains", "example.org"),
        ] {
            let many = |count: usize| {
                let entries = vec![entry; count];
                parsed(&json!({ member: entries }).to_string())
            };
            assert!(many(POLICY_ENTRIES_MAX).is_ok());
            assert_eq!(
                many(POLICY_ENTRIES_MAX + 1).unwrap_err().to_string(),
                format!("Member '{member}' has 100001 entries, and may have 100000")
            );
        }
    }

    #[test]
    fn of_very_many_wrong_entries_some_are_named() {
        for member in LISTS {
            let object = json!({ member: vec!["/"; 1_000] });
            let mut faults = Vec::new();
            PolicySpec::read(object.as_object().unwrap(), &mut faults);
            assert_eq!(faults.len(), FAULTS_MAX, "{member}");
        }
    }

    #[test]
    fn its_members_say_the_same_again() {
        for text in [
            "{}",
            r#"{"network_policy":"deny-all"}"#,
            r#"{"network_policy":"custom","allowed_cidrs":[]}"#,
            r#"{"network_policy":"custom","allowed_domains":[]}"#,
            r#"{"network_policy":"custom","allowed_domains":["a.example","xn--bcher-kva.example","*.a.example"],"allowed_cidrs":["10.0.0.0/8"]}"#,
            r#"{"network_policy":"custom","allowed_cidrs":["10.0.0.0/8","::/0"],"denied_cidrs":[],"audit":true}"#,
        ] {
            let members = parsed(text).unwrap().members();
            assert_eq!(Value::Object(members).to_string(), text);
        }
    }
}
