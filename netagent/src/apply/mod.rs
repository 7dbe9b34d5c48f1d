//! The real host: one match on [`Step`], and the kernel behind it.

pub mod pins;
pub mod programs;
pub mod skb_layout;

pub mod attach;
pub mod clsact;
pub mod datapath;
pub mod fill;
pub mod maps;
pub mod readers;

pub mod led;

pub mod addresses;
pub mod links;
pub mod queues;
pub mod services;
pub mod settings;
pub mod tap;

pub mod ethtool;
pub mod features;
pub mod host_sockets;
pub mod reserved;

pub mod expedite;
mod look;
pub mod memory;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io;
use std::sync::Arc;

use crate::apply::attach::Attacher;
use crate::apply::datapath::Datapath;
use crate::apply::expedite::{Expedite, Guard};
use crate::apply::features::UplinkFeatures;
use crate::apply::fill::Alerts;
use crate::apply::led::LedSockets;
use crate::apply::maps::Maps;
use crate::apply::maps::learned::LearnedMaps;
use crate::apply::pins::Pins;
use crate::apply::reserved::Reservation;
use crate::apply::services::HostEnd;
use crate::host::{
    Changes, Cleaned, Counters, Host, HostError, HostOptions, Place, ServiceSockets,
};
use crate::instance::Before;
use crate::learned::table::Table;
use crate::netlink::Netlink;
use crate::observe::events::Events;
use crate::observe::links as observed_links;
use crate::plan::{Observed, Step};
use crate::publish::{Leads, ReserveError, Reserved, owner, sockets};
use crate::spec::publish::HostPort;

/// Every so many rounds of collection, reverse entries without a flow are looked for too.
const ORPHANS_EVERY: u32 = 12;

/// Whatever a step failed with; [`HostError::Failed`] keeps it as its source.
type Cause = Box<dyn Error + Send + Sync>;

/// The machine itself.
pub struct KernelHost {
    options: HostOptions,
    pins: Pins,
    netlink: Netlink,
    /// Heeds what a dump is limited to.
    strict: Netlink,
    events: Events,
    attacher: Attacher,
    expedite: Expedite,
    /// Held from the first step that waits for RCU until the agent says that no step follows.
    guard: Option<Guard>,
    features: UplinkFeatures,
    reserved: Reservation,
    /// `None` where it is not loaded.
    datapath: Option<Datapath>,
    /// The host's end of the way to the servers, as long as this agent lives.
    services: Option<HostEnd>,
    /// What [`Host::take_sockets`] has not taken yet.
    sockets: Option<ServiceSockets>,
    rounds: u32,
    alerts: Alerts,
    /// The kernel refused to lead sockets; it is not asked again.
    leads_no_sockets: bool,
}

impl KernelHost {
    /// Opens netlink and the BPF directory, and repairs what a killed agent left of the expedite guard. Needs
    /// a tokio runtime.
    ///
    /// # Errors
    /// Where the rights are missing, or another agent uses the BPF directory.
    pub fn open(options: HostOptions) -> Result<Self, HostError> {
        let expedite = Expedite::open(options.expedite_rcu)?;
        let pins = Pins::open(&options.bpf_dir)?;
        let netlink = Netlink::open().map_err(|error| HostError::failed("open netlink", error))?;
        let strict = Netlink::open_strict()
            .map_err(|error| HostError::failed("open netlink (kernel 4.20)", error))?;
        let events =
            Events::open().map_err(|error| HostError::failed("listen to netlink", error))?;
        let features = UplinkFeatures::new(&options.state_dir)
            .map_err(|error| HostError::failed("ask which boot this is", error))?;
        let reserved = Reservation::new(&options.state_dir)
            .map_err(|error| HostError::failed("ask which namespace this is", error))?;
        let attacher = Attacher::new(options.attach, netlink.clone(), idle_alias(&options));
        let datapath = Datapath::open(&pins, &options).unwrap_or_else(|error| {
            tracing::warn!(%error, "what is pinned cannot be used and is loaded anew");
            None
        });
        Ok(Self {
            options,
            pins,
            netlink,
            strict,
            events,
            attacher,
            expedite,
            guard: None,
            features,
            reserved,
            datapath,
            services: None,
            sockets: None,
            rounds: 0,
            alerts: Alerts::default(),
            leads_no_sockets: false,
        })
    }

