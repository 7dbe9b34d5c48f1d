//! Masquerade, byte for byte at both ends: finished packets, partial checksums and super-frames, on TAPs with and
//! without a virtio header, attached by tcx and by clsact.

use std::collections::BTreeMap;

use netagent_common::net::{ethertype, protocol};
use netagent_tests::frame::{Frame, Segments};
use netagent_tests::guest::Guest;
use netagent_tests::packet;
use netagent_tests::random::Random;
use netagent_tests::tap::Header;
use netagent_tests::world::{SILENT, World};

use crate::exchange::{FlowTo, Form, Protocol, Way};

const CLSACT: &str = "[datapath]\nattach = \"clsact\"\n";

/// Payload of each segment of a super-frame: fits every header into an MTU of 1,500.
const SEGMENT_SIZE: u16 = 1_400;

fn tcp_v4(bytes: Vec<u8>) -> Frame {
    Frame::super_frame(bytes, Segments::TcpV4, SEGMENT_SIZE)
}

fn tcp_v6(bytes: Vec<u8>) -> Frame {
    Frame::super_frame(bytes, Segments::TcpV6, SEGMENT_SIZE)
}

fn udp(bytes: Vec<u8>) -> Frame {
    Frame::super_frame(bytes, Segments::Udp, SEGMENT_SIZE)
}

/// Every protocol to every kind of address, in every form that this TAP can carry.
fn check_all_forms(configuration: &str, header: Header) {
    let world = World::new();
    let agent = world.agent(configuration);
    let guest = Guest::create(&agent, &world.host, "bytes", header);
    let wire = world.wire();
    let way = Way::new(&world, guest.nic(), &wire);
    let mut random = Random::new(1);
    let mut port = 5_000;
    for remote in SILENT {
        for protocol in Protocol::ALL {
            port += 1;
            let flow = FlowTo {
                protocol,
                remote,
                ports: (port, 7),
            };
            for length in [1, 18, 1_000, 1_001, 1_400] {
                for form in forms(header, protocol) {
                    let nat_port = way.send(flow, form, &random.bytes(length));
                    way.answer(flow, nat_port, form, &random.bytes(length));
                }
            }
            if let Some(form) = super_form(header, protocol, remote.is_ipv4()) {
                let nat_port = way.send(flow, form, &random.bytes(20_001));
                way.answer(flow, nat_port, form, &random.bytes(30_002));
            }
        }
    }
    assert_eq!(agent.guest_drops("bytes"), BTreeMap::new());
}

fn forms(header: Header, protocol: Protocol) -> Vec<Form> {
    if header == Header::Vnet && protocol != Protocol::Echo {
        vec![Frame::plain, Frame::partial]
    } else {
        vec![Frame::plain]
    }
}

fn super_form(header: Header, protocol: Protocol, is_v4: bool) -> Option<Form> {
    match (header, protocol) {
        (Header::Vnet, Protocol::Tcp) => Some(if is_v4 { tcp_v4 } else { tcp_v6 }),
        (Header::Vnet, Protocol::Udp) => Some(udp),
        (Header::Vnet, Protocol::Echo) | (Header::None, _) => None,
    }
}

#[test]
fn every_packet_keeps_its_bytes_by_tcx_with_a_virtio_header() {
    check_all_forms("", Header::Vnet);
}

#[test]
fn every_packet_keeps_its_bytes_by_tcx_without_a_virtio_header() {
    check_all_forms("", Header::None);
}

#[test]
fn every_packet_keeps_its_bytes_by_clsact_with_a_virtio_header() {
    check_all_forms(CLSACT, Header::Vnet);
}

#[test]
fn every_packet_keeps_its_bytes_by_clsact_without_a_virtio_header() {
    check_all_forms(CLSACT, Header::None);
}

