//! What the reverse entry of an established flow remembers of it: replies take it, and nothing stale.

use std::net::IpAddr;

use netagent_common::flow::{Flow, FlowKey};
use netagent_common::names::map;
use netagent_common::nat::{Reverse, ReverseKey};
use netagent_common::net::tcp_flag::{ACK, FIN, RST, SYN};
use netagent_common::vm::Interface;
use netagent_tests::packet::{Packet, Segment, tcp, udp};
use netagent_tests::prog_run::{Outcome, verdict};
use netagent_tests::scene::{self, OTHER_SLOT, REMOTE_V4, REMOTE_V6, Scene, back, to};

const REMOTES: [IpAddr; 2] = [IpAddr::V4(REMOTE_V4), IpAddr::V6(REMOTE_V6)];
const GUEST_PORT: u16 = 4_000;
const PORT: u16 = 443;

/// A flow that the world answered, in either protocol.
struct Established {
    scene: Scene,
    remote: IpAddr,
    nat_port: u16,
    is_tcp: bool,
}

impl Established {
    fn new(remote: IpAddr, is_tcp: bool) -> Self {
        let mut scene = Scene::usual();
        let asked = if is_tcp {
            tcp(&to(remote), segment((GUEST_PORT, PORT), SYN), b"")
        } else {
            udp(&to(remote), (GUEST_PORT, PORT), b"question")
        };
        let outcome = scene.from_vm(&asked);
        assert_eq!(outcome.verdict, verdict::REDIRECT);
        let nat_port = Packet::parse(&outcome.bytes).expect("a packet").ports.0;
        let mut flow = Self {
            scene,
            remote,
            nat_port,
            is_tcp,
        };
        assert_eq!(flow.reply(SYN | ACK).verdict, verdict::REDIRECT);
        assert_eq!(flow.reply(ACK).verdict, verdict::REDIRECT);
        flow
    }

    fn reply(&mut self, flags: u8) -> Outcome {
        let ports = (PORT, self.nat_port);
        let bytes = if self.is_tcp {
            tcp(&back(self.remote), segment(ports, flags), b"data")
        } else {
            udp(&back(self.remote), ports, b"answer")
        };
        self.scene.from_uplink(&bytes)
    }

    /// Removes the flow from the map and leaves its reverse entry.
    fn remove_flow(&mut self) {
        let removed = remove_flows::<[u8; 4]>(&mut self.scene, map::FLOWS_V4)
            + remove_flows::<[u8; 16]>(&mut self.scene, map::FLOWS_V6);
        assert_eq!(removed, 1);
    }
}

fn segment((src_port, dst_port): (u16, u16), flags: u8) -> Segment {
    Segment {
        src_port,
        dst_port,
        flags,
        ..Segment::default()
    }
}

fn remove_flows<A: Copy>(scene: &mut Scene, name: &str) -> usize
where
    FlowKey<A>: aya::Pod,
    Flow<A>: aya::Pod,
{
    let flows = scene.datapath.entries::<FlowKey<A>, Flow<A>>(name);
    for (key, _) in &flows {
        scene.datapath.remove::<FlowKey<A>, Flow<A>>(name, key);
    }
    flows.len()
}

fn change_reverses<A: Copy>(scene: &mut Scene, name: &str, change: impl Fn(&mut Reverse<A>))
where
    ReverseKey<A>: aya::Pod,
    Reverse<A>: aya::Pod,
{
    for (key, mut reverse) in scene.datapath.entries::<ReverseKey<A>, Reverse<A>>(name) {
        change(&mut reverse);
        scene
            .datapath
            .insert::<ReverseKey<A>, Reverse<A>>(name, key, reverse);
    }
}

/// Every case: both families, both protocols.
fn all(mut check: impl FnMut(Established)) {
    for remote in REMOTES {
        for is_tcp in [true, false] {
            check(Established::new(remote, is_tcp));
        }
    }
}

#[test]
fn a_reply_needs_no_look_at_its_flow() {
    for remote in REMOTES {
        for is_tcp in [true, false] {
            // The flow is looked at once in each tick, and one may begin right now.
            let is_passed = (0..3).any(|_| {
                let mut flow = Established::new(remote, is_tcp);
                flow.remove_flow();
                flow.reply(ACK).verdict == verdict::REDIRECT
            });
            assert!(is_passed, "{remote} {is_tcp}");
        }
    }
}

#[test]
fn what_changes_a_flow_is_looked_at() {
    for remote in REMOTES {
        for flags in [SYN | ACK, FIN | ACK, RST] {
            let mut flow = Established::new(remote, true);
            flow.remove_flow();
            let outcome = flow.reply(flags);
            assert_eq!(outcome.verdict, verdict::DROP, "{flags:#x}");
        }
        let mut flow = Established::new(remote, true);
        assert_eq!(flow.reply(RST).verdict, verdict::REDIRECT);
        assert_eq!(
            (flow.scene.open_flows(), flow.scene.closing_flows()),
            (0, 1)
        );
    }
}

#[test]
fn nothing_is_remembered_for_longer_than_a_tick() {
    all(|mut flow| {
        flow.remove_flow();
        change_reverses::<[u8; 4]>(&mut flow.scene, map::REVERSE_V4, |reverse| {
            reverse.seen -= 1
        });
        change_reverses::<[u8; 16]>(&mut flow.scene, map::REVERSE_V6, |reverse| {
            reverse.seen -= 1
        });
        assert_eq!(flow.reply(ACK).verdict, verdict::DROP);
    });
}

#[test]
fn nothing_is_remembered_over_another_policy_or_another_life() {
    let record = scene::record();
    let others = [
        Interface {
            policy_generation: record.policy_generation + 1,
            ..record
        },
        Interface {
            generation: record.generation + 1,
            ..record
        },
        Interface {
            instance: record.instance + 1,
            ..record
        },
    ];
    for other in others {
        all(|mut flow| {
            flow.remove_flow();
            flow.scene.datapath.set_interface(&other);
            assert_eq!(flow.reply(ACK).verdict, verdict::DROP);
        });
    }
}

#[test]
fn an_entry_that_became_another_flows_is_not_believed() {
    all(|mut flow| {
        change_reverses::<[u8; 4]>(&mut flow.scene, map::REVERSE_V4, |reverse| reverse.tag ^= 1);
        change_reverses::<[u8; 16]>(&mut flow.scene, map::REVERSE_V6, |reverse| reverse.tag ^= 1);
        assert_eq!(flow.reply(ACK).verdict, verdict::DROP);
    });
}

/// Of two CPUs one may note a flow in an entry that the other gave to another flow in that very moment.
#[test]
fn an_entry_in_which_another_flow_was_noted_costs_no_reply() {
    all(|mut flow| {
        let other = Interface {
            generation: scene::GENERATION + 1,
            ..scene::record()
        };
        flow.scene.add_other(other);
        change_reverses::<[u8; 4]>(&mut flow.scene, map::REVERSE_V4, |reverse| {
            (reverse.slot, reverse.generation) = (OTHER_SLOT, other.generation);
        });
        change_reverses::<[u8; 16]>(&mut flow.scene, map::REVERSE_V6, |reverse| {
            (reverse.slot, reverse.generation) = (OTHER_SLOT, other.generation);
        });
        for _ in 0..2 {
            assert_eq!(flow.reply(ACK).verdict, verdict::REDIRECT);
        }
    });
}
