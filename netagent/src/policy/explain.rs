//! What becomes of what a guest sends, and why (O-3): read from what fills the maps, in the order in which the programs
//! judge (P-3).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netagent_common::drop::DropReason;
use netagent_common::policy::{RouteKind, Verdict as Listed, policy_flag};
use netagent_common::services::port;
use netagent_common::vm::Interface;

use crate::plan::publish::{Ports, PublishedAt, PublishedTo};
use crate::plan::routes::{self, RouteMap};
use crate::plan::{ObservedLink, RouteTarget};
use crate::policy::Compiled;
use crate::spec::policy::{PolicyMode, PolicySpec};
use crate::spec::publish::ExposedPort;

mod host;
mod names;
mod path;
mod question;
mod relay;
mod words;

pub use names::{LearnedFrom, NameExplanation, NameRule, explain_name};
pub use path::Path;
pub use question::{Packet, Question, QuestionError, Subject};
pub use relay::ByRelay;

/// What the programs know of an instance, and of where its packets go.
#[derive(Clone, Copy, Debug)]
pub struct InForce<'a> {
    /// The records of its interfaces, the primary's first.
    pub records: &'a [Interface],
    /// Its policy as it was asked for.
    pub policy: &'a PolicySpec,
    /// The same compiled, where it needs entries.
    pub compiled: Option<&'a Compiled>,
    /// The route map.
    pub routes: &'a RouteMap,
    /// Links of the host.
    pub links: &'a BTreeMap<u32, ObservedLink>,
    /// Published ports of all instances.
    pub ports: &'a Ports,
    /// Ports of the host whose listeners guests may reach.
    pub host_ports: &'a BTreeSet<ExposedPort>,
    /// Whom the port belongs to, where the host publishes the one that is asked for.
    pub behind: Option<Behind<'a>>,
    /// What allowed names led to.
    pub learned: &'a [LearnedFrom],
    /// Through whose VM everything goes, where it does.
    pub relay: Option<ByRelay<'a>>,
}

/// The instance behind a published port.
#[derive(Clone, Copy, Debug)]
pub struct Behind<'a> {
    /// The publication.
    pub to: PublishedTo,
    /// Its name, where the asker may know it.
    pub name: Option<&'a str>,
    /// Its policy.
    pub compiled: Option<&'a Compiled>,
    /// Whether that is only counted.
    pub audit: bool,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Whether it passes.
    pub verdict: Verdict,
    /// As which drop it is counted; in audit mode, as which it would be.
    pub reason: Option<DropReason>,
    /// What decides.
    pub rule: Rule,
    /// Where it goes, or would go.
    pub path: Path,
    /// Name of the relay through which it goes there.
    pub relay: Option<String>,
}

/// Whether a packet passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Allowed,
    /// It is dropped.
    Denied,
    /// The policy would drop it, and it is only counted (P-14).
    Audited,
}

impl Verdict {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Audited => "audited",
        }
    }
}

/// What decides about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they print themselves as sentences")]
pub enum Rule {
    Quarantine,
    NoV6,
    Gateway(Service),
    DenyAll,
    AllowAll,
    DeniedCidr(IpNet),
    AllowedCidr(IpNet),
    Private(IpNet),
    Learned(LearnedFrom),
    NotAllowed,
    NotLearned,
    DnsBypass,
    Unnamed,
    Uncompiled,
    Destination(IpNet),
    Unpublished,
    NotSender,
    HostPort(ExposedPort),
    DeniedPeer(IpNet),
    NoRoute,
    NoSnatAddress(IpAddr),
    /// Name of the relay, and why.
    RelayDown(String, String),
}

/// What the gateway serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they print themselves as sentences")]
pub enum Service {
    Echo,
    Dhcp,
    Dns,
    RefusedDns,
    ListedDns,
    AuditedDns,
    Nothing,
}

/// Why a packet is dropped.
type Refusal = (DropReason, Rule);

/// The publication that the host has for what is asked.
#[must_use]
pub fn publication(ports: &Ports, question: &Question) -> Option<PublishedTo> {
    let Packet::ToPort(protocol, port) = question.packet else {
        return None;
    };
    let every = match question.address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let at = |address| PublishedAt {
        address,
        port,
        protocol,
    };
    let mut places = [question.address, every].into_iter();
    places.find_map(|address| ports.published.get(&at(address)).copied())
}

