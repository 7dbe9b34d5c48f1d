//! Queries by UDP: one that is answered at once is so where it is received; each other one has a task and sockets of its
//! own, so a slow server holds up nobody else.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::dns::exchange::{self, Asked, DATAGRAM_LEN_MAX};
use crate::dns::message::{Failure, Received};
use crate::dns::places::{Account, Outcome, Place};
use crate::dns::steer::{Access, Came, Forward, Verdict, access};
use crate::dns::{Asker, RETRY, Shared};

/// A query on its way.
struct Task {
    socket: Arc<UdpSocket>,
    from: SocketAddr,
    forward: Forward,
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

/// The query, if a server is to be asked and it has a place. The place comes first: a flood costs little.
fn admit(
    socket: &Arc<UdpSocket>,
    message: &[u8],
    from: SocketAddr,
    shared: &Shared,
) -> Option<Task> {
    let asker = shared.directory.client(from.ip())?;
    let account = shared.places.account(asker.start);
    account.count_query();
    let Some(place) = shared.places.for_query(&account) else {
        account.count(Outcome::Refused);
        return None;
    };
    let reply = match Received::read(message) {
        Received::Query(query) => {
            let len_max = query.answer_len_max(asker.mtu, from.ip());
            match shared.judge(&asker, &account, query, len_max) {
                Verdict::Reply(reply) => reply,
                Verdict::Forward(forward) => {
                    return Some(Task {
                        socket: Arc::clone(socket),
                        from,
                        forward,
                        asker,
                        account,
                        _place: place,
                    });
                }
            }
        }
        Received::Unfit(answer) => {
            account.count(Outcome::Failed);
            answer
        }
        Received::Junk => {
            account.count(Outcome::Refused);
            return None;
        }
    };
    // Where the socket has no room, the guest asks again.
    socket.try_send_to(&reply, from).ok();
    None
}

impl Task {
    async fn run(self, shared: Shared) {
        let own = self.asker.upstream;
        let asked = exchange::ask(&shared, &self.forward, own, || self.may_ask(&shared)).await;
        // Whoever has the address by now did not ask.
        let Some(asker) = self.present(&shared) else {
            return;
        };
        let query = &self.forward.query;
        let reply = match asked {
            Asked::Answered(bytes, answer) => {
                let len_max = query.answer_len_max(asker.mtu, self.from.ip());
                let came = Came {
                    bytes,
                    answer: &answer,
                    own,
                };
                shared.answer(&asker, &self.account, &self.forward, (came, len_max))
            }
            Asked::Unanswered => self.fail(Failure::NoAnswer),
            Asked::Withdrawn => self.fail(Failure::Refused),
        };
        if let Err(error) = self.socket.send_to(&reply, self.from).await {
            tracing::debug!(%error, from = %self.from, "cannot answer a DNS query");
        }
    }

    fn fail(&self, failure: Failure) -> Vec<u8> {
        self.account.count(Outcome::Failed);
        self.forward.query.failure(failure)
    }

    /// The guest as it is by now, if it is the one that asked.
    fn present(&self, shared: &Shared) -> Option<Asker> {
        let asker = shared.directory.client(self.from.ip());
        asker.filter(|asker| asker.start == self.asker.start)
    }

    fn may_ask(&self, shared: &Shared) -> bool {
        let asker = self.present(shared);
        asker.is_some_and(|asker| access(&asker.permission, &self.forward.query) != Access::Refused)
    }
}
