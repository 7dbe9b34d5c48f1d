//! The ways by which a frame can get from a TAP to an uplink, each in namespaces of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use netagent_common::net::GATEWAY_MAC;

use serde_json::json;

use netagent_tests::agent::Agent;
use netagent_tests::guest::Guest;
use netagent_tests::netns::NetNs;
use netagent_tests::packet::{self, Ends, Packet};
use netagent_tests::sys::{self, Instruction};
use netagent_tests::tap::{Header, Tap};
use netagent_tests::world::{
    FAR_END, NAT_PORTS, ROUTER_V4, ROUTER_V6, UPLINK, World, host_address, link_layer,
};

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
            Self::Netagent => "netagent",
            Self::Redirect => "tcx redirect",
            Self::Route => "kernel route",
            Self::Nft => "nft masquerade",
        }
    }

    const fn has_nat(self) -> bool {
        matches!(self, Self::Netagent | Self::Nft)
    }
}

/// What the agent is configured with: more flows of one instance than any benchmark opens.
pub const CONFIGURATION: &str = "[limits]\nflows = 1000000\n";

const GUEST_MAC: [u8; 6] = [0xaa, 0xfc, 0, 0, 0, 1];
const GUEST_V4: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);
const GUEST_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xbe, 0, 0, 0, 0, 0, 2);

/// Port of the host that is the guest's, where frames go to it.
pub const PUBLISHED: u16 = 8_080;
/// Port of the guest behind it.
pub const GUEST_PORT: u16 = 80;

/// Which way frames go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the guest to the uplink.
    FromVm,
    /// From the uplink to the guest.
    ToVm,
}

/// Name of the guest's TAP, whoever made it.
pub const TAP: &str = "tap0";

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
    /// The same over IPv6.
    pub ends_v6: Ends,
    direction: Direction,
    links: Vec<OwnedFd>,
}

impl Variant {
    /// Prepares a way; its far end counts and drops.
    ///
    /// # Panics
    /// Without the rights to.
    #[must_use]
    pub fn prepare(kind: Kind) -> Self {
        Self::prepare_as(kind, Direction::FromVm, CONFIGURATION)
    }

    /// The same for one direction, with an agent that is configured so.
    ///
    /// # Panics
    /// Without the rights to.
    #[must_use]
    pub fn prepare_as(kind: Kind, direction: Direction, configuration: &str) -> Self {
        let world = World::new();
        let ends = |src_mac, src: IpAddr| Ends {
            src_mac,
            dst_mac: GATEWAY_MAC,
            src,
            dst: router(src.is_ipv4()),
            ttl: 64,
        };
        let (agent, tap, mac, [v4, v6]) = if kind == Kind::Netagent {
            let agent = world.agent(configuration);
            let mut spec = json!({ "name": "bench" });
            if direction == Direction::ToVm {
                spec["publish"] = json!([format!("{PUBLISHED}:{GUEST_PORT}/udp")]);
            }
            let mut guest = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
            let nic = guest.nics.remove(0);
            let addresses = [true, false].map(|is_v4| nic.address(is_v4));
            (Some(agent), nic.tap, nic.mac, addresses)
        } else {
            let addresses = [GUEST_V4.into(), GUEST_V6.into()];
            (None, plain_tap(&world), GUEST_MAC, addresses)
        };
        let mut variant = Self {
            kind,
            world,
            agent,
            tap,
            ends: ends(mac, v4),
            ends_v6: ends(mac, v6),
            direction,
            links: Vec::new(),
        };
        variant.attach();
        variant
    }

