//! What an answer leads to is open before the guest hears of it (D-4), to that guest alone (D-5).

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use netagent_tests::client::connect;
use netagent_tests::deadline::SOON;
use netagent_tests::netns::NetNs;
use netagent_tests::ping::ping;
use netagent_tests::server::{PORT, bound};
use netagent_tests::upstream::{Upstream, answer, kind_of};
use netagent_tests::world::{SILENT, server_v4};
use serde_json::json;

use super::{A, AAAA, Scene, Site, both, host, texts};
use crate::policy::site::serve;

const ROUNDS: u16 = 200;
/// A refusal is told at once, but not arbitrarily often.
const REFUSAL_EVERY: u16 = 20;

/// An address of the world that is asked for once.
fn fresh(kind: u16, number: u16) -> IpAddr {
    if kind == A {
        Ipv4Addr::new(192, 0, 2, number.try_into().unwrap()).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0x300, 0, 0, 0, 0, number).into()
    }
}

/// Every answer to `turns.test` leads elsewhere, and is good for no time.
fn turning() -> Scene<Upstream> {
    let turns = Arc::new([AtomicU16::new(1), AtomicU16::new(1)]);
    let scene = Scene::saying(move |_, query: &[u8]| {
        let kind = kind_of(query).unwrap();
        let turn = turns[usize::from(kind != A)].fetch_add(1, Ordering::Relaxed);
        vec![answer(query, &[fresh(kind, turn)], 0)]
    });
    let outside = &scene.world.outside;
    outside.ip("route add local 192.0.2.0/24 dev lo");
    outside.sysctl("net/ipv6/ip_nonlocal_bind", "1");
    outside.ip("-6 route add local 2001:db8:300::/64 dev lo");
    scene
}

/// Servers at one address, each for one guest's first words.
struct Ears {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Ears {
    fn open(outside: &NetNs, address: IpAddr) -> Self {
        let place = SocketAddr::new(address, PORT);
        let udp = bound(|| outside.run(|| UdpSocket::bind(place)));
        udp.set_read_timeout(Some(SOON)).unwrap();
        Self {
            tcp: bound(|| outside.run(|| TcpListener::bind(place))),
            udp,
        }
    }

    fn by_tcp(&self, guest: &NetNs) {
        let place = self.tcp.local_addr().unwrap();
        let mut stream = connect(guest, place).unwrap_or_else(|error| panic!("{place}: {error}"));
        let (mut accepted, _) = self.tcp.accept().unwrap();
        accepted.write_all(b"welcome").unwrap();
        stream.read_exact(&mut [0; 7]).unwrap();
    }

    fn by_udp(&self, guest: &NetNs) {
        let place = self.udp.local_addr().unwrap();
        let any = if place.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = guest.run(|| UdpSocket::bind(any)).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket.connect(place).unwrap();
        socket.send(b"hello").unwrap();
        let (length, peer) = self.udp.recv_from(&mut [0; 64]).unwrap();
        assert_eq!(length, 5);
        self.udp.send_to(b"welcome", peer).unwrap();
        let answered = socket.recv(&mut [0; 64]);
        assert_eq!(answered.ok(), Some(7), "{place}");
    }

