//! The plain resolver (D-1): queries to a gateway reach the instance's name server or the agent's, and no other
//! address is touched.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket};
use std::time::Duration;

use netagent_tests::agent::Agent;
use netagent_tests::deadline::{Deadline, SOON, now, wait_until};
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::name_server::{NameServer, PORT, ask_tcp, ask_udp, question, read_reply};
use netagent_tests::packet::{self, Ends, Packet};
use netagent_tests::router::link_local;
use netagent_tests::stack::{INSIDE, Stack};
use netagent_tests::tap::Header;
use netagent_tests::world::{HOST_V4, HOST_V6, SILENT, World, server_v4, server_v6};
use serde_json::{Value, json};

/// What the agent's upstream, and what the instance's name server answers with.
const BY_UPSTREAM: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const BY_NAME_SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The code of REFUSED (RFC 1035, 4.1.1).
const REFUSED: u8 = 5;

/// A world with a name server, an agent that asks it, and a guest with a stack.
struct Scene {
    stack: Stack,
    gateway: Ipv4Addr,
    upstream: NameServer,
    agent: Agent,
    world: World,
}

impl Scene {
    fn new(spec: &Value) -> Self {
        Self::at(server_v4(9), spec)
    }

    fn at(upstream: impl Into<IpAddr>, spec: &Value) -> Self {
        Self::attached("tcx", upstream.into(), spec)
    }

    fn attached(attach: &str, address: IpAddr, spec: &Value) -> Self {
        let world = World::new();
        let upstream = NameServer::start(&world.outside, (address, PORT), BY_UPSTREAM);
        let agent = world.agent(&format!(
            "[datapath]\nattach = \"{attach}\"\n[dns]\nupstream = [\"{address}\"]\n"
        ));
        let mut guest = Guest::create_from(&agent, &world.host, spec, Header::Vnet);
        let nic = guest.nics.remove(0);
        Self {
            gateway: nic.gateway_v4,
            stack: Stack::boot(nic, 1_500),
            upstream,
            agent,
            world,
        }
    }

    /// The gateway of one family as the guest's programs name it.
    fn gateway(&self, is_v4: bool) -> SocketAddr {
        if is_v4 {
            (self.gateway, PORT).into()
        } else {
            let scope = self.stack.netns.ifindex(INSIDE);
            let gateway = "fe80::1".parse().unwrap();
            SocketAddrV6::new(gateway, PORT, 0, scope).into()
        }
    }
}

#[test]
fn queries_to_either_gateway_are_answered_by_the_agents_upstream_over_udp_and_tcp() {
    for (attach, address) in [
        ("tcx", IpAddr::V4(server_v4(9))),
        ("clsact", server_v6(9).into()),
    ] {
        let scene = Scene::attached(attach, address, &json!({ "name": "asks" }));
        let netns = &scene.stack.netns;
        for is_v4 in [true, false] {
            let gateway = scene.gateway(is_v4);
            let reply = ask_udp(netns, gateway, "www.example.net").unwrap();
            assert_eq!((reply.code, reply.last), (0, BY_UPSTREAM.octets()));
            let replies = ask_tcp(netns, gateway, &["a.example.net", "b.example.net"]).unwrap();
            for reply in replies {
                assert_eq!((reply.code, reply.last), (0, BY_UPSTREAM.octets()));
            }
        }
        let host: IpAddr = if address.is_ipv4() {
            HOST_V4.into()
        } else {
            HOST_V6.into()
        };
        let queries = scene.upstream.queries();
        assert_eq!(queries.len(), 6);
        assert!(
            queries.iter().all(|query| query.peer == host),
            "{queries:?}"
        );
        assert_eq!(queries.iter().filter(|query| query.is_tcp).count(), 4);
        assert_eq!(scene.agent.guest_drops("asks"), [].into());
    }
}

#[test]
fn what_became_of_queries_is_shown_and_begins_anew_with_a_start() {
    let spec = json!({ "name": "asks", "allowed_domains": ["www.example.net"] });
    let scene = Scene::new(&spec);
    let counts = |queries, answered, failed| json!({ "queries": queries, "answered": answered, "failed": failed, "refused": 0, "audited": 0 });
    let shown = || scene.agent.inspect("asks")["dns"].clone();
    assert_eq!(shown(), counts(0, 0, 0));
    let (netns, gateway) = (&scene.stack.netns, scene.gateway(true));
    for name in ["www.example.net", "www.example.net", "other.example.net"] {
        ask_udp(netns, gateway, name).unwrap();
    }
    let replies = ask_tcp(netns, gateway, &["www.example.net"]).unwrap();
    assert_eq!(replies[0].code, 0);
    assert_eq!(shown(), counts(4, 3, 1));
    for action in ["stop", "start"] {
        scene.agent.change("asks", action);
    }
    assert_eq!(shown(), counts(0, 0, 0));
}

