//! DHCP (G-1): what a guest is given, however it asks.

mod clients;
mod hostile;
mod surroundings;

use std::net::Ipv4Addr;

use netagent_common::net::GATEWAY_MAC;
use netagent_tests::agent::Agent;
use netagent_tests::dhcp::{Answer, Client, Message, Way, kind, option};
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::neighbour::BROADCAST;
use netagent_tests::packet::Ends;
use netagent_tests::tap::Header;
use netagent_tests::world::World;
use serde_json::{Value, json};

/// Seconds of a lease.
const LEASE: u32 = 86_400;

/// A world with an agent and one guest.
pub(crate) struct Scene {
    pub(crate) guest: Guest,
    pub(crate) agent: Agent,
    pub(crate) world: World,
}

impl Scene {
    pub(crate) fn new(configuration: &str, spec: &Value, header: Header) -> Self {
        let world = World::new();
        let agent = world.agent(configuration);
        let guest = Guest::create_from(&agent, &world.host, spec, header);
        Self {
            guest,
            agent,
            world,
        }
    }

    /// One guest with one interface of the pool.
    pub(crate) fn plain() -> Self {
        Self::new("", &json!({ "name": "asks" }), Header::Vnet)
    }

    pub(crate) fn nic(&self) -> &Nic {
        self.guest.nic()
    }

    pub(crate) fn client(&self) -> Client<'_> {
        Client::new(self.nic())
    }
}

/// Where an answer to a guest that has its address, or will have it, goes.
fn to_guest(nic: &Nic) -> Ends {
    Ends {
        src_mac: GATEWAY_MAC,
        dst_mac: nic.mac,
        src: nic.gateway_v4.into(),
        dst: nic.v4.into(),
        ttl: 64,
    }
}

fn to_everybody(nic: &Nic) -> Ends {
    Ends {
        dst_mac: BROADCAST,
        ..to_guest(nic).to(Ipv4Addr::BROADCAST)
    }
}

/// Checks what every offer and acknowledgement of the reserved address holds, and where it goes.
fn check_gift(answer: &Answer, nic: &Nic, ends: Ends) {
    let message = &answer.message;
    assert_eq!(answer.ends, ends);
    assert!(answer.length >= 300, "as long as BOOTP wants: {answer:?}");
    assert_eq!(message.given(), nic.v4);
    assert_eq!(message.mac, nic.mac);
    assert_eq!(message.address(option::SERVER), Some(nic.gateway_v4));
    let times = [option::LEASE, option::RENEWAL, option::REBINDING];
    assert_eq!(
        times.map(|time| message.number(time)),
        [Some(LEASE), Some(3_600), Some(75_600)]
    );
}

/// Checks what a guest with one interface of the pool and a host with the usual MTU is told.
fn check_told(message: &Message, nic: &Nic) {
    let mask = Ipv4Addr::new(255, 255, 255, 252);
    assert_eq!(message.address(option::MASK), Some(mask));
    assert_eq!(message.address(option::ROUTER), Some(nic.gateway_v4));
    assert_eq!(message.address(option::DNS), Some(nic.gateway_v4));
    assert_eq!(message.number(option::MTU), Some(1_500));
    assert_eq!(message.text(option::HOST_NAME).as_deref(), Some("asks"));
    assert_eq!(message.options.get(&option::ROUTES), None);
}

#[test]
fn a_new_guest_is_given_its_reserved_address_and_told_what_it_needs() {
    for (header, attach) in [
        (Header::Vnet, "tcx"),
        (Header::None, "tcx"),
        (Header::Vnet, "clsact"),
        (Header::None, "clsact"),
    ] {
        let configuration = format!("[datapath]\nattach = \"{attach}\"\n");
        let scene = Scene::new(&configuration, &json!({ "name": "asks" }), header);
        let (offer, given) = scene.client().take(0x11_22_33_44);
        for answer in [offer, given] {
            check_gift(&answer, scene.nic(), to_guest(scene.nic()));
            check_told(&answer.message, scene.nic());
        }
        assert_eq!(scene.agent.guest_drops("asks"), [].into());
    }
}

