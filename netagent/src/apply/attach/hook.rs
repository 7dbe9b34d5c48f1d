//! One program on one side of a device, by a tcx link that is pinned.

use std::fs;
use std::path::Path;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use netagent_common::names::{FROM_SERVICES, FROM_UPLINK, FROM_VM, TO_VM};
use nix::net::if_::if_nametoindex;

use crate::apply::attach::AttachError;
use crate::apply::pins::Pins;
use crate::apply::programs::Programs;

/// A program and the side of a device on which it sees packets.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hook {
    FromVm,
    ToVm,
    FromUplink,
    FromServices,
}

impl Hook {
    pub(super) const ALL: [Self; 4] = [
        Self::FromVm,
        Self::ToVm,
        Self::FromUplink,
        Self::FromServices,
    ];

    pub(super) fn of(program: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.name() == program)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::FromVm => FROM_VM,
            Self::ToVm => TO_VM,
            Self::FromUplink => FROM_UPLINK,
            Self::FromServices => FROM_SERVICES,
        }
    }

    pub(super) fn direction(self) -> TcAttachType {
        match self {
            Self::FromVm | Self::FromUplink | Self::FromServices => TcAttachType::Ingress,
            Self::ToVm => TcAttachType::Egress,
        }
    }

    pub(super) fn program(self, programs: &mut Programs) -> &mut SchedClassifier {
        match self {
            Self::FromVm => &mut programs.from_vm,
            Self::ToVm => &mut programs.to_vm,
            Self::FromUplink => &mut programs.from_uplink,
            Self::FromServices => &mut programs.from_services,
        }
    }

    /// Attaches by tcx and pins the link; a pin that is there is used where its device is alive.
    pub(super) fn attach(
        self,
        pins: &Pins,
        programs: &mut Programs,
        ifindex: u32,
        name: &str,
    ) -> Result<(), AttachError> {
        let program = self.program(programs);
        let pin = pins.link(ifindex, self.name());
        if fs::symlink_metadata(&pin).is_ok() {
            if let Some(running) = live_program(&pin, self, name)? {
                if running == program.info()?.id() {
                    return Ok(());
                }
                return replace(program, PinnedLink::from_pin(&pin)?);
            }
            // Its device is gone, and a later one of the same name or index is not attached.
            fs::remove_file(&pin)?;
        }
        let order = TcAttachOptions::TcxOrder(LinkOrder::default());
        let attached = program.attach_with_options(name, self.direction(), order)?;
        let link: FdLink = program.take_link(attached)?.try_into()?;
        link.pin(&pin)?;
        Ok(())
    }
}

/// The program behind a pinned link, as long as it runs on the device of this name: a link outlives its
/// device, and aya does not say so.
pub(super) fn live_program(pin: &Path, hook: Hook, name: &str) -> Result<Option<u32>, AttachError> {
    let program = FdLink::from(PinnedLink::from_pin(pin)?)
        .info()?
        .program_id();
    let running = match SchedClassifier::query_tcx(name, hook.direction()) {
        Ok((_, running)) => running,
        Err(_) if if_nametoindex(name).is_err() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(running
        .iter()
        .any(|info| info.id() == program)
        .then_some(program))
}

/// Puts another program behind a link, without a packet lost.
pub(super) fn replace(program: &mut SchedClassifier, link: PinnedLink) -> Result<(), AttachError> {
    let link: SchedClassifierLink = FdLink::from(link).try_into()?;
    let replaced = program.attach_to_link(link)?;
    // The pin keeps it; the agent needs no descriptor.
    drop(program.take_link(replaced)?);
    Ok(())
}

/// Removes a pin and waits until its program is off; says whether there was one.
pub(super) fn remove_link(pin: &Path) -> Result<bool, AttachError> {
    if fs::symlink_metadata(pin).is_err() {
        return Ok(false);
    }
    // Removing the file alone detaches later, from a work queue; closing the last descriptor does it now.
    let link = PinnedLink::from_pin(pin)?.unpin()?;
    drop(link);
    Ok(true)
}
