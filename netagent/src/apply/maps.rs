//! Reads and writes the pinned maps: interface records, routes, counters, generations.

mod batch;
mod clients;
mod guests;
pub mod learned;
mod policies;
mod publish;
mod routes;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;

use aya::maps::{
    Array, HashMap as BpfHash, HashOfMaps, LpmTrie, Map, MapData, MapError, MapInfo, PerCpuArray,
    PerCpuValues,
};
use aya::util::nr_cpus;
use bytemuck::Zeroable;
use ipnet::IpNet;
use netagent_common::bucket::Buckets;
use netagent_common::drop::{AUDITED, DropKey, DropReason, NO_SLOT};
use netagent_common::flow::Collected;
use netagent_common::names::{ABI_VERSION, map};
use netagent_common::nat::{Holdings, fill};
use netagent_common::policy::policy_flag::LEG;
use netagent_common::policy::{PolicyId, Route};
use netagent_common::publish::{ExposedKey, HostPortKey, PublishKey, Published, SenderKey};
use netagent_common::services::Services;
use netagent_common::vm::{
    self, ACTIVE_CHUNKS, Active, Client, Interface, State, Traffic, active_place, record_index,
};
use tokio::time::Instant;

use crate::apply::maps::clients::Clients;
use crate::apply::maps::guests::Guests;
use crate::apply::pins::Pins;
use crate::apply::readers::Readers;
use crate::host::Counters;

