//! How far a flow is, as the map shows it after each packet.

use std::net::IpAddr;

use netagent_common::flow::{Flow, FlowKey, FlowState};
use netagent_common::names::map;
use netagent_common::net::tcp_flag::{ACK, FIN, RST, SYN};
use netagent_tests::packet::{Packet, Segment, tcp, udp};
use netagent_tests::prog_run::verdict;
use netagent_tests::scene::{REMOTE_V4, REMOTE_V6, SLOT, Scene, back, to};

const REMOTES: [IpAddr; 2] = [IpAddr::V4(REMOTE_V4), IpAddr::V6(REMOTE_V6)];

/// State of the only flow of a family.
fn state(scene: &mut Scene, is_v4: bool) -> FlowState {
    let states: Vec<u8> = if is_v4 {
        let flows = scene
            .datapath
            .entries::<FlowKey<[u8; 4]>, Flow<[u8; 4]>>(map::FLOWS_V4);
        flows.into_iter().map(|(_, flow)| flow.state).collect()
    } else {
        let flows = scene
            .datapath
            .entries::<FlowKey<[u8; 16]>, Flow<[u8; 16]>>(map::FLOWS_V6);
        flows.into_iter().map(|(_, flow)| flow.state).collect()
    };
    assert_eq!(states.len(), 1, "one flow");
    FlowState::from_number(states[0])
}

enum From {
    Vm,
    World,
}

#[test]
fn the_flags_of_both_sides_move_a_tcp_flow() {
    use FlowState::{Closed, Established, Opening, Reset, VmClosed};
    use From::{Vm, World};
    let table = [
        (Vm, SYN, Opening),
        (World, SYN | ACK, Established),
        (Vm, ACK, Established),
        (Vm, FIN | ACK, VmClosed),
        (World, ACK, VmClosed),
        (World, FIN | ACK, Closed),
        (Vm, ACK, Closed),
        (Vm, SYN, Opening),
        (World, SYN | ACK, Established),
        (World, RST, Reset),
    ];
    for remote in REMOTES {
        let mut scene = Scene::usual();
        let mut nat_port = 0;
        for (step, (from, flags, expected)) in table.iter().enumerate() {
            let segment = Segment {
                sequence: 1,
                acknowledgement: 1,
                flags: *flags,
                ..Segment::default()
            };
            let outcome = match from {
                Vm => scene.from_vm(&tcp(
                    &to(remote),
                    Segment {
                        src_port: 4_000,
                        dst_port: 80,
                        ..segment
                    },
                    b"",
                )),
                World => {
                    let segment = Segment {
                        src_port: 80,
                        dst_port: nat_port,
                        ..segment
                    };
                    scene.from_uplink(&tcp(&back(remote), segment, b""))
                }
            };
            assert_eq!(
                outcome.verdict,
                verdict::REDIRECT,
                "step {step}: {:?}",
                scene.datapath.drops()
            );
            if matches!(from, Vm) {
                nat_port = Packet::parse(&outcome.bytes).unwrap().ports.0;
            }
            assert_eq!(
                state(&mut scene, remote.is_ipv4()),
                *expected,
                "{remote}, step {step}"
            );
        }
    }
}

#[test]
fn both_ends_may_open_a_connection_at_once() {
    for remote in REMOTES {
        let mut scene = Scene::usual();
        let segment = |(src_port, dst_port): (u16, u16), flags| Segment {
            src_port,
            dst_port,
            sequence: 1,
            acknowledgement: 1,
            flags,
        };
        let from_vm = |scene: &mut Scene, flags| {
            let bytes = tcp(&to(remote), segment((4_000, 80), flags), b"");
            let outcome = scene.from_vm(&bytes);
            assert_eq!(outcome.verdict, verdict::REDIRECT, "{remote} {flags}");
            Packet::parse(&outcome.bytes).unwrap().ports.0
        };
        let nat_port = from_vm(&mut scene, SYN);
        // Both are on their way at the same time.
        for (flags, expected) in [
            (SYN, FlowState::Established),
            (SYN | ACK, FlowState::Established),
        ] {
            let bytes = tcp(&back(remote), segment((80, nat_port), flags), b"");
            let outcome = scene.from_uplink(&bytes);
            assert_eq!(outcome.verdict, verdict::REDIRECT, "{remote} {flags}");
            assert_eq!(Packet::parse(&outcome.bytes).unwrap().ports, (80, 4_000));
            assert_eq!(state(&mut scene, remote.is_ipv4()), expected);
            assert_eq!(from_vm(&mut scene, SYN | ACK), nat_port);
        }
        assert_eq!(scene.open_flows(), 1);
    }
}

#[test]
fn an_answer_establishes_a_datagram_flow() {
    for remote in REMOTES {
        let mut scene = Scene::usual();
        let out = scene.from_vm(&udp(&to(remote), (4_000, 53), b"question"));
        assert_eq!(state(&mut scene, remote.is_ipv4()), FlowState::Opening);
        let nat_port = Packet::parse(&out.bytes).unwrap().ports.0;
        scene.from_uplink(&udp(&back(remote), (53, nat_port), b"answer"));
        assert_eq!(state(&mut scene, remote.is_ipv4()), FlowState::Established);
    }
}

#[test]
fn open_flows_and_traffic_are_counted() {
    use netagent_common::vm::Traffic;
    let mut scene = Scene::usual();
    for port in 1..=3 {
        let out = scene.from_vm(&udp(&to(REMOTE_V4), (port, 53), b"question"));
        let nat_port = Packet::parse(&out.bytes).unwrap().ports.0;
        scene.from_uplink(&udp(&back(REMOTE_V4), (53, nat_port), b"answer"));
    }
    let open = scene
        .datapath
        .array::<u64>(map::OPEN_FLOWS)
        .get(&SLOT, 0)
        .unwrap();
    assert_eq!(open, 3);
    let traffic = scene.datapath.per_cpu::<Traffic>(map::TRAFFIC, SLOT);
    assert_eq!(
        traffic.iter().map(|cpu| cpu.from_vm_packets).sum::<u64>(),
        3
    );
    assert_eq!(
        traffic.iter().map(|cpu| cpu.from_vm_bytes).sum::<u64>(),
        3 * (42 + 8)
    );
}
