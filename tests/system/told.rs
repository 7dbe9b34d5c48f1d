//! What the datapath makes of frames that leave something to the kernel: checksums to be computed, segments to be cut.

use std::net::IpAddr;

use netagent_common::drop::DropReason;
use netagent_common::net::tcp_flag::SYN;
use netagent_tests::deadline::{Deadline, SOON};
use netagent_tests::fragment;
use netagent_tests::frame::{Frame, NEEDS_CHECKSUM, Segments, VnetHeader};
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::packet::{self, Ends, Packet};
use netagent_tests::tap::Header;
use netagent_tests::world::{HOST_V4, HOST_V6, SILENT, World};
use serde_json::json;

use crate::exchange::{FlowTo, Form, Protocol, Way};
use crate::surroundings::Surroundings;

/// What a guest is told of a packet that is too late, and of one that may not go there.
fn reports(remote: IpAddr) -> [(u8, u8); 2] {
    if remote.is_ipv4() {
        [(11, 0), (3, 13)]
    } else {
        [(3, 0), (1, 1)]
    }
}

/// The guest sends a frame, and gets this error about it, finished.
fn check_told(nic: &Nic, frame: &Frame, (kind, code): (u8, u8)) {
    let is_v4 = frame.bytes[12..14] == [8, 0];
    nic.tap.send(frame);
    let received = nic.tap.receive_where(Deadline::after(SOON), |received| {
        let packet = Packet::parse(&received.bytes)?;
        (packet.kind == kind && packet.ends.src == nic.gateway(is_v4)).then(|| received.clone())
    });
    assert_eq!(received.vnet.flags & NEEDS_CHECKSUM, 0, "it is finished");
    assert_eq!(received.vnet.segments, Segments::None as u8);
    packet::assert_checksums(&received.bytes);
    let start = if is_v4 { 34 } else { 54 };
    assert_eq!(received.bytes[start + 1], code);
    let quoted = if is_v4 { 28 } else { 48 };
    assert_eq!(received.bytes.len(), start + 8 + quoted);
    assert_eq!(received.bytes[start + 8..], frame.bytes[14..14 + quoted]);
}

fn super_frame(bytes: Vec<u8>) -> Frame {
    let is_v4 = bytes[12..14] == [8, 0];
    let is_udp = packet::transport(&bytes).unwrap().protocol == 17;
    let segments = match (is_udp, is_v4) {
        (true, _) => Segments::Udp,
        (false, true) => Segments::TcpV4,
        (false, false) => Segments::TcpV6,
    };
    Frame::super_frame(bytes, segments, 1_000)
}

fn check_all(configuration: &str, header: Header) {
    let world = World::new();
    let agent = world.agent(configuration);
    let guest = Guest::create(&agent, &world.host, "told", header);
    let nic = guest.nic();
    let forms: &[(Form, usize)] = match header {
        Header::Vnet => &[
            (Frame::plain, 18),
            (Frame::partial, 1_001),
            (super_frame, 30_001),
        ],
        Header::None => &[(Frame::plain, 18)],
    };
    let denied: [IpAddr; 2] = [HOST_V4.into(), HOST_V6.into()];
    for (index, remote) in [SILENT[0], SILENT[1]].into_iter().enumerate() {
        let [late, prohibited] = reports(remote);
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            for (form, length) in forms {
                let ends = Ends {
                    ttl: 1,
                    ..nic.to(remote)
                };
                let bytes = protocol.question(&ends, (4_000, 9), &vec![7; *length]);
                check_told(nic, &form(bytes), late);
                let ends = nic.to(denied[index]);
                let bytes = protocol.question(&ends, (4_000, 9), &vec![7; *length]);
                check_told(nic, &form(bytes), prohibited);
            }
        }
    }
}

#[test]
fn an_error_is_right_whatever_was_left_to_the_kernel_by_tcx() {
    check_all("", Header::Vnet);
}

#[test]
fn an_error_is_right_whatever_was_left_to_the_kernel_by_clsact() {
    check_all("[datapath]\nattach = \"clsact\"\n", Header::Vnet);
}

#[test]
fn an_error_is_right_without_a_virtio_header() {
    check_all("", Header::None);
}

