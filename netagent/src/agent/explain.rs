//! What becomes of what a guest sends, asked of what is in force (O-3).

use std::borrow::Cow;
use std::collections::BTreeSet;

use netagent_common::policy::policy_flag::QUARANTINE;
use netagent_common::vm;

use crate::access::Caller;
use crate::agent::registry::Held;
use crate::agent::{Agent, RequestError};
use crate::gateway::gateway_of;
use crate::host::Host;
use crate::instance::{Instance, Life};
use crate::plan::publish::Ports;
use crate::plan::routes;
use crate::policy::explain::{
    Behind, ByRelay, Explanation, InForce, LearnedFrom, NameExplanation, Question, Subject,
    explain, explain_name, publication,
};
use crate::spec::name::Name;

/// An explanation, with what else is to be known.
#[derive(Clone, Debug)]
pub struct Explained {
    /// Name of the instance.
    pub instance: Name,
    /// What was asked, and the answer.
    pub answer: Answered,
    /// Whether the instance runs.
    pub runs: bool,
    /// What the answer depends on besides.
    pub notes: Vec<String>,
}

/// A question with its answer.
#[derive(Clone, Debug)]
pub enum Answered {
    /// Of a packet.
    Packet(Question, Explanation),
    /// Of a name.
    Name(String, NameExplanation),
}

impl<H: Host> Agent<H> {
    /// What becomes of what the guest of an instance sends. One that does not run is answered for as if it did.
    pub(crate) fn explain(
        &self,
        caller: &Caller,
        name: &str,
        subject: &Subject,
    ) -> Result<Explained, RequestError> {
        let key = self.find(caller, name)?;
        let held = self.held(key, name)?;
        let instance = &held.instance;
        let datapath = self.observed.datapath.as_ref();
        let routes = match datapath {
            Some(datapath) => Cow::Borrowed(&datapath.routes),
            None => Cow::Owned(routes::compile(&self.wanted_all(), &self.observed).0),
        };
        let none = Ports::default();
        let ports = datapath.map_or(&none, |datapath| &datapath.ports);
        let records = self.records(instance);
        let learned = self.learned_of(instance);
        let by_relay = self.by_relay(instance, &records);
        let in_force = InForce {
            records: &records,
            policy: &instance.policy,
            compiled: held.compiled.as_deref(),
            routes: &routes,
            links: &self.observed.links,
            ports,
            host_ports: datapath.map_or(&self.config.policy.allow_host_ports, |datapath| {
                &datapath.host_ports
            }),
            behind: self.behind(caller, ports, subject),
            learned: &learned,
            relay: by_relay.as_ref().map(|(name, down, flags)| ByRelay {
                name: name.as_str(),
                down: down.as_deref(),
                flags: *flags,
            }),
        };
        Ok(Explained {
            instance: instance.name.clone(),
            answer: answer(subject, &in_force),
            runs: instance.life == Life::Running,
            notes: self.notes(held, subject, &in_force),
        })
    }

    /// What allowed names led to for this instance.
    fn learned_of(&self, instance: &Instance) -> Vec<LearnedFrom> {
        let led = self.learned.of_instance(instance.number()).into_iter();
        led.map(|led| LearnedFrom {
            name: led.name,
            address: led.address,
            seconds_left: led.left.as_secs(),
        })
        .collect()
    }

    fn records(&self, instance: &Instance) -> Vec<vm::Interface> {
        let quarantine = self.quarantine.flag(instance.number());
        let interfaces = instance.interfaces.iter().enumerate();
        let records = interfaces.map(|(index, interface)| {
            let mut record = self.record(instance, index, interface);
            record.policy_flags |= quarantine;
            record
        });
        records.collect()
    }

    /// The relay of the interface with the default route, why it is down, and the flags of that interface.
    fn by_relay(
        &self,
        instance: &Instance,
        records: &[vm::Interface],
    ) -> Option<(Name, Option<String>, u32)> {
        let way = gateway_of(&instance.interfaces, instance.gateway).interface;
        let (interface, record) = instance.interfaces.get(way).zip(records.get(way))?;
        let name = interface.relay.as_ref()?.name.clone();
        Some((
            name,
            self.why_down(instance, interface),
            record.policy_flags,
        ))
    }

