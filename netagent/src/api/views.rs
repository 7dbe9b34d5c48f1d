//! Instances, interfaces and plans on the wire (I-14).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netagent_common::vm::Traffic;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

mod policy;

use crate::agent::PlanView;
use crate::agent::publish::PublishedState;
use crate::agent::relay::RelayState;
use crate::agent::state::{InstanceState, InterfaceState};
use crate::api::views::policy::{PolicyView, RatesView};
use crate::dns::places;
use crate::host::Counters;
use crate::spec;

/// An instance as create, ls and inspect show it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InstanceView {
    id: Uuid,
    name: String,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(flatten)]
    primary: Option<PrimaryView>,
    /// Address of the host under which it leaves towards the world, where it asked for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    snat_address: Option<IpAddr>,
    network_interfaces: Vec<InterfaceView>,
    /// Ports that the guest announced on its primary address.
    announced_ports: Vec<AnnouncedPortView>,
    /// Ports of the host that lead to it.
    publish: Vec<PublishedPortView>,
    /// Ports of its own addresses that the host may reach: `80/tcp`.
    exposed_ports: Vec<String>,
    #[serde(flatten)]
    policy: PolicyView,
    #[serde(flatten)]
    rates: RatesView,
    #[serde(flatten)]
    #[schema(ignore)]
    machine: Map<String, Value>,
    #[serde(flatten)]
    counters: Option<CountersView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    open_flows: Option<u64>,
    /// What became of its queries to the resolver, since it was started or the agent was.
    #[serde(skip_serializing_if = "Option::is_none")]
    dns: Option<DnsView>,
}

/// A port that a guest announced.
#[derive(Debug, Serialize, ToSchema)]
struct AnnouncedPortView {
    port: u16,
    protocol: &'static str,
}

/// A published port, and whether it works.
#[derive(Debug, Serialize, ToSchema)]
struct PublishedPortView {
    host_port: u16,
    guest_port: u16,
    proto: &'static str,
    /// Address of the host; null where every one is meant.
    #[schema(value_type = Option<String>)]
    address: Option<IpAddr>,
    /// Networks whose hosts may use it; null where everybody may.
    #[schema(value_type = Option<Vec<String>>)]
    allow_from: Option<BTreeSet<IpNet>>,
    /// `published`, or `waiting` with a reason.
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// What is said of the first interface, flat.
#[derive(Debug, Serialize, ToSchema)]
struct PrimaryView {
    #[schema(value_type = String)]
    private_ip: Ipv4Addr,
    #[schema(value_type = String)]
    gateway: Ipv4Addr,
    #[schema(value_type = String)]
    nameserver: IpAddr,
    tap_device: String,
    #[schema(value_type = String)]
    tap_ip: Ipv4Addr,
    #[schema(value_type = String)]
    guest_ip: Ipv4Addr,
    guest_mac: String,
}

#[derive(Debug, Serialize, ToSchema)]
struct InterfaceView {
    id: Uuid,
    name: String,
    mode: &'static str,
    tap_name: String,
    #[schema(value_type = String)]
    ip: Ipv4Net,
    #[schema(value_type = Option<String>)]
    ip6: Option<Ipv6Net>,
    #[schema(value_type = String)]
    tap_ip: Ipv4Addr,
    mac: String,
    mtu: u32,
    autoconfig: bool,
    relay: Option<RelayView>,
    /// Interfaces of other instances that have it as their relay.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    relay_clients: Vec<String>,
    #[serde(flatten)]
    counters: Option<CountersView>,
}

/// Through whose VM everything of an interface goes.
#[derive(Debug, Serialize, ToSchema)]
struct RelayView {
    /// Name of its interface.
    name: String,
    /// Whether DNS goes there too.
    relay_dns: bool,
    /// `up`, or `down` with a reason: then nothing passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
struct CountersView {
    attached: bool,
    /// Dropped packets by reason.
    #[schema(value_type = Object)]
    drops: BTreeMap<&'static str, u64>,
    /// Packets that the policy would have dropped, and that passed in audit mode, by reason.
    #[schema(value_type = Object)]
    audited: BTreeMap<&'static str, u64>,
    traffic: TrafficView,
}

#[derive(Debug, Default, Serialize, ToSchema)]
struct TrafficView {
    from_vm_packets: u64,
    from_vm_bytes: u64,
    to_vm_packets: u64,
    to_vm_bytes: u64,
}

#[derive(Debug, Serialize, ToSchema)]
struct DnsView {
    /// Messages that came in.
    queries: u64,
    /// Answered with what a name server said.
    answered: u64,
    /// Answered by the resolver itself: the name is not allowed, or no name server answered.
    failed: u64,
    /// Dropped: over a bound, or no query at all.
    refused: u64,
    /// Forwarded by audit mode alone.
    audited: u64,
}

/// What the agent would change.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PlanBody {
    steps: Vec<StepView>,
    problems: Vec<ProblemView>,
}

#[derive(Debug, Serialize, ToSchema)]
struct StepView {
    instance: Option<String>,
    step: String,
}

#[derive(Debug, Serialize, ToSchema)]
struct ProblemView {
    instance: Option<String>,
    problem: String,
}

impl InstanceView {
    /// Without the lists of its policy, which may be very long: in answers that are not about them.
    pub(crate) fn brief(state: InstanceState) -> Self {
        let whole = Self::from(state);
        Self {
            policy: whole.policy.brief(),
            ..whole
        }
    }

