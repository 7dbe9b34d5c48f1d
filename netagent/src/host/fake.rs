//! A host in memory: it follows steps as the kernel would, fails where a test says so, and checks after
//! every step that nothing is open.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use netagent_common::drop::DropReason;
use netagent_common::policy::policy_flag::{LEG, RELAYED};
use netagent_common::policy::{NO_POLICY, PolicyId, RouteKind};
use netagent_common::publish::{Led, LedKey};
use netagent_common::vm::Traffic;
use tokio::sync::Notify;

use crate::host::{Changes, Cleaned, Counters, Host, HostError, Place, ServiceSockets};
use crate::instance::Before;
use crate::learned::table::Table;
use crate::learned::table::fake::FakeTable;
use crate::plan::{KernelRoute, KernelRouteKind, Observed, ObservedLink, Step, legs};
use crate::publish::{Leads, ReserveError, Reserved};
use crate::spec::publish::HostPort;

/// Interface index of the uplink.
pub(crate) const UPLINK: u32 = 2;

/// Shared with the test, while the agent owns the host.
#[derive(Clone, Debug)]
pub(crate) struct FakeHost {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) observed: Observed,
    /// Every step that was applied.
    pub(crate) applied: Vec<Step>,
    /// Steps that still succeed before one fails.
    pub(crate) until_fault: Option<usize>,
    /// Steps whose text contains this fail.
    pub(crate) refuse: Option<&'static str>,
    pub(crate) collected: usize,
    /// Flows that every instance has open; without a number, it depends on the slot.
    pub(crate) open_flows: Option<u64>,
    /// What every interface has audited.
    pub(crate) audited: BTreeMap<DropReason, u64>,
    /// What [`Host::sent`] says.
    pub(crate) sent: BTreeMap<u32, u64>,
    /// Ports that others have, and who.
    pub(crate) taken: Vec<(HostPort, String)>,
    /// What names led to.
    pub(crate) learned: FakeTable,
    /// What [`Host::changed`] says next.
    pub(crate) changes: Changes,
}

/// Knows no programs.
#[derive(Debug)]
struct NoLeads;

impl Leads for NoLeads {
    fn lead(&self, _key: &LedKey, _led: &Led) -> io::Result<()> {
        Ok(())
    }
}

/// A host with loopback, an uplink with both families, and a bridge of somebody else's.
pub(crate) fn host() -> FakeHost {
    let mut observed = Observed::default();
    let link = |name: &str, ethernet: bool, addresses: &[&str]| ObservedLink {
        name: name.into(),
        mtu: 1500,
        up: true,
        carrier: true,
        ethernet,
        addresses: addresses
            .iter()
            .map(|address| address.parse().unwrap())
            .collect(),
        sources: addresses
            .iter()
            .map(|address| address.parse().unwrap())
            .collect(),
        ..ObservedLink::default()
    };
    observed
        .links
        .insert(1, link("lo", false, &["127.0.0.1/8", "::1/128"]));
    let addresses = ["192.0.2.2/24", "2001:db8::2/64", "fe80::5/64"];
    observed
        .links
        .insert(UPLINK, link("eth0", true, &addresses));
    observed
        .links
        .insert(3, link("docker0", true, &["172.17.0.1/16"]));
    let local = KernelRouteKind::Local;
    let unicast = KernelRouteKind::Unicast;
    observed.routes = vec![
        route("0.0.0.0/0", unicast, UPLINK, Some("192.0.2.1")),
        route("192.0.2.0/24", unicast, UPLINK, None),
        route("192.0.2.2/32", local, UPLINK, None),
        route("192.0.2.255/32", KernelRouteKind::Broadcast, UPLINK, None),
        route("172.17.0.0/16", unicast, 3, None),
        route("172.17.0.1/32", local, 3, None),
        route("127.0.0.0/8", local, 1, None),
        route("::/0", unicast, UPLINK, Some("fe80::1")),
        route("2001:db8::/64", unicast, UPLINK, None),
        route("2001:db8::2/128", local, UPLINK, None),
        route("fe80::/64", unicast, UPLINK, None),
        route("ff00::/8", KernelRouteKind::Broadcast, UPLINK, None),
    ];
    let state = State {
        observed,
        ..State::default()
    };
    FakeHost {
        state: Arc::new(Mutex::new(state)),
        changed: Arc::new(Notify::new()),
    }
}

pub(crate) fn route(
    destination: &str,
    kind: KernelRouteKind,
    ifindex: u32,
    gateway: Option<&str>,
) -> KernelRoute {
    KernelRoute {
        destination: destination.parse().unwrap(),
        kind,
        ifindex,
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        source: None,
        metric: 0,
        mtu: None,
    }
}

impl FakeHost {
    /// The state; a test changes it between two steps.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Tells the agent that anything may have changed.
    pub(crate) fn notify(&self) {
        self.state().changes.overrun = true;
        self.changed.notify_one();
    }

