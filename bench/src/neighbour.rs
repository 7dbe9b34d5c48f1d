//! One guest opens a hundred thousand flows to one destination: what another one has of it, beyond what it has of the
//! same number of packets in one open flow.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::unistd::write;

use crate::figures::Figures;
use crate::frames::Frames;
use crate::pair::{Pair, QUIET, beside, datagram};
use crate::path::{Clock, Cost};
use crate::report::{Better, Table};
use crate::session::Session;
use netagent_tests::deadline::now;
use netagent_tests::frame::Frame;
use netagent_tests::world::{SERVERS, server_v4};

/// Flows that the busy guest opens, and packets that it sends in the one that is open.
const FLOWS: u32 = 100_000;
/// How often it sends: 50,000 frames a second.
const PACE: Duration = Duration::from_micros(20);
/// Flows of the busy guest that its own ports allow towards one port.
const PORTS: u32 = 50_000;
/// Port of the echo server.
const ECHO: u16 = 7;
/// Rounds that there are destinations for: two in each.
const ROUNDS_MAX: u32 = (SERVERS as u32 - 1) / 2;
/// The quiet guest is slower by so much at most.
const SLOWER: f64 = 1.10;
/// Rounds of a full run.
const ROUNDS: u32 = 7;

/// Addresses that nobody holds: what arrives there ends there.
const fn silent(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, 100 + index)
}

/// What the quiet guest has while the other one sends.
#[derive(Default)]
struct Had {
    /// A frame, ns by the clock on the wall.
    frame: Figures,
    /// A frame, ns of the processor's time.
    processor: Figures,
    /// Half and all but a hundredth of the questions are answered in this time, us.
    p50: Figures,
    p99: Figures,
    /// Frames a second that the other one sent.
    rate: Figures,
}

/// Measures, interleaved.
pub fn run(session: &mut Session) {
    let rounds = session.rounds(ROUNDS).min(ROUNDS_MAX);
    let bar = session.bar("beside a guest that opens flows", rounds);
    let pair = Pair::new("[limits]\nflows = 1000000\n");
    let echo = pair
        .world
        .outside
        .run(|| UdpSocket::bind((server_v4(SERVERS - 1), ECHO)))
        .expect("the world has this address");
    echo.set_nonblocking(true).expect("an open socket");
    let open = Frames::from_iter([datagram(&pair.busy, silent(99), (40_000, 9))]);
    let (mut control, mut attack) = (Had::default(), Had::default());
    for round in 0..rounds {
        for part in [Part::Throughput, Part::Latency] {
            let destination = silent((2 * round) as u8 + part as u8);
            measure(&pair, (&echo, part), &open, &mut control);
            let opening: Frames = (0..FLOWS)
                .map(|number| {
                    let ports = (
                        10_000 + (number % PORTS) as u16,
                        80 + (number / PORTS) as u16,
                    );
                    datagram(&pair.busy, destination, ports)
                })
                .collect();
            measure(&pair, (&echo, part), &opening, &mut attack);
        }
        bar.inc(1);
    }
    judge(session, &control, &attack);
}

/// What each figure is called, its unit, and which way it is good.
type Column = (
    &'static str,
    &'static str,
    (&'static str, Better),
    fn(&Had) -> &Figures,
);

const COLUMNS: [Column; 5] = [
    (
        "frame",
        "a frame, wall clock",
        ("ns", Better::Lower),
        |had| &had.frame,
    ),
    (
        "frame/processor",
        "a frame, processor time",
        ("ns", Better::Lower),
        |had| &had.processor,
    ),
    ("p50", "p50 of an answer", ("us", Better::Lower), |had| {
        &had.p50
    }),
    ("p99", "p99 of an answer", ("us", Better::Lower), |had| {
        &had.p99
    }),
    (
        "sent",
        "what the busy guest sent",
        ("1,000 frames/s", Better::Higher),
        |had| &had.rate,
    ),
];

fn judge(session: &mut Session, control: &Had, attack: &Had) {
    for (id, what, unit, of) in COLUMNS {
        let title = format!("what a guest has beside one that sends {FLOWS} frames: {what}");
        let mut table = Table::new(&format!("neighbour/{id}"), &title, unit);
        table.add("beside one open flow", of(control));
        table.add("beside new flows", of(attack));
        session.add(table);
        if unit.1 == Better::Lower {
            let ratio = of(attack).median() / of(control).median();
            let what = format!("{what}, beside new flows / one open flow");
            session.goal(&what, ratio, (Better::Lower, SLOWER));
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Throughput,
    Latency,
}

fn measure(pair: &Pair, (echo, part): (&UdpSocket, Part), frames: &Frames, had: &mut Had) {
    let busy = (&pair.busy, frames);
    let took = match part {
        Part::Throughput => {
            let before = pair.sent_on(QUIET);
            let ((count, cost), took) = beside(busy, (FLOWS, PACE), |is_over| send(pair, is_over));
            assert_eq!(pair.sent_on(QUIET) - before, count, "each is sent on");
            had.frame.add(cost.wall);
            had.processor.add(cost.processor);
            took
        }
        Part::Latency => {
            let (times, took) = beside(busy, (FLOWS, PACE), |is_over| ask(pair, echo, is_over));
            had.p50.add(times.quantile(0.5));
            had.p99.add(times.quantile(0.99));
            took
        }
    };
    had.rate.add(f64::from(FLOWS) / took.as_secs_f64() / 1e3);
}

/// Sends frames of one open flow as fast as it can; how many, and what each took.
fn send(pair: &Pair, is_over: &AtomicBool) -> (u64, Cost) {
    let frame = datagram(&pair.quiet, silent(98), (40_000, 9));
    let frames = Frames::from_iter([frame]);
    let clock = Clock::start();
    let mut count = 0;
    while !is_over.load(Ordering::Relaxed) {
        write(pair.quiet.tap.file(), frames.get(0)).expect("the TAP takes frames");
        count += 1;
    }
    (count, clock.cost_of_each(count))
}

/// Asks the echo server again and again; what each answer took, us. The server answers from this thread: nothing
/// waits for a scheduler.
fn ask(pair: &Pair, echo: &UdpSocket, is_over: &AtomicBool) -> Figures {
    let mut tap = pair.quiet.tap.file();
    let question = datagram(&pair.quiet, server_v4(SERVERS - 1), (40_001, ECHO));
    let question = Frame::plain(question);
    let mut sent = Vec::from(question.vnet.to_bytes());
    sent.extend(&question.bytes);
    let mut times = Figures::default();
    let (mut buffer, mut received) = ([0; 64], [0; 256]);
    while !is_over.load(Ordering::Relaxed) {
        let started = now();
        write(tap, &sent).expect("the TAP takes frames");
        let (length, peer) = spin(|| echo.recv_from(&mut buffer));
        echo.send_to(&buffer[..length], peer)
            .expect("it just asked");
        // The agent's own advertisements fall in between.
        while spin(|| tap.read(&mut received)) != sent.len() {}
        times.add(started.elapsed().as_secs_f64() * 1e6);
    }
    times
}

/// Tries until there is something to be read.
///
/// # Panics
/// Where reading fails otherwise.
fn spin<T>(mut read: impl FnMut() -> std::io::Result<T>) -> T {
    loop {
        match read() {
            Ok(found) => return found,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
    }
}
