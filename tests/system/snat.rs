//! N-8: an instance leaves under an address that the operator gave the uplink for it, and under no other.

use std::net::IpAddr;

use netagent_tests::agent::Agent;
use netagent_tests::deadline::{SOON, wait_until};
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::packet::{self, Packet};
use netagent_tests::ping::ping;
use netagent_tests::raw::Raw;
use netagent_tests::server::Server;
use netagent_tests::stack::Stack;
use netagent_tests::talk::Talk;
use netagent_tests::tap::Header;
use netagent_tests::world::{
    FAR_END, HOST_V4, HOST_V6, SILENT, UPLINK, World, host_address, server_v4, server_v6,
};
use serde_json::{Value, json};

use crate::changes::leaves;
use crate::stacks::{echo_tcp, echo_udp};

/// Routed to the host, and in none of its networks: one of each family.
const OWN: [&str; 2] = ["192.0.2.77", "2001:db8:77::77"];

fn own(index: usize) -> IpAddr {
    OWN[index].parse().unwrap()
}

/// As the error says that it is added.
fn to_be_added(index: usize) -> String {
    match index {
        0 => format!("{}/32 dev {UPLINK}", OWN[index]),
        _ => format!("{}/128 dev {UPLINK} preferred_lft 0", OWN[index]),
    }
}

/// A world that finds these addresses behind the host, which does not have them yet.
fn world() -> World {
    let world = World::new();
    for (address, host) in OWN
        .into_iter()
        .zip([HOST_V4.to_string(), HOST_V6.to_string()])
    {
        let route = format!("route add {address} via {host} dev {FAR_END}");
        world.outside.ip(&route);
    }
    world
}

fn add(world: &World, index: usize) {
    let flags = if index == 0 { "" } else { "nodad" };
    let address = to_be_added(index);
    world.host.ip(&format!("address add {address} {flags}"));
}

fn remove(world: &World, index: usize) {
    let (address, length) = (OWN[index], [32, 128][index]);
    let address = format!("{address}/{length} dev {UPLINK}");
    world.host.ip(&format!("address delete {address}"));
}

fn spec(name: &str, index: usize) -> Value {
    json!({"name": name, "snat_address": OWN[index]})
}

fn boot(world: &World, agent: &Agent, spec: &Value) -> Stack {
    let mut guest = Guest::create_from(agent, &world.host, spec, Header::Vnet);
    Stack::boot(guest.nics.remove(0), 1_500)
}

/// Everything that a guest says to the world arrives under these addresses, and is answered.
fn check_reached(world: &World, stack: &Stack, addresses: [IpAddr; 2]) {
    let remotes: [IpAddr; 2] = [server_v4(0).into(), server_v6(0).into()];
    for (remote, address) in remotes.into_iter().zip(addresses) {
        let servers = [
            Server::tcp(&world.outside, remote),
            Server::udp(&world.outside, remote),
        ];
        echo_tcp(&stack.netns, remote, 1 << 20);
        echo_udp(&stack.netns, remote, 1_200);
        // In fragments, too.
        echo_udp(&stack.netns, remote, 9_000);
        ping(&stack.netns, remote, (3, 1_400)).unwrap();
        for server in servers {
            let peers = server.peers();
            assert!(!peers.is_empty());
            assert!(peers.iter().all(|peer| peer.ip() == address), "{peers:?}");
        }
    }
}

#[test]
fn n8_an_instance_leaves_under_the_address_that_it_names_and_others_as_before() {
    for configuration in ["", "[datapath]\nattach = \"clsact\"\n"] {
        let world = world();
        let agent = world.agent(configuration);
        for (index, address) in OWN.into_iter().enumerate() {
            let message = format!(
                "Address {address} cannot be snat_address: no uplink of this host has it. Add it with 'ip address add {}'",
                to_be_added(index)
            );
            agent.refuse(&spec("early", index), (409, &message));
            // At once, whether the agent has heard of the address or not.
            add(&world, index);
            agent.create(&spec(&format!("both{index}"), index));
        }
        let usual = [true, false].map(host_address);
        for index in 0..2 {
            let name = format!("own{index}");
            let stack = boot(&world, &agent, &spec(&name, index));
            let mut expected = usual;
            expected[index] = own(index);
            check_reached(&world, &stack, expected);
            assert_eq!(agent.inspect(&name)["snat_address"], OWN[index]);
        }
        let plain = boot(&world, &agent, &json!({"name": "plain"}));
        check_reached(&world, &plain, usual);
        assert_eq!(agent.inspect("plain").get("snat_address"), None);
        assert_eq!(agent.cli("plan", &[]).trim(), "nothing to do");
    }
}

