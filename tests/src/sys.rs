//! The system calls that nix does not wrap, each behind a safe function. The only `unsafe` of this crate.
#![allow(unsafe_code, reason = "system calls without a wrapper")]

mod bpf;

use std::ffi::{c_int, c_ulong};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use nix::libc;
use nix::sched::{CloneFlags, setns};

pub use bpf::{
    Instruction, attach_tcx_egress, attach_tcx_ingress, attach_xdp, device_map, load_classifier,
    load_xdp, returns, time_program,
};

/// Makes the command start in another network namespace.
pub fn start_in_netns(command: &mut Command, netns: Arc<OwnedFd>) {
    let enter = move || setns(&*netns, CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
    // SAFETY: between fork and exec the closure makes one system call; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(enter) };
}

/// `struct ifreq` as TUNSETIFF reads it.
#[repr(C)]
struct TunRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: u16,
    padding: [u8; 22],
}

/// TUNSETIFF: makes the file the TAP `name`.
///
/// # Errors
/// What the kernel says.
pub fn tun_set_iff(file: &File, name: &str, flags: u16) -> io::Result<()> {
    TunRequest::new(name, flags).make(file.as_raw_fd())
}

/// TUNSETIFF as another user and group, without any capability: by a child process that drops its rights
/// before it. The file stays the TAP.
///
/// # Errors
/// What the kernel says.
pub fn tun_set_iff_as(
    file: &File,
    (name, flags): (&str, u16),
    (user, group): (u32, u32),
) -> io::Result<()> {
    let (descriptor, mut request) = (file.as_raw_fd(), TunRequest::new(name, flags));
    let mut child = Command::new("true");
    // Other groups go too: the child of root that changes its user keeps none.
    child.uid(user).gid(group);
    let open = move || request.make(descriptor);
    // SAFETY: between fork and exec the closure makes one system call, on a descriptor that the parent holds
    // open; it allocates nothing and takes no lock. It runs after user and group are set.
    unsafe { child.pre_exec(open) };
    child.status().map(|status| assert!(status.success()))
}

impl TunRequest {
    fn new(name: &str, flags: u16) -> Self {
        let mut request = Self {
            name: [0; libc::IFNAMSIZ],
            flags,
            padding: [0; 22],
        };
        assert!(
            name.len() < libc::IFNAMSIZ,
            "interface name {name} is too long"
        );
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        request
    }

    fn make(&mut self, file: RawFd) -> io::Result<()> {
        const TUNSETIFF: c_ulong = 0x4004_54ca;
        let request: *mut Self = self;
        // SAFETY: the callers hold the file open, and the kernel reads and writes one `ifreq`, which `self` is
        // as large as.
        check(unsafe { libc::ioctl(file, TUNSETIFF, request) })
    }
}

/// TUNSETOFFLOAD: what the reader of the TAP can take.
///
/// # Errors
/// What the kernel says.
pub fn tun_set_offload(file: &File, features: u32) -> io::Result<()> {
    const TUNSETOFFLOAD: c_ulong = 0x4004_54d0;
    // SAFETY: the file is open; the argument of this request is a number.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETOFFLOAD, c_ulong::from(features)) })
}

/// TUNSETVNETHDRSZ, TUNSETIFINDEX and the like: an ioctl that reads one integer.
fn tun_set_integer(file: &File, request: c_ulong, value: c_int) -> io::Result<()> {
    // SAFETY: the file is open, and these requests read one int through the pointer.
    check(unsafe { libc::ioctl(file.as_raw_fd(), request, &raw const value) })
}

/// TUNSETVNETHDRSZ: length of the header before each frame.
///
/// # Errors
/// What the kernel says.
pub fn tun_set_vnet_hdr_size(file: &File, size: c_int) -> io::Result<()> {
    tun_set_integer(file, 0x4004_54d8, size)
}

/// TUNSETIFINDEX: the interface index that the next TUNSETIFF shall use.
///
/// # Errors
/// What the kernel says.
pub fn tun_set_ifindex(file: &File, ifindex: u32) -> io::Result<()> {
    tun_set_integer(file, 0x4004_54da, ifindex.cast_signed())
}

/// Opens a packet socket (AF_PACKET, SOCK_RAW, all protocols) bound to an interface of the calling thread's
/// namespace.
///
/// # Errors
/// What the kernel says.
pub fn packet_socket(ifindex: u32) -> io::Result<OwnedFd> {
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // Protocol 0 receives nothing until bind, so no frame of another interface slips in.
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    check(fd)?;
    // SAFETY: the kernel just gave this descriptor to us alone.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    for (option, value) in [
        (libc::PACKET_VNET_HDR, 1),
        (libc::PACKET_AUXDATA, 1),
        (PACKET_IGNORE_OUTGOING, 1),
    ] {
        set_option(&socket, libc::SOL_PACKET, option, value)?;
    }
    set_option(
        &socket,
        libc::SOL_SOCKET,
        libc::SO_RCVBUFFORCE,
        RECEIVE_BUFFER,
    )?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: ifindex.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: `address` lives through the call and `length` is its size.
    check(unsafe { libc::bind(fd, (&raw const address).cast(), length) })?;
    Ok(socket)
}

const PACKET_IGNORE_OUTGOING: c_int = 23;
const RECEIVE_BUFFER: c_int = 256 << 20;

fn set_option(socket: impl AsFd, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    let length = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: `value` lives through the call and `length` is its size.
    check(unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            length,
        )
    })
}

/// Receives one frame from a packet socket: its length in `buffer`, and the VLAN tag that the kernel took off.
///
/// # Errors
/// What the kernel says; `WouldBlock` where there is none.
pub fn receive_packet(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, Option<u16>)> {
    let mut control = [0_u64; 16];
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: a message header of zeroes and null pointers is a valid empty one.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: every pointer in `message` names a buffer of the stated length that outlives the call.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    let length = usize::try_from(length).map_err(|_negative| io::Error::last_os_error())?;
    Ok((length, vlan_tag(&message)))
}

fn vlan_tag(message: &libc::msghdr) -> Option<u16> {
    // SAFETY: recvmsg filled the control buffer of `message`, which the caller still holds.
    let header = unsafe { libc::CMSG_FIRSTHDR(message) };
    if header.is_null() {
        return None;
    }
    // SAFETY: not null, so it lies in the control buffer.
    let header_value = unsafe { header.read_unaligned() };
    if header_value.cmsg_level != libc::SOL_PACKET || header_value.cmsg_type != libc::PACKET_AUXDATA
    {
        return None;
    }
    // SAFETY: `header` is a control message header, by the check above with a payload.
    let data = unsafe { libc::CMSG_DATA(header) }.cast::<libc::tpacket_auxdata>();
    // SAFETY: the payload of PACKET_AUXDATA is one `tpacket_auxdata`.
    let auxdata = unsafe { data.read_unaligned() };
    (auxdata.tp_status & libc::TP_STATUS_VLAN_VALID != 0).then_some(auxdata.tp_vlan_tci)
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Lets no datagram of a UDP socket be fragmented: one that is larger than the path is refused.
///
/// # Errors
/// As of setsockopt(2).
pub fn forbid_fragments(socket: BorrowedFd<'_>, is_v4: bool) -> io::Result<()> {
    let (level, option, value) = if is_v4 {
        let value = libc::IP_PMTUDISC_DO;
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, value)
    } else {
        let value = libc::IPV6_PMTUDISC_DO;
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, value)
    };
    set_option(socket, level, option, value)
}