    async fn apply_step(&mut self, step: &Step) -> Result<(), Cause> {
        let netlink = &self.netlink;
        match step {
            Step::ReservePorts { ports } => self.reserved.reserve(*ports)?,
            Step::LoadDatapath => self.load().await?,
            Step::AttachUplink { ifindex, name } => self.attach_uplink(*ifindex, name).await?,
            Step::ServeGuests => self.serve_guests().await?,
            Step::LeadSockets => self.lead_sockets()?,
            Step::SetRoute { .. }
            | Step::RemoveRoute { .. }
            | Step::RaiseRouteGeneration
            | Step::WritePolicy { .. }
            | Step::RemovePolicy { .. }
            | Step::WriteInterface { .. }
            | Step::Port(_)
            | Step::OpenHostPort { .. }
            | Step::CloseHostPort { .. }
            | Step::ClearInterface { .. } => self.maps()?.apply(step)?,
            Step::CreateTap { tap } => links::create_tap(netlink, tap).await?,
            Step::ConfigureTap { tap } => links::configure_tap(netlink, tap).await?,
            Step::AdoptTap { tap } => links::configure_tap(netlink, tap).await?,
            Step::ReturnTap {
                ifindex, before, ..
            } => {
                self.attacher.unpin(&self.pins, *ifindex)?;
                links::give_back(&self.strict, *ifindex, before.as_deref()).await?;
            }
            Step::AttachTap { ifindex, name } => {
                let programs = &mut loaded(&mut self.datapath)?.programs;
                self.attacher
                    .attach_tap(&self.pins, programs, *ifindex, name)
                    .await?;
            }
            Step::AttachDropAll { ifindex, name } => self.attach_drop_all(*ifindex, name).await?,
            Step::DetachDropAll { ifindex } => {
                self.attacher.detach_drop_all(&self.pins, *ifindex)?;
            }
            Step::AddAddress { ifindex, address } => {
                addresses::add_address(netlink, *ifindex, *address).await?;
            }
            Step::AddNeighbour { neighbour } => {
                addresses::add_neighbour(netlink, neighbour).await?
            }
            Step::SetLinkUp { ifindex } => links::set_up(netlink, *ifindex, true).await?,
            Step::AddGuestRoute { ifindex, guest } => {
                addresses::add_guest_route(netlink, *ifindex, *guest).await?;
            }
            Step::SetLinkDown { ifindex } => links::set_up(netlink, *ifindex, false).await?,
            Step::DetachTap { ifindex } => self.attacher.detach(&self.pins, *ifindex).await?,
            Step::DetachUplink { ifindex } => {
                self.attacher.detach(&self.pins, *ifindex).await?;
                self.features.restore(Some(*ifindex))?;
            }
            Step::RemoveLink { ifindex, alias, .. } => {
                self.attacher.unpin(&self.pins, *ifindex)?;
                links::remove(netlink, *ifindex, alias).await?;
            }
            Step::RemoveSeveredPin { name } => self.remove_severed_pin(name)?,
            Step::CollectFlows => {
                let datapath = loaded(&mut self.datapath)?;
                datapath.collect(true).await?;
                datapath.maps.forget_counters()?;
            }
            Step::UnloadDatapath => {
                self.unload().await?;
            }
        }
        Ok(())
    }

    async fn load(&mut self) -> Result<(), Cause> {
        let result = programs::load(&self.pins, &self.options);
        memory::trim_heap();
        result?;
        self.datapath = Datapath::open(&self.pins, &self.options)?;
        let datapath = loaded(&mut self.datapath)?;
        self.pins.take_over_links()?;
        self.attacher
            .renew(&self.pins, &mut datapath.programs)
            .await?;
        datapath.settle()?;
        self.pins.remove_other_versions()?;
        Ok(())
    }

    async fn attach_uplink(&mut self, ifindex: u32, name: &str) -> Result<(), Cause> {
        let programs = &mut loaded(&mut self.datapath)?.programs;
        self.features.switch_off(ifindex, name);
        let attached = self
            .attacher
            .attach_uplink(&self.pins, programs, ifindex, name);
        Ok(attached.await?)
    }

    async fn attach_drop_all(&mut self, ifindex: u32, name: &str) -> Result<(), Cause> {
        let programs = &mut loaded(&mut self.datapath)?.programs;
        let attached = self
            .attacher
            .attach_drop_all(&self.pins, programs, ifindex, name);
        Ok(attached.await?)
    }

