//! One packet from a guest to the wire, and the answer back, each checked byte for byte.

use std::net::IpAddr;

use netagent_common::net::{GATEWAY_MAC, tcp_flag};
use netagent_tests::deadline::{Deadline, SOON};
use netagent_tests::frame::Frame;
use netagent_tests::guest::{Nic, TTL};
use netagent_tests::packet::{self, Ends, Packet, Segment, hex};
use netagent_tests::raw::Raw;
use netagent_tests::world::{NAT_PORTS, World, host_address};

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Udp,
    Tcp,
    Echo,
}

impl Protocol {
    pub(crate) const ALL: [Self; 3] = [Self::Udp, Self::Tcp, Self::Echo];

    /// A packet of the one who opens the flow.
    pub(crate) fn question(self, ends: &Ends, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
        match self {
            Self::Udp => packet::udp(ends, ports, payload),
            Self::Tcp => segment(ends, ports, payload),
            Self::Echo => packet::echo_request(ends, (ports.0, 1), payload),
        }
    }

    /// A packet of the other one: its own port comes first.
    pub(crate) fn answer(self, ends: &Ends, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
        match self {
            Self::Udp => packet::udp(ends, ports, payload),
            Self::Tcp => segment(ends, ports, payload),
            Self::Echo => packet::echo_reply(ends, (ports.1, 1), payload),
        }
    }
}

fn segment(ends: &Ends, (src_port, dst_port): (u16, u16), payload: &[u8]) -> Vec<u8> {
    let segment = Segment {
        src_port,
        dst_port,
        sequence: 1,
        acknowledgement: 1,
        flags: tcp_flag::ACK,
    };
    packet::tcp(ends, segment, payload)
}

/// How a frame is handed over: finished, with a partial checksum, or as a super-frame.
pub(crate) type Form = fn(Vec<u8>) -> Frame;

/// Both ends of the way.
pub(crate) struct Way<'a> {
    pub(crate) nic: &'a Nic,
    pub(crate) wire: &'a Raw,
    uplink_mac: [u8; 6],
    router_mac: [u8; 6],
}

/// A flow between a port of the guest and one of the far end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowTo {
    pub(crate) protocol: Protocol,
    pub(crate) remote: IpAddr,
    pub(crate) ports: (u16, u16),
}

impl<'a> Way<'a> {
    pub(crate) fn new(world: &World, nic: &'a Nic, wire: &'a Raw) -> Self {
        Self {
            nic,
            wire,
            uplink_mac: world.uplink_mac(),
            router_mac: world.router_mac(),
        }
    }

    /// The guest sends; what arrives on the wire is what was sent but for the addresses, the port and the TTL.
    /// Returns the port under which the world knows the flow.
    pub(crate) fn send(&self, flow: FlowTo, form: Form, payload: &[u8]) -> u16 {
        let ends = self.nic.to(flow.remote);
        let frame = form(flow.protocol.question(&ends, flow.ports, payload));
        self.nic.tap.send(&frame);
        let (received, port) = self.wire.receive_where(Deadline::after(SOON), |received| {
            let packet = Packet::parse(&received.frame.completed())?;
            (packet.payload == payload && packet.ends.dst == flow.remote)
                .then(|| (received.clone(), packet.ports.0))
        });
        assert!(
            NAT_PORTS.contains(&port),
            "{flow:?} leaves from port {port}"
        );
        assert_eq!(
            hex(&received.frame.completed()),
            hex(&self.on_wire(flow, port, payload)),
            "{flow:?} on the wire"
        );
        assert_eq!(received.vlan, None);
        assert_eq!(
            received.frame.vnet.segments, frame.vnet.segments,
            "{flow:?}: cut on the way"
        );
        assert_eq!(
            received.frame.vnet.segment_size, frame.vnet.segment_size,
            "{flow:?}"
        );
        port
    }

    /// What the guest sends, as it arrives on the wire.
    pub(crate) fn on_wire(&self, flow: FlowTo, nat_port: u16, payload: &[u8]) -> Vec<u8> {
        let ends = Ends {
            src_mac: self.uplink_mac,
            dst_mac: self.router_mac,
            src: host_address(flow.remote.is_ipv4()),
            dst: flow.remote,
            ttl: TTL - 1,
        };
        let ports = (nat_port, flow.ports.1);
        flow.protocol.question(&ends, ports, payload)
    }

    /// What the far end answers, as it arrives at the guest.
    pub(crate) fn at_guest(&self, flow: FlowTo, payload: &[u8]) -> Vec<u8> {
        let ports = (flow.ports.1, flow.ports.0);
        let ends = self.delivered(flow.remote);
        flow.protocol.answer(&ends, ports, payload)
    }

    /// Ends of what the far end sends to the uplink's address.
    pub(crate) fn back(&self, remote: IpAddr) -> Ends {
        let dst = host_address(remote.is_ipv4());
        Ends {
            src_mac: self.router_mac,
            dst_mac: self.uplink_mac,
            src: remote,
            dst,
            ttl: 60,
        }
    }

    /// Ends of the same as the guest gets it.
    pub(crate) fn delivered(&self, remote: IpAddr) -> Ends {
        let dst = self.nic.address(remote.is_ipv4());
        Ends {
            src_mac: GATEWAY_MAC,
            dst_mac: self.nic.mac,
            src: remote,
            dst,
            ttl: 59,
        }
    }

    /// The far end answers; what the guest gets is what was sent but for the addresses, the port and the TTL.
    pub(crate) fn answer(&self, flow: FlowTo, nat_port: u16, form: Form, payload: &[u8]) {
        let remote_port = flow.ports.1;
        let answer =
            flow.protocol
                .answer(&self.back(flow.remote), (remote_port, nat_port), payload);
        let sent = form(answer);
        self.wire.send(&sent);
        let received = self.nic.tap.receive_where(Deadline::after(SOON), |frame| {
            let packet = Packet::parse(&frame.completed())?;
            (packet.payload == payload && packet.ends.src == flow.remote).then(|| frame.clone())
        });
        assert_eq!(
            hex(&received.completed()),
            hex(&self.at_guest(flow, payload)),
            "{flow:?} at the guest"
        );
        assert_eq!(
            received.vnet.segments, sent.vnet.segments,
            "{flow:?}: cut on the way"
        );
    }

    /// Both, with a small finished packet: the flow works.
    pub(crate) fn check(&self, flow: FlowTo) -> u16 {
        let nat_port = self.send(flow, Frame::plain, b"question");
        self.answer(flow, nat_port, Frame::plain, b"the answer");
        nat_port
    }
}
