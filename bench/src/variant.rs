//! A way that is ready: namespaces of its own, two guests' TAPs, and what its frames have to look like.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use netagent_tests::agent::Agent;
use netagent_tests::deadline::{Deadline, SOON};
use netagent_tests::guest::Guest;
use netagent_tests::packet::{self, Ends, Packet};
use netagent_tests::raw::Raw;
use netagent_tests::tap::{Header, Tap};
use netagent_tests::world::{
    FAR_END, NAT_PORTS, ROUTER_V4, ROUTER_V6, World, host_address, server_v4,
};
use serde_json::json;

use crate::peers::{self, Held, Identity, TAPS};
pub use crate::peers::{Kind, drop_at_far_end};

/// What the agent is configured with: more flows of one instance than any benchmark opens.
pub const CONFIGURATION: &str = "[limits]\nflows = 1000000\n";
/// The same, and guests reach each other.
pub const OPEN: &str = "[limits]\nflows = 1000000\n[policy]\nvm_to_vm = \"account\"\n";

/// Port of the host that is the guest's, where frames go to it.
pub const PUBLISHED: u16 = 8_080;
/// Port of the guest behind it.
pub const GUEST_PORT: u16 = 80;

/// Name of the guest's TAP, whoever made it.
pub const TAP: &str = TAPS[0];

/// TTL of what anybody sends.
pub const TTL: u8 = 64;

/// A way that is ready, in both directions.
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
    /// The TAP of another guest.
    pub other: Tap,
    /// Ends of a packet to the router.
    pub ends: Ends,
    /// The same over IPv6.
    pub ends_v6: Ends,
    /// Ends of a packet from the other guest to the first one.
    pub between: Ends,
    uplink_mac: [u8; 6],
    router_mac: [u8; 6],
    _held: Held,
    _counter: OwnedFd,
}

/// What is open of two guests, and who they are.
struct Guests {
    agent: Option<Agent>,
    taps: [Tap; 2],
    identities: [Identity; 2],
}

impl Variant {
    /// Prepares a way; its far end counts and drops.
    #[must_use]
    pub fn prepare(kind: Kind) -> Self {
        Self::prepare_as(kind, CONFIGURATION)
    }

    /// The same with an agent that is configured so.
    ///
    /// # Panics
    /// Without the rights to.
    #[must_use]
    pub fn prepare_as(kind: Kind, configuration: &str) -> Self {
        let world = World::new();
        let Guests {
            agent,
            taps: [tap, other],
            identities: [first, second],
        } = if kind == Kind::Netagent {
            agents_guests(&world, configuration)
        } else {
            plain_guests(&world, kind)
        };
        let ends = |is_v4: bool| Ends {
            src_mac: first.mac,
            dst_mac: first.gateway_mac,
            src: if is_v4 {
                first.v4.into()
            } else {
                first.v6.into()
            },
            dst: router(is_v4),
            ttl: TTL,
        };
        let held = kind.set_up(&world);
        let variant = Self {
            kind,
            agent,
            tap,
            other,
            ends: ends(true),
            ends_v6: ends(false),
            between: Ends {
                src_mac: second.mac,
                dst_mac: if kind.is_router() {
                    first.gateway_mac
                } else {
                    first.mac
                },
                src: second.v4.into(),
                dst: first.v4.into(),
                ttl: TTL,
            },
            uplink_mac: world.uplink_mac(),
            router_mac: world.router_mac(),
            _held: held,
            _counter: drop_at_far_end(&world),
            world,
        };
        variant.make_known();
        variant
    }

    /// A bridge floods what is for hosts that never sent: everybody sends once.
    fn make_known(&self) {
        if self.kind != Kind::Bridge {
            return;
        }
        let wire = self.world.wire();
        let greeting = |ends: &Ends| packet::udp(ends, (1, 1), b"known");
        self.tap.send_bytes(greeting(&self.ends));
        self.other.send_bytes(greeting(&self.between));
        wire.send_bytes(greeting(&self.to_guest(server_v4(0).into())));
        let arrives = |tap: &Tap| {
            tap.receive_where(Deadline::after(SOON), |frame| {
                (Packet::parse(&frame.bytes)?.ends.src == IpAddr::V4(server_v4(0))).then_some(())
            });
        };
        arrives(&self.tap);
    }

