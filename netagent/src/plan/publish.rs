//! Published and exposed ports in the datapath (N-3, N-4). What is taken back goes first, and of what is given, the
//! senders come before the port that they may use: at no instant may more be used than before or after.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::plan::{Observed, ObservedDatapath, Owner, Plan, Step, Wanted};
use crate::spec::publish::{ExposedPort, PortProtocol};

/// Where a published port is reached, in one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublishedAt {
    /// Address of the host; unspecified where every address of this family is meant.
    pub address: IpAddr,
    /// Port of the host.
    pub port: u16,
    /// Protocol.
    pub protocol: PortProtocol,
}

/// Where a published port leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedTo {
    /// Number of the publication.
    pub id: u32,
    /// Slot of the guest's interface; where that has a relay, of its leg.
    pub slot: u32,
    /// Generation of that interface.
    pub generation: u32,
    /// Address of the guest.
    pub guest: IpAddr,
    /// Port of the guest.
    pub guest_port: u16,
    /// Whether only its [`Sender`]s may use it.
    pub limited: bool,
}

/// Who may use a publication that is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sender {
    /// Number of the publication.
    pub id: u32,
    /// Its hosts may use it.
    pub network: IpNet,
}

/// A port of an instance's own addresses that the host may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exposure {
    /// Number of the instance; where its first interface has a relay, that of the leg.
    pub instance: u32,
    /// The port.
    pub port: ExposedPort,
}

/// The ports of an instance that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// What is published.
    pub published: BTreeMap<PublishedAt, PublishedTo>,
    /// Who may use what of it is limited.
    pub senders: BTreeSet<Sender>,
    /// What is exposed, with the generation of the instance.
    pub exposed: BTreeMap<Exposure, u32>,
}

/// One change of the ports in the datapath. Every step may be applied twice.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields are what the sentence of their step names"
)]
pub enum PortStep {
    /// Let the hosts of a network use a publication.
    AllowSender { sender: Sender },
    /// Let a port of the host lead to a guest.
    Publish { at: PublishedAt, to: PublishedTo },
    /// Let the host reach a port of a guest.
    Expose { exposure: Exposure, generation: u32 },
    /// Let a port of the host lead nowhere.
    Unpublish { at: PublishedAt },
    /// Let the host no longer reach a port of a guest.
    Conceal { exposure: Exposure },
    /// Let the hosts of a network no longer use a publication.
    ForgetSender { sender: Sender },
}

/// What has the ports of all wanted instances, and whose an entry in the datapath is.
struct Index {
    at: BTreeSet<PublishedAt>,
    ids: BTreeSet<u32>,
    /// Instances by the slots of their interfaces and legs.
    slots: BTreeMap<u32, u32>,
    /// Instances by the publications that lead to them now.
    owners: BTreeMap<u32, u32>,
}

impl Index {
    fn of(wanted: &Wanted, datapath: &ObservedDatapath) -> Self {
        let slots = wanted.interfaces.values().flat_map(|one| {
            let leg = one.leg.as_ref().map(|leg| leg.slot);
            let slots = std::iter::once(one.record.slot).chain(leg);
            slots.map(|slot| (slot, one.record.instance))
        });
        let slots: BTreeMap<u32, u32> = slots.collect();
        let published = || wanted.ports.values().flat_map(|ports| &ports.published);
        let there = datapath.ports.published.values();
        Self {
            at: published().map(|(at, _)| *at).collect(),
            ids: published().map(|(_, to)| to.id).collect(),
            owners: there
                .filter_map(|to| Some((to.id, *slots.get(&to.slot)?)))
                .collect(),
            slots,
        }
    }
}

/// The steps for the ports of each wanted instance; they come before those of its interfaces, so that the record with
/// the new policy generation is the last to be written (P-9).
pub(crate) fn plan_ports(wanted: &Wanted, observed: &Observed) -> BTreeMap<u32, Vec<Step>> {
    let empty = ObservedDatapath::default();
    let datapath = observed.datapath.as_ref().unwrap_or(&empty);
    let index = Index::of(wanted, datapath);
    let mut steps: BTreeMap<u32, Vec<Step>> = BTreeMap::new();
    plan_back(wanted, datapath, &index, &mut steps);
    let none = Ports::default();
    for instance in index.slots.values().collect::<BTreeSet<_>>() {
        let ports = wanted.ports.get(instance).unwrap_or(&none);
        plan_given(ports, datapath, steps.entry(*instance).or_default());
    }
    for sender in &datapath.ports.senders {
        if !index.ids.contains(&sender.id)
            && let Some(instance) = index.owners.get(&sender.id)
        {
            let of = steps.entry(*instance).or_default();
            of.push(Step::Port(PortStep::ForgetSender { sender: *sender }));
        }
    }
    steps
}

/// What wanted instances have and should no longer have.
fn plan_back(
    wanted: &Wanted,
    datapath: &ObservedDatapath,
    index: &Index,
    steps: &mut BTreeMap<u32, Vec<Step>>,
) {
    for (at, to) in &datapath.ports.published {
        // One that leads to another instance from now on is written over.
        if let Some(instance) = index.slots.get(&to.slot)
            && !index.at.contains(at)
        {
            let of = steps.entry(*instance).or_default();
            of.push(Step::Port(PortStep::Unpublish { at: *at }));
        }
    }
    for exposure in datapath.ports.exposed.keys() {
        let Some(instance) = index.slots.get(&exposure.instance) else {
            continue;
        };
        let ports = wanted.ports.get(instance);
        let kept = ports.is_some_and(|ports| ports.exposed.contains_key(exposure));
        if !kept {
            let of = steps.entry(*instance).or_default();
            of.push(Step::Port(PortStep::Conceal {
                exposure: *exposure,
            }));
        }
    }
}

