//! Flows that others open towards a guest, and a guest's own towards published ports (P-3, P-7).

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use netagent_tests::agent::Agent;
use netagent_tests::client::{connect, connect_from};
use netagent_tests::guest::Guest;
use netagent_tests::server::{PORT, Server};
use netagent_tests::stack::Stack;
use netagent_tests::tap::Header;
use netagent_tests::world::{World, host_address, server_v4, server_v6};
use serde_json::json;

use super::site::{ALLOW_ALL, DENY_ALL, ask_tcp, boot, drops, put, serve, told};

/// Published port of the host.
const PUBLISHED: u16 = 8_080;

/// Longest that a flow may outlive the policy that forbids it (P-9).
const A_SECOND: Duration = Duration::from_secs(1);

/// An instance whose echo servers are published and exposed, in both families.
struct Web {
    _servers: Vec<Server>,
    _stack: Stack,
    addresses: [IpAddr; 2],
    agent: Agent,
    world: World,
}

impl Web {
    fn new(policy: &str) -> Self {
        let world = World::new();
        let agent = world.agent("");
        let published = json!([
            format!("{PUBLISHED}:{PORT}"),
            format!("{PUBLISHED}:{PORT}/udp")
        ]);
        let spec =
            json!({ "name": "web", "publish": published, "exposed_ports": [PORT.to_string()] });
        let mut guest = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
        let addresses = [true, false].map(|is_v4| guest.nic().address(is_v4));
        let stack = Stack::boot(guest.nics.remove(0), 1_500);
        put(&agent, "web", policy);
        Self {
            _servers: serve(&stack.netns, &addresses),
            _stack: stack,
            addresses,
            agent,
            world,
        }
    }
}

fn published(is_v4: bool) -> SocketAddr {
    (host_address(is_v4), PUBLISHED).into()
}

/// Whether a byte goes through the connection and back.
fn check_lives(stream: &mut TcpStream) {
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
}

/// The next thing that the client says ends the connection, within a second.
fn check_ends(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(A_SECOND)).unwrap();
    // What the other end's stack owed may have ended it already.
    let written = stream.write_all(b"x");
    let read = written.and_then(|()| stream.read(&mut [0]));
    let read = read.map_err(|error| error.kind());
    assert_eq!(read, Err(ErrorKind::ConnectionReset), "{stream:?}");
}

#[test]
fn p3_what_the_world_and_the_host_open_lives_under_deny_all_and_ends_by_a_denied_network() {
    let web = Web::new(ALLOW_ALL);
    let (world, agent) = (&web.world, &web.agent);
    for (client, other) in [
        (server_v4(3).into(), server_v4(4).into()),
        (server_v6(3).into(), server_v6(4).into()),
    ] {
        let client: IpAddr = client;
        let other: IpAddr = other;
        let to = published(client.is_ipv4());
        put(agent, "web", ALLOW_ALL);
        let mut stream = connect_from(&world.outside, (client, 40_000).into(), to);
        let mut beside = connect_from(&world.outside, (other, 40_000).into(), to);
        check_lives(&mut stream);
        for policy in [
            DENY_ALL,
            r#"{"allowed_cidrs": []}"#,
            r#"{"allowed_cidrs": ["192.0.2.0/24"], "denied_cidrs": ["192.0.2.0/24"]}"#,
        ] {
            put(agent, "web", policy);
            check_lives(&mut stream);
            check_lives(&mut beside);
            check_lives(&mut connect_from(&world.outside, (client, 0).into(), to));
        }
        let length = if client.is_ipv4() { 32 } else { 128 };
        put(
            agent,
            "web",
            &json!({ "denied_cidrs": [format!("{client}/{length}")] }).to_string(),
        );
        check_ends(&mut stream);
        check_lives(&mut beside);
        let before = drops(agent, "web", "denied_cidr");
        let again = world.outside.run(|| ask_from(client, to));
        assert_ne!(again, Ok(()), "{client} comes in again");
        assert!(drops(agent, "web", "denied_cidr") > before);
        check_lives(&mut connect_from(&world.outside, (other, 0).into(), to));
    }
}

/// One datagram from an address, and whether it is answered in a moment.
fn ask_from(client: IpAddr, to: SocketAddr) -> Result<(), ErrorKind> {
    let ask = || {
        let socket = std::net::UdpSocket::bind((client, 0))?;
        socket.set_read_timeout(Some(A_SECOND))?;
        socket.send_to(b"x", to)?;
        socket.recv(&mut [0])
    };
    ask()
        .map(|_| ())
        .map_err(|error: std::io::Error| error.kind())
}