    /// The instance behind the port that is asked for. The names of other accounts are nobody's business.
    fn behind(&self, caller: &Caller, ports: &Ports, subject: &Subject) -> Option<Behind<'_>> {
        let to = match subject {
            Subject::Packet(question) => publication(ports, question)?,
            Subject::Name(_) => return None,
        };
        let mut all = self.registry.all().map(|(_, held)| held);
        let held = all.find(|held| held.instance.number_towards() == to.slot);
        let own = held.filter(|held| held.instance.account == caller.account);
        Some(Behind {
            to,
            name: own.map(|held| held.instance.name.as_str()),
            compiled: held.and_then(|held| held.compiled.as_deref()),
            audit: held.is_some_and(|held| held.instance.policy.audit),
        })
    }

    fn notes(&self, held: &Held, subject: &Subject, in_force: &InForce<'_>) -> Vec<String> {
        let instance = &held.instance;
        let mut notes = Vec::new();
        if instance.life != Life::Running {
            let life = instance.life.as_str();
            notes.push(format!(
                "the instance does not run ({life}): this is what would hold if it did"
            ));
        }
        if let Some(trouble) = &held.trouble {
            notes.push(format!(
                "the instance is in error, and what is in force may be older: {}",
                trouble.reason
            ));
        }
        let bound = self.config.policy.quarantine_pps;
        if let Some(reason) = self.quarantine.reason(instance.number(), bound) {
            notes.push(reason);
            notes.push(without_quarantine(subject, in_force));
        }
        notes.extend(which_way(instance));
        notes.extend(limits(instance));
        notes
    }
}

fn answer(subject: &Subject, in_force: &InForce<'_>) -> Answered {
    match subject {
        Subject::Packet(question) => Answered::Packet(*question, explain(question, in_force)),
        Subject::Name(name) => Answered::Name(name.clone(), explain_name(name, in_force)),
    }
}

/// What holds again once the guest is quiet.
fn without_quarantine(subject: &Subject, in_force: &InForce<'_>) -> String {
    let mut records = in_force.records.to_vec();
    for record in &mut records {
        record.policy_flags &= !QUARANTINE;
    }
    let later = InForce {
        records: &records,
        ..*in_force
    };
    let (verdict, rule) = match answer(subject, &later) {
        Answered::Packet(_, found) => (found.verdict, found.rule.to_string()),
        Answered::Name(_, found) => (found.verdict, found.rule.to_string()),
    };
    format!("after the quarantine: {} ({rule})", verdict.as_str())
}

/// Where interfaces have different relays, by which of them it goes.
fn which_way(instance: &Instance) -> Option<String> {
    let relays = instance.interfaces.iter().map(|one| one.relay.as_ref());
    let names: BTreeSet<Option<&Name>> = relays.map(|relay| relay.map(|one| &one.name)).collect();
    let way = gateway_of(&instance.interfaces, instance.gateway).interface;
    let by = instance.interfaces.get(way).filter(|_| names.len() > 1)?;
    Some(format!(
        "this is what becomes of what goes by network interface '{}', which has the default route: not all have the same relay",
        by.name
    ))
}

/// The limits that may drop what is allowed.
fn limits(instance: &Instance) -> Option<String> {
    let limits = &instance.limits;
    let said = [
        limits.bandwidth.map(|rate| format!("bandwidth {rate}")),
        limits
            .bandwidth_in
            .map(|rate| format!("bandwidth_in {rate}")),
        limits.pps.map(|pps| format!("{pps} packets a second")),
        limits.flows.map(|flows| format!("{flows} open flows")),
    ];
    let said: Vec<String> = said.into_iter().flatten().collect();
    (!said.is_empty()).then(|| format!("limited to {}", said.join(", ")))
}
