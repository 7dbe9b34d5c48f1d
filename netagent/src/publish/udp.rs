//! Datagrams to a published port that the programs did not see: each client has a socket of the agent towards the guest.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::publish::datagram::{self, Datagram};
use crate::publish::{Admitted, Shared};

/// A session over which nothing goes for so long is ended; RFC 4787 (REQ-5) asks for two minutes.
const IDLE: Duration = Duration::from_secs(120);
/// Pause after a datagram that could not be received.
const RETRY: Duration = Duration::from_millis(100);
/// No datagram is longer.
const DATAGRAM_MAX: usize = 1 << 16;

/// Who speaks, and under which of the host's addresses it is answered.
type Client = (SocketAddr, IpAddr);

struct Session {
    guest: Arc<UdpSocket>,
    alive: Arc<Notify>,
}

pub(super) async fn serve(socket: UdpSocket, shared: Shared) {
    let socket = Arc::new(socket);
    let mut sessions: BTreeMap<Client, Session> = BTreeMap::new();
    let mut tasks: JoinSet<Client> = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let received = tokio::select! {
            received = datagram::receive(&socket, &mut buffer) => received,
            Some(ended) = tasks.join_next() => {
                if let Ok(client) = ended {
                    sessions.remove(&client);
                }
                continue;
            }
        };
        let Datagram { from, to, len } = match received {
            Ok(datagram) => datagram,
            Err(error) => {
                tracing::debug!(%error, port = %shared.at, "cannot receive datagrams");
                sleep(RETRY).await;
                continue;
            }
        };
        let payload = buffer.get(..len).unwrap_or_default();
        let client = (from, to);
        if !sessions.contains_key(&client)
            && let Some(admitted) = shared.admit(from.ip())
        {
            match open(&shared, &admitted).await {
                Ok(session) => {
                    let guest = Arc::clone(&session.guest);
                    let alive = Arc::clone(&session.alive);
                    let back = (Arc::downgrade(&socket), client);
                    tasks.spawn(run(back, (guest, alive), admitted, shared.clone()));
                    sessions.insert(client, session);
                }
                Err(error) => {
                    tracing::debug!(%error, port = %shared.at, "a guest cannot be reached");
                }
            }
        }
        if let Some(session) = sessions.get(&client) {
            // Where the guest's queue is full the datagram is lost, as it is on every network.
            if let Err(error) = datagram::send_on(&session.guest, payload) {
                tracing::debug!(%error, port = %shared.at, "a datagram is lost");
            }
            session.alive.notify_one();
        }
    }
}

async fn open(shared: &Shared, admitted: &Admitted) -> io::Result<Session> {
    let any: IpAddr = match admitted.guest {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let guest = UdpSocket::bind((any, 0)).await?;
    shared.lead(&guest, &admitted.aim, admitted.guest)?;
    guest.connect(admitted.guest).await?;
    // Until it was asked once, nothing can be sent without waiting.
    guest.writable().await?;
    Ok(Session {
        guest: Arc::new(guest),
        alive: Arc::default(),
    })
}

/// Passes answers back until nothing goes any more, or the client may no longer pass.
async fn run(
    (socket, client): (Weak<UdpSocket>, Client),
    (guest, alive): (Arc<UdpSocket>, Arc<Notify>),
    admitted: Admitted,
    shared: Shared,
) -> Client {
    let (from, to) = client;
    let expelled = shared.expelled(from.ip(), (&admitted.aim, admitted.guest));
    tokio::pin!(expelled);
    loop {
        let next = async {
            tokio::select! {
                answer = receive(&guest) => answer.ok(),
                () = alive.notified() => None,
            }
        };
        let answer = tokio::select! {
            next = timeout(IDLE, next) => next,
            () = &mut expelled => return client,
        };
        match answer {
            Err(_) => return client,
            // The client spoke, or the guest refused a datagram, which the next one may find otherwise.
            Ok(None) => {}
            Ok(Some(payload)) => {
                // The port itself is held by the one who receives alone: it is free when that one ends.
                let Some(socket) = socket.upgrade() else {
                    return client;
                };
                if let Err(error) = datagram::send_from(&socket, &payload, (to, from)) {
                    tracing::debug!(%error, port = %shared.at, "an answer is lost");
                }
            }
        }
    }
}

/// The next datagram of a guest. What waits for it holds no buffer: there are many who do.
async fn receive(guest: &UdpSocket) -> io::Result<Vec<u8>> {
    guest.readable().await?;
    let mut payload = Vec::with_capacity(DATAGRAM_MAX);
    guest.try_recv_buf(&mut payload)?;
    Ok(payload)
}
