//! The router's loops: solicitations are answered, and guests are told unasked what changed, and that the router is
//! still there. What it says is `guest/router_advert.rs`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use netagent_common::drop::DropReason;
use netagent_common::services::{Client, Place};
use tokio::net::UdpSocket;
use tokio::time::{self, MissedTickBehavior};

use crate::guest::router_advert::{advertisement, check_solicitation};
use crate::services::directory::client_of;
use crate::services::{DATAGRAM_MAX, Directory};

/// Type of a router solicitation (RFC 4861 section 4.1).
const SOLICITATION: u8 = 133;
/// Every guest is told unasked once in so many seconds: `MaxRtrAdvInterval` of RFC 4861 section 6.2.1 is 600 by
/// default. Slots take turns, so that the host works evenly.
const INTERVAL_S: u32 = 450;

/// Answers solicitations for ever.
pub(super) async fn answer(socket: Arc<UdpSocket>, directory: Arc<Directory>) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let (len, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "router socket");
                continue;
            }
        };
        let solicitation = buffer.get(..len).unwrap_or_default();
        if let Some(reply) = answer_to(solicitation, from.ip(), &directory) {
            send(&socket, &reply, from.ip()).await;
        }
    }
}

fn answer_to(solicitation: &[u8], from: IpAddr, directory: &Directory) -> Option<Vec<u8>> {
    // The socket sees whatever else of ICMPv6 the namespace makes for itself.
    let (SOLICITATION, client) = (*solicitation.first()?, client_of(from)?) else {
        return None;
    };
    let guest = directory.of(client)?;
    let from_nowhere = client.place.0 == Place::ALL_NODES;
    match check_solicitation(solicitation, from_nowhere, guest.interface.mac) {
        Ok(()) => advertisement(&guest.interface),
        Err(refusal) => {
            tracing::debug!(slot = client.slot, %refusal, "router solicitation dropped");
            let reason = DropReason::MalformedRouterSolicit;
            directory.count(client.slot, guest.generation, reason);
            None
        }
    }
}

/// Tells guests unasked, for ever.
pub(super) async fn advertise(socket: Arc<UdpSocket>, directory: Arc<Directory>) {
    let mut ticks = time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut turn = 0;
    loop {
        tokio::select! {
            slots = directory.changed() => {
                for slot in slots {
                    tell(&socket, slot, &directory).await;
                }
            }
            _ = ticks.tick() => {
                turn = (turn + 1) % INTERVAL_S;
                for slot in directory.slots() {
                    if slot % INTERVAL_S == turn {
                        tell(&socket, slot, &directory).await;
                    }
                }
            }
        }
    }
}

async fn tell(socket: &UdpSocket, slot: u32, directory: &Directory) {
    let Some(guest) = directory
        .in_slot(slot)
        .filter(|guest| guest.wants_advertisements())
    else {
        return;
    };
    let client = Client {
        slot,
        generation: guest.generation,
        place: Place(Place::ALL_NODES),
    };
    if let Some(advertisement) = advertisement(&guest.interface) {
        let to = Ipv6Addr::from(client.to_v6([0; 8]));
        send(socket, &advertisement, to.into()).await;
    }
}

async fn send(socket: &UdpSocket, advertisement: &[u8], to: IpAddr) {
    if let Err(error) = socket.send_to(advertisement, SocketAddr::new(to, 0)).await {
        tracing::debug!(%error, "a router advertisement is lost");
    }
}
