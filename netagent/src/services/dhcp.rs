//! The DHCP server's loop; what it answers is `guest/dhcp.rs`.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use netagent_common::services::{Client, Place, port};
use tokio::net::UdpSocket;

use crate::guest::dhcp;
use crate::services::directory::client_of;
use crate::services::{DATAGRAM_MAX, Directory};

/// Answers requests for ever.
pub(super) async fn serve(socket: UdpSocket, directory: Arc<Directory>) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let (len, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "DHCP socket");
                continue;
            }
        };
        let request = buffer.get(..len).unwrap_or_default();
        if let Some((reply, to)) = answer(request, from, &directory)
            && let Err(error) = socket.send_to(&reply, to).await
        {
            tracing::debug!(%error, "a DHCP answer is lost");
        }
    }
}

/// The answer and where it goes. An answer to all is marked in the address, where `from_services` finds it.
fn answer(
    request: &[u8],
    from: SocketAddr,
    directory: &Directory,
) -> Option<(Vec<u8>, SocketAddr)> {
    let client = client_of(from.ip())?;
    let guest = directory.of(client)?;
    match dhcp::answer(&guest.hostname, &guest.interface, request) {
        Ok(answer) => {
            let answer = answer?;
            let place = Place(if answer.broadcast {
                Place::BROADCAST
            } else {
                0
            });
            let to = Ipv4Addr::from(Client { place, ..client }.to_v4());
            Some((answer.bytes, (to, port::DHCP_CLIENT).into()))
        }
        Err(refusal) => {
            tracing::debug!(slot = client.slot, %refusal, "DHCP message dropped");
            directory.count(client.slot, guest.generation, refusal.reason());
            None
        }
    }
}
