//! `drop_all` on a device, by an XDP link that is pinned.

use std::path::Path;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp, XdpMode};
use nix::libc;

use crate::apply::attach::AttachError;
use crate::apply::attach::hook::remove_link;

/// Attaches and pins the link. What is at the pin goes first: its device may be gone, and another have its index.
pub(super) fn attach(pin: &Path, program: &mut Xdp, ifindex: u32) -> Result<(), AttachError> {
    remove_link(pin)?;
    let attached = match program.attach_to_if_index(ifindex, XdpMode::Driver) {
        // The device has no XDP of its own: the kernel runs the program a little later, at a higher cost.
        Err(error) if errno(&error) == Some(libc::EOPNOTSUPP) => {
            program.attach_to_if_index(ifindex, XdpMode::Skb)
        }
        attached => attached,
    };
    let attached = attached.map_err(AttachError::Xdp)?;
    let link = program.take_link(attached).map_err(AttachError::Xdp)?;
    FdLink::try_from(link)?.pin(pin)?;
    Ok(())
}

/// Whether the device cannot have the program: somebody else's is there, or the kernel knows none on such devices.
pub(super) fn is_refused(error: &AttachError) -> bool {
    let refusals = [libc::EBUSY, libc::EEXIST, libc::EOPNOTSUPP].map(Some);
    matches!(error, AttachError::Xdp(error) if refusals.contains(&errno(error)))
}

/// The program behind a pinned link.
pub(super) fn program_of(pin: &Path) -> Result<u32, AttachError> {
    let link = FdLink::from(PinnedLink::from_pin(pin)?);
    Ok(link.info()?.program_id())
}

/// Puts another program behind a link, without a packet judged by neither.
pub(super) fn renew(pin: &Path, program: &mut Xdp) -> Result<(), AttachError> {
    let link = FdLink::from(PinnedLink::from_pin(pin)?);
    match program.attach_to_link(XdpLink::try_from(link)?) {
        Ok(replaced) => {
            // The pin keeps it; the agent needs no descriptor.
            drop(program.take_link(replaced).map_err(AttachError::Xdp)?);
            Ok(())
        }
        // A severed link has nothing to renew; the next plan removes it.
        Err(error) if errno(&error) == Some(libc::ENOLINK) => Ok(()),
        Err(error) => Err(AttachError::Xdp(error)),
    }
}

fn errno(error: &ProgramError) -> Option<i32> {
    if let ProgramError::SyscallError(error) = error {
        error.io_error.raw_os_error()
    } else {
        None
    }
}
