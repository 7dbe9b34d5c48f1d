//! Clients that ask for one thing after the other while the agent is killed.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use crate::random::Random;
use crate::recovery::book::{Entry, Request, Sent};

/// One request in so many is one that must be refused.
const REFUSED_SHARE: u32 = 16;

/// Clients at work.
#[derive(Debug)]
pub struct Pesterers<'scope> {
    threads: Vec<ScopedJoinHandle<'scope, u32>>,
    /// Nothing is sent; it is closed when the last client ends.
    alive: Receiver<()>,
}

impl<'scope> Pesterers<'scope> {
    /// Starts one client for each group of names; they end when `stop` is set.
    pub fn start<'env>(
        scope: &'scope thread::Scope<'scope, 'env>,
        socket: &'env Path,
        clients: &'env mut [(Vec<Entry>, Random)],
        stop: &'env AtomicBool,
    ) -> Self {
        let (sender, alive) = mpsc::channel();
        let threads = clients.iter_mut().map(|(entries, random)| {
            let sender = sender.clone();
            scope.spawn(move || pester(socket, (entries, random), stop, &sender))
        });
        Self {
            threads: threads.collect(),
            alive,
        }
    }

    /// Lets them work for some time; less where all have ended, which is an error that [`Self::join`] shows.
    pub fn go_on_for(&self, duration: Duration) {
        if let Ok(()) = self.alive.recv_timeout(duration) {
            unreachable!("nothing is sent");
        }
    }

    /// Waits for their end: the number of requests that were answered.
    ///
    /// # Panics
    /// When one of them did.
    #[must_use]
    pub fn join(self) -> u32 {
        let counts = self.threads.into_iter().map(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        counts.sum()
    }
}

/// Asks until `stop` is set; names with an unknown outcome are left alone. Returns the number of answers.
fn pester(
    socket: &Path,
    (entries, random): (&mut [Entry], &mut Random),
    stop: &AtomicBool,
    _alive: &Sender<()>,
) -> u32 {
    let mut answered = 0;
    while !stop.load(Ordering::Relaxed) {
        let place = random.below(u32::try_from(entries.len()).expect("a few names")) as usize;
        let entry = &mut entries[place];
        let Some(life) = entry.life() else {
            thread::yield_now();
            continue;
        };
        let request = Request::ALL[random.below(4) as usize];
        let is_refused = request.outcome(life).is_none();
        if is_refused && !random.chance(REFUSED_SHARE) {
            continue;
        }
        match entry.send(socket, request) {
            Sent::Acknowledged | Sent::Refused => answered += 1,
            Sent::Lost | Sent::Unsent => thread::yield_now(),
        }
    }
    answered
}