/// Why a map could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MapsError {
    /// The kernel refused.
    #[error("map {0}")]
    Map(&'static str, #[source] MapError),
    /// The number of processors is unknown.
    #[error("count processors by {0}")]
    Processors(&'static str, #[source] std::io::Error),
    /// A route whose next hop or source is of the other family.
    #[error("route to {0}: next hop or source of the other family")]
    MixedFamilies(IpNet),
}

fn failed(name: &'static str) -> impl Fn(MapError) -> MapsError {
    move |source| MapsError::Map(name, source)
}

type Records = Array<MapData, Interface>;
type Routes<A> = LpmTrie<MapData, A, Route<A>>;
type PublishedPorts<A> = BpfHash<MapData, PublishKey<A>, Published<A>>;
type Policies<A> = HashOfMaps<MapData, PolicyId, LpmTrie<MapData, A, u32>>;
type Senders<A> = LpmTrie<MapData, SenderKey<A>, u32>;

/// The maps, opened from their pins.
pub struct Maps {
    state: Array<MapData, State>,
    active: Array<MapData, Active>,
    records: Records,
    adopted: BpfHash<MapData, u32, u32>,
    open_flows: Array<MapData, u64>,
    holdings: Array<MapData, Holdings>,
    buckets: Array<MapData, Buckets>,
    fill: Array<MapData, u64>,
    /// Entries that the tables of flows and of mappings hold at most.
    sizes: (u64, u64),
    routes_v4: Routes<[u8; 4]>,
    routes_v6: Routes<[u8; 16]>,
    guests_v4: Guests<[u8; 4]>,
    guests_v6: Guests<[u8; 16]>,
    clients_v4: Clients<[u8; 4]>,
    clients_v6: Clients<[u8; 16]>,
    policies_v4: Policies<[u8; 4]>,
    policies_v6: Policies<[u8; 16]>,
    drops: BpfHash<MapData, DropKey, u64>,
    traffic: PerCpuArray<MapData, Traffic>,
    published_v4: PublishedPorts<[u8; 4]>,
    published_v6: PublishedPorts<[u8; 16]>,
    senders_v4: Senders<[u8; 4]>,
    senders_v6: Senders<[u8; 16]>,
    exposed: BpfHash<MapData, ExposedKey, u32>,
    host_ports: BpfHash<MapData, HostPortKey, u32>,
    services: Array<MapData, Services>,
    collected: Array<MapData, Collected>,
    /// Slots in force, and the policies that their records name. Only this process writes them, so one look at all of
    /// them at the start is enough.
    in_force: BTreeMap<u32, PolicyId>,
    /// Policies that are in the maps of both families, and so are whole.
    whole: BTreeSet<PolicyId>,
    /// Policies that may be in the map of one family alone: an agent was killed, or the kernel refused, between the two.
    half: BTreeSet<PolicyId>,
    readers: Readers,
    /// What `adopted` holds: slots by the interface index of TAPs that the agent did not make.
    lent: BTreeMap<u32, u32>,
    /// What `guests_v4` and `guests_v6` hold: slots by the addresses of their guests.
    guests: BTreeMap<IpNet, u32>,
    /// What `clients_v4` and `clients_v6` hold: clients of relays by their addresses.
    clients: BTreeMap<IpAddr, Client>,
}

impl Maps {
    /// Opens the pinned maps; `None` where one is missing or they are another version's.
    ///
    /// # Errors
    /// Where a pin is there but cannot be opened.
    pub fn open(pins: &Pins) -> Result<Option<Self>, MapsError> {
        if !map::ALL
            .iter()
            .all(|name| fs::symlink_metadata(pins.map(name)).is_ok())
        {
            return Ok(None);
        }
        let mut maps = Self {
            state: open(pins, map::STATE)?,
            active: open(pins, map::ACTIVE)?,
            records: open(pins, map::INTERFACES)?,
            adopted: open(pins, map::ADOPTED)?,
            open_flows: open(pins, map::OPEN_FLOWS)?,
            holdings: open(pins, map::HOLDINGS)?,
            buckets: open(pins, map::BUCKETS)?,
            fill: open(pins, map::FILL)?,
            sizes: (size(pins, map::FLOWS_V4)?, size(pins, map::MAPPINGS_V4)?),
            routes_v4: open(pins, map::ROUTES_V4)?,
            routes_v6: open(pins, map::ROUTES_V6)?,
            guests_v4: open(pins, map::GUESTS_V4)?,
            guests_v6: open(pins, map::GUESTS_V6)?,
            clients_v4: open(pins, map::CLIENTS_V4)?,
            clients_v6: open(pins, map::CLIENTS_V6)?,
            policies_v4: open(pins, map::POLICIES_V4)?,
            policies_v6: open(pins, map::POLICIES_V6)?,
            drops: open(pins, map::DROPS)?,
            traffic: open(pins, map::TRAFFIC)?,
            published_v4: open(pins, map::PUBLISHED_V4)?,
            published_v6: open(pins, map::PUBLISHED_V6)?,
            senders_v4: open(pins, map::SENDERS_V4)?,
            senders_v6: open(pins, map::SENDERS_V6)?,
            exposed: open(pins, map::EXPOSED)?,
            host_ports: open(pins, map::HOST_PORTS)?,
            services: open(pins, map::SERVICES)?,
            collected: open(pins, map::COLLECTED)?,
            in_force: BTreeMap::new(),
            whole: BTreeSet::new(),
            half: BTreeSet::new(),
            readers: Readers::default(),
            lent: BTreeMap::new(),
            guests: BTreeMap::new(),
            clients: BTreeMap::new(),
        };
        let state = maps.state()?;
        if state.abi != ABI_VERSION || state.mark == 0 {
            return Ok(None);
        }
        maps.read_in_force()?;
        maps.read_lent()?;
        maps.read_guests()?;
        maps.read_clients()?;
        maps.read_policies()?;
        Ok(Some(maps))
    }

    /// Interface index of the way to the servers; 0 where it is closed.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn services(&self) -> Result<u32, MapsError> {
        let services = self.services.get(&0, 0).map_err(failed(map::SERVICES))?;
        Ok(services.ifindex)
    }

    /// Opens the way to the servers, or with 0 closes it.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn set_services(&mut self, ifindex: u32) -> Result<(), MapsError> {
        let services = Services {
            ifindex,
            reserved: 0,
        };
        self.services
            .set(0, services, 0)
            .map_err(failed(map::SERVICES))
    }

    /// The records in force, by slot.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn interfaces(&self) -> Result<BTreeMap<u32, Interface>, MapsError> {
        let mut records = BTreeMap::new();
        for slot in self.in_force.keys() {
            if let Some(record) = self.record_in_force(*slot)? {
                records.insert(*slot, record);
            }
        }
        Ok(records)
    }

    /// Puts a record in force: first the copy that nobody reads, then the number that names it. A slot that
    /// was not in force starts with counters at zero (S-5). Where the agent did not make the TAP, its index leads
    /// to the slot before the record is in force, and so do the guest's addresses where others, or a relay, reach them. The copy that nobody reads may have been in force a moment ago: then
    /// it is written when the programs that found it are done.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn write_interface(&mut self, record: &Interface) -> Result<(), MapsError> {
        let slot = record.slot;
        // The index in the record of a leg is its relay's.
        let is_leg = record.policy_flags & LEG != 0;
        if !is_leg
            && vm::slot(record.ifindex) != slot
            && self.lent.get(&record.ifindex) != Some(&slot)
        {
            self.adopted
                .insert(record.ifindex, slot, 0)
                .map_err(failed(map::ADOPTED))?;
            self.lent.insert(record.ifindex, slot);
        }
        self.write_guests(record)?;
        self.write_clients(record)?;
        if self.record_in_force(slot)? == Some(*record) {
            return Ok(());
        }
        let active = self.active(slot)?;
        if active == 0 {
            self.reset_counters(slot)?;
            // Flows of the slot's earlier life are of another generation and leave these counts alone.
            self.open_flows
                .set(slot, 0, 0)
                .map_err(failed(map::OPEN_FLOWS))?;
            self.holdings
                .set(slot, Holdings::zeroed(), 0)
                .map_err(failed(map::HOLDINGS))?;
            self.buckets
                .set(slot, Buckets::zeroed(), 0)
                .map_err(failed(map::BUCKETS))?;
        }
        let next = if active == 1 { 2 } else { 1 };
        if self.is_idle_copy_read(slot) {
            self.readers.wait();
        }
        self.records
            .set(record_index(slot, next.into()), record, 0)
            .map_err(failed(map::INTERFACES))?;
        self.set_active(slot, next)?;
        self.in_force.insert(slot, record.policy);
        self.forget_guests(slot, Some(record))?;
        self.forget_clients(slot, Some(record))?;
        self.forget_lent(slot, Some(record.ifindex))
    }

    /// Whether a program may still read the copy of a slot's record that is not in force.
    #[must_use]
    pub fn is_idle_copy_read(&self, slot: u32) -> bool {
        self.readers.may_read(slot, Instant::now())
    }

    /// Puts a slot out of force.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn clear_interface(&mut self, slot: u32) -> Result<(), MapsError> {
        self.set_active(slot, 0)?;
        self.in_force.remove(&slot);
        self.forget_guests(slot, None)?;
        self.forget_clients(slot, None)?;
        self.forget_lent(slot, None)
    }

    /// Removes the counters of every slot that is not in force.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn forget_counters(&mut self) -> Result<(), MapsError> {
        let mut stale = BTreeSet::new();
        for key in self.drops.keys() {
            let slot = key.map_err(failed(map::DROPS))?.slot;
            if slot != NO_SLOT && !self.in_force.contains_key(&slot) {
                stale.insert(slot);
            }
        }
        for slot in stale {
            self.reset_counters(slot)?;
        }
        Ok(())
    }

    /// What was counted for a slot.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn counters(&self, slot: u32) -> Result<Counters, MapsError> {
        let count = |reason: u32| {
            let key = DropKey { slot, reason };
            present(self.drops.get(&key, 0)).map_err(failed(map::DROPS))
        };
        let (mut drops, mut audited) = (BTreeMap::new(), BTreeMap::new());
        for reason in DropReason::ALL {
            if let Some(count) = count(*reason as u32)? {
                drops.insert(*reason, count);
            }
            if reason.is_of_policy()
                && let Some(count) = count(*reason as u32 | AUDITED)?
            {
                audited.insert(*reason, count);
            }
        }
        let mut traffic = Traffic::zeroed();
        for part in self
            .traffic
            .get(&slot, 0)
            .map_err(failed(map::TRAFFIC))?
            .iter()
        {
            traffic.from_vm_packets += part.from_vm_packets;
            traffic.from_vm_bytes += part.from_vm_bytes;
            traffic.to_vm_packets += part.to_vm_packets;
            traffic.to_vm_bytes += part.to_vm_bytes;
        }
        let instance = self
            .record_in_force(slot)?
            .map_or(slot, |record| record.instance);
        let open_flows = self
            .open_flows
            .get(&instance, 0)
            .map_err(failed(map::OPEN_FLOWS))?;
        Ok(Counters {
            drops,
            audited,
            traffic,
            open_flows,
        })
    }

    /// Makes flows look up their way again.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn raise_route_generation(&mut self) -> Result<(), MapsError> {
        let mut state = self.state()?;
        state.route_generation = state.route_generation.wrapping_add(1);
        self.state.set(0, state, 0).map_err(failed(map::STATE))
    }

    /// Tables of the host: name, entries, and how many there may be. Flows are counted by the collection pass.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn fills(&self) -> Result<[(&'static str, u64, u64); 4], MapsError> {
        let count = |place| self.fill.get(&place, 0).map_err(failed(map::FILL));
        let (flows, mappings) = self.sizes;
        // A mapping is two entries. Where the agent loaded maps anew under live ones, a count may be below 0.
        let mapped = |count: u64| count.cast_signed().max(0).cast_unsigned() * 2;
        Ok([
            ("flows of IPv4", count(fill::FLOWS_V4)?, flows),
            ("flows of IPv6", count(fill::FLOWS_V6)?, flows),
            (
                "mappings of IPv4",
                mapped(count(fill::MAPPINGS_V4)?),
                mappings,
            ),
            (
                "mappings of IPv6",
                mapped(count(fill::MAPPINGS_V6)?),
                mappings,
            ),
        ])
    }

    /// What the last collection pass did.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn collected(&self) -> Result<Collected, MapsError> {
        self.collected.get(&0, 0).map_err(failed(map::COLLECTED))
    }

    /// Which programs run on the maps: [`State::object`].
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn object(&self) -> Result<u32, MapsError> {
        Ok(self.state()?.object)
    }

    /// Notes which programs run on the maps.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn set_object(&mut self, object: u32) -> Result<(), MapsError> {
        let state = State {
            object,
            ..self.state()?
        };
        self.state.set(0, state, 0).map_err(failed(map::STATE))
    }

    fn state(&self) -> Result<State, MapsError> {
        self.state.get(&0, 0).map_err(failed(map::STATE))
    }

    fn active(&self, slot: u32) -> Result<u8, MapsError> {
        let (chunk, place) = active_place(slot);
        Ok(self.chunk(chunk)?.get(place).copied().unwrap_or(0))
    }

    fn chunk(&self, chunk: u32) -> Result<Active, MapsError> {
        self.active.get(&chunk, 0).map_err(failed(map::ACTIVE))
    }

    /// Only this slot's byte changes: the others are written over with what they are.
    fn set_active(&mut self, slot: u32, copy: u8) -> Result<(), MapsError> {
        let (chunk, place) = active_place(slot);
        let mut copies = self.chunk(chunk)?;
        if let Some(active) = copies.get_mut(place) {
            *active = copy;
        }
        self.active
            .set(chunk, copies, 0)
            .map_err(failed(map::ACTIVE))?;
        self.readers.note_flip(slot, Instant::now());
        Ok(())
    }

    fn read_in_force(&mut self) -> Result<(), MapsError> {
        for chunk in 0..ACTIVE_CHUNKS {
            let first = chunk * vm::ACTIVE_CHUNK as u32;
            let copies = self.chunk(chunk)?;
            let slots = (first..).zip(copies).filter(|(_, active)| *active != 0);
            let slots: Vec<u32> = slots.map(|(slot, _)| slot).collect();
            for slot in slots {
                let record = self.record_in_force(slot)?;
                let named = record.map(|record| (slot, record.policy));
                self.in_force.extend(named);
            }
        }
        Ok(())
    }

    /// Reads which TAPs are lent, and removes what an agent left that was killed between record and entry.
    fn read_lent(&mut self) -> Result<(), MapsError> {
        let entries: Result<Vec<_>, _> = self.adopted.iter().collect();
        for (ifindex, slot) in entries.map_err(failed(map::ADOPTED))? {
            let record = self.record_in_force(slot)?;
            if record.is_some_and(|record| record.ifindex == ifindex) {
                self.lent.insert(ifindex, slot);
            } else {
                gone(self.adopted.remove(&ifindex)).map_err(failed(map::ADOPTED))?;
            }
        }
        Ok(())
    }

    /// Removes what leads to a slot, save from the index that is its own.
    fn forget_lent(&mut self, slot: u32, own: Option<u32>) -> Result<(), MapsError> {
        let lent = self.lent.iter();
        let former: Vec<u32> = lent
            .filter(|(ifindex, to)| **to == slot && Some(**ifindex) != own)
            .map(|(ifindex, _)| *ifindex)
            .collect();
        for ifindex in former {
            gone(self.adopted.remove(&ifindex)).map_err(failed(map::ADOPTED))?;
            self.lent.remove(&ifindex);
        }
        Ok(())
    }

    /// The record in force in a slot.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn record_in_force(&self, slot: u32) -> Result<Option<Interface>, MapsError> {
        let active = self.active(slot)?;
        if active == 0 {
            return Ok(None);
        }
        self.records
            .get(&record_index(slot, active.into()), 0)
            .map(Some)
            .map_err(failed(map::INTERFACES))
    }

    fn reset_counters(&mut self, slot: u32) -> Result<(), MapsError> {
        let audited = DropReason::ALL.iter().filter(|one| one.is_of_policy());
        let audited = audited.map(|reason| *reason as u32 | AUDITED);
        let reasons = DropReason::ALL.iter().map(|reason| *reason as u32);
        for reason in reasons.chain(audited) {
            let key = DropKey { slot, reason };
            gone(self.drops.remove(&key)).map_err(failed(map::DROPS))?;
        }
        let processors = nr_cpus().map_err(|(path, error)| MapsError::Processors(path, error))?;
        let zero =
            PerCpuValues::try_from(vec![Traffic::zeroed(); processors]).map_err(MapError::IoError);
        zero.and_then(|zero| self.traffic.set(slot, zero, 0))
            .map_err(failed(map::TRAFFIC))
    }
}

fn open<M: TryFrom<Map, Error = MapError>>(
    pins: &Pins,
    name: &'static str,
) -> Result<M, MapsError> {
    let open = || M::try_from(Map::from_map_data(MapData::from_pin(pins.map(name))?)?);
    open().map_err(failed(name))
}

fn size(pins: &Pins, name: &'static str) -> Result<u64, MapsError> {
    let info = MapInfo::from_pin(pins.map(name)).map_err(failed(name))?;
    Ok(info.max_entries().into())
}

/// A value, or nothing where the map has none.
fn present<V>(value: Result<V, MapError>) -> Result<Option<V>, MapError> {
    match value {
        Err(MapError::KeyNotFound) => Ok(None),
        value => value.map(Some),
    }
}

/// The result of a removal; what was not there is gone.
fn gone(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(())
        }
        removed => removed,
    }
}
