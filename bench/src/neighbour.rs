//! One guest opens a hundred thousand flows to one destination: what another one has of it, beyond what it has of the
//! same number of packets in one open flow.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::unistd::write;

use crate::figures::{Figures, print_target};
use crate::frames::Frames;
use crate::pair::{BUSY, Pair, QUIET, beside, datagram};
use crate::path::{Clock, Cost};
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

/// Measures, interleaved, and prints the figures.
pub fn run(rounds: u32) {
    println!("\n{FLOWS} new flows of one guest to one destination, and what another has of it:");
    let pair = Pair::new("[limits]\nflows = 1000000\n");
    let echo = pair
        .world
        .outside
        .run(|| UdpSocket::bind((server_v4(SERVERS - 1), ECHO)))
        .expect("the world has this address");
    echo.set_nonblocking(true).expect("an open socket");
    let open = Frames::from_iter([datagram(&pair.busy, silent(99), (40_000, 9))]);
    let (mut control, mut attack) = (Had::default(), Had::default());
    for round in 0..rounds.min(ROUNDS_MAX) {
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
    }
    for (name, had) in [("one open flow", &control), ("new flows", &attack)] {
        println!("  beside {name:14} frame, ns    {}", had.frame);
        println!("  beside {name:14} processor    {}", had.processor);
        println!("  beside {name:14} p50, us      {}", had.p50);
        println!("  beside {name:14} p99, us      {}", had.p99);
        println!("  beside {name:14} sent, 1000/s {}", had.rate);
        println!(
            "    raw, {name}: frame {}; processor {}; p50 {}; p99 {}",
            had.frame.raw(),
            had.processor.raw(),
            had.p50.raw(),
            had.p99.raw()
        );
    }
    println!("  of the busy guest: {:?}", pair.agent.guest_drops(BUSY));
    let ratio = |of: fn(&Had) -> &Figures| of(&attack).median() / of(&control).median();
    for (name, ratio) in [
        ("a frame, wall clock", ratio(|had| &had.frame)),
        ("a frame, processor time", ratio(|had| &had.processor)),
        ("p50 of an answer", ratio(|had| &had.p50)),
        ("p99 of an answer", ratio(|had| &had.p99)),
    ] {
        let name = format!("{name}, beside new flows / one open flow");
        print_target(&name, ratio, ('<', SLOWER));
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
