//! Guests that flood: nothing of them passes until they are quiet (`policy.quarantine_pps`).

use std::collections::BTreeMap;
use std::time::Duration;

use netagent_common::drop::DropReason;
use netagent_common::policy::policy_flag::{LEG, QUARANTINE};
use tokio::time::Instant;

use crate::agent::Agent;
use crate::agent::registry::Key;
use crate::host::{Host, HostError};
use crate::instance::{Instance, Life};
use crate::plan::Observed;

/// Time in which a guest is to send less than the bound, before anything of it passes again.
const QUIET: Duration = Duration::from_secs(10);

/// Which instances flood, and what tells it.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    /// Instances by number.
    held: BTreeMap<u32, Flood>,
    /// Frames that had come from each TAP at the last look, and from guests in quarantine by slot.
    before: Option<(Instant, Sent)>,
}

#[derive(Debug)]
struct Flood {
    /// Packets in a second; unknown where an earlier agent saw them.
    pps: Option<u64>,
    over_at: Instant,
}

/// Frames that guests had sent.
#[derive(Debug, Default)]
struct Sent {
    by_tap: BTreeMap<u32, u64>,
    dropped: BTreeMap<u32, u64>,
}

/// What a look at an instance changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Floods,
    IsQuiet,
}

impl Quarantine {
    /// Goes on with those that an earlier agent held.
    pub(crate) fn take_over(&mut self, observed: &Observed, now: Instant) {
        let datapath = observed.datapath.iter();
        let records = datapath.flat_map(|datapath| datapath.interfaces.values());
        let held = records.filter(|record| record.policy_flags & (QUARANTINE | LEG) == QUARANTINE);
        let flood = |number| {
            (
                number,
                Flood {
                    pps: None,
                    over_at: now,
                },
            )
        };
        self.held.extend(held.map(|record| flood(record.instance)));
    }

    /// The flag of the records of an instance.
    pub(crate) fn flag(&self, number: u32) -> u32 {
        if self.held.contains_key(&number) {
            QUARANTINE
        } else {
            0
        }
    }

    pub(crate) fn forget(&mut self, number: u32) {
        self.held.remove(&number);
    }

    /// Why nothing of an instance passes.
    pub(crate) fn reason(&self, number: u32, bound: Option<u32>) -> Option<String> {
        let flood = self.held.get(&number)?;
        let bound = bound?;
        let sent = flood.pps.map_or_else(
            || "more packets a second than allowed".to_owned(),
            |pps| format!("{pps} packets a second"),
        );
        Some(format!(
            "in quarantine: the guest sent {sent}, policy.quarantine_pps is {bound}: nothing of it passes until it sends less for {} seconds",
            QUIET.as_secs()
        ))
    }

    /// Takes note of what an instance sends, packets a second.
    fn note(&mut self, number: u32, pps: u64, bound: u32, now: Instant) -> Option<Change> {
        let floods = pps > bound.into();
        let flood = Flood {
            pps: Some(pps),
            over_at: now,
        };
        match self.held.get_mut(&number) {
            None if floods => {
                self.held.insert(number, flood);
                Some(Change::Floods)
            }
            Some(held) if floods => {
                *held = flood;
                None
            }
            Some(held) if now.saturating_duration_since(held.over_at) >= QUIET => {
                self.held.remove(&number);
                Some(Change::IsQuiet)
            }
            None | Some(_) => None,
        }
    }
}

impl<H: Host> Agent<H> {
    /// Looks how much every guest sends, and changes who is in quarantine.
    pub(crate) async fn watch_guests(&mut self) -> Result<(), HostError> {
        let Some(bound) = self.config.policy.quarantine_pps else {
            return Ok(());
        };
        let now = Instant::now();
        let sent = self.look_at_guests().await?;
        let rates = self.rates_since(now, &sent);
        self.quarantine.before = Some((now, sent));
        let mut changed = Vec::new();
        for (key, number, pps) in rates {
            let change = self.quarantine.note(number, pps, bound, now);
            let instance = self
                .registry
                .get(key)
                .map(|held| held.instance.name.as_str());
            match change {
                Some(Change::Floods) => tracing::warn!(
                    instance,
                    pps,
                    bound,
                    "the guest floods: nothing of it passes until it is quiet"
                ),
                Some(Change::IsQuiet) => {
                    tracing::info!(instance, pps, bound, "the guest is quiet again");
                }
                None => continue,
            }
            changed.push(key);
        }
        self.carry_out(&changed).await;
        Ok(())
    }