    /// Tells the agent what changed.
    pub(crate) fn say(&self, changes: Changes) {
        self.state().changes.add(changes);
        self.changed.notify_one();
    }

    /// Applies a step now.
    pub(crate) fn apply_now(&self, step: &Step) -> Result<(), HostError> {
        let mut state = self.state();
        let refused = state
            .refuse
            .is_some_and(|text| step.to_string().contains(text));
        if refused || state.until_fault == Some(0) {
            return Err(HostError::failed(
                step.to_string(),
                io::Error::other("as the test wants"),
            ));
        }
        state.until_fault = state.until_fault.map(|left| left - 1);
        let taken = if let Step::CreateTap { tap } = step {
            let others = state
                .observed
                .links
                .iter()
                .filter(|(index, _)| **index != tap.ifindex);
            others
                .map(|(_, link)| &link.name)
                .any(|name| *name == tap.name)
        } else {
            false
        };
        if taken {
            return Err(HostError::failed(
                step.to_string(),
                io::Error::from(io::ErrorKind::AlreadyExists),
            ));
        }
        state.observed.follow(step);
        state.applied.push(step.clone());
        check_closed(&state.observed);
        check_named(&state.observed, step);
        check_legs(&state.observed, step);
        Ok(())
    }
}

/// P-4: no TAP is up without its programs and its record, and no forbidden prefix leads out.
fn check_closed(observed: &Observed) {
    let datapath = observed.datapath.clone().unwrap_or_default();
    let ours = |link: &ObservedLink| {
        link.alias
            .as_ref()
            .is_some_and(|text| text.starts_with("netagent:"))
    };
    for (ifindex, link) in observed
        .links
        .iter()
        .filter(|(_, link)| ours(link) && link.up)
    {
        assert!(
            datapath.attached.contains(ifindex),
            "{} is up without programs",
            link.name
        );
        let written = datapath
            .interfaces
            .values()
            .any(|record| record.ifindex == *ifindex && record.policy_flags & LEG == 0);
        assert!(written, "{} is up without record", link.name);
    }
    let open: BTreeSet<String> = datapath
        .routes
        .iter()
        .filter(|(_, target)| target.kind == RouteKind::Uplink)
        .map(|(prefix, _)| prefix.to_string())
        .collect();
    assert!(
        !open.contains("172.17.0.0/16") && !open.contains("fe80::/64"),
        "{open:?}"
    );
}

/// No record comes into force before its policy is whole, and none loses it.
fn check_named(observed: &Observed, step: &Step) {
    let datapath = observed.datapath.clone().unwrap_or_default();
    let is_there = |id: &PolicyId| *id == NO_POLICY || datapath.policies.contains(id);
    if let Step::WriteInterface { record } = step {
        assert!(is_there(&record.policy), "{step}");
    } else if let Step::RemovePolicy { id } = step {
        let mut records = datapath.interfaces.values();
        let named = records.any(|record| record.policy == *id);
        assert!(!named || is_there(id), "{step}");
    }
}

/// no leg comes into force that leads to a TAP which nobody holds, no TAP goes that one leads to, and no interface with
/// a relay comes into force before its leg.
fn check_legs(observed: &Observed, step: &Step) {
    let datapath = observed.datapath.clone().unwrap_or_default();
    let records = datapath.interfaces.values();
    let mut legs = records.filter(|record| record.policy_flags & LEG != 0);
    if let Step::WriteInterface { record } = step {
        let index = record.ifindex;
        if record.policy_flags & LEG != 0 {
            assert!(index == 0 || legs::is_there(index, observed), "{step}");
        } else if record.policy_flags & RELAYED != 0 {
            let leg = datapath.interfaces.get(&record.leg);
            let is_its = leg.is_some_and(|leg| {
                (leg.client, leg.generation) == (record.slot, record.generation)
            });
            assert!(is_its, "{step}");
        }
    } else if let Step::SetLinkDown { ifindex } | Step::DetachTap { ifindex } = step {
        assert!(legs.all(|leg| leg.ifindex != *ifindex), "{step}");
    }
}

impl Host for FakeHost {
    async fn observe(&mut self) -> Result<Observed, HostError> {
        Ok(self.state().observed.clone())
    }

    async fn apply(&mut self, step: &Step) -> Result<(), HostError> {
        self.apply_now(step)
    }

    async fn counters(&mut self, slot: u32) -> Result<Counters, HostError> {
        let traffic = Traffic {
            from_vm_packets: 1,
            from_vm_bytes: 60,
            to_vm_packets: 2,
            to_vm_bytes: 120,
        };
        let drops = BTreeMap::from([(DropReason::SpoofedMac, 7)]);
        // Locked once: a second guard in the same expression would wait for the first.
        let state = self.state();
        Ok(Counters {
            drops,
            audited: state.audited.clone(),
            traffic,
            open_flows: state.open_flows.unwrap_or(u64::from(slot) + 3),
        })
    }

