//! The ways by which a frame can get from a TAP to an uplink and back: netagent, and what people use today, each set up
//! as its users do.

mod bridge;
mod devmap;
mod einat;
mod firewall;
mod mirred;
mod redirect;
mod routed;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use netagent_common::net::GATEWAY_MAC;

use netagent_tests::netns::NetNs;
use netagent_tests::world::{HOST_V4, HOST_V6, UPLINK, World};

use crate::figures::Figures;
use crate::report::Table;
use einat::Einat;

pub(crate) use devmap::modes as xdp_modes;
pub(crate) use firewall::{Firewall, Match, Rules};
pub use redirect::drop_at_far_end;
pub(crate) use redirect::program as redirect_program;
pub(crate) use routed::{load as load_rules, switch_forwarding_on};

/// A way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// netagent, with NAT and every check.
    Netagent,
    /// A tcx program of four instructions that redirects: what every datapath on tcx pays.
    Redirect,
    /// The same in XDP, by a map of devices.
    Devmap,
    /// The kernel's forwarding, without NAT.
    Route,
    /// The kernel's forwarding with masquerade and filter of nftables.
    Nft,
    /// The same by iptables, as nftables carries it.
    IptablesNft,
    /// The same by the iptables from before nftables.
    IptablesLegacy,
    /// The kernel's forwarding with the translation of einat on the uplink.
    Einat,
    /// A bridge over TAPs and uplink.
    Bridge,
    /// What tc-redirect-tap makes: everything that one device receives leaves by another.
    Mirred,
}

impl Kind {
    /// All of them, in the order in which a round measures them.
    pub const ALL: [Self; 10] = [
        Self::Netagent,
        Self::Redirect,
        Self::Devmap,
        Self::Route,
        Self::Nft,
        Self::IptablesNft,
        Self::IptablesLegacy,
        Self::Einat,
        Self::Bridge,
        Self::Mirred,
    ];

    /// Those of a first impression.
    pub const QUICK: [Self; 5] = [
        Self::Netagent,
        Self::Redirect,
        Self::Route,
        Self::Nft,
        Self::IptablesNft,
    ];

    /// As it is printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Netagent => "netagent",
            Self::Redirect => "tcx redirect",
            Self::Devmap => "XDP devmap",
            Self::Route => "kernel route",
            Self::Nft => "nft masquerade",
            Self::IptablesNft => "iptables-nft",
            Self::IptablesLegacy => "iptables-legacy",
            Self::Einat => "einat",
            Self::Bridge => "linux bridge",
            Self::Mirred => "u32 + mirred",
        }
    }

    /// Whether the world sees the host's address instead of the guest's.
    #[must_use]
    pub const fn has_nat(self) -> bool {
        match self {
            Self::Netagent | Self::Nft | Self::IptablesNft | Self::IptablesLegacy | Self::Einat => {
                true
            }
            Self::Redirect | Self::Devmap | Self::Route | Self::Bridge | Self::Mirred => false,
        }
    }

    /// Whether it is a router: TTL and hardware addresses change.
    #[must_use]
    pub const fn is_router(self) -> bool {
        match self {
            Self::Netagent
            | Self::Route
            | Self::Nft
            | Self::IptablesNft
            | Self::IptablesLegacy
            | Self::Einat => true,
            Self::Redirect | Self::Devmap | Self::Bridge | Self::Mirred => false,
        }
    }

    /// Why this machine cannot do it, where it cannot.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        let lines: &[&str] = match self {
            Self::Netagent | Self::Redirect | Self::Devmap | Self::Route => &[],
            Self::Nft => &["nft add table ip probe"],
            Self::IptablesNft => &["iptables-nft -t nat -S", "ip6tables-nft -t nat -S"],
            Self::IptablesLegacy => &["iptables-legacy -t nat -S", "ip6tables-legacy -t nat -S"],
            Self::Einat => return einat::refusal(),
            Self::Bridge => &["ip link add probe type bridge"],
            Self::Mirred => &[
                "tc qdisc add dev lo ingress",
                "tc filter add dev lo parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev lo",
            ],
        };
        let netns = NetNs::new();
        lines.iter().find_map(|line| refusal(&netns, line))
    }

    /// Whether it carries IPv6 as well; einat is built with or without.
    pub(crate) fn has_v6(self) -> bool {
        self != Self::Einat || einat::has_v6()
    }

    /// What a reader has to know of it.
    pub(crate) fn remark(self) -> Option<&'static str> {
        (self == Self::Einat).then_some(einat::REMARK)
    }

    /// Who the guest of this number (0 or 1) is.
    pub(crate) fn identity(self, world: &World, number: u8) -> Identity {
        let mac = [0xaa, 0xfc, 0, 0, 0, 1 + number];
        match self {
            Self::Netagent
            | Self::Route
            | Self::Nft
            | Self::IptablesNft
            | Self::IptablesLegacy
            | Self::Einat => Identity {
                mac,
                v4: routed::guest_v4(number),
                v6: routed::guest_v6(number),
                gateway_mac: GATEWAY_MAC,
            },
            Self::Bridge => Identity {
                mac,
                v4: bridge::guest_v4(number),
                v6: bridge::guest_v6(number),
                gateway_mac: world.router_mac(),
            },
            // Nothing on the way changes a frame: the guest is what the uplink would be.
            Self::Redirect | Self::Devmap | Self::Mirred => Identity {
                mac: if number == 0 { world.uplink_mac() } else { mac },
                v4: HOST_V4,
                v6: HOST_V6,
                gateway_mac: world.router_mac(),
            },
        }
    }

    /// Sets up what the TAPs need, which are open; nothing for netagent, whose agent did.
    pub(crate) fn set_up(self, world: &World) -> Held {
        let host = &world.host;
        match self {
            Self::Netagent => {}
            Self::Redirect => return Held::links(redirect::set_up(host)),
            Self::Devmap => return Held::links(devmap::set_up(world)),
            Self::Route => routed::set_up(world),
            Self::Nft => firewalled(world, Firewall::Nft),
            Self::IptablesNft => firewalled(world, Firewall::IptablesNft),
            Self::IptablesLegacy => firewalled(world, Firewall::IptablesLegacy),
            Self::Einat => {
                routed::set_up(world);
                let einat = Einat::start(host);
                return Held::process(einat.unwrap_or_else(|error| panic!("{error}")));
            }
            Self::Bridge => bridge::set_up(world),
            Self::Mirred => mirred::set_up(host),
        }
        Held::default()
    }

    /// The ways among these that this machine can do, and why it cannot do the others.
    pub(crate) fn sort(wanted: &[Self]) -> (Vec<Self>, Vec<(Self, String)>) {
        let (mut kinds, mut missing) = (Vec::new(), Vec::new());
        for kind in wanted {
            match kind.missing() {
                None => kinds.push(*kind),
                Some(reason) => missing.push((*kind, reason)),
            }
        }
        (kinds, missing)
    }
}

