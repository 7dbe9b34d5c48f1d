//! A name server of the world that answers at once, as it is told to.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use crate::dns::NAME_SERVER;
use netagent_tests::name_server::{PORT, read_name};
use netagent_tests::server::{bound, is_ready};
use netagent_tests::world::{World, server_v4};

/// Type of a question for an IPv4 address.
pub(super) const A: u16 = 1;
/// Type of a question for an IPv6 address.
pub(super) const AAAA: u16 = 28;

const HEADER_LEN: usize = 12;

/// Addresses, and how long they are good, s.
pub(super) type Said = (Vec<IpAddr>, u32);

/// A name server, until it is dropped.
#[derive(Debug)]
pub(super) struct Zone {
    asked: Arc<AtomicU64>,
    stop: Option<io::PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Zone {
    /// Answers each name and type with what `say` says.
    pub(super) fn start(
        world: &World,
        mut say: impl FnMut(&str, u16) -> Said + Send + 'static,
    ) -> Self {
        let place = (server_v4(NAME_SERVER), PORT);
        let socket = bound(|| world.outside.run(|| UdpSocket::bind(place)));
        let (reader, writer) = io::pipe().expect("two descriptors");
        let stop = OwnedFd::from(reader);
        let asked = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&asked);
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while is_ready(socket.as_fd(), stop.as_fd()) {
                let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                let Some(reply) = reply(&buffer[..length], &mut say) else {
                    continue;
                };
                count.fetch_add(1, Ordering::Relaxed);
                if let Err(error) = socket.send_to(&reply, peer) {
                    eprintln!("name server to {peer}: {error}");
                }
            }
        });
        Self {
            asked,
            stop: Some(writer),
            thread: Some(thread),
        }
    }

    /// Queries that were answered so far.
    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Zone {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            eprintln!("a name server panicked");
        }
    }
}

fn reply(query: &[u8], say: impl FnOnce(&str, u16) -> Said) -> Option<Vec<u8>> {
    let (name, end) = read_name(query)?;
    let kind = word(query, end - 4)?;
    let (addresses, ttl) = say(&name, kind);
    let mut reply = Vec::from(query.get(..2)?);
    // A response; recursion is desired and available; one question.
    reply.extend([0x81, 0x80, 0, 1]);
    reply.extend(u16::try_from(addresses.len()).ok()?.to_be_bytes());
    reply.extend([0, 0, 0, 0]);
    reply.extend(query.get(HEADER_LEN..end)?);
    for address in addresses {
        reply.extend([0xc0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1]);
        reply.extend(ttl.to_be_bytes());
        match address {
            IpAddr::V4(address) => {
                reply.extend([0, 4]);
                reply.extend(address.octets());
            }
            IpAddr::V6(address) => {
                reply.extend([0, 16]);
                reply.extend(address.octets());
            }
        }
    }
    Some(reply)
}

/// What a guest was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) id: u16,
    pub(super) code: u8,
    pub(super) name: String,
    pub(super) addresses: Vec<IpAddr>,
}

impl Told {
    /// Reads an answer whose records are addresses of the name that was asked for; `None` where it is none.
    pub(super) fn read(message: &[u8]) -> Option<Self> {
        let (name, mut at) = read_name(message)?;
        if message.get(2)? & 0x80 == 0 {
            return None;
        }
        let mut addresses = Vec::new();
        for _ in 0..word(message, 6)? {
            // The name of the question.
            if word(message, at)? != 0xc00c {
                return None;
            }
            let data = message.get(at + 12..)?;
            let length = usize::from(word(message, at + 10)?);
            addresses.push(match word(message, at + 2)? {
                A => IpAddr::from(*data.first_chunk::<4>()?),
                AAAA => IpAddr::from(*data.first_chunk::<16>()?),
                _ => return None,
            });
            at += 12 + length;
        }
        Some(Self {
            id: word(message, 0)?,
            code: message.get(3)? & 15,
            name,
            addresses,
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at + 2)?.first_chunk()?;
    Some(u16::from_be_bytes(*two))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netagent_tests::name_server::question;

    #[test]
    fn what_is_said_is_read() {
        let address = IpAddr::from([192, 0, 2, 7]);
        let message = reply(&question(7, "a.example"), |name, kind| {
            assert_eq!((name, kind), ("a.example", A));
            (vec![address; 2], 60)
        });
        let expected = Told {
            id: 7,
            code: 0,
            name: "a.example".to_owned(),
            addresses: vec![address; 2],
        };
        assert_eq!(Told::read(&message.unwrap()), Some(expected));
        assert_eq!(Told::read(&question(7, "a.example")), None);
    }
}
