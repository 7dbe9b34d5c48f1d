//! An instance as the store keeps it: what was asked for, and what is reserved for it until it is deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::access::AccountName;
use crate::spec::limit::LimitsSpec;
use crate::spec::name::Name;
use crate::spec::policy::PolicySpec;
use crate::spec::publish::{ExposedPort, PortProtocol, PublishedPort};

/// One instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// Its id.
    pub id: Uuid,
    /// Whose it is.
    pub account: AccountName,
    /// Unique in its account.
    pub name: Name,
    /// The request that made it, as it came, without members that are null, policy and limits.
    pub request: Map<String, Value>,
    /// What the guest is told instead of the derived gateway (I-15).
    pub gateway: Option<Ipv4Addr>,
    /// What the guest is told instead of the derived server (I-15).
    pub nameserver: Option<IpAddr>,
    /// The host's address under which it leaves towards the world, in the family of that (N-8).
    pub snat_address: Option<IpAddr>,
    /// How far it is.
    pub life: Life,
    /// Counts the starts of instances; 0 before the first one.
    pub generation: u32,
    /// Ports that the guest announced on its primary address (I-4).
    pub announced: Vec<AnnouncedPort>,
    /// Ports of the host that lead to it, in the order of the request (N-3).
    pub publications: Vec<Publication>,
    /// Ports of its own addresses that the host may reach (N-4).
    pub exposed: BTreeSet<ExposedPort>,
    /// What its guest may reach (P-1).
    pub policy: PolicySpec,
    /// How much it may send, receive and hold open (P-11, P-13).
    pub limits: LimitsSpec,
    /// Moves with every change of its policy and of what may reach it; from 1.
    pub policy_generation: u32,
    /// When it was created, milliseconds since 1970.
    pub created_ms: u64,
    /// One to four; the first is the primary.
    pub interfaces: Vec<Interface>,
}

/// One interface of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its id, part of the alias of its TAP.
    pub id: Uuid,
    /// Unique in its account.
    pub name: Name,
    /// Its place in the datapath; unique on the host.
    pub slot: u32,
    /// Index of the TAP since the last start; 0 before the first one.
    pub ifindex: u32,
    /// Name of the TAP; unique on the host.
    pub tap_name: String,
    /// User that may open the TAP.
    pub tap_owner: Option<u32>,
    /// Group that may open the TAP.
    pub tap_group: Option<u32>,
    /// Queues of the TAP.
    pub queues: u16,
    /// Where the TAP and its address come from.
    pub origin: Origin,
    /// The host's end: on the TAP, and what the guest reaches the host by.
    pub host_v4: Ipv4Net,
    /// The guest's address with its prefix; unique on the host.
    pub guest_v4: Ipv4Net,
    /// The guest's IPv6 address with its prefix; unique on the host.
    pub guest_v6: Option<Ipv6Net>,
    /// MAC address of the guest; unique on the host.
    pub mac: [u8; 6],
    /// Model of the device in the VM.
    pub model: String,
    /// Whether the guest is told to configure it (I-17).
    pub autoconfig: bool,
    /// MTU that was asked for, bytes; where none was, it has the uplink's.
    pub mtu: Option<u32>,
    /// Through whose VM everything of it goes.
    pub relay: Option<Relay>,
}

/// The relay of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Name of the relay's interface in the same account, whether there is such a one at the moment or not.
    pub name: Name,
    /// Whether DNS goes there too, where that was said.
    pub dns: Option<bool>,
    /// Slot of its leg ([`netagent_common::vm::Interface::leg`]); unique on the host, among interfaces too.
    pub leg: u32,
}

/// Where a TAP and its address come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Out of the pool.
    Pool,
    /// The user's address on a TAP that the agent makes.
    Custom,
    /// The user's address on the user's TAP, which is given back as it was (I-9).
    Existing(Before),
}

/// How an existing TAP was before the agent used it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// Its index then.
    pub ifindex: u32,
    /// Hardware address.
    pub mac: [u8; 6],
    /// MTU, bytes.
    pub mtu: u32,
    /// Alias, where it had one.
    pub alias: Option<String>,
    /// Whether it was up.
    pub up: bool,
    /// Its addresses.
    pub addresses: BTreeSet<IpNet>,
    /// Per-device settings under `/proc/sys/net`, by path below it (`ipv4/conf/vpc0/forwarding`).
    pub settings: BTreeMap<String, String>,
}

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Its number in the datapath: never used again, so that no sender of another publication is one of its.
    pub id: u32,
    /// What leads where.
    pub port: PublishedPort,
}

/// How far an instance is (I-13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Never started.
    Pending,
    /// Wanted on the host.
    Running,
    /// Taken off the host; its reservations stay.
    Stopped,
    /// Being taken off the host; its row goes when nothing of it is left (S-4).
    Deleting,
}

/// A port that a guest announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AnnouncedPort {
    /// Its number.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: PortProtocol,
}

impl Instance {
    /// Its number for whoever opens flows towards its first interface: where that has a relay, its leg's.
    #[must_use]
    pub fn number_towards(&self) -> u32 {
        let primary = self.interfaces.first();
        let relay = primary.and_then(|primary| primary.relay.as_ref());
        relay.map_or_else(|| self.number(), |relay| relay.leg)
    }

    /// Its number in the datapath: the slot of its first interface.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.interfaces
            .first()
            .map_or(u32::MAX, |primary| primary.slot)
    }
}

impl Interface {
    /// Its places in the datapath: its own, and its leg's.
    pub fn slots(&self) -> impl Iterator<Item = u32> {
        let leg = self.relay.as_ref().map(|relay| relay.leg);
        std::iter::once(self.slot).chain(leg)
    }
}

impl Life {
    /// As it is stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Deleting => "deleting",
        }
    }
}