#[test]
fn the_name_server_of_the_instance_goes_before_the_agents_upstream() {
    for name_server in [IpAddr::V4(server_v4(8)), server_v6(8).into()] {
        let spec = json!({ "name": "asks", "nameserver": name_server });
        let scene = Scene::new(&spec);
        let own = NameServer::start(&scene.world.outside, (name_server, PORT), BY_NAME_SERVER);
        let netns = &scene.stack.netns;
        for is_v4 in [true, false] {
            let gateway = scene.gateway(is_v4);
            let reply = ask_udp(netns, gateway, "www.example.net").unwrap();
            assert_eq!(reply.last, BY_NAME_SERVER.octets());
            let replies = ask_tcp(netns, gateway, &["www.example.net"]).unwrap();
            assert_eq!(replies[0].last, BY_NAME_SERVER.octets());
        }
        assert_eq!(
            (own.queries().len(), scene.upstream.queries().len()),
            (4, 0)
        );
    }
}

#[test]
fn d2_a_guest_that_may_reach_networks_alone_is_refused_every_name_until_it_may_again() {
    let spec = json!({ "name": "asks", "allowed_cidrs": ["192.0.2.0/24"] });
    let scene = Scene::new(&spec);
    let netns = &scene.stack.netns;
    let codes = |is_v4: bool| {
        let gateway = scene.gateway(is_v4);
        let by_udp = ask_udp(netns, gateway, "www.example.net").unwrap();
        let by_tcp = ask_tcp(netns, gateway, &["a.example.net", "b.example.net"]).unwrap();
        let replies = by_tcp.iter().chain([&by_udp]);
        replies.map(|reply| reply.code).collect::<Vec<u8>>()
    };
    for is_v4 in [true, false] {
        assert_eq!(codes(is_v4), [REFUSED; 3]);
    }
    assert!(scene.upstream.queries().is_empty(), "nothing went on");
    let policy = "/v1/instances/asks/policy";
    assert_eq!(scene.agent.api("PUT", policy, "{}").status, 200);
    for is_v4 in [true, false] {
        assert_eq!(codes(is_v4), [0; 3]);
    }
}

#[test]
fn the_gateway_that_the_user_chose_answers_queries_from_its_own_address() {
    let scene = Scene::new(&json!({ "name": "asks", "gateway": "192.168.7.9" }));
    for gateway in [Ipv4Addr::new(192, 168, 7, 9), scene.gateway] {
        // A connected socket takes no answer from another address.
        let reply = ask_udp(&scene.stack.netns, (gateway, PORT), "www.example.net").unwrap();
        assert_eq!(reply.last, BY_UPSTREAM.octets());
        let replies = ask_tcp(&scene.stack.netns, (gateway, PORT), &["www.example.net"]);
        assert_eq!(replies.unwrap()[0].last, BY_UPSTREAM.octets());
    }
    assert_eq!(scene.upstream.queries().len(), 4);
}

/// Asks a gateway over UDP with one frame; the addresses of the answer must be those of the question.
fn check_raw(nic: &Nic, ends: &Ends, ports: (u16, u16)) {
    let query = question(7, "www.example.net");
    nic.tap.send_bytes(packet::udp(ends, ports, &query));
    let answer = nic.tap.receive_where(Deadline::after(SOON), |frame| {
        let bytes = frame.completed();
        let answer = Packet::parse(&bytes).filter(|answer| answer.ports == (ports.1, ports.0))?;
        packet::assert_checksums(&bytes);
        Some(answer)
    });
    let expected = Ends {
        ttl: answer.ends.ttl,
        ..ends.reversed()
    };
    assert_eq!(answer.ends, expected);
    let reply = read_reply(7, "www.example.net", &answer.payload);
    assert_eq!(reply.last, BY_UPSTREAM.octets());
}

