//! Looks at the host: links, addresses, routes and neighbours by netlink, the datapath by its pins.

use std::collections::BTreeMap;

use crate::apply::{Cause, KernelHost, host_sockets, idle_alias};
use crate::host::Place;
use crate::observe::{interfaces, links as observed_links, routes as observed_routes};
use crate::plan::{Observed, ObservedDatapath, ObservedLink};

impl KernelHost {
    pub(super) async fn observe_all(&mut self) -> Result<Observed, Cause> {
        let links = self.observe_links().await?;
        Ok(Observed {
            routes: observed_routes::read(&self.netlink).await?,
            neighbours: observed_routes::read_neighbours(&self.netlink).await?,
            datapath: self.observe_datapath(&links).await?,
            reserved_ports: self.reserved.observe()?,
            links,
        })
    }

    async fn observe_links(&self) -> Result<BTreeMap<u32, ObservedLink>, Cause> {
        let mut links = observed_links::read(&self.netlink).await?;
        // The device that holds the filters of all TAPs is none that a plan knows.
        let idle = idle_alias(&self.options);
        links.retain(|_, link| link.alias.as_deref() != Some(&idle));
        Ok(links)
    }

    pub(super) async fn observe_network(&mut self, observed: &mut Observed) -> Result<(), Cause> {
        observed.links = self.observe_links().await?;
        observed.routes = observed_routes::read(&self.netlink).await?;
        observed.neighbours = observed_routes::read_neighbours(&self.netlink).await?;
        observed.reserved_ports = self.reserved.observe()?;
        if let Some(datapath) = &mut observed.datapath {
            // What vanished has nothing attached any more.
            let links = &observed.links;
            datapath
                .attached
                .retain(|ifindex| links.contains_key(ifindex));
            datapath
                .drop_all
                .retain(|ifindex| links.contains_key(ifindex));
            datapath.serving &= self.has_way(links);
        }
        Ok(())
    }

    pub(super) async fn observe_place(
        &mut self,
        observed: &mut Observed,
        place: &Place,
    ) -> Result<(), Cause> {
        interfaces::read(&self.strict, place, observed).await?;
        let (Some(datapath), Some(known)) = (&self.datapath, &mut observed.datapath) else {
            return Ok(());
        };
        known.policies = datapath.maps.policies();
        known.half_policies = datapath.maps.half_policies();
        if let Some(slot) = place.slot {
            known.interfaces.remove(&slot);
            let record = datapath.maps.record_in_force(slot)?;
            known.interfaces.extend(record.map(|record| (slot, record)));
        }
        known.attached.remove(&place.ifindex);
        if let Some(link) = observed.links.get(&place.ifindex)
            && self
                .attacher
                .is_attached(&self.pins, place.ifindex, &link.name)
                .await?
        {
            known.attached.insert(place.ifindex);
        }
        known.drop_all.remove(&place.ifindex);
        if let Some(link) = observed.links.get(&place.ifindex)
            && self
                .attacher
                .has_drop_all(&self.pins, place.ifindex, link.xdp)?
        {
            known.drop_all.insert(place.ifindex);
        }
        Ok(())
    }

    async fn observe_datapath(
        &mut self,
        links: &BTreeMap<u32, ObservedLink>,
    ) -> Result<Option<ObservedDatapath>, Cause> {
        let Some(datapath) = &self.datapath else {
            return Ok(None);
        };
        let attached = self.attacher.observe(&self.pins, links).await?;
        let way = datapath.maps.services()?;
        let serving = self.has_way(links)
            && attached.devices.contains(&way)
            && self.services.as_ref().is_some_and(|end| end.ifindex == way);
        Ok(Some(ObservedDatapath {
            stale: datapath.stale,
            attached: attached.devices,
            drop_all: attached.drop_all,
            severed: attached.severed,
            interfaces: datapath.maps.interfaces()?,
            policies: datapath.maps.policies(),
            half_policies: datapath.maps.half_policies(),
            routes: datapath.maps.routes()?,
            ports: datapath.maps.ports()?,
            host_ports: datapath.maps.host_ports()?,
            serving,
            leading: self.leads_no_sockets
                || host_sockets::is_attached(&self.pins, &datapath.programs.sockets)?,
        }))
    }

    /// Whether the host's end of the way to the servers stands among these links.
    fn has_way(&self, links: &BTreeMap<u32, ObservedLink>) -> bool {
        let end = self.services.as_ref();
        let link = end.and_then(|end| links.get(&end.ifindex));
        link.is_some_and(|link| link.up)
    }
}
