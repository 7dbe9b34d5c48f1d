//! What names led to, kept in step with what is in force: closed before a policy that does not allow it, and when the
//! instance ends.

use std::sync::Arc;

use netagent_common::policy::{Verdict, policy_flag};
use netagent_common::vm;

use crate::agent::Agent;
use crate::dns::Start;
use crate::host::{Host, HostError, one_line};
use crate::instance::{Instance, Life};
use crate::learned::now_ns;
use crate::plan::Step;
use crate::spec::domain::Domains;

impl<H: Host> Agent<H> {
    /// Takes up what the kernel's tables hold, where they are there and nobody has yet.
    pub(crate) fn resume_learned(&mut self) {
        if !self.learned.is_ready() {
            self.read_learned();
        }
    }

    /// Takes up what the tables hold that a load may have made anew.
    pub(crate) fn read_learned(&mut self) {
        let read = match self.host.learned() {
            Ok(None) => return,
            Ok(Some(table)) => {
                let read = self.learned.resume(table, &self.starts());
                read.map_err(|cause| HostError::failed("read what names led to", cause))
            }
            Err(error) => Err(error),
        };
        if let Err(error) = read {
            let reason = one_line(&error);
            tracing::error!(reason, "no name of a list is answered until this is mended");
        }
    }

    fn starts(&self) -> Vec<Start> {
        let held = self.registry.all().map(|(_, held)| &held.instance);
        let named = held.filter(|instance| names_of(instance).is_some());
        named.map(start_of).collect()
    }

    /// Before a record comes into force: what its list of names does not allow is closed, so that no flow is judged by
    /// this policy and what an earlier one led to. Where that fails the record does not come into force. What its networks
    /// allow stays until the record says so: it is open under both.
    pub(crate) fn close_before(&self, step: &Step) -> Result<(), HostError> {
        let Step::WriteInterface { record } = step else {
            return Ok(());
        };
        self.retain_for(record)
    }

    fn retain_for(&self, record: &vm::Interface) -> Result<(), HostError> {
        if record.policy_flags & policy_flag::NAMES == 0 {
            return Ok(());
        }
        let held = self.registry.by_number(record.instance);
        let Some(names) = held.and_then(|held| names_of(&held.instance)) else {
            return Ok(());
        };
        let start = Start {
            instance: record.instance,
            generation: record.generation,
        };
        let compiled = held.and_then(|held| held.compiled.as_ref());
        let is_allowed = |address| {
            let entry = compiled.and_then(|compiled| compiled.entry(address));
            entry.is_some_and(|(_, verdict)| verdict == Verdict::Allowed)
        };
        let retained = self.learned.retain_before(start, names, is_allowed);
        retained.map_err(|cause| HostError::failed("close what names led to", cause))
    }

    /// After the records of an instance are in force: what it may learn is what its list says, and where it has none,
    /// nothing that it learned stays.
    pub(crate) fn follow_learned(&self, instance: &Instance) {
        let followed = match names_of(instance) {
            Some(names) => self.learned.retain(start_of(instance), names),
            None => self.learned.forget(instance.number()),
        };
        if let Err(error) = followed
            && self.learned.is_ready()
        {
            let (instance, reason) = (instance.name.as_str(), one_line(&error));
            tracing::error!(instance, reason, "what names led to is not closed");
        }
    }

    /// Removes flows that timed out, and then what names led to and no flow uses any more.
    pub(crate) async fn collect(&mut self) -> Result<(), HostError> {
        let since_ns = now_ns();
        if self.host.collect().await? {
            let expired = self.learned.expire(since_ns);
            return expired.map_err(|cause| HostError::failed("close what names led to", cause));
        }
        Ok(())
    }
}

/// The list of names of an instance that runs.
fn names_of(instance: &Instance) -> Option<&Arc<Domains>> {
    let names = instance.policy.allowed_domains.as_ref();
    names.filter(|_| instance.life == Life::Running)
}

pub(crate) fn start_of(instance: &Instance) -> Start {
    Start {
        instance: instance.number(),
        generation: instance.generation,
    }
}
