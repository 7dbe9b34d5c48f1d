//! A world with servers, an agent, and guests whose policy is replaced.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};

use netagent_tests::agent::Agent;
use netagent_tests::client::connect;
use netagent_tests::deadline::{SOON, wait_until};
use netagent_tests::guest::Guest;
use netagent_tests::netns::NetNs;
use netagent_tests::ping::{echo_request, ping_socket};
use netagent_tests::server::{PORT, Server};
use netagent_tests::stack::Stack;
use netagent_tests::tap::Header;
use netagent_tests::world::World;
use serde_json::{Value, json};

/// Policies that leave nothing to lists.
pub(crate) const ALLOW_ALL: &str = r#"{"network_policy": "allow-all"}"#;
pub(crate) const DENY_ALL: &str = r#"{"network_policy": "deny-all"}"#;

/// Echo servers over TCP and UDP at each address.
pub(crate) fn serve(netns: &NetNs, addresses: &[IpAddr]) -> Vec<Server> {
    let both = |address: &IpAddr| [Server::tcp(netns, *address), Server::udp(netns, *address)];
    addresses.iter().flat_map(both).collect()
}

/// A specification with this and a port of the guest's that the host may reach: the guest is told then what `deny-all`
/// refuses, for no program in front of the datapath drops it unread.
pub(crate) fn told(mut spec: Value) -> Value {
    spec["exposed_ports"] = json!(["9"]);
    spec
}

/// A guest with a stack.
pub(crate) fn boot(world: &World, agent: &Agent, spec: &Value) -> Stack {
    let mut guest = Guest::create_from(agent, &world.host, spec, Header::Vnet);
    Stack::boot(guest.nics.remove(0), 1_500)
}

/// Replaces the policy of an instance.
pub(crate) fn put(agent: &Agent, name: &str, policy: &str) {
    let answer = agent.api("PUT", &format!("/v1/instances/{name}/policy"), policy);
    assert_eq!(answer.status, 200, "{policy}: {answer:?}\n{}", agent.log());
}

/// What becomes of a guest's first packet to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is answered by who was asked.
    Answered,
    /// The policy of the instance says no.
    Refused,
}

/// Asks an echo server over TCP.
///
/// # Errors
/// Why it does not answer.
pub(crate) fn ask_tcp(netns: &NetNs, to: SocketAddr) -> Result<(), ErrorKind> {
    let asked = connect(netns, to).and_then(|mut stream| {
        stream.write_all(b"question")?;
        stream.read_exact(&mut [0; 8])
    });
    asked.map_err(|error| error.kind())
}

/// Asks an echo server over UDP; an ICMP error is reported as the kernel does.
///
/// # Errors
/// Why it does not answer.
pub(crate) fn ask_udp(netns: &NetNs, to: SocketAddr) -> Result<(), ErrorKind> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let asked = netns.run(|| {
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(SOON))?;
        socket.connect(to)?;
        socket.send(b"question")?;
        socket.recv(&mut [0; 8])
    });
    asked.map(|_| ()).map_err(|error| error.kind())
}

/// TCP, UDP and echo to an address have this fate: connections that are refused are reset, and of the rest an ICMP error
/// says that it is prohibited.
pub(crate) fn check_fate(netns: &NetNs, address: IpAddr, fate: Fate) {
    let to = SocketAddr::new(address, PORT);
    // As Linux reports "communication administratively prohibited".
    let prohibited = if address.is_ipv4() {
        ErrorKind::HostUnreachable
    } else {
        ErrorKind::PermissionDenied
    };
    let (tcp, udp) = match fate {
        Fate::Answered => (Ok(()), Ok(())),
        Fate::Refused => (Err(ErrorKind::ConnectionRefused), Err(prohibited)),
    };
    assert_eq!(ask_tcp(netns, to), tcp, "TCP to {to}");
    assert_eq!(ask_udp(netns, to), udp, "UDP to {to}");
    assert_eq!(ask_echo(netns, address), udp, "echo of {address}");
}

fn ask_echo(netns: &NetNs, address: IpAddr) -> Result<(), ErrorKind> {
    let socket = ping_socket(netns, address.is_ipv4());
    let ask = || {
        socket.set_read_timeout(Some(SOON))?;
        socket.connect((address, 0))?;
        socket.send(&echo_request(address.is_ipv4(), 1, b"question"))?;
        socket.recv(&mut [0; 64])
    };
    ask()
        .map(|_| ())
        .map_err(|error: std::io::Error| error.kind())
}

/// Waits until an instance has this many drops of a reason more than `before`.
pub(crate) fn wait_for_drops(agent: &Agent, name: &str, (reason, before, more): (&str, u64, u64)) {
    wait_until(&format!("{more} drops of {reason}"), SOON, || {
        drops(agent, name, reason) == before + more
    });
}

/// Drops of an instance for a reason.
pub(crate) fn drops(agent: &Agent, name: &str, reason: &str) -> u64 {
    agent.drops(name).get(reason).copied().unwrap_or_default()
}
