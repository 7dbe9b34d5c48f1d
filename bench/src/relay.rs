//! What a relay costs: one leg, from the client's TAP to the relay's, beside a plain redirect; the leg from the relay to
//! the world; and both with very many clients.

use std::net::IpAddr;
use std::time::Duration;

use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};
use netagent_common::names::{FROM_SERVICES, FROM_UPLINK, FROM_VM, TO_VM};
use nix::unistd::write;
use serde_json::json;

use crate::figures::Figures;
use crate::frames::Frames;
use crate::pair::datagram;
use crate::peers::redirect_program;
use crate::report::{Better, Table};
use crate::session::Session;
use crate::variant::{self, drop_at_far_end};
use netagent_tests::agent::Agent;
use netagent_tests::deadline::{SOON, wait_until};
use netagent_tests::demand::{self, Demand, arriving};
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::netns::NetNs;
use netagent_tests::packet::{self, Ends};
use netagent_tests::stack::{INSIDE, Stack};
use netagent_tests::sys;
use netagent_tests::tap::{Header, Tap};
use netagent_tests::world::{World, server_v4};

/// Frames of one measurement.
const FRAMES: u32 = 400_000;
/// Clients of the crowd.
const MANY: u32 = 1_000;
/// One leg beside a plain redirect.
const LEG: f64 = 1.30;
/// How much the crowd may cost each packet.
const FLAT: f64 = 1.05;
/// Rounds of a full run.
const ROUNDS: u32 = 7;
const PORTS: (u16, u16) = (4_000, 53);

/// An agent with a relay, and clients of which the first one sends.
struct Crowd {
    world: World,
    agent: Agent,
    relay: Nic,
    client: Nic,
    to_relay: Frames,
    to_world: Frames,
}

impl Crowd {
    fn new(clients: u32) -> Self {
        let world = World::new();
        let agent = world.agent(variant::CONFIGURATION);
        let shield = json!({ "name": "shield", "network_interfaces": [{ "name": "shield-eth0" }] });
        let mut guest = Guest::create_from(&agent, &world.host, &shield, Header::Vnet);
        let relay = guest.nics.remove(0);
        let of = |name: String| json!({ "name": name, "network_interfaces": [{ "relay": { "name": "shield-eth0" } }] });
        let mut guest =
            Guest::create_from(&agent, &world.host, &of("box-0".to_owned()), Header::Vnet);
        let client = guest.nics.remove(0);
        for number in 1..clients {
            agent.create(&of(format!("box-{number}")));
        }
        wait_until("the relay is up", SOON, || {
            let shown = agent.inspect("box-0");
            shown["network_interfaces"][0]["relay"]["status"] == "up"
        });
        let sent = datagram(&client, server_v4(0), PORTS);
        let forwarded = Ends {
            src_mac: relay.mac,
            ttl: 63,
            ..client.to(server_v4(0))
        };
        let forwarded = packet::udp(&forwarded, PORTS, &[0x5a; 22]);
        Self {
            to_relay: Frames::from_iter([sent]),
            to_world: Frames::from_iter([forwarded]),
            world,
            agent,
            relay,
            client,
        }
    }

    /// One frame on both legs, and what it is on either side: the figures are about frames that are right.
    fn check(&self) {
        let sent = datagram(&self.client, server_v4(0), PORTS);
        while self.relay.tap.receive_now().is_some() {}
        write(self.client.tap.file(), self.to_relay.get(0)).expect("the TAP takes frames");
        let deadline = netagent_tests::deadline::Deadline::after(SOON);
        let carried = self.relay.tap.receive_where(deadline, |frame| {
            let is_it = frame.bytes.len() == sent.len() && frame.bytes[14..] == sent[14..];
            is_it.then(|| frame.bytes.clone())
        });
        assert_eq!(carried[..6], self.relay.mac, "to the relay");
    }

    fn sent(&self) -> u64 {
        let shown = self.agent.inspect("box-0");
        let traffic = &shown["network_interfaces"][0]["traffic"];
        traffic["from_vm_packets"].as_u64().expect("it is counted")
    }

