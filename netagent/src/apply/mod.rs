//! The real host: one match on [`Step`], and the kernel behind it.

pub mod attach;
pub mod clsact;
pub mod expedite;
pub mod links;
pub mod maps;
pub mod pins;
pub mod programs;
pub mod skb_layout;
pub mod tap;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;

use aya::programs::{ProgramError, SchedClassifier, TestRun, TestRunOptions};

use crate::apply::attach::Attacher;
use crate::apply::expedite::{Expedite, Guard};
use crate::apply::maps::Maps;
use crate::apply::pins::Pins;
use crate::apply::programs::Programs;
use crate::host::{Cleaned, Counters, Host, HostError, HostOptions};
use crate::netlink::Netlink;
use crate::observe::events::Events;
use crate::observe::{links as observed_links, routes as observed_routes};
use crate::plan::{Observed, ObservedDatapath, ObservedLink, Step};

/// Runs of a collection pass in one round: each removes thousands, so this many end with any table.
const PASSES_MAX: u32 = 256;
/// Every so many rounds, reverse entries without a flow are looked for too.
const ORPHANS_EVERY: u32 = 12;

/// The machine itself.
pub struct KernelHost {
    options: HostOptions,
    pins: Pins,
    netlink: Netlink,
    events: Events,
    attacher: Attacher,
    expedite: Expedite,
    /// The loaded datapath; `None` where it is not loaded.
    datapath: Option<Datapath>,
    rounds: u32,
}

/// Programs and maps of a loaded datapath.
struct Datapath {
    programs: Programs,
    maps: Maps,
}

