//! Router advertisements (M-8): what they say, when they come, and what is no question for one.

use std::net::Ipv6Addr;

use netagent_common::net::{GATEWAY_MAC, GATEWAY_V6};
use netagent_tests::agent::Agent;
use netagent_tests::deadline::{SOON, wait_until};
use netagent_tests::frame::Frame;
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::neighbour::icmpv6;
use netagent_tests::packet::{self, Ends};
use netagent_tests::router::{self, Advertisement, Prefix};
use netagent_tests::tap::Header;
use netagent_tests::world::{ROUTER_V6, UPLINK, World};
use serde_json::json;

fn create(agent: &Agent, world: &World) -> Guest {
    Guest::create(agent, &world.host, "asks", Header::Vnet)
}

fn network_of(address: Ipv6Addr) -> Ipv6Addr {
    let [a, b, c, d, ..] = address.segments();
    Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)
}

/// Checks what a guest of the pool is told on a host with IPv6.
fn check_told(told: &Advertisement, nic: &Nic) {
    assert_eq!(told.hop_limit, 64);
    assert_eq!(
        told.flags & 0xc0,
        0,
        "neither DHCPv6 nor other configuration"
    );
    assert!(told.lifetime > 1_800, "{told:?}");
    assert_eq!(told.mac, Some(GATEWAY_MAC));
    assert_eq!(told.mtu, Some(1_500));
    let [prefix] = told.prefixes[..] else {
        panic!("one prefix: {told:?}")
    };
    let Prefix { lifetimes, .. } = prefix;
    let expected = Prefix {
        address: network_of(nic.v6),
        length: 64,
        is_on_link: false,
        is_autonomous: true,
        lifetimes,
    };
    assert_eq!(prefix, expected);
    assert!(lifetimes.1 <= lifetimes.0 && lifetimes.1 >= 86_400);
    let [(server, lifetime)] = told.name_servers[..] else {
        panic!("one name server: {told:?}")
    };
    assert_eq!(server, Ipv6Addr::from(GATEWAY_V6));
    assert!(lifetime >= u32::from(told.lifetime).min(1_800));
}

#[test]
fn a_solicitation_from_any_address_of_the_guest_is_answered() {
    for (header, attach) in [
        (Header::Vnet, "tcx"),
        (Header::None, "tcx"),
        (Header::Vnet, "clsact"),
    ] {
        let world = World::new();
        let agent = world.agent(&format!("[datapath]\nattach = \"{attach}\"\n"));
        let guest = Guest::create(&agent, &world.host, "asks", header);
        let nic = guest.nic();
        let told = router::ask(nic);
        check_told(&told, nic);
        assert!(told.is_to_all(), "it has no address yet: {told:?}");
        let own_network = network_of(nic.v6).segments();
        let by_itself = {
            let [.., e, f, g, h] = router::link_local(nic.mac).segments();
            let [a, b, c, d, ..] = own_network;
            Ipv6Addr::new(a, b, c, d, e, f, g, h)
        };
        for src in [router::link_local(nic.mac), nic.v6, by_itself] {
            let options = router::own_mac(nic);
            for options in [&options[..], &[]] {
                nic.tap.send_bytes(router::solicitation(nic, src, options));
                let told = router::advertised(nic, |told| !told.is_to_all());
                check_told(&told, nic);
                assert_eq!((told.ends.dst, told.ends.dst_mac), (src.into(), nic.mac));
            }
        }
        assert_eq!(agent.guest_drops("asks"), [].into());
    }
}

#[test]
fn a_guest_hears_an_advertisement_unasked_when_its_vmm_comes_and_when_it_comes_again() {
    let world = World::new();
    let agent = world.agent("");
    let mut guest = create(&agent, &world);
    for _ in 0..3 {
        let told = router::advertised(guest.nic(), Advertisement::is_to_all);
        check_told(&told, guest.nic());
        drop(guest.nics.remove(0));
        let interface = &guest.answer["network_interfaces"][0];
        let again = Nic::open(&world.host, interface, Header::Vnet);
        guest.nics.push(again);
    }
}

#[test]
fn a_solicitation_whose_checksum_is_to_be_computed_is_answered() {
    let world = World::new();
    let agent = world.agent("");
    let guest = create(&agent, &world);
    let nic = guest.nic();
    let question = router::solicitation(nic, router::link_local(nic.mac), &router::own_mac(nic));
    nic.tap.send(&Frame::partial(question));
    check_told(&router::advertised(nic, |told| !told.is_to_all()), nic);
}

#[test]
fn the_users_name_server_is_told_where_it_is_of_ipv6() {
    let world = World::new();
    let agent = world.agent("");
    for (name, name_server, told) in [
        ("six", "2001:db8:53::1", "2001:db8:53::1"),
        ("four", "1.2.3.4", "fe80::1"),
    ] {
        let spec = json!({ "name": name, "nameserver": name_server });
        let guest = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
        let servers = router::ask(guest.nic()).name_servers;
        let addresses: Vec<Ipv6Addr> = servers.iter().map(|(address, _)| *address).collect();
        assert_eq!(addresses, [told.parse::<Ipv6Addr>().unwrap()]);
    }
}

