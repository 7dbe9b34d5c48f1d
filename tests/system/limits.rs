//! Limits of real guests (P-11, P-13). The bounds here are wide, so that a busy machine does not matter: how near the limits
//! come is what `cargo xtask bench limit` measures.

use std::net::IpAddr;
use std::time::Duration;

use netagent_tests::agent::Agent;
use netagent_tests::demand::{Demand, Ends, arriving};
use netagent_tests::guest::Guest;
use netagent_tests::limits::{both_ways, kbit};
use netagent_tests::stack::Stack;
use netagent_tests::tap::Header;
use netagent_tests::world::{World, server_v4, server_v6};
use serde_json::json;

/// So long that a burst, a quarter of a second, is not most of it.
const TIME: Duration = Duration::from_secs(3);
/// How often too little may arrive: what a sender does not ask for while the machine is busy, no limit makes up for.
const ATTEMPTS: usize = 5;
/// Part of a rate that never arrives.
const TOO_MUCH: f64 = 1.2;
/// The instance.
const NAME: &str = "limited";
const MEGABIT: u64 = 1_000_000;

/// A guest with a stack, whose limits change.
struct Scene {
    agent: Agent,
    stack: Stack,
    world: World,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let agent = world.agent("");
        let mut guest = Guest::create(&agent, &world.host, NAME, Header::Vnet);
        Self {
            stack: Stack::boot(guest.nics.remove(0), 1_500),
            agent,
            world,
        }
    }

    fn ends(&self, server: IpAddr, is_upload: bool) -> Ends<'_> {
        Ends {
            guest: &self.stack.netns,
            world: &self.world.outside,
            server,
            is_upload,
        }
    }

    /// Of a demand never too much arrives, and enough at least once.
    fn check(&self, ends: Ends<'_>, demand: Demand, (rate, least): (u64, f64)) {
        let direction = if ends.is_upload { "up" } else { "down" };
        let what = format!("{demand:?} {direction} to {}", ends.server);
        let mut shares = Vec::new();
        while shares.iter().all(|share| *share < least) {
            assert!(
                shares.len() < ATTEMPTS,
                "{what}: {shares:.2?} of {rate} bit/s"
            );
            let share = arriving(ends, demand, TIME) / rate as f64;
            assert!(share < TOO_MUCH, "{what}: {share:.2} of {rate} bit/s");
            shares.push(share);
        }
    }

    /// Both directions, in both families.
    fn check_all(&self, demand: Demand, bounds: (u64, f64)) {
        for server in [server_v4(0).into(), server_v6(0).into()] {
            for is_upload in [true, false] {
                self.check(self.ends(server, is_upload), demand, bounds);
            }
        }
    }
}

#[test]
fn datagrams_arrive_at_the_rate() {
    let scene = Scene::new();
    for rate in [MEGABIT, 50 * MEGABIT] {
        scene.agent.limit(NAME, &both_ways(rate));
        scene.check_all(Demand::Udp(2 * rate), (rate, 0.8));
    }
}

#[test]
fn one_connection_gets_most_of_the_rate() {
    let scene = Scene::new();
    let rate = 20 * MEGABIT;
    scene.agent.limit(NAME, &both_ways(rate));
    scene.check_all(Demand::Tcp(1, "cubic"), (rate, 0.6));
}

#[test]
fn connections_share_the_rate() {
    let scene = Scene::new();
    let rate = 20 * MEGABIT;
    scene.agent.limit(NAME, &both_ways(rate));
    scene.check_all(Demand::Tcp(16, "cubic"), (rate, 0.7));
}

#[test]
fn limits_change_under_traffic_and_one_direction_leaves_the_other_alone() {
    let scene = Scene::new();
    let server = IpAddr::V4(server_v4(0));
    let (slow, fast) = (5 * MEGABIT, 100 * MEGABIT);
    let demand = Demand::Udp(slow);
    let upload = json!({ "bandwidth": kbit(slow / 2) });
    scene.agent.limit(NAME, &upload);
    scene.check(scene.ends(server, true), demand, (slow / 2, 0.8));
    scene.check(scene.ends(server, false), demand, (slow, 0.8));
    for (rate, least) in [(fast, 0.8), (slow, 0.8), (fast, 0.8)] {
        scene.agent.limit(NAME, &both_ways(rate));
        let demand = Demand::Udp(2 * rate);
        scene.check(scene.ends(server, true), demand, (rate, least));
    }
}

#[test]
fn packets_arrive_at_their_rate() {
    const PACKETS: u64 = 500;
    const PAYLOAD_BITS: u64 = 8 * 1_452;
    let scene = Scene::new();
    scene
        .agent
        .limit(NAME, &json!({ "limits": { "pps": PACKETS } }));
    let rate = PACKETS * PAYLOAD_BITS;
    for is_upload in [true, false] {
        let ends = scene.ends(server_v4(0).into(), is_upload);
        scene.check(ends, Demand::Udp(2 * rate), (rate, 0.8));
    }
}
