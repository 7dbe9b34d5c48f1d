//! What a step leaves behind: the agent keeps its last observation true with it, and so does the fake host.

use std::net::IpAddr;

use ipnet::IpNet;
use netagent_common::net::GATEWAY_MAC;

use crate::config::{PortRange, ports};
use crate::instance::Before;
use crate::plan::{
    KernelRoute, KernelRouteKind, Observed, ObservedDatapath, ObservedLink, ReservedPorts, Step,
    TapSpec,
};

impl Observed {
    /// Changes the observation as `step` changes the host.
    pub fn follow(&mut self, step: &Step) {
        match step {
            Step::LoadDatapath => {
                self.datapath.get_or_insert_default().stale = false;
            }
            Step::ReservePorts { ports } => self.follow_reservation(*ports),
            Step::UnloadDatapath => self.datapath = None,
            Step::SetLinkUp { ifindex } => self.set_up(*ifindex),
            Step::SetLinkDown { ifindex } => self.set_down(*ifindex),
            Step::CreateTap { tap } => {
                if self
                    .links
                    .get(&tap.ifindex)
                    .is_some_and(ObservedLink::is_half_made)
                {
                    self.remove_link(tap.ifindex);
                }
                self.follow_tap(tap);
            }
            Step::ConfigureTap { tap } | Step::AdoptTap { tap } => self.follow_tap(tap),
            Step::ReturnTap {
                ifindex, before, ..
            } => {
                self.forget_drop_all(*ifindex);
                self.follow_return(*ifindex, before.as_deref());
            }
            Step::AddAddress { ifindex, address } => {
                if let Some(link) = self.links.get_mut(ifindex) {
                    link.addresses.insert(*address);
                }
            }
            Step::AddNeighbour { neighbour } => {
                self.neighbours.insert(*neighbour);
            }
            Step::AddGuestRoute { ifindex, guest } => self.add_guest_route(*ifindex, *guest),
            Step::RemoveLink { ifindex, .. } => self.remove_link(*ifindex),
            Step::AttachUplink { .. }
            | Step::ServeGuests
            | Step::LeadSockets
            | Step::DetachUplink { .. }
            | Step::SetRoute { .. }
            | Step::RemoveRoute { .. }
            | Step::RaiseRouteGeneration
            | Step::WritePolicy { .. }
            | Step::RemovePolicy { .. }
            | Step::WriteInterface { .. }
            | Step::AttachTap { .. }
            | Step::AttachDropAll { .. }
            | Step::DetachDropAll { .. }
            | Step::Port(_)
            | Step::OpenHostPort { .. }
            | Step::CloseHostPort { .. }
            | Step::ClearInterface { .. }
            | Step::DetachTap { .. }
            | Step::RemoveSeveredPin { .. }
            | Step::CollectFlows => {
                if let Some(datapath) = &mut self.datapath {
                    datapath.follow(step);
                }
            }
        }
    }

    fn follow_reservation(&mut self, range: PortRange) {
        let ReservedPorts { all, own } = &mut self.reserved_ports;
        let others = ports::without(all, own);
        *own = ports::without(&[range], &others);
        *all = ports::with(&others, own);
    }

    fn set_up(&mut self, ifindex: u32) {
        if let Some(link) = self.links.get_mut(&ifindex) {
            link.up = true;
        }
    }

    fn set_down(&mut self, ifindex: u32) {
        if let Some(link) = self.links.get_mut(&ifindex) {
            link.up = false;
            link.carrier = false;
            link.addresses.retain(|address| address.addr().is_ipv4());
        }
        self.neighbours
            .retain(|neighbour| neighbour.ifindex != ifindex);
        self.routes.retain(|route| route.ifindex != ifindex);
    }

    fn follow_tap(&mut self, tap: &TapSpec) {
        let link = self
            .links
            .entry(tap.ifindex)
            .or_insert_with(|| ObservedLink {
                name: tap.name.clone(),
                ethernet: true,
                tap: true,
                ..ObservedLink::default()
            });
        link.alias = Some(tap.alias.clone());
        link.mac = GATEWAY_MAC;
        link.mtu = tap.mtu;
        link.hardened = true;
    }

