//! Echo requests from a namespace, by the kernel's ping sockets.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::deadline::SOON;
use crate::netns::NetNs;

/// Sends `count` echo requests, each after the answer to the one before, with `length` bytes of payload.
///
/// # Errors
/// Says which one was not answered, or not sent, and why.
///
/// # Panics
/// Where an answer is not what was sent.
pub fn ping(
    netns: &NetNs,
    address: impl Into<IpAddr>,
    (count, length): (u16, usize),
) -> Result<(), String> {
    let address = address.into();
    // Zero means: this group alone; a new namespace lets no group use ping sockets.
    netns.sysctl("net/ipv4/ping_group_range", "0 0");
    let (family, protocol, kind) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128),
    };
    let made = netns.run(|| socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol));
    let socket = UdpSocket::from(made.expect("root may use ping sockets"));
    socket.set_read_timeout(Some(SOON)).expect("an open socket");
    for sequence in 1..=count {
        let mut request = vec![kind, 0, 0, 0, 0, 0];
        request.extend(sequence.to_be_bytes());
        request.extend((0..length).map(|index| index as u8));
        let failed = |error| format!("echo request {sequence} to {address}: {error}");
        socket
            .send_to(&request, SocketAddr::new(address, 0))
            .map_err(failed)?;
        let mut reply = vec![0; request.len() + 1];
        let received = socket.recv(&mut reply).map_err(failed)?;
        assert_eq!(&reply[6..received], &request[6..], "the reply of {address}");
    }
    Ok(())
}