/// What a way is made of: held for as long as it is used.
#[derive(Debug, Default)]
pub(crate) struct Held {
    _links: Vec<OwnedFd>,
    _process: Option<Einat>,
}

impl Held {
    fn links(links: Vec<OwnedFd>) -> Self {
        Self {
            _links: links,
            _process: None,
        }
    }

    fn process(einat: Einat) -> Self {
        Self {
            _links: Vec::new(),
            _process: Some(einat),
        }
    }
}

/// Adds the cells of ways that a machine cannot do, and says why.
pub(crate) fn note_missing(table: &mut Table, missing: &[(Kind, String)]) {
    for (kind, reason) in missing {
        table.add(kind.name(), &Figures::default());
        table.note(format!("{}: not on this machine: {reason}", kind.name()));
    }
}

fn firewalled(world: &World, firewall: Firewall) {
    routed::set_up(world);
    load_rules(&world.host, firewall);
}

/// Who a guest is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) mac: [u8; 6],
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
    /// To which it sends what is for the world.
    pub(crate) gateway_mac: [u8; 6],
}

/// Names of the TAPs of the two guests.
pub(crate) const TAPS: [&str; 2] = ["tap0", "tap1"];

/// From which device to which frames go: to the world, from it, and from the second guest to the first.
pub(crate) const PATHS: [(&str, &str); 3] =
    [(TAPS[0], UPLINK), (UPLINK, TAPS[0]), (TAPS[1], TAPS[0])];

/// What a tool complains of, where it does or is not there.
fn refusal(netns: &NetNs, line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let program = words.next()?;
    match netns.command(program).args(words).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!(
            "`{line}`: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Some(format!("{program}: {error}")),
    }
}

/// Lets a device send at once, as the agent's do: a queue would cost the others more.
pub(crate) fn take_queues_away(host: &NetNs, names: &[&str]) {
    let line = |name: &&str| format!("qdisc replace dev {name} root noqueue\n");
    let lines: String = names.iter().map(line).collect();
    host.feed("tc -batch -", &lines);
}

/// Keeps the host's own IPv6 off devices that only carry frames, from those made later on.
pub(crate) fn keep_silent(host: &NetNs) {
    host.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
}
