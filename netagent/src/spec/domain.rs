//! Names as `allowed_domains` writes them (D-3).

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv6Addr;

use netagent_common::learned::NAME_LEN_MAX;
use sha2::{Digest, Sha256};

use crate::spec::cidr::shown;

/// Longest label of a name, bytes (RFC 1035 section 2.3.4).
const LABEL_LEN_MAX: usize = 63;

/// Why an entry is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "Invalid domain: \"{entry}\": {fault}. Expected a name like api.example.com, or *.example.com for all names below it"
)]
pub struct DomainFault {
    entry: String,
    fault: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error("it is empty")]
    Empty,
    #[error("an address belongs into allowed_cidrs")]
    Address,
    #[error("a * stands for the first label alone, and a name follows it")]
    Wildcard,
    #[error("a label is empty")]
    EmptyLabel,
    #[error("a label has more than 63 characters")]
    LongLabel,
    #[error("it has more than 253 characters")]
    TooLong,
    #[error("a label begins or ends with a hyphen")]
    Hyphen,
    #[error("a label has other characters than letters, digits, - and _")]
    Character,
    #[error("it is no internationalized name (IDNA)")]
    Idna,
}

/// One entry: a name, or all names below one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Domain {
    /// Lower case, ASCII, without a dot at its end.
    name: String,
    /// All names below it, at any depth, and not the name itself.
    below: bool,
}

impl Domain {
    /// Reads an entry.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(entry: &str) -> Result<Self, DomainFault> {
        let fault = |fault| DomainFault {
            entry: shown(entry),
            fault,
        };
        let (name, below) = match entry.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (entry, false),
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.parse::<Ipv6Addr>().is_ok() {
            return Err(fault(Fault::Address));
        }
        if name.is_empty() {
            return Err(fault(if below { Fault::Wildcard } else { Fault::Empty }));
        }
        if name.contains('*') {
            return Err(fault(Fault::Wildcard));
        }
        let name = ascii(name).map_err(fault)?;
        check(&name).map_err(fault)?;
        Ok(Self { name, below })
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.below { "*." } else { "" })?;
        f.write_str(&self.name)
    }
}

/// The name as DNS has it (RFC 5891, by the mapping of UTS 46).
fn ascii(name: &str) -> Result<String, Fault> {
    let has_ace = name.split('.').any(|label| {
        label
            .get(..4)
            .is_some_and(|four| four.eq_ignore_ascii_case("xn--"))
    });
    if name.is_ascii() && !has_ace {
        return Ok(name.to_ascii_lowercase());
    }
    idna::domain_to_ascii(name).ok().ok_or(Fault::Idna)
}

fn check(name: &str) -> Result<(), Fault> {
    if name.len() > NAME_LEN_MAX {
        return Err(Fault::TooLong);
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Err(Fault::EmptyLabel);
        }
        if label.len() > LABEL_LEN_MAX {
            return Err(Fault::LongLabel);
        }
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if !label.bytes().all(fits) {
            return Err(Fault::Character);
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err(Fault::Hyphen);
        }
    }
    // No top-level domain is a number, so a name that ends in one is meant as an address (RFC 3696 section 2).
    let last = name.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Fault::Address);
    }
    Ok(())
}

/// The names of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domains {
    /// Of all entries. It is compared first: long lists that differ somewhere differ here.
    digest: [u8; 32],
    exact: BTreeSet<String>,
    below: BTreeSet<String>,
}

impl Domains {
    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.below.is_empty()
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.exact.len() + self.below.len()
    }

    /// The entry that allows a name, which is lower case and has no dot at its end: the name itself, or else the longest
    /// that it is below of. Whole labels are compared.
    #[must_use]
    pub fn entry(&self, name: &str) -> Option<Domain> {
        let domain = |name: &str, below| Domain {
            name: name.to_owned(),
            below,
        };
        if self.exact.contains(name) {
            return Some(domain(name, false));
        }
        let mut rest = name;
        while let Some((_, above)) = rest.split_once('.') {
            if self.below.contains(above) {
                return Some(domain(above, true));
            }
            rest = above;
        }
        None
    }

    /// Whether a name is allowed; as [`Domains::entry`].
    #[must_use]
    pub fn allows(&self, name: &str) -> bool {
        if self.exact.contains(name) {
            return true;
        }
        let mut rest = name;
        while let Some((_, above)) = rest.split_once('.') {
            if self.below.contains(above) {
                return true;
            }
            rest = above;
        }
        false
    }

    /// The entries as they are written, in order.
    pub fn iter(&self) -> impl Iterator<Item = Domain> + '_ {
        let with = |below| {
            move |name: &String| Domain {
                name: name.clone(),
                below,
            }
        };
        self.exact
            .iter()
            .map(with(false))
            .chain(self.below.iter().map(with(true)))
    }
}

impl Default for Domains {
    fn default() -> Self {
        Self::from_iter([])
    }
}

