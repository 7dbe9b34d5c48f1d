//! What guests may reach: compiled once for each change, and named in the records of their interfaces.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use netagent_common::policy::policy_flag::{AUDIT, DENY_ALL, NAMES};
use netagent_common::policy::{NO_POLICY, PolicyId};
use netagent_common::vm;

use crate::access::Caller;
use crate::agent::decide::Batch;
use crate::agent::registry::{Held, Key};
use crate::agent::{Agent, RequestError};
use crate::config::policy::{self as config, VmToVm};
use crate::host::{Host, one_line};
use crate::instance::{Instance, Life};
use crate::ipam::Pool;
use crate::policy::{Compiled, compile_around};
use crate::spec::policy::{Networks, PolicyMode, PolicySpec};
use crate::spec::relay;
use crate::store::Change;

/// What every policy comes to on this host, beside its own lists: the same as long as the agent runs.
#[derive(Debug)]
pub(crate) struct Compiler {
    deny_private: bool,
    opened: Vec<IpNet>,
    /// What the configuration denies to every instance, whatever its own policy is; `None` where that is nothing.
    for_everybody: Option<Arc<Compiled>>,
}

impl Compiler {
    pub(crate) fn new(config: &config::Policy, pool: &Pool) -> Self {
        let opened = match config.vm_to_vm {
            VmToVm::Off => Vec::new(),
            VmToVm::Account => pool.prefixes(),
        };
        let deny_private = config.deny_private;
        Self {
            deny_private,
            for_everybody: compile_around(&PolicySpec::default(), deny_private, &opened),
            opened,
        }
    }

    pub(crate) fn compile(&self, policy: &PolicySpec) -> Option<Arc<Compiled>> {
        compile_around(policy, self.deny_private, &self.opened)
    }
}

impl<H: Host> Agent<H> {
    /// The compiled policy of an instance that is held.
    fn compiled_of(&self, instance: &Instance) -> Option<Arc<Compiled>> {
        let held = self.registry.by_number(instance.number());
        match held.filter(|held| held.instance.policy == instance.policy) {
            Some(held) => held.compiled.clone(),
            None => self.compiler.compile(&instance.policy),
        }
    }

    /// What the record of an interface says of its instance's policy: its name, and the flags.
    pub(crate) fn policy_of(&self, instance: &Instance) -> (PolicyId, u32) {
        let compiled = self.compiled_of(instance);
        let policy = &instance.policy;
        let flag = |holds, flag| if holds { flag } else { 0 };
        let has_names = policy.mode == PolicyMode::Custom && policy.allowed_domains.is_some();
        let flags = flag(policy.mode == PolicyMode::DenyAll, DENY_ALL)
            | flag(policy.audit, AUDIT)
            | flag(has_names, NAMES);
        (compiled.map_or(NO_POLICY, |compiled| compiled.id), flags)
    }

    /// The policy of a leg: a relay is not bound by the lists of its clients, nor it by its own for them (R-6), but what
    /// the configuration denies to every instance it denies here too (P-5).
    pub(crate) fn policy_of_legs(&self) -> PolicyId {
        let compiled = self.compiler.for_everybody.as_ref();
        compiled.map_or(NO_POLICY, |compiled| compiled.id)
    }

    /// The compiled policies of every instance that runs, and of their legs.
    pub(crate) fn wanted_policies(&self) -> BTreeMap<PolicyId, Arc<Compiled>> {
        let running = self.registry.all().map(|(_, held)| held);
        let running = running.filter(|held| held.instance.life == Life::Running);
        let has_legs = |held: &Held| {
            let mut interfaces = held.instance.interfaces.iter();
            interfaces.any(|interface| interface.relay.is_some())
        };
        let of_legs = running
            .clone()
            .any(has_legs)
            .then(|| self.compiler.for_everybody.clone())
            .flatten();
        running
            .filter_map(|held| held.compiled.clone())
            .chain(of_legs)
            .map(|compiled| (compiled.id, compiled))
            .collect()
    }

