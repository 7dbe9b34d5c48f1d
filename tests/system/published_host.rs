//! Published ports on the host's side: who has a port, what is refused, and what the agent passes on itself because no
//! program sees it.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use netagent_tests::agent::Agent;
use netagent_tests::client::{connect, connect_from, echo};
use netagent_tests::deadline::{SOON, wait_for, wait_until};
use netagent_tests::guest::Guest;
use netagent_tests::netns::{NetNs, join_by_veth};
use netagent_tests::server::{PORT, Server, bound};
use netagent_tests::stack::Stack;
use netagent_tests::tap::Header;
use netagent_tests::world::{HOST_V4, HOST_V6, World, host_address};
use serde_json::{Value, json};

/// The host's address towards containers.
const BRIDGE_V4: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
/// The host's address towards containers.
const BRIDGE_V6: Ipv6Addr = Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 1);
/// Time in which nothing is to come.
const MOMENT: Duration = Duration::from_millis(300);

/// This process, as the agent names it.
fn myself() -> String {
    let command = fs::read_to_string("/proc/self/comm").unwrap();
    format!("{} (pid {})", command.trim(), std::process::id())
}

/// A namespace behind an interface of the host that is no uplink, as containers are.
fn container(host: &NetNs) -> NetNs {
    let inside = NetNs::new();
    for netns in [host, &inside] {
        netns.sysctl("net/ipv6/conf/default/accept_ra", "0");
    }
    join_by_veth((host, "bridge0"), (&inside, "eth0"));
    host.ip(&format!("address add {BRIDGE_V4}/24 dev bridge0"));
    host.ip(&format!("address add {BRIDGE_V6}/64 dev bridge0 nodad"));
    inside.ip("address add 10.88.0.2/24 dev eth0");
    inside.ip("address add fd88::2/64 dev eth0 nodad");
    inside.ip(&format!("route add default via {BRIDGE_V4}"));
    inside.ip(&format!("route add default via {BRIDGE_V6}"));
    inside
}

fn boot(world: &World, agent: &Agent, spec: &Value) -> Stack {
    let mut guest = Guest::create_from(agent, &world.host, spec, Header::Vnet);
    Stack::boot(guest.nics.remove(0), 1_500)
}

/// The port takes the connection and ends it at once: the client may learn of it sooner or later.
fn check_reset(netns: &NetNs, to: SocketAddr) {
    let read = connect(netns, to).and_then(|mut stream| stream.read(&mut [0]));
    let read = read.map_err(|error| error.kind());
    assert_eq!(read, Err(ErrorKind::ConnectionReset), "{to}");
}

/// Whether a byte goes through the connection and back.
fn lives(stream: &mut TcpStream) -> bool {
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0]).is_ok()
}

fn ask(netns: &NetNs, bind: &str, to: SocketAddr) -> Option<SocketAddr> {
    let socket = netns.run(|| UdpSocket::bind(bind)).unwrap();
    socket.set_read_timeout(Some(MOMENT)).unwrap();
    socket.send_to(b"question", to).unwrap();
    let mut buffer = [0; 64];
    let (count, from) = socket.recv_from(&mut buffer).ok()?;
    assert_eq!(&buffer[..count], b"question");
    Some(from)
}

fn put(agent: &Agent, name: &str, body: &Value) -> Value {
    let path = format!("/v1/instances/{name}/publish");
    let answer = agent.api("PUT", &path, &body.to_string());
    assert_eq!(answer.status, 200, "{answer:?}\n{}", agent.log());
    answer.body
}

fn assert_nothing_to_do(agent: &Agent) {
    let plan = agent.api("GET", "/v1/plan", "").body;
    assert_eq!(plan, json!({"steps": [], "problems": []}));
}

/// A listener of the host, as any server makes one, where nobody else has the address for long.
fn listen(host: &NetNs, address: &str) -> TcpListener {
    bound(|| try_listen(host, address))
}

fn try_listen(host: &NetNs, address: &str) -> std::io::Result<TcpListener> {
    host.run(|| TcpListener::bind(address))
}