#[test]
fn n8_by_the_command_line_too_and_what_no_guest_can_leave_under_is_refused() {
    let world = world();
    let agent = world.agent("");
    add(&world, 0);
    agent.cli("create", &["--name", "flag", "--snat-address", OWN[0]]);
    let shown = agent.cli("inspect", &["flag"]);
    let words: Vec<&str> = shown.split_whitespace().collect();
    assert!(
        words.windows(2).any(|two| two == ["snat_address", OWN[0]]),
        "{shown}"
    );
    world
        .host
        .ip(&format!("address add 172.16.9.9/32 dev {UPLINK}"));
    for bad in [
        "127.0.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "fe80::1",
        "172.16.9.9",
        "eth0",
    ] {
        let answer = agent.api(
            "POST",
            "/v1/instances",
            &json!({"snat_address": bad}).to_string(),
        );
        let expected = format!("Invalid snat_address '{bad}': use ");
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.message().starts_with(&expected), "{answer:?}");
    }
    let change = json!({"publish": [], "snat_address": OWN[1]}).to_string();
    let answer = agent.api("PUT", "/v1/instances/flag/publish", &change);
    assert_eq!(answer.status, 409, "{answer:?}");
}

/// Sends a datagram; the addresses of the host under which it arrived on the wire, if it did.
fn sources(nic: &Nic, wire: &Raw, remote: IpAddr) -> Vec<IpAddr> {
    nic.tap
        .send_bytes(packet::udp(&nic.to(remote), (9_100, 7), b"closed?"));
    let received = std::iter::from_fn(|| wire.receive_now());
    let packets = received.filter_map(|received| Packet::parse(&received.frame.bytes));
    let towards = packets.filter(|packet| packet.ends.dst == remote);
    towards.map(|packet| packet.ends.src).collect()
}

fn reason(agent: &Agent, name: &str) -> Option<String> {
    let instance = agent.inspect(name);
    let is_error = instance["status"] == "error";
    let reason = instance.get("reason").and_then(Value::as_str);
    assert_eq!(is_error, reason.is_some(), "{instance}");
    reason.map(str::to_owned)
}

#[test]
fn n8_while_the_address_is_gone_nothing_leaves_and_it_works_again_by_itself() {
    for index in 0..2 {
        let world = world();
        let mut agent = world.agent("");
        add(&world, index);
        let guest = Guest::create_from(&agent, &world.host, &spec("own", index), Header::Vnet);
        let (nic, wire) = (guest.nic(), world.wire());
        let (remote, other) = (SILENT[index], SILENT[1 - index]);
        let from = |remote| leaves(nic, &wire, remote, 9_000).map(|(source, _)| source);
        let usual = host_address(index != 0);
        assert_eq!((from(remote), from(other)), (Some(own(index)), Some(usual)));

        let gone = format!(
            "the host no longer has its snat_address {}, and it leaves under no other: add it to an uplink again",
            OWN[index]
        );
        let is_closed = |agent: &Agent| {
            let found = sources(nic, &wire, remote);
            assert!(
                found.iter().all(|source| *source == own(index)),
                "{found:?}"
            );
            found.is_empty() && reason(agent, "own").as_ref() == Some(&gone)
        };
        remove(&world, index);
        wait_until("it is closed and says so", SOON, || is_closed(&agent));
        assert_eq!((from(remote), from(other)), (None, Some(usual)));
        wait_until("it is counted", SOON, || {
            agent.drops("own").contains_key("snat_address")
        });
        assert!(agent.cli("plan", &[]).contains(&gone));

        add(&world, index);
        wait_until("it is open", SOON, || from(remote) == Some(own(index)));
        wait_until("it is well", SOON, || reason(&agent, "own").is_none());

        // While nobody looks.
        agent.kill9();
        remove(&world, index);
        agent.run();
        wait_until("it is closed and says so", SOON, || is_closed(&agent));
        agent.change("own", "stop");
        agent.change("own", "start");
        assert_eq!(reason(&agent, "own").as_ref(), Some(&gone));
        add(&world, index);
        wait_until("it is well", SOON, || reason(&agent, "own").is_none());
    }
}

#[test]
fn n8_a_stream_lives_as_long_as_the_host_has_the_address() {
    for index in 0..2 {
        let world = world();
        let mut agent = world.agent("");
        add(&world, index);
        let stack = boot(&world, &agent, &spec("own", index));
        let remote = [server_v4(0).into(), server_v6(0).into()][index];
        let server = Server::tcp(&world.outside, remote);
        let mut talk = Talk::open(&stack.netns, remote);
        agent.kill9();
        talk.exchange();
        agent.run();
        talk.exchange();
        // Other addresses of the uplink come and go.
        let other = ["198.51.100.99/24", "2001:db8:100::99/64"][index];
        world.host.ip(&format!("address add {other} dev {UPLINK}"));
        talk.exchange();
        world
            .host
            .ip(&format!("address delete {other} dev {UPLINK}"));
        talk.exchange();
        let peers = server.peers();
        assert_eq!(peers.len(), 1, "one stream: {peers:?}");
        assert_eq!(peers[0].ip(), own(index));
        remove(&world, index);
        wait_until("its reason is shown", SOON, || {
            reason(&agent, "own").is_some()
        });
        talk.say();
        wait_until("nothing leaves", SOON, || {
            agent.drops("own").contains_key("snat_address")
        });
    }
}
