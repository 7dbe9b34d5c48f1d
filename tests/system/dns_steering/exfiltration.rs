//! What a guest cannot tell the world by DNS (D-2, D-3): on the uplink there is nothing but the resolver's own questions
//! for allowed names. The lists of networks allow everything here.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netagent_common::net::{ethertype, protocol, tcp_flag};
use netagent_tests::deadline::{Deadline, SOON, wait_until};
use netagent_tests::dnsmasq::Dnsmasq;
use netagent_tests::fragment::fragments;
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::name_server::{PORT, name_of, question};
use netagent_tests::netns::NetNs;
use netagent_tests::netns::join_by_veth;
use netagent_tests::packet::{self, Packet, Segment, hex};
use netagent_tests::raw::Raw;
use netagent_tests::tap::Header;
use netagent_tests::world::{HOST_V4, HOST_V6, SILENT, server_v4, server_v6};
use serde_json::json;

use super::{Scene, UPSTREAM, host, texts};
use crate::surroundings::is_of_the_host;

/// What the guest wants to tell.
const SECRET: &[u8] = b"s3cr3t0fTheGuest";
const LAST: &[u8] = b"the last one";
const PAST: [u16; 4] = [853, 8_853, 5_353, 5_355];
const REFUSED: u8 = 5;

struct Leak {
    wire: Raw,
    guest: Guest,
    other: Guest,
    scene: Scene<Dnsmasq>,
    _management: NetNs,
}

impl Leak {
    fn new() -> Self {
        let records = [host("a.test", 0, 300)];
        let scene = Scene::new(&texts(&records));
        let management = NetNs::new();
        let host = &scene.world.host;
        join_by_veth((host, "mgmt0"), (&management, "mgmt1"));
        host.ip("address add 10.77.0.1/24 dev mgmt0");
        let spec = json!({
            "name": "a",
            "allowed_domains": ["a.test"],
            "allowed_cidrs": ["0.0.0.0/0", "::/0"],
        });
        let guest = Guest::create_from(&scene.agent, host, &spec, Header::Vnet);
        let other = Guest::create(&scene.agent, host, "b", Header::Vnet);
        wait_until("the agent follows", SOON, || {
            scene.explain("a", "10.77.0.9:7")["reason"] == "not_uplink"
        });
        Self {
            wire: scene.world.wire(),
            guest,
            other,
            scene,
            _management: management,
        }
    }

    fn nic(&self) -> &Nic {
        self.guest.nic()
    }

    fn send(&self, bytes: Vec<u8>) {
        self.nic().tap.send_bytes(bytes);
    }

    /// Places where a name server might be, of both families.
    fn places(&self) -> Vec<IpAddr> {
        let texts = [
            "169.254.169.254",
            "100.100.100.200",
            "fd00:ec2::254",
            "127.0.0.1",
            "127.0.0.53",
            "::1",
            "10.77.0.1",
            "10.77.0.9",
            "224.0.0.251",
            "224.0.0.252",
            "ff02::fb",
            "255.255.255.255",
            "fe80::9",
        ];
        let mut places: Vec<IpAddr> = texts.map(|text| text.parse().unwrap()).into();
        places.extend(SILENT);
        places.extend([true, false].map(|is_v4| self.nic().gateway(is_v4)));
        places.extend([true, false].map(|is_v4| self.other.nic().address(is_v4)));
        places.extend([
            IpAddr::from(server_v4(UPSTREAM)),
            server_v6(UPSTREAM).into(),
            server_v4(8).into(),
            server_v6(8).into(),
            HOST_V4.into(),
            HOST_V6.into(),
            self.other.nic().gateway_v4.into(),
        ]);
        places
    }

    /// What came out of the uplink: all of it, for a last datagram comes after it.
    fn left(&self) -> Vec<Vec<u8>> {
        self.send(packet::udp(&self.nic().to(SILENT[0]), (9_999, 9_999), LAST));
        let mut left = Vec::new();
        loop {
            let received = self.wire.receive(Deadline::after(SOON));
            let bytes = received.expect("the last one arrives").frame.completed();
            if Packet::parse(&bytes).is_some_and(|packet| packet.payload == LAST) {
                return left;
            }
            if !is_of_the_host(&bytes) {
                left.push(bytes);
            }
        }
    }

