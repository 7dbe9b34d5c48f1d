//! What is shown of an instance, and what should exist on the host for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use netagent_common::names::ABI_VERSION;
use netagent_common::net::GATEWAY_V6;
use netagent_common::policy::policy_flag::{
    AUDIT, DENY_ALL, DNS_STEERED, LEG, QUARANTINE, RELAY, RELAYED,
};
use netagent_common::vm::{self, INTERFACES_MAX};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::agent::publish::PublishedState;
use crate::agent::registry::Key;
use crate::agent::relay::RelayState;
use crate::agent::uplink::MTU_MIN_V6;
use crate::agent::{Agent, RequestError};
use crate::dns::places;
use crate::gateway::gateway_of;
use crate::host::{Counters, Host};
use crate::instance::{AnnouncedPort, Instance, Interface, Life, Origin};
use crate::plan::{TapSpec, WantedInterface, alias_prefix};
use crate::spec::MACHINE;
use crate::spec::limit::LimitsSpec;
use crate::spec::name::Name;
use crate::spec::policy::PolicySpec;
use crate::spec::publish::ExposedPort;
use crate::spec::relay;

/// What is shown of an instance.
#[derive(Clone, Debug)]
pub struct InstanceState {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: Name,
    /// Its status.
    pub status: Status,
    /// Why the status is `error`.
    pub reason: Option<String>,
    /// One to four; the first is the primary.
    pub interfaces: Vec<InterfaceState>,
    /// Members that describe the VM.
    pub machine: Map<String, Value>,
    /// What the guest is told as its gateway.
    pub gateway: Ipv4Addr,
    /// What the guest is told as its name server.
    pub nameserver: IpAddr,
    /// The host's address under which it leaves, where it asked for one.
    pub snat_address: Option<IpAddr>,
    /// Ports that the guest announced on its primary address.
    pub announced: Vec<AnnouncedPort>,
    /// Published ports, in the order of the request.
    pub published: Vec<PublishedState>,
    /// Exposed ports.
    pub exposed: BTreeSet<ExposedPort>,
    /// What its guest may reach.
    pub policy: PolicySpec,
    /// How much it may send, receive and hold open.
    pub limits: LimitsSpec,
    /// What became of its queries to the resolver since its start: only in an inspection.
    pub dns: Option<places::Counters>,
}

/// What is shown of an interface.
#[derive(Clone, Debug)]
pub struct InterfaceState {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: Name,
    /// Name of the TAP.
    pub tap_name: String,
    /// The gateway's address.
    pub host_v4: Ipv4Net,
    /// The guest's address.
    pub guest_v4: Ipv4Net,
    /// The guest's IPv6 address.
    pub guest_v6: Option<Ipv6Net>,
    /// MAC address of the guest.
    pub guest_mac: [u8; 6],
    /// MTU, bytes.
    pub mtu: u32,
    /// Model of the device in the VM.
    pub model: String,
    /// Whether the guest is told to configure it.
    pub autoconfig: bool,
    /// Through whose VM everything of it goes.
    pub relay: Option<RelayState>,
    /// Interfaces that have it as their relay.
    pub relay_clients: Vec<Name>,
    /// Whether a VMM holds the TAP, and what was counted: only in an inspection.
    pub inspected: Option<(bool, Counters)>,
}

/// Status of an instance (I-13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are the words of the specification")]
pub enum Status {
    Pending,
    Running,
    Stopped,
    Error,
}

impl Status {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Error => "error",
        }
    }
}

impl<H: Host> Agent<H> {
    pub(crate) fn state_of(&self, key: Key) -> Result<InstanceState, RequestError> {
        let held = self.registry.get(key);
        let held = held.ok_or_else(|| RequestError::NotFound(key.to_string()))?;
        let instance = &held.instance;
        let trouble = held.trouble.as_ref().map(|trouble| trouble.reason.clone());
        let reason = trouble.or_else(|| {
            let bound = self.config.policy.quarantine_pps;
            self.quarantine.reason(instance.number(), bound)
        });
        let status = match (&reason, instance.life) {
            (Some(_), _) => Status::Error,
            (None, Life::Pending) => Status::Pending,
            (None, Life::Running) => Status::Running,
            (None, Life::Stopped | Life::Deleting) => Status::Stopped,
        };
        let gateway = gateway_of(&instance.interfaces, instance.gateway);
        let described =
            |name: &&str| Some(((*name).to_owned(), instance.request.get(*name)?.clone()));
        Ok(InstanceState {
            id: instance.id,
            name: instance.name.clone(),
            status,
            reason,
            interfaces: instance
                .interfaces
                .iter()
                .map(|interface| self.interface_state(instance, interface))
                .collect(),
            machine: MACHINE.iter().filter_map(described).collect(),
            gateway: gateway.address,
            nameserver: instance.nameserver.unwrap_or(gateway.derived.into()),
            snat_address: instance.snat_address,
            announced: instance.announced.clone(),
            published: self.published_states(instance),
            exposed: instance.exposed.clone(),
            policy: instance.policy.clone(),
            limits: instance.limits,
            dns: None,
        })
    }

