//! What a list of names does (D-2 to D-5): to a name that a guest asks for, and to the packets that ask or follow.

use std::fmt;
use std::net::IpAddr;

use netagent_common::drop::DropReason;
use netagent_common::policy::policy_flag;
use netagent_common::services::port;

use crate::dns::Permission;
use crate::policy::explain::{InForce, Judge, Packet, Refusal, Rule, Service, Verdict};
use crate::spec::domain::Domain;

/// An address that is open because an allowed name led there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LearnedFrom {
    /// The name, lower case and without a dot at its end.
    pub name: String,
    /// The address.
    pub address: IpAddr,
    /// How long it stays open without a new answer; 0 where flows alone hold it.
    pub seconds_left: u64,
}

/// What becomes of the question for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameExplanation {
    /// Whether the guest is answered.
    pub verdict: Verdict,
    /// As which drop the question is counted, where it is one; in audit mode, as which it would be.
    pub reason: Option<DropReason>,
    /// What decides.
    pub rule: NameRule,
    /// Where it led, and what of it is open.
    pub addresses: Vec<LearnedFrom>,
}

/// What decides about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they print themselves as sentences")]
pub enum NameRule {
    Quarantine,
    DenyAll,
    NoNames,
    EveryName,
    Allowed(Domain),
    NotAllowed,
    /// Name of the relay, which has the question.
    ByRelay(String),
    /// And why nothing passes there.
    RelayDown(String, String),
}

/// What becomes of the question for a name, which is lower case and has no dot at its end.
#[must_use]
pub fn explain_name(name: &str, in_force: &InForce<'_>) -> NameExplanation {
    let (verdict, reason, rule) = judge_name(name, in_force);
    let learned = in_force.learned.iter();
    NameExplanation {
        verdict,
        reason,
        rule,
        addresses: learned.filter(|one| one.name == name).cloned().collect(),
    }
}

fn judge_name(name: &str, in_force: &InForce<'_>) -> (Verdict, Option<DropReason>, NameRule) {
    let has = |flag| in_force.has_flag(flag);
    if has(policy_flag::QUARANTINE) {
        let reason = Some(DropReason::Quarantine);
        return (Verdict::Denied, reason, NameRule::Quarantine);
    }
    let refused = if has(policy_flag::AUDIT) {
        Verdict::Audited
    } else {
        Verdict::Denied
    };
    if has(policy_flag::DENY_ALL) {
        return (refused, Some(DropReason::DenyAll), NameRule::DenyAll);
    }
    if let Some(relay) = in_force.relay_of_dns() {
        let name = relay.name.to_owned();
        return match relay.down {
            Some(reason) => {
                let rule = NameRule::RelayDown(name, reason.to_owned());
                (Verdict::Denied, Some(DropReason::RelayDown), rule)
            }
            None => (Verdict::Allowed, None, NameRule::ByRelay(name)),
        };
    }
    match in_force.policy.permission() {
        Permission::Listed(names) | Permission::Audited(names) => match names.entry(name) {
            Some(entry) => (Verdict::Allowed, None, NameRule::Allowed(entry)),
            None => (refused, None, NameRule::NotAllowed),
        },
        Permission::None => (refused, None, NameRule::NoNames),
        // Its resolver refuses none while that is only counted.
        Permission::All if in_force.policy.denies_the_rest() => (refused, None, NameRule::NoNames),
        Permission::All => (Verdict::Allowed, None, NameRule::EveryName),
    }
}

impl InForce<'_> {
    pub(super) fn has_flag(&self, flag: u32) -> bool {
        let mut records = self.records.iter();
        records.any(|record| record.policy_flags & flag != 0)
    }
}

impl Judge<'_> {
    /// DNS of a guest with a list of names, or one whose relay is not to have it, whatever address it is sent to; `None` where it is something else.
    pub(super) fn judge_names(&mut self) -> Result<Option<Rule>, Refusal> {
        if self.is_steered() {
            self.judge_any()?;
            return Ok(Some(Rule::Gateway(self.dns_service())));
        }
        let port = self.packet.port();
        if self.has_names() && port.is_some_and(|port| port::DNS_BYPASSES.contains(&port)) {
            self.judge_any()?;
            let refusal = (DropReason::DnsBypass, Rule::DnsBypass);
            self.refuse(refusal, self.in_force.has_flag(policy_flag::AUDIT))?;
        }
        Ok(None)
    }

    /// Whether it goes to the agent's resolver whatever its address is.
    pub(super) fn is_steered(&self) -> bool {
        let relay = self.in_force.relay.as_ref();
        let by_agent = relay.is_some_and(|relay| !relay.takes_dns());
        (self.has_names() || by_agent) && matches!(self.packet, Packet::ToPort(_, port::DNS))
    }

    pub(super) fn dns_service(&self) -> Service {
        match self.in_force.policy.permission() {
            Permission::All => Service::Dns,
            Permission::None => Service::RefusedDns,
            Permission::Listed(_) => Service::ListedDns,
            Permission::Audited(_) => Service::AuditedDns,
        }
    }

    /// The name that opened the address, where one did; of several the one that holds it longest.
    pub(super) fn learned(&self) -> Option<Rule> {
        let learned = self.in_force.learned.iter();
        let led = learned.filter(|one| self.has_names() && one.address == self.address);
        let longest = led.max_by_key(|one| one.seconds_left)?;
        Some(Rule::Learned(longest.clone()))
    }

    fn has_names(&self) -> bool {
        self.in_force.has_flag(policy_flag::NAMES)
    }
}