    /// Nothing left, but questions for these names.
    #[track_caller]
    fn check_left(&self, names: &[&str]) {
        let mut asked = Vec::new();
        for bytes in self.left() {
            assert!(!contains(&bytes, SECRET), "{}", hex(&bytes));
            let packet = Packet::parse(&bytes).unwrap_or_else(|| panic!("{}", hex(&bytes)));
            let upstream = (server_v4(UPSTREAM).into(), PORT);
            let to = (packet.ends.dst, packet.ports.1);
            assert_eq!(
                (to, packet.protocol, packet.ends.src),
                (upstream, protocol::UDP, HOST_V4.into()),
                "{}",
                hex(&bytes)
            );
            asked.extend(name_of(&packet.payload));
        }
        assert_eq!(asked, names);
    }

    /// The answer of the resolver to a question from this port: where it came from, and the message.
    fn answer_to(&self, port: u16) -> (IpAddr, Vec<u8>) {
        self.nic()
            .tap
            .receive_where(Deadline::after(SOON), |frame| {
                let packet = Packet::parse(&frame.completed())?;
                (packet.ports == (PORT, port)).then_some((packet.ends.src, packet.payload))
            })
    }

    fn dropped(&self) -> u64 {
        self.scene.agent.guest_drops("a").values().sum()
    }

