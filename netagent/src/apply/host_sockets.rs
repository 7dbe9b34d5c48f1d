//! Programs on the sockets of the host's processes: attached to the root of the control groups, and by their own test
//! bound to the agent's network namespace.
#![allow(unsafe_code, reason = "a socket option that no crate in use offers")]

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkError as BpfLinkError, PinnedLink};
use aya::programs::{CgroupAttachMode, CgroupSockAddr, CgroupSockAddrAttachType, ProgramError};
use netagent_common::names::socket;
use nix::libc::{self, socklen_t};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket as open_socket};

use crate::apply::pins::Pins;

/// Why processes of the host are not led to published ports; the agent's own listeners serve them then.
#[derive(Debug, thiserror::Error)]
pub enum HostSocketsError {
    /// There is no root of control groups of version 2.
    #[error("no cgroup2 file system is mounted whose root is the machine's")]
    NoRoot,
    /// A file cannot be read or changed.
    #[error("{0}")]
    File(PathBuf, #[source] io::Error),
    /// The kernel refused a program.
    #[error("attach {0}")]
    Program(&'static str, #[source] ProgramError),
    /// A pinned link cannot be opened or asked.
    #[error("open the link of {0}")]
    Link(&'static str, #[source] BpfLinkError),
    /// A link cannot be pinned.
    #[error("pin the link of {0}")]
    Pin(&'static str, #[source] aya::pin::PinError),
}

/// Which call a program sees.
///
/// Panics never: every name of [`socket::ALL`] is in the list.
#[must_use]
pub fn call(name: &str) -> CgroupSockAddrAttachType {
    match name {
        socket::CONNECT_V4 => CgroupSockAddrAttachType::Connect4,
        socket::CONNECT_V6 => CgroupSockAddrAttachType::Connect6,
        socket::SENDMSG_V4 => CgroupSockAddrAttachType::UDPSendMsg4,
        socket::SENDMSG_V6 => CgroupSockAddrAttachType::UDPSendMsg6,
        socket::RECVMSG_V4 => CgroupSockAddrAttachType::UDPRecvMsg4,
        socket::RECVMSG_V6 => CgroupSockAddrAttachType::UDPRecvMsg6,
        socket::PEER_V4 => CgroupSockAddrAttachType::GetPeerName4,
        _ => CgroupSockAddrAttachType::GetPeerName6,
    }
}

/// Attaches every program that is not attached yet. A program of another build stays until its successor is there:
/// whom one of them led, the other finds led.
///
/// # Errors
/// Where there is nothing to attach to, or the kernel refuses.
pub fn attach(
    pins: &Pins,
    programs: &mut [(&'static str, CgroupSockAddr)],
) -> Result<(), HostSocketsError> {
    let path = root()?;
    let root = File::open(&path).map_err(|error| HostSocketsError::File(path, error))?;
    for (name, program) in programs {
        let (name, pin) = (*name, pins.socket(name));
        if runs(&pin, name, program)? {
            continue;
        }
        let refused = |error| HostSocketsError::Program(name, error);
        // A link stands beside those of others whatever the mode says, and the kernel wants it to say nothing.
        let attached = program
            .attach(&root, CgroupAttachMode::Single)
            .map_err(refused)?;
        let link = program.take_link(attached).map_err(refused)?;
        let link: FdLink = link
            .try_into()
            .map_err(|error| HostSocketsError::Link(name, error))?;
        let fresh = pins.socket(&format!("{name}-new"));
        remove_if_there(&fresh)?;
        link.pin(&fresh)
            .map_err(|error| HostSocketsError::Pin(name, error))?;
        // What was there before goes with its pin.
        fs::rename(&fresh, &pin).map_err(|error| HostSocketsError::File(pin, error))?;
    }
    Ok(())
}

/// Whether all programs are attached.
///
/// # Errors
/// Where a pin cannot be opened or asked.
pub fn is_attached(
    pins: &Pins,
    programs: &[(&'static str, CgroupSockAddr)],
) -> Result<bool, HostSocketsError> {
    for (name, program) in programs {
        if !runs(&pins.socket(name), name, program)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn runs(
    pin: &Path,
    name: &'static str,
    program: &CgroupSockAddr,
) -> Result<bool, HostSocketsError> {
    if fs::symlink_metadata(pin).is_err() {
        return Ok(false);
    }
    let failed = |error| HostSocketsError::Link(name, error);
    let link = FdLink::from(PinnedLink::from_pin(pin).map_err(failed)?);
    let running = link.info().map_err(failed)?.program_id();
    let own = program
        .info()
        .map_err(|error| HostSocketsError::Program(name, error))?
        .id();
    Ok(running == own)
}

fn remove_if_there(path: &Path) -> Result<(), HostSocketsError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(HostSocketsError::File(path.to_owned(), error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Where the root of the control groups is mounted: beside version 1 on some hosts.
fn root() -> Result<PathBuf, HostSocketsError> {
    const MOUNTS: &str = "/proc/self/mountinfo";
    let mounts =
        fs::read_to_string(MOUNTS).map_err(|error| HostSocketsError::File(MOUNTS.into(), error))?;
    find_root(&mounts).ok_or(HostSocketsError::NoRoot)
}

/// Fields as in proc_pid_mountinfo(5): the fourth is the root of the mount, the fifth where it is mounted, and behind
/// a dash comes the type.
fn find_root(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        (root == "/" && kind.starts_with("cgroup2 ")).then(|| at.into())
    })
}

/// Cookie of this thread's network namespace (Linux 5.14); 0 where the kernel does not tell, and then sockets are left
/// alone.
#[must_use]
pub fn netns_cookie() -> u64 {
    let flags = SockFlag::SOCK_CLOEXEC;
    let Ok(socket) = open_socket(AddressFamily::Inet, SockType::Datagram, flags, None) else {
        return 0;
    };
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as socklen_t;
    // SAFETY: both places outlive the call, and `len` is the size of the first.
    let code = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if code == 0 { cookie } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_root_is_found_beside_other_mounts() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw\n\
                      31 30 0:27 /box /mnt/box rw - cgroup2 cgroup2 rw\n\
                      32 30 0:28 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(
            find_root(mounts),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
        assert_eq!(
            find_root("31 30 0:27 /box /mnt/box rw - cgroup2 cgroup2 rw\n"),
            None
        );
        assert_eq!(find_root("\n"), None);
    }

    #[test]
    fn every_program_has_a_call_of_its_own() {
        let mut calls: Vec<String> = socket::ALL
            .iter()
            .map(|name| format!("{:?}", call(name)))
            .collect();
        calls.sort();
        calls.dedup();
        assert_eq!(calls.len(), socket::ALL.len());
    }

    #[test]
    fn the_kernel_tells_the_cookie_of_the_namespace() {
        assert_ne!(netns_cookie(), 0);
        assert_eq!(netns_cookie(), netns_cookie());
    }
}
