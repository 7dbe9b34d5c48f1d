//! The servers under attack: what a guest does to them costs it alone, and whatever is done to the way to them is
//! mended.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use netagent_common::net::tcp_flag::{ACK, FIN, SYN};
use netagent_tests::agent::Agent;
use netagent_tests::deadline::{Deadline, SOON, now, wait_for, wait_until};
use netagent_tests::dhcp::Client;
use netagent_tests::frame::{Frame, Segments};
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::name_server::{NameServer, PORT, ask_tcp, ask_udp, question};
use netagent_tests::netns::NetNs;
use netagent_tests::packet::{self, Packet, Segment};
use netagent_tests::router;
use netagent_tests::stack::Stack;
use netagent_tests::tap::Header;
use netagent_tests::world::{World, server_v4};
use serde_json::json;

const ANSWER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A world with a name server that the agent asks.
struct Scene {
    agent: Agent,
    upstream: NameServer,
    world: World,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let upstream = NameServer::start(&world.outside, (server_v4(9), PORT), ANSWER);
        let agent = world.agent(&configuration());
        Self {
            agent,
            upstream,
            world,
        }
    }

    fn guest(&self, name: &str) -> Guest {
        Guest::create(&self.agent, &self.world.host, name, Header::Vnet)
    }

    fn drops(&self, name: &str, reason: &str) -> u64 {
        self.agent.drops(name).get(reason).copied().unwrap_or(0)
    }
}

fn configuration() -> String {
    format!("[dns]\nupstream = [\"{}\"]\n", server_v4(9))
}

/// The host's end of the way to the servers, as it is called.
fn way(host: &NetNs) -> String {
    let links = host.links();
    let way = links.iter().find(|name| name.starts_with("netagent-"));
    way.unwrap_or_else(|| panic!("no way to the servers: {links:?}"))
        .clone()
}

/// A count of TCP sockets in a namespace. That of `orphan`, whose programs have closed them and the kernel has not, is
/// the whole machine's.
fn sockets(netns: &NetNs, which: &str) -> u64 {
    let read = || fs::read_to_string("/proc/thread-self/net/sockstat");
    let text = netns.run(read).unwrap();
    let mut words = text.split_whitespace().skip_while(|word| *word != which);
    words.nth(1).unwrap().parse().unwrap()
}

/// Checks that DHCP, DNS and router solicitations of a guest are answered.
fn check_served(nic: &Nic) {
    Client::new(nic).take(1);
    router::ask(nic);
    let query = packet::udp(
        &nic.to(nic.gateway_v4),
        (4_321, PORT),
        &question(5, "a.example"),
    );
    nic.tap.send_bytes(query);
    nic.tap.receive_where(Deadline::after(SOON), |frame| {
        let packet = Packet::parse(&frame.completed())?;
        (packet.ports == (PORT, 4_321)).then_some(())
    });
}

/// Opens a connection to the resolver, hangs up, and never says that it heard the other side do the same.
fn hang_up_halfway(nic: &Nic, src_port: u16) {
    let ends = nic.to(nic.gateway_v4);
    let segment = |flags, sequence, acknowledgement| Segment {
        src_port,
        dst_port: PORT,
        sequence,
        acknowledgement,
        flags,
    };
    let send = |segment| nic.tap.send_bytes(packet::tcp(&ends, segment, &[]));
    send(segment(SYN, 100, 0));
    let sequence = nic.tap.receive_where(Deadline::after(SOON), |frame| {
        let bytes = frame.completed();
        let packet = Packet::parse(&bytes)?;
        let header = packet::transport(&bytes)?.start;
        let sequence = bytes.get(header + 4..header + 8)?.try_into().ok()?;
        let opened = packet.ports == (PORT, src_port) && bytes[header + 13] == SYN | ACK;
        opened.then(|| u32::from_be_bytes(sequence))
    });
    send(segment(ACK, 101, sequence + 1));
    send(segment(FIN | ACK, 101, sequence + 1));
}

#[test]
fn connections_that_a_guest_never_ends_leave_nothing_on_the_host() {
    let scene = Scene::new();
    let loud = scene.guest("loud");
    let orphans = || sockets(&scene.world.host, "orphan");
    let before = orphans();
    for port in 0..400 {
        hang_up_halfway(loud.nic(), 10_000 + port);
    }
    // The kernel's own patience is more than a hundred seconds.
    wait_until("the kernel has forgotten them", SOON, || {
        orphans() < before + 100
    });
    check_served(scene.guest("calm").nic());
}

#[test]
fn connections_of_guests_do_not_use_up_the_hosts_ports() {
    let scene = Scene::new();
    let mut guest = scene.guest("asks");
    let nic = guest.nics.remove(0);
    let gateway = nic.gateway_v4;
    let stack = Stack::boot(nic, 1_500);
    for _ in 0..50 {
        ask_tcp(&stack.netns, (gateway, PORT), &["a.example"]).unwrap();
    }
    // In TIME_WAIT each would keep its port towards the name server for a minute.
    assert!(sockets(&scene.world.host, "tw") < 5);
}