    fn follow_return(&mut self, ifindex: u32, before: Option<&Before>) {
        let Some(link) = self.links.get_mut(&ifindex) else {
            return;
        };
        link.alias = before.and_then(|before| before.alias.clone());
        if let Some(before) = before {
            link.mac = before.mac;
            link.mtu = before.mtu;
            link.up = before.up;
            link.addresses.clone_from(&before.addresses);
            link.hardened = false;
        }
    }

    fn add_guest_route(&mut self, ifindex: u32, guest: IpAddr) {
        let route = KernelRoute {
            destination: IpNet::from(guest),
            kind: KernelRouteKind::Unicast,
            ifindex,
            gateway: None,
            source: None,
            metric: 1024,
            mtu: None,
        };
        if !self.routes.contains(&route) {
            self.routes.push(route);
        }
    }

    fn remove_link(&mut self, ifindex: u32) {
        self.set_down(ifindex);
        self.links.remove(&ifindex);
        self.forget_drop_all(ifindex);
        if let Some(datapath) = &mut self.datapath {
            datapath.attached.remove(&ifindex);
        }
    }

    /// Its pin goes before its device.
    fn forget_drop_all(&mut self, ifindex: u32) {
        if let Some(datapath) = &mut self.datapath {
            datapath.drop_all.remove(&ifindex);
        }
    }
}

impl ObservedDatapath {
    fn follow(&mut self, step: &Step) {
        match step {
            Step::AttachUplink { ifindex, .. } | Step::AttachTap { ifindex, .. } => {
                self.attached.insert(*ifindex);
            }
            Step::DetachUplink { ifindex } | Step::DetachTap { ifindex } => {
                self.attached.remove(ifindex);
                self.drop_all.remove(ifindex);
            }
            Step::AttachDropAll { ifindex, .. } => {
                self.drop_all.insert(*ifindex);
            }
            Step::DetachDropAll { ifindex } => {
                self.drop_all.remove(ifindex);
            }
            Step::ServeGuests => self.serving = true,
            Step::LeadSockets => self.leading = true,
            Step::SetRoute {
                destination,
                target,
            } => {
                self.routes.insert(*destination, *target);
            }
            Step::RemoveRoute { destination } => {
                self.routes.remove(destination);
            }
            Step::WritePolicy { policy } => {
                self.half_policies.remove(&policy.id);
                self.policies.insert(policy.id);
            }
            Step::RemovePolicy { id } => {
                if !self.interfaces.values().any(|record| record.policy == *id) {
                    self.half_policies.remove(id);
                    self.policies.remove(id);
                }
            }
            Step::WriteInterface { record } => {
                self.interfaces.insert(record.slot, **record);
            }
            Step::ClearInterface { slot } => {
                self.interfaces.remove(slot);
            }
            Step::RemoveSeveredPin { name } => {
                self.severed.remove(name);
            }
            Step::Port(step) => self.ports.follow(step),
            Step::OpenHostPort { port } => {
                self.host_ports.insert(*port);
            }
            Step::CloseHostPort { port } => {
                self.host_ports.remove(port);
            }
            // What concerns links is followed by the caller; the others leave nothing to see.
            Step::RaiseRouteGeneration
            | Step::CollectFlows
            | Step::ReservePorts { .. }
            | Step::LoadDatapath
            | Step::UnloadDatapath
            | Step::CreateTap { .. }
            | Step::ConfigureTap { .. }
            | Step::AdoptTap { .. }
            | Step::ReturnTap { .. }
            | Step::AddAddress { .. }
            | Step::AddNeighbour { .. }
            | Step::SetLinkUp { .. }
            | Step::AddGuestRoute { .. }
            | Step::SetLinkDown { .. }
            | Step::RemoveLink { .. } => {}
        }
    }
}
