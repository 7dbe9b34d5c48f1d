//! The sockets that the servers of guests work on.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use netagent_common::services::port;
use nix::errno::Errno;
use nix::sys::socket::sockopt::{Ipv6Ttl, Ipv6V6Only, RcvBufForce, ReuseAddr};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6,
    SockaddrLike, bind, listen, setsockopt, socket,
};

use crate::apply::services::{ServicesError, refused};
use crate::host::ServiceSockets;

/// Bytes that wait in one socket: a thousand guests that boot at once ask in one moment.
const RECEIVE_BUFFER: usize = 8 << 20;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1_024;
/// RFC 4861 section 4.2: what came from farther away is not believed.
const HOP_LIMIT: i32 = 255;

/// Opens them in the namespace that the thread is in.
pub(super) fn open() -> Result<ServiceSockets, ServicesError> {
    let mut sockets = ServiceSockets {
        dhcp: datagram(any_v4(port::DHCP_SERVER))?,
        router: None,
        dns_udp: vec![datagram(any_v4(port::DNS))?],
        dns_tcp: vec![listener(any_v4(port::DNS))?],
    };
    // A host without IPv6 has no guests with it.
    match icmpv6() {
        Ok(router) => {
            sockets.router = Some(router);
            sockets.dns_udp.push(datagram(any_v6(port::DNS))?);
            sockets.dns_tcp.push(listener(any_v6(port::DNS))?);
        }
        Err(Errno::EAFNOSUPPORT) => {}
        Err(errno) => return Err(refused("open a raw ICMPv6 socket")(errno)),
    }
    Ok(sockets)
}

fn any_v4(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}

fn any_v6(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

fn datagram(address: SocketAddr) -> Result<UdpSocket, ServicesError> {
    let bound = bound(SockType::Datagram, address);
    let bound = bound.map_err(refused("bind a UDP socket of the servers"))?;
    setsockopt(&bound, RcvBufForce, &RECEIVE_BUFFER).map_err(refused("enlarge a buffer"))?;
    Ok(bound.into())
}

fn listener(address: SocketAddr) -> Result<TcpListener, ServicesError> {
    let listen_there = || {
        let bound = bound(SockType::Stream, address)?;
        listen(&bound, Backlog::new(BACKLOG)?)?;
        Ok(bound.into())
    };
    listen_there().map_err(refused("bind a TCP socket of the servers"))
}

fn bound(kind: SockType, address: SocketAddr) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let (family, address): (_, Box<dyn SockaddrLike>) = match address {
        SocketAddr::V4(address) => (AddressFamily::Inet, Box::new(SockaddrIn::from(address))),
        SocketAddr::V6(address) => (AddressFamily::Inet6, Box::new(SockaddrIn6::from(address))),
    };
    let made = socket(family, kind, flags, None)?;
    setsockopt(&made, ReuseAddr, &true)?;
    if family == AddressFamily::Inet6 {
        setsockopt(&made, Ipv6V6Only, &true)?;
    }
    bind(made.as_raw_fd(), address.as_ref())?;
    Ok(made)
}

/// For this protocol the kernel checks and fills in checksums (RFC 3542 section 3.1). The standard library has no
/// raw sockets, but one is used like a datagram socket without ports.
fn icmpv6() -> Result<UdpSocket, Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let protocol = Some(SockProtocol::IcmpV6);
    let made = socket(AddressFamily::Inet6, SockType::Raw, flags, protocol)?;
    setsockopt(&made, Ipv6Ttl, &HOP_LIMIT)?;
    setsockopt(&made, RcvBufForce, &RECEIVE_BUFFER)?;
    Ok(made.into())
}