    fn interface_state(&self, instance: &Instance, interface: &Interface) -> InterfaceState {
        InterfaceState {
            id: interface.id,
            name: interface.name.clone(),
            tap_name: interface.tap_name.clone(),
            host_v4: interface.host_v4,
            guest_v4: interface.guest_v4,
            guest_v6: interface.guest_v6,
            guest_mac: interface.mac,
            mtu: self.mtu_of(interface),
            model: interface.model.clone(),
            autoconfig: interface.autoconfig,
            relay: self.relay_state(instance, interface, false),
            relay_clients: self.clients_of(instance, interface),
            inspected: None,
        }
    }

    /// The alias of a TAP that the agent made (S-4).
    pub(crate) fn alias(&self, interface: Uuid) -> String {
        format!("{}{interface}", alias_prefix(self.store_id))
    }

    /// The alias of an existing TAP while it is in use.
    pub(crate) fn lent_alias(&self, interface: Uuid) -> String {
        format!("{}:lent", self.alias(interface))
    }

    /// What should exist for an instance while it runs.
    pub(crate) fn wanted_interfaces(&self, instance: &Instance) -> BTreeMap<Uuid, WantedInterface> {
        if instance.life != Life::Running {
            return BTreeMap::new();
        }
        let number = instance.number();
        let quarantine = self.quarantine.flag(number);
        let drop_all = quarantine != 0 || self.denied.is_settled(number);
        let interfaces = instance.interfaces.iter().enumerate();
        interfaces
            .map(|(index, interface)| {
                let mut record = self.record(instance, index, interface);
                record.policy_flags |= quarantine;
                let wanted = WantedInterface {
                    // What its clients send comes in there too.
                    drop_all: drop_all && record.policy_flags & RELAY == 0,
                    leg: self.leg(instance, interface, &record),
                    ..self.wanted_interface(interface, record)
                };
                (interface.id, wanted)
            })
            .collect()
    }

    fn wanted_interface(&self, interface: &Interface, record: vm::Interface) -> WantedInterface {
        let guest_v6 = interface.guest_v6.filter(|_| record.has_v6 != 0);
        let guest_v6 = guest_v6.map(|guest| guest.addr());
        WantedInterface {
            tap: TapSpec {
                name: interface.tap_name.clone(),
                ifindex: record.ifindex,
                owner: interface.tap_owner,
                group: interface.tap_group,
                queues: interface.queues,
                mtu: record.mtu,
                v6: guest_v6.is_some(),
                alias: self.alias_of(interface),
                lent: matches!(interface.origin, Origin::Existing(_)),
            },
            record,
            host_v4: interface.host_v4,
            guest_v4: interface.guest_v4.addr(),
            guest_v6,
            drop_all: false,
            leg: None,
        }
    }

    /// What the programs know of the leg of an interface whose own record is this one. What the instance may send and
    /// receive is charged at its own TAP, and what it sent never comes to more here; a relay that sends in its name by
    /// itself has as much again.
    fn leg(
        &self,
        instance: &Instance,
        interface: &Interface,
        own: &vm::Interface,
    ) -> Option<vm::Interface> {
        let leg = interface.relay.as_ref()?.leg;
        let relay = self.running_relay(instance, interface);
        let known = self.relay_of(instance, interface);
        let mtu = known.map_or(own.mtu, |(_, relay)| self.mtu_of(relay).min(own.mtu));
        let denied = if own.policy_flags & (DENY_ALL | AUDIT) == DENY_ALL {
            DENY_ALL
        } else {
            0
        };
        Some(vm::Interface {
            ifindex: relay.map_or(0, |relay| relay.ifindex),
            guest_mac: relay.map_or([0; 6], |relay| relay.mac),
            slot: leg,
            instance: leg,
            client: own.slot,
            leg: 0,
            mtu,
            policy: self.policy_of_legs(),
            policy_flags: LEG | denied | own.policy_flags & QUARANTINE,
            account: 0,
            bandwidth: own.bandwidth.doubled(),
            bandwidth_in: own.bandwidth_in.doubled(),
            packets: own.packets.doubled(),
            ..*own
        })
    }

