//! What policies in audit mode would have dropped, in the log (P-14): one line for each instance and reason, as often as
//! flows are collected.

use std::collections::BTreeMap;

use netagent_common::drop::DropReason;

use crate::agent::Agent;
use crate::agent::registry::Key;
use crate::host::{Host, HostError};
use crate::instance::Life;

/// An interface in one life of its slot.
type Place = (u32, u32);
/// Packets by reason.
type Counts = BTreeMap<DropReason, u64>;

/// What was counted at the last look; nothing before the first one, which finds what an earlier agent has logged.
#[derive(Debug, Default)]
pub(crate) struct Audited {
    before: Option<BTreeMap<Place, Counts>>,
}

impl Audited {
    /// Keeps what was counted, and gives what came since.
    fn note(&mut self, place: Place, counts: &Counts, is_first: bool) -> Counts {
        let before = self.before.get_or_insert_default();
        let old = before.insert(place, counts.clone()).unwrap_or_default();
        if is_first {
            return Counts::new();
        }
        let since = counts.iter().map(|(reason, count)| {
            let old = old.get(reason).copied().unwrap_or_default();
            (*reason, count.saturating_sub(old))
        });
        since.filter(|(_, count)| *count > 0).collect()
    }
}

impl<H: Host> Agent<H> {
    /// Says what came since the last look.
    pub(crate) async fn log_audited(&mut self) -> Result<(), HostError> {
        let is_first = self.audited.before.is_none();
        let all = self.registry.all().map(|(key, held)| (key, &held.instance));
        let running = all.filter(|(_, instance)| instance.life == Life::Running);
        let mut places: BTreeMap<Place, Option<(Key, String)>> = BTreeMap::new();
        for (key, instance) in running {
            let audit = instance.policy.audit;
            // Two accounts may have instances of the same name.
            let name = audit.then(|| (key, instance.name.to_string()));
            let slots = instance.interfaces.iter().map(|one| one.slot);
            places.extend(slots.map(|slot| ((slot, instance.generation), name.clone())));
        }
        let before = self.audited.before.get_or_insert_default();
        before.retain(|place, _| places.contains_key(place));
        let mut since: BTreeMap<((Key, String), DropReason), u64> = BTreeMap::new();
        for (place, name) in places {
            // Whose policy is in force has nothing audited.
            let Some(name) = name else { continue };
            let counts = self.host.counters(place.0).await?.audited;
            for (reason, count) in self.audited.note(place, &counts, is_first) {
                *since.entry((name.clone(), reason)).or_default() += count;
            }
        }
        for (((_, instance), reason), packets) in since {
            let reason = reason.name();
            tracing::info!(instance, reason, packets, "audit: the policy would drop");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_since_the_last_look_is_said_once_and_the_first_look_says_nothing() {
        let counts = |denied| Counts::from([(DropReason::DeniedCidr, denied)]);
        let mut audited = Audited::default();
        assert_eq!(audited.note((1, 1), &counts(5), true), Counts::new());
        assert_eq!(audited.note((1, 1), &counts(7), false), counts(2));
        assert_eq!(audited.note((1, 1), &counts(7), false), Counts::new());
        assert_eq!(audited.note((1, 2), &counts(3), false), counts(3));
    }
}