    fn attach(&mut self) {
        let host = &self.world.host;
        match self.kind {
            Kind::Netagent => {}
            Kind::Redirect => {
                let (uplink, tap) = (host.ifindex(UPLINK), host.ifindex(TAP));
                let (from, to) = match self.direction {
                    Direction::FromVm => (tap, uplink),
                    Direction::ToVm => (uplink, tap),
                };
                let program = redirect(to);
                let link = host.run(|| sys::attach_tcx_ingress(&program, from));
                self.links.push(link.expect("this kernel has tcx"));
            }
            Kind::Route => switch_forwarding_on(host),
            Kind::Nft => {
                switch_forwarding_on(host);
                for family in ["ip", "ip6"] {
                    let nft = |words: &str| host.shell(&format!("nft add {words}"));
                    nft(&format!("table {family} nat"));
                    nft(&format!(
                        "chain {family} nat out {{ type nat hook postrouting priority 100 ; }}"
                    ));
                    nft(&format!(
                        "rule {family} nat out oifname {UPLINK} masquerade"
                    ));
                }
                if self.direction == Direction::ToVm {
                    host.shell(
                        "nft add chain ip nat in { type nat hook prerouting priority -100 ; }",
                    );
                    host.shell(&format!(
                        "nft add rule ip nat in iifname {UPLINK} udp dport {PUBLISHED} dnat to {GUEST_V4}:{GUEST_PORT}"
                    ));
                }
                // The frames of a super-frame round repeat their sequence numbers.
                host.sysctl("net/netfilter/nf_conntrack_tcp_be_liberal", "1");
            }
        }
        self.links.push(drop_at_far_end(&self.world));
    }

    /// Checks a frame that arrived at the far end.
    ///
    /// # Panics
    /// Where it is not what this way makes of the guest's.
    pub fn check(&self, bytes: &[u8]) -> Packet {
        packet::assert_checksums(bytes);
        let packet = Packet::parse(bytes).expect("checked above");
        let is_v4 = packet.ends.src.is_ipv4();
        let own = if is_v4 { self.ends } else { self.ends_v6 };
        let expected = if self.kind.has_nat() {
            host_address(is_v4)
        } else {
            own.src
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

    /// Frames for the guest that reached its TAP, and found no room there: nobody reads them.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.world.host.not_sent(TAP)
    }

    /// Whether flows are to be established by replies.
    #[must_use]
    pub const fn keeps_flows(&self) -> bool {
        self.kind.has_nat()
    }
}

/// The router's address of one family.
const fn router(is_v4: bool) -> IpAddr {
    if is_v4 {
        IpAddr::V4(ROUTER_V4)
    } else {
        IpAddr::V6(ROUTER_V6)
    }
}

fn switch_forwarding_on(host: &NetNs) {
    host.sysctl("net/ipv4/ip_forward", "1");
    host.sysctl("net/ipv6/conf/all/forwarding", "1");
}

fn plain_tap(world: &World) -> Tap {
    let host = &world.host;
    let tap = Tap::open(host, TAP, Header::Vnet);
    host.ip(&format!(
        "link set {TAP} address {} up",
        link_layer(GATEWAY_MAC)
    ));
    // As the agent's own: a queue would cost the others more.
    host.shell(&format!("tc qdisc replace dev {TAP} root noqueue"));
    host.ip(&format!("address add 172.16.0.1/30 dev {TAP}"));
    host.ip(&format!("address add fd00:be::1/64 dev {TAP} nodad"));
    let guest_mac = link_layer(GUEST_MAC);
    for guest in [IpAddr::from(GUEST_V4), GUEST_V6.into()] {
        host.ip(&format!(
            "neighbour replace {guest} lladdr {guest_mac} dev {TAP} nud permanent"
        ));
    }
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
pub(crate) fn redirect(ifindex: u32) -> OwnedFd {
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

/// Lets the far end of the uplink count what arrives, and drop it, for as long as the answer is held.
///
/// # Panics
/// Without the rights to.
#[must_use]
pub fn drop_at_far_end(world: &World) -> OwnedFd {
    let far_end = world.outside.ifindex(FAR_END);
    let attach = || sys::attach_tcx_ingress(&drop_all(), far_end);
    world.outside.run(attach).expect("this kernel has tcx")
}

/// `return TCX_DROP;`
fn drop_all() -> OwnedFd {
    sys::load_classifier(&sys::returns(2)).expect("root may load programs")
}