    async fn look_at_guests(&mut self) -> Result<Sent, HostError> {
        let mut sent = Sent {
            by_tap: self.host.sent().await?,
            dropped: BTreeMap::new(),
        };
        // A device does not count what the kernel dropped of its super-frames.
        for slot in self.slots_in_quarantine() {
            let drops = self.host.counters(slot).await?.drops;
            let dropped = drops.get(&DropReason::Quarantine).copied();
            sent.dropped.insert(slot, dropped.unwrap_or(0));
        }
        Ok(sent)
    }

    fn slots_in_quarantine(&self) -> Vec<u32> {
        let running = self.registry.all().map(|(_, held)| &held.instance);
        let held = running.filter(|one| self.quarantine.held.contains_key(&one.number()));
        held.flat_map(|instance| &instance.interfaces)
            .map(|interface| interface.slot)
            .collect()
    }

    /// Packets a second of every instance that runs.
    fn rates_since(&self, now: Instant, sent: &Sent) -> Vec<(Key, u32, u64)> {
        let running = self.registry.all();
        let running = running.filter(|(_, held)| held.instance.life == Life::Running);
        let Some((at, before)) = &self.quarantine.before else {
            return Vec::new();
        };
        let elapsed_ms = now.saturating_duration_since(*at).as_millis().max(1);
        let rates = running.map(|(key, held)| {
            // What a relay forwards is its clients', each of which is looked at itself.
            let packets = if self.is_relay(&held.instance) {
                0
            } else {
                packets_of(&held.instance, before, sent)
            };
            let pps = u128::from(packets) * 1_000 / elapsed_ms;
            let pps = u64::try_from(pps).unwrap_or(u64::MAX);
            (key, held.instance.number(), pps)
        });
        rates.collect()
    }
}

/// Packets that an instance sent between two looks.
fn packets_of(instance: &Instance, before: &Sent, sent: &Sent) -> u64 {
    let since = |before: &BTreeMap<u32, u64>, now: &BTreeMap<u32, u64>, key| {
        // A device that is new, or counts anew, counts from the next look on.
        let (before, now) = (before.get(&key)?, now.get(&key)?);
        now.checked_sub(*before)
    };
    let interfaces = instance.interfaces.iter();
    interfaces
        .map(|interface| {
            let by_tap = since(&before.by_tap, &sent.by_tap, interface.ifindex);
            let dropped = since(&before.dropped, &sent.dropped, interface.slot);
            by_tap.max(dropped).unwrap_or(0)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: u32 = 1_000;

    #[test]
    fn a_guest_is_held_from_the_first_second_over_the_bound_until_ten_quiet_ones() {
        let mut quarantine = Quarantine::default();
        let start = Instant::now();
        let mut note = |second, pps| {
            let now = start + Duration::from_secs(second);
            let change = quarantine.note(7, pps, BOUND, now);
            (change, quarantine.flag(7), quarantine.flag(8))
        };
        assert_eq!(note(0, 1_000), (None, 0, 0), "the bound itself is allowed");
        assert_eq!(note(1, 1_001), (Some(Change::Floods), QUARANTINE, 0));
        assert_eq!(note(2, 5_000), (None, QUARANTINE, 0));
        assert_eq!(note(11, 0), (None, QUARANTINE, 0));
        assert_eq!(note(12, 1_000), (Some(Change::IsQuiet), 0, 0));
        assert_eq!(note(13, 1_000), (None, 0, 0));
        assert_eq!(note(14, 2_000), (Some(Change::Floods), QUARANTINE, 0));
        // One loud second begins the time anew.
        assert_eq!(note(23, 1_001), (None, QUARANTINE, 0));
        assert_eq!(note(32, 0), (None, QUARANTINE, 0));
        assert_eq!(note(33, 0), (Some(Change::IsQuiet), 0, 0));
    }

    #[test]
    fn the_reason_names_both_numbers_and_how_it_ends() {
        let mut quarantine = Quarantine::default();
        quarantine.note(7, 5_000, BOUND, Instant::now());
        let reason = quarantine.reason(7, Some(BOUND));
        let expected = "in quarantine: the guest sent 5000 packets a second, policy.quarantine_pps is 1000: nothing of it passes until it sends less for 10 seconds";
        assert_eq!(reason.as_deref(), Some(expected));
        assert_eq!(quarantine.reason(8, Some(BOUND)), None);
    }
}