#[test]
fn n3_a_port_of_a_host_process_is_refused_with_its_name_and_one_that_is_published_is_nobodys() {
    let world = World::new();
    let agent = world.agent("");
    let spec = |port: &str| json!({ "name": "web", "publish": [port] });
    for taken in ["0.0.0.0:8080", "127.0.0.1:8080", "[::]:8080", "[::1]:8080"] {
        let _held = listen(&world.host, taken);
        let message = format!("Port 8080/tcp is already in use by {}", myself());
        agent.refuse(&spec("8080:80"), (409, &message));
        // UDP is another port.
        let answer = agent.api("POST", "/v1/instances", &spec("8080:80/udp").to_string());
        assert_eq!(answer.status, 201, "{answer:?}");
        agent.delete("web");
    }
    let socket = world.host.run(|| UdpSocket::bind("0.0.0.0:5353")).unwrap();
    let message = format!("Port 5353/udp is already in use by {}", myself());
    agent.refuse(&spec("5353/udp"), (409, &message));
    drop(socket);

    agent
        .create(&json!({ "name": "web", "publish": ["8080:80", "5353/udp", "127.0.0.1:9090:90"] }));
    let is_taken = |address: &str| {
        let error = try_listen(&world.host, address).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse, "{address}");
    };
    for address in [
        "0.0.0.0:8080",
        "198.51.100.2:8080",
        "[::]:8080",
        "[2001:db8:100::2]:8080",
    ] {
        is_taken(address);
    }
    is_taken("127.0.0.1:9090");
    listen(&world.host, "198.51.100.2:9090");
    for address in ["0.0.0.0:5353", "[::1]:5353"] {
        let error = world.host.run(|| UdpSocket::bind(address)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse, "{address}");
    }
    // A stopped instance keeps them, and leads nobody anywhere.
    agent.change("web", "stop");
    is_taken("0.0.0.0:8080");
    check_reset(&world.host, (Ipv4Addr::LOCALHOST, 8080).into());
    let shown = agent.inspect("web");
    assert_eq!(shown["publish"][0]["reason"], "the instance does not run");
    agent.delete("web");
    for address in ["0.0.0.0:8080", "[::]:8081", "127.0.0.1:9090"] {
        listen(&world.host, address);
    }
    assert_nothing_to_do(&agent);
}

#[test]
fn malformed_and_impossible_entries_are_refused_by_name_and_leave_nothing() {
    let world = World::new();
    let agent = world.agent("[publish]\nports = \"1024-40000\"\n");
    for (entry, status, words) in [
        (json!("0"), 400, "'0' is no port"),
        (json!("8080:65536"), 400, "'65536' is no port"),
        (json!("8080:80/sctp"), 400, "protocol 'sctp'"),
        (json!(""), 400, "'' is no port"),
        (
            json!("localhost:8080:80"),
            400,
            "'localhost' is no IP address",
        ),
        (json!("[::1:8080:80"), 400, "use <host port>"),
        (json!("0.0.0.0:8080:80"), 400, "cannot be published on"),
        (json!("224.0.0.1:8080:80"), 400, "cannot be published on"),
        (
            json!("[::ffff:127.0.0.1]:8080:80"),
            400,
            "cannot be published on",
        ),
        (
            json!("8080 from 10.0.0.0/33"),
            400,
            "Invalid CIDR prefix length: 33",
        ),
        (
            json!("8080 from everybody"),
            400,
            "Invalid CIDR format: \"everybody\". Expected format: x.x.x.x/y",
        ),
        (json!("8080 from"), 400, "it names nobody"),
        (
            json!({"host_port": 8080, "colour": 1}),
            400,
            "Unknown member 'colour'",
        ),
        (json!({"guest_port": 80}), 400, "'host_port' is missing"),
        (json!("1023"), 409, "of the configuration is 1024-40000"),
        (json!("40001"), 409, "of the configuration is 1024-40000"),
        (json!("16384"), 409, "nat.ports, 16384-29999"),
        (json!("29999/udp"), 409, "nat.ports, 16384-29999"),
        (
            json!("192.0.2.9:8080:80"),
            409,
            "it is not one of this host's",
        ),
        (
            json!("[2001:db8::9]:8080:80"),
            409,
            "it is not one of this host's",
        ),
    ] {
        let body = json!({ "publish": ["9090", entry] }).to_string();
        let answer = agent.api("POST", "/v1/instances", &body);
        assert_eq!(answer.status, status, "{body}: {answer:?}");
        assert!(answer.message().contains(words), "{body}: {answer:?}");
        if status == 400 && !words.starts_with("Unknown member") {
            let named = entry
                .as_str()
                .map_or_else(|| entry.to_string(), str::to_owned);
            assert!(answer.message().contains(&named), "{body}: {answer:?}");
        }
        listen(&world.host, "0.0.0.0:9090");
    }
    assert_eq!(agent.api("GET", "/v1/instances", "").body, json!([]));
    assert_nothing_to_do(&agent);
}

