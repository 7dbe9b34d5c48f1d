//! The server's side of a connection: one server after the other, and all that is not answered of each.

use std::collections::VecDeque;
use std::future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Conversation, Waiting};
use crate::dns::frames::Frames;
use crate::dns::message::Failure;
use crate::dns::places::Outcome;
use crate::dns::steer::{Access, access};

impl Conversation {
    /// The server closed the connection, which it may at any time (RFC 7766, 6.2.4): what it has not answered is
    /// asked again, of the next one if this one answered nothing.
    pub(super) async fn lose_server(&mut self) -> io::Result<()> {
        self.forget_server();
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

    /// The server could not answer, which the next one may.
    pub(super) async fn leave_server(&mut self) -> io::Result<()> {
        self.forget_server();
        self.turn += 1;
        self.ask_again().await
    }

    pub(super) fn forget_server(&mut self) {
        self.server = None;
        self.transfers.clear();
    }

    /// Connects, and asks all that is not answered and still allowed.
    pub(super) async fn ask_again(&mut self) -> io::Result<()> {
        self.withdraw().await?;
        if self.waiting.is_empty() {
            return Ok(());
        }
        let Some(mut server) = self.connect().await else {
            return self.give_up().await;
        };
        self.fruitful = false;
        // That took its time, and the policy may have changed meanwhile.
        self.withdraw().await?;
        for waiting in &self.waiting {
            if server.send(&waiting.forward.outgoing).await.is_err() {
                // Reading from it fails as well: then it is lost.
                break;
            }
        }
        self.server = Some(server);
        Ok(())
    }

    /// Refuses what the guest may no longer ask.
    async fn withdraw(&mut self) -> io::Result<()> {
        self.asker = self.present()?;
        let permission = &self.asker.permission;
        let is_refused =
            |waiting: &Waiting| access(permission, &waiting.forward.query) == Access::Refused;
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        let (refused, kept): (VecDeque<_>, VecDeque<_>) = waiting.partition(is_refused);
        self.waiting = kept;
        for waiting in refused {
            self.fail(&waiting, Failure::Refused).await?;
        }
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

    pub(super) fn servers(&self) -> Arc<[SocketAddr]> {
        let own = self.asker.upstream;
        self.shared.upstreams.servers(own, Instant::now())
    }

    /// No server answers: the guest is told so for every query that waits.
    pub(super) async fn give_up(&mut self) -> io::Result<()> {
        self.forget_server();
        self.turn += 1;
        self.fruitless = 0;
        self.active_at = Instant::now();
        for waiting in std::mem::take(&mut self.waiting) {
            self.fail(&waiting, Failure::NoAnswer).await?;
        }
        Ok(())
    }

    async fn fail(&mut self, waiting: &Waiting, failure: Failure) -> io::Result<()> {
        self.account.count(Outcome::Failed);
        let answer = waiting.forward.query.failure(failure);
        self.guest.send(&answer).await
    }
}

/// The next message of the server; none ever where there is no server.
pub(super) async fn next_of(server: &mut Option<Frames>) -> io::Result<Option<Vec<u8>>> {
    match server {
        Some(server) => server.next().await,
        None => future::pending().await,
    }
}
