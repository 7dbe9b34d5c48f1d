//! A policy that is replaced again and again under the traffic of two instances (P-9): what it permits loses nothing, what
//! it forbids ends for both ends, and after the answer nothing of that leaves.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Mutex, MutexGuard, RwLock};
use std::thread;
use std::time::Duration;

use netagent_tests::client::connect;
use netagent_tests::deadline::{Deadline, wait_until};
use netagent_tests::netns::NetNs;
use netagent_tests::packet::Packet;
use netagent_tests::ping::{echo_request, ping_socket};
use netagent_tests::raw::Raw;
use netagent_tests::replacing::replace_under_traffic;
use netagent_tests::server::PORT;
use netagent_tests::stack::Stack;
use netagent_tests::talk::Talk;
use netagent_tests::world::{World, server_v4, server_v6};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::json;

use super::site::{boot, put, serve};

/// How often the policy forbids and permits again.
const CYCLES: u32 = 8;
/// Packets of each flow in each phase, at least.
const EACH: usize = 3;
/// A flow sends when nothing was to be heard for so long.
const PACE: Duration = Duration::from_millis(10);
/// With two cores that others use too.
const PATIENCE: Duration = Duration::from_secs(60);

/// What every version allows, and what every second version forbids.
const PERMITTED: [u8; 1] = [0];
const CHANGED: u8 = 1;

/// Versions that allow both, and versions that do not.
const ALLOWING: [&str; 3] = [
    "{}",
    r#"{"allowed_cidrs": ["203.0.113.0/24", "2001:db8:200::/64"]}"#,
    r#"{"denied_cidrs": ["203.0.113.9/32"]}"#,
];
const DENYING: [&str; 3] = [
    r#"{"denied_cidrs": ["203.0.113.2/32", "2001:db8:200::2/128"]}"#,
    r#"{"allowed_cidrs": ["203.0.113.1/32", "2001:db8:200::1/128"]}"#,
    r#"{"allowed_cidrs": ["0.0.0.0/0", "::/0"], "denied_cidrs": ["203.0.113.2/31", "2001:db8:200::2/127"]}"#,
];

/// Phases of a cycle: the packets of each know in which they were sent. While a request is under way either may happen.
const IS_ALLOWED: u32 = 0;
const IS_DENIED: u32 = 2;
const STEPS: u32 = 4;
const OVER: u32 = u32::MAX;

/// A packet: whose, when, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Tag {
    flow: u32,
    phase: u32,
    number: u32,
}

const MAGIC: [u8; 4] = *b"flow";

impl Tag {
    fn to_bytes(self) -> Vec<u8> {
        let numbers = [self.flow, self.phase, self.number].map(u32::to_be_bytes);
        [MAGIC.as_slice(), &numbers.concat()].concat()
    }

    fn read(payload: &[u8]) -> Option<Self> {
        let numbers = payload.strip_prefix(&MAGIC)?;
        let number = |at: usize| {
            Some(u32::from_be_bytes(
                numbers.get(at..at + 4)?.try_into().ok()?,
            ))
        };
        Some(Self {
            flow: number(0)?,
            phase: number(4)?,
            number: number(8)?,
        })
    }
}

/// A flow of datagrams or echoes.
struct Flow {
    number: u32,
    socket: UdpSocket,
    is_echo: bool,
    is_v4: bool,
    /// Whether some versions forbid it.
    is_changed: bool,
}

impl Flow {
    fn open(
        netns: &NetNs,
        number: u32,
        (remote, is_echo, is_changed): (IpAddr, bool, bool),
    ) -> Self {
        let is_v4 = remote.is_ipv4();
        let socket = if is_echo {
            ping_socket(netns, is_v4)
        } else {
            let any = if is_v4 { "0.0.0.0:0" } else { "[::]:0" };
            netns.run(|| UdpSocket::bind(any)).unwrap()
        };
        socket
            .connect((remote, if is_echo { 0 } else { PORT }))
            .unwrap();
        socket.set_read_timeout(Some(PACE)).unwrap();
        Self {
            number,
            socket,
            is_echo,
            is_v4,
            is_changed,
        }
    }

    /// Sends until it is over. The phase cannot change between its reading and the sending.
    fn run(&self, traffic: &Traffic) {
        for number in 0.. {
            {
                let phase = traffic.phase.read().unwrap();
                if *phase == OVER {
                    return;
                }
                let tag = Tag {
                    flow: self.number,
                    phase: *phase,
                    number,
                };
                // An ICMP error about an earlier one is reported in place of sending.
                if self.socket.send(&self.message(tag)).is_ok() {
                    lock(&traffic.sent).insert(tag);
                }
            }
            self.hear(traffic);
        }
    }