    /// The flags of an interface that has a relay, or is one.
    fn relay_flags(&self, instance: &Instance, interface: &Interface) -> u32 {
        let flag = |holds, flag| if holds { flag } else { 0 };
        let relay = interface.relay.as_ref();
        let steers = relay.is_some_and(|one| !relay::takes_dns(one.dns, &instance.policy));
        let is_relay = self
            .registry
            .has_clients(&instance.account, &interface.name);
        flag(relay.is_some(), RELAYED) | flag(steers, DNS_STEERED) | flag(is_relay, RELAY)
    }

    /// What the programs know of an interface: its own addresses first, then the instance's others, save those of
    /// interfaces that have a relay, which come in by their own TAP alone. Below the lowest MTU of IPv6 the kernel takes IPv6 off the TAP, and the guest has none; its address stays reserved.
    pub(crate) fn record(
        &self,
        instance: &Instance,
        index: usize,
        interface: &Interface,
    ) -> vm::Interface {
        let mut addresses_v4 = [[0; 4]; INTERFACES_MAX];
        let mut addresses_v6 = [[0; 16]; INTERFACES_MAX];
        let mut prefixes_v6 = [0; INTERFACES_MAX];
        let others = instance.interfaces.iter().enumerate();
        let others =
            others.filter(|(other, interface)| *other != index && interface.relay.is_none());
        let has_relay = interface.relay.is_some();
        let others = others.filter(|_| !has_relay).map(|(_, other)| other);
        let own_first = std::iter::once(interface).chain(others);
        let mut addresses = 0;
        let places = addresses_v6.iter_mut().zip(&mut prefixes_v6);
        let places = addresses_v4.iter_mut().zip(places);
        for (interface, (v4, (v6, prefix))) in own_first.zip(places) {
            addresses += 1;
            *v4 = interface.guest_v4.addr().octets();
            if let Some(guest) = interface.guest_v6 {
                *v6 = guest.addr().octets();
                *prefix = if interface.origin == Origin::Pool {
                    vm::WHOLE_NETWORK
                } else {
                    vm::EXACT_ADDRESS
                };
            }
        }
        let gateway = gateway_of(&instance.interfaces, instance.gateway);
        let mtu = self.mtu_of(interface);
        let (snat_v4, snat_v6) = match instance.snat_address {
            None => ([0; 4], [0; 16]),
            Some(IpAddr::V4(address)) => (address.octets(), [0; 16]),
            Some(IpAddr::V6(address)) => ([0; 4], address.octets()),
        };
        let (policy, policy_flags) = self.policy_of(instance);
        let rates = self.rates_of(instance);
        vm::Interface {
            ifindex: interface.ifindex,
            slot: interface.slot,
            abi: ABI_VERSION,
            generation: instance.generation,
            instance: instance.number(),
            policy_generation: instance.policy_generation,
            flow_limit: rates.flows,
            mtu,
            guest_mac: interface.mac,
            addresses,
            has_v6: u8::from(interface.guest_v6.is_some() && mtu >= MTU_MIN_V6),
            gateway_v4: interface.host_v4.addr().octets(),
            instance_gateway_v4: gateway.address.octets(),
            addresses_v4,
            gateway_v6: GATEWAY_V6,
            addresses_v6,
            prefixes_v6,
            snat_v4,
            snat_v6,
            policy,
            policy_flags: policy_flags | self.relay_flags(instance, interface),
            account: self.account_of(instance, interface),
            bandwidth: rates.bandwidth,
            bandwidth_in: rates.bandwidth_in,
            packets: rates.packets,
            leg: interface.relay.as_ref().map_or(0, |relay| relay.leg),
            client: 0,
        }
    }
}