    /// Raises the policy generation of instances whose records in force say something else under the same one, and of all
    /// where a port of the host is closed: the configuration changed what their policy comes to, and flows that are open
    /// are to be judged by it.
    pub(crate) fn judge_anew_by_configuration(&mut self) {
        let closes_host_ports = self.closes_host_ports();
        let mut batch = Batch::default();
        for key in self.registry.keys() {
            let Some(held) = self.registry.get(key) else {
                continue;
            };
            let may_end = closes_host_ports && held.instance.life == Life::Running;
            if !may_end && !self.is_judged_otherwise(held) {
                continue;
            }
            let before = held.clone();
            let mut instance = before.instance.clone();
            instance.policy_generation = instance.policy_generation.wrapping_add(1).max(1);
            let change = Change::Policy(Box::new(instance.clone()));
            batch.changes.push(change);
            batch.replace(key, before.clone());
            self.registry.put(key, Held { instance, ..before });
        }
        if let Err(error) = self.commit_own(batch) {
            let reason = one_line(&error);
            tracing::error!(
                reason,
                "open flows are judged by the configuration of before"
            );
        }
    }

    /// Whether guests reach listeners of the host that they are to reach no longer.
    fn closes_host_ports(&self) -> bool {
        let wanted = &self.config.policy.allow_host_ports;
        let datapath = self.observed.datapath.as_ref();
        datapath.is_some_and(|datapath| !datapath.host_ports.is_subset(wanted))
    }

    fn is_judged_otherwise(&self, held: &Held) -> bool {
        let wanted = self.wanted_interfaces(&held.instance);
        let datapath = self.observed.datapath.as_ref();
        wanted.values().any(|interface| {
            let wanted = &interface.record;
            let found = datapath.and_then(|datapath| datapath.interfaces.get(&wanted.slot));
            found.is_some_and(|found| {
                let life = |record: &vm::Interface| (record.generation, record.policy_generation);
                let policy = |record: &vm::Interface| {
                    let flags = record.policy_flags & (DENY_ALL | AUDIT | NAMES);
                    (record.policy, flags, record.account)
                };
                life(found) == life(wanted) && policy(found) != policy(wanted)
            })
        })
    }

    /// Replaces the policy of an instance (P-9): its flows are judged again, by the policy generation.
    pub(crate) fn decide_policy(
        &mut self,
        caller: &Caller,
        name: &str,
        (policy, compiled): (PolicySpec, Option<Arc<Compiled>>),
        batch: &mut Batch,
    ) -> Result<Key, RequestError> {
        let key = self.find(caller, name)?;
        let held = self.held(key, name)?.clone();
        let relays = held.instance.interfaces.iter();
        for relay in relays.filter_map(|interface| interface.relay.as_ref()) {
            relay::check_dns(relay.dns, &policy)?;
        }
        if held.instance.policy == policy {
            batch.touch_if_troubled(key, &held);
            return Ok(key);
        }
        let detail = described(&policy);
        let generation = held.instance.policy_generation.wrapping_add(1).max(1);
        let instance = Instance {
            policy,
            policy_generation: generation,
            ..held.instance.clone()
        };
        batch.audit(caller, "policy", instance.name.as_str(), detail);
        let change = Change::Policy(Box::new(instance.clone()));
        batch.changes.push(change);
        let changed = Held {
            compiled,
            ..held.with(instance)
        };
        self.change_held(key, held, changed, batch);
        Ok(key)
    }
}

/// A policy in a line of the audit, which grows for ever: the lists themselves are too long for it.
fn described(policy: &PolicySpec) -> String {
    let count = |list: &Option<Networks>, what: &str| {
        let list = list.as_ref()?;
        Some(format!(", {} {what}", BTreeSet::len(list)))
    };
    let mut text = policy.mode.as_str().to_owned();
    let names = policy.allowed_domains.as_ref();
    text.extend(names.map(|names| format!(", {} allowed_domains", names.len())));
    text.extend(count(&policy.allowed_cidrs, "allowed_cidrs"));
    text.extend(count(&policy.denied_cidrs, "denied_cidrs"));
    text.push_str(if policy.audit { ", audit" } else { "" });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let policy = PolicySpec::parse(&serde_json::from_str(text).unwrap());
        assert_eq!(described(&policy.unwrap()), expected);
    }

    #[test]
    fn the_audit_names_a_policy_in_a_few_words() {
        check("{}", "allow-all");
        check(r#"{"network_policy": "deny-all"}"#, "deny-all");
        check(
            r#"{"allowed_cidrs": ["10.0.0.0/8", "::/0"], "denied_cidrs": [], "audit": true}"#,
            "custom, 2 allowed_cidrs, 0 denied_cidrs, audit",
        );
        check(
            r#"{"allowed_domains": ["a.example", "*.a.example", "A.example."], "denied_cidrs": []}"#,
            "custom, 2 allowed_domains, 0 denied_cidrs",
        );
    }
}