#[test]
fn a_super_frame_of_queries_costs_as_much_as_its_packets() {
    const PACKETS: usize = 64;
    let scene = Scene::new();
    let loud = scene.guest("loud");
    let nic = loud.nic();
    let query = question(7, "www.example.net");
    let bytes = packet::udp(
        &nic.to(nic.gateway_v4),
        (4_000, PORT),
        &query.repeat(PACKETS),
    );
    let frame = Frame::super_frame(bytes, Segments::Udp, query.len().try_into().unwrap());
    for _ in 0..100 {
        nic.tap.send(&frame);
    }
    wait_until("the limit is counted", SOON, || {
        scene.drops("loud", "service_limit") > 0
    });
    wait_until("some of them arrived", SOON, || {
        scene.upstream.queries().len() > PACKETS
    });
}

#[test]
fn the_way_to_the_servers_comes_back_whatever_is_done_to_it() {
    let scene = Scene::new();
    let guest = scene.guest("asks");
    check_served(guest.nic());
    let host = &scene.world.host;
    let descriptors = || {
        let directory = format!("/proc/{}/fd", scene.agent.pid());
        fs::read_dir(directory).unwrap().count()
    };
    let before = descriptors();
    for change in ["link delete", "link set down", "link delete", "link delete"] {
        let name = way(host);
        let ifindex = host.ifindex(&name);
        let words = match change.strip_prefix("link set ") {
            Some(state) => format!("link set {name} {state}"),
            None => format!("{change} {name}"),
        };
        host.ip(&words);
        wait_until("another way is made", SOON, || {
            let now = host.find_ifindex(&name);
            let made = now.is_some_and(|now| now != ifindex);
            made && host.json(&format!("ip -json link show dev {name}"))[0]["operstate"] == "UP"
        });
        // The servers begin a moment later.
        wait_for("it leads to servers", SOON, || {
            let nic = guest.nic();
            let probe = question(1, "probe.example");
            nic.tap
                .send_bytes(packet::udp(&nic.to(nic.gateway_v4), (4_322, PORT), &probe));
            let answer = nic
                .tap
                .receive(Deadline::after(Duration::from_millis(200)))?;
            let packet = Packet::parse(&answer.completed())?;
            (packet.ports == (PORT, 4_322)).then_some(())
        });
        check_served(guest.nic());
    }
    // The netlink socket of the namespace that was, and the upstream's of a query.
    wait_until("no descriptor is lost", SOON, || {
        descriptors() <= before + 2
    });
}

#[test]
fn a_link_of_the_same_name_is_left_alone_and_named() {
    let scene = Scene::new();
    let name = way(&scene.world.host);
    let mut agent = scene.agent;
    agent.kill9();
    wait_until("the way has gone with the agent", SOON, || {
        scene.world.host.find_ifindex(&name).is_none()
    });
    scene
        .world
        .host
        .ip(&format!("link add {name} type veth peer name other"));
    let ended = agent.run_to_end();
    let complaint = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success(), "{complaint}");
    assert!(complaint.contains(&name), "{complaint}");
    scene.world.host.ip(&format!("link delete {name}"));
    agent.run();
}

#[test]
fn an_agent_that_is_killed_while_it_makes_the_way_starts_again() {
    let scene = Scene::new();
    let guest = scene.guest("asks");
    let host = &scene.world.host;
    let name = way(host);
    let mut last = host.ifindex(&name);
    let mut agent = scene.agent;
    for delay_ms in 0..12 {
        agent.kill9();
        agent.spawn();
        let (made, at) = wait_for("another way is made", SOON, || {
            let made = host.find_ifindex(&name).filter(|made| *made != last)?;
            Some((made, now()))
        });
        last = made;
        wait_until("the moment has come", SOON, || {
            at.elapsed() >= Duration::from_millis(delay_ms)
        });
    }
    agent.kill9();
    agent.run();
    check_served(guest.nic());
    let ways = host.links();
    let ways = ways.iter().filter(|name| name.starts_with("netagent-"));
    assert_eq!(ways.count(), 1);
}

#[test]
fn what_a_killed_agent_left_is_removed_while_it_still_vanishes() {
    for attach in ["tcx", "clsact"] {
        let world = World::new();
        let configuration = format!("[datapath]\nattach = \"{attach}\"\n");
        let mut agent = world.agent(&configuration);
        for _ in 0..15 {
            agent.kill9();
            agent.take_down();
            agent.run();
            agent.kill9();
            agent.run();
        }
    }
}

