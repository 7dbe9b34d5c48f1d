//! Asking the servers by UDP: one after the other, and the next one beside where the one before is slow.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until, timeout};
use uuid::Uuid;

use crate::dns::answer::Answer;
use crate::dns::message::{self, set_id};
use crate::dns::steer::Forward;
use crate::dns::{Shared, Times};

/// No datagram is longer.
pub(super) const DATAGRAM_LEN_MAX: usize = 1 << 16;
/// Times that a server which says nothing is asked.
const ROUNDS: u32 = 3;
/// Servers that are asked at once: each takes a descriptor.
const AT_ONCE: usize = 3;

/// How the servers were asked.
pub(super) enum Asked {
    /// With an answer; it has the guest's id.
    Answered(Vec<u8>, Answer),
    /// Nobody answered.
    Unanswered,
    /// The guest may no longer ask this.
    Withdrawn,
}

/// What one server did.
struct Turn {
    server: SocketAddr,
    round: u32,
    since: Instant,
    result: io::Result<Option<(Vec<u8>, Answer)>>,
}

/// A server that is to be asked, and how many times it was.
type Next = (SocketAddr, u32);

/// Asks until there is an answer. Servers that say nothing are asked again, for a packet may be lost; those that cannot
/// be reached are not. Where all that answer say that they cannot, the guest gets the last one's words.
pub(super) async fn ask(
    shared: &Shared,
    forward: &Forward,
    own: Option<IpAddr>,
    may_ask: impl Fn() -> bool,
) -> Asked {
    let began = Instant::now();
    let servers = shared.upstreams.servers(own, began);
    let mut next: VecDeque<Next> = servers.iter().map(|server| (*server, 1)).collect();
    let mut turns = FuturesUnordered::new();
    let mut waiting: Vec<(SocketAddr, Instant)> = Vec::new();
    let mut failure = None;
    let mut more_at = began;
    let end = began + shared.times.whole;
    loop {
        let now = Instant::now();
        if turns.is_empty() || (now >= more_at && turns.len() < AT_ONCE) {
            if let Some((server, round)) = next.pop_front() {
                if !may_ask() {
                    return Asked::Withdrawn;
                }
                more_at = now + shared.times.patience;
                waiting.push((server, now));
                turns.push(take_turn(forward, server, round, shared.times));
            } else if turns.is_empty() {
                break;
            }
        }
        let may_add = !next.is_empty() && turns.len() < AT_ONCE;
        let turn = tokio::select! {
            Some(turn) = turns.next() => turn,
            () = sleep_until(more_at), if may_add => continue,
            () = sleep_until(end) => break,
        };
        waiting.retain(|(server, _)| *server != turn.server);
        // Whoever is done makes room at once.
        more_at = Instant::now();
        match note(shared, turn, &mut next) {
            Some((bytes, answer)) if is_good(&bytes) => {
                note_slow(shared, &waiting);
                return Asked::Answered(bytes, answer);
            }
            Some(bad) => failure = Some(bad),
            None => {}
        }
    }
    match failure {
        Some((bytes, answer)) => Asked::Answered(bytes, answer),
        None => Asked::Unanswered,
    }
}

/// Remembers how a server did, and asks it again later where it was silent.
fn note(shared: &Shared, turn: Turn, next: &mut VecDeque<Next>) -> Option<(Vec<u8>, Answer)> {
    let (server, now) = (turn.server, Instant::now());
    match turn.result {
        Ok(Some(answer)) => {
            shared.upstreams.note_answer(server, now);
            return Some(answer);
        }
        Ok(None) => {
            shared.upstreams.note_silence(server, turn.since, now);
            if turn.round < ROUNDS {
                next.push_back((server, turn.round + 1));
            }
        }
        Err(error) => tracing::debug!(%server, %error, "no DNS answer"),
    }
    None
}

/// Those that another one was faster than by so much that it was asked beside come last for a while.
fn note_slow(shared: &Shared, waiting: &[(SocketAddr, Instant)]) {
    let now = Instant::now();
    for (server, since) in waiting {
        if now >= *since + shared.times.patience {
            shared.upstreams.note_silence(*server, *since, now);
        }
    }
}

/// Whether the server could say something: other servers may know more than one that could not.
pub(super) fn is_good(answer: &[u8]) -> bool {
    const FAILED: [u8; 4] = [1, 2, 4, 5];
    !FAILED.contains(&message::code_of(answer))
}

async fn take_turn(forward: &Forward, server: SocketAddr, round: u32, times: Times) -> Turn {
    let since = Instant::now();
    let result = match timeout(times.attempt, ask_one(forward, server)).await {
        Ok(answered) => answered.map(Some),
        Err(_) => Ok(None),
    };
    Turn {
        server,
        round,
        since,
        result,
    }
}

/// Asks one server, from a port and with an id that a forger has to guess. The socket is connected: the kernel takes
/// packets of this server alone, and says so where its port is closed.
async fn ask_one(forward: &Forward, server: SocketAddr) -> io::Result<(Vec<u8>, Answer)> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(server)?;
    let [a, b, ..] = *Uuid::new_v4().as_bytes();
    let id = [a, b];
    let mut outgoing = forward.outgoing.clone();
    set_id(&mut outgoing, id);
    // A new socket has room: the query leaves before the runtime looks whether it may.
    let sent = socket.send(&outgoing);
    let socket = UdpSocket::from_std(socket)?;
    match sent {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.send(&outgoing).await?,
        sent => sent?,
    };
    loop {
        socket.readable().await?;
        match receive(&socket, |message| forward.query.is_answered_by(message, id)) {
            Ok(Some((mut bytes, answer))) => {
                set_id(&mut bytes, forward.query.id());
                return Ok((bytes, answer));
            }
            Ok(None) => tracing::debug!(%server, "no DNS answer to this question"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// A message that waits at the socket, if it is wanted and can be read. The room for the longest is on the stack: a
/// query that waits holds none.
fn receive(
    socket: &UdpSocket,
    wanted: impl Fn(&[u8]) -> bool,
) -> io::Result<Option<(Vec<u8>, Answer)>> {
    let mut buffer = [0; DATAGRAM_LEN_MAX];
    let len = socket.try_recv(&mut buffer)?;
    let message = buffer.get(..len).unwrap_or_default();
    if !wanted(message) {
        return Ok(None);
    }
    let answer = if message::is_truncated(message) {
        // Its records may end anywhere, and none of them is used.
        Ok(Answer::default())
    } else {
        Answer::read(message)
    };
    Ok(answer.ok().map(|answer| (message.to_vec(), answer)))
}