#[test]
fn p3_the_host_reaches_an_exposed_port_under_deny_all() {
    let web = Web::new(DENY_ALL);
    for address in web.addresses {
        let mut stream = connect(&web.world.host, (address, PORT).into()).unwrap();
        check_lives(&mut stream);
        put(&web.agent, "web", r#"{"allowed_cidrs": []}"#);
        check_lives(&mut stream);
        put(&web.agent, "web", DENY_ALL);
        check_lives(&mut stream);
    }
}

#[test]
fn p9_a_process_of_the_host_is_reset_when_what_it_uses_is_gone_even_where_it_speaks_first() {
    let web = Web::new(ALLOW_ALL);
    let host = &web.world.host;
    let exposed = web.addresses.map(|address| (address, PORT).into());
    let led = [published(true), published(false)];
    let loopback = (Ipv4Addr::LOCALHOST, PUBLISHED).into();
    let open = || {
        let all = exposed.into_iter().chain(led).chain([loopback]);
        let mut all: Vec<TcpStream> = all.map(|to| connect(host, to).unwrap()).collect();
        all.iter_mut().for_each(check_lives);
        all
    };
    let mut all = open();
    // The addresses from which the host speaks: its gateway's, and in IPv6 its own.
    let denied = r#"{"denied_cidrs": ["172.16.0.0/16", "2001:db8:100::2/128"]}"#;
    put(&web.agent, "web", denied);
    all.iter_mut().for_each(check_ends);
    put(&web.agent, "web", ALLOW_ALL);
    let mut all = open();
    let path = "/v1/instances/web/publish";
    let changed = web.agent.api("PUT", path, r#"{"publish": []}"#);
    assert_eq!(changed.status, 200, "{changed:?}");
    all.iter_mut().for_each(check_ends);
}

#[test]
fn p3_a_guest_reaches_a_published_port_as_its_own_lists_say_of_the_address_as_written() {
    let web = Web::new(ALLOW_ALL);
    let stack = boot(&web.world, &web.agent, &told(json!({ "name": "client" })));
    let refused = Err(ErrorKind::ConnectionRefused);
    for (policy, expected) in [
        (ALLOW_ALL, [Ok(()); 2]),
        (DENY_ALL, [refused; 2]),
        (
            r#"{"allowed_cidrs": ["198.51.100.2/32", "2001:db8:100::2/128"]}"#,
            [Ok(()); 2],
        ),
        (
            r#"{"allowed_cidrs": ["198.51.100.2/32"]}"#,
            [Ok(()), refused],
        ),
        // Not the address behind it.
        (
            r#"{"allowed_cidrs": ["172.16.0.0/16", "fc00::/7"]}"#,
            [refused; 2],
        ),
        (
            r#"{"denied_cidrs": ["172.16.0.0/16", "fc00::/7"]}"#,
            [Ok(()); 2],
        ),
        (
            r#"{"denied_cidrs": ["198.51.100.0/24"]}"#,
            [refused, Ok(())],
        ),
        (
            r#"{"allowed_cidrs": ["0.0.0.0/0", "::/0"], "denied_cidrs": ["2001:db8:100::/64"]}"#,
            [Ok(()), refused],
        ),
    ] {
        put(&web.agent, "client", policy);
        for (is_v4, expected) in [true, false].into_iter().zip(expected) {
            let asked = ask_tcp(&stack.netns, published(is_v4));
            assert_eq!(asked, expected, "{policy}: {}", published(is_v4));
        }
    }
    put(&web.agent, "client", ALLOW_ALL);
    let mut stream = connect(&stack.netns, published(true)).unwrap();
    check_lives(&mut stream);
    put(
        &web.agent,
        "client",
        r#"{"denied_cidrs": ["198.51.100.2/32"]}"#,
    );
    check_ends(&mut stream);
}

#[test]
fn p3_an_instance_denies_another_ones_guest_by_its_own_address() {
    let web = Web::new(ALLOW_ALL);
    let stack = boot(&web.world, &web.agent, &told(json!({ "name": "client" })));
    let mut stream = connect(&stack.netns, published(true)).unwrap();
    check_lives(&mut stream);
    put(&web.agent, "web", r#"{"denied_cidrs": ["172.16.0.6/32"]}"#);
    check_ends(&mut stream);
    put(&web.agent, "web", DENY_ALL);
    assert_eq!(ask_tcp(&stack.netns, published(true)), Ok(()));
}
