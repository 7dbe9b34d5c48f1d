//! What a frame costs that `deny-all` drops: by `drop_all`, and by `from_vm` where a published port keeps `drop_all` off.

use std::time::Duration;

use serde_json::json;

use crate::figures::Figures;
use crate::frames::Frames;
use crate::pair::datagram;
use crate::path::{Cost, Time};
use crate::report::{Better, Table};
use crate::session::Session;
use netagent_tests::agent::Agent;
use netagent_tests::deadline::wait_until;
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::tap::Header;
use netagent_tests::world::{World, server_v4};

/// Frames of a round.
const FRAMES: u32 = 500_000;
/// `drop_all` drops so many times as much.
const FASTER: f64 = 1.8;
/// Rounds of a full run.
const ROUNDS: u32 = 7;
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
    fn measure(&mut self, agent: &Agent, count: u32) {
        let dropped = || agent.drops(self.name).get("deny_all").copied().unwrap_or(0);
        let before = dropped();
        let Cost { wall, processor } = self.frames.write(self.nic.tap.file(), (0, count));
        assert_eq!(dropped() - before, u64::from(count), "{}", self.name);
        self.wall.add(wall);
        self.processor.add(processor);
    }

    const fn figures(&self, time: Time) -> &Figures {
        match time {
            Time::Wall => &self.wall,
            Time::Processor => &self.processor,
        }
    }
}

/// Measures, interleaved.
///
/// # Panics
/// Where `drop_all` does not come.
pub fn run(session: &mut Session) {
    let rounds = session.rounds(ROUNDS);
    let bar = session.bar("frames that deny-all drops", rounds);
    let world = World::new();
    let agent = world.agent("");
    let by_xdp = Denied::new(&agent, &world, ("drop-all", &[]));
    let by_filter = Denied::new(&agent, &world, ("from-vm", &["8080:80"]));
    wait_until("drop_all is attached", ATTACHED, || {
        by_xdp.is_attached(&world)
    });
    assert!(!by_filter.is_attached(&world), "a port is published");
    let mut ways = [by_xdp, by_filter];
    let frames = session.count(FRAMES);
    for _ in 0..rounds {
        for way in &mut ways {
            way.measure(&agent, frames);
        }
        bar.inc(1);
    }
    for time in Time::ALL {
        let title = format!("64-byte frames that deny-all drops, {}", time.name());
        let id = time.id("drop-all/64-bytes");
        let mut table = Table::new(&id, &title, ("ns", Better::Lower));
        for way in &ways {
            table.add(way.name, way.figures(time));
        }
        session.add(table);
        let [by_xdp, by_filter] = &ways;
        let faster = by_filter.figures(time).median() / by_xdp.figures(time).median();
        let what = format!("drops a second, drop-all / from-vm, {}", time.name());
        session.goal(&what, faster, (Better::Higher, FASTER));
    }
}
