//! A client with a port of its choice.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::deadline::SOON;
use crate::netns::NetNs;

/// Connects from one address and port to another; reading and writing have a deadline.
///
/// # Panics
/// When it does not succeed soon.
#[must_use]
pub fn connect_from(netns: &NetNs, from: SocketAddr, to: SocketAddr) -> TcpStream {
    let family = if from.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let made = netns.run(|| socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None));
    let socket = made.expect("root may use TCP");
    bind(socket.as_raw_fd(), &SockaddrStorage::from(from))
        .unwrap_or_else(|error| panic!("bind to {from}: {error}"));
    // It limits connect(2) too.
    let limit = TimeVal::new(SOON.as_secs().cast_signed(), 0);
    nix::sys::socket::setsockopt(&socket, sockopt::SendTimeout, &limit).expect("an open socket");
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to))
        .unwrap_or_else(|error| panic!("connect from {from} to {to}: {error}"));
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SOON)).expect("an open socket");
    stream
}