#[test]
fn a_guest_that_cannot_hear_its_own_address_yet_is_answered_by_broadcast() {
    let scene = Scene::plain();
    let (client, nic) = (scene.client(), scene.nic());
    let discover = client.question(kind::DISCOVER, 1).broadcast();
    let offer = client.ask(Way::NEW, &discover);
    check_gift(&offer, nic, to_everybody(nic));
    let request = client
        .question(kind::REQUEST, 2)
        .broadcast()
        .with_address(option::WANTED, nic.v4)
        .with_address(option::SERVER, nic.gateway_v4);
    check_gift(&client.ask(Way::NEW, &request), nic, to_everybody(nic));
}

#[test]
fn a_guest_that_remembers_its_address_keeps_it_and_one_that_remembers_another_is_refused() {
    let scene = Scene::plain();
    let (client, nic) = (scene.client(), scene.nic());
    let reboot = |xid, address| {
        let request = client.question(kind::REQUEST, xid);
        client.ask(Way::NEW, &request.with_address(option::WANTED, address))
    };
    let kept = reboot(1, nic.v4);
    assert_eq!(kept.message.kind(), kind::ACK);
    check_gift(&kept, nic, to_guest(nic));
    let others = [[172, 16, 0, 6], [192, 168, 1, 7], [0, 0, 0, 0]];
    for (xid, other) in (2..).zip(others) {
        let refused = reboot(xid, Ipv4Addr::from(other));
        assert_eq!(refused.message.kind(), kind::NAK, "{refused:?}");
        assert_eq!(refused.ends, to_everybody(nic));
        assert_eq!(refused.message.given(), Ipv4Addr::UNSPECIFIED);
        let server = refused.message.address(option::SERVER);
        assert_eq!(server, Some(nic.gateway_v4));
    }
    let chosen = client
        .question(kind::REQUEST, 9)
        .with_address(option::WANTED, Ipv4Addr::new(172, 16, 0, 6))
        .with_address(option::SERVER, nic.gateway_v4);
    let refused = client.ask(Way::NEW, &chosen);
    assert_eq!(refused.message.kind(), kind::NAK, "{refused:?}");
}

#[test]
fn a_lease_is_renewed_by_asking_the_gateway_and_by_asking_everybody() {
    let scene = Scene::plain();
    let (client, nic) = (scene.client(), scene.nic());
    for (xid, dst) in [(1, nic.gateway_v4), (2, Ipv4Addr::BROADCAST)] {
        let request = client.question(kind::REQUEST, xid).from(nic.v4);
        let answer = client.ask(Way { src: nic.v4, dst }, &request);
        assert_eq!(answer.message.kind(), kind::ACK);
        check_gift(&answer, nic, to_guest(nic));
        check_told(&answer.message, nic);
    }
}

#[test]
fn an_address_that_is_given_back_or_declined_stays_reserved() {
    let scene = Scene::plain();
    let (client, nic) = (scene.client(), scene.nic());
    client.take(1);
    let server = |message: Message| message.with_address(option::SERVER, nic.gateway_v4);
    let release = server(client.question(kind::RELEASE, 3).from(nic.v4));
    let way = Way {
        src: nic.v4,
        dst: nic.gateway_v4,
    };
    client.send(way, &release);
    let decline = server(client.question(kind::DECLINE, 4));
    client.send(Way::NEW, &decline.with_address(option::WANTED, nic.v4));
    client.check_silence(5);
    let (_, again) = client.take(6);
    check_gift(&again, nic, to_guest(nic));
    let shown = &scene.agent.inspect("asks")["network_interfaces"][0];
    assert_eq!(shown["ip"], format!("{}/30", nic.v4));
    assert_eq!(scene.agent.guest_drops("asks"), [].into());
}

