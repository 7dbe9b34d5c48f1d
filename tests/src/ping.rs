//! Echo requests from a namespace, by the kernel's ping sockets.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

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
    let socket = ping_socket(netns, address.is_ipv4());
    socket.set_read_timeout(Some(SOON)).expect("an open socket");
    for sequence in 1..=count {
        let payload: Vec<u8> = (0..length).map(|index| index as u8).collect();
        let request = echo_request(address.is_ipv4(), sequence, &payload);
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

/// A socket of a namespace that sends echo requests and receives the replies to them.
///
/// # Panics
/// Without the rights to.
#[must_use]
pub fn ping_socket(netns: &NetNs, is_v4: bool) -> UdpSocket {
    // Zero means: this group alone; a new namespace lets no group use ping sockets.
    netns.sysctl("net/ipv4/ping_group_range", "0 0");
    let (family, protocol) = if is_v4 {
        (AddressFamily::Inet, SockProtocol::Icmp)
    } else {
        (AddressFamily::Inet6, SockProtocol::IcmpV6)
    };
    let made = netns.run(|| socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol));
    UdpSocket::from(made.expect("root may use ping sockets"))
}

/// What is written to such a socket: the kernel adds identifier and checksum.
#[must_use]
pub fn echo_request(is_v4: bool, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let mut request = vec![if is_v4 { 8 } else { 128 }, 0, 0, 0, 0, 0];
    request.extend(sequence.to_be_bytes());
    request.extend(payload);
    request
}

/// Whether one echo request is answered within a while.
///
/// # Panics
/// Without the rights to send one.
#[must_use]
pub fn answers(netns: &NetNs, address: impl Into<IpAddr>, limit: Duration) -> bool {
    let address = address.into();
    let socket = ping_socket(netns, address.is_ipv4());
    socket
        .set_read_timeout(Some(limit))
        .expect("an open socket");
    let request = echo_request(address.is_ipv4(), 1, b"is anybody there");
    let to = SocketAddr::new(address, 0);
    socket.send_to(&request, to).is_ok() && socket.recv(&mut [0; 64]).is_ok()
}