fn plan_given(ports: &Ports, datapath: &ObservedDatapath, steps: &mut Vec<Step>) {
    let there = &datapath.ports;
    let senders = ports.senders.difference(&there.senders);
    let senders = senders.map(|sender| PortStep::AllowSender { sender: *sender });
    let published = ports.published.iter();
    let published = published
        .filter(|(at, to)| there.published.get(at) != Some(to))
        .map(|(at, to)| PortStep::Publish { at: *at, to: *to });
    let exposed = ports.exposed.iter();
    let exposed = exposed
        .filter(|(exposure, generation)| there.exposed.get(exposure) != Some(generation))
        .map(|(exposure, generation)| PortStep::Expose {
            exposure: *exposure,
            generation: *generation,
        });
    steps.extend(senders.chain(published).chain(exposed).map(Step::Port));
}

/// Takes back every port that leads to nobody who is wanted.
pub(crate) fn plan_ownerless(wanted: &Wanted, observed: &Observed, plan: &mut Plan) {
    let Some(datapath) = &observed.datapath else {
        return;
    };
    let index = Index::of(wanted, datapath);
    let published = datapath
        .ports
        .published
        .iter()
        .filter(|(at, to)| !index.slots.contains_key(&to.slot) && !index.at.contains(at))
        .map(|(at, _)| *at);
    let exposed = datapath.ports.exposed.keys();
    let exposed = exposed.filter(|exposure| !index.slots.contains_key(&exposure.instance));
    let senders =
        datapath.ports.senders.iter().filter(|sender| {
            !index.ids.contains(&sender.id) && !index.owners.contains_key(&sender.id)
        });
    plan.push(
        Owner::Leftover,
        take_back(published, exposed.copied(), senders.copied()),
    );
}

/// Takes back the ports that lead to these slots.
pub(crate) fn plan_slots(slots: &BTreeSet<u32>, observed: &Observed, plan: &mut Plan) {
    let Some(datapath) = &observed.datapath else {
        return;
    };
    let published = datapath.ports.published.iter();
    let published: BTreeMap<PublishedAt, u32> = published
        .filter(|(_, to)| slots.contains(&to.slot))
        .map(|(at, to)| (*at, to.id))
        .collect();
    let ids: BTreeSet<u32> = published.values().copied().collect();
    let exposed = datapath.ports.exposed.keys();
    let exposed = exposed.filter(|exposure| slots.contains(&exposure.instance));
    let senders = datapath.ports.senders.iter();
    let senders = senders.filter(|sender| ids.contains(&sender.id));
    plan.push(
        Owner::Leftover,
        take_back(published.into_keys(), exposed.copied(), senders.copied()),
    );
}

/// A publication goes before those who may use it: without them it would not be limited any the more, but it is what
/// leads in.
fn take_back(
    published: impl Iterator<Item = PublishedAt>,
    exposed: impl Iterator<Item = Exposure>,
    senders: impl Iterator<Item = Sender>,
) -> Vec<Step> {
    let published = published.map(|at| PortStep::Unpublish { at });
    let exposed = exposed.map(|exposure| PortStep::Conceal { exposure });
    let senders = senders.map(|sender| PortStep::ForgetSender { sender });
    published
        .chain(exposed)
        .chain(senders)
        .map(Step::Port)
        .collect()
}

impl Ports {
    /// Changes them as a step does.
    pub(super) fn follow(&mut self, step: &PortStep) {
        match step {
            PortStep::AllowSender { sender } => drop(self.senders.insert(*sender)),
            PortStep::ForgetSender { sender } => drop(self.senders.remove(sender)),
            PortStep::Publish { at, to } => drop(self.published.insert(*at, *to)),
            PortStep::Unpublish { at } => drop(self.published.remove(at)),
            PortStep::Expose {
                exposure,
                generation,
            } => drop(self.exposed.insert(*exposure, *generation)),
            PortStep::Conceal { exposure } => drop(self.exposed.remove(exposure)),
        }
    }
}

impl fmt::Display for PortStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllowSender { sender } => {
                write!(f, "let {} use publication {}", sender.network, sender.id)
            }
            Self::Publish { at, to } => write!(f, "publish {at} to {to}"),
            Self::Expose { exposure, .. } => write!(f, "expose {exposure}"),
            Self::Unpublish { at } => write!(f, "publish {at} no longer"),
            Self::Conceal { exposure } => write!(f, "expose {exposure} no longer"),
            Self::ForgetSender { sender } => write!(
                f,
                "let {} use publication {} no longer",
                sender.network, sender.id
            ),
        }
    }
}

impl fmt::Display for PublishedAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = SocketAddr::new(self.address, self.port);
        write!(f, "{address}/{}", self.protocol)
    }
}

impl fmt::Display for PublishedTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let guest = SocketAddr::new(self.guest, self.guest_port);
        let for_whom = if self.limited { "its senders" } else { "all" };
        write!(f, "{guest} for {for_whom} (publication {})", self.id)
    }
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port {} of instance {}", self.port, self.instance)
    }
}
