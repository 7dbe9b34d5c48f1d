//! Frames written to a TAP as fast as one core can, over one flow or many.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, write};

use crate::variant::Variant;
use netagent_tests::deadline::{Deadline, SOON, now};
use netagent_tests::frame::{Frame, VNET_HEADER_LEN};
use netagent_tests::packet::{self, Ends};
use netagent_tests::raw::Raw;
use netagent_tests::world::{FAR_END, SERVERS, server_v4};

/// Destination port of every flow.
const PORT: u16 = 9_000;
/// Payload that makes a UDP frame 64 bytes long.
pub const SHORT: usize = 22;
/// Payload that makes a UDP frame as long as an Ethernet device sends.
pub const LONG: usize = 1_472;
/// What the world answers.
const ANSWER: [u8; SHORT] = [0x5a; SHORT];
/// Flows that are established before their replies are read.
const BATCH: usize = 128;
/// Frames of others that a measurement may count by mistake: neighbour discovery and the like.
pub const STRAY: u64 = 16;

/// What differs between the frames of two flows.
#[derive(Clone, Copy, Debug)]
struct Patch {
    ip_checksum: [u8; 2],
    destination: [u8; 4],
    source_port: [u8; 2],
    udp_checksum: [u8; 2],
}

/// The flows of a run, written round-robin.
#[derive(Clone, Debug)]
pub struct Flows {
    buffer: Vec<u8>,
    patches: Vec<Patch>,
}

impl Flows {
    /// So many UDP flows of frames with this much payload to 16 addresses, one to one.
    #[must_use]
    pub fn udp(ends: &Ends, count: u32, payload: usize) -> Self {
        let patches = (0..count)
            .map(|number| patch(&datagram(ends, number, payload)))
            .collect();
        let mut buffer = vec![0; VNET_HEADER_LEN];
        buffer.extend(datagram(ends, 0, payload));
        Self { buffer, patches }
    }

    /// One frame, as it is.
    #[must_use]
    pub fn one(frame: &Frame) -> Self {
        let mut buffer = Vec::from(frame.vnet.to_bytes());
        buffer.extend(&frame.bytes);
        Self {
            patches: vec![patch(&frame.bytes)],
            buffer,
        }
    }

    /// Number of flows.
    #[must_use]
    pub fn count(&self) -> usize {
        self.patches.len()
    }

    /// A frame with its virtio header.
    pub fn frame(&mut self, index: usize) -> &[u8] {
        self.apply(index);
        &self.buffer
    }

    /// Writes `count` of them round-robin from core 0, and says what each took.
    ///
    /// # Panics
    /// Where one is refused.
    pub fn write(&mut self, file: &File, count: u32) -> Cost {
        let (flow_count, mut index) = (self.count(), 0);
        timed(0, count, |_| {
            self.apply(index);
            write(file, &self.buffer).expect("the TAP takes frames");
            index += 1;
            if index == flow_count {
                index = 0;
            }
        })
    }

    fn apply(&mut self, index: usize) {
        let patch = self.patches[index];
        let frame = &mut self.buffer[VNET_HEADER_LEN..];
        frame[24..26].copy_from_slice(&patch.ip_checksum);
        frame[30..34].copy_from_slice(&patch.destination);
        frame[34..36].copy_from_slice(&patch.source_port);
        if frame[23] == 17 {
            frame[40..42].copy_from_slice(&patch.udp_checksum);
        }
    }
}

fn datagram(ends: &Ends, number: u32, payload: usize) -> Vec<u8> {
    let server: Ipv4Addr = server_v4((number % u32::from(SERVERS)) as u8);
    let source_port = 1_024 + (number / u32::from(SERVERS)) as u16;
    let ends = ends.to(IpAddr::V4(server));
    packet::udp(&ends, (source_port, PORT), &vec![0x5a; payload])
}

fn patch(bytes: &[u8]) -> Patch {
    let two = |at: usize| [bytes[at], bytes[at + 1]];
    Patch {
        ip_checksum: two(24),
        destination: [bytes[30], bytes[31], bytes[32], bytes[33]],
        source_port: two(34),
        udp_checksum: two(40),
    }
}

/// Sends one frame of every flow, checks what arrives, and answers it where flows are kept: afterwards they are
/// established.
///
/// # Panics
/// Where a frame does not arrive, or not as it should.
pub fn establish(variant: &Variant, flows: &mut Flows) {
    let wire = Raw::open(&variant.world.outside, FAR_END);
    for first in (0..flows.count()).step_by(BATCH) {
        let last = flows.count().min(first + BATCH);
        for index in first..last {
            flows.apply(index);
            write(variant.tap.file(), &flows.buffer).expect("the TAP takes frames");
        }
        for _ in first..last {
            answer(variant, &wire);
        }
        variant.drain();
    }
}

fn answer(variant: &Variant, wire: &Raw) {
    let packet = wire.receive_where(Deadline::after(SOON), |received| {
        let bytes = received.frame.completed();
        // Neighbour discovery of the host falls in between.
        packet::transport(&bytes).filter(|transport| matches!(transport.protocol, 6 | 17))?;
        Some(variant.check(&bytes))
    });
    if variant.keeps_flows() && packet.protocol == 17 {
        let (remote_port, nat_port) = (packet.ports.1, packet.ports.0);
        let reply = packet::udp(&packet.ends.reversed(), (remote_port, nat_port), &ANSWER);
        wire.send_bytes(reply);
    }
}

/// What a frame took, ns.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// By the clock on the wall: what packets per second are counted by.
    pub wall: f64,
    /// By the processor's time of the writer, which other work on the machine disturbs less. The whole way up
    /// to the drop at the far end runs in it.
    pub processor: f64,
}

/// Which of the two times a comparison is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// By the clock on the wall.
    Wall,
    /// By the processor's time of the writer.
    Processor,
}

impl Time {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Wall, Self::Processor];

    /// As it is printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wall => "wall clock",
            Self::Processor => "processor time",
        }
    }

    /// Of the table whose wall clock's is `id`.
    #[must_use]
    pub fn id(self, id: &str) -> String {
        match self {
            Self::Wall => id.to_owned(),
            Self::Processor => format!("{id}/processor"),
        }
    }
}

/// Calls `work` for each number below `count` on one core, and says what a call took.
///
/// # Panics
/// When `work` does, or there is no such core.
pub fn timed(core: usize, count: u32, mut work: impl FnMut(u32) + Send) -> Cost {
    let run = move || {
        pin_to(core);
        let clock = Clock::start();
        (0..count).for_each(&mut work);
        clock.cost_of_each(count.into())
    };
    std::thread::scope(|scope| scope.spawn(run).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Both clocks, from now on.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall: Instant,
    processor: Duration,
}

impl Clock {
    /// Starts both, of this thread.
    #[must_use]
    pub fn start() -> Self {
        Self {
            wall: now(),
            processor: processor_time(),
        }
    }

    /// What each of `count` frames took since the start.
    #[must_use]
    pub fn cost_of_each(&self, count: u64) -> Cost {
        let (wall, processor) = (self.wall.elapsed(), processor_time() - self.processor);
        let each = |time: Duration| time.as_secs_f64() * 1e9 / count as f64;
        Cost {
            wall: each(wall),
            processor: each(processor),
        }
    }
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    time.expect("Linux has this clock").into()
}

/// Keeps this thread on one core.
///
/// # Panics
/// Where there is none of this number.
pub fn pin_to(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core).expect("the machine has two cores");
    sched_setaffinity(Pid::from_raw(0), &cores).expect("a thread may choose its core");
}