impl FromIterator<Domain> for Domains {
    fn from_iter<I: IntoIterator<Item = Domain>>(domains: I) -> Self {
        let mut list = Self {
            digest: [0; 32],
            exact: BTreeSet::new(),
            below: BTreeSet::new(),
        };
        for domain in domains {
            let names = if domain.below {
                &mut list.below
            } else {
                &mut list.exact
            };
            names.insert(domain.name);
        }
        let mut digest = Sha256::new();
        for domain in list.iter() {
            digest.update(domain.to_string());
            // No entry has one.
            digest.update(b" ");
        }
        list.digest = digest.finalize().into();
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> Domains {
        entries
            .iter()
            .map(|entry| Domain::parse(entry).unwrap())
            .collect()
    }

    fn check_fault(entry: &str, expected: &str) {
        let fault = Domain::parse(entry).unwrap_err();
        assert_eq!(fault.fault.to_string(), expected, "{entry}");
        assert!(fault.to_string().contains(&shown(entry)), "{fault}");
    }

    #[test]
    fn d3_case_the_last_dot_and_other_scripts_are_written_in_one_way() {
        let check = |entry: &str, expected: &str| {
            assert_eq!(Domain::parse(entry).unwrap().to_string(), expected);
        };
        check("Example.ORG", "example.org");
        check("example.org.", "example.org");
        check("*.GitHub.com.", "*.github.com");
        check("bücher.example", "xn--bcher-kva.example");
        check("*.BÜCHER.example", "*.xn--bcher-kva.example");
        check("XN--BCHER-KVA.example", "xn--bcher-kva.example");
        check("日本語。jp", "xn--wgv71a119e.jp");
        check("_dmarc.example.org", "_dmarc.example.org");
        check("localhost", "localhost");
        check("1.example.org", "1.example.org");
    }

    #[test]
    fn d3_whole_labels_are_compared() {
        let names = list(&["api.example.com", "*.github.com", "*.a.b.example"]);
        for (name, expected) in [
            ("api.example.com", true),
            ("www.api.example.com", false),
            ("example.com", false),
            ("xapi.example.com", false),
            ("api.example.com.evil.test", false),
            ("github.com", false),
            ("evilgithub.com", false),
            ("x.github.com", true),
            ("x.y.z.github.com", true),
            ("github.com.evil.test", false),
            ("b.example", false),
            ("a.b.example", false),
            ("c.a.b.example", true),
            ("", false),
            ("com", false),
        ] {
            assert_eq!(names.allows(name), expected, "{name}");
            assert_eq!(names.entry(name).is_some(), expected, "{name}");
        }
        let entry = |name| names.entry(name).unwrap().to_string();
        assert_eq!(entry("x.y.github.com"), "*.github.com");
        assert_eq!(entry("api.example.com"), "api.example.com");
    }

    #[test]
    fn d3_what_is_no_name_is_refused_with_the_entry() {
        check_fault("", "it is empty");
        check_fault(".", "it is empty");
        let star = "a * stands for the first label alone, and a name follows it";
        for entry in [
            "*",
            "*.",
            "*.*",
            "a.*.example",
            "*example.org",
            "*.*.example.org",
        ] {
            check_fault(entry, star);
        }
        for entry in ["a..example", ".example.org", "example.org..", "*..org"] {
            check_fault(entry, "a label is empty");
        }
        check_fault(
            &format!("{}.example", "a".repeat(64)),
            "a label has more than 63 characters",
        );
        assert!(Domain::parse(&format!("{}.example", "a".repeat(63))).is_ok());
        let long = ["a".repeat(63), "b".repeat(63), "c".repeat(63)].join(".");
        assert!(Domain::parse(&format!("{long}.{}", "d".repeat(61))).is_ok());
        check_fault(
            &format!("{long}.{}", "d".repeat(62)),
            "it has more than 253 characters",
        );
        check_fault("-a.example", "a label begins or ends with a hyphen");
        check_fault("a-.example", "a label begins or ends with a hyphen");
        let character = "a label has other characters than letters, digits, - and _";
        for entry in [
            "exa mple.org",
            "https://example.org",
            "example.org:443",
            "a/b.example",
            "a@b.example",
            "ex\0ample.org",
        ] {
            check_fault(entry, character);
        }
        for entry in ["192.0.2.1", "1.2.3", "example.42", "2001:db8::1", "::1"] {
            check_fault(entry, "an address belongs into allowed_cidrs");
        }
        check_fault("xn--a.example", "it is no internationalized name (IDNA)");
    }

    #[test]
    fn entries_come_again_as_they_are_written() {
        let names = list(&["b.example", "*.a.example", "A.example", "a.example."]);
        let texts: Vec<String> = names.iter().map(|domain| domain.to_string()).collect();
        assert_eq!(texts, ["a.example", "b.example", "*.a.example"]);
        assert_eq!(names.len(), 3);
    }
}
