//! Compiled policies: each is a trie of its own in either family, found by its name.

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use aya::Pod;
use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, Map, MapData, MapError};
use aya_obj::generated::{BPF_F_NO_PREALLOC, bpf_map_type::BPF_MAP_TYPE_LPM_TRIE};
use netagent_common::names::map;
use netagent_common::policy::{PolicyId, Verdict};
use tokio::time::Instant;

use crate::apply::maps::{Maps, MapsError, Policies, batch, failed, gone};
use crate::plan::display::Short;
use crate::policy::Compiled;

impl Maps {
    /// Policies that are whole.
    #[must_use]
    pub fn policies(&self) -> BTreeSet<PolicyId> {
        self.whole.clone()
    }

    /// Policies that are to be written again or removed.
    #[must_use]
    pub fn half_policies(&self) -> BTreeSet<PolicyId> {
        self.half.clone()
    }

    /// Writes a policy, aside first; one that is there says just the same, and one that is there by half is completed.
    ///
    /// # Errors
    /// Where the kernel refuses: the map may be full.
    pub fn write_policy(&mut self, policy: &Compiled) -> Result<(), MapsError> {
        if self.whole.contains(&policy.id) {
            return Ok(());
        }
        let v4 = policy.v4.iter().map(|(net, verdict)| {
            let key = Key::new(net.prefix_len().into(), net.network().octets());
            (key, *verdict as u32)
        });
        let v4 = fill(policy.id, &v4.collect::<Vec<_>>()).map_err(failed(map::POLICIES_V4))?;
        let v6 = policy.v6.iter().map(|(net, verdict)| {
            let key = Key::new(net.prefix_len().into(), net.network().octets());
            (key, *verdict as u32)
        });
        let v6 = fill(policy.id, &v6.collect::<Vec<_>>()).map_err(failed(map::POLICIES_V6))?;
        self.half.insert(policy.id);
        self.policies_v4
            .insert(policy.id, &v4, 0)
            .map_err(failed(map::POLICIES_V4))?;
        self.policies_v6
            .insert(policy.id, &v6, 0)
            .map_err(failed(map::POLICIES_V6))?;
        self.half.remove(&policy.id);
        self.whole.insert(policy.id);
        Ok(())
    }

    /// Removes a policy, unless a record in force names it. A program that found a record before it was rewritten
    /// looks its policy up in what is removed here: it is waited for.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn remove_policy(&mut self, id: &PolicyId) -> Result<(), MapsError> {
        if self.in_force.values().any(|named| named == id) {
            return Ok(());
        }
        if self.readers.may_read_any(Instant::now()) {
            self.readers.wait();
        }
        self.whole.remove(id);
        self.half.insert(*id);
        gone(self.policies_v4.remove(id)).map_err(failed(map::POLICIES_V4))?;
        gone(self.policies_v6.remove(id)).map_err(failed(map::POLICIES_V6))?;
        self.half.remove(id);
        Ok(())
    }

    /// Reads which policies there are.
    pub(super) fn read_policies(&mut self) -> Result<(), MapsError> {
        let v4 = ids(&self.policies_v4).map_err(failed(map::POLICIES_V4))?;
        let v6 = ids(&self.policies_v6).map_err(failed(map::POLICIES_V6))?;
        self.whole = v4.intersection(&v6).copied().collect();
        self.half = v4.symmetric_difference(&v6).copied().collect();
        Ok(())
    }
}

fn ids<A: Pod>(policies: &Policies<A>) -> Result<BTreeSet<PolicyId>, MapError> {
    policies.keys().collect()
}

/// A trie with these entries, as the programs' map of policies takes it.
fn fill<A: Pod>(
    id: PolicyId,
    entries: &[(Key<A>, u32)],
) -> Result<LpmTrie<MapData, A, u32>, MapError> {
    let size = u32::try_from(entries.len()).unwrap_or(u32::MAX).max(1);
    let (key_size, value_size) = (size_of::<Key<A>>() as u32, size_of::<Verdict>() as u32);
    let definition = aya_obj::Map::new_from_params(
        BPF_MAP_TYPE_LPM_TRIE as u32,
        key_size,
        value_size,
        size,
        BPF_F_NO_PREALLOC,
    );
    // Fifteen bytes, which the kernel keeps whole.
    let data = MapData::create(definition, &format!("policy_{}", Short(id)), None)?;
    let filled = batch::update(data.fd().as_fd(), entries);
    let mut trie = LpmTrie::try_from(Map::LpmTrie(data))?;
    if let Err(errno) = filled {
        tracing::debug!(%errno, "a policy is written entry by entry");
        for (key, verdict) in entries {
            trie.insert(key, verdict, 0)?;
        }
    }
    Ok(trie)
}