impl fmt::Display for LearnedFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "learned from {}, ", self.name)?;
        match self.seconds_left {
            0 => f.write_str("held by open flows"),
            seconds => write!(f, "{seconds} s left"),
        }
    }
}

impl fmt::Display for NameRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quarantine => write!(f, "{}", Rule::Quarantine),
            Self::DenyAll => write!(f, "{}", Rule::DenyAll),
            Self::NoNames => write!(f, "{}", Service::RefusedDns),
            Self::EveryName => {
                f.write_str("there is no list of names: the agent's resolver answers for every one")
            }
            Self::Allowed(entry) => write!(f, "allowed_domains: {entry}"),
            Self::ByRelay(name) => write!(
                f,
                "the relay {name} has the question: it answers, or passes it on"
            ),
            Self::RelayDown(name, reason) => write!(f, "relay {name} is down: {reason}"),
            Self::NotAllowed => {
                f.write_str("not in allowed_domains: the agent's resolver answers REFUSED")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use netagent_common::services::port;

    use crate::policy::explain::tests::{OUT, scene};
    use crate::policy::explain::{DropReason, policy_flag};
    use crate::spec::policy::PolicyMode;

    use super::*;

    const LISTS: &str = r#"{"allowed_domains": ["api.example.com", "*.github.com"], "allowed_cidrs": ["10.0.0.0/8"],
        "denied_cidrs": ["203.0.113.128/25"]}"#;

    fn learned(name: &str, address: &str, seconds_left: u64) -> LearnedFrom {
        LearnedFrom {
            name: name.to_owned(),
            address: address.parse().unwrap(),
            seconds_left,
        }
    }

    /// Verdict, reason and rule of a name on one line.
    #[track_caller]
    fn check_name(text: &str, name: &str, expected: &str) {
        let scene = scene(text);
        let found = scene.explain_name(name);
        let reason = found.reason.map_or("-", DropReason::name);
        let line = format!("{} {reason}; {}", found.verdict.as_str(), found.rule);
        assert_eq!(line, expected, "{text} {name}");
    }

    #[test]
    fn d3_a_name_is_answered_by_the_entry_that_allows_it() {
        let refused = "not in allowed_domains: the agent's resolver answers REFUSED";
        for (name, rule) in [
            ("api.example.com", "api.example.com"),
            ("a.b.github.com", "*.github.com"),
        ] {
            let expected = format!("allowed -; allowed_domains: {rule}");
            check_name(LISTS, name, &expected);
            let audited = LISTS.replace('}', r#", "audit": true}"#);
            check_name(&audited, name, &expected);
        }
        for name in ["github.com", "example.com", "x.api.example.com"] {
            check_name(LISTS, name, &format!("denied -; {refused}"));
            let audited = LISTS.replace('}', r#", "audit": true}"#);
            check_name(&audited, name, &format!("audited -; {refused}"));
        }
        check_name(
            r#"{"allowed_domains": []}"#,
            "api.example.com",
            &format!("denied -; {refused}"),
        );
    }

    #[test]
    fn d2_without_a_list_of_names_all_are_answered_or_none() {
        let every = "there is no list of names: the agent's resolver answers for every one";
        let none =
            "the agent's resolver answers REFUSED: there are allowed_cidrs, and no allowed_domains";
        for (text, expected) in [
            ("{}", format!("allowed -; {every}")),
            (r#"{"audit": true}"#, format!("allowed -; {every}")),
            (r#"{"denied_cidrs": []}"#, format!("allowed -; {every}")),
            (r#"{"allowed_cidrs": []}"#, format!("denied -; {none}")),
            (
                r#"{"allowed_cidrs": [], "audit": true}"#,
                format!("audited -; {none}"),
            ),
            (
                r#"{"network_policy": "deny-all"}"#,
                "denied deny_all; policy deny-all".to_owned(),
            ),
            (
                r#"{"network_policy": "deny-all", "audit": true}"#,
                "audited deny_all; policy deny-all".to_owned(),
            ),
        ] {
            check_name(text, "api.example.com", &expected);
        }
        let mut flooding = scene(LISTS);
        flooding.record.policy_flags |= policy_flag::QUARANTINE;
        let found = flooding.explain_name("api.example.com");
        assert_eq!(
            (found.verdict, found.rule),
            (Verdict::Denied, NameRule::Quarantine)
        );
    }

    #[test]
    fn d5_a_name_says_where_it_leads_now() {
        let mut scene = scene(LISTS);
        let own = [
            learned("api.example.com", "203.0.113.1", 60),
            learned("api.example.com", "2001:db8::7", 0),
        ];
        scene.learned = own.to_vec();
        let others = learned("x.github.com", "203.0.113.1", 90);
        scene.learned.push(others.clone());
        assert_eq!(scene.explain_name("api.example.com").addresses, own);
        assert_eq!(scene.explain_name("x.github.com").addresses, [others]);
        assert_eq!(scene.explain_name("y.github.com").addresses, []);
    }

    #[test]
    fn d4_what_a_name_led_to_is_allowed_unless_it_is_denied() {
        let mut scene = scene(LISTS);
        let nowhere = "denied not_allowed; not in allowed_cidrs, and no allowed domain led there";
        scene.check("203.0.113.1", &format!("{nowhere}; {OUT}"));
        scene.learned = vec![
            learned("api.example.com", "203.0.113.1", 60),
            learned("x.github.com", "203.0.113.1", 90),
            learned("api.example.com", "203.0.113.129", 60),
            learned("api.example.com", "169.254.169.254", 60),
            learned("api.example.com", "10.0.0.1", 60),
            learned("api.example.com", "203.0.113.3", 0),
        ];
        scene.check(
            "203.0.113.1:443",
            &format!("allowed -; learned from x.github.com, 90 s left; {OUT}"),
        );
        scene.check(
            "203.0.113.3",
            &format!("allowed -; learned from api.example.com, held by open flows; {OUT}"),
        );
        scene.check("203.0.113.2", &format!("{nowhere}; {OUT}"));
        scene.check(
            "203.0.113.129",
            &format!("denied denied_cidr; denied_cidrs: 203.0.113.128/25; {OUT}"),
        );
        scene.check(
            "169.254.169.254",
            "denied always_denied; no policy opens 169.254.0.0/16; always denied: cloud metadata",
        );
        scene.check(
            "10.0.0.1",
            &format!("allowed -; allowed_cidrs: 10.0.0.0/8; {OUT}"),
        );
        // A list that is gone takes what it opened with it.
        scene.policy.allowed_domains = None;
        scene.record.policy_flags = 0;
        assert_eq!(scene.policy.mode, PolicyMode::Custom);
        scene.check(
            "203.0.113.1",
            &format!("denied not_allowed; not in allowed_cidrs; {OUT}"),
        );
    }

    #[test]
    fn d2_dns_is_steered_whatever_address_is_asked_and_ways_around_it_are_dropped() {
        let listed = scene(LISTS);
        let answers = "the agent's resolver answers for allowed_domains alone";
        for asked in [
            "203.0.113.1:53",
            "203.0.113.129:53/udp",
            "169.254.169.254:53/udp",
            "172.16.0.9:53",
            "198.51.100.2:53",
            "[2001:db9::7]:53",
        ] {
            let path = "the agent's resolver, whatever address is asked";
            listed.check(asked, &format!("allowed -; {answers}; {path}"));
        }
        let gateway = "the gateway: echo, DNS and DHCP only";
        listed.check("172.16.0.1:53", &format!("allowed -; {answers}; {gateway}"));
        let bypass = format!(
            "{}; a way around allowed_domains: DNS is asked at port 53 alone",
            DropReason::DnsBypass.name()
        );
        for (address, path) in [
            ("10.0.0.1", OUT),
            ("172.16.0.1", gateway),
            ("224.0.0.251", OUT),
        ] {
            for number in port::DNS_BYPASSES {
                for protocol in ["tcp", "udp"] {
                    let asked = format!("{address}:{number}/{protocol}");
                    listed.check(&asked, &format!("denied {bypass}; {path}"));
                }
            }
        }
        let audited = LISTS.replace('}', r#", "audit": true}"#);
        let audited = scene(&audited);
        audited.check("10.0.0.1:853", &format!("audited {bypass}; {OUT}"));
        audited.check(
            "203.0.113.1:53",
            "allowed -; the agent's resolver answers, and counts what is not in allowed_domains; the agent's resolver, whatever address is asked",
        );
        // Without a list of names they are ports like any other.
        let open = scene("{}");
        for number in port::DNS_BYPASSES.into_iter().chain([port::DNS]) {
            let asked = format!("203.0.113.1:{number}");
            open.check(&asked, &format!("allowed -; policy allow-all; {OUT}"));
        }
    }
}
