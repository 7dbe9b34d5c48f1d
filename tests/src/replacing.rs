//! Policies that are replaced while a guest sends at an address that none of them allows: what of it leaves.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netagent_common::net::tcp_flag;
use serde_json::json;

use crate::agent::Agent;
use crate::deadline::{Deadline, SOON, now};
use crate::guest::{Guest, Nic};
use crate::packet::{self, Packet, Segment};
use crate::raw::Raw;
use crate::tap::Header;
use crate::world::{SILENT, World};

/// What no policy allows, in both families.
const FORBIDDEN: [IpAddr; 2] = [SILENT[0], SILENT[1]];
/// What every policy allows.
const PERMITTED: [IpAddr; 2] = [SILENT[2], SILENT[3]];

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Frames that the guest sent at the forbidden addresses.
    pub forbidden: u64,
    /// How many of them were on the wire.
    pub leaked: u64,
    /// Frames for the permitted addresses. Each arrived: the next round waits for it.
    pub permitted: u64,
    /// How long each request took.
    pub took: Vec<Duration>,
}

/// Bodies that all forbid the same: by either list, by both, and with so many networks besides.
fn bodies(entries: u32) -> Vec<String> {
    let forbidden = ["203.0.113.200/32", "2001:db8:200::c8/128"];
    let permitted = ["198.51.100.0/24", "2001:db8:100::/64"];
    let mut long: Vec<String> = forbidden.map(str::to_owned).into();
    long.extend((0..entries).map(|number| format!("10.{}.{}.0/24", number >> 8, number & 255)));
    [
        json!({ "denied_cidrs": forbidden }),
        json!({ "allowed_cidrs": permitted }),
        json!({ "allowed_cidrs": ["0.0.0.0/0", "::/0"], "denied_cidrs": long }),
        json!({ "allowed_cidrs": permitted, "denied_cidrs": long }),
    ]
    .map(|body| body.to_string())
    .into()
}

/// Replaces the policy of a guest so often while the guest sends.
///
/// # Panics
/// When a policy is refused, or a permitted frame does not arrive.
#[must_use]
pub fn replace_under_traffic(count: usize) -> Seen {
    /// Networks of the longer bodies.
    const ENTRIES: u32 = 1_000;
    let world = World::new();
    let agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "a", Header::Vnet);
    let wire = world.wire();
    let bodies = bodies(ENTRIES);
    put(&agent, &bodies[0]);
    let (is_over, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let mut seen = Seen::default();
            while !is_over.load(Ordering::Relaxed) {
                send_round(guest.nic(), &wire, &mut seen);
                rounds.fetch_add(1, Ordering::Relaxed);
            }
            seen
        });
        let replace = || {
            let each = (0..count).map(|number| {
                let before = rounds.load(Ordering::Relaxed);
                let took = put(&agent, &bodies[(number + 1) % bodies.len()]);
                // Traffic met this policy, however fast they follow each other.
                while rounds.load(Ordering::Relaxed) == before && !sending.is_finished() {
                    thread::yield_now();
                }
                took
            });
            each.collect()
        };
        let replaced = std::panic::catch_unwind(std::panic::AssertUnwindSafe(replace));
        is_over.store(true, Ordering::Relaxed);
        let seen = sending.join().expect("every permitted frame arrives");
        let took = replaced.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Seen { took, ..seen }
    })
}

fn put(agent: &Agent, body: &str) -> Duration {
    let started: Instant = now();
    let answer = agent.api("PUT", "/v1/instances/a/policy", body);
    assert_eq!(answer.status, 200, "{answer:?}\n{}", agent.log());
    started.elapsed()
}

/// Sends each kind of packet at the forbidden addresses, then one to each that is permitted, and waits for those.
fn send_round(nic: &Nic, wire: &Raw, seen: &mut Seen) {
    let number = seen.permitted;
    for remote in FORBIDDEN {
        let ends = nic.to(remote);
        let attempt = Segment {
            src_port: 40_000 + (number % 100) as u16,
            dst_port: 443,
            flags: tcp_flag::SYN,
            ..Segment::default()
        };
        for bytes in [
            packet::udp(&ends, (9_000, 53), b"forbidden"),
            packet::tcp(&ends, attempt, b""),
            packet::echo_request(&ends, (7, 1), b"forbidden"),
        ] {
            nic.tap.send_bytes(bytes);
            seen.forbidden += 1;
        }
    }
    let payload = number.to_be_bytes();
    for remote in PERMITTED {
        let question = packet::udp(&nic.to(remote), (9_000, 53), &payload);
        nic.tap.send_bytes(question);
        wire.receive_where(Deadline::after(SOON), |received| {
            let packet = Packet::parse(&received.frame.completed())?;
            seen.leaked += u64::from(FORBIDDEN.contains(&packet.ends.dst));
            (packet.ends.dst == remote && packet.payload == payload).then_some(())
        });
        seen.permitted += 1;
    }
    // What the guest is told is of no interest here, and must not fill its queue.
    while nic.tap.receive_now().is_some() {}
}
