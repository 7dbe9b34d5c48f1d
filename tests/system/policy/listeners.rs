//! Listeners of the host that the configuration opens to guests (P-7, `policy.allow_host_ports`), with real stacks at both
//! ends.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream};
use std::time::Duration;

use netagent_common::net::GATEWAY_V6;
use netagent_tests::agent::Agent;
use netagent_tests::client::{connect, connect_from, echo};
use netagent_tests::deadline::SOON;
use netagent_tests::guest::Guest;
use netagent_tests::server::{PORT, Server, bound};
use netagent_tests::stack::{INSIDE, Stack};
use netagent_tests::tap::Header;
use netagent_tests::world::{World, host_address};
use nix::net::if_::if_nametoindex;
use serde_json::{Value, json};

use super::site::{ALLOW_ALL, DENY_ALL, ask_tcp, ask_udp, drops, put, told};

/// A port that is open to guests, and at which nobody listens unless a test does.
const OPEN: u16 = 8_080;
/// One that is not.
const CLOSED: u16 = 8_081;

/// Longest that a flow may outlive what forbids it (P-9).
const A_SECOND: Duration = Duration::from_secs(1);
/// Time in which nothing is to come.
const MOMENT: Duration = Duration::from_millis(300);

fn configuration() -> String {
    format!("[policy]\nallow_host_ports = [{PORT}, \"{PORT}/udp\", {OPEN}, \"{OPEN}/udp\"]\n")
}

struct Site {
    stack: Stack,
    guest: [IpAddr; 2],
    gateway_v4: IpAddr,
    agent: Agent,
    world: World,
}

impl Site {
    fn new() -> Self {
        let world = World::new();
        let agent = world.agent(&configuration());
        let spec = told(json!({ "name": "a" }));
        let mut guest = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
        let nic = guest.nics.remove(0);
        let addresses = [true, false].map(|is_v4| nic.address(is_v4));
        let gateway_v4 = nic.gateway(true);
        Self {
            stack: Stack::boot(nic, 1_500),
            guest: addresses,
            gateway_v4,
            agent,
            world,
        }
    }

    /// The guest connects from the address that the host has a route to; at the gateway Linux would take its link-local one.
    fn connect(&self, to: SocketAddr) -> TcpStream {
        let from = self.guest[usize::from(to.is_ipv6())];
        connect_from(&self.stack.netns, (from, 0).into(), to)
    }

    fn gateways(&self) -> [SocketAddr; 2] {
        let index = self.stack.netns.run(|| if_nametoindex(INSIDE)).unwrap();
        let v6 = SocketAddrV6::new(GATEWAY_V6.into(), PORT, 0, index);
        [(self.gateway_v4, PORT).into(), v6.into()]
    }

    /// A connection of the guest to a port of the host, with both its ends.
    fn connected(&self, is_v4: bool) -> (TcpStream, TcpStream) {
        let listener = self
            .world
            .host
            .run(|| TcpListener::bind((host_address(is_v4), OPEN)));
        let listener = listener.unwrap();
        let mut client = self.connect((host_address(is_v4), OPEN).into());
        let (mut server, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), self.guest[usize::from(!is_v4)], "no NAT");
        server.set_read_timeout(Some(SOON)).unwrap();
        check_lives(&mut client, &mut server);
        (client, server)
    }

    fn explain(&self, asked: &str) -> Value {
        self.agent.say_json(&["explain", "a", asked, "--json"])
    }

    fn assert_nothing_to_do(&self) {
        let plan = self.agent.api("GET", "/v1/plan", "").body;
        assert_eq!(plan, json!({"steps": [], "problems": []}));
    }
}

/// Whether a byte goes each way.
fn check_lives(client: &mut TcpStream, server: &mut TcpStream) {
    client.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
    server.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
}