    /// The way is closed first, and open when everything behind it stands.
    async fn serve_guests(&mut self) -> Result<(), Cause> {
        self.maps()?.set_services(0)?;
        self.services = None;
        self.attacher.unpin_services(&self.pins)?;
        let (end, sockets) = services::make(&self.netlink, self.options.store_id).await?;
        let programs = &mut loaded(&mut self.datapath)?.programs;
        self.attacher
            .attach_services(&self.pins, programs, end.ifindex, &end.name)
            .await?;
        end.open(&self.netlink).await?;
        self.maps()?.set_services(end.ifindex)?;
        self.services = Some(end);
        self.sockets = Some(sockets);
        Ok(())
    }

    /// Where it cannot be, published ports are reached by the agent's listeners, and the host works on.
    fn lead_sockets(&mut self) -> Result<(), Cause> {
        let programs = &mut loaded(&mut self.datapath)?.programs;
        if let Err(error) = host_sockets::attach(&self.pins, &mut programs.sockets) {
            let reason = crate::host::one_line(&error);
            tracing::warn!(
                reason,
                "processes of the host reach published ports through the agent alone"
            );
            self.leads_no_sockets = true;
        }
        Ok(())
    }

    async fn unload(&mut self) -> Result<usize, Cause> {
        let links = self.attacher.detach_all(&self.pins).await?;
        self.features.restore(None)?;
        self.reserved.release()?;
        self.datapath = None;
        self.services = None;
        Ok(links + self.pins.remove_all()?)
    }

    fn maps(&mut self) -> Result<&mut Maps, HostError> {
        Ok(&mut loaded(&mut self.datapath)?.maps)
    }

