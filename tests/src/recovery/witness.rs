//! A guest with one TCP stream that must live through everything that happens to the agent.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;

use crate::agent::Agent;
use crate::deadline::{SOON, wait_until};
use crate::guest::Guest;
use crate::random::Random;
use crate::server::{PORT, Server};
use crate::stack::Stack;
use crate::tap::Header;
use crate::world::{World, server_v4};

/// Name of the instance.
pub const WITNESS: &str = "witness";

/// Longest time without an answer; a stream that stalls for longer is lost to whoever uses it.
const STALL_LIMIT: Duration = Duration::from_secs(5);

/// Pause between two exchanges, ms: the processors belong to the agent.
const PAUSE_MS: u8 = 2;

/// Longest message of an exchange, bytes: several segments.
const MESSAGE_MAX: u32 = 8_192;

/// The guest, its server and its stream.
#[derive(Debug)]
pub struct Witness {
    /// What create answered.
    pub answer: Value,
    server: Server,
    exchanges: Arc<AtomicU64>,
    stop: Option<io::PipeWriter>,
    thread: Option<JoinHandle<Result<(), String>>>,
    /// Ends after the thread.
    _stack: Stack,
}

impl Witness {
    /// Creates the instance, boots the guest and opens the stream.
    ///
    /// # Panics
    /// When the server cannot be reached.
    #[must_use]
    pub fn start(world: &World, agent: &Agent) -> Self {
        let server = Server::tcp(&world.outside, server_v4(0));
        let mut guest = Guest::create(agent, &world.host, WITNESS, Header::Vnet);
        let stack = Stack::boot(guest.nics.remove(0), 1_500);
        let remote = SocketAddr::new(IpAddr::V4(server_v4(0)), PORT);
        let stream = stack
            .netns
            .run(|| TcpStream::connect_timeout(&remote, SOON))
            .expect("the world serves");
        for set in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
            set(&stream, Some(STALL_LIMIT)).expect("an open socket");
        }
        stream.set_nodelay(true).expect("an open socket");
        let (reader, writer) = io::pipe().expect("two descriptors");
        let exchanges = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&exchanges);
        let thread = thread::spawn(move || exchange(stream, &count, &OwnedFd::from(reader)));
        Self {
            answer: guest.answer,
            server,
            exchanges,
            stop: Some(writer),
            thread: Some(thread),
            _stack: stack,
        }
    }

    /// Number of exchanges until now.
    #[must_use]
    pub fn exchanges(&self) -> u64 {
        self.exchanges.load(Ordering::Relaxed)
    }

    /// Checks that the stream goes on, and that it is still the one that was opened first.
    ///
    /// # Panics
    /// Where it broke, stalled or carried other bytes than were sent.
    pub fn check(&mut self) {
        let before = self.exchanges();
        // The one after the next began after this call.
        wait_until("the stream goes on", STALL_LIMIT, || {
            self.exchanges() >= before + 2 || self.has_ended()
        });
        if self.has_ended() {
            self.end();
        }
        assert_eq!(self.server.peers().len(), 1, "one stream through all of it");
    }

    fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends the stream in order; the number of exchanges.
    ///
    /// # Panics
    /// Where it broke.
    pub fn finish(mut self) -> u64 {
        self.check();
        drop(self.stop.take());
        self.end();
        self.exchanges()
    }

    fn end(&mut self) {
        let thread = self.thread.take().expect("it ended before");
        let outcome = thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let exchanges = self.exchanges();
        if let Err(reason) = outcome {
            panic!("the stream broke after {exchanges} exchanges: {reason}");
        }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && !matches!(thread.join(), Ok(Ok(())))
        {
            eprintln!("the stream of the witness broke");
        }
    }
}

/// Sends messages and checks that they come back, until `stop` is closed.
fn exchange(mut stream: TcpStream, count: &AtomicU64, stop: &OwnedFd) -> Result<(), String> {
    let mut random = Random::new(7);
    let mut received = vec![0; MESSAGE_MAX as usize];
    loop {
        let length = 1 + random.below(MESSAGE_MAX) as usize;
        let sent = random.bytes(length);
        stream
            .write_all(&sent)
            .map_err(|error| format!("write: {error}"))?;
        let received = &mut received[..length];
        stream
            .read_exact(received)
            .map_err(|error| format!("read: {error}"))?;
        if received != sent {
            return Err("other bytes came back than were sent".to_owned());
        }
        count.fetch_add(1, Ordering::Relaxed);
        let mut descriptors = [PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        let closed = poll(&mut descriptors, PollTimeout::from(PAUSE_MS));
        if closed.expect("poll of one descriptor") > 0 {
            return Ok(());
        }
    }
}