#[test]
fn a_network_of_the_users_own_is_not_offered_for_addresses_and_the_route_is_one_interfaces() {
    let world = World::new();
    let agent = world.agent("");
    let spec = json!({
        "name": "mixed",
        "network_interfaces": [
            { "ip": "192.168.0.1/30", "ip6": "fec0::2/64", "tap_name": "vpc0", "mtu": 1_400 },
            {},
            { "ip": "192.168.0.5/30", "tap_name": "vpc1" },
        ],
    });
    let guest = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
    let [custom, pool, without] = &guest.nics[..] else {
        panic!("three interfaces: {}", guest.answer)
    };
    let told = router::ask(custom);
    assert_eq!((&told.prefixes[..], told.mtu), (&[][..], Some(1_400)));
    assert_eq!(told.lifetime, 0, "the default route is the pool's");
    check_told(&router::ask(pool), pool);
    // One without IPv6 is not answered, and that is counted.
    without
        .tap
        .send_bytes(router::solicitation(without, Ipv6Addr::UNSPECIFIED, &[]));
    wait_until("the question is counted", SOON, || {
        agent.guest_drops("mixed").get("router_solicit") == Some(&1)
    });
    let frames = std::iter::from_fn(|| without.tap.receive_now());
    let advertised = frames.filter_map(|frame| Advertisement::parse(&frame.completed()));
    assert_eq!(advertised.count(), 0);
}

#[test]
fn a_host_without_a_way_out_advertises_no_default_route_and_says_so_when_that_changes() {
    let world = World::new();
    let agent = world.agent("");
    let guest = create(&agent, &world);
    let nic = guest.nic();
    check_told(&router::ask(nic), nic);
    for _ in 0..2 {
        world.host.ip("-6 route delete default");
        let told = router::advertised(nic, |told| told.lifetime == 0);
        assert!(told.is_to_all(), "nobody asked: {told:?}");
        assert_eq!(told.prefixes.len(), 1, "its addresses stay: {told:?}");
        assert_eq!(router::ask(nic).lifetime, 0);
        let route = format!("-6 route add default via {ROUTER_V6}");
        world.host.ip(&route);
        let told = router::advertised(nic, |told| told.lifetime > 0);
        check_told(&told, nic);
    }
}

#[test]
fn a_changed_mtu_is_advertised_and_below_1280_there_is_no_ipv6() {
    let world = World::new();
    let agent = world.agent("");
    let guest = create(&agent, &world);
    let nic = guest.nic();
    for mtu in [1_400, 9_000] {
        world.host.ip(&format!("link set {UPLINK} mtu {mtu}"));
        let told = router::advertised(nic, |told| told.mtu == Some(mtu));
        assert!(told.is_to_all(), "nobody asked: {told:?}");
        assert_eq!(router::ask(nic).mtu, Some(mtu));
    }
    // A link of 1,279 bytes carries no IPv6 (RFC 8200, 5): the uplink loses its own addresses with it.
    let spec = json!({ "name": "small", "network_interfaces": [{ "mtu": 1_279 }] });
    let small = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
    let question = router::solicitation(small.nic(), Ipv6Addr::UNSPECIFIED, &[]);
    small.nic().tap.send_bytes(question);
    wait_until("the question is counted", SOON, || {
        agent.guest_drops("small").get("router_solicit") == Some(&1)
    });
}

#[test]
fn an_interface_that_does_not_configure_itself_hears_nothing_unasked() {
    let world = World::new();
    let agent = world.agent("");
    let spec = json!({ "name": "typed", "network_interfaces": [{ "autoconfig": false }] });
    let typed = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
    let guest = create(&agent, &world);
    // What changes is told to all others: by the time that the last has heard it, this one would have too.
    for mtu in [1_400, 1_500] {
        world.host.ip(&format!("link set {UPLINK} mtu {mtu}"));
        router::advertised(guest.nic(), |told| told.mtu == Some(mtu));
    }
    let frames = std::iter::from_fn(|| typed.nic().tap.receive_now());
    let unasked: Vec<_> = frames
        .filter_map(|frame| Advertisement::parse(&frame.completed()))
        .collect();
    assert_eq!(unasked, []);
    check_told(&router::ask(typed.nic()), typed.nic());
}