#[test]
fn every_gateway_answers_every_address_of_the_guest_from_where_it_was_asked() {
    let world = World::new();
    let _upstream = NameServer::start(&world.outside, (server_v4(9), PORT), BY_UPSTREAM);
    let agent = world.agent(&format!("[dns]\nupstream = [\"{}\"]\n", server_v4(9)));
    let spec = json!({
        "name": "several",
        "network_interfaces": [
            {},
            { "ip": "192.168.0.1/30", "ip6": "fec0::2/64", "tap_name": "vpc0" },
            { "ip": "10.9.0.5/32", "tap_name": "alone0" },
        ],
        "gateway": "192.168.7.9",
    });
    let guest = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
    let chosen = Ipv4Addr::new(192, 168, 7, 9);
    for nic in &guest.nics {
        // From any address of the instance, by any interface (I-15).
        for src in guest.nics.iter().map(|one| one.v4) {
            for gateway in [nic.gateway_v4, chosen] {
                check_raw(nic, &nic.to(gateway).from(src), (4_000, PORT));
            }
        }
        if nic.v6.is_unspecified() {
            continue;
        }
        let own = guest.nics.iter().map(|one| one.v6);
        let own = own.filter(|address| !address.is_unspecified());
        for src in own.chain([link_local(nic.mac)]) {
            let ends = nic.to(nic.gateway(false)).from(src);
            check_raw(nic, &ends, (68, PORT));
        }
    }
    assert_eq!(agent.guest_drops("several"), [].into());
}

#[test]
fn a_query_to_another_address_is_an_ordinary_packet() {
    let scene = Scene::new(&json!({ "name": "asks" }));
    for address in [IpAddr::V4(server_v4(7)), server_v6(7).into()] {
        let direct = NameServer::start(&scene.world.outside, (address, PORT), BY_NAME_SERVER);
        let reply = ask_udp(&scene.stack.netns, (address, PORT), "www.example.net").unwrap();
        assert_eq!(reply.last, BY_NAME_SERVER.octets());
        let replies = ask_tcp(&scene.stack.netns, (address, PORT), &["www.example.net"]);
        assert_eq!(replies.unwrap()[0].last, BY_NAME_SERVER.octets());
        assert_eq!(direct.queries().len(), 2);
    }
    assert_eq!(scene.upstream.queries(), []);
}

#[test]
fn an_answer_that_no_datagram_holds_is_fetched_over_tcp() {
    let scene = Scene::new(&json!({ "name": "asks" }));
    for is_v4 in [true, false] {
        let gateway = scene.gateway(is_v4);
        let reply = ask_udp(&scene.stack.netns, gateway, "large.example.net").unwrap();
        assert!(reply.is_truncated, "{reply:?}");
        let replies = ask_tcp(&scene.stack.netns, gateway, &["large.example.net"]).unwrap();
        let reply = &replies[0];
        assert_eq!((reply.is_truncated, reply.answers), (false, 200));
        assert_eq!(reply.last, BY_UPSTREAM.octets());
    }
}

#[test]
fn an_upstream_on_the_hosts_own_loopback_works_as_the_agent_itself_asks() {
    let world = World::new();
    let stub: SocketAddr = "127.0.0.53:5353".parse().unwrap();
    let upstream = NameServer::start(&world.host, stub, BY_UPSTREAM);
    let agent = world.agent("[dns]\nupstream = [\"127.0.0.53:5353\"]\n");
    let mut guest = Guest::create(&agent, &world.host, "asks", Header::Vnet);
    let nic = guest.nics.remove(0);
    let gateway = nic.gateway_v4;
    let stack = Stack::boot(nic, 1_500);
    let reply = ask_udp(&stack.netns, (gateway, PORT), "www.example.net").unwrap();
    assert_eq!(reply.last, BY_UPSTREAM.octets());
    let replies = ask_tcp(&stack.netns, (gateway, PORT), &["www.example.net"]).unwrap();
    assert_eq!(replies[0].last, BY_UPSTREAM.octets());
    assert_eq!(upstream.queries().len(), 2);
}