    async fn sent(&mut self) -> Result<BTreeMap<u32, u64>, HostError> {
        Ok(self.state().sent.clone())
    }

    async fn observe_interfaces(
        &mut self,
        observed: &mut Observed,
        places: &[Place],
    ) -> Result<(), HostError> {
        let there = self.state().observed.clone();
        for place in places {
            let meant = |ifindex: u32, link: &ObservedLink| {
                ifindex == place.ifindex || link.name == place.tap_name
            };
            observed
                .links
                .retain(|ifindex, link| !meant(*ifindex, link));
            let found = there
                .links
                .iter()
                .filter(|(index, link)| meant(**index, link));
            for (ifindex, link) in found {
                observed.links.insert(*ifindex, link.clone());
            }
            let of_it = |ifindex: u32| ifindex == place.ifindex;
            observed.neighbours.retain(|one| !of_it(one.ifindex));
            let neighbours = there.neighbours.iter().filter(|one| of_it(one.ifindex));
            observed.neighbours.extend(neighbours);
            observed.routes.retain(|one| !of_it(one.ifindex));
            let routes = there.routes.iter().filter(|one| of_it(one.ifindex));
            observed.routes.extend(routes.cloned());
            let (Some(known), Some(datapath)) = (&mut observed.datapath, &there.datapath) else {
                continue;
            };
            known.attached.remove(&place.ifindex);
            known.attached.extend(datapath.attached.get(&place.ifindex));
            known.drop_all.remove(&place.ifindex);
            known.drop_all.extend(datapath.drop_all.get(&place.ifindex));
            if let Some(slot) = place.slot {
                known.interfaces.remove(&slot);
                let record = datapath.interfaces.get(&slot);
                known
                    .interfaces
                    .extend(record.map(|record| (slot, *record)));
            }
        }
        Ok(())
    }

    async fn observe_host(&mut self, observed: &mut Observed) -> Result<(), HostError> {
        let there = self.state().observed.clone();
        observed.links = there.links;
        observed.routes = there.routes;
        observed.neighbours = there.neighbours;
        Ok(())
    }

    async fn before(&mut self, name: &str) -> Result<Option<Before>, HostError> {
        let state = self.state();
        let mut links = state.observed.links.iter();
        let found = links.find(|(_, link)| link.name == name);
        Ok(found.map(|(ifindex, link)| Before {
            ifindex: *ifindex,
            mac: link.mac,
            mtu: link.mtu,
            alias: link.alias.clone(),
            up: link.up,
            addresses: link.addresses.clone(),
            settings: BTreeMap::new(),
        }))
    }

    async fn settle(&mut self) {}

    async fn changed(&mut self) -> Changes {
        loop {
            let changes = std::mem::take(&mut self.state().changes);
            if !changes.is_empty() {
                return changes;
            }
            self.changed.notified().await;
        }
    }

    async fn clean(&mut self) -> Result<Cleaned, HostError> {
        let mut state = self.state();
        let ours = |link: &ObservedLink| {
            link.alias
                .as_ref()
                .is_some_and(|a| a.starts_with("netagent:") && !a.ends_with(":lent"))
        };
        let links = state.observed.links.values().filter(|link| ours(link));
        let links = links.map(|link| link.name.clone()).collect();
        state.observed.links.retain(|_, link| !ours(link));
        let pins = usize::from(state.observed.datapath.take().is_some());
        Ok(Cleaned { links, pins })
    }

    fn take_sockets(&mut self) -> Option<ServiceSockets> {
        None
    }

    fn reserve(&mut self, at: &HostPort) -> Result<Reserved, ReserveError> {
        let state = self.state();
        if state.taken.iter().any(|(taken, _)| taken.clashes(at)) {
            return Err(ReserveError::InUse(at.number()));
        }
        let links = state.observed.links.values();
        let mut own = links.flat_map(|link| &link.addresses);
        match at.address {
            Some(address) if !own.any(|own| own.addr() == address) => {
                Err(ReserveError::NotOurs(address))
            }
            _ => Ok(Reserved::default()),
        }
    }

    fn owner(&mut self, at: &HostPort) -> Option<String> {
        let state = self.state();
        let mut taken = state.taken.iter();
        let (_, owner) = taken.find(|(taken, _)| taken.clashes(at))?;
        Some(owner.clone())
    }

    fn leads(&self) -> Arc<dyn Leads> {
        Arc::new(NoLeads)
    }

    async fn collect(&mut self) -> Result<bool, HostError> {
        self.state().collected += 1;
        Ok(true)
    }

    fn learned(&mut self) -> Result<Option<Box<dyn Table>>, HostError> {
        let state = self.state();
        let tables = state
            .observed
            .datapath
            .as_ref()
            .map(|_| state.learned.clone());
        Ok(tables.map(|tables| Box::new(tables) as _))
    }
}
