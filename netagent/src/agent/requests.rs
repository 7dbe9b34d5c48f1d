//! Create, start, stop, delete and the questions, each for one instance.

use std::collections::BTreeSet;

use nix::unistd::{Group, User};
use uuid::Uuid;

use crate::agent::instance::{Instance, InstanceState, Interface, Life};
use crate::agent::store_id::random;
use crate::agent::{Agent, RequestError};
use crate::host::{Host, one_line};
use crate::ipam::Reservation;
use crate::plan::{self, Owner, alias_prefix};
use crate::spec::name::Name;
use crate::spec::{InstanceSpec, InterfaceSpec, Principal};

impl<H: Host> Agent<H> {
    pub(crate) async fn create(
        &mut self,
        spec: InstanceSpec,
    ) -> Result<InstanceState, RequestError> {
        let limit = self.config.limits.instances;
        if self.instances.len() >= limit as usize {
            return Err(RequestError::InstanceLimit(limit));
        }
        let name = self.instance_name(spec.name.as_ref())?;
        let names = self.interface_names(&name, &spec.interfaces)?;
        let mut principals = Vec::new();
        for interface in &spec.interfaces {
            let owner = interface.tap_owner.as_ref().map(user).transpose()?;
            let group = interface.tap_group.as_ref().map(group).transpose()?;
            principals.push((owner, group));
        }
        // From here on only the pool can refuse.
        let reservations = self.reserve(spec.interfaces.len())?;
        let parts = spec
            .interfaces
            .iter()
            .zip(names)
            .zip(principals)
            .zip(reservations);
        let interfaces = parts
            .map(|(((spec, name), principal), reservation)| {
                self.interface(spec, name, principal, reservation)
            })
            .collect();
        let instance = Instance {
            id: Uuid::new_v4(),
            name,
            machine: spec.machine,
            interfaces,
            life: Life::Pending,
            trouble: None,
        };
        tracing::info!(instance = instance.name.as_str(), id = %instance.id, "created");
        self.instances.push(instance);
        let index = self.instances.len() - 1;
        if spec.autostart {
            self.bring_up(index).await;
        }
        self.state_of(index)
    }

    pub(crate) fn list(&self) -> Vec<InstanceState> {
        self.instances
            .iter()
            .map(|instance| instance.state(self.mtu))
            .collect()
    }

    pub(crate) async fn inspect(&mut self, key: &str) -> Result<InstanceState, RequestError> {
        let index = self.find(key)?;
        self.observed = self.host.observe().await?;
        let mut state = self.state_of(index)?;
        let Some(instance) = self.instances.get(index) else {
            return Ok(state);
        };
        for (interface, shown) in instance.interfaces.iter().zip(&mut state.interfaces) {
            let counters = self.host.counters(interface.reservation.slot).await?;
            let link = interface
                .started
                .and_then(|(ifindex, _)| self.observed.links.get(&ifindex));
            let attached = instance.life == Life::Running && link.is_some_and(|link| link.carrier);
            shown.inspected = Some((attached, counters));
        }
        Ok(state)
    }

    pub(crate) async fn start_instance(
        &mut self,
        key: &str,
    ) -> Result<InstanceState, RequestError> {
        let index = self.find(key)?;
        let instance = self.instances.get(index);
        if instance.is_some_and(|one| one.life != Life::Running || one.trouble.is_some()) {
            self.bring_up(index).await;
        }
        self.state_of(index)
    }

    pub(crate) async fn stop_instance(&mut self, key: &str) -> Result<InstanceState, RequestError> {
        let index = self.find(key)?;
        let Some(instance) = self.instances.get_mut(index) else {
            return Err(RequestError::NotFound(key.to_owned()));
        };
        instance.life = Life::Stopped;
        let failure = self.take_down(index).await;
        if let Some(instance) = self.instances.get_mut(index) {
            instance.note(failure);
            tracing::info!(instance = instance.name.as_str(), "stopped");
        }
        self.state_of(index)
    }

    /// Always works: what could not be removed stays reserved until a round has removed it.
    pub(crate) async fn delete(&mut self, key: &str) -> Result<(), RequestError> {
        let index = self.find(key)?;
        let failure = self.take_down(index).await;
        let instance = self.instances.remove(index);
        for interface in instance.interfaces {
            match failure {
                Some(_) => self.doomed.push(interface.reservation),
                None => self.reservations.release(&interface.reservation),
            }
        }
        tracing::info!(instance = instance.name.as_str(), id = %instance.id, "deleted");
        Ok(())
    }

    fn find(&self, key: &str) -> Result<usize, RequestError> {
        self.instances
            .iter()
            .position(|instance| instance.is(key))
            .ok_or_else(|| RequestError::NotFound(key.to_owned()))
    }

    fn state_of(&self, index: usize) -> Result<InstanceState, RequestError> {
        let instance = self.instances.get(index);
        instance
            .map(|instance| instance.state(self.mtu))
            .ok_or_else(|| RequestError::NotFound(index.to_string()))
    }