impl Datapath {
    /// Opens what is pinned; `None` unless it is complete.
    fn open(pins: &Pins) -> Result<Option<Self>, HostError> {
        let failed = |error| failed("open the pinned programs", error);
        let Some(programs) = Programs::open(pins).map_err(failed)? else {
            return Ok(None);
        };
        let maps = Maps::open(pins).map_err(|error| self::failed("open the pinned maps", error))?;
        Ok(maps.map(|maps| Self { programs, maps }))
    }
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
        let netlink = Netlink::open().map_err(|error| failed("open netlink", error))?;
        let events = Events::open().map_err(|error| failed("listen to netlink", error))?;
        let attacher = Attacher::new(options.attach, netlink.clone(), idle_alias(&options));
        let datapath = Datapath::open(&pins)?;
        Ok(Self {
            options,
            pins,
            netlink,
            events,
            attacher,
            expedite,
            datapath,
            rounds: 0,
        })
    }

    fn maps(&mut self) -> Result<&mut Maps, HostError> {
        self.datapath
            .as_mut()
            .map(|datapath| &mut datapath.maps)
            .ok_or_else(not_loaded)
    }

    async fn load(&mut self) -> Result<(), HostError> {
        programs::load(&self.pins, &self.options)
            .map_err(|error| failed("load the datapath", error))?;
        self.datapath = Datapath::open(&self.pins)?;
        let Some(datapath) = &mut self.datapath else {
            return Err(not_loaded());
        };
        let renewed = self
            .attacher
            .renew(&self.pins, &mut datapath.programs)
            .await;
        renewed.map_err(|error| failed("put the new programs in place", error))
    }

    async fn unload(&mut self) -> Result<usize, HostError> {
        let links = self.attacher.detach_all(&self.pins).await;
        let links = links.map_err(|error| failed("detach the programs", error))?;
        self.datapath = None;
        let pins = self
            .pins
            .remove_all()
            .map_err(|error| failed("remove the pins", error))?;
        Ok(links + pins)
    }

    async fn attach(&mut self, ifindex: u32, name: &str, is_tap: bool) -> Result<(), HostError> {
        let Some(datapath) = &mut self.datapath else {
            return Err(not_loaded());
        };
        let programs = &mut datapath.programs;
        let attached = if is_tap {
            self.attacher
                .attach_tap(&self.pins, programs, ifindex, name)
                .await
        } else {
            self.attacher
                .attach_uplink(&self.pins, programs, ifindex, name)
                .await
        };
        attached.map_err(|error| failed(format!("attach programs to {name}"), error))
    }

    async fn detach(&mut self, ifindex: u32) -> Result<(), HostError> {
        let detached = self.attacher.detach(&self.pins, ifindex).await;
        detached.map_err(|error| failed(format!("detach programs from device {ifindex}"), error))
    }

    fn remove_severed_pin(&self, name: &str) -> Result<(), HostError> {
        // Only names that this agent makes: the step comes from a plan, the path leads into the file system.
        let Some((ifindex, program)) = Pins::parse_link_name(name) else {
            return Ok(());
        };
        match fs::remove_file(self.pins.link(ifindex, program)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(failed(format!("remove the pin {name}"), error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    async fn collect_flows(&mut self, with_orphans: bool) -> Result<(), HostError> {
        let Some(datapath) = &mut self.datapath else {
            return Ok(());
        };
        run_pass(&datapath.programs.collect_flows, &datapath.maps).await?;
        if with_orphans {
            run_pass(&datapath.programs.collect_orphans, &datapath.maps).await?;
        }
        Ok(())
    }

    /// Steps that wait for RCU hold the guard; the others are done before it would be taken.
    fn guard(&self, step: &Step) -> Result<Option<Guard>, HostError> {
        match step {
            Step::LoadDatapath
            | Step::AttachUplink { .. }
            | Step::DetachUplink { .. }
            | Step::CreateTap { .. }
            | Step::AttachTap { .. }
            | Step::SetLinkUp { .. }
            | Step::SetLinkDown { .. }
            | Step::DetachTap { .. }
            | Step::RemoveLink { .. }
            | Step::RemoveSeveredPin { .. }
            | Step::UnloadDatapath => self.expedite.guard(),
            Step::SetRoute { .. }
            | Step::RemoveRoute { .. }
            | Step::RaiseRouteGeneration
            | Step::WriteInterface { .. }
            | Step::ConfigureTap { .. }
            | Step::AddAddress { .. }
            | Step::AddNeighbour { .. }
            | Step::AddGuestRoute { .. }
            | Step::ClearInterface { .. }
            | Step::CollectFlows => Ok(None),
        }
    }

    async fn observe_datapath(
        &self,
        links: &BTreeMap<u32, ObservedLink>,
    ) -> Result<Option<ObservedDatapath>, HostError> {
        let Some(datapath) = &self.datapath else {
            return Ok(None);
        };
        let names = links
            .iter()
            .map(|(ifindex, link)| (*ifindex, link.name.clone()))
            .collect();
        let attached = self.attacher.observe(&self.pins, &names).await;
        let attached = attached.map_err(|error| failed("look at attached programs", error))?;
        let interfaces = datapath
            .maps
            .interfaces()
            .map_err(|error| failed("read the interface records", error))?;
        let routes = datapath
            .maps
            .routes()
            .map_err(|error| failed("read the route map", error))?;
        Ok(Some(ObservedDatapath {
            attached: attached.devices,
            severed: attached.severed,
            interfaces,
            routes,
        }))
    }
}

impl Host for KernelHost {
    async fn observe(&mut self) -> Result<Observed, HostError> {
        let mut links = observed_links::read(&self.netlink)
            .await
            .map_err(|error| failed("read the links", error))?;
        // The device that holds the filters of all TAPs is none that a plan knows.
        let idle = idle_alias(&self.options);
        links.retain(|_, link| link.alias.as_deref() != Some(&idle));
        let routes = observed_routes::read(&self.netlink)
            .await
            .map_err(|error| failed("read the routes", error))?;
        let neighbours = observed_routes::read_neighbours(&self.netlink).await;
        let neighbours = neighbours.map_err(|error| failed("read the neighbours", error))?;
        let datapath = self.observe_datapath(&links).await?;
        Ok(Observed {
            links,
            routes,
            neighbours,
            datapath,
        })
    }

    async fn apply(&mut self, step: &Step) -> Result<(), HostError> {
        let _guard = self.guard(step)?;
        let netlink = &self.netlink;
        match step {
            Step::LoadDatapath => self.load().await,
            Step::AttachUplink { ifindex, name } => self.attach(*ifindex, name, false).await,
            Step::SetRoute {
                destination,
                target,
            } => {
                let set = self.maps()?.set_route(*destination, target);
                set.map_err(|error| failed(format!("write the route {destination}"), error))
            }
            Step::RemoveRoute { destination } => {
                let removed = self.maps()?.remove_route(*destination);
                removed.map_err(|error| failed(format!("remove the route {destination}"), error))
            }
            Step::RaiseRouteGeneration => self
                .maps()?
                .raise_route_generation()
                .map_err(|error| failed("raise the route generation", error)),
            Step::WriteInterface { record } => {
                let written = self.maps()?.write_interface(record);
                written.map_err(|error| {
                    failed(format!("write the record of slot {}", record.slot), error)
                })
            }
            Step::CreateTap { tap } => links::create_tap(netlink, tap)
                .await
                .map_err(|error| failed(format!("create TAP {}", tap.name), error)),
            Step::ConfigureTap { tap } => links::configure_tap(netlink, tap)
                .await
                .map_err(|error| failed(format!("configure TAP {}", tap.name), error)),
            Step::AttachTap { ifindex, name } => self.attach(*ifindex, name, true).await,
            Step::AddAddress { ifindex, address } => {
                links::add_address(netlink, *ifindex, *address)
                    .await
                    .map_err(|error| {
                        failed(format!("add address {address} to device {ifindex}"), error)
                    })
            }
            Step::AddNeighbour { neighbour } => links::add_neighbour(netlink, neighbour)
                .await
                .map_err(|error| failed(format!("add neighbour {}", neighbour.address), error)),
            Step::SetLinkUp { ifindex } => links::set_up(netlink, *ifindex, true)
                .await
                .map_err(|error| failed(format!("set device {ifindex} up"), error)),
            Step::AddGuestRoute { ifindex, guest } => {
                links::add_guest_route(netlink, *ifindex, *guest)
                    .await
                    .map_err(|error| failed(format!("route {guest} to device {ifindex}"), error))
            }
            Step::SetLinkDown { ifindex } => links::set_up(netlink, *ifindex, false)
                .await
                .map_err(|error| failed(format!("set device {ifindex} down"), error)),
            Step::ClearInterface { slot } => {
                let cleared = self.maps()?.clear_interface(*slot);
                cleared.map_err(|error| failed(format!("clear the record of slot {slot}"), error))
            }
            Step::DetachTap { ifindex } | Step::DetachUplink { ifindex } => {
                self.detach(*ifindex).await
            }
            Step::RemoveLink {
                ifindex,
                name,
                alias,
            } => links::remove(netlink, *ifindex, alias)
                .await
                .map(|_| ())
                .map_err(|error| failed(format!("delete {name}"), error)),
            Step::RemoveSeveredPin { name } => self.remove_severed_pin(name),
            Step::CollectFlows => {
                self.collect_flows(true).await?;
                self.maps()?
                    .forget_counters()
                    .map_err(|error| failed("remove old counters", error))
            }
            Step::UnloadDatapath => self.unload().await.map(|_| ()),
        }
    }

    async fn counters(&mut self, slot: u32) -> Result<Counters, HostError> {
        self.maps()?
            .counters(slot)
            .map_err(|error| failed(format!("read the counters of slot {slot}"), error))
    }

    async fn changed(&mut self) {
        self.events.changed().await;
    }

    async fn clean(&mut self) -> Result<Cleaned, HostError> {
        let _guard = self.expedite.guard()?;
        // Links first: no TAP is ever up without its programs.
        let prefix = format!("netagent:{}:", self.options.store_id);
        let found = observed_links::read(&self.netlink)
            .await
            .map_err(|error| failed("read the links", error))?;
        let mut removed = Vec::new();
        for (ifindex, link) in found {
            let Some(alias) = link.alias.filter(|alias| alias.starts_with(&prefix)) else {
                continue;
            };
            let gone = links::remove(&self.netlink, ifindex, &alias).await;
            if gone.map_err(|error| failed(format!("delete {}", link.name), error))? {
                removed.push(link.name);
            }
        }
        let pins = self.unload().await?;
        Ok(Cleaned {
            links: removed,
            pins,
        })
    }

    async fn collect(&mut self) -> Result<(), HostError> {
        self.rounds = self.rounds.wrapping_add(1);
        self.collect_flows(self.rounds.is_multiple_of(ORPHANS_EVERY))
            .await
    }
}

/// Runs a collection pass until it has seen the whole table; between runs, others get their turn.
async fn run_pass(program: &SchedClassifier, maps: &Maps) -> Result<(), HostError> {
    let name = "run a collection pass";
    // The program looks at no packet, but the kernel runs it on one.
    let frame = [0; 64];
    for _ in 0..PASSES_MAX {
        let options = TestRunOptions {
            data_in: Some(&frame),
            ..TestRunOptions::default()
        };
        program
            .test_run(options)
            .map_err(|error: ProgramError| failed(name, error))?;
        let collected = maps.collected().map_err(|error| failed(name, error))?;
        if collected.failed > 0 {
            tracing::warn!(
                entries = collected.failed,
                "a collection pass could not remove all that it should"
            );
        }
        if collected.more == 0 {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
    Ok(())
}

fn failed(action: impl Into<String>, error: impl Error + Send + Sync + 'static) -> HostError {
    HostError::failed(action, error)
}

fn not_loaded() -> HostError {
    HostError::missing(
        "the datapath is not loaded",
        "see the earlier error of the load",
    )
}

fn idle_alias(options: &HostOptions) -> String {
    format!("netagent:{}:idle", options.store_id)
}