    fn wait_for_drops(&self, count: u64) {
        wait_until("everything is dropped", SOON, || self.dropped() >= count);
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn secret_name(zone: &str) -> String {
    format!("{}.{zone}", String::from_utf8_lossy(SECRET))
}

fn syn(port: u16, src_port: u16) -> Segment {
    Segment {
        src_port,
        dst_port: port,
        sequence: 1,
        flags: tcp_flag::SYN,
        ..Segment::default()
    }
}

#[test]
fn d3_a_name_that_is_not_allowed_is_told_nobody_whomever_the_guest_asks() {
    let leak = Leak::new();
    let names = [
        secret_name("evil.test"),
        secret_name("a.test"),
        secret_name("com"),
        format!("{0}.{0}.{0}.test", secret_name("x")),
    ];
    let mut port = 20_000;
    for place in leak.places() {
        for name in &names {
            port += 1;
            let query = question(port, name);
            leak.send(packet::udp(&leak.nic().to(place), (port, PORT), &query));
            // What is sent to a group gets no answer from there.
            if is_group(place) {
                continue;
            }
            let (from, answer) = leak.answer_to(port);
            assert_eq!((from, answer[3] & 15), (place, REFUSED), "{place} {name}");
        }
    }
    leak.check_left(&[]);
    assert_eq!(leak.scene.upstream.names(), [""; 0]);
    // The agent's resolver does ask.
    leak.send(packet::udp(
        &leak.nic().to(server_v4(8)),
        (19_999, PORT),
        &question(1, "a.test"),
    ));
    let (_, answer) = leak.answer_to(19_999);
    assert!(answer.ends_with(&server_v4(0).octets()));
    leak.check_left(&["a.test"]);
}

fn is_group(place: IpAddr) -> bool {
    place.is_multicast() || place == IpAddr::from([255; 4])
}

#[test]
fn d2_tcp_to_port_53_ends_at_the_resolver_also_where_the_first_segment_carries_data() {
    let leak = Leak::new();
    let mut port = 30_000;
    for place in leak.places().into_iter().filter(|place| !is_group(*place)) {
        port += 1;
        let ends = leak.nic().to(place);
        leak.send(packet::tcp(&ends, syn(PORT, port), SECRET));
        let (from, _) = leak.answer_to(port);
        assert_eq!(from, place);
        // And without a connection.
        let segment = Segment {
            src_port: port + 5_000,
            flags: tcp_flag::ACK,
            acknowledgement: 1,
            ..syn(PORT, port)
        };
        leak.send(packet::tcp(&ends, segment, SECRET));
    }
    leak.check_left(&[]);
    assert_eq!(leak.scene.upstream.names(), [""; 0]);
}

#[test]
fn d2_other_kinds_of_dns_do_not_pass_over_udp_nor_tcp() {
    let leak = Leak::new();
    let (mut port, mut sent) = (40_000, 0);
    for place in leak.places() {
        for past in PAST {
            port += 1;
            let ends = leak.nic().to(place);
            leak.send(packet::udp(&ends, (port, past), SECRET));
            leak.send(packet::tcp(&ends, syn(past, port), SECRET));
            sent += 2;
        }
    }
    leak.wait_for_drops(sent);
    leak.check_left(&[]);
    let drops = leak.scene.agent.guest_drops("a");
    assert!(drops["dns_bypass"] >= 4 * 2 * 4, "{drops:?}");
    assert_eq!(leak.dropped(), sent);
}

#[test]
fn d2_fragments_of_questions_do_not_pass() {
    let leak = Leak::new();
    let payload = [question(7, "a.test"), SECRET.repeat(64)].concat();
    let mut sent = BTreeMap::new();
    for (id, place) in (1..).zip(leak.places()) {
        let whole = packet::udp(&leak.nic().to(place), (5_000 + id, PORT), &payload);
        // The ports in the first of two, and in the first of very many.
        for size in [512, 8] {
            let mut pieces = fragments(&whole, size, id + size as u16);
            pieces.iter().for_each(|piece| leak.send(piece.clone()));
            pieces.reverse();
            pieces.iter().for_each(|piece| leak.send(piece.clone()));
            *sent.entry(place).or_insert(0) += pieces.len();
        }
    }
    leak.check_left(&[]);
    assert!(leak.dropped() > 0);
    assert_eq!(leak.scene.upstream.names(), [""; 0]);
}

/// A datagram behind extension headers of these kinds, each of eight bytes.
fn behind(leak: &Leak, kinds: &[u8], (dst, port): (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    let plain = packet::udp(&leak.nic().to(dst), (6_000, port), payload);
    assert_eq!(plain[12..14], ethertype::IPV6.to_be_bytes());
    let (head, datagram) = plain.split_at(54);
    let mut bytes = Vec::from(head);
    let length = u16::try_from(8 * kinds.len() + datagram.len()).unwrap();
    bytes[18..20].copy_from_slice(&length.to_be_bytes());
    let mut nexts = kinds.iter().copied().chain([protocol::UDP]);
    bytes[20] = nexts.next().unwrap();
    for next in nexts {
        // The longest that fits, of padding: PadN with four bytes.
        bytes.extend([next, 0, 1, 4, 0, 0, 0, 0]);
    }
    bytes.extend(datagram);
    bytes
}

#[test]
fn d2_extension_headers_do_not_hide_a_question() {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const DESTINATION: u8 = 60;
    let leak = Leak::new();
    let query = question(7, &secret_name("evil.test"));
    let chains: [&[u8]; 5] = [
        &[HOP_BY_HOP],
        &[DESTINATION],
        &[ROUTING],
        &[HOP_BY_HOP, DESTINATION, ROUTING, DESTINATION],
        &[DESTINATION; 12],
    ];
    for place in leak.places().into_iter().filter(IpAddr::is_ipv6) {
        for chain in chains {
            for port in [PORT, 853, 5_353] {
                leak.send(behind(&leak, chain, (place, port), &query));
            }
        }
    }
    leak.check_left(&[]);
    assert_eq!(leak.scene.upstream.names(), [""; 0]);
}

/// A question with EDNS, and this option in it.
fn with_option(code: u16, data: &[u8]) -> Vec<u8> {
    let mut query = question(8, "a.test");
    // One record more.
    query[11] = 1;
    let length = u16::try_from(data.len()).unwrap();
    query.extend([0, 0, 41, 4, 0xd0, 0, 0, 0, 0]);
    query.extend((length + 4).to_be_bytes());
    query.extend(code.to_be_bytes());
    query.extend(length.to_be_bytes());
    query.extend(data);
    query
}

#[test]
fn d2_an_allowed_question_carries_nothing_beside_itself() {
    const NSID: u16 = 3;
    const SUBNET: u16 = 8;
    const COOKIE: u16 = 10;
    const PADDING: u16 = 12;
    const LOCAL: u16 = 65_001;
    let leak = Leak::new();
    let subnet = [&[0, 1, 24, 0], SECRET].concat();
    let mut queries = vec![with_option(SUBNET, &subnet)];
    queries.extend([NSID, COOKIE, PADDING, LOCAL].map(|code| with_option(code, SECRET)));
    // Behind the message, and as a record that has no place in a question.
    let mut longer = question(8, "a.test");
    longer.extend(SECRET);
    queries.push(longer);
    let mut record = question(8, "a.test");
    record[7] = 1;
    record.extend([0, 0, 16, 0, 1, 0, 0, 0, 0, 0, 17, 16]);
    record.extend(SECRET);
    queries.push(record);
    for (port, query) in (21_000..).zip(&queries) {
        // The answer to another one is kept, and may serve this one.
        leak.send(packet::udp(
            &leak.nic().to(server_v4(8)),
            (port, PORT),
            query,
        ));
        leak.answer_to(port);
    }
    let mut asked = 0;
    for bytes in leak.left() {
        assert!(!contains(&bytes, SECRET), "{}", hex(&bytes));
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(name_of(&packet.payload).as_deref(), Some("a.test"));
        asked += 1;
    }
    assert!(asked > 0, "the world's server was asked");
}