    fn message(&self, tag: Tag) -> Vec<u8> {
        let payload = tag.to_bytes();
        if self.is_echo {
            echo_request(self.is_v4, tag.number as u16, &payload)
        } else {
            payload
        }
    }

    fn hear(&self, traffic: &Traffic) {
        let mut buffer = [0; 64];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let payload = &buffer[if self.is_echo { 8 } else { 0 }..length];
            lock(&traffic.heard).extend(Tag::read(payload));
        }
    }
}

/// What was sent, what of it was on the wire, and what was answered.
#[derive(Default)]
struct Traffic {
    phase: RwLock<u32>,
    sent: Mutex<BTreeSet<Tag>>,
    captured: Mutex<BTreeSet<Tag>>,
    heard: Mutex<BTreeSet<Tag>>,
}

fn lock(tags: &Mutex<BTreeSet<Tag>>) -> MutexGuard<'_, BTreeSet<Tag>> {
    tags.lock().unwrap()
}

impl Traffic {
    fn enter(&self, phase: u32) {
        *self.phase.write().unwrap() = phase;
    }

    fn is_over(&self) -> bool {
        *self.phase.read().unwrap() == OVER
    }

    /// Notes what reaches the far end of the uplink.
    fn capture(&self, wire: &Raw) {
        while !self.is_over() {
            while let Some(received) = wire.receive(Deadline::after(PACE)) {
                let packet = Packet::parse(&received.frame.completed());
                let tag = packet.and_then(|packet| Tag::read(&packet.payload));
                lock(&self.captured).extend(tag);
            }
        }
    }

    /// Waits until each of these flows has sent some packets in a phase.
    fn wait_for_packets(&self, flows: &[&Flow], phase: u32) {
        wait_until("every flow sends", PATIENCE, || {
            let sent = lock(&self.sent);
            flows.iter().all(|flow| {
                let mine = |tag: &&Tag| tag.flow == flow.number && tag.phase == phase;
                sent.iter().filter(mine).count() >= EACH
            })
        });
    }

    /// Waits until every packet of these flows, of one phase where one is named, was on the wire and was answered.
    fn check_all_passed(&self, flows: &[&Flow], phase: Option<u32>) {
        let is_meant = |tag: &Tag| {
            phase.is_none_or(|phase| phase == tag.phase)
                && flows.iter().any(|flow| flow.number == tag.flow)
        };
        let meant: BTreeSet<Tag> = lock(&self.sent)
            .iter()
            .filter(|tag| is_meant(tag))
            .copied()
            .collect();
        let missing = |from: &Mutex<BTreeSet<Tag>>| -> Vec<Tag> {
            meant.difference(&lock(from)).copied().collect()
        };
        let deadline = Deadline::after(Duration::from_secs(20));
        while deadline.remaining().is_some()
            && !(missing(&self.captured).is_empty() && missing(&self.heard).is_empty())
        {
            thread::yield_now();
        }
        assert_eq!(missing(&self.captured), [], "not on the wire");
        assert_eq!(missing(&self.heard), [], "not answered");
    }
}

/// A connection, and both its ends.
struct Connection {
    guest: TcpStream,
    server: TcpStream,
}

