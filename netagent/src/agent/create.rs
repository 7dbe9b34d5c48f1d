//! Create: every refusal comes before anything is reserved (I-20), and then one instance is drafted.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use uuid::Uuid;

use crate::access::Caller;
use crate::agent::custom;
use crate::agent::decide::Batch;
use crate::agent::principal::{group, user};
use crate::agent::registry::Key;
use crate::agent::store_id::random;
use crate::agent::{Agent, RequestError, now_ms};
use crate::gateway::host_end;
use crate::host::{Host, Place};
use crate::instance::{Instance, Interface, Life, Origin, Relay};
use crate::ipam::custom_mac;
use crate::policy::Compiled;
use crate::spec::name::Name;
use crate::spec::relay::RelaySpec;
use crate::spec::{Addressing, Bounds, InstanceSpec, InterfaceSpec, SpecError};
use crate::store::Change;

/// Names that are tried where another process takes one after the other.
const NAME_TRIES: usize = 64;

impl<H: Host> Agent<H> {
    /// Everything for which a create would be refused, the first one first.
    pub(crate) async fn refusals(
        &mut self,
        caller: &Caller,
        spec: &InstanceSpec,
    ) -> Result<Vec<RequestError>, RequestError> {
        let mut refusals: Vec<RequestError> = spec
            .check_bounds(&self.bounds())
            .into_iter()
            .map(RequestError::Spec)
            .collect();
        for interface in &spec.interfaces {
            refusals.extend(interface.tap_owner.as_ref().and_then(|one| user(one).err()));
            refusals.extend(
                interface
                    .tap_group
                    .as_ref()
                    .and_then(|one| group(one).err()),
            );
        }
        self.observe_custom_taps(spec).await?;
        for interface in &spec.interfaces {
            self.refuse_custom(caller, interface, &mut refusals);
            refusals.extend(self.refuse_mtu(interface));
        }
        refusals.extend(self.refuse_snat(spec.snat_address).await?);
        refusals.extend(self.refuse_limits(&spec.limits));
        self.refuse_names(caller, spec, &mut refusals);
        self.refuse_relays(caller, spec, &mut refusals);
        refusals.extend(self.refuse_gateway(caller, spec));
        self.refuse_ports(caller, &spec.ports, None, &mut refusals);
        let host_limit = self.config.limits.instances;
        if self.registry.len() >= host_limit as usize {
            refusals.push(RequestError::InstanceLimit(host_limit));
        }
        let limit = self.config.account(&caller.account).instances;
        if let Some(limit) = limit
            && self.registry.count_of(&caller.account) >= limit as usize
        {
            let account = caller.account.clone();
            refusals.push(RequestError::AccountLimit { account, limit });
        }
        Ok(refusals)
    }

    pub(crate) fn bounds(&self) -> Bounds {
        Bounds {
            pool: self.pool.subnet,
            pool6: self.pool.subnet6,
            tap_prefix: self.pool.tap_prefix.clone(),
            custom_subnets: self.config.custom.subnets.clone(),
        }
    }

    /// A fresh look at the devices that the request names.
    async fn observe_custom_taps(&mut self, spec: &InstanceSpec) -> Result<(), RequestError> {
        let places: Vec<Place> = spec
            .interfaces
            .iter()
            .filter_map(|interface| custom_tap(interface))
            .map(Place::named)
            .collect();
        if !places.is_empty() {
            self.host
                .observe_interfaces(&mut self.observed, &places)
                .await?;
        }
        Ok(())
    }

    fn refuse_custom(
        &self,
        caller: &Caller,
        interface: &InterfaceSpec,
        refusals: &mut Vec<RequestError>,
    ) {
        if let Some(mac) = interface.mac
            && self.registry.has_mac(mac)
        {
            refusals.push(RequestError::MacTaken(crate::spec::mac_text(mac)));
        }
        let Addressing::Custom { ip, ip6, tap_name } = &interface.addressing else {
            return;
        };
        let networks = [Some(IpNet::V4(*ip)), ip6.map(IpNet::V6)];
        for network in networks.into_iter().flatten() {
            if !self.is_available(network) {
                refusals.push(RequestError::Spec(SpecError::NotAvailable));
            } else if self.registry.has_address(network.addr()) {
                refusals.push(RequestError::AddressTaken(network));
            }
        }
        if self.registry.has_tap(tap_name) {
            refusals.push(RequestError::TapTaken(tap_name.clone()));
        } else {
            refusals.extend(self.refuse_existing(caller, interface, tap_name));
        }
    }

    fn is_available(&self, network: IpNet) -> bool {
        let prefix = crate::plan::alias_prefix(self.store_id);
        let own = |link: &crate::plan::ObservedLink| {
            let alias = link.alias.as_ref();
            alias.is_some_and(|alias| alias.starts_with(&prefix))
        };
        let uplinks = self.uplinks.indices();
        let resolvers = self.resolvers();
        !self.holds_snat(network)
            && custom::available(network, &self.observed, &uplinks, &own, &resolvers)
    }