/// A payload with which this packet's checksum sums up to 0: of UDP that is written as 0xffff, for 0 says that there is none
/// (RFC 768).
fn balanced(packet: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut payload = b"__ sums up to nothing".to_vec();
    payload[..2].fill(0);
    let rest = packet::transport_checksum(&packet(&payload)).unwrap();
    payload[..2].copy_from_slice(&rest.to_be_bytes());
    let checksum = packet::transport_checksum(&packet(&payload)).unwrap();
    assert_eq!(checksum % 0xffff, 0);
    payload
}

/// One packet in 65,536 has it by chance.
fn check_checksums_of_zero(header: Header) {
    let world = World::new();
    let agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "zero", header);
    let wire = world.wire();
    let way = Way::new(&world, guest.nic(), &wire);
    for remote in SILENT {
        for protocol in Protocol::ALL {
            let flow = FlowTo {
                protocol,
                remote,
                ports: (5_000, 7),
            };
            let nat_port = way.check(flow);
            let (at_guest, from_far) = (way.nic.to(remote), way.back(remote));
            for form in forms(header, protocol) {
                let sent = balanced(|payload| protocol.question(&at_guest, flow.ports, payload));
                let arrived = balanced(|payload| way.on_wire(flow, nat_port, payload));
                for payload in [sent, arrived] {
                    assert_eq!(way.send(flow, form, &payload), nat_port);
                }
                let sent = balanced(|payload| protocol.answer(&from_far, (7, nat_port), payload));
                let arrived = balanced(|payload| way.at_guest(flow, payload));
                for payload in [sent, arrived] {
                    way.answer(flow, nat_port, form, &payload);
                }
            }
        }
    }
    assert_eq!(agent.guest_drops("zero"), BTreeMap::new());
}

#[test]
fn a_checksum_of_zero_stays_right_with_a_virtio_header() {
    check_checksums_of_zero(Header::Vnet);
}

#[test]
fn a_checksum_of_zero_stays_right_without_a_virtio_header() {
    check_checksums_of_zero(Header::None);
}

/// A super-frame whose virtio header says that its headers are so long.
fn said<const HEADERS: u16>(bytes: Vec<u8>) -> Frame {
    let is_udp = packet::transport(&bytes).unwrap().protocol == protocol::UDP;
    let is_v4 = bytes[12..14] == ethertype::IPV4.to_be_bytes();
    let mut frame = match (is_udp, is_v4) {
        (true, _) => udp(bytes),
        (false, true) => tcp_v4(bytes),
        (false, false) => tcp_v6(bytes),
    };
    frame.vnet.header_len = HEADERS;
    frame
}

/// Length of the headers, as a Linux guest says it.
fn headers(protocol: Protocol, is_v4: bool) -> u16 {
    let ip = if is_v4 { 20 } else { 40 };
    14 + ip + if protocol == Protocol::Tcp { 20 } else { 8 }
}

#[test]
fn a_super_frame_keeps_its_bytes_whatever_is_said_of_its_headers() {
    let world = World::new();
    let agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "said", Header::Vnet);
    let wire = world.wire();
    let way = Way::new(&world, guest.nic(), &wire);
    let mut random = Random::new(6);
    // Right for UDP and TCP over IPv4, then over IPv6; nothing, too little, and more than the headers.
    let forms: [Form; 8] = [
        said::<42>,
        said::<54>,
        said::<62>,
        said::<74>,
        said::<0>,
        said::<1>,
        said::<200>,
        said::<3_000>,
    ];
    for remote in SILENT {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let flow = FlowTo {
                protocol,
                remote,
                ports: (7_000, 7),
            };
            let right = headers(protocol, remote.is_ipv4());
            let default = super_form(Header::Vnet, protocol, remote.is_ipv4()).unwrap();
            let ends = way.nic.to(remote);
            let frame = default(protocol.question(&ends, flow.ports, &[0; 3_000]));
            assert_eq!(frame.vnet.header_len, right, "as a Linux guest says it");
            for form in forms {
                let nat_port = way.send(flow, form, &random.bytes(60_001));
                way.answer(flow, nat_port, form, &random.bytes(60_002));
            }
        }
    }
    assert_eq!(agent.guest_drops("said"), BTreeMap::new());
}
