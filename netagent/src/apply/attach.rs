//! Attaches programs to links, by tcx through aya or by filters. What aya knows of attaching is in this file and
//! the one below it alone (design, decision 15).

mod drop_all;
mod hook;
pub mod others;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use aya::programs::links::{LinkError as BpfLinkError, PinnedLink};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use netagent_common::names::{DROP_ALL, FROM_SERVICES, FROM_UPLINK, FROM_VM, TO_VM};
use nix::net::if_::if_nametoindex;
use tokio::time::Instant;

use crate::apply::attach::hook::{Hook, live_program, remove_link, replace};
use crate::apply::clsact::{BlockPrograms, Clsact, ClsactError};
use crate::apply::pins::Pins;
use crate::apply::programs::Programs;
use crate::host::{Attach, one_line};
use crate::netlink::Netlink;
use crate::plan::ObservedLink;

/// After this time the kernel is asked about every link anew: a program that somebody took off is missed at the
/// next full round (every 30 s) at the latest.
const VERIFY_AFTER: Duration = Duration::from_secs(20);

/// Why programs could not be attached, detached or found.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The kernel refused the program on this device.
    #[error("tcx")]
    Tcx(#[from] ProgramError),
    /// The kernel refused the XDP program on this device.
    #[error("xdp")]
    Xdp(#[source] ProgramError),
    /// A pinned link cannot be opened or asked.
    #[error("open the pinned link")]
    PinnedLink(#[from] BpfLinkError),
    /// A link cannot be pinned.
    #[error("pin the link")]
    Pin(#[from] aya::pin::PinError),
    /// A pin cannot be removed, or the directory not be read.
    #[error("change the pins")]
    Pins(#[from] io::Error),
    /// Filters could not be set.
    #[error("clsact")]
    Clsact(#[from] ClsactError),
    /// The name leads to another device than the index.
    #[error("'{name}' is no longer the device with index {ifindex}")]
    Renamed {
        /// Name of the device.
        name: String,
        /// Index that it had.
        ifindex: u32,
    },
}

/// How programs are attached here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// tcx links, pinned.
    Tcx,
    /// Filters: in shared blocks for TAPs, in the uplink's own clsact qdisc.
    Clsact,
}

impl Mode {
    /// What was asked for; for `auto`, tcx where the kernel knows it (6.6 and later).
    #[must_use]
    pub fn choose(attach: Attach) -> Self {
        match attach {
            Attach::Tcx => Self::Tcx,
            Attach::Clsact => Self::Clsact,
            Attach::Auto if SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok() => {
                Self::Tcx
            }
            Attach::Auto => Self::Clsact,
        }
    }
}

/// What is attached where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// Devices that have all programs that they need.
    pub devices: BTreeSet<u32>,
    /// Devices that have `drop_all`, or cannot have it.
    pub drop_all: BTreeSet<u32>,
    /// Pins of links whose device is gone.
    pub severed: BTreeSet<String>,
}

/// Attaches, by one way or the other.
#[derive(Debug)]
pub struct Attacher {
    mode: Mode,
    clsact: Clsact,
    /// Pins seen to be alive on a device that is still there. Asking the kernel takes 16 calls for each TAP,
    /// so an observation for a request does it only where that is due.
    verified: BTreeMap<String, String>,
    verified_at: Instant,
    /// Devices that cannot have `drop_all`; they are not asked again.
    refuse_xdp: BTreeSet<u32>,
}

impl Attacher {
    /// `idle_alias` marks the idle device of the filters as this agent's.
    #[must_use]
    pub fn new(attach: Attach, netlink: Netlink, idle_alias: String) -> Self {
        Self {
            mode: Mode::choose(attach),
            clsact: Clsact::new(netlink, idle_alias),
            verified: BTreeMap::new(),
            verified_at: Instant::now(),
            refuse_xdp: BTreeSet::new(),
        }
    }

    /// Gives programs that were loaded anew to what is attached already, without a packet lost.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn renew(&self, pins: &Pins, programs: &mut Programs) -> Result<(), AttachError> {
        for pin in pins.link_names()? {
            let Some((ifindex, program)) = Pins::parse_link_name(&pin) else {
                continue;
            };
            if program == DROP_ALL {
                drop_all::renew(&pins.link(ifindex, program), &mut programs.drop_all)?;
            }
            let Some(hook) = Hook::of(program) else {
                continue;
            };
            let link = PinnedLink::from_pin(pins.link(ifindex, program))?;
            match replace(hook.program(programs), link) {
                // A severed link has nothing to renew; the next plan removes it.
                Err(AttachError::Tcx(ProgramError::SyscallError(error)))
                    if error.io_error.raw_os_error() == Some(nix::libc::ENOLINK) => {}
                result => result?,
            }
        }
        let idle = pins.idle_drop_all();
        if fs::symlink_metadata(&idle).is_ok() {
            drop_all::renew(&idle, &mut programs.drop_all)?;
        }
        match self.mode {
            Mode::Tcx => Ok(()),
            Mode::Clsact => {
                self.clsact.fill_blocks(block_programs(programs)?).await?;
                let (from_uplink, from_services) = (&programs.from_uplink, &programs.from_services);
                let own = [
                    (FROM_UPLINK, from_uplink.fd()?.as_fd()),
                    (FROM_SERVICES, from_services.fd()?.as_fd()),
                ];
                Ok(self.clsact.renew_devices(&own).await?)
            }
        }
    }

    /// Attaches `from_vm` and `to_vm`.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn attach_tap(
        &self,
        pins: &Pins,
        programs: &mut Programs,
        ifindex: u32,
        name: &str,
    ) -> Result<(), AttachError> {
        check_name(ifindex, name)?;
        match self.mode {
            Mode::Tcx => {
                Hook::FromVm.attach(pins, programs, ifindex, name)?;
                Hook::ToVm.attach(pins, programs, ifindex, name)
            }
            Mode::Clsact => {
                self.clsact.fill_blocks(block_programs(programs)?).await?;
                Ok(self.clsact.bind_tap(ifindex).await?)
            }
        }
    }

    /// Attaches `drop_all`. It saves the host work and nothing else: where a device cannot have it, all goes on without.
    ///
    /// # Errors
    /// Where the kernel fails.
    pub async fn attach_drop_all(
        &mut self,
        pins: &Pins,
        programs: &mut Programs,
        ifindex: u32,
        name: &str,
    ) -> Result<(), AttachError> {
        check_name(ifindex, name)?;
        if let Err(error) = self.hold_drop_all(pins, programs).await {
            let reason = one_line(&error);
            tracing::warn!(reason, "attaching drop_all takes its time");
        }
        let pin = pins.link(ifindex, DROP_ALL);
        match drop_all::attach(&pin, &mut programs.drop_all, ifindex) {
            Err(error) if drop_all::is_refused(&error) => {
                let reason = one_line(&error);
                tracing::warn!(
                    device = name,
                    reason,
                    "drop_all cannot be attached, filters deny alone"
                );
                self.refuse_xdp.insert(ifindex);
                Ok(())
            }
            attached => attached,
        }
    }

    /// Keeps `drop_all` attached to the idle device: the first attachment of a program takes a thousand times as long as
    /// those that follow.
    async fn hold_drop_all(&self, pins: &Pins, programs: &mut Programs) -> Result<(), AttachError> {
        let (idle, running) = self.clsact.idle_device().await?;
        let pin = pins.idle_drop_all();
        let is_there = fs::symlink_metadata(&pin).is_ok();
        if is_there && running == Some(drop_all::program_of(&pin)?) {
            return Ok(());
        }
        drop_all::attach(&pin, &mut programs.drop_all, idle)
    }

    /// Takes `drop_all` off a device.
    ///
    /// # Errors
    /// Where its pin cannot be removed.
    pub fn detach_drop_all(&mut self, pins: &Pins, ifindex: u32) -> Result<(), AttachError> {
        self.refuse_xdp.remove(&ifindex);
        remove_link(&pins.link(ifindex, DROP_ALL))?;
        Ok(())
    }

    /// Whether a device has `drop_all`, or cannot have it; `running` is the XDP program on it.
    ///
    /// # Errors
    /// Where a pin cannot be opened.
    pub fn has_drop_all(
        &self,
        pins: &Pins,
        ifindex: u32,
        running: Option<u32>,
    ) -> Result<bool, AttachError> {
        let pin = pins.link(ifindex, DROP_ALL);
        if fs::symlink_metadata(&pin).is_err() {
            return Ok(self.refuse_xdp.contains(&ifindex));
        }
        Ok(running == Some(drop_all::program_of(&pin)?))
    }

    /// Attaches `from_uplink`.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn attach_uplink(
        &self,
        pins: &Pins,
        programs: &mut Programs,
        ifindex: u32,
        name: &str,
    ) -> Result<(), AttachError> {
        self.attach_device(Hook::FromUplink, (pins, programs), ifindex, name)
            .await
    }

    /// Attaches `from_services`.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn attach_services(
        &self,
        pins: &Pins,
        programs: &mut Programs,
        ifindex: u32,
        name: &str,
    ) -> Result<(), AttachError> {
        self.attach_device(Hook::FromServices, (pins, programs), ifindex, name)
            .await
    }

    /// Attaches the one program of a device that is no TAP.
    async fn attach_device(
        &self,
        hook: Hook,
        (pins, programs): (&Pins, &mut Programs),
        ifindex: u32,
        name: &str,
    ) -> Result<(), AttachError> {
        check_name(ifindex, name)?;
        match self.mode {
            Mode::Tcx => hook.attach(pins, programs, ifindex, name),
            Mode::Clsact => {
                let program = hook.program(programs).fd()?.as_fd();
                let attached = self.clsact.attach_device(ifindex, program, hook.name());
                Ok(attached.await?)
            }
        }
    }

    /// Takes every program of ours off a device, by whichever way it came.
    ///
    /// # Errors
    /// Where the kernel refuses; a device that is gone has none.
    pub async fn detach(&self, pins: &Pins, ifindex: u32) -> Result<(), AttachError> {
        self.unpin(pins, ifindex)?;
        Ok(self.clsact.detach(ifindex).await?)
    }

    /// Takes the programs of a device off that are pinned. An agent that was killed while it attached or detached
    /// left one of two, which no plan sees as attached.
    ///
    /// # Errors
    /// Where a pin cannot be removed.
    pub fn unpin(&self, pins: &Pins, ifindex: u32) -> Result<(), AttachError> {
        for program in Hook::ALL.map(Hook::name).into_iter().chain([DROP_ALL]) {
            remove_link(&pins.link(ifindex, program))?;
        }
        Ok(())
    }

    /// Takes `from_services` off every device that it is pinned to.
    ///
    /// # Errors
    /// Where a pin cannot be removed.
    pub fn unpin_services(&self, pins: &Pins) -> Result<(), AttachError> {
        for pin in pins.link_names()? {
            if let Some((ifindex, FROM_SERVICES)) = Pins::parse_link_name(&pin) {
                remove_link(&pins.link(ifindex, FROM_SERVICES))?;
            }
        }
        Ok(())
    }

    /// Takes every program of ours off every device, the idle one's blocks apart, and says how many pins
    /// were removed.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn detach_all(&self, pins: &Pins) -> Result<usize, AttachError> {
        let mut removed = 0;
        for pin in pins.link_names()? {
            if let Some((ifindex, program)) = Pins::parse_link_name(&pin) {
                removed += usize::from(remove_link(&pins.link(ifindex, program))?);
            }
        }
        for ifindex in self.clsact.attached().await? {
            self.clsact.detach(ifindex).await?;
        }
        Ok(removed)
    }

    /// Looks what is attached; `links` are the devices that exist.
    ///
    /// # Errors
    /// Where a pin cannot be opened, or netlink refuses.
    pub async fn observe(
        &mut self,
        pins: &Pins,
        links: &BTreeMap<u32, ObservedLink>,
    ) -> Result<Attached, AttachError> {
        if self.verified_at.elapsed() >= VERIFY_AFTER {
            self.verified.clear();
            self.verified_at = Instant::now();
        }
        let mut attached = Attached::default();
        let mut live: BTreeMap<u32, BTreeSet<&str>> = BTreeMap::new();
        let mut verified = BTreeMap::new();
        for pin in pins.link_names()? {
            let Some((ifindex, program)) = Pins::parse_link_name(&pin) else {
                continue;
            };
            if program == DROP_ALL {
                let running = links.get(&ifindex).and_then(|link| link.xdp);
                if self.has_drop_all(pins, ifindex, running)? {
                    attached.drop_all.insert(ifindex);
                } else {
                    attached.severed.insert(pin);
                }
                continue;
            }
            let Some(hook) = Hook::of(program) else {
                continue;
            };
            let name = links.get(&ifindex).map(|link| link.name.as_str());
            if !self.is_live(pins, &pin, hook, name)? {
                attached.severed.insert(pin);
                continue;
            }
            live.entry(ifindex).or_default().insert(hook.name());
            verified.insert(pin, name.unwrap_or_default().to_owned());
        }
        self.refuse_xdp
            .retain(|ifindex| links.contains_key(ifindex));
        attached.drop_all.extend(&self.refuse_xdp);
        // What has vanished is forgotten: a later device of the same index is asked for.
        self.verified = verified;
        for (ifindex, programs) in live {
            let tap = programs.contains(FROM_VM) && programs.contains(TO_VM);
            if tap || programs.contains(FROM_UPLINK) || programs.contains(FROM_SERVICES) {
                attached.devices.insert(ifindex);
            }
        }
        if self.mode == Mode::Clsact {
            let filtered = self.clsact.attached().await?.into_iter();
            attached
                .devices
                .extend(filtered.filter(|ifindex| links.contains_key(ifindex)));
        }
        Ok(attached)
    }

    /// Whether one TAP has both its programs; the kernel is asked.
    ///
    /// # Errors
    /// Where a pin cannot be opened, or netlink refuses.
    pub async fn is_attached(
        &self,
        pins: &Pins,
        ifindex: u32,
        name: &str,
    ) -> Result<bool, AttachError> {
        if self.mode == Mode::Clsact {
            return Ok(self.clsact.attached().await?.contains(&ifindex));
        }
        for hook in [Hook::FromVm, Hook::ToVm] {
            let pin = pins.link(ifindex, hook.name());
            let pinned = fs::symlink_metadata(&pin).is_ok();
            if !pinned || live_program(&pin, hook, name)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_live(
        &self,
        pins: &Pins,
        pin: &str,
        hook: Hook,
        name: Option<&str>,
    ) -> Result<bool, AttachError> {
        let Some((name, (ifindex, program))) = name.zip(Pins::parse_link_name(pin)) else {
            return Ok(false);
        };
        if self
            .verified
            .get(pin)
            .is_some_and(|verified| verified == name)
        {
            return Ok(true);
        }
        Ok(live_program(&pins.link(ifindex, program), hook, name)?.is_some())
    }
}

fn block_programs(programs: &Programs) -> Result<BlockPrograms<'_>, ProgramError> {
    Ok(BlockPrograms {
        from_vm: programs.from_vm.fd()?.as_fd(),
        to_vm: programs.to_vm.fd()?.as_fd(),
    })
}

fn check_name(ifindex: u32, name: &str) -> Result<(), AttachError> {
    match if_nametoindex(name) {
        Ok(found) if found == ifindex => Ok(()),
        Ok(_) | Err(_) => Err(AttachError::Renamed {
            name: name.to_owned(),
            ifindex,
        }),
    }
}
