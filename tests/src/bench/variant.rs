//! The ways by which a frame can get from a TAP to an uplink, each in namespaces of its own.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use netagent_common::net::GATEWAY_MAC;

use crate::agent::Agent;
use crate::guest::Guest;
use crate::packet::{self, Ends, Packet};
use crate::sys::{self, Instruction};
use crate::tap::{Header, Tap};
use crate::world::{FAR_END, HOST_V4, NAT_PORTS, UPLINK, World, link_layer};

/// A way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// netagent, with NAT and every check.
    Netagent,
    /// A tcx program of four instructions that redirects: what every datapath on tcx pays.
    Redirect,
    /// The kernel's forwarding, without NAT.
    Route,
    /// The kernel's forwarding with nftables masquerade.
    Nft,
}

impl Kind {
    /// All of them, in the order in which a round measures them.
    pub const ALL: [Self; 4] = [Self::Netagent, Self::Redirect, Self::Route, Self::Nft];

    /// As it is printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Netagent => "A netagent",
            Self::Redirect => "R tcx redirect",
            Self::Route => "K kernel route",
            Self::Nft => "N nft masquerade",
        }
    }

    const fn has_nat(self) -> bool {
        matches!(self, Self::Netagent | Self::Nft)
    }
}

/// Flows that the agent allows one instance here.
const FLOW_LIMIT: u32 = 100_000;

const GUEST_MAC: [u8; 6] = [0xaa, 0xfc, 0, 0, 0, 1];
const GUEST_V4: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);

/// A way that is ready.
#[derive(Debug)]
pub struct Variant {
    /// Which one.
    pub kind: Kind,
    /// The namespaces.
    pub world: World,
    /// The agent, where it is netagent's.
    pub agent: Option<Agent>,
    /// The guest's TAP.
    pub tap: Tap,
    /// Ends of a packet to the router.
    pub ends: Ends,
    links: Vec<OwnedFd>,
}

impl Variant {
    /// Prepares a way; its far end counts and drops.
    ///
    /// # Panics
    /// Without the rights to.
    #[must_use]
    pub fn prepare(kind: Kind) -> Self {
        let world = World::new();
        let ends = |src_mac, src: Ipv4Addr| Ends {
            src_mac,
            dst_mac: GATEWAY_MAC,
            src: src.into(),
            dst: crate::world::ROUTER_V4.into(),
            ttl: 64,
        };
        let mut variant = if kind == Kind::Netagent {
            let agent = world.agent(&format!("[limits]\nflows = {FLOW_LIMIT}\n"));
            let mut guest = Guest::create(&agent, &world.host, "bench", Header::Vnet);
            let nic = guest.nics.remove(0);
            let ends = ends(nic.mac, nic.v4);
            Self {
                kind,
                world,
                agent: Some(agent),
                tap: nic.tap,
                ends,
                links: Vec::new(),
            }
        } else {
            let tap = plain_tap(&world);
            Self {
                kind,
                world,
                agent: None,
                tap,
                ends: ends(GUEST_MAC, GUEST_V4),
                links: Vec::new(),
            }
        };
        variant.attach();
        variant
    }

    fn attach(&mut self) {
        let (host, outside) = (&self.world.host, &self.world.outside);
        match self.kind {
            Kind::Netagent => {}
            Kind::Redirect => {
                let program = redirect(host.ifindex(UPLINK));
                let tap = host.ifindex("tap0");
                let link = host.run(|| sys::attach_tcx_ingress(&program, tap));
                self.links.push(link.expect("this kernel has tcx"));
            }
            Kind::Route => host.sysctl("net/ipv4/ip_forward", "1"),
            Kind::Nft => {
                host.sysctl("net/ipv4/ip_forward", "1");
                host.shell("nft add table ip nat");
                host.shell("nft add chain ip nat out { type nat hook postrouting priority 100 ; }");
                host.shell(&format!(
                    "nft add rule ip nat out oifname {UPLINK} masquerade"
                ));
                // The frames of a super-frame round repeat their sequence numbers.
                host.sysctl("net/netfilter/nf_conntrack_tcp_be_liberal", "1");
            }
        }
        let far_end = outside.ifindex(FAR_END);
        let link = outside.run(|| sys::attach_tcx_ingress(&drop_all(), far_end));
        self.links.push(link.expect("this kernel has tcx"));
    }

    /// Checks a frame that arrived at the far end.
    ///
    /// # Panics
    /// Where it is not what this way makes of the guest's.
    pub fn check(&self, bytes: &[u8]) -> Packet {
        packet::assert_checksums(bytes);
        let packet = Packet::parse(bytes).expect("checked above");
        let expected = if self.kind.has_nat() {
            HOST_V4.into()
        } else {
            self.ends.src
        };
        assert_eq!(packet.ends.src, expected, "{}: source", self.kind.name());
        let ttl = if self.kind == Kind::Redirect { 64 } else { 63 };
        assert_eq!(packet.ends.ttl, ttl, "{}: TTL", self.kind.name());
        if self.kind == Kind::Netagent {
            assert!(
                NAT_PORTS.contains(&packet.ports.0),
                "{}: port {}",
                self.kind.name(),
                packet.ports.0
            );
        }
        packet
    }

    /// Frames that arrived at the far end so far.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.world.outside.packets(FAR_END).0
    }

    /// Whether flows are to be established by replies.
    #[must_use]
    pub const fn keeps_flows(&self) -> bool {
        self.kind.has_nat()
    }
}

fn plain_tap(world: &World) -> Tap {
    let host = &world.host;
    let tap = Tap::open(host, "tap0", Header::Vnet);
    host.ip(&format!(
        "link set tap0 address {} up",
        link_layer(GATEWAY_MAC)
    ));
    host.ip("address add 172.16.0.1/30 dev tap0");
    let guest_mac = link_layer(GUEST_MAC);
    host.ip(&format!(
        "neighbour replace {GUEST_V4} lladdr {guest_mac} dev tap0 nud permanent"
    ));
    tap
}

const fn move_immediate(register: u8, immediate: i32) -> Instruction {
    Instruction {
        code: 0xb7,
        registers: register,
        offset: 0,
        immediate,
    }
}

const EXIT: Instruction = Instruction {
    code: 0x95,
    registers: 0,
    offset: 0,
    immediate: 0,
};

/// `return bpf_redirect(ifindex, 0);`
fn redirect(ifindex: u32) -> OwnedFd {
    const CALL_REDIRECT: Instruction = Instruction {
        code: 0x85,
        registers: 0,
        offset: 0,
        immediate: 23,
    };
    let program = [
        move_immediate(1, ifindex.cast_signed()),
        move_immediate(2, 0),
        CALL_REDIRECT,
        EXIT,
    ];
    sys::load_classifier(&program).expect("root may load programs")
}

/// `return TCX_DROP;`
fn drop_all() -> OwnedFd {
    sys::load_classifier(&[move_immediate(0, 2), EXIT]).expect("root may load programs")
}