    fn arrived(&self) -> u64 {
        self.world.outside.packets(netagent_tests::world::FAR_END).0
    }
}

/// A plain redirect between two TAPs, for the same frames.
struct Plain {
    host: NetNs,
    from: Tap,
    _to: Tap,
    _link: std::os::fd::OwnedFd,
}

impl Plain {
    fn new() -> Self {
        let host = NetNs::new();
        let taps = ["from", "to"].map(|name| {
            let tap = Tap::open(&host, name, Header::Vnet);
            host.ip(&format!("link set {name} up"));
            host.shell(&format!("tc qdisc replace dev {name} root noqueue"));
            tap
        });
        let [from, to] = taps;
        let program = redirect_program(host.ifindex("to"));
        let ifindex = host.ifindex("from");
        let link = host.run(|| sys::attach_tcx_ingress(&program, ifindex));
        Self {
            _link: link.expect("this kernel has tcx"),
            host,
            from,
            _to: to,
        }
    }
}

/// Measures, interleaved.
pub fn run(session: &mut Session) {
    let (rounds, count) = (session.rounds(ROUNDS), session.count(FRAMES));
    let bar = session.bar("what a relay costs", rounds);
    let plain = Plain::new();
    let mut few = Crowd::new(1);
    let mut many = Crowd::new(MANY);
    let _ends = [drop_at_far_end(&few.world), drop_at_far_end(&many.world)];
    let mut frames = few.to_relay.clone();
    let mut figures: [Figures; 5] = Default::default();
    for crowd in [&few, &many] {
        crowd.check();
    }
    for _ in 0..rounds {
        let before = plain.host.not_sent("to");
        figures[0].add(frames.write(plain.from.file(), (0, count)).processor);
        let lost = plain.host.not_sent("to") - before;
        assert!(
            lost > u64::from(count) / 2,
            "they reached the other TAP: {lost}"
        );
        for (at, crowd) in [(1, &mut few), (2, &mut many)] {
            let before = crowd.sent();
            let cost = crowd.to_relay.write(crowd.client.tap.file(), (0, count));
            assert_eq!(crowd.sent() - before, u64::from(count), "all were carried");
            figures[at].add(cost.processor);
        }
        for (at, crowd) in [(3, &mut few), (4, &mut many)] {
            let before = crowd.arrived();
            let cost = crowd.to_world.write(crowd.relay.tap.file(), (0, count));
            let arrived = crowd.arrived() - before;
            assert!(arrived >= u64::from(count), "all left: {arrived}");
            figures[at].add(cost.processor);
        }
        bar.inc(1);
    }
    judge(session, &figures);
}

fn judge(session: &mut Session, figures: &[Figures; 5]) {
    let names = [
        "plain redirect, TAP to TAP",
        "client to relay, 1 client",
        "client to relay, 1,000 clients",
        "relay to world, 1 client",
        "relay to world, 1,000 clients",
    ];
    let title = "64-byte frames of one flow on the legs of a relay, processor time";
    let mut table = Table::new("relay/64-bytes", title, ("ns", Better::Lower));
    for (name, figures) in names.iter().zip(figures) {
        table.add(name, figures);
    }
    session.add(table);
    let ratio = |one: usize, other: usize| figures[one].median() / figures[other].median();
    for (what, value, target) in [
        ("one leg beside a plain redirect", ratio(1, 0), LEG),
        ("client to relay, 1,000 clients beside 1", ratio(2, 1), FLAT),
        ("relay to world, 1,000 clients beside 1", ratio(4, 3), FLAT),
    ] {
        session.goal(&format!("relay: {what}"), value, (Better::Lower, target));
    }
}

/// How long the whole path is measured.
const TIME: Duration = Duration::from_secs(10);
/// Payload that the client sends in each second, bits.
const RATE: u64 = 200_000_000;
/// The programs' share of the processor's time, percent.
const SHARE: f64 = 20.0;
/// Rounds of ten seconds in a full run.
const SHARE_ROUNDS: u32 = 3;