#[test]
fn where_no_upstream_answers_the_guest_is_told_so_in_time_and_the_next_one_is_asked() {
    let world = World::new();
    // Nobody is at 203.0.113.200; the second answers.
    let second = NameServer::start(&world.outside, (server_v4(9), PORT), BY_UPSTREAM);
    let upstreams = format!("\"{}\", \"{}\"", SILENT[0], server_v4(9));
    let agent = world.agent(&format!("[dns]\nupstream = [{upstreams}]\n"));
    let boot = |spec: &Value| {
        let mut guest = Guest::create_from(&agent, &world.host, spec, Header::Vnet);
        let nic = guest.nics.remove(0);
        (nic.gateway_v4, Stack::boot(nic, 1_500))
    };
    let (gateway, stack) = boot(&json!({ "name": "second" }));
    let reply = ask_udp(&stack.netns, (gateway, PORT), "www.example.net").unwrap();
    assert_eq!(reply.last, BY_UPSTREAM.octets());
    assert_eq!(second.queries().len(), 1);
    let (gateway, stack) = boot(&json!({ "name": "none", "nameserver": SILENT[0] }));
    let began = now();
    let reply = ask_udp(&stack.netns, (gateway, PORT), "www.example.net").unwrap();
    assert_eq!(reply.code, 2, "a failure: {reply:?}");
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_dead_agent_answers_no_query_and_one_that_starts_again_does() {
    let mut scene = Scene::new(&json!({ "name": "asks" }));
    let (netns, gateway) = (scene.stack.netns.clone(), scene.gateway(true));
    ask_udp(&netns, gateway, "www.example.net").unwrap();
    let before = scene.upstream.queries().len();
    scene.agent.kill9();
    let socket = netns.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    socket.connect(gateway).unwrap();
    socket.send(&question(1, "lost.example.net")).unwrap();
    // Forwarding goes on, so what was sent before it was dropped by then.
    let world = server_v4(7);
    let direct = NameServer::start(&scene.world.outside, (world, PORT), BY_NAME_SERVER);
    ask_udp(&netns, (world, PORT), "direct.example.net").unwrap();
    assert_eq!(direct.queries().len(), 1);
    assert_eq!(scene.upstream.queries().len(), before, "DNS fails closed");
    scene.agent.run();
    let reply = ask_udp(&netns, gateway, "www.example.net").unwrap();
    assert_eq!(reply.last, BY_UPSTREAM.octets());
}

#[test]
fn malformed_queries_and_half_connections_hold_up_nobody() {
    let scene = Scene::new(&json!({ "name": "asks" }));
    let other = Guest::create(&scene.agent, &scene.world.host, "calm", Header::Vnet);
    let (netns, gateway) = (&scene.stack.netns, scene.gateway(true));
    let socket = netns.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    socket.connect(gateway).unwrap();
    let good = question(9, "www.example.net");
    for length in 0..good.len() {
        // An answer with an error, or none: whatever it is, the resolver lives.
        socket.send(&good[..length]).unwrap();
    }
    let connect = || netns.run(|| TcpStream::connect_timeout(&gateway, SOON));
    let halves: Vec<_> = (0..20).filter_map(|_| connect().ok()).collect();
    for mut half in &halves {
        // A length without its message; the resolver may have closed what is too many.
        drop(half.write_all(&[0xff, 0xff, 1]));
    }
    let reply = ask_udp(netns, gateway, "www.example.net").unwrap();
    assert_eq!(reply.last, BY_UPSTREAM.octets());
    let nic = other.nic();
    let ends = nic.to(nic.gateway_v4);
    nic.tap.send_bytes(packet::udp(&ends, (4_000, PORT), &good));
    let answer = nic.tap.receive_where(Deadline::after(SOON), |frame| {
        let packet = Packet::parse(&frame.completed())?;
        (packet.ports == (PORT, 4_000)).then_some(packet)
    });
    assert_eq!(answer.ends.src, IpAddr::V4(nic.gateway_v4));
    let reply = read_reply(9, "www.example.net", &answer.payload);
    assert_eq!(reply.last, BY_UPSTREAM.octets());
}

#[test]
fn a_flood_of_queries_is_counted_and_does_not_stop_another_guest() {
    let scene = Scene::new(&json!({ "name": "calm" }));
    let loud = Guest::create(&scene.agent, &scene.world.host, "loud", Header::Vnet);
    let nic = loud.nic();
    let ends = nic.to(nic.gateway_v4);
    for id in 0..12_000 {
        let query = question(id, "www.example.net");
        nic.tap
            .send_bytes(packet::udp(&ends, (4_000, PORT), &query));
    }
    let reply = ask_udp(&scene.stack.netns, scene.gateway(true), "www.example.net").unwrap();
    assert_eq!(reply.last, BY_UPSTREAM.octets());
    wait_until("the limit is counted", SOON, || {
        scene.agent.drops("loud").contains_key("service_limit")
    });
    assert_eq!(scene.agent.guest_drops("calm"), [].into());
}

#[test]
fn other_ports_of_a_gateway_stay_closed() {
    let scene = Scene::new(&json!({ "name": "asks" }));
    let guest = Guest::create(&scene.agent, &scene.world.host, "knocks", Header::Vnet);
    let nic = guest.nic();
    for gateway in [nic.gateway(true), nic.gateway(false)] {
        for port in [54, 67, 80, 853, 5_353] {
            nic.tap
                .send_bytes(packet::udp(&nic.to(gateway), (4_000, port), b"open"));
        }
    }
    wait_until("all are counted", SOON, || {
        scene.agent.drops("knocks").get("gateway_closed") == Some(&10)
    });
}
