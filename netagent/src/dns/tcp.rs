//! Queries by TCP: a connection of a guest has one to a server, over which its queries go as they come.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use netagent_common::services::DNS_PER_SECOND;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::dns::answer::Answer;
use crate::dns::exchange::is_good;
use crate::dns::frames::Frames;
use crate::dns::message::{Failure, Query, Received, is_answer, is_truncated};
use crate::dns::places::{ASKER, Account, Outcome, Place};
use crate::dns::steer::{Access, Came, Forward, Verdict, access};
use crate::dns::{Asker, RETRY, Shared};

mod server;

use server::next_of;

/// Queries of one connection that wait for an answer; the rest wait in the guest's own socket.
const WAITING_MAX: usize = 32;
/// Zone transfers of one connection that go on; of more, the oldest ends.
const TRANSFERS_MAX: usize = 4;
/// Longest message.
const LEN_MAX: usize = u16::MAX as usize;
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
    /// Zone transfers that have begun, the oldest first.
    transfers: VecDeque<Query>,
    /// When a whole message last went either way.
    active_at: Instant,
    /// Up to when the guest's messages are paid.
    paid_until: Instant,
    /// Kept until it ends.
    _place: Place,
}

struct Waiting {
    forward: Forward,
    until: Instant,
    /// Servers that said they could not answer it.
    failures: usize,
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
    let account = shared.places.account(asker.start);
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
        transfers: VecDeque::new(),
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
                Event::Server(Some(message)) => self.pass(message).await?,
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
        self.refresh().await?;
        match self
            .shared
            .judge(&self.asker, &self.account, query, LEN_MAX)
        {
            Verdict::Reply(reply) => self.guest.send(&reply).await,
            Verdict::Forward(forward) => self.forward(forward).await,
        }
    }

    /// Looks who asks by now, for the policy and the name server may have changed since the connection was opened.
    async fn refresh(&mut self) -> io::Result<()> {
        let asker = self.present()?;
        let is_elsewhere = asker.upstream != self.asker.upstream;
        self.asker = asker;
        if !is_elsewhere {
            return Ok(());
        }
        self.forget_server();
        self.retry_at = Instant::now();
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.ask_again().await
    }

    /// The guest as it is by now; the connection ends with the start that opened it.
    fn present(&self) -> io::Result<Asker> {
        let asker = self.shared.directory.client(self.from);
        asker
            .filter(|asker| asker.start == self.asker.start)
            .ok_or_else(|| io::ErrorKind::ConnectionAborted.into())
    }

    async fn forward(&mut self, forward: Forward) -> io::Result<()> {
        self.waiting.push_back(Waiting {
            forward,
            until: self.active_at + self.shared.times.whole,
            failures: 0,
        });
        let sent = match (&mut self.server, self.waiting.back()) {
            (Some(server), Some(last)) => server.send(&last.forward.outgoing).await,
            _ => return self.ask_again().await,
        };
        match sent {
            Ok(()) => Ok(()),
            Err(_) => self.lose_server().await,
        }
    }

    /// Passes an answer to the guest, if it waits for it. Those of a zone transfer are several, of which the first
    /// alone is waited for.
    async fn pass(&mut self, message: Vec<u8>) -> io::Result<()> {
        if !is_answer(&message) {
            return Ok(());
        }
        let answered = |waiting: &Waiting| {
            let query = &waiting.forward.query;
            query.is_answered_by(&message, query.id())
        };
        let Some(index) = self.waiting.iter().position(answered) else {
            return self.pass_further(message).await;
        };
        self.active_at = Instant::now();
        if !is_good(&message) && self.has_another(index) {
            return self.leave_server().await;
        }
        let Some(waiting) = self.waiting.remove(index) else {
            return Ok(());
        };
        // Any other answer does not count: a server that gives such ones and hangs up would be asked without end.
        self.fruitful = true;
        self.fruitless = 0;
        let asker = self.present()?;
        let query = &waiting.forward.query;
        let reply = match read(&message) {
            Some(answer) => {
                let came = Came {
                    bytes: message,
                    answer: &answer,
                    // The connection is to this one: with another, it would be closed.
                    own: self.asker.upstream,
                };
                let account = &self.account;
                self.shared
                    .answer(&asker, account, &waiting.forward, (came, LEN_MAX))
            }
            None => {
                self.account.count(Outcome::Failed);
                query.failure(Failure::NoAnswer)
            }
        };
        if query.is_transfer() && access(&asker.permission, query) == Access::Free {
            self.transfers.truncate(TRANSFERS_MAX - 1);
            self.transfers.push_front(waiting.forward.query);
        }
        self.guest.send(&reply).await
    }

    /// Notes that the server could not answer; whether there is another one that was not asked.
    fn has_another(&mut self, index: usize) -> bool {
        let servers = self.servers().len();
        let Some(waiting) = self.waiting.get_mut(index) else {
            return false;
        };
        waiting.failures += 1;
        waiting.failures < servers
    }

    /// Passes what follows the first answer of a zone transfer; whatever else nobody waits for is dropped.
    async fn pass_further(&mut self, message: Vec<u8>) -> io::Result<()> {
        let mut transfers = self.transfers.iter();
        let Some(query) = transfers.find(|query| query.is_continued_by(&message)) else {
            tracing::debug!(from = %self.from, "a DNS answer that nobody waits for");
            return Ok(());
        };
        let asker = self.present()?;
        if access(&asker.permission, query) != Access::Free {
            return Ok(());
        }
        let stripped = match read(&message) {
            Some(answer) => self.shared.strip(&asker, query, message, &answer),
            None => Err(Failure::NoAnswer),
        };
        let reply = stripped.unwrap_or_else(|failure| query.failure(failure));
        self.active_at = Instant::now();
        self.guest.send(&reply).await
    }
}

/// Reads an answer; one that was cut is taken to hold nothing.
fn read(message: &[u8]) -> Option<Answer> {
    if is_truncated(message) {
        return Some(Answer::default());
    }
    match Answer::read(message) {
        Ok(answer) => Some(answer),
        Err(error) => {
            tracing::debug!(%error, "cannot read a DNS answer");
            None
        }
    }
}