    /// Why a device that exists cannot be lent (I-9).
    fn refuse_existing(
        &self,
        caller: &Caller,
        interface: &InterfaceSpec,
        tap_name: &str,
    ) -> Option<RequestError> {
        let mut links = self.observed.links.values();
        let link = links.find(|link| link.name == tap_name)?;
        if !link.tap {
            return Some(RequestError::NotATap(tap_name.to_owned()));
        }
        if link.master.is_some() {
            let text = "network_interfaces.mode bridge (the TAP device has a master)";
            return Some(RequestError::NotSupported(text.to_owned()));
        }
        if !self.config.modes.allows_tap(tap_name, caller.rights.local) {
            let text = format!(
                "TAP device '{tap_name}' exists and may not be used: the operator names such devices in modes.taps"
            );
            return Some(RequestError::TapNotAllowed(text));
        }
        interface.tap_options_given.then(|| {
            let text = format!(
                "tap_owner, tap_group and queues cannot be set on the existing TAP device '{tap_name}'"
            );
            RequestError::Invalid(text)
        })
    }

    fn refuse_names(&self, caller: &Caller, spec: &InstanceSpec, refusals: &mut Vec<RequestError>) {
        if let Some(name) = &spec.name
            && self.registry.has_name(&caller.account, name)
        {
            refusals.push(RequestError::NameTaken(name.to_string()));
        }
        for name in spec.interfaces.iter().filter_map(|one| one.name.as_ref()) {
            if self.registry.has_interface_name(&caller.account, name) {
                refusals.push(RequestError::InterfaceNameTaken(name.to_string()));
            }
        }
    }

    pub(crate) async fn decide_create(
        &mut self,
        caller: &Caller,
        spec: InstanceSpec,
        compiled: Option<Arc<Compiled>>,
        batch: &mut Batch,
    ) -> Result<Key, RequestError> {
        if let Some(refusal) = self.refusals(caller, &spec).await?.into_iter().next() {
            return Err(refusal);
        }
        let mut instance = self.draft(caller, &spec).await?;
        let taken = self.take_ports(&mut instance, &spec.ports, batch).await;
        let made = match taken {
            Ok(()) if spec.autostart => self.begin_start(&mut instance, batch).await,
            taken => taken,
        };
        if let Err(error) = made {
            self.give_back(&instance.interfaces);
            return Err(error);
        }
        let detail = instance.id.to_string();
        batch.audit(caller, "create", instance.name.as_str(), detail);
        batch
            .changes
            .push(Change::Insert(Box::new(instance.clone())));
        Ok(self.take_in(instance, compiled, batch))
    }

    /// The instance with everything that is reserved for it. From here on only the pool can refuse.
    async fn draft(
        &mut self,
        caller: &Caller,
        spec: &InstanceSpec,
    ) -> Result<Instance, RequestError> {
        let taken = |name: &Name| self.registry.has_name(&caller.account, name);
        let name = match &spec.name {
            Some(name) => name.clone(),
            None => unused(|| Name::for_instance(random()), taken),
        };
        let names = self.interface_names(caller, &name, &spec.interfaces);
        let mut interfaces = Vec::new();
        for (interface, name) in spec.interfaces.iter().zip(names) {
            match self.draft_interface(interface, name, &interfaces).await {
                Ok(interface) => interfaces.push(interface),
                Err(error) => {
                    self.give_back(&interfaces);
                    return Err(error);
                }
            }
        }
        Ok(Instance {
            id: Uuid::new_v4(),
            account: caller.account.clone(),
            name,
            request: spec.request.clone(),
            gateway: spec.gateway,
            nameserver: spec.nameserver,
            snat_address: spec.snat_address,
            life: Life::Pending,
            generation: 0,
            announced: Vec::new(),
            publications: Vec::new(),
            exposed: BTreeSet::new(),
            policy: spec.policy.clone(),
            limits: spec.limits,
            policy_generation: 1,
            created_ms: now_ms(),
            interfaces,
        })
    }

    async fn draft_interface(
        &mut self,
        spec: &InterfaceSpec,
        name: Name,
        others: &[Interface],
    ) -> Result<Interface, RequestError> {
        let mut interface = match &spec.addressing {
            Addressing::Pool => self.draft_pool().await?,
            Addressing::Custom { ip, ip6, tap_name } => {
                let before = self.host.before(tap_name).await?;
                let slot = self.reservations.reserve_custom_slot(tap_name)?;
                let mac = self.unused_mac(others);
                Interface {
                    guest_v6: *ip6,
                    origin: before.map_or(Origin::Custom, Origin::Existing),
                    ..interface(
                        slot,
                        tap_name,
                        Ipv4Net::new_assert(host_end(*ip), 32),
                        *ip,
                        mac,
                    )
                }
            }
        };
        interface.name = name;
        interface.tap_owner = spec.tap_owner.as_ref().map(user).transpose()?;
        interface.tap_group = spec.tap_group.as_ref().map(group).transpose()?;
        interface.queues = spec.queues;
        interface.model.clone_from(&spec.model);
        interface.autoconfig = spec.autoconfig;
        interface.mtu = spec.mtu;
        interface.mac = spec.mac.unwrap_or(interface.mac);
        if let Some(relay) = &spec.relay {
            match self.reservations.reserve_leg() {
                Ok(leg) => interface.relay = Some(made_relay(relay, leg)),
                Err(error) => {
                    self.give_back(&[interface]);
                    return Err(error.into());
                }
            }
        }
        Ok(interface)
    }