/// Measures what part of the processor's time netagent's programs take on the whole path: a client's stack, a relay's that
/// forwards, the world's, and a process in place of each VMM. Programs of others on the machine are not counted.
pub fn share(session: &mut Session) {
    let rounds = session.rounds(SHARE_ROUNDS);
    let bar = session.bar("the whole path of a relay", 2 * rounds);
    let world = World::new();
    let agent = world.agent("");
    let shield = json!({ "name": "shield", "network_interfaces": [{ "name": "shield-eth0" }] });
    let client =
        json!({ "name": "box-0", "network_interfaces": [{ "relay": { "name": "shield-eth0" } }] });
    let [relay, client] = [shield, client].map(|spec| {
        let mut guest = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
        Stack::boot(guest.nics.remove(0), 1_500)
    });
    for setting in ["ip_forward", "conf/all/forwarding"] {
        relay.netns.sysctl(&format!("net/ipv4/{setting}"), "1");
    }
    for device in ["all", INSIDE] {
        relay
            .netns
            .sysctl(&format!("net/ipv4/conf/{device}/rp_filter"), "0");
    }
    let _counting = enable_stats(Stats::RunTime).expect("root may count");
    for is_upload in [true, false] {
        let (mut programs, mut processor, mut shares) = Default::default();
        let ends = demand::Ends {
            guest: &client.netns,
            world: &world.outside,
            server: IpAddr::V4(server_v4(0)),
            is_upload,
        };
        for _ in 0..rounds {
            let (ran, busy, carried) = (run_ns(), busy_ns(), carried(&agent));
            let arrived = arriving(ends, Demand::Udp(RATE), TIME);
            assert!(arrived > 0.5 * RATE as f64, "it arrives: {arrived}");
            let packets = (self::carried(&agent) - carried) as f64;
            let (ran, busy) = ((run_ns() - ran) as f64, (busy_ns() - busy) as f64);
            Figures::add(&mut programs, ran / packets);
            Figures::add(&mut processor, busy / packets);
            Figures::add(&mut shares, ran / busy * 100.0);
            bar.inc(1);
        }
        let direction = if is_upload { "up" } else { "down" };
        let title = format!(
            "client - relay (Linux) - world, datagrams that fill a frame, {direction}, of a packet"
        );
        let mut table = Table::new(
            &format!("relay-path/{direction}"),
            &title,
            ("ns", Better::Lower),
        );
        table.add("netagent's programs", &programs);
        table.add("processors, all work", &processor);
        session.add(table);
        let what = format!("whole path of a relay, {direction}: share of the programs, %");
        session.goal(&what, shares.median(), (Better::Lower, SHARE));
    }
}

/// What the client sent and received.
fn carried(agent: &Agent) -> u64 {
    let traffic = agent.traffic("box-0");
    traffic.from_vm_packets + traffic.to_vm_packets
}

/// Time that netagent's programs on packets ran, ns.
fn run_ns() -> u64 {
    let names = [FROM_VM, TO_VM, FROM_UPLINK, FROM_SERVICES];
    let programs = loaded_programs().filter_map(Result::ok);
    let programs =
        programs.filter(|one| one.name_as_str().is_some_and(|name| names.contains(&name)));
    let times = programs.map(|program| program.run_time().as_nanos());
    u64::try_from(times.sum::<u128>()).expect("less than five hundred years")
}

/// Time that all processors worked, ns.
fn busy_ns() -> u64 {
    const TICK_NS: u64 = 10_000_000;
    let stat = std::fs::read_to_string("/proc/stat").expect("every Linux has it");
    let line = stat.lines().next().expect("the sum comes first");
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .map(|tick| tick.parse().expect("a number"))
        .collect();
    // user, nice, system; idle and waiting are left out; interrupts, soft ones.
    (ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]) * TICK_NS
}
