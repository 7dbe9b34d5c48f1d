//! When `drop_all` drops what an instance sends (design, decision 7): nothing of it is to pass, and no flow of it is left
//! that the filters would reset.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use netagent_common::policy::policy_flag::{AUDIT, DENY_ALL, LEG};
use netagent_common::vm;
use tokio::time::Instant;

use crate::agent::Agent;
use crate::agent::registry::Key;
use crate::host::{Host, HostError};
use crate::instance::{Instance, Life};
use crate::plan::Observed;

/// Time that flows have to be reset. UDP is told of nothing after its next packet, and its flows last for minutes.
const RESET_TIME: Duration = Duration::from_secs(10);

/// Instances, by number, of which nothing is to pass.
#[derive(Debug, Default)]
pub(crate) struct Denied {
    /// Flows of theirs may be left, and since when.
    waiting: BTreeMap<u32, Instant>,
    /// The others.
    settled: BTreeSet<u32>,
}

impl Denied {
    /// Goes on with those whose time an earlier agent saw over: they have it. The others have their time anew.
    pub(crate) fn take_over(&mut self, observed: &Observed) {
        if let Some(datapath) = &observed.datapath {
            let records = datapath.interfaces.values();
            let denied = records
                .filter(|record| denies(record) && datapath.drop_all.contains(&record.ifindex));
            self.settled.extend(denied.map(|record| record.instance));
        }
    }

    pub(crate) fn is_settled(&self, number: u32) -> bool {
        self.settled.contains(&number)
    }

    /// Whether flows may have to be asked for.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn note(&mut self, number: u32, is_denied: bool, now: Instant) {
        if !is_denied {
            self.waiting.remove(&number);
            self.settled.remove(&number);
        } else if !self.settled.contains(&number) {
            self.waiting.entry(number).or_insert(now);
        }
    }

    fn settle(&mut self, number: u32) {
        if self.waiting.remove(&number).is_some() {
            self.settled.insert(number);
        }
    }
}

const fn denies(record: &vm::Interface) -> bool {
    record.policy_flags & (DENY_ALL | AUDIT | LEG) == DENY_ALL && record.account == 0
}

impl<H: Host> Agent<H> {
    /// Notes of which of these instances nothing is to pass from now on. The number of one that does not run may soon be
    /// another's.
    pub(crate) fn follow_denied(&mut self, keys: impl IntoIterator<Item = Key>) {
        let now = Instant::now();
        for key in keys {
            let Some(held) = self.registry.get(key) else {
                continue;
            };
            let number = held.instance.number();
            let runs = held.instance.life == Life::Running;
            let is_denied = runs && self.is_denied(&held.instance);
            self.denied.note(number, is_denied, now);
            if !runs {
                self.quarantine.forget(number);
            }
        }
    }

    /// Whether nothing that the guest sends is to pass, and nobody may open anything towards it.
    fn is_denied(&self, instance: &Instance) -> bool {
        let (_, flags) = self.policy_of(instance);
        flags & (DENY_ALL | AUDIT) == DENY_ALL
            && instance.publications.is_empty()
            && instance.exposed.is_empty()
            && self.account_number(instance) == 0
    }

    /// Attaches `drop_all` where no flow is left.
    pub(crate) async fn settle_denied(&mut self) -> Result<(), HostError> {
        let now = Instant::now();
        let mut settled = Vec::new();
        for (number, since) in self.denied.waiting.clone() {
            // The number of an instance is the slot of its first interface.
            // Where its flows cannot be counted, its time comes all the same.
            let counted = self.host.counters(number).await;
            let is_over = now.saturating_duration_since(since) >= RESET_TIME
                || counted.is_ok_and(|counters| counters.open_flows == 0);
            if is_over {
                self.denied.settle(number);
                settled.extend(self.registry.key_of(number));
            }
        }
        self.carry_out(&settled).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_meanwhile_is_waited_for_again() {
        let mut denied = Denied::default();
        let start = Instant::now();
        let later = start + RESET_TIME;
        denied.note(7, true, start);
        denied.note(7, true, later);
        assert_eq!(denied.waiting.get(&7), Some(&start), "since it was denied");
        denied.settle(7);
        assert!(denied.is_settled(7) && !denied.is_waiting());
        denied.note(7, true, later);
        assert!(denied.is_settled(7) && !denied.is_waiting());
        denied.note(7, false, later);
        assert!(!denied.is_settled(7));
        denied.note(7, true, later);
        assert!(!denied.is_settled(7) && denied.is_waiting());
        denied.note(7, false, later);
        denied.settle(7);
        assert!(!denied.is_settled(7), "allowed before its time came");
    }
}