impl Connection {
    fn open(netns: &NetNs, listener: &TcpListener) -> Self {
        let guest = connect(netns, listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        for stream in [&guest, &server] {
            stream
                .set_read_timeout(Some(Duration::from_secs(1)))
                .unwrap();
        }
        let mut connection = Self { guest, server };
        connection.guest.write_all(b"x").unwrap();
        connection.server.read_exact(&mut [0]).unwrap();
        connection
    }

    /// One end says something: both learn within a second that it is over.
    fn check_ends(mut self, guest_speaks: bool) {
        let speaker = if guest_speaks {
            &mut self.guest
        } else {
            &mut self.server
        };
        speaker.write_all(b"x").unwrap();
        for (end, stream) in [("guest", &mut self.guest), ("server", &mut self.server)] {
            let read = stream.read(&mut [0]).map_err(|error| error.kind());
            assert_eq!(
                read,
                Err(ErrorKind::ConnectionReset),
                "{end}, {guest_speaks}"
            );
        }
    }
}

/// Talks on and on to servers that are permitted; every answer comes.
fn keep_talking(talk: &mut Talk, traffic: &Traffic) {
    while !traffic.is_over() {
        talk.exchange();
        let before = lock(&traffic.sent).len();
        wait_until("others send too", PATIENCE, || {
            traffic.is_over() || lock(&traffic.sent).len() > before
        });
    }
}

/// Addresses of a server in both families.
fn server(index: u8) -> [IpAddr; 2] {
    [server_v4(index).into(), server_v6(index).into()]
}

/// Flows of every kind, to both servers, of both instances; the first instance's policy is the one that is replaced.
fn flows(stacks: [&Stack; 2]) -> Vec<Flow> {
    let mut flows = Vec::new();
    for (instance, stack) in stacks.into_iter().enumerate() {
        for index in [PERMITTED[0], CHANGED] {
            for remote in server(index) {
                for is_echo in [false, true] {
                    let is_changed = instance == 0 && index == CHANGED;
                    let number = flows.len() as u32;
                    flows.push(Flow::open(
                        &stack.netns,
                        number,
                        (remote, is_echo, is_changed),
                    ));
                }
            }
        }
    }
    flows
}

#[test]
fn p9_replaced_under_traffic_a_policy_ends_what_it_forbids_and_costs_nobody_else_a_packet() {
    let world = World::new();
    let agent = world.agent("");
    let servers = [server(PERMITTED[0]), server(CHANGED)].concat();
    let _servers = serve(&world.outside, &servers);
    let one = boot(&world, &agent, &json!({ "name": "one" }));
    let two = boot(&world, &agent, &json!({ "name": "two" }));
    let listeners = server(CHANGED).map(|address| {
        let bound = world
            .outside
            .run(|| TcpListener::bind(SocketAddr::new(address, 4_000)));
        bound.unwrap()
    });
    let flows = flows([&one, &two]);
    let (changed, kept): (Vec<&Flow>, Vec<&Flow>) = flows.iter().partition(|flow| flow.is_changed);
    let mut talks = Vec::new();
    for (stack, index) in [(&one, PERMITTED[0]), (&two, PERMITTED[0]), (&two, CHANGED)] {
        talks.extend(server(index).map(|remote| Talk::open(&stack.netns, remote)));
    }
    let wire = world.wire();
    // Nothing may be lost here: that would look like a loss of the datapath.
    setsockopt(&wire.as_fd(), sockopt::RcvBufForce, &(16 << 20)).unwrap();
    let traffic = Traffic::default();
    let replace = || {
        for cycle in 0..CYCLES {
            let (allowed, denied) = (STEPS * cycle + IS_ALLOWED, STEPS * cycle + IS_DENIED);
            let connections = listeners
                .each_ref()
                .map(|listener| Connection::open(&one.netns, listener));
            traffic.wait_for_packets(&changed, allowed);
            traffic.enter(allowed + 1);
            traffic.check_all_passed(&changed, Some(allowed));
            put(&agent, "one", DENYING[cycle as usize % DENYING.len()]);
            traffic.enter(denied);
            for connection in connections {
                connection.check_ends(cycle % 2 == 0);
            }
            traffic.wait_for_packets(&changed, denied);
            traffic.enter(denied + 1);
            put(&agent, "one", ALLOWING[cycle as usize % ALLOWING.len()]);
            traffic.enter(STEPS * (cycle + 1) + IS_ALLOWED);
        }
        traffic.wait_for_packets(&changed, STEPS * CYCLES);
        traffic.check_all_passed(&changed, Some(STEPS * CYCLES));
        traffic.check_all_passed(&kept, None);
    };
    thread::scope(|scope| {
        let traffic = &traffic;
        scope.spawn(|| traffic.capture(&wire));
        for flow in &flows {
            scope.spawn(|| flow.run(traffic));
        }
        for talk in &mut talks {
            scope.spawn(|| keep_talking(talk, traffic));
        }
        let replaced = std::panic::catch_unwind(std::panic::AssertUnwindSafe(replace));
        traffic.enter(OVER);
        replaced.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    // The last ones were still on their way when it was over, the ones before were checked.
    let captured = lock(&traffic.captured);
    let is_late = |tag: &&Tag| {
        tag.phase % STEPS == IS_DENIED && changed.iter().any(|flow| flow.number == tag.flow)
    };
    let late: Vec<&Tag> = captured.iter().filter(is_late).collect();
    assert!(late.is_empty(), "left after the answer: {late:?}");
    assert!(captured.len() > 100, "{} packets were seen", captured.len());
}

#[test]
fn p9_no_packet_leaves_to_an_address_that_no_version_allows() {
    let seen = replace_under_traffic(60);
    assert_eq!(seen.leaked, 0, "{seen:?}");
    assert!(seen.forbidden >= 60 && seen.took.len() == 60, "{seen:?}");
}