#[test]
fn an_answer_to_the_instance_before_reaches_nobody() {
    let scene = Scene::new();
    let slow = UdpSocketOf::outside(&scene.world, server_v4(8));
    let spec = json!({ "name": "first", "nameserver": server_v4(8) });
    let first = Guest::create_from(&scene.agent, &scene.world.host, &spec, Header::Vnet);
    let nic = first.nic();
    let query = question(7, "www.example.net");
    nic.tap
        .send_bytes(packet::udp(&nic.to(nic.gateway_v4), (4_000, PORT), &query));
    let (asked, from) = slow.receive();
    let address = nic.v4;
    drop(first);
    scene.agent.delete("first");
    let second = scene.guest("second");
    let nic = second.nic();
    assert_eq!(nic.v4, address, "the slot is used again");
    let mut answer = asked;
    answer[2] |= 0x80;
    slow.socket.send_to(&answer, from).unwrap();
    check_served(nic);
    while let Some(frame) = nic.tap.receive_now() {
        let packet = Packet::parse(&frame.completed());
        assert!(
            packet.is_none_or(|packet| packet.ports != (PORT, 4_000)),
            "{frame:?}"
        );
    }
}

/// A name server that answers when the test says so.
struct UdpSocketOf {
    socket: UdpSocket,
}

impl UdpSocketOf {
    fn outside(world: &World, address: Ipv4Addr) -> Self {
        let bound = world.outside.run(|| UdpSocket::bind((address, PORT)));
        let socket = bound.unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        Self { socket }
    }

    fn receive(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = vec![0; 2_048];
        let (length, from) = self.socket.recv_from(&mut buffer).unwrap();
        buffer.truncate(length);
        (buffer, from)
    }
}

#[test]
fn a_guest_with_a_stack_is_served_beside_one_that_floods() {
    let scene = Scene::new();
    let mut calm = scene.guest("calm");
    let nic = calm.nics.remove(0);
    let gateway = nic.gateway_v4;
    let stack = Stack::boot(nic, 1_500);
    let loud = scene.guest("loud");
    let nic = loud.nic();
    // Half-open connections, more than wait in the servers' queue.
    for port in 0..2_000_u16 {
        let segment = Segment {
            src_port: 10_000 + port,
            dst_port: PORT,
            sequence: 1,
            flags: SYN,
            ..Segment::default()
        };
        nic.tap
            .send_bytes(packet::tcp(&nic.to(nic.gateway_v4), segment, &[]));
    }
    ask_udp(&stack.netns, (gateway, PORT), "www.example.net").unwrap();
    let replies = ask_tcp(&stack.netns, (gateway, PORT), &["a.example"]);
    assert_eq!(replies.unwrap()[0].last, ANSWER.octets());
}

#[test]
fn a_name_server_among_the_guests_is_not_asked() {
    let scene = Scene::new();
    let victim = scene.guest("victim");
    for (name, address) in [
        ("four", victim.nic().address(true)),
        ("six", victim.nic().address(false)),
    ] {
        let spec = json!({ "name": name, "nameserver": address });
        let asks = Guest::create_from(&scene.agent, &scene.world.host, &spec, Header::Vnet);
        let nic = asks.nic();
        let query = question(7, "www.example.net");
        nic.tap
            .send_bytes(packet::udp(&nic.to(nic.gateway_v4), (4_000, PORT), &query));
        let failure = nic.tap.receive_where(Deadline::after(SOON), |frame| {
            let packet = Packet::parse(&frame.completed())?;
            (packet.ports == (PORT, 4_000)).then_some(packet.payload)
        });
        assert_eq!(failure[3] & 0xf, 2, "no server answers");
    }
    while let Some(frame) = victim.nic().tap.receive_now() {
        let packet = Packet::parse(&frame.completed());
        assert!(
            packet.is_none_or(|packet| packet.ports.1 != PORT),
            "{frame:?}"
        );
    }
}

#[test]
fn what_asks_a_stopped_agent_is_dropped_for_that_reason_and_goes_nowhere() {
    let mut scene = Scene::new();
    let guest = scene.guest("asks");
    let nic = guest.nic();
    let query = question(7, "www.example.net");
    let ask = || {
        let query = packet::udp(&nic.to(nic.gateway_v4), (4_000, PORT), &query);
        nic.tap.send_bytes(query);
    };
    scene.agent.stop();
    (0..3).for_each(|_| ask());
    scene.agent.run();
    wait_until("the agent is back", SOON, || {
        scene.agent.inspect("asks")["status"] == "running"
    });
    let drops = scene.agent.drops("asks");
    assert_eq!(drops.get("services_down"), Some(&3), "{drops:?}");
    let links = netagent_tests::recovery::kernel::links(&scene.world.host);
    let way = links.iter().find(|link| link.leads_to_servers()).unwrap();
    assert!(
        way.ifindex >= 0x7fff_0000,
        "no other device gets its index: {way:?}"
    );
}
