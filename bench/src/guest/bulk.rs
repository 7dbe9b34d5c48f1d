//! Bulk transfer by TCP: as much as the way carries, or at a steady pace. What arrives is compared with what was sent.

use std::io::{Read, Write};
use std::iter::Sum;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpCongestion;

use super::PROGRAM_CORE;
use super::host::{GUEST_PORT, Host};
use super::way::Way;
use super::work::Workers;
use crate::path::pin_to;
use crate::slices::each_in_turn;
use netagent_tests::deadline::{SOON, now, wait_for};
use netagent_tests::netns::NetNs;

/// What one call sends or receives.
const CHUNK: usize = 1 << 16;
/// After so many bytes the pattern begins again: a prime, so that no loss of whole segments goes unseen.
const PERIOD: usize = 65_521;
/// Bytes that are compared of what one call received.
const SAMPLE: usize = 64;
/// What stands still for so long has ended, where that is known to happen.
const STALL: Duration = Duration::from_millis(250);
/// Connections of a round.
const SLICES: u32 = 4;
/// What a reader of a table has to know.
pub const NOTE: &str = "a round is four connections one after the other: the ways take turns, connection by connection";
/// Port of a server.
const PORT: u16 = 5_001;

/// Which way data goes, and who opened the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// From the guest to the world.
    Up,
    /// From the world to the guest.
    Down,
    /// Half of the flows each way, as many each way as are wanted.
    Both,
    /// From the world to the guest, by connections of the world to the published port.
    In,
}

impl Course {
    /// As it is printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Both => "both",
            Self::In => "published",
        }
    }
}

/// A connection: where data goes in, and where it comes out.
#[derive(Debug)]
pub struct Flow {
    sender: TcpStream,
    receiver: TcpStream,
}

/// How long, and how much is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Before anything is counted.
    pub warm_up: Duration,
    /// While it is counted.
    pub window: Duration,
    /// Bytes a second of all flows; as much as possible where there is none.
    pub pace: Option<f64>,
}

/// What was carried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Carried {
    /// Bits of payload.
    pub bits: f64,
    /// How long it was counted.
    time: Duration,
    /// Processor time that was spent meanwhile.
    spent: Duration,
    /// Transfers of which not everything that was sent arrived in the end.
    pub broken: u32,
}

impl Carried {
    /// Bits of payload a second.
    #[must_use]
    pub fn rate(self) -> f64 {
        self.bits / self.time.as_secs_f64()
    }

    /// Seconds of processor time for each Gbit.
    #[must_use]
    pub fn processor(self) -> f64 {
        self.spent.as_secs_f64() / (self.bits / 1e9)
    }
}

impl Sum for Carried {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            bits: sum.bits + one.bits,
            time: sum.time + one.time,
            spent: sum.spent + one.spent,
            broken: sum.broken + one.broken,
        })
    }
}

/// What every way carries in a round. They take turns, connection by connection: for seconds on end, a machine carries half
/// as much by any of them as a moment later.
pub fn in_turn<W>(ways: &[W], measure: impl Fn(&W) -> Carried) -> Vec<Carried> {
    let mut ways: Vec<&W> = ways.iter().collect();
    let found = each_in_turn(SLICES, &mut ways, |way| measure(way));
    found.into_iter().map(|all| all.into_iter().sum()).collect()
}

/// Opens connections of a guest's.
///
/// # Panics
/// Where one is not opened, or the world sees another address than it should.
#[must_use]
pub fn open(host: &Host, course: Course, count: usize) -> Vec<Flow> {
    let (guest, world) = (&host.guest.netns, &host.world.outside);
    let pairs = match course {
        Course::Up | Course::Down => pairs(guest, (world, PORT), (host.server(0, PORT), count)),
        Course::Both => pairs(guest, (world, PORT), (host.server(0, PORT), 2 * count)),
        Course::In => pairs(world, (guest, GUEST_PORT), (host.published(), count)),
    };
    let patience = if host.way == Way::Passt { STALL } else { SOON };
    let of = |(index, (client, server)): (usize, (TcpStream, TcpStream))| {
        let is_up = match course {
            Course::Up => true,
            Course::Down => false,
            Course::Both => index % 2 == 0,
            Course::In => return flow((client, server), patience),
        };
        directed((client, server), (host.seen_as(), is_up), patience)
    };
    pairs.into_iter().enumerate().map(of).collect()
}

/// Where a connection is opened.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'a> {
    /// Who opens it.
    pub client: &'a NetNs,
    /// Who accepts it.
    pub server: &'a NetNs,
    /// Where the client finds the server.
    pub address: Ipv4Addr,
    /// As whom the server sees the client.
    pub seen_as: Ipv4Addr,
}

/// Opens one; data goes up from the client, or else down.
///
/// # Panics
/// Where it is not opened, or the server sees another address than it should.
#[must_use]
pub fn connection(ends: Ends<'_>, is_up: bool) -> Flow {
    let address = SocketAddr::new(ends.address.into(), PORT);
    let mut pairs = pairs(ends.client, (ends.server, PORT), (address, 1));
    directed(pairs.remove(0), (ends.seen_as, is_up), SOON)
}

