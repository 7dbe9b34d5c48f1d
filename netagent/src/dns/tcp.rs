//! Queries by TCP: a connection of a guest has one to a server, over which its queries go as they come.

use std::collections::VecDeque;
use std::future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use netagent_common::services::DNS_PER_SECOND;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::dns::frames::Frames;
use crate::dns::message::{Failure, Query, Received, is_answer};
use crate::dns::places::{ASKER, Account, Outcome, Place};
use crate::dns::{Asker, RETRY, Shared};

/// Queries of one connection that wait for an answer; the rest wait in the guest's own socket.
const WAITING_MAX: usize = 32;
/// Pause that each message of a guest costs its connection, and how many may come at once. Many fit into one packet,
/// so the limit of packets alone would let a guest keep the agent busy: with all its connections it may send as many
/// messages as packets.
const PRICE: Duration =
    Duration::from_nanos(1_000_000_000 * ASKER.connections as u64 / DNS_PER_SECOND);
const BURST: u32 = 128;

/// A connection of a guest.
struct Conversation {
    shared: Shared,
    from: IpAddr,
    asker: Asker,
    account: Arc<Account>,
    guest: Frames,
    /// The guest sends no more.
    hung_up: bool,
    server: Option<Frames>,
    /// Which of the servers is next, counted on without end.
    turn: usize,
    /// Whether the connection to the server brought an answer.
    fruitful: bool,
    /// Connections in a row that brought none.
    fruitless: usize,
    /// No server could be reached, and none is tried before then.
    retry_at: Instant,
    /// Without an answer, the oldest first.
    waiting: VecDeque<Waiting>,
    /// When a whole message last went either way.
    active_at: Instant,
    /// Up to when the guest's messages are paid.
    paid_until: Instant,
    /// Kept until it ends.
    _place: Place,
}

struct Waiting {
    query: Query,
    until: Instant,
}

enum Event {
    Guest(Option<Vec<u8>>),
    Server(Option<Vec<u8>>),
    Due,
}

pub(super) async fn serve(listener: TcpListener, shared: Shared) {
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
        };
        while tasks.try_join_next().is_some() {}
        match accepted {
            Ok((stream, from)) => {
                if let Some(conversation) = admit(stream, from, &shared) {
                    tasks.spawn(conversation.run(from));
                }
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept DNS connections");
                sleep(RETRY).await;
            }
        }
    }
}

fn admit(stream: TcpStream, from: SocketAddr, shared: &Shared) -> Option<Conversation> {
    let asker = shared.directory.client(from.ip())?;
    let account = shared.places.account(asker.key);
    let Some(place) = shared.places.for_connection(&account) else {
        account.count(Outcome::Refused);
        // Nothing of it stays, not even a state of closing.
        stream.set_zero_linger().ok();
        return None;
    };
    let now = Instant::now();
    Some(Conversation {
        shared: shared.clone(),
        from: from.ip(),
        asker,
        account,
        guest: Frames::new(stream, shared.times.idle).ok()?,
        hung_up: false,
        server: None,
        turn: 0,
        fruitful: false,
        fruitless: 0,
        retry_at: now,
        waiting: VecDeque::new(),
        active_at: now,
        paid_until: now,
        _place: place,
    })
}

