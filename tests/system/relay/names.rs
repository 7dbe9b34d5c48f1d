//! Names of clients: by the relay or not, whether it has a name server or merely forwards.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use netagent_tests::dnsmasq::Dnsmasq;
use netagent_tests::name_server::{NameServer, PORT, ask_tcp, ask_udp};
use netagent_tests::packet::Packet;
use netagent_tests::relay::{SHIELD_INTERFACE, Scene, Vm, relayed};
use netagent_tests::stack::INSIDE;
use netagent_tests::world::{host_address, server_v4, server_v6};
use serde_json::{Value, json};

use crate::relay::{FAMILIES, pings};

/// What the agent's upstream answers with, another server of the world, and the relay's own.
const OF_UPSTREAM: [u8; 4] = [192, 0, 2, 10];
const OF_OTHER: [u8; 4] = [192, 0, 2, 20];
const OF_RELAY: [u8; 4] = [192, 0, 2, 30];
const NAME: &str = "name.test";

/// A relay, clients of both kinds, and the world's name servers.
struct Site {
    upstream: NameServer,
    others: [NameServer; 2],
    scene: Scene,
}

impl Site {
    fn new() -> Self {
        let client = |name: &str, relay_dns| json!({ "name": name, "network_interfaces": [relayed(relay_dns)] });
        let clients: [Value; 3] = [
            client("default", None),
            client("by-relay", Some(true)),
            client("past-relay", Some(false)),
        ];
        let configuration = format!("[dns]\nupstream = [\"{}\"]\n", server_v4(9));
        let scene = Scene::new(&configuration, &clients);
        let serve = |address: IpAddr, answer: [u8; 4]| {
            NameServer::start(&scene.world.outside, (address, PORT), answer.into())
        };
        Self {
            upstream: serve(server_v4(9).into(), OF_UPSTREAM),
            others: [
                serve(server_v4(8).into(), OF_OTHER),
                serve(server_v6(8).into(), OF_OTHER),
            ],
            scene,
        }
    }

    /// The client's gateway, and another server in both families.
    fn servers(&self, client: &Vm) -> [SocketAddr; 3] {
        [
            (client.gateway_v4, PORT).into(),
            (server_v4(8), PORT).into(),
            (server_v6(8), PORT).into(),
        ]
    }

    /// Asks over UDP and TCP; whether the questions crossed the relay's cable.
    fn check(&self, client: &Vm, server: SocketAddr, (expected, by_relay): ([u8; 4], bool)) {
        self.scene.forget();
        let what = format!("{} asks {server}", client.name);
        let udp = ask_udp(client.netns(), server, NAME).expect(&what);
        assert_eq!((udp.code, udp.last), (0, expected), "{what} over UDP");
        let tcp = ask_tcp(client.netns(), server, &[NAME]).expect(&what);
        assert_eq!((tcp[0].code, tcp[0].last), (0, expected), "{what} over TCP");
        let own = client.address(server.is_ipv4());
        let is_question = |packet: &Packet| packet.ports.1 == PORT && packet.ends.src == own;
        let crossed = self.scene.relay().packets(false, is_question);
        assert_eq!(!crossed.is_empty(), by_relay, "{what}");
    }
}

/// The upstream that was asked saw the host; of the others' queries each came from there too.
fn check_peers(server: &NameServer, is_v4: bool) {
    let queries = server.queries();
    assert!(!queries.is_empty());
    for query in queries {
        assert_eq!(query.peer, host_address(is_v4), "{query:?}");
    }
}

#[test]
fn r4_names_of_clients_work_by_a_relay_that_merely_forwards_and_past_it_also_without_it() {
    let site = Site::new();
    for client in &site.scene.clients {
        let by_relay = client.name != "past-relay";
        let [gateway, others @ ..] = site.servers(client);
        site.check(client, gateway, (OF_UPSTREAM, by_relay));
        for other in others {
            let expected = if by_relay { OF_OTHER } else { OF_UPSTREAM };
            site.check(client, other, (expected, by_relay));
        }
    }
    check_peers(&site.upstream, true);
    for (server, is_v4) in site.others.iter().zip(FAMILIES) {
        check_peers(server, is_v4);
    }
    check_listed(&site);
    check_down(site);
}

#[test]
fn r4_a_name_server_in_the_relay_answers_its_clients_whatever_server_they_ask() {
    let site = Site::new();
    let relay = site.scene.relay();
    let addresses = FAMILIES.map(|is_v4| relay.address(is_v4));
    let record = format!("host-record={NAME},{}", Ipv4Addr::from(OF_RELAY));
    let dnsmasq = Dnsmasq::start(relay.netns(), &addresses, &[&record]);
    for words in [
        "add table inet names",
        "add chain inet names pre { type nat hook prerouting priority -100 ; }",
        &format!("add rule inet names pre iifname {INSIDE} udp dport 53 redirect to :53"),
        &format!("add rule inet names pre iifname {INSIDE} tcp dport 53 redirect to :53"),
    ] {
        relay.netns().shell(&format!("nft {words}"));
    }
    for client in &site.scene.clients {
        let by_relay = client.name != "past-relay";
        let expected = if by_relay { OF_RELAY } else { OF_UPSTREAM };
        for server in site.servers(client) {
            site.check(client, server, (expected, by_relay));
        }
    }
    let asked = dnsmasq.names();
    assert_eq!(asked.len(), 2 * 3 * 2, "{asked:?}");
    assert!(site.others.iter().all(|other| other.queries().is_empty()));
}

/// A list of names holds, and the addresses that they lead to are reached by the relay.
fn check_listed(site: &Site) {
    let spec = json!({
        "name": "listed",
        "network_interfaces": [{ "relay": { "name": SHIELD_INTERFACE } }],
        "allowed_domains": [NAME],
    });
    let listed = Vm::create(&site.scene.world, &site.scene.agent, &spec);
    site.check(
        &listed,
        (listed.gateway_v4, PORT).into(),
        (OF_UPSTREAM, false),
    );
    let refused = ask_udp(listed.netns(), (listed.gateway_v4, PORT), "other.test").unwrap();
    assert_eq!(refused.code, 5, "a name that is not listed is refused");
    assert!(
        site.upstream
            .queries()
            .iter()
            .all(|query| query.name == NAME)
    );
    // The address that the name led to is reached, by the relay; it is nobody's, so the router says.
    site.scene.relay().forget();
    for address in [OF_UPSTREAM, OF_OTHER] {
        assert!(!pings(listed.netns(), address.into()));
    }
    let crossed = site
        .scene
        .relay()
        .packets(false, |packet| packet.ends.src == listed.address(true));
    let asked: Vec<IpAddr> = crossed.iter().map(|packet| packet.ends.dst).collect();
    assert_eq!(asked, [IpAddr::from(OF_UPSTREAM)]);
}

/// Without the relay names past it work, and others do not.
fn check_down(mut site: Site) {
    site.scene.kill_relay();
    let [default, _, past] = &site.scene.clients[..] else {
        panic!("three clients")
    };
    let reply = ask_udp(past.netns(), (past.gateway_v4, PORT), NAME).unwrap();
    assert_eq!((reply.code, reply.last), (0, OF_UPSTREAM));
    let before = site.upstream.queries().len();
    let dig = format!("dig +tries=1 +time=1 @{} {NAME}", default.gateway_v4);
    assert!(!default.netns().try_shell(&dig).status.success());
    assert_eq!(site.upstream.queries().len(), before);
    assert!(site.scene.drops("default", "relay_down") > 0);
}