    /// Ends of a packet from the world to the guest itself, as it leaves the router.
    #[must_use]
    pub fn to_guest(&self, src: IpAddr) -> Ends {
        Ends {
            src_mac: self.router_mac,
            dst_mac: if self.kind.is_router() {
                self.uplink_mac
            } else {
                self.ends.src_mac
            },
            src,
            dst: if src.is_ipv4() {
                self.ends.src
            } else {
                self.ends_v6.src
            },
            ttl: TTL,
        }
    }

    /// TTL of what arrives.
    const fn ttl(&self) -> u8 {
        if self.kind.is_router() { TTL - 1 } else { TTL }
    }

    /// Checks a frame that arrived at the far end.
    ///
    /// # Panics
    /// Where it is not what this way makes of the guest's.
    pub fn check(&self, bytes: &[u8]) -> Packet {
        packet::assert_checksums(bytes);
        let packet = Packet::parse(bytes).expect("checked above");
        let (name, is_v4) = (self.kind.name(), packet.ends.src.is_ipv4());
        let own = if is_v4 { self.ends } else { self.ends_v6 };
        let expected = Ends {
            src_mac: if self.kind.is_router() {
                self.uplink_mac
            } else {
                own.src_mac
            },
            dst_mac: self.router_mac,
            src: if self.kind.has_nat() {
                host_address(is_v4)
            } else {
                own.src
            },
            dst: packet.ends.dst,
            ttl: self.ttl(),
        };
        assert_eq!(packet.ends, expected, "{name}");
        if self.kind == Kind::Netagent {
            let port = packet.ports.0;
            assert!(NAT_PORTS.contains(&port), "{name}: port {port}");
        }
        packet
    }

    /// Checks a frame that arrived at the guest.
    ///
    /// # Panics
    /// Where it is not what this way makes of one that was sent with these ends.
    pub fn check_at_guest(&self, bytes: &[u8], sent: &Ends) -> Packet {
        // Between guests netagent's programs are two routers, one of each guest.
        let is_second_hop = self.kind == Kind::Netagent && sent.src == self.between.src;
        let ttl = self.ttl() - u8::from(is_second_hop);
        packet::assert_checksums(bytes);
        let packet = Packet::parse(bytes).expect("checked above");
        let expected = Ends {
            src_mac: if self.kind.is_router() {
                self.ends.dst_mac
            } else {
                sent.src_mac
            },
            dst_mac: self.ends.src_mac,
            src: sent.src,
            dst: self.ends.src,
            ttl,
        };
        assert_eq!(packet.ends, expected, "{}", self.kind.name());
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

    /// Reads all that lies at the guest's TAP.
    pub fn drain(&self) {
        while self.tap.receive_now().is_some() {}
    }

    /// What a reader has to know of it.
    #[must_use]
    pub fn notes(&self) -> Option<String> {
        if self.kind == Kind::Devmap {
            let modes = peers::xdp_modes(&self.world.host);
            return Some(format!("{}: {modes}", self.kind.name()));
        }
        self.kind.remark().map(str::to_owned)
    }

    /// Listens at the far end of the uplink.
    #[must_use]
    pub fn wire(&self) -> Raw {
        self.world.wire()
    }
}

fn agents_guests(world: &World, configuration: &str) -> Guests {
    let agent = world.agent(configuration);
    let publish = json!([format!("{PUBLISHED}:{GUEST_PORT}/udp")]);
    let specs = [
        json!({ "name": "bench", "publish": publish }),
        json!({ "name": "other" }),
    ];
    let mut taps = TAPS.into_iter();
    let guests = specs.map(|spec| {
        let mut guest = Guest::create_from(&agent, &world.host, &spec, Header::Vnet);
        let nic = guest.nics.remove(0);
        assert_eq!(Some(nic.tap_name.as_str()), taps.next());
        let identity = Identity {
            mac: nic.mac,
            v4: nic.v4,
            v6: nic.v6,
            gateway_mac: netagent_common::net::GATEWAY_MAC,
        };
        (nic.tap, identity)
    });
    let [(first, one), (second, two)] = guests;
    Guests {
        agent: Some(agent),
        taps: [first, second],
        identities: [one, two],
    }
}

fn plain_guests(world: &World, kind: Kind) -> Guests {
    if !kind.is_router() {
        peers::keep_silent(&world.host);
    }
    Guests {
        agent: None,
        taps: TAPS.map(|name| Tap::open(&world.host, name, Header::Vnet)),
        identities: [0, 1].map(|number| kind.identity(world, number)),
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
