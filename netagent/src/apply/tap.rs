//! Makes TAP devices: the ioctls of `/dev/net/tun`, and with them the agent's only unsafe code.
#![allow(
    unsafe_code,
    reason = "ioctls of /dev/net/tun, which no crate in use offers"
)]

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc::{c_int, c_short, c_uint};

use crate::plan::TapSpec;

/// Where TAP devices come from.
const DEVICE: &str = "/dev/net/tun";

/// Why a TAP could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The name does not fit, or would leave its directory under `/proc/sys`.
    #[error("'{0}' cannot be the name of a device")]
    BadName(String),
    /// The device file cannot be opened.
    #[error("open {DEVICE}")]
    OpenTun(#[source] std::io::Error),
    /// The kernel refused an ioctl.
    #[error("{call}")]
    Refused {
        /// Name of the ioctl.
        call: &'static str,
        /// Its answer.
        #[source]
        errno: Errno,
    },
}

/// `struct ifreq`, as far as TUNSETIFF reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: c_short,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<InterfaceRequest>() == size_of::<nix::libc::ifreq>());

mod ioctl {
    //! The calls as nix declares them; each is unsafe to call.
    use super::{InterfaceRequest, c_int, c_uint};

    // TUNSETIFF is declared with an int but reads a whole ifreq.
    nix::ioctl_write_ptr_bad!(
        set_interface,
        nix::request_code_write!(b'T', 202, size_of::<c_int>()),
        InterfaceRequest
    );
    nix::ioctl_write_int!(set_persistent, b'T', 203);
    nix::ioctl_write_int!(set_owner, b'T', 204);
    nix::ioctl_write_int!(set_group, b'T', 206);
    nix::ioctl_write_ptr!(set_ifindex, b'T', 218, c_uint);
}

/// A TAP that vanishes when this is dropped, so that a crash half way leaves nothing behind.
#[derive(Debug)]
pub struct UnfinishedTap {
    file: File,
}

impl UnfinishedTap {
    /// Makes the TAP with its index, queues, owner and group. It is down and has no alias yet.
    ///
    /// # Errors
    /// Where the name is bad or taken, the index is taken, or the rights are missing.
    pub fn create(tap: &TapSpec) -> Result<Self, TapError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(DEVICE)
            .map_err(TapError::OpenTun)?;
        let fd = file.as_raw_fd();
        let request = InterfaceRequest {
            name: checked_name(&tap.name)?,
            flags: flags(tap),
            rest: [0; 22],
        };
        // SAFETY: `fd` is open for the whole call; the kernel reads one u32 from a reference to a live u32.
        let indexed = unsafe { ioctl::set_ifindex(fd, &raw const tap.ifindex) };
        checked("TUNSETIFINDEX", indexed)?;
        // SAFETY: `fd` is open; the kernel copies `sizeof(struct ifreq)` bytes, the size of `request` by the
        // assertion above, and all of them are initialised.
        let made = unsafe { ioctl::set_interface(fd, &raw const request) };
        checked("TUNSETIFF", made)?;
        let (owner, group) = principals(tap);
        if let Some(owner) = owner {
            // SAFETY: `fd` is open, and the argument is a number, not an address.
            let owned = unsafe { ioctl::set_owner(fd, owner.into()) };
            checked("TUNSETOWNER", owned)?;
        }
        if let Some(group) = group {
            // SAFETY: as for TUNSETOWNER.
            let grouped = unsafe { ioctl::set_group(fd, group.into()) };
            checked("TUNSETGROUP", grouped)?;
        }
        Ok(Self { file })
    }

    /// Lets the TAP outlive this process.
    ///
    /// # Errors
    /// Where the kernel refuses; the TAP is gone then.
    pub fn persist(self) -> Result<(), TapError> {
        // SAFETY: the file is open as long as `self`, and the argument is a number, not an address.
        let kept = unsafe { ioctl::set_persistent(self.file.as_raw_fd(), 1) };
        checked("TUNSETPERSIST", kept)
    }
}

fn checked(call: &'static str, result: nix::Result<c_int>) -> Result<(), TapError> {
    result
        .map(|_| ())
        .map_err(|errno| TapError::Refused { call, errno })
}

/// Who is set as owner and group. Where both are set the kernel asks for both, so what was not named stays
/// unset; but never both, for anyone may open a persistent TAP that has neither.
fn principals(tap: &TapSpec) -> (Option<u32>, Option<u32>) {
    match (tap.owner, tap.group) {
        (None, None) => (Some(0), Some(0)),
        named => named,
    }
}

fn flags(tap: &TapSpec) -> c_short {
    use nix::libc::{IFF_MULTI_QUEUE, IFF_NO_PI, IFF_TAP, IFF_VNET_HDR};
    let several = if tap.queues > 1 { IFF_MULTI_QUEUE } else { 0 };
    (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | several) as c_short
}

/// The name as the kernel takes it, safe to be part of a path.
fn checked_name(name: &str) -> Result<[u8; 16], TapError> {
    let bad = || TapError::BadName(name.to_owned());
    let fits = !name.is_empty() && name.len() <= 15 && name != "." && name != "..";
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"/:%".contains(&byte));
    if !(fits && plain) {
        return Err(bad());
    }
    let mut bytes = [0; 16];
    bytes
        .get_mut(..name.len())
        .ok_or_else(bad)?
        .copy_from_slice(name.as_bytes());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_no_device_name_is_refused() {
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "tap:1",
            "tap%d",
            "sixteen-letters-",
            "tap\n",
        ] {
            assert!(checked_name(name).is_err(), "{name:?}");
        }
        assert_eq!(checked_name("tap0").unwrap()[..5], *b"tap0\0");
        assert!(checked_name("fifteen-letters").is_ok());
    }

    fn spec() -> TapSpec {
        TapSpec {
            name: "tap0".to_owned(),
            ifindex: 65_536,
            owner: None,
            group: None,
            queues: 1,
            mtu: 1_500,
            v6: false,
            alias: String::new(),
            lent: false,
        }
    }

    #[test]
    fn only_what_is_named_is_set_and_root_where_nothing_is() {
        let set = |owner, group| {
            principals(&TapSpec {
                owner,
                group,
                ..spec()
            })
        };
        assert_eq!(set(None, None), (Some(0), Some(0)));
        assert_eq!(set(Some(1000), None), (Some(1000), None));
        assert_eq!(set(None, Some(36)), (None, Some(36)));
        assert_eq!(set(Some(1000), Some(36)), (Some(1000), Some(36)));
    }

    #[test]
    fn only_several_queues_make_a_tap_multi_queue() {
        let tap = |queues| TapSpec { queues, ..spec() };
        assert_eq!(flags(&tap(1)), 0x5002);
        assert_eq!(flags(&tap(2)), 0x5102);
    }
}
