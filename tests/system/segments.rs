//! What the kernel finishes for a VMM without offloads: checksums computed, super-frames cut.

use std::net::IpAddr;

use netagent_tests::deadline::{Deadline, SOON};
use netagent_tests::frame::{Frame, Segments};
use netagent_tests::guest::Guest;
use netagent_tests::packet::{self, Packet};
use netagent_tests::random::Random;
use netagent_tests::tap::Header;
use netagent_tests::world::{SILENT, World};

use crate::exchange::{FlowTo, Protocol, Way};

fn check_cut(way: &Way<'_>, remote: IpAddr, (protocol, segments): (Protocol, Segments)) {
    let flow = FlowTo {
        protocol,
        remote,
        ports: (6_000, 7),
    };
    let nat_port = way.check(flow);
    let payload = Random::new(4).bytes(10_000);
    let answer = protocol.answer(&way.back(remote), (7, nat_port), &payload);
    way.wire.send(&Frame::super_frame(answer, segments, 1_400));
    let mut arrived = Vec::new();
    while arrived.len() < payload.len() {
        let bytes = way.nic.tap.receive_where(Deadline::after(SOON), |frame| {
            let packet = Packet::parse(&frame.bytes)?;
            (packet.ends == way.delivered(remote)).then(|| frame.bytes.clone())
        });
        packet::assert_checksums(&bytes);
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(packet.ports, (7, 6_000));
        assert!(
            packet.payload.len() <= 1_400,
            "a segment of {} bytes",
            packet.payload.len()
        );
        arrived.extend(packet.payload);
    }
    assert_eq!(arrived, payload);
}

#[test]
fn a_vmm_without_offloads_gets_finished_segments() {
    let world = World::new();
    let agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "cut", Header::None);
    let wire = world.wire();
    let way = Way::new(&world, guest.nic(), &wire);
    for remote in SILENT {
        let tcp = if remote.is_ipv4() {
            Segments::TcpV4
        } else {
            Segments::TcpV6
        };
        check_cut(&way, remote, (Protocol::Tcp, tcp));
        check_cut(&way, remote, (Protocol::Udp, Segments::Udp));
    }
}

#[test]
fn a_vmm_without_offloads_gets_finished_checksums() {
    let world = World::new();
    let agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "sums", Header::None);
    let wire = world.wire();
    let way = Way::new(&world, guest.nic(), &wire);
    for remote in SILENT {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let flow = FlowTo {
                protocol,
                remote,
                ports: (6_100, 7),
            };
            let nat_port = way.check(flow);
            way.answer(
                flow,
                nat_port,
                Frame::partial,
                b"its checksum is still to be computed",
            );
        }
    }
}