/// A connection of a client that the server sees as it should; data goes up from the client, or else down.
fn directed(
    (client, server): (TcpStream, TcpStream),
    (seen_as, is_up): (Ipv4Addr, bool),
    patience: Duration,
) -> Flow {
    let peer = server.peer_addr().expect("it is connected");
    assert_eq!(peer.ip(), seen_as, "source");
    if is_up {
        flow((client, server), patience)
    } else {
        flow((server, client), patience)
    }
}

fn pairs(
    client: &NetNs,
    (server, port): (&NetNs, u16),
    (to, count): (SocketAddr, usize),
) -> Vec<(TcpStream, TcpStream)> {
    let listener = server.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
    let listener = listener.expect("the port is free");
    let patient = listener.set_nonblocking(true);
    patient.expect("an open socket");
    let pair = |_| {
        let opened = client.run(|| TcpStream::connect_timeout(&to, SOON));
        let opened = opened.unwrap_or_else(|error| panic!("connect to {to}: {error}"));
        let accept = || listener.accept().ok();
        let (accepted, _) = wait_for("the client is there", SOON, accept);
        (opened, accepted)
    };
    (0..count).map(pair).collect()
}

fn flow((sender, receiver): (TcpStream, TcpStream), patience: Duration) -> Flow {
    for stream in [&sender, &receiver] {
        // What hangs ends the benchmark, not its patience.
        stream.set_nonblocking(false).expect("an open socket");
        stream.set_read_timeout(Some(patience)).expect("not zero");
        stream.set_write_timeout(Some(patience)).expect("not zero");
        // As Linux does where nobody chose another way; a namespace may not choose it for itself.
        setsockopt(stream, TcpCongestion, &"cubic".into()).expect("every Linux has it");
    }
    Flow { sender, receiver }
}

/// Sends until the time is over, and says what was carried.
///
/// # Panics
/// Where something else arrives than was sent.
#[must_use]
pub fn carry(flows: Vec<Flow>, load: Load, workers: &Workers) -> Carried {
    let pattern = pattern();
    let (received, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let pace = load.pace.map(|pace| pace / flows.len() as f64);
    thread::scope(|scope| {
        let (pattern, received, is_over) = (&pattern, &received, &is_over);
        let start = |Flow { sender, receiver }| {
            let sending = scope.spawn(move || {
                pin_to(PROGRAM_CORE);
                send(sender, (pattern, pace), is_over)
            });
            let receiving = scope.spawn(move || {
                pin_to(PROGRAM_CORE);
                receive(receiver, pattern, received)
            });
            (sending, receiving)
        };
        let transfers: Vec<_> = flows.into_iter().map(start).collect();
        thread::sleep(load.warm_up);
        let (bytes, spent, started) = (received.load(Ordering::Relaxed), workers.spent(), now());
        thread::sleep(load.window);
        let bytes = received.load(Ordering::Relaxed) - bytes;
        let spent = workers.spent() - spent;
        let time = started.elapsed();
        is_over.store(true, Ordering::Relaxed);
        let mut broken = 0;
        for (sending, receiving) in transfers {
            let sent = sending.join().expect("the sender does not panic");
            let arrived = receiving.join().expect("the receiver does not panic");
            broken += u32::from(sent.is_none() || sent != arrived);
        }
        Carried {
            bits: bytes as f64 * 8.0,
            time,
            spent,
            broken,
        }
    })
}

fn pattern() -> Vec<u8> {
    (0..PERIOD + CHUNK)
        .map(|index| {
            let place = (index % PERIOD) as u64;
            (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
        })
        .collect()
}

/// Sends until it is over; how many bytes, or none where it could not go on.
fn send(
    mut to: TcpStream,
    (pattern, pace): (&[u8], Option<f64>),
    is_over: &AtomicBool,
) -> Option<u64> {
    let (started, mut sent) = (now(), 0_u64);
    while !is_over.load(Ordering::Relaxed) {
        if let Some(pace) = pace {
            let due = Duration::from_secs_f64(sent as f64 / pace);
            if let Some(early) = due.checked_sub(started.elapsed()) {
                thread::sleep(early);
            }
        }
        let start = (sent % PERIOD as u64) as usize;
        sent += to.write(&pattern[start..start + CHUNK]).ok()? as u64;
    }
    to.shutdown(Shutdown::Write).ok()?;
    Some(sent)
}

/// Receives to the end; how many bytes, or none where there was no end.
///
/// # Panics
/// Where it is something else than was sent.
fn receive(mut from: TcpStream, pattern: &[u8], received: &AtomicU64) -> Option<u64> {
    let (mut buffer, mut arrived) = (vec![0; CHUNK], 0_u64);
    loop {
        let length = match from.read(&mut buffer).ok()? {
            0 => return Some(arrived),
            length => length,
        };
        let (start, sample) = ((arrived % PERIOD as u64) as usize, length.min(SAMPLE));
        assert!(
            buffer[..sample] == pattern[start..start + sample],
            "other bytes arrived than were sent, at {arrived}"
        );
        arrived += length as u64;
        received.fetch_add(length as u64, Ordering::Relaxed);
    }
}