/// What becomes of a packet.
#[must_use]
pub fn explain(question: &Question, in_force: &InForce<'_>) -> Explanation {
    let mut judge = Judge {
        in_force,
        address: question.address,
        packet: question.packet,
        audited: None,
    };
    let judged = judge.judge().and_then(|rule| judge.judge_relay(rule));
    let (verdict, reason, rule) = match (judged, judge.audited.take()) {
        (Err((reason, rule)), _) => (Verdict::Denied, Some(reason), rule),
        (Ok(_), Some((reason, rule))) => (Verdict::Audited, Some(reason), rule),
        (Ok(rule), None) => (Verdict::Allowed, None, rule),
    };
    Explanation {
        verdict,
        reason,
        rule,
        path: judge.path(),
        relay: judge.by_relay().map(|relay| relay.name.to_owned()),
    }
}

struct Judge<'a> {
    in_force: &'a InForce<'a>,
    address: IpAddr,
    packet: Packet,
    /// The first thing that the policy would drop the packet for.
    audited: Option<Refusal>,
}

impl Judge<'_> {
    fn judge(&mut self) -> Result<Rule, Refusal> {
        if self.in_force.has_flag(policy_flag::QUARANTINE) {
            return Err((DropReason::Quarantine, Rule::Quarantine));
        }
        if self.guest().is_none() {
            return Err((DropReason::SpoofedAddress, Rule::NoV6));
        }
        let broadcast = self.address == IpAddr::V4(Ipv4Addr::BROADCAST);
        let asks_dhcp = self.address.is_ipv4() && self.packet.is_udp_to(port::DHCP_SERVER);
        if asks_dhcp && (broadcast || self.is_gateway()) {
            return Ok(Rule::Gateway(Service::Dhcp));
        }
        if let Some(rule) = self.judge_names()? {
            return Ok(rule);
        }
        if self.is_gateway() {
            return self.judge_gateway();
        }
        self.judge_any()?;
        let (network, target) = self.route();
        match target.kind.judge() {
            Ok(()) => {
                let rule = self.judge_lists()?;
                self.check_snat()?;
                Ok(rule)
            }
            Err(DropReason::HostAddress) => match self.host_port() {
                Some(port) => self.judge_host_port(port),
                None => self.judge_published(),
            },
            Err(DropReason::NoRoute) => {
                let rule = self.judge_lists()?;
                if self.in_force.relay.is_some() {
                    // It may know a way.
                    return Ok(rule);
                }
                Err((DropReason::NoRoute, Rule::NoRoute))
            }
            Err(reason) => Err((reason, Rule::Destination(network))),
        }
    }

    fn judge_any(&mut self) -> Result<(), Refusal> {
        if self.in_force.has_flag(policy_flag::DENY_ALL) {
            let audit = self.in_force.has_flag(policy_flag::AUDIT);
            self.refuse((DropReason::DenyAll, Rule::DenyAll), audit)?;
        }
        Ok(())
    }

    /// The lists of the instance on the address as it is written.
    fn judge_lists(&mut self) -> Result<Rule, Refusal> {
        let Some(compiled) = self.in_force.compiled else {
            return Ok(Rule::AllowAll);
        };
        let Some((network, listed)) = compiled.entry(self.address) else {
            return Err((DropReason::PolicyMissing, Rule::Uncompiled));
        };
        let rule = match listed {
            Listed::Default if self.in_force.policy.mode == PolicyMode::Custom => Rule::Unnamed,
            Listed::Default => Rule::AllowAll,
            Listed::Allowed => Rule::AllowedCidr(network),
            Listed::NotAllowed => {
                if let Some(rule) = self.learned() {
                    return Ok(rule);
                }
                match self.in_force.policy.allowed_domains {
                    Some(_) => Rule::NotLearned,
                    None => Rule::NotAllowed,
                }
            }
            Listed::Denied => Rule::DeniedCidr(network),
            Listed::AlwaysDenied | Listed::DeniedTwice => Rule::Private(network),
        };
        if let Err(reason) = listed.judge() {
            let audit = self.in_force.has_flag(policy_flag::AUDIT);
            self.refuse((reason, rule.clone()), audit)?;
        }
        Ok(rule)
    }

    /// A port of the host: published for this guest, and its own lists and the deny list of the instance behind it say
    /// nothing against it. That instance's guest sees the host's address; both addresses are judged.
    fn judge_published(&mut self) -> Result<Rule, Refusal> {
        let Some(behind) = self.in_force.behind else {
            return Err((DropReason::HostAddress, Rule::Unpublished));
        };
        let guest = self.guest();
        let is_sender = |guest: IpAddr| {
            let mut senders = self.in_force.ports.senders.iter();
            senders.any(|one| one.id == behind.to.id && one.network.contains(&guest))
        };
        if behind.to.limited && !guest.is_some_and(is_sender) {
            return Err((DropReason::PublishDenied, Rule::NotSender));
        }
        let rule = self.judge_lists()?;
        for peer in std::iter::once(self.address).chain(guest) {
            let entry = behind.compiled.and_then(|policy| policy.entry(peer));
            if let Some((network, Listed::Denied | Listed::DeniedTwice)) = entry {
                let refusal = (DropReason::DeniedCidr, Rule::DeniedPeer(network));
                self.refuse(refusal, behind.audit)?;
            }
        }
        Ok(rule)
    }

    fn check_snat(&self) -> Result<(), Refusal> {
        let is_host = |address| {
            let found = routes::find(self.in_force.routes, address);
            found.is_some_and(|(_, target)| target.kind == RouteKind::Host)
        };
        match self.snat() {
            Some(address) if !is_host(address) => {
                Err((DropReason::SnatAddress, Rule::NoSnatAddress(address)))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// In audit mode, what the policy would drop passes. What every instance is denied does not.
    fn refuse(&mut self, refusal: Refusal, audit: bool) -> Result<(), Refusal> {
        if audit && refusal.0.is_of_policy() {
            self.audited.get_or_insert(refusal);
            return Ok(());
        }
        Err(refusal)
    }

    fn route(&self) -> (IpNet, RouteTarget) {
        let found = routes::find(self.in_force.routes, self.address);
        found.unwrap_or((self.address.into(), routes::UNREACHABLE))
    }

    /// The guest's own address of this family, of the first interface that has one.
    fn guest(&self) -> Option<IpAddr> {
        self.own().next()
    }

    fn is_own(&self) -> bool {
        self.own().any(|own| own == self.address)
    }

    fn own(&self) -> impl Iterator<Item = IpAddr> {
        let is_v4 = self.address.is_ipv4();
        self.in_force.records.iter().filter_map(move |record| {
            let ([v4, ..], [v6, ..]) = (record.addresses_v4, record.addresses_v6);
            match is_v4 {
                true => Some(IpAddr::from(v4)),
                false => (record.has_v6 != 0).then(|| IpAddr::from(v6)),
            }
        })
    }

    fn is_gateway(&self) -> bool {
        let is_of = |record: &Interface| match self.address {
            IpAddr::V4(address) => {
                let gateways = [record.gateway_v4, record.instance_gateway_v4];
                gateways.contains(&address.octets())
            }
            IpAddr::V6(address) => record.has_v6 != 0 && address.octets() == record.gateway_v6,
        };
        self.in_force.records.iter().any(is_of)
    }

    /// Whether it is the host's own address on a TAP of the instance.
    fn is_on_tap(&self) -> bool {
        let records = &self.in_force.records;
        records.iter().any(|record| match self.address {
            IpAddr::V4(address) => record.gateway_v4 == address.octets(),
            IpAddr::V6(address) => record.gateway_v6 == address.octets(),
        })
    }

    /// The instance's own address towards the world, in this family.
    fn snat(&self) -> Option<IpAddr> {
        let record = self.in_force.records.first()?;
        let address = match self.address {
            IpAddr::V4(_) => IpAddr::from(record.snat_v4),
            IpAddr::V6(_) => IpAddr::from(record.snat_v6),
        };
        Some(address).filter(|address| !address.is_unspecified())
    }
}

#[cfg(test)]
mod tests;
