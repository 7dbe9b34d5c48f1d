//! Numbered datagrams between a guest and the world, both ways at a steady pace: which of them got lost.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;

use crate::deadline::{Deadline, SOON, now};
use crate::netns::NetNs;

/// Length of a datagram.
const LENGTH: usize = 256;
/// Time between two looks of a sender at what is due.
const PACE: Duration = Duration::from_millis(1);
/// How long a receiver waits before it looks whether all is over.
const STEP: Duration = Duration::from_millis(50);
/// How long the last datagrams may take.
const GRACE: Duration = Duration::from_secs(2);
/// Room for what arrives while nobody gets a processor.
const BUFFER: usize = 8 << 20;

/// Traffic that goes on until it is finished.
#[derive(Debug)]
pub struct Numbered {
    is_over: Arc<AtomicBool>,
    directions: Vec<Direction>,
}

#[derive(Debug)]
struct Direction {
    is_up: bool,
    sent: Arc<AtomicU64>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<Arrived>,
}

/// What a receiver saw.
#[derive(Debug, Default)]
struct Arrived {
    numbers: Vec<bool>,
    twice: u64,
    longest_pause: Duration,
}

/// What became of one direction.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Whether the guest sent.
    pub is_up: bool,
    /// Datagrams that were sent.
    pub sent: u64,
    /// Those of them that never arrived.
    pub lost: u64,
    /// Those that arrived more than once.
    pub twice: u64,
    /// Longest time between two that arrived.
    pub longest_pause: Duration,
}

impl Numbered {
    /// Starts to send so many a second in each direction, on a flow that the guest opened.
    ///
    /// # Panics
    /// Where the flow is not opened.
    #[must_use]
    pub fn start(guest: &NetNs, (world, server): (&NetNs, SocketAddr), rate: u32) -> Self {
        let far = world.run(|| UdpSocket::bind(server));
        let far = far.expect("the world has this address");
        let near = guest.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)));
        let near = near.expect("a port");
        near.connect(server).expect("the guest has a route");
        near.send(b"open").expect("the guest has a route");
        far.set_read_timeout(Some(SOON)).expect("not zero");
        let (_, peer) = far.recv_from(&mut [0; LENGTH]).expect("the guest opened");
        far.connect(peer).expect("the world has a route");
        let is_over = Arc::new(AtomicBool::new(false));
        let (near, far) = (Arc::new(near), Arc::new(far));
        let direction = |is_up| {
            let (from, to) = if is_up { (&near, &far) } else { (&far, &near) };
            direction(is_up, (from, to), (rate, &is_over))
        };
        let directions = [true, false].map(direction).into();
        Self {
            is_over,
            directions,
        }
    }

    /// Datagrams that were sent so far, in both directions.
    #[must_use]
    pub fn sent(&self) -> u64 {
        let sent = |direction: &Direction| direction.sent.load(Ordering::Relaxed);
        self.directions.iter().map(sent).sum()
    }

    /// Ends it, and says what became of each direction.
    ///
    /// # Panics
    /// When a sender or a receiver did.
    #[must_use]
    pub fn finish(mut self) -> Vec<Outcome> {
        self.is_over.store(true, Ordering::Relaxed);
        let directions = std::mem::take(&mut self.directions);
        directions.into_iter().map(Direction::finish).collect()
    }
}

impl Drop for Numbered {
    fn drop(&mut self) {
        // The threads end by themselves.
        self.is_over.store(true, Ordering::Relaxed);
    }
}

impl Direction {
    fn finish(self) -> Outcome {
        let sent = self.sender.join().expect("a sender does not panic");
        let arrived = self.receiver.join().expect("a receiver does not panic");
        let numbers = arrived.numbers.iter().take(sent as usize);
        let there = numbers.filter(|is_there| **is_there).count() as u64;
        Outcome {
            is_up: self.is_up,
            sent,
            lost: sent - there,
            twice: arrived.twice,
            longest_pause: arrived.longest_pause,
        }
    }
}

fn direction(
    is_up: bool,
    (from, to): (&Arc<UdpSocket>, &Arc<UdpSocket>),
    (rate, is_over): (u32, &Arc<AtomicBool>),
) -> Direction {
    setsockopt(to, RcvBufForce, &BUFFER).expect("root may");
    to.set_read_timeout(Some(STEP)).expect("not zero");
    let sent = Arc::new(AtomicU64::new(0));
    let (from, to) = (Arc::clone(from), Arc::clone(to));
    let (over, count) = (Arc::clone(is_over), Arc::clone(&sent));
    let sender = thread::spawn(move || send(&from, rate, (&over, &count)));
    let (over, count) = (Arc::clone(is_over), Arc::clone(&sent));
    let receiver = thread::spawn(move || receive(&to, (&over, &count)));
    Direction {
        is_up,
        sent,
        sender,
        receiver,
    }
}

fn send(socket: &UdpSocket, rate: u32, (is_over, count): (&AtomicBool, &AtomicU64)) -> u64 {
    let (started, mut sent, mut buffer) = (now(), 0_u64, [0x5a; LENGTH]);
    // What became due while nobody got a processor is not sent at once: that would be another load.
    let most = u64::from(rate / 100).max(1);
    let mut missed = 0_u64;
    while !is_over.load(Ordering::Relaxed) {
        let due = (started.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        let late = due.saturating_sub(sent + missed);
        missed += late.saturating_sub(most);
        for _ in 0..late.min(most) {
            buffer[..8].copy_from_slice(&sent.to_be_bytes());
            let length = socket.send(&buffer);
            assert_eq!(length.expect("the sender has a route"), LENGTH);
            sent += 1;
        }
        count.store(sent, Ordering::Relaxed);
        thread::sleep(PACE);
    }
    sent
}

fn receive(socket: &UdpSocket, (is_over, count): (&AtomicBool, &AtomicU64)) -> Arrived {
    let (mut arrived, mut there) = (Arrived::default(), 0_u64);
    let (mut buffer, mut last, mut end) = ([0; LENGTH + 1], now(), None);
    loop {
        match socket.recv(&mut buffer) {
            Ok(LENGTH) => {
                let at = now();
                arrived.longest_pause = arrived.longest_pause.max(at - last);
                last = at;
                there += arrived.note(&buffer);
            }
            Ok(length) => panic!("a datagram of {length} bytes"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("receive: {error}"),
        }
        if is_over.load(Ordering::Relaxed) {
            let end = end.get_or_insert_with(|| Deadline::after(GRACE));
            let is_all = there >= count.load(Ordering::Relaxed);
            // The sender may still be at its last ones.
            if end.remaining().is_none() || (is_all && last.elapsed() > STEP) {
                return arrived;
            }
        }
    }
}

impl Arrived {
    /// Notes a datagram; 1 where it is there for the first time.
    fn note(&mut self, datagram: &[u8]) -> u64 {
        let number: [u8; 8] = datagram[..8].try_into().expect("eight bytes");
        let number = u64::from_be_bytes(number) as usize;
        assert!(number < 1 << 32, "a number that was never sent");
        if self.numbers.len() <= number {
            self.numbers.resize(number + 1, false);
        }
        if std::mem::replace(&mut self.numbers[number], true) {
            self.twice += 1;
            return 0;
        }
        1
    }
}