#[test]
fn after_a_kill_the_ports_are_taken_again_and_one_that_somebody_took_is_said_and_tried() {
    let world = World::new();
    let mut agent = world.agent("");
    agent
        .create(&json!({ "name": "web", "publish": ["8080:80", "9090", "127.0.0.1:7070:70/udp"] }));
    agent.kill9();
    let squatter = listen(&world.host, "198.51.100.2:8080");
    agent.run();
    assert_nothing_to_do(&agent);
    let shown = agent.inspect("web");
    let reason = format!("Port 8080/tcp is already in use by {}", myself());
    assert_eq!(
        (&shown["status"], &shown["publish"][0]["status"]),
        (&json!("running"), &json!("waiting"))
    );
    assert_eq!(shown["publish"][0]["reason"], reason);
    for other in [1, 2] {
        assert_eq!(shown["publish"][other]["status"], "published", "{shown}");
    }
    assert!(try_listen(&world.host, "0.0.0.0:9090").is_err());
    drop(squatter);
    // Whatever changes on the host makes the agent look again; else it does so every thirty seconds.
    world.host.ip("address add 192.0.2.77/32 dev lo");
    wait_until("the port is held", SOON, || {
        agent.inspect("web")["publish"][0]["status"] == "published"
    });
    assert!(try_listen(&world.host, "198.51.100.2:8080").is_err());
    agent.stop();
    agent.take_down();
    listen(&world.host, "0.0.0.0:8080");
}