impl Conversation {
    async fn run(mut self, from: SocketAddr) {
        let life = self.shared.times.life;
        match timeout(life, self.converse()).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => tracing::debug!(%from, %error, "a DNS connection broke"),
            Err(_) => tracing::debug!(%from, "a DNS connection lasted too long"),
        }
        self.guest.reset_at_end();
    }

    async fn converse(&mut self) -> io::Result<()> {
        while !(self.hung_up && self.waiting.is_empty()) {
            let listening = !self.hung_up && self.waiting.len() < WAITING_MAX;
            let due = self.due();
            let next_at = self.paid_until.checked_sub(BURST * PRICE);
            let paused = next_at.filter(|at| listening && Instant::now() < *at);
            let event = tokio::select! {
                message = self.guest.next(), if listening && paused.is_none() => Event::Guest(message?),
                () = sleep_until(paused.unwrap_or(due)), if paused.is_some() => continue,
                message = next_of(&mut self.server) => Event::Server(message.ok().flatten()),
                () = sleep_until(due) => Event::Due,
            };
            match event {
                Event::Guest(Some(message)) => self.ask(&message).await?,
                Event::Guest(None) => self.hung_up = true,
                Event::Server(Some(message)) => self.pass(&message).await?,
                Event::Server(None) => self.lose_server().await?,
                Event::Due if self.waiting.is_empty() => return Ok(()),
                Event::Due => self.give_up().await?,
            }
        }
        Ok(())
    }

    fn due(&self) -> Instant {
        let idle = self.active_at + self.shared.times.idle;
        self.waiting.front().map_or(idle, |oldest| oldest.until)
    }

    /// Takes a query of the guest.
    async fn ask(&mut self, message: &[u8]) -> io::Result<()> {
        self.account.count_query();
        self.paid_until = self.paid_until.max(Instant::now()) + PRICE;
        let query = match Received::read(message) {
            Received::Query(query) => query,
            Received::Unfit(answer) => {
                self.account.count(Outcome::Failed);
                return self.guest.send(&answer).await;
            }
            Received::Junk => {
                self.account.count(Outcome::Refused);
                return Err(io::ErrorKind::InvalidData.into());
            }
        };
        self.active_at = Instant::now();
        if self.is_refused() {
            self.account.count(Outcome::Failed);
            return self.guest.send(&query.failure(Failure::Refused)).await;
        }
        let until = self.active_at + self.shared.times.whole;
        self.waiting.push_back(Waiting { query, until });
        let sent = match (&mut self.server, self.waiting.back()) {
            (Some(server), Some(last)) => server.send(last.query.bytes()).await,
            _ => return self.ask_again().await,
        };
        match sent {
            Ok(()) => Ok(()),
            Err(_) => self.lose_server().await,
        }
    }

    /// Asked anew for every query, for the policy may have changed since the connection was opened.
    fn is_refused(&self) -> bool {
        let asker = self.shared.directory.client(self.from);
        asker.is_none_or(|asker| asker.permission.refuses())
    }

    /// Passes an answer to the guest. Those of a zone transfer are several, of which the first alone is waited for.
    async fn pass(&mut self, message: &[u8]) -> io::Result<()> {
        if !is_answer(message) {
            return Ok(());
        }
        self.active_at = Instant::now();
        let answered =
            |waiting: &Waiting| waiting.query.is_answered_by(message, waiting.query.id());
        if let Some(index) = self.waiting.iter().position(answered) {
            self.waiting.remove(index);
            // Any other answer does not count: a server that gives such ones and hangs up would be asked without end.
            self.fruitful = true;
            self.fruitless = 0;
            self.account.count(Outcome::Answered);
        }
        self.guest.send(message).await
    }

    /// The server closed the connection, which it may at any time (RFC 7766, 6.2.4): what it has not answered is
    /// asked again, of the next one if this one answered nothing.
    async fn lose_server(&mut self) -> io::Result<()> {
        self.server = None;
        if !self.fruitful {
            self.turn += 1;
            self.fruitless += 1;
        }
        if self.waiting.is_empty() {
            return Ok(());
        }
        if self.fruitless >= self.servers().len() {
            return self.give_up().await;
        }
        self.ask_again().await
    }

    /// Connects, and asks all that is not answered.
    async fn ask_again(&mut self) -> io::Result<()> {
        let Some(mut server) = self.connect().await else {
            return self.give_up().await;
        };
        self.fruitful = false;
        for waiting in &self.waiting {
            if server.send(waiting.query.bytes()).await.is_err() {
                // Reading from it fails as well: then it is lost.
                break;
            }
        }
        self.server = Some(server);
        Ok(())
    }

    /// The first server in turn that accepts a connection.
    async fn connect(&mut self) -> Option<Frames> {
        let now = Instant::now();
        if now < self.retry_at {
            return None;
        }
        let times = self.shared.times;
        let servers = self.servers();
        for _ in 0..servers.len() {
            let server = *servers.get(self.turn % servers.len())?;
            let attempt = timeout(times.attempt, TcpStream::connect(server));
            match timeout_at(now + times.whole, attempt).await {
                Ok(Ok(Ok(stream))) => {
                    // Closed by a reset: in TIME_WAIT the connections of one guest would use up the host's ports for
                    // this server, and the other guests and the host itself had none.
                    let server = Frames::new(stream, times.idle).ok()?;
                    server.reset_at_end();
                    return Some(server);
                }
                Ok(_) => self.turn += 1,
                Err(_) => break,
            }
        }
        self.retry_at = Instant::now() + times.attempt;
        None
    }

    fn servers(&self) -> Arc<[SocketAddr]> {
        let own = self.asker.upstream;
        self.shared.upstreams.servers(own, Instant::now())
    }

    /// No server answers: the guest is told so for every query that waits.
    async fn give_up(&mut self) -> io::Result<()> {
        self.server = None;
        self.turn += 1;
        self.fruitless = 0;
        self.active_at = Instant::now();
        for waiting in self.waiting.drain(..) {
            self.account.count(Outcome::Failed);
            let answer = waiting.query.failure(Failure::NoAnswer);
            self.guest.send(&answer).await?;
        }
        Ok(())
    }
}

/// The next message of the server; none ever where there is no server.
async fn next_of(server: &mut Option<Frames>) -> io::Result<Option<Vec<u8>>> {
    match server {
        Some(server) => server.next().await,
        None => future::pending().await,
    }
}
