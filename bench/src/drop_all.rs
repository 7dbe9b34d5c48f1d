//! What a frame costs that `deny-all` drops: by `drop_all`, and by `from_vm` where a published port keeps `drop_all` off.

use std::time::Duration;

use nix::unistd::write;
use serde_json::json;

use crate::figures::{Figures, print_target};
use crate::frames::Frames;
use crate::pair::datagram;
use crate::path::{Clock, Cost, pin_to};
use netagent_tests::agent::Agent;
use netagent_tests::deadline::wait_until;
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::tap::Header;
use netagent_tests::world::{World, server_v4};

/// Frames of a round.
const FRAMES: u32 = 500_000;
/// `drop_all` drops so many times as much.
const FASTER: f64 = 1.8;
/// Longest wait for `drop_all`.
const ATTACHED: Duration = Duration::from_secs(30);

/// One of the two guests.
struct Denied {
    name: &'static str,
    nic: Nic,
    frames: Frames,
    wall: Figures,
    processor: Figures,
}

impl Denied {
    fn new(agent: &Agent, world: &World, (name, publish): (&'static str, &[&str])) -> Self {
        let spec = json!({ "name": name, "network_policy": "deny-all", "publish": publish });
        let mut guest = Guest::create_from(agent, &world.host, &spec, Header::Vnet);
        let nic = guest.nics.remove(0);
        let frame = datagram(&nic, server_v4(0), (40_000, 9));
        Self {
            name,
            nic,
            frames: Frames::from_iter([frame]),
            wall: Figures::default(),
            processor: Figures::default(),
        }
    }

    fn is_attached(&self, world: &World) -> bool {
        let tap = &self.nic.tap_name;
        let link = world.host.json(&format!("ip -json link show dev {tap}"));
        !link[0]["xdp"].is_null()
    }

    /// Writes the frames of a round; every one of them is counted as dropped.
    fn measure(&mut self, agent: &Agent) {
        let dropped = || agent.drops(self.name).get("deny_all").copied().unwrap_or(0);
        let before = dropped();
        let clock = Clock::start();
        for _ in 0..FRAMES {
            write(self.nic.tap.file(), self.frames.get(0)).expect("the TAP takes frames");
        }
        let Cost { wall, processor } = clock.cost_of_each(FRAMES.into());
        assert_eq!(dropped() - before, u64::from(FRAMES), "{}", self.name);
        self.wall.add(wall);
        self.processor.add(processor);
    }
}

/// Measures, interleaved, and prints the figures.
///
/// # Panics
/// Where `drop_all` does not come.
pub fn run(rounds: u32) {
    println!("\n{FRAMES} frames of 64 bytes that deny-all drops, ns each:");
    let world = World::new();
    let agent = world.agent("");
    let by_xdp = Denied::new(&agent, &world, ("drop-all", &[]));
    let by_filter = Denied::new(&agent, &world, ("from-vm", &["8080:80"]));
    wait_until("drop_all is attached", ATTACHED, || {
        by_xdp.is_attached(&world)
    });
    assert!(!by_filter.is_attached(&world), "a port is published");
    pin_to(0);
    let mut ways = [by_xdp, by_filter];
    for _ in 0..rounds {
        for way in &mut ways {
            way.measure(&agent);
        }
    }
    for Denied {
        name,
        wall,
        processor,
        ..
    } in &ways
    {
        println!("  {name:10} {wall}  processor {processor}");
        println!(
            "    raw, {name}: wall {}; processor {}",
            wall.raw(),
            processor.raw()
        );
    }
    let [by_xdp, by_filter] = &ways;
    let wall = by_filter.wall.median() / by_xdp.wall.median();
    print_target(
        "drops a second, drop_all / from_vm, wall clock",
        wall,
        ('>', FASTER),
    );
    let processor = by_filter.processor.median() / by_xdp.processor.median();
    print_target(
        "drops a second, drop_all / from_vm, processor time",
        processor,
        ('>', FASTER),
    );
}