    /// As `/machines` answers: the state at its commit.
    pub(crate) fn at_commit(mut self) -> Self {
        if self.status == "running" {
            self.status = "pending";
        }
        self
    }
}

impl From<InstanceState> for InstanceView {
    fn from(state: InstanceState) -> Self {
        let (gateway, nameserver) = (state.gateway, state.nameserver);
        let primary = state.interfaces.first().map(|primary| PrimaryView {
            private_ip: primary.guest_v4.addr(),
            gateway,
            nameserver,
            tap_device: primary.tap_name.clone(),
            tap_ip: primary.host_v4.addr(),
            guest_ip: primary.guest_v4.addr(),
            guest_mac: spec::mac_text(primary.guest_mac),
        });
        let inspected = state
            .interfaces
            .iter()
            .filter_map(|one| one.inspected.as_ref());
        let open_flows = inspected
            .clone()
            .next()
            .map(|(_, counters)| counters.open_flows);
        let counters = open_flows.map(|_| {
            inspected.fold(CountersView::default(), |mut sum, (attached, counters)| {
                sum.add(*attached, counters);
                sum
            })
        });
        Self {
            id: state.id,
            name: state.name.to_string(),
            status: state.status.as_str(),
            reason: state.reason,
            primary,
            snat_address: state.snat_address,
            network_interfaces: state
                .interfaces
                .into_iter()
                .map(InterfaceView::from)
                .collect(),
            announced_ports: state
                .announced
                .into_iter()
                .map(|announced| AnnouncedPortView {
                    port: announced.port,
                    protocol: announced.protocol.as_str(),
                })
                .collect(),
            publish: state
                .published
                .into_iter()
                .map(PublishedPortView::from)
                .collect(),
            exposed_ports: state.exposed.iter().map(ToString::to_string).collect(),
            policy: state.policy.into(),
            rates: state.limits.into(),
            machine: state.machine,
            counters,
            open_flows,
            dns: state.dns.map(DnsView::from),
        }
    }
}

impl From<places::Counters> for DnsView {
    fn from(counters: places::Counters) -> Self {
        let places::Counters {
            queries,
            answered,
            failed,
            refused,
            audited,
        } = counters;
        Self {
            queries,
            answered,
            failed,
            refused,
            audited,
        }
    }
}

impl From<PublishedState> for PublishedPortView {
    fn from(state: PublishedState) -> Self {
        let port = state.port;
        Self {
            host_port: port.at.port,
            guest_port: port.guest_port,
            proto: port.at.protocol.as_str(),
            address: port.at.address,
            allow_from: port.allow_from,
            status: if state.waiting.is_none() {
                "published"
            } else {
                "waiting"
            },
            reason: state.waiting,
        }
    }
}

impl From<InterfaceState> for InterfaceView {
    fn from(state: InterfaceState) -> Self {
        let counters = state.inspected.map(|(attached, counters)| {
            let mut view = CountersView::default();
            view.add(attached, &counters);
            view
        });
        let clients = state.relay_clients.iter();
        Self {
            id: state.id,
            name: state.name.to_string(),
            mode: "nat",
            tap_name: state.tap_name,
            ip: state.guest_v4,
            ip6: state.guest_v6,
            tap_ip: state.host_v4.addr(),
            mac: spec::mac_text(state.guest_mac),
            mtu: state.mtu,
            autoconfig: state.autoconfig,
            relay: state.relay.map(RelayView::from),
            relay_clients: clients.map(|name| name.to_string()).collect(),
            counters,
        }
    }
}

impl From<RelayState> for RelayView {
    fn from(state: RelayState) -> Self {
        let is_up = state.inspected.as_ref().map(Result::is_ok);
        Self {
            name: state.name.to_string(),
            relay_dns: state.dns,
            status: is_up.map(|is_up| if is_up { "up" } else { "down" }),
            reason: state.inspected.and_then(Result::err),
        }
    }
}

impl CountersView {
    fn add(&mut self, attached: bool, counters: &Counters) {
        self.attached |= attached;
        for (reason, count) in &counters.drops {
            *self.drops.entry(reason.name()).or_default() += count;
        }
        for (reason, count) in &counters.audited {
            *self.audited.entry(reason.name()).or_default() += count;
        }
        let Traffic {
            from_vm_packets,
            from_vm_bytes,
            to_vm_packets,
            to_vm_bytes,
        } = counters.traffic;
        self.traffic.from_vm_packets += from_vm_packets;
        self.traffic.from_vm_bytes += from_vm_bytes;
        self.traffic.to_vm_packets += to_vm_packets;
        self.traffic.to_vm_bytes += to_vm_bytes;
    }
}

impl From<PlanView> for PlanBody {
    fn from(view: PlanView) -> Self {
        let steps = view
            .steps
            .into_iter()
            .map(|(instance, step)| StepView { instance, step });
        let problems = view.problems.into_iter();
        let problems = problems.map(|(instance, problem)| ProblemView { instance, problem });
        Self {
            steps: steps.collect(),
            problems: problems.collect(),
        }
    }
}