/// A SYN with an MSS of 1,460.
fn syn(ends: &Ends, (src_port, dst_port): (u16, u16)) -> Vec<u8> {
    let segment = packet::Segment {
        src_port,
        dst_port,
        flags: SYN,
        ..packet::Segment::default()
    };
    // Six words of header instead of five: the payload's start becomes its option.
    let mut bytes = packet::tcp(ends, segment, &[2, 4, 0x05, 0xb4, b'x']);
    let start = packet::transport(&bytes).unwrap().start;
    bytes[start + 12] = 6 << 4;
    let checksum = packet::transport_checksum(&bytes).unwrap();
    bytes[start + 16..start + 18].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

#[test]
fn the_mss_is_lowered_in_finished_and_in_unfinished_segments() {
    let world = World::new();
    let agent = world.agent("");
    let spec = json!({"name": "mss", "mtu": 1_300});
    let guest = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
    let (wire, nic) = (world.wire(), guest.nic());
    let way = Way::new(&world, nic, &wire);
    for remote in SILENT {
        let flow = FlowTo {
            protocol: Protocol::Tcp,
            remote,
            ports: (4_000, 80),
        };
        let nat_port = way.check(flow);
        let expected: u16 = 1_300 - if remote.is_ipv4() { 40 } else { 60 };
        let start = if remote.is_ipv4() { 34 } else { 54 };
        let announced = |bytes: &[u8]| {
            let packet = Packet::parse(bytes)?;
            let is_syn = packet.protocol == 6 && packet.kind == SYN;
            is_syn.then(|| {
                packet::assert_checksums(bytes);
                u16::from_be_bytes([bytes[start + 22], bytes[start + 23]])
            })
        };
        for form in [Frame::plain as Form, Frame::partial] {
            nic.tap.send(&form(syn(&nic.to(remote), (4_000, 80))));
            let seen = wire.receive_where(Deadline::after(SOON), |received| {
                announced(&received.frame.completed())
            });
            assert_eq!(seen, expected, "{remote}");
            wire.send(&form(syn(&way.back(remote), (80, nat_port))));
            let seen = nic
                .tap
                .receive_where(Deadline::after(SOON), |frame| announced(&frame.completed()));
            assert_eq!(seen, expected, "{remote}");
        }
    }
}

#[test]
fn no_checksum_of_a_fragment_is_left_to_the_kernel() {
    let scene = Surroundings::new("");
    let nic = scene.nic();
    let mut frames = Vec::new();
    for remote in [SILENT[0], SILENT[1]] {
        let start: u16 = if remote.is_ipv4() { 34 } else { 54 };
        let partial = |bytes, checksum_start, checksum_offset| Frame {
            vnet: VnetHeader {
                flags: NEEDS_CHECKSUM,
                checksum_start,
                checksum_offset,
                ..VnetHeader::default()
            },
            bytes,
        };
        let ends = nic.to(remote);
        let whole = packet::udp(&ends, (4_000, 9), &[7; 2_000]);
        let first = fragment::fragment(&whole, (0, 1_000), 7);
        let header = if remote.is_ipv4() { 0 } else { 8 };
        frames.push(partial(first, start + header, 6));
    }
    scene.check_accepted(DropReason::PartialChecksum, &frames);
}

#[test]
fn no_checksum_of_an_error_is_left_to_the_kernel() {
    let world = World::new();
    let agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "error", Header::Vnet);
    let (wire, nic) = (world.wire(), guest.nic());
    let way = Way::new(&world, nic, &wire);
    for remote in [SILENT[0], SILENT[1]] {
        let flow = FlowTo {
            protocol: Protocol::Udp,
            remote,
            ports: (4_000, 9),
        };
        way.check(flow);
        let into = packet::udp(&way.delivered(remote), (9, 4_000), &[7; 40]);
        let kind = if remote.is_ipv4() { (3, 3) } else { (1, 4) };
        let body = [&[0; 4], &into[14..]].concat();
        let bytes = packet::icmp(&nic.to(remote), kind, &body);
        let checksum_start = if remote.is_ipv4() { 34 } else { 54 };
        let before = agent
            .drops("error")
            .get("partial_checksum")
            .copied()
            .unwrap_or(0);
        nic.tap.send(&Frame {
            vnet: VnetHeader {
                flags: NEEDS_CHECKSUM,
                checksum_start,
                checksum_offset: 2,
                ..VnetHeader::default()
            },
            bytes: bytes.clone(),
        });
        netagent_tests::deadline::wait_until("it is dropped", SOON, || {
            agent.drops("error").get("partial_checksum") == Some(&(before + 1))
        });
        // Finished, it passes.
        nic.tap.send_bytes(bytes);
        wire.receive_where(Deadline::after(SOON), |received| {
            let packet = Packet::parse(&received.frame.bytes)?;
            (packet.kind == kind.0 && packet.ends.dst == remote).then(|| {
                packet::assert_checksums(&received.frame.bytes);
            })
        });
    }
}