#[test]
fn a_guest_with_a_typed_address_asks_for_the_rest() {
    let scene = Scene::plain();
    let (client, nic) = (scene.client(), scene.nic());
    for (xid, dst) in [(1, nic.gateway_v4), (2, Ipv4Addr::BROADCAST)] {
        let inform = client.question(kind::INFORM, xid).from(nic.v4);
        let answer = client.ask(Way { src: nic.v4, dst }, &inform);
        assert_eq!(answer.message.kind(), kind::ACK);
        assert_eq!(answer.ends, to_guest(nic));
        assert_eq!(answer.message.given(), Ipv4Addr::UNSPECIFIED);
        for time in [option::LEASE, option::RENEWAL, option::REBINDING] {
            assert_eq!(answer.message.number(time), None);
        }
        check_told(&answer.message, nic);
    }
}

#[test]
fn only_the_interface_of_the_default_route_is_told_a_router() {
    let spec = json!({
        "name": "several",
        "network_interfaces": [
            { "ip": "192.168.0.1/30", "tap_name": "vpc0" },
            {},
            { "ip": "10.9.0.5/24", "tap_name": "vpc1", "autoconfig": false },
        ],
    });
    let scene = Scene::new("", &spec, Header::Vnet);
    let [first, pool, last] = &scene.guest.nics[..] else {
        panic!("three interfaces: {}", scene.guest.answer)
    };
    // The one that does not configure itself asked, so it is answered (I-17).
    let masks = [
        [255, 255, 255, 252],
        [255, 255, 255, 252],
        [255, 255, 255, 0],
    ];
    for (nic, mask) in [first, pool, last].into_iter().zip(masks) {
        let (_, given) = Client::new(nic).take(7);
        check_gift(&given, nic, to_guest(nic));
        let router = (nic.tap_name == pool.tap_name).then_some(nic.gateway_v4);
        assert_eq!(given.message.address(option::ROUTER), router);
        assert_eq!(given.message.address(option::MASK), Some(mask.into()));
        assert_eq!(given.message.address(option::DNS), Some(nic.gateway_v4));
        let name = given.message.text(option::HOST_NAME);
        assert_eq!(name.as_deref(), Some("several"));
    }
}

#[test]
fn a_gateway_outside_the_network_comes_as_a_classless_route_too() {
    let mut spec = json!({ "name": "offlink", "gateway": "192.168.7.9", "nameserver": "1.2.3.4" });
    let cases = [
        (json!([{}]), [192, 168, 7, 9], [1, 2, 3, 4]),
        (
            json!([{ "ip": "10.9.0.5/32", "tap_name": "alone0" }]),
            [169, 254, 1, 1],
            [169, 254, 1, 1],
        ),
    ];
    for (interfaces, gateway, name_server) in cases {
        spec["network_interfaces"] = interfaces;
        let scene = Scene::new("", &spec, Header::Vnet);
        let (_, given) = scene.client().take(1);
        check_gift(&given, scene.nic(), to_guest(scene.nic()));
        let router = given.message.address(option::ROUTER);
        assert_eq!(router, Some(gateway.into()), "for clients without routes");
        let mut routes = vec![32];
        routes.extend(gateway);
        routes.extend([0, 0, 0, 0, 0]);
        routes.extend(gateway);
        assert_eq!(given.message.options.get(&option::ROUTES), Some(&routes));
        let told = given.message.address(option::DNS);
        assert_eq!(told, Some(name_server.into()));
        // With a /32 all of it is derived.
        spec = json!({ "name": "offlink" });
    }
}

#[test]
fn a_renewal_may_ask_the_gateway_of_the_instance_whose_answer_comes_from_the_server() {
    let spec = json!({
        "name": "asks",
        "network_interfaces": [{}, { "ip": "192.168.0.1/24", "tap_name": "vpc0" }],
        "gateway": "192.168.0.100",
    });
    let scene = Scene::new("", &spec, Header::Vnet);
    let nic = &scene.guest.nics[1];
    let client = Client::new(nic);
    let request = client.question(kind::REQUEST, 1).from(nic.v4);
    let way = Way {
        src: nic.v4,
        dst: Ipv4Addr::new(192, 168, 0, 100),
    };
    let answer = client.ask(way, &request);
    assert_eq!(answer.message.kind(), kind::ACK);
    check_gift(&answer, nic, to_guest(nic));
    let router = answer.message.address(option::ROUTER);
    assert_eq!(router, Some(way.dst));
}

