//! One datagram that is looked at where it arrives: what a way makes of it.

use std::net::{Ipv4Addr, UdpSocket};

use netagent_tests::deadline::{Deadline, SOON};
use netagent_tests::netns::NetNs;
use netagent_tests::packet::{self, Packet};
use netagent_tests::raw::Raw;

/// Port of a server that nobody is.
const PORT: u16 = 7_777;
const PAYLOAD: &[u8] = b"check";

/// Sends one from a guest to this address, and says how it arrives at the far end, with checksums that are right.
///
/// # Panics
/// Where it does not.
pub(super) fn send(guest: &NetNs, to: Ipv4Addr, far_end: &Raw) -> Packet {
    let sent = guest.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.send_to(PAYLOAD, (to, PORT))
    });
    sent.expect("the guest has a route");
    let packet = far_end.receive_where(Deadline::after(SOON), |received| {
        let bytes = received.frame.completed();
        let packet = Packet::parse(&bytes).filter(|packet| packet.ports.1 == PORT)?;
        packet::assert_checksums(&bytes);
        Some(packet)
    });
    assert_eq!(packet.payload, PAYLOAD, "it arrives as it was sent");
    packet
}