    /// Starts an instance: new interface indices and generations, then the steps of this instance alone.
    async fn bring_up(&mut self, index: usize) {
        let Some(instance) = self.instances.get_mut(index) else {
            return;
        };
        let running = instance.life == Life::Running;
        instance.life = Life::Running;
        let generation = self.next_generation;
        let mut used = false;
        for interface in &mut instance.interfaces {
            // One that failed half way keeps what it has, so that its TAP is not made a second time.
            if !running || interface.started.is_none() {
                let ifindex = self.reservations.next_ifindex(interface.reservation.slot);
                interface.started = Some((ifindex, generation));
                used = true;
            }
        }
        if used {
            self.next_generation = generation.wrapping_add(1).max(1);
        }
        let number = instance.number();
        let failure = match &self.host_blocked {
            Some(reason) => Some(reason.clone()),
            None => {
                let wanted = self.wanted(self.instances.get(index).into_iter());
                let plan = plan::plan_start(&wanted, &self.observed);
                self.apply(plan, &BTreeSet::new())
                    .await
                    .failures
                    .remove(&Owner::Instance(number))
            }
        };
        if let Some(instance) = self.instances.get_mut(index) {
            instance.note(failure);
            tracing::info!(instance = instance.name.as_str(), "started");
        }
    }

    /// Removes what an instance has on the host; why not, where that failed.
    async fn take_down(&mut self, index: usize) -> Option<String> {
        if self.instances.get(index)?.trouble.is_some() {
            // A step that failed may have done a part: what is known of this instance may be wrong.
            match self.host.observe().await {
                Ok(observed) => self.observed = observed,
                Err(error) => return Some(one_line(&error)),
            }
        }
        let instance = self.instances.get(index)?;
        let aliases = instance
            .interfaces
            .iter()
            .map(|interface| interface.alias.clone())
            .collect();
        let slots = instance
            .interfaces
            .iter()
            .map(|interface| interface.reservation.slot)
            .collect();
        let plan = plan::plan_stop(&aliases, &slots, &self.observed);
        self.apply(plan, &BTreeSet::new())
            .await
            .failures
            .remove(&Owner::Leftover)
    }

    fn instance_name(&self, wanted: Option<&Name>) -> Result<Name, RequestError> {
        let taken = |name: &Name| self.instances.iter().any(|instance| instance.name == *name);
        match wanted {
            Some(name) if taken(name) => Err(RequestError::NameTaken(name.to_string())),
            Some(name) => Ok(name.clone()),
            None => Ok(unused(|| Name::for_instance(random()), taken)),
        }
    }

    fn interface_names(
        &self,
        instance: &Name,
        specs: &[InterfaceSpec],
    ) -> Result<Vec<Name>, RequestError> {
        let others = self
            .instances
            .iter()
            .flat_map(|instance| &instance.interfaces);
        let mut taken: BTreeSet<&Name> = others.map(|interface| &interface.name).collect();
        for name in specs.iter().filter_map(|spec| spec.name.as_ref()) {
            if !taken.insert(name) {
                return Err(RequestError::InterfaceNameTaken(name.to_string()));
            }
        }
        let names = specs.iter().enumerate().map(|(index, spec)| {
            let generate = |random| Name::for_interface(instance, index, random);
            match &spec.name {
                Some(name) => name.clone(),
                None if !taken.contains(&generate(0)) => generate(random()),
                None => unused(|| Name::for_suffix(random()), |name| taken.contains(name)),
            }
        });
        Ok(names.collect())
    }

    fn reserve(&mut self, count: usize) -> Result<Vec<Reservation>, RequestError> {
        // The names are copied, since the reservations change beside the observation.
        let present: BTreeSet<String> = self.link_names().into_iter().map(str::to_owned).collect();
        let present = present.iter().map(String::as_str).collect();
        let mut reserved = Vec::new();
        for _ in 0..count {
            match self.reservations.reserve(&self.pool, &present) {
                Ok(reservation) => reserved.push(reservation),
                Err(error) => {
                    reserved
                        .iter()
                        .for_each(|one| self.reservations.release(one));
                    return Err(error.into());
                }
            }
        }
        Ok(reserved)
    }

    fn interface(
        &self,
        spec: &InterfaceSpec,
        name: Name,
        (owner, group): (Option<u32>, Option<u32>),
        reservation: Reservation,
    ) -> Interface {
        let id = Uuid::new_v4();
        Interface {
            id,
            name,
            owner,
            group,
            queues: spec.queues,
            addresses: self.pool.addresses(reservation.slot),
            alias: format!("{}{id}", alias_prefix(self.store_id)),
            reservation,
            started: None,
        }
    }
}

fn unused(generate: impl Fn() -> Name, taken: impl Fn(&Name) -> bool) -> Name {
    let mut name = generate();
    while taken(&name) {
        name = generate();
    }
    name
}

fn user(principal: &Principal) -> Result<u32, RequestError> {
    match principal {
        Principal::Id(id) => Ok(*id),
        Principal::Name(name) => match User::from_name(name) {
            Ok(Some(user)) => Ok(user.uid.as_raw()),
            Ok(None) | Err(_) => Err(RequestError::UnknownUser(name.clone())),
        },
    }
}

fn group(principal: &Principal) -> Result<u32, RequestError> {
    match principal {
        Principal::Id(id) => Ok(*id),
        Principal::Name(name) => match Group::from_name(name) {
            Ok(Some(group)) => Ok(group.gid.as_raw()),
            Ok(None) | Err(_) => Err(RequestError::UnknownGroup(name.clone())),
        },
    }
}