#[test]
fn what_comes_from_no_uplink_is_passed_on_and_the_guest_sees_its_gateway() {
    let world = World::new();
    let agent = world.agent("");
    let container = container(&world.host);
    let published = json!([format!("8080:{PORT}"), format!("8080:{PORT}/udp")]);
    let stack = boot(
        &world,
        &agent,
        &json!({ "name": "web", "publish": published }),
    );
    for is_v4 in [true, false] {
        let any: IpAddr = if is_v4 {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let bridge: IpAddr = if is_v4 {
            BRIDGE_V4.into()
        } else {
            BRIDGE_V6.into()
        };
        let tcp = Server::tcp(&stack.netns, any);
        let udp = Server::udp(&stack.netns, any);
        // By the address of its own bridge, and by the uplink's, which is the host's as well.
        for address in [bridge, host_address(is_v4)] {
            let to = SocketAddr::new(address, 8080);
            echo(connect(&container, to).unwrap(), 4 << 20);
            let bind = SocketAddr::new(any, 0).to_string();
            let from = ask(&container, &bind, to);
            assert_eq!(from, Some(to), "the answer comes from where it was asked");
        }
        let peers = [tcp.peers(), udp.peers()].concat();
        assert_eq!(peers.len(), 4, "{peers:?}");
        for peer in peers {
            let gateway = if is_v4 {
                IpAddr::from([172, 16, 0, 1])
            } else {
                peer.ip()
            };
            assert_eq!(peer.ip(), gateway);
        }
    }
}

#[test]
fn a_socket_of_the_host_that_is_bound_to_loopback_is_passed_on() {
    let world = World::new();
    let agent = world.agent("");
    let published = json!([
        format!("127.0.0.1:8080:{PORT}"),
        format!("127.0.0.1:8080:{PORT}/udp"),
        format!("[::1]:8080:{PORT}"),
        format!("[::1]:8080:{PORT}/udp from 192.0.2.0/24"),
    ]);
    let stack = boot(
        &world,
        &agent,
        &json!({ "name": "web", "publish": published }),
    );
    for loopback in [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ] {
        let any = if loopback.is_ipv4() { "0.0.0.0" } else { "::" };
        let _tcp = Server::tcp(&stack.netns, any.parse::<IpAddr>().unwrap());
        let _udp = Server::udp(&stack.netns, any.parse::<IpAddr>().unwrap());
        let to = SocketAddr::new(loopback, 8080);
        let bind = SocketAddr::new(loopback, 0).to_string();
        assert_eq!(ask(&world.host, &bind, to), Some(to));
        echo(connect_from(&world.host, (loopback, 0).into(), to), 1 << 20);
    }
    // Nobody else comes in that way: not from the world, not from a container.
    let container = container(&world.host);
    for (netns, address) in [
        (&world.outside, IpAddr::V4(HOST_V4)),
        (&world.outside, HOST_V6.into()),
        (&container, BRIDGE_V4.into()),
        (&container, BRIDGE_V6.into()),
        (&container, HOST_V4.into()),
    ] {
        let error = connect(netns, (address, 8080).into()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{address}");
    }
}

#[test]
fn allow_from_holds_for_what_is_passed_on_and_a_change_ends_what_it_forbids() {
    let world = World::new();
    let agent = world.agent("");
    let container = container(&world.host);
    let lists = |first: &str| json!({ "publish": [format!("8080:{PORT}{first}"), format!("9090:{PORT}"), format!("8080:{PORT}/udp{first}")] });
    let mut spec = lists(" from 192.0.2.0/24");
    spec["name"] = json!("web");
    let stack = boot(&world, &agent, &spec);
    let _tcp = Server::tcp(&stack.netns, Ipv4Addr::UNSPECIFIED);
    let _udp = Server::udp(&stack.netns, Ipv4Addr::UNSPECIFIED);
    let limited = SocketAddr::from((BRIDGE_V4, 8080));
    let reset = |to| check_reset(&container, to);
    reset(limited);
    assert_eq!(ask(&container, "0.0.0.0:0", limited), None);
    let mut other = connect(&container, (BRIDGE_V4, 9090).into()).unwrap();
    assert!(lives(&mut other));

    put(&agent, "web", &lists(" from 192.0.2.0/24,10.88.0.0/16"));
    let mut stream = connect(&container, limited).unwrap();
    assert!(lives(&mut stream));
    assert_eq!(ask(&container, "0.0.0.0:0", limited), Some(limited));
    assert!(lives(&mut other), "what stays permitted goes on");

    put(&agent, "web", &lists(" from 10.88.0.0/24"));
    assert!(lives(&mut stream) && lives(&mut other), "it is still named");

    put(&agent, "web", &lists(" from 10.88.0.9"));
    stream
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    let read = stream.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(read, Err(ErrorKind::ConnectionReset), "within a second");
    assert!(lives(&mut other));
    reset(limited);

    agent.change("web", "stop");
    let read = other.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(read, Err(ErrorKind::ConnectionReset));
}

#[test]
fn p9_the_command_line_replaces_the_ports_of_a_running_instance() {
    let world = World::new();
    let agent = world.agent("");
    let made = agent.say_json(&[
        "create",
        "--json",
        "--name",
        "web",
        "--publish-port",
        "8080:80,127.0.0.1:53000:53/udp",
    ]);
    assert_eq!(made["publish"][1]["address"], "127.0.0.1");
    let changed = agent.say_json(&[
        "network",
        "web",
        "--json",
        "--publish-port",
        "9090,[::1]:9091:90",
        "--publish-from",
        "10.0.0.0/8,2001:db8::/32",
        "--exposed-port",
        "80,53/udp",
    ]);
    assert_eq!(
        changed["publish"][0]["allow_from"],
        json!(["10.0.0.0/8", "2001:db8::/32"])
    );
    assert_eq!(changed["exposed_ports"], json!(["53/udp", "80/tcp"]));
    let output = agent.say(&["inspect", "web"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let has_row = |row: &[&str]| {
        let mut lines = text.lines();
        assert!(
            lines.any(|line| line.split_whitespace().eq(row.iter().copied())),
            "{row:?}: {text}"
        );
    };
    has_row(&[
        "9090/tcp",
        "9090/tcp",
        "10.0.0.0/8,2001:db8::/32",
        "published",
    ]);
    has_row(&[
        "[::1]:9091/tcp",
        "90/tcp",
        "10.0.0.0/8,2001:db8::/32",
        "published",
    ]);
    has_row(&["-", "80/tcp", "the", "host", "exposed"]);
    listen(&world.host, "0.0.0.0:8080");
    let refused = agent.say(&["network", "web", "--publish-port", "80"]);
    let complaint = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(
        complaint,
        "netagent: Port 80/tcp cannot be published: publish.ports of the configuration is 1024-65535\n"
    );
    let none = agent.say_json(&["network", "web", "--json", "--no-ports"]);
    assert_eq!(
        (&none["publish"], &none["exposed_ports"]),
        (&json!([]), &json!([]))
    );
    assert_nothing_to_do(&agent);
    wait_for("the port is free", SOON, || {
        try_listen(&world.host, "0.0.0.0:9090").ok()
    });
}
