//! What a guest cannot tell the world by DNS (D-2, D-3): on the uplink there is nothing but the resolver's own questions
//! for allowed names.

use std::net::IpAddr;

use netagent_common::net::{ethertype, protocol, tcp_flag};
use netagent_tests::fragment::fragments;
use netagent_tests::name_server::{PORT, name_of, question};
use netagent_tests::packet::{self, Packet, Segment, hex};
use netagent_tests::world::{server_v4, server_v6};

use super::leak::{Leak, SECRET, contains};
use crate::policy::site::put;

const PAST: [u16; 4] = [853, 8_853, 5_353, 5_355];
const REFUSED: u8 = 5;

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
    for (id, place) in (1..).zip(leak.places()) {
        let whole = packet::udp(&leak.nic().to(place), (5_000 + id, PORT), &payload);
        // The ports in the first of two, and in the first of very many.
        for size in [512, 8] {
            let mut pieces = fragments(&whole, size, id + size as u16);
            pieces.iter().for_each(|piece| leak.send(piece.clone()));
            pieces.reverse();
            pieces.iter().for_each(|piece| leak.send(piece.clone()));
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

/// What the tests above send does leave where nothing forbids it.
#[test]
fn without_a_list_of_names_the_same_reaches_the_world() {
    let leak = Leak::new();
    put(&leak.scene.agent, "a", "{}");
    let mut frames = Vec::new();
    for place in [IpAddr::from(server_v4(8)), server_v6(8).into()] {
        let ends = leak.nic().to(place);
        let query = question(7, &secret_name("evil.test"));
        frames.push(packet::udp(&ends, (7_000, PORT), &query));
        frames.push(packet::tcp(&ends, syn(PORT, 7_001), SECRET));
        for (port, past) in (7_002..).zip(PAST) {
            frames.push(packet::udp(&ends, (port, past), SECRET));
            frames.push(packet::tcp(&ends, syn(past, port), SECRET));
        }
        let whole = packet::udp(&ends, (7_010, PORT), &SECRET.repeat(64));
        frames.extend(fragments(&whole, 520, 9));
    }
    let count = frames.len();
    frames.into_iter().for_each(|frame| leak.send(frame));
    let left = leak.left();
    let told = left.iter().filter(|bytes| contains(bytes, SECRET)).count();
    assert_eq!(told, count, "{left:?}");
}