/// The next thing that the guest says ends the connection at both ends, within a second.
fn check_ends(client: &mut TcpStream, server: &mut TcpStream) {
    // An acknowledgement that its stack owed may have ended it already.
    match client.write_all(b"x") {
        Ok(()) => check_reset(client),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    check_reset(server);
}

fn check_reset(end: &mut TcpStream) {
    end.set_read_timeout(Some(A_SECOND)).unwrap();
    let read = end.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(read, Err(ErrorKind::ConnectionReset));
}

fn any(is_v4: bool) -> IpAddr {
    if is_v4 {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    }
}

#[test]
fn p7_a_guest_reaches_the_hosts_listeners_at_its_gateway_and_at_the_hosts_address() {
    let site = Site::new();
    let host = &site.world.host;
    for (is_v4, gateway) in [true, false].into_iter().zip(site.gateways()) {
        let at_host = SocketAddr::new(host_address(is_v4), PORT);
        let on_all = Server::tcp(host, any(is_v4));
        for to in [gateway, at_host] {
            echo(site.connect(to), 1 << 20);
        }
        // Its answers come from the address that the host's routes name.
        let datagrams = Server::udp(host, any(is_v4));
        let nearest = if is_v4 { gateway } else { at_host };
        assert_eq!(ask_udp(&site.stack.netns, nearest), Ok(()));
        let peers = on_all.peers();
        let guest = site.guest[usize::from(!is_v4)];
        assert_eq!(peers.len(), 2);
        assert!(peers.iter().all(|peer| peer.ip() == guest), "{peers:?}");
        drop((on_all, datagrams));
        let _on_uplink = Server::tcp(host, host_address(is_v4));
        echo(site.connect(at_host), 1 << 20);
        let _datagrams = Server::udp(host, host_address(is_v4));
        assert_eq!(ask_udp(&site.stack.netns, at_host), Ok(()));
    }
    assert_eq!(site.agent.guest_drops("a"), [].into());
    for asked in [site.gateway_v4, host_address(true)] {
        let answer = site.explain(&format!("{asked}:{PORT}"));
        assert_eq!(answer["verdict"], "allowed");
        assert_eq!(answer["rule"], "policy.allow_host_ports: 7/tcp");
        assert_eq!(answer["path"], "a listener of the host");
    }
    site.assert_nothing_to_do();
}

#[test]
fn p7_a_port_at_which_nobody_listens_is_refused_by_the_host_and_a_closed_one_by_the_datapath() {
    let site = Site::new();
    let netns = &site.stack.netns;
    for is_v4 in [true, false] {
        let to = |port| SocketAddr::new(host_address(is_v4), port);
        let refused = Err(ErrorKind::ConnectionRefused);
        assert_eq!(ask_tcp(netns, to(OPEN)), refused);
        assert_eq!(ask_udp(netns, to(OPEN)), refused);
        assert_eq!(site.agent.guest_drops("a").get("icmp_error"), None);
        // As Linux reports "communication administratively prohibited".
        let prohibited = if is_v4 {
            ErrorKind::HostUnreachable
        } else {
            ErrorKind::PermissionDenied
        };
        let before = drops(&site.agent, "a", "host_address");
        assert_eq!(ask_tcp(netns, to(CLOSED)), Err(prohibited));
        assert_eq!(ask_udp(netns, to(CLOSED)), Err(prohibited));
        assert!(drops(&site.agent, "a", "host_address") > before);
    }
    let closed = SocketAddr::new(site.gateway_v4, CLOSED);
    assert_eq!(ask_tcp(netns, closed), Err(ErrorKind::HostUnreachable));
    let rule = site.explain(&closed.to_string())["rule"].clone();
    assert_eq!(rule, "the gateway serves echo, DNS and DHCP alone");
}

#[test]
fn p9_a_restart_with_the_port_loses_nothing_and_one_without_it_ends_the_connection_for_both_ends() {
    let mut site = Site::new();
    let mut connections = [true, false].map(|is_v4| site.connected(is_v4));
    site.agent.kill9();
    for (client, server) in &mut connections {
        check_lives(client, server);
    }
    site.agent.run();
    for (client, server) in &mut connections {
        check_lives(client, server);
    }
    site.agent.stop();
    site.agent
        .configure(&format!("[policy]\nallow_host_ports = [{PORT}]\n"));
    site.agent.run();
    for (client, server) in &mut connections {
        check_ends(client, server);
    }
    site.assert_nothing_to_do();
    for is_v4 in [true, false] {
        let to = SocketAddr::new(host_address(is_v4), OPEN);
        let _listener = bound(|| site.world.host.run(|| TcpListener::bind(to)));
        assert!(connect(&site.stack.netns, to).is_err());
        let _server = Server::tcp(&site.world.host, host_address(is_v4));
        let to = (host_address(is_v4), PORT).into();
        assert_eq!(ask_tcp(&site.stack.netns, to), Ok(()), "that one stays");
    }
}

#[test]
fn p9_a_policy_that_forbids_the_address_ends_the_connection_and_refuses_the_next() {
    let site = Site::new();
    for is_v4 in [true, false] {
        let address = host_address(is_v4);
        let length = if is_v4 { 32 } else { 128 };
        let denied = json!({ "denied_cidrs": [format!("{address}/{length}")] }).to_string();
        let allowed = json!({ "allowed_cidrs": [format!("{address}/{length}")] }).to_string();
        for policy in [&*denied, DENY_ALL, r#"{"allowed_cidrs": []}"#] {
            put(&site.agent, "a", ALLOW_ALL);
            let (mut client, mut server) = site.connected(is_v4);
            put(&site.agent, "a", &allowed);
            check_lives(&mut client, &mut server);
            put(&site.agent, "a", policy);
            check_ends(&mut client, &mut server);
            let again = ask_tcp(&site.stack.netns, (address, OPEN).into());
            assert_eq!(again, Err(ErrorKind::ConnectionRefused), "{policy}");
        }
    }
}

#[test]
fn p7_the_hosts_input_chain_judges_what_guests_send_to_its_listeners_and_doctor_says_so() {
    let site = Site::new();
    let nft = |words: &str| site.world.host.shell(&format!("nft add {words}"));
    let doctor = |check: &str| -> Option<Value> {
        let output = site.agent.try_cli("doctor", &["--json"]);
        let checks: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        checks.into_iter().find(|one| one["check"] == check)
    };
    let _server = Server::tcp(&site.world.host, any(true));
    let to = SocketAddr::new(site.gateway_v4, PORT);
    assert_eq!(ask_tcp(&site.stack.netns, to), Ok(()));
    assert_eq!(doctor("input chain"), None);
    nft("table ip filter");
    nft("chain ip filter input { type filter hook input priority 0; policy drop; }");
    let knocked = site
        .stack
        .netns
        .run(|| TcpStream::connect_timeout(&to, MOMENT));
    assert_eq!(knocked.unwrap_err().kind(), ErrorKind::TimedOut);
    let said = doctor("input chain").unwrap();
    assert_eq!(said["result"], "note", "{said}");
    let fix = said["fix"].as_str().unwrap();
    assert!(fix.contains("7/tcp, 7/udp, 8080/tcp, 8080/udp"), "{fix}");
    nft(&format!("rule ip filter input tcp dport {PORT} accept"));
    assert_eq!(ask_tcp(&site.stack.netns, to), Ok(()));
}