    /// A slot of the pool, and a name that no device has at this moment.
    async fn draft_pool(&mut self) -> Result<Interface, RequestError> {
        let mut passed = BTreeSet::new();
        for _ in 0..NAME_TRIES {
            let links = &self.observed.links;
            let is_present =
                |name: &str| passed.contains(name) || links.values().any(|link| link.name == name);
            let (slot, tap_name) = self.reservations.reserve_pool(&self.pool, &is_present)?;
            let place = [Place::named(&tap_name)];
            let looked = self
                .host
                .observe_interfaces(&mut self.observed, &place)
                .await;
            let mut links = self.observed.links.values();
            let free = looked.is_ok() && !links.any(|link| link.name == tap_name);
            if free {
                let addresses = self.pool.addresses(slot);
                return Ok(Interface {
                    guest_v6: addresses.guest_v6,
                    ..interface(
                        slot,
                        &tap_name,
                        addresses.host_v4,
                        addresses.guest_v4,
                        addresses.guest_mac,
                    )
                });
            }
            self.reservations.release(&self.pool, slot, &tap_name);
            looked?;
            passed.insert(tap_name);
        }
        Err(RequestError::TapTaken(format!("{}*", self.pool.tap_prefix)))
    }

    fn unused_mac(&self, others: &[Interface]) -> [u8; 6] {
        loop {
            let [a, b, c, d, e, f, ..] = *Uuid::new_v4().as_bytes();
            let mac = custom_mac([a, b, c, d, e, f]);
            if !self.registry.has_mac(mac) && others.iter().all(|other| other.mac != mac) {
                return mac;
            }
        }
    }

    fn interface_names(
        &self,
        caller: &Caller,
        instance: &Name,
        specs: &[InterfaceSpec],
    ) -> Vec<Name> {
        let mut own: BTreeSet<Name> = specs.iter().filter_map(|spec| spec.name.clone()).collect();
        let mut names = Vec::new();
        for (index, spec) in specs.iter().enumerate() {
            let taken = |name: &Name| {
                own.contains(name)
                    || self.registry.has_interface_name(&caller.account, name)
                    // Who waits for an interface of this name waits for one that can be its relay.
                    || (spec.relay.is_some() && self.registry.has_clients(&caller.account, name))
            };
            let generated = Name::for_interface(instance, index, random());
            let name = match &spec.name {
                Some(name) => name.clone(),
                None if !taken(&generated) => generated,
                None => unused(|| Name::for_suffix(random()), taken),
            };
            own.insert(name.clone());
            names.push(name);
        }
        names
    }

    pub(crate) fn give_back(&mut self, interfaces: &[Interface]) {
        for interface in interfaces {
            self.reservations
                .release(&self.pool, interface.slot, &interface.tap_name);
            if let Some(relay) = &interface.relay {
                self.reservations.release_leg(relay.leg);
            }
        }
    }
}

fn interface(
    slot: u32,
    tap_name: &str,
    host_v4: Ipv4Net,
    guest_v4: Ipv4Net,
    mac: [u8; 6],
) -> Interface {
    Interface {
        id: Uuid::new_v4(),
        name: Name::for_suffix(0),
        slot,
        ifindex: 0,
        tap_name: tap_name.to_owned(),
        tap_owner: None,
        tap_group: None,
        queues: 1,
        origin: Origin::Pool,
        host_v4,
        guest_v4,
        guest_v6: None,
        mac,
        model: String::new(),
        autoconfig: true,
        mtu: None,
        relay: None,
    }
}

fn made_relay(spec: &RelaySpec, leg: u32) -> Relay {
    Relay {
        name: spec.name.clone(),
        dns: spec.dns,
        leg,
    }
}

/// The TAP that a custom interface names.
pub(crate) fn custom_tap(interface: &InterfaceSpec) -> Option<&str> {
    match &interface.addressing {
        Addressing::Pool => None,
        Addressing::Custom { tap_name, .. } => Some(tap_name),
    }
}

fn unused(generate: impl Fn() -> Name, taken: impl Fn(&Name) -> bool) -> Name {
    let mut name = generate();
    while taken(&name) {
        name = generate();
    }
    name
}
