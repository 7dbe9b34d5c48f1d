//! What arrives of more demand than a limit allows (P-11): UDP, sixteen TCP connections and one, in both directions; and
//! what a limit costs each packet.

use std::net::IpAddr;
use std::time::Duration;

use netagent_common::limit::PACKETS_PER_SECOND_MAX;
use serde_json::{Value, json};

use crate::figures::{Figures, print_target};
use crate::frames::Frames;
use crate::pair::{Pair, QUIET, datagram};
use crate::variant::drop_at_far_end;
use netagent_tests::agent::Agent;
use netagent_tests::deadline::{now, wait_until};
use netagent_tests::demand::{Demand, Ends, arriving};
use netagent_tests::guest::Guest;
use netagent_tests::limits::{both_ways, kbit};
use netagent_tests::stack::Stack;
use netagent_tests::tap::Header;
use netagent_tests::world::{World, server_v4};

/// Over which the accuracy is promised.
const TIME: Duration = Duration::from_secs(10);
/// After which a whole burst may pass again.
const SILENCE: Duration = Duration::from_millis(500);
/// The instance.
const NAME: &str = "limited";
const MEGABIT: u64 = 1_000_000;
const RATES: [u64; 3] = [MEGABIT, 50 * MEGABIT, 1_000 * MEGABIT];
/// How TCP controls congestion.
const CONTROLS: [&str; 2] = ["cubic", "bbr"];
/// Frames of one measurement.
const FRAMES: u32 = 400_000;
/// Highest price of a limit, ns.
const COST: f64 = 60.0;
/// A limit that 64-byte frames from one core do not reach.
const UNREACHED: u64 = 100_000 * MEGABIT;

/// Measures every rate and prints what arrived of it, in percent.
pub fn run() {
    println!(
        "\nlimits, {} s each, percent of the rate: frames on the wire, and payload that arrived",
        TIME.as_secs()
    );
    for rate in RATES {
        let world = World::new();
        let agent = world.agent("");
        let mut guest = Guest::create(&agent, &world.host, NAME, Header::Vnet);
        let stack = Stack::boot(guest.nics.remove(0), 1_500);
        agent.limit(NAME, &both_ways(rate));
        for is_upload in [true, false] {
            let ends = Ends {
                guest: &stack.netns,
                world: &world.outside,
                server: IpAddr::V4(server_v4(0)),
                is_upload,
            };
            for (name, demand, least) in demands(rate) {
                let direction = if is_upload { "up" } else { "down" };
                let what = format!("{:4} Mbit/s {direction:4} {name:22}", rate / MEGABIT);
                measure((&agent, rate), (ends, demand), (&what, least));
            }
        }
    }
}

/// Name, demand, and the least that must arrive, percent.
fn demands(rate: u64) -> Vec<(String, Demand, f64)> {
    let mut demands = vec![("UDP".to_owned(), Demand::Udp(rate / 2 * 3), 95.0)];
    for control in CONTROLS {
        for (count, least) in [(16, 95.0), (1, 85.0)] {
            let name = format!("TCP ({control}), {count}");
            demands.push((name, Demand::Tcp(count, control), least));
        }
    }
    demands
}

fn measure(
    (agent, rate): (&Agent, u64),
    (ends, demand): (Ends<'_>, Demand),
    (what, least): (&str, f64),
) {
    let sent = || {
        let traffic = agent.traffic(NAME);
        if ends.is_upload {
            traffic.from_vm_bytes
        } else {
            traffic.to_vm_bytes
        }
    };
    let silent = now();
    wait_until("a silence", 2 * SILENCE, || silent.elapsed() >= SILENCE);
    // Connections are opened and closed beside the ten seconds, by frames that count as well.
    let (started, before) = (now(), sent());
    let arrived = arriving(ends, demand, TIME);
    let wire = (sent() - before) as f64 * 8.0 / started.elapsed().as_secs_f64();
    let percent = |bits: f64| bits / rate as f64 * 100.0;
    let (wire, payload) = (percent(wire), percent(arrived));
    let is_met = (least..=102.0).contains(&wire);
    let verdict = if is_met { "met" } else { "MISSED" };
    println!("  {what} wire {wire:6.1}  payload {payload:6.1}  {verdict}");
}

/// Measures what a packet costs with limits and without, interleaved, and prints it.
pub fn cost(rounds: u32) {
    println!("\nlimits, 64-byte frames, TAP to veth uplink, ns of processor time for each:");
    let Pair {
        world,
        agent,
        quiet,
        ..
    } = Pair::new("");
    let _far_end = drop_at_far_end(&world);
    let mut frames = Frames::from_iter([datagram(&quiet, server_v4(0), (4_000, 53))]);
    let limit = kbit(UNREACHED);
    let pps = json!({ "pps": PACKETS_PER_SECOND_MAX });
    let ways: [(&str, Value); 4] = [
        ("no limit", json!({})),
        ("bandwidth", json!({ "bandwidth": limit })),
        ("packets", json!({ "limits": pps })),
        ("both", json!({ "bandwidth": limit, "limits": pps })),
    ];
    let mut figures: [Figures; 4] = Default::default();
    for _ in 0..rounds {
        for ((_, limits), figures) in ways.iter().zip(&mut figures) {
            agent.limit(QUIET, limits);
            let before = agent.traffic(QUIET).from_vm_packets;
            let cost = frames.write(quiet.tap.file(), (0, FRAMES));
            let sent = agent.traffic(QUIET).from_vm_packets - before;
            assert_eq!(sent, u64::from(FRAMES), "none is dropped");
            figures.add(cost.processor);
        }
    }
    let least = figures[0].median();
    for ((name, ..), figures) in ways.iter().zip(&figures) {
        println!("  {name:10} {figures}");
        println!("    raw: {}", figures.raw());
    }
    let added = figures[1].median() - least;
    print_target("what a bandwidth adds, ns", added, ('<', COST));
}