#[test]
fn a_guest_is_told_only_what_it_asks_for() {
    let scene = Scene::plain();
    let (client, nic) = (scene.client(), scene.nic());
    let discover = client
        .question(kind::DISCOVER, 1)
        .with(option::LIST, [option::MASK, option::ROUTER]);
    let offer = client.ask(Way::NEW, &discover);
    check_gift(&offer, nic, to_guest(nic));
    for unasked in [option::DNS, option::MTU, option::HOST_NAME, option::ROUTES] {
        assert_eq!(offer.message.options.get(&unasked), None, "{unasked}");
    }
    let identity = vec![1, 0xaa, 0xfc, 0, 0, 0, 1];
    let named = client
        .question(kind::DISCOVER, 2)
        .with(option::CLIENT, identity.clone());
    let offer = client.ask(Way::NEW, &named);
    let echoed = offer.message.options.get(&option::CLIENT);
    assert_eq!(echoed, Some(&identity), "RFC 6842");
}

#[test]
fn a_pool_whose_gateways_are_last_is_told_so() {
    let configuration = "[pool]\nsubnet = \"10.77.0.0/24\"\ngateway = \"last\"\n";
    let scene = Scene::new(configuration, &json!({ "name": "asks" }), Header::Vnet);
    let nic = scene.nic();
    let pair = (nic.v4.octets(), nic.gateway_v4.octets());
    assert_eq!(pair, ([10, 77, 0, 1], [10, 77, 0, 2]));
    let (_, given) = scene.client().take(1);
    check_gift(&given, nic, to_guest(nic));
    check_told(&given.message, nic);
}

#[test]
fn guests_that_ask_at_once_with_one_number_are_given_each_its_own() {
    let scene = Scene::plain();
    let (agent, host) = (&scene.agent, &scene.world.host);
    let others = ["b", "c"].map(|name| Guest::create(agent, host, name, Header::Vnet));
    let nics = [scene.nic(), others[0].nic(), others[1].nic()];
    for nic in nics {
        let client = Client::new(nic);
        client.send(Way::NEW, &client.question(kind::DISCOVER, 1).broadcast());
    }
    for (nic, name) in nics.into_iter().zip(["asks", "b", "c"]) {
        let offer = Client::new(nic).answer();
        check_gift(&offer, nic, to_everybody(nic));
        let told = offer.message.text(option::HOST_NAME);
        assert_eq!(told.as_deref(), Some(name));
    }
    for nic in nics {
        while let Some(frame) = nic.tap.receive_now() {
            let another = netagent_tests::dhcp::read_answer(&frame.completed());
            assert_eq!(another, None, "an answer to another guest");
        }
    }
}

#[test]
fn who_comes_next_to_an_address_is_told_its_own_name() {
    let mut scene = Scene::plain();
    let (_, before) = scene.client().take(1);
    scene.agent.delete("asks");
    let name = format!("next-{}", "x".repeat(58));
    scene.guest = Guest::create(&scene.agent, &scene.world.host, &name, Header::Vnet);
    let (_, after) = scene.client().take(1);
    assert_eq!(after.message.given(), before.message.given());
    assert_eq!(after.message.text(option::HOST_NAME), Some(name));
}

#[test]
fn the_smallest_mtu_is_told_in_an_answer_that_is_as_long_as_any() {
    // The guest's card takes what is longer until it is told; every DHCP client takes 576 bytes (RFC 2131, 2).
    let spec = json!({ "name": "asks", "network_interfaces": [{ "mtu": 68 }] });
    let scene = Scene::new("", &spec, Header::Vnet);
    let (_, given) = scene.client().take(1);
    check_gift(&given, scene.nic(), to_guest(scene.nic()));
    assert_eq!(given.message.number(option::MTU), Some(68));
    assert!(given.length + 28 <= 576);
}