/// A solicitation that a router must not answer (RFC 4861, 6.1.1).
fn wrong_solicitations(nic: &Nic) -> Vec<Vec<u8>> {
    let own = router::link_local(nic.mac);
    let mac = router::own_mac(nic);
    let other_mac = [1, 1, 2, 0, 0, 0, 0, 9];
    let good = router::solicitation(nic, own, &mac);
    let hops = {
        let mut bytes = good.clone();
        bytes[21] = 64;
        bytes
    };
    let ends = Ends {
        src_mac: nic.mac,
        dst_mac: [0x33, 0x33, 0, 0, 0, 2],
        src: own.into(),
        dst: "ff02::2".parse().unwrap(),
        ttl: 255,
    };
    let code = packet::icmp(&ends, (icmpv6::ROUTER_SOLICITATION, 1), &[0; 4]);
    let short = packet::icmp(&ends, (icmpv6::ROUTER_SOLICITATION, 0), &[0; 2]);
    let stranger: Ipv6Addr = "2001:db8:100::2".parse().unwrap();
    let gateway = Ipv6Addr::from(GATEWAY_V6);
    let from = |src, options: &[u8]| router::solicitation(nic, src, options);
    vec![
        hops,
        code,
        short,
        from(Ipv6Addr::UNSPECIFIED, &mac),
        from(own, &other_mac),
        from(own, &[1, 0, 0, 0, 0, 0, 0, 0]),
        from(own, &[14, 0, 0, 0, 0, 0, 0, 0]),
        from(own, &[14, 9, 0, 0, 0, 0, 0, 0]),
        from(own, &[1, 1, 0]),
        from(stranger, &mac),
        from(gateway, &mac),
    ]
}

#[test]
fn a_solicitation_that_breaks_the_rules_is_dropped_and_counted() {
    let world = World::new();
    let agent = world.agent("");
    let guest = create(&agent, &world);
    let nic = guest.nic();
    router::ask(nic);
    let wrong = wrong_solicitations(nic);
    for (number, question) in (1..).zip(&wrong) {
        nic.tap.send_bytes(question.clone());
        wait_until(&format!("number {number} is counted"), SOON, || {
            agent.guest_drops("asks").values().sum::<u64>() == number
        });
    }
    // Only the one that is right is answered.
    let frames = std::iter::from_fn(|| nic.tap.receive_now());
    let answers: Vec<_> = frames
        .filter_map(|frame| Advertisement::parse(&frame.completed()))
        .filter(|told| !told.is_to_all())
        .collect();
    assert_eq!(answers, []);
    check_told(&router::ask(nic), nic);
    let spoilt = {
        let mut bytes = router::solicitation(nic, router::link_local(nic.mac), &[]);
        bytes[57] ^= 0xff;
        bytes
    };
    nic.tap.send_bytes(spoilt);
    check_told(&router::ask(nic), nic);
}

#[test]
fn a_flood_of_solicitations_does_not_stop_another_guest() {
    let world = World::new();
    let agent = world.agent("");
    let guest = create(&agent, &world);
    let calm = Guest::create(&agent, &world.host, "calm", Header::Vnet);
    for _ in 0..400 {
        let question = router::solicitation(guest.nic(), Ipv6Addr::UNSPECIFIED, &[]);
        guest.nic().tap.send_bytes(question);
    }
    check_told(&router::ask(calm.nic()), calm.nic());
    let limited = agent.drops("asks").get("service_limit").copied();
    assert!(limited > Some(300), "{limited:?}");
    assert_eq!(agent.guest_drops("calm"), [].into());
}

#[test]
fn a_guest_that_advertises_itself_is_believed_by_nobody() {
    let world = World::new();
    let agent = world.agent("");
    let guest = create(&agent, &world);
    let victim = Guest::create(&agent, &world.host, "victim", Header::Vnet);
    // The host would take routes from whoever says that it is a router.
    world.host.sysctl("net/ipv6/conf/all/accept_ra", "2");
    world.host.sysctl("net/ipv6/conf/tap0/accept_ra", "2");
    let nic = guest.nic();
    let ends = Ends {
        src_mac: nic.mac,
        dst_mac: [0x33, 0x33, 0, 0, 0, 1],
        src: router::link_local(nic.mac).into(),
        dst: "ff02::1".parse().unwrap(),
        ttl: 255,
    };
    let before = world.host.shell("ip -6 route show");
    let body = [64, 0, 0x23, 0x28, 0, 0, 0, 0, 0, 0, 0, 0];
    for _ in 0..3 {
        let message = packet::icmp(&ends, (icmpv6::ROUTER_ADVERTISEMENT, 0), &body);
        nic.tap.send_bytes(message);
    }
    wait_until("it is counted", SOON, || {
        agent.drops("asks").get("rogue_router") == Some(&3)
    });
    assert_eq!(world.host.shell("ip -6 route show"), before);
    let frames = std::iter::from_fn(|| victim.nic().tap.receive_now());
    let heard = frames.filter(|frame| frame.bytes.get(6..12) == Some(&nic.mac));
    assert_eq!(heard.count(), 0);
}

#[test]
fn guests_keep_their_network_when_the_agent_is_started_again_and_no_two_share_one() {
    let world = World::new();
    let mut agent = world.agent("");
    let guests = ["a", "b", "c"].map(|name| Guest::create(&agent, &world.host, name, Header::Vnet));
    let networks = || {
        guests
            .each_ref()
            .map(|guest| router::ask(guest.nic()).prefixes[0].address)
    };
    let before = networks();
    agent.kill9();
    agent.run();
    assert_eq!(networks(), before);
    let [a, b, c] = before;
    assert!(a != b && b != c && a != c);
    // One ULA /48 (RFC 4193).
    for network in before {
        assert_eq!(network.segments()[..3], a.segments()[..3]);
        assert_eq!(network.octets()[0], 0xfd);
    }
}