    fn remove_severed_pin(&self, name: &str) -> io::Result<()> {
        // Only names that this agent makes: the path leads into the file system.
        let Some((ifindex, program)) = Pins::parse_link_name(name) else {
            return Ok(());
        };
        match fs::remove_file(self.pins.link(ifindex, program)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Steps that wait for RCU hold the guard; the others would be done before it is taken.
    fn hold_guard(&mut self, step: &Step) -> Result<(), HostError> {
        if self.guard.is_none() && (waits_for_rcu(step) || self.waits_for_readers(step)) {
            self.guard = self.expedite.guard()?;
        }
        Ok(())
    }

    /// A record that was rewritten a moment ago is not rewritten before nobody reads what it was.
    fn waits_for_readers(&self, step: &Step) -> bool {
        let (Step::WriteInterface { record }, Some(datapath)) = (step, &self.datapath) else {
            return false;
        };
        datapath.maps.is_idle_copy_read(record.slot)
    }

    async fn clean_host(&mut self) -> Result<Cleaned, Cause> {
        let prefix = format!("netagent:{}:", self.options.store_id);
        // Links first: no TAP is ever up without its programs.
        let links = links::remove_marked(&self.netlink, &prefix).await?;
        let pins = self.unload().await?;
        Ok(Cleaned { links, pins })
    }
}

impl Drop for KernelHost {
    /// The servers end with the agent: what asks for them is dropped with its reason, not sent to a device that is
    /// gone. After a kill nothing comes of it either, for no other device gets that index.
    fn drop(&mut self) {
        if self.services.is_none() {
            return;
        }
        if let Err(error) = self.maps().map(|maps| maps.set_services(0)) {
            tracing::debug!(%error, "the way to the servers stays open");
        }
    }
}

impl Host for KernelHost {
    async fn observe(&mut self) -> Result<Observed, HostError> {
        let observed = self.observe_all().await;
        // The dumps of a thousand links are many times what is kept of them.
        memory::trim_heap();
        observed.map_err(|cause| HostError::failed("look at the host", cause))
    }

    async fn apply(&mut self, step: &Step) -> Result<(), HostError> {
        self.hold_guard(step)?;
        let applied = self.apply_step(step).await;
        applied.map_err(|cause| HostError::failed(step.to_string(), cause))
    }

    async fn counters(&mut self, slot: u32) -> Result<Counters, HostError> {
        let counters = self.maps()?.counters(slot);
        counters
            .map_err(|cause| HostError::failed(format!("read the counters of slot {slot}"), cause))
    }

    async fn sent(&mut self) -> Result<BTreeMap<u32, u64>, HostError> {
        let sent = observed_links::read_sent(&self.netlink).await;
        sent.map_err(|error| HostError::failed("read the counters of TAPs", error))
    }

    async fn changed(&mut self) -> Changes {
        self.events.changed().await
    }

    async fn observe_interfaces(
        &mut self,
        observed: &mut Observed,
        places: &[Place],
    ) -> Result<(), HostError> {
        for place in places {
            let looked = self.observe_place(observed, place).await;
            looked.map_err(|cause| {
                HostError::failed(format!("look at device {}", place.tap_name), cause)
            })?;
        }
        Ok(())
    }

    async fn observe_host(&mut self, observed: &mut Observed) -> Result<(), HostError> {
        let looked = self.observe_network(observed).await;
        looked.map_err(|cause| HostError::failed("look at the host", cause))
    }

    async fn before(&mut self, name: &str) -> Result<Option<Before>, HostError> {
        let before = links::before(&self.strict, name).await;
        before.map_err(|cause| HostError::failed(format!("look at device {name}"), cause))
    }

    async fn settle(&mut self) {
        self.guard = None;
    }

    async fn clean(&mut self) -> Result<Cleaned, HostError> {
        let _guard = self.expedite.guard()?;
        let cleaned = self.clean_host().await;
        cleaned.map_err(|cause| {
            HostError::failed("remove what an earlier run of netagent left", cause)
        })
    }

    fn take_sockets(&mut self) -> Option<ServiceSockets> {
        self.sockets.take()
    }

    fn reserve(&mut self, at: &HostPort) -> Result<Reserved, ReserveError> {
        sockets::reserve(at)
    }

    fn owner(&mut self, at: &HostPort) -> Option<String> {
        owner::find(at)
    }

    fn leads(&self) -> Arc<dyn Leads> {
        Arc::new(LedSockets::new(&self.pins))
    }

    async fn collect(&mut self) -> Result<bool, HostError> {
        self.rounds = self.rounds.wrapping_add(1);
        let with_orphans = self.rounds.is_multiple_of(ORPHANS_EVERY);
        let Some(datapath) = &self.datapath else {
            return Ok(false);
        };
        let collected = datapath.collect(with_orphans).await;
        let saw_all = collected.map_err(|cause| HostError::failed("collect flows", cause))?;
        let fills = datapath.maps.fills();
        let fills = fills.map_err(|cause| HostError::failed("read how full tables are", cause))?;
        for (table, count, most) in fills {
            self.alerts.say(table, count, most);
        }
        Ok(saw_all)
    }

    fn learned(&mut self) -> Result<Option<Box<dyn Table>>, HostError> {
        if self.datapath.is_none() {
            return Ok(None);
        }
        match LearnedMaps::open(&self.pins) {
            Ok(maps) => Ok(Some(Box::new(maps))),
            Err(cause) => Err(HostError::failed("open what names led to", cause)),
        }
    }
}

fn loaded(datapath: &mut Option<Datapath>) -> Result<&mut Datapath, HostError> {
    datapath
        .as_mut()
        .ok_or_else(|| HostError::missing("the datapath is not loaded", "see why its load failed"))
}

fn idle_alias(options: &HostOptions) -> String {
    format!("netagent:{}:idle", options.store_id)
}

/// Whether a step waits for RCU; the others would be done before the guard is taken.
const fn waits_for_rcu(step: &Step) -> bool {
    match step {
        Step::LoadDatapath
        | Step::ServeGuests
        | Step::LeadSockets
        | Step::AttachUplink { .. }
        | Step::DetachUplink { .. }
        | Step::WritePolicy { .. }
        | Step::RemovePolicy { .. }
        | Step::CreateTap { .. }
        | Step::AdoptTap { .. }
        | Step::ReturnTap { .. }
        | Step::AttachTap { .. }
        | Step::AttachDropAll { .. }
        | Step::DetachDropAll { .. }
        | Step::SetLinkUp { .. }
        | Step::SetLinkDown { .. }
        | Step::DetachTap { .. }
        | Step::RemoveLink { .. }
        | Step::RemoveSeveredPin { .. }
        | Step::UnloadDatapath => true,
        Step::SetRoute { .. }
        | Step::RemoveRoute { .. }
        | Step::RaiseRouteGeneration
        | Step::WriteInterface { .. }
        | Step::ConfigureTap { .. }
        | Step::AddAddress { .. }
        | Step::AddNeighbour { .. }
        | Step::AddGuestRoute { .. }
        | Step::Port(_)
        | Step::OpenHostPort { .. }
        | Step::CloseHostPort { .. }
        | Step::ClearInterface { .. }
        | Step::CollectFlows
        | Step::ReservePorts { .. } => false,
    }
}
