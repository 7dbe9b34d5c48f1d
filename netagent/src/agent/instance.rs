//! An instance as the agent holds it, and as it is shown.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use netagent_common::names::ABI_VERSION;
use netagent_common::net::GATEWAY_V6;
use netagent_common::vm::{self, INTERFACES_MAX};
use serde_json::{Map, Value};
use tokio::time::Instant;
use uuid::Uuid;

use crate::agent::uplink::MTU_MIN_V6;
use crate::host::Counters;
use crate::instance::AnnouncedPort;
use crate::ipam::{Reservation, SlotAddresses};
use crate::plan::{TapSpec, WantedInterface};
use crate::spec::name::Name;

/// The policy generation of an instance whose policy never changed.
const FIRST_POLICY: u32 = 1;

/// One instance.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) id: Uuid,
    pub(crate) name: Name,
    pub(crate) machine: Map<String, Value>,
    /// One to four; the first is the primary.
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) life: Life,
    pub(crate) trouble: Option<Trouble>,
}

/// One interface of an instance.
#[derive(Clone, Debug)]
pub(crate) struct Interface {
    pub(crate) id: Uuid,
    pub(crate) name: Name,
    pub(crate) owner: Option<u32>,
    pub(crate) group: Option<u32>,
    pub(crate) queues: u16,
    pub(crate) reservation: Reservation,
    pub(crate) addresses: SlotAddresses,
    pub(crate) alias: String,
    /// Chosen at each start: interface index and generation.
    pub(crate) started: Option<(u32, u32)>,
}

/// How far an instance is (I-13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Pending,
    Running,
    Stopped,
}

/// What the last attempt met (I-20).
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    pub(crate) reason: String,
    pub(crate) failures: u32,
    pub(crate) retry_at: Instant,
}

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
    /// Ports that the guest announced on its primary address.
    pub announced: Vec<AnnouncedPort>,
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

impl Instance {
    /// Its number in the datapath: the slot of its first interface.
    pub(crate) fn number(&self) -> u32 {
        self.interfaces
            .first()
            .map_or(u32::MAX, |primary| primary.reservation.slot)
    }

    /// Whether `key` is its id or its name.
    pub(crate) fn is(&self, key: &str) -> bool {
        self.name.as_str() == key || Uuid::parse_str(key).is_ok_and(|id| id == self.id)
    }

    pub(crate) fn state(&self, mtu: u32) -> InstanceState {
        let status = match (&self.trouble, self.life) {
            (Some(_), _) => Status::Error,
            (None, Life::Pending) => Status::Pending,
            (None, Life::Running) => Status::Running,
            (None, Life::Stopped) => Status::Stopped,
        };
        InstanceState {
            id: self.id,
            name: self.name.clone(),
            status,
            reason: self.trouble.as_ref().map(|trouble| trouble.reason.clone()),
            interfaces: self
                .interfaces
                .iter()
                .map(|interface| interface.state(mtu))
                .collect(),
            machine: self.machine.clone(),
            gateway: self
                .interfaces
                .first()
                .map_or(Ipv4Addr::UNSPECIFIED, |one| one.addresses.host_v4.addr()),
            nameserver: self
                .interfaces
                .first()
                .map_or(Ipv4Addr::UNSPECIFIED, |one| one.addresses.host_v4.addr())
                .into(),
            announced: Vec::new(),
        }
    }

    /// What should exist for it while it runs.
    pub(crate) fn wanted(&self, mtu: u32, flow_limit: u32) -> BTreeMap<Uuid, WantedInterface> {
        if self.life != Life::Running {
            return BTreeMap::new();
        }
        let wanted = self
            .interfaces
            .iter()
            .enumerate()
            .filter_map(|(index, interface)| {
                let (ifindex, generation) = interface.started?;
                let record = vm::Interface {
                    ifindex,
                    generation,
                    flow_limit,
                    mtu,
                    ..self.record(index, interface)
                };
                Some((interface.id, interface.wanted(record)))
            });
        wanted.collect()
    }

    /// The part of the record that is the same at every start.
    fn record(&self, index: usize, interface: &Interface) -> vm::Interface {
        let mut addresses_v4 = [[0; 4]; INTERFACES_MAX];
        let mut addresses_v6 = [[0; 16]; INTERFACES_MAX];
        let mut prefixes_v6 = [0; INTERFACES_MAX];
        let others = self
            .interfaces
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != index);
        let own_first = std::iter::once(interface).chain(others.map(|(_, other)| other));
        let places = addresses_v6.iter_mut().zip(&mut prefixes_v6);
        let places = addresses_v4.iter_mut().zip(places);
        for (interface, (v4, (v6, prefix))) in own_first.zip(places) {
            *v4 = interface.addresses.guest_v4.addr().octets();
            if let Some(guest) = interface.addresses.guest_v6 {
                *v6 = guest.addr().octets();
                *prefix = vm::WHOLE_NETWORK;
            }
        }
        let guest_v6 = interface.addresses.guest_v6;
        vm::Interface {
            ifindex: 0,
            slot: interface.reservation.slot,
            abi: ABI_VERSION,
            generation: 0,
            instance: self.number(),
            policy_generation: FIRST_POLICY,
            flow_limit: 0,
            mtu: 0,
            guest_mac: interface.addresses.guest_mac,
            addresses: self.interfaces.len().min(INTERFACES_MAX) as u8,
            has_v6: u8::from(guest_v6.is_some()),
            gateway_v4: interface.addresses.host_v4.addr().octets(),
            instance_gateway_v4: interface.addresses.host_v4.addr().octets(),
            addresses_v4,
            gateway_v6: GATEWAY_V6,
            addresses_v6,
            prefixes_v6,
        }
    }
}

impl Interface {
    fn wanted(&self, record: vm::Interface) -> WantedInterface {
        // A TAP follows the uplink's MTU, and below IPv6's lowest the kernel takes IPv6 off it.
        let guest_v6 = self.addresses.guest_v6.filter(|_| record.mtu >= MTU_MIN_V6);
        let guest_v6 = guest_v6.map(|guest| guest.addr());
        WantedInterface {
            tap: TapSpec {
                name: self.reservation.tap_name.clone(),
                ifindex: record.ifindex,
                owner: self.owner,
                group: self.group,
                queues: self.queues,
                mtu: record.mtu,
                v6: guest_v6.is_some(),
                alias: self.alias.clone(),
            },
            record,
            host_v4: self.addresses.host_v4,
            guest_v4: self.addresses.guest_v4.addr(),
            guest_v6,
        }
    }

    fn state(&self, mtu: u32) -> InterfaceState {
        InterfaceState {
            id: self.id,
            name: self.name.clone(),
            tap_name: self.reservation.tap_name.clone(),
            host_v4: self.addresses.host_v4,
            guest_v4: self.addresses.guest_v4,
            guest_v6: self.addresses.guest_v6,
            guest_mac: self.addresses.guest_mac,
            mtu,
            model: String::new(),
            autoconfig: true,
            inspected: None,
        }
    }
}