    /// Speaks to it in each way, and in another one first each time.
    fn check_heard(&self, guest: &NetNs, round: u16) {
        let address = self.tcp.local_addr().unwrap().ip();
        let by_ping = || ping(guest, address, (1, 8)).unwrap();
        match round % 3 {
            0 => (self.by_tcp(guest), self.by_udp(guest), by_ping()),
            1 => (self.by_udp(guest), by_ping(), self.by_tcp(guest)),
            _ => (by_ping(), self.by_tcp(guest), self.by_udp(guest)),
        };
    }
}

/// The address of an answer with one.
fn led_to(site: &Site, kind: u16) -> IpAddr {
    let reply = site.ask_for("turns.test", kind);
    if kind == A {
        IpAddr::from(*reply.last_chunk::<4>().unwrap())
    } else {
        IpAddr::from(*reply.last_chunk::<16>().unwrap())
    }
}

#[test]
fn d4_the_first_packet_after_an_answer_passes_in_each_of_200_rounds() {
    let scene = turning();
    let site = scene.listed("a", &["turns.test"]);
    let other = scene.listed("b", &["turns.test"]);
    let mut refused = 0;
    for round in 1..=ROUNDS {
        for kind in [A, AAAA] {
            let address = fresh(kind, round);
            let ears = Ears::open(&scene.world.outside, address);
            if round % REFUSAL_EVERY == 0 {
                site.check_closed(address);
                refused += 1;
            }
            assert_eq!(led_to(&site, kind), address);
            ears.check_heard(site.netns(), round);
            if round % REFUSAL_EVERY == 0 {
                other.check_closed(address);
            }
        }
    }
    let drops = scene.agent.guest_drops("a");
    let expected = [("not_allowed".to_owned(), refused)];
    assert_eq!(drops, expected.into(), "nothing else was lost");
    let asked = scene.upstream.queries().len();
    assert_eq!(asked, 2 * usize::from(ROUNDS), "no answer was kept");
}

#[test]
fn d5_of_more_addresses_than_an_instance_holds_those_heard_of_longest_ago_go() {
    const HELD: u16 = 1_024;
    // `n7.test` leads to the seventh address.
    let number = |name: &str| name.trim_start_matches('n').split('.').next()?.parse().ok();
    let scene = Scene::saying(move |name: &str, query: &[u8]| {
        let address = fresh(AAAA, number(name).unwrap_or(0));
        vec![answer(query, &[address], 3_600)]
    });
    let outside = &scene.world.outside;
    outside.sysctl("net/ipv6/ip_nonlocal_bind", "1");
    outside.ip("-6 route add local 2001:db8:300::/64 dev lo");
    let open = [1, 2, 3, HELD, HELD + 2].map(|number| fresh(AAAA, number));
    let _ears = open.map(|address| Ears::open(outside, address));
    let site = scene.listed("a", &["*.test"]);
    let other = scene.listed("b", &["*.test"]);
    let learn = |site: &Site, number: u16| drop(site.ask_for(&format!("n{number}.test"), AAAA));
    learn(&other, 2);
    (1..=HELD).for_each(|number| learn(&site, number));
    for address in [fresh(AAAA, 1), fresh(AAAA, HELD)] {
        site.check_open(address);
    }
    // The second is older now than the first.
    learn(&site, 1);
    (HELD + 1..=HELD + 2).for_each(|number| learn(&site, number));
    for address in [2, 3].map(|number| fresh(AAAA, number)) {
        site.check_closed(address);
    }
    for number in [1, HELD, HELD + 2] {
        site.check_open(fresh(AAAA, number));
    }
    other.check_open(fresh(AAAA, 2));
}

#[test]
fn d4_what_an_answer_opens_is_open_beside_the_networks_and_never_what_is_denied() {
    let records = [
        host("a.test", 0, 60),
        host("b.test", 1, 60),
        host("c.test", 2, 60),
    ];
    let scene = Scene::new(&texts(&records));
    let servers = [both(0), both(1), both(2), both(3)].concat();
    let _servers = serve(&scene.world.outside, &servers);
    let spec = json!({
        "name": "a",
        "allowed_domains": ["a.test", "b.test"],
        "allowed_cidrs": ["203.0.113.4/32", "2001:db8:200::4/128"],
        "denied_cidrs": ["203.0.113.2/32", "2001:db8:200::2/128"],
    });
    let site = scene.boot(&spec);
    let neighbour = scene.listed("b", &["a.test", "c.test"]);
    let glibc = |site: &Site| {
        let gateway = site.gateways()[0].clone();
        netagent_tests::resolve::Glibc::new(site.netns(), &[&gateway], "")
    };
    for index in 0..3 {
        for address in both(index) {
            site.check_closed(address);
        }
    }
    both(3)
        .into_iter()
        .for_each(|address| site.check_open(address));
    let found = glibc(&site);
    assert_eq!(found.resolve("a.test"), both(0).into());
    assert_eq!(found.resolve("b.test"), both(1).into());
    assert_eq!(found.resolve("c.test"), [].into());
    for address in both(0) {
        site.check_open(address);
        neighbour.check_closed(address);
    }
    for address in [both(1), both(2)].concat() {
        site.check_closed(address);
    }
    assert_eq!(glibc(&neighbour).resolve("c.test"), both(2).into());
    for address in both(2) {
        neighbour.check_open(address);
        site.check_closed(address);
    }
    let denied = scene.explain("a", &format!("{}:80", server_v4(1)));
    assert_eq!(denied["reason"], "denied_cidr", "{denied}");
    let learned = scene.explain("a", &format!("{}:80", server_v4(0)));
    assert_eq!(learned["verdict"], "allowed", "{learned}");
    let rule = learned["rule"].as_str().unwrap();
    assert!(rule.starts_with("learned from a.test"), "{learned}");
    let unknown = scene.explain("a", &format!("{}:80", SILENT[0]));
    assert_eq!(unknown["reason"], "not_allowed", "{unknown}");
}
