//! Queries by UDP: each has a task and a socket of its own, so a slow server holds up nobody else.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::dns::message::{Failure, Query, Received, set_id};
use crate::dns::places::{Account, Outcome, Place};
use crate::dns::{Asker, RETRY, Shared};

/// No datagram is longer.
const DATAGRAM_LEN_MAX: usize = 1 << 16;
/// Times that a server which says nothing is asked.
const ROUNDS: u32 = 3;

/// A query on its way.
struct Task {
    socket: Arc<UdpSocket>,
    from: SocketAddr,
    query: Query,
    asker: Asker,
    account: Arc<Account>,
    /// Kept until it is answered.
    _place: Place,
}

pub(super) async fn serve(socket: Arc<UdpSocket>, shared: Shared) {
    let mut buffer = vec![0; DATAGRAM_LEN_MAX];
    let mut tasks = JoinSet::new();
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            Some(_) = tasks.join_next() => continue,
        };
        while tasks.try_join_next().is_some() {}
        match received {
            Ok((len, from)) => {
                let message = buffer.get(..len).unwrap_or_default();
                if let Some(task) = admit(&socket, message, from, &shared) {
                    tasks.spawn(task.run(shared.clone()));
                }
            }
            Err(error) => {
                tracing::debug!(%error, "cannot receive DNS queries");
                sleep(RETRY).await;
            }
        }
    }
}

/// The query, if it can be forwarded and has a place. The place comes first: a flood costs little.
fn admit(
    socket: &Arc<UdpSocket>,
    message: &[u8],
    from: SocketAddr,
    shared: &Shared,
) -> Option<Task> {
    let asker = shared.directory.client(from.ip())?;
    let account = shared.places.account(asker.key);
    account.count_query();
    let Some(place) = shared.places.for_query(&account) else {
        account.count(Outcome::Refused);
        return None;
    };
    match Received::read(message) {
        Received::Query(query) if asker.permission.refuses() => {
            account.count(Outcome::Failed);
            let answer = query.failure(Failure::Refused);
            // Where the socket has no room, the guest asks again.
            socket.try_send_to(&answer, from).ok();
            None
        }
        Received::Query(query) => Some(Task {
            socket: Arc::clone(socket),
            from,
            query,
            asker,
            account,
            _place: place,
        }),
        Received::Unfit(answer) => {
            account.count(Outcome::Failed);
            // Where the socket has no room, the guest asks again.
            socket.try_send_to(&answer, from).ok();
            None
        }
        Received::Junk => {
            account.count(Outcome::Refused);
            None
        }
    }
}

impl Task {
    async fn run(self, shared: Shared) {
        let asked = timeout(shared.times.whole, self.ask_in_turn(&shared));
        let answer = match asked.await.ok().flatten() {
            Some(answer) => {
                self.account.count(Outcome::Answered);
                self.fit(answer)
            }
            None => {
                self.account.count(Outcome::Failed);
                self.query.failure(Failure::NoAnswer)
            }
        };
        if let Err(error) = self.socket.send_to(&answer, self.from).await {
            tracing::debug!(%error, from = %self.from, "cannot answer a DNS query");
        }
    }

    /// Asks one server after the other. Those that say nothing are asked again, for a packet may be lost; those that
    /// cannot be reached are not.
    async fn ask_in_turn(&self, shared: &Shared) -> Option<Vec<u8>> {
        let own = self.asker.upstream;
        let mut servers = shared.upstreams.servers(own, Instant::now()).to_vec();
        for _ in 0..ROUNDS {
            let mut silent = Vec::new();
            for server in servers {
                let since = Instant::now();
                match timeout(shared.times.attempt, ask(&self.query, server)).await {
                    Ok(Ok(answer)) => {
                        shared.upstreams.note_answer(server, Instant::now());
                        return Some(answer);
                    }
                    Ok(Err(error)) => tracing::debug!(%server, %error, "no DNS answer"),
                    Err(_) => {
                        let now = Instant::now();
                        shared.upstreams.note_silence(server, since, now);
                        silent.push(server);
                    }
                }
            }
            servers = silent;
        }
        None
    }

    fn fit(&self, answer: Vec<u8>) -> Vec<u8> {
        let len_max = self.query.answer_len_max(self.asker.mtu, self.from.ip());
        if answer.len() <= len_max {
            answer
        } else {
            self.query.truncated(&answer)
        }
    }
}

/// Asks one server, from a port and with an id that a forger has to guess. The socket is connected: the kernel takes
/// packets of this server alone, and says so where its port is closed.
async fn ask(query: &Query, server: SocketAddr) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let [a, b, ..] = *Uuid::new_v4().as_bytes();
    let id = [a, b];
    socket.send(&query.with_id(id)).await?;
    loop {
        socket.readable().await?;
        match receive(&socket, |message| query.is_answered_by(message, id)) {
            Ok(Some(mut answer)) => {
                set_id(&mut answer, query.id());
                return Ok(answer);
            }
            Ok(None) => tracing::debug!(%server, "a DNS answer to another question"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// A message that waits at the socket, if it is wanted. The room for the longest is on the stack: a query that
/// waits holds none.
fn receive(socket: &UdpSocket, wanted: impl Fn(&[u8]) -> bool) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = [0; DATAGRAM_LEN_MAX];
    let len = socket.try_recv(&mut buffer)?;
    let message = buffer.get(..len).unwrap_or_default();
    Ok(wanted(message).then(|| message.to_vec()))
}
