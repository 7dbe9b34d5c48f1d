//! Two guests of one agent: one that is measured on a core, and one that keeps the other core busy meanwhile.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::unistd::write;

use crate::frames::Frames;
use crate::path::pin_to;
use netagent_tests::agent::Agent;
use netagent_tests::deadline::now;
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::packet;
use netagent_tests::tap::Header;
use netagent_tests::world::World;

const PAYLOAD: [u8; 22] = [0x5a; 22];

/// The two guests.
#[derive(Debug)]
pub struct Pair {
    /// The namespaces.
    pub world: World,
    /// The agent.
    pub agent: Agent,
    /// The one that is measured.
    pub quiet: Nic,
    /// The other one.
    pub busy: Nic,
}

/// Names of their instances.
pub const QUIET: &str = "quiet";
/// Names of their instances.
pub const BUSY: &str = "busy";

impl Pair {
    /// Makes both.
    #[must_use]
    pub fn new(configuration: &str) -> Self {
        let world = World::new();
        let agent = world.agent(configuration);
        let nic = |name| {
            let mut guest = Guest::create(&agent, &world.host, name, Header::Vnet);
            guest.nics.remove(0)
        };
        let (quiet, busy) = (nic(QUIET), nic(BUSY));
        Self {
            world,
            agent,
            quiet,
            busy,
        }
    }

    /// Packets of an instance that were sent on, so far.
    ///
    /// # Panics
    /// Where the agent does not show them.
    #[must_use]
    pub fn sent_on(&self, name: &str) -> u64 {
        let shown = self.agent.inspect(name);
        let traffic = &shown["network_interfaces"][0]["traffic"];
        let packets = traffic["from_vm_packets"].as_u64();
        packets.unwrap_or_else(|| panic!("no traffic in {shown}"))
    }
}

/// A 64-byte datagram of a guest.
#[must_use]
pub fn datagram(nic: &Nic, remote: Ipv4Addr, ports: (u16, u16)) -> Vec<u8> {
    let bytes = packet::udp(&nic.to(remote), ports, &PAYLOAD);
    assert_eq!(bytes.len(), 64, "the figures are about 64-byte frames");
    bytes
}

/// Writes `count` frames of the busy guest from core 1, one each `pace`, while `work` runs on core 0; `work` is
/// told when the last one is written. Returns what `work` found, and how long the writing took.
///
/// # Panics
/// When `work` does.
pub fn beside<T: Send>(
    (nic, frames): (&Nic, &Frames),
    (count, pace): (u32, Duration),
    work: impl FnOnce(&AtomicBool) -> T + Send,
) -> (T, Duration) {
    let is_over = AtomicBool::new(false);
    let writing = || {
        pin_to(1);
        let started = now();
        for index in 0..count {
            while started.elapsed() < pace * index {
                std::hint::spin_loop();
            }
            let frame = frames.get(index as usize % frames.count());
            write(nic.tap.file(), frame).expect("the TAP takes frames");
        }
        is_over.store(true, Ordering::Relaxed);
        started.elapsed()
    };
    std::thread::scope(|scope| {
        let writer = scope.spawn(writing);
        let worker = scope.spawn(|| {
            pin_to(0);
            work(&is_over)
        });
        let found = worker.join().expect("the work does not panic");
        (found, writer.join().expect("the writer does not panic"))
    })
}
