//! DNS messages on a TCP connection: each behind its length in two bytes (RFC 1035, 4.2.2).

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Room that is kept on a connection where nothing is read.
const KEPT: usize = 4_096;

/// A connection, message by message.
#[derive(Debug)]
pub(super) struct Frames {
    stream: TcpStream,
    /// What was read; the first `taken` bytes are done with.
    buffer: Vec<u8>,
    taken: usize,
    /// Time for one write.
    limit: Duration,
}

impl Frames {
    pub(super) fn new(stream: TcpStream, limit: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
            taken: 0,
            limit,
        })
    }

    /// The next message; `None` at the end. May be cancelled: what was read of a message is kept.
    pub(super) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(message) = self.take() {
                return Ok(Some(message));
            }
            self.make_room();
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        let [a, b, rest @ ..] = self.buffer.get(self.taken..)? else {
            return None;
        };
        let len = usize::from(u16::from_be_bytes([*a, *b]));
        let message = rest.get(..len)?.to_vec();
        self.taken += 2 + len;
        Some(message)
    }

    /// Once for each read, not for each message: many small ones would make it dear.
    fn make_room(&mut self) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        if self.buffer.is_empty() {
            self.buffer.shrink_to(KEPT);
        }
        if self.buffer.capacity() == 0 {
            self.buffer.reserve(512);
        }
    }

    /// Lets the connection end by a reset: no state of closing stays then.
    pub(super) fn reset_at_end(&self) {
        // Where it fails, the connection is gone already.
        self.stream.set_zero_linger().ok();
    }

    /// Sends a message.
    pub(super) async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let len = u16::try_from(message.len()).map_err(io::Error::other)?;
        let mut frame = Vec::with_capacity(2 + message.len());
        frame.extend_from_slice(&len.to_be_bytes());
        frame.extend_from_slice(message);
        timeout(self.limit, self.stream.write_all(&frame)).await?
    }
}
