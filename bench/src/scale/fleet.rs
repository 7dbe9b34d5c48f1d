//! A host with many virtual machines.

use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use netagent_common::net::GATEWAY_MAC;
use netagent_tests::agent::Agent;
use netagent_tests::deadline::{Deadline, SOON, now};
use netagent_tests::packet::{self, Ends, Packet};
use netagent_tests::world::{FAR_END, World, host_address, link_layer, server_v4};
use nix::unistd::write;
use serde_json::json;

use super::rules;
use super::vm::{Sender, Vm};
use crate::memory::Memory;
use crate::peers::{Firewall, Kind, load_rules, switch_forwarding_on};
use crate::variant::{TTL, drop_at_far_end};

/// Clients that fill an agent.
const CLIENTS: usize = 16;

/// How a host is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By netagent.
    Netagent,
    /// nftables with rules for the network of all.
    NftOnce,
    /// nftables with rules for each.
    NftEach,
    /// iptables with rules for each.
    IptablesNft,
    /// The same by the iptables from before nftables.
    IptablesLegacy,
}

impl Way {
    pub(super) const ALL: [Self; 5] = [
        Self::Netagent,
        Self::NftOnce,
        Self::NftEach,
        Self::IptablesNft,
        Self::IptablesLegacy,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Netagent => "netagent",
            Self::NftOnce => "nft masquerade",
            Self::NftEach => "nft, rules per VM",
            Self::IptablesNft => "iptables-nft, rules per VM",
            Self::IptablesLegacy => "iptables-legacy, rules per VM",
        }
    }

    pub(super) const fn about(self) -> &'static str {
        match self {
            Self::Netagent => "anti-spoofing, policy and NAT of each instance",
            Self::NftOnce => "one rule set for the network of all, as Hyperfleet loads it",
            Self::NftEach => {
                "a masquerade and two forward rules of each, as in Firecracker's guide"
            }
            Self::IptablesNft | Self::IptablesLegacy => {
                "the host's five rules of each as vmsan adds them; its namespaces and name server rules, which cost more, are left out"
            }
        }
    }

    pub(super) fn is_there(self) -> bool {
        let kind = match self {
            Self::Netagent => Kind::Netagent,
            Self::NftOnce | Self::NftEach => Kind::Nft,
            Self::IptablesNft => Kind::IptablesNft,
            Self::IptablesLegacy => Kind::IptablesLegacy,
        };
        kind.missing().is_none()
    }
}

/// A host.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) way: Way,
    pub(super) vms: Vec<Vm>,
    world: World,
    agent: Option<Agent>,
    _far_end: OwnedFd,
}

impl Fleet {
    /// One without virtual machines.
    pub(super) fn new(way: Way) -> Self {
        let world = World::new();
        let agent = (way == Way::Netagent).then(|| world.agent(""));
        if agent.is_none() {
            switch_forwarding_on(&world);
        }
        match way {
            Way::Netagent | Way::IptablesNft | Way::IptablesLegacy => {}
            Way::NftOnce => load_rules(&world.host, Firewall::Nft),
            Way::NftEach => world.host.feed("nft -f -", rules::NFT_CHAINS),
        }
        Self {
            way,
            vms: Vec::new(),
            _far_end: drop_at_far_end(&world),
            world,
            agent,
        }
    }

    /// Grows to this number as fast as it can.
    pub(super) fn add_many(&mut self, until: usize) {
        let from = self.vms.len();
        if from >= until {
            return;
        }
        if let Some(agent) = &self.agent {
            let vms = create(agent, from..until);
            self.vms.extend(vms);
            return;
        }
        let vms: Vec<Vm> = (from..until).map(Vm::plain).collect();
        let host = &self.world.host;
        let lines: Vec<String> = vms.iter().flat_map(link_lines).collect();
        host.ip_all(&lines);
        match self.way {
            Way::Netagent | Way::NftOnce => {}
            Way::NftEach => rules::load_nft(host, &vms),
            Way::IptablesNft => rules::load_iptables(host, "nft", &vms),
            Way::IptablesLegacy => rules::load_iptables(host, "legacy", &vms),
        }
        self.vms.extend(vms);
    }

    /// Adds one as the users of the way do, and says how long it took until it is ready.
    pub(super) fn add_one(&mut self) -> Duration {
        let number = self.vms.len();
        if let Some(agent) = &self.agent {
            let spec = json!({ "name": name(number) });
            let started = now();
            let answer = agent.create(&spec);
            let took = started.elapsed();
            self.vms.push(Vm::of(&answer));
            return took;
        }
        let (host, vm) = (&self.world.host, Vm::plain(number));
        let started = now();
        for line in link_lines(&vm) {
            host.ip(&line);
        }
        let iptables = |program: &str| {
            for (table, rule) in rules::iptables(&vm) {
                host.shell(&format!("{program} -t {table} {rule}"));
            }
        };
        match self.way {
            Way::Netagent | Way::NftOnce => {}
            Way::NftEach => {
                for rule in rules::nft(&vm) {
                    host.shell(&format!("nft {rule}"));
                }
            }
            Way::IptablesNft => iptables("iptables-nft"),
            Way::IptablesLegacy => iptables("iptables-legacy"),
        }
        let took = started.elapsed();
        self.vms.push(vm);
        took
    }

    /// Opens the TAPs of some: every so many, from one on.
    pub(super) fn senders(&self, first: usize, step: usize) -> Vec<Sender> {
        let some = self.vms.iter().skip(first).step_by(step);
        some.map(|vm| vm.open(&self.world.host)).collect()
    }

    /// Sends a frame and checks what arrives.
    pub(super) fn check(&self, sender: &Sender) {
        let wire = self.world.wire();
        write(sender.tap.file(), &sender.frame).expect("the TAP takes frames");
        let name = self.way.name();
        wire.receive_where(Deadline::after(SOON), |received| {
            let bytes = received.frame.completed();
            packet::transport(&bytes).filter(|transport| transport.protocol == 17)?;
            packet::assert_checksums(&bytes);
            let packet = Packet::parse(&bytes).expect("checked above");
            let expected = Ends {
                src: host_address(true),
                dst: server_v4(0).into(),
                ttl: TTL - 1,
                ..packet.ends
            };
            assert_eq!(packet.ends, expected, "{name}");
            Some(())
        });
    }

    /// What its agent has resident, MB.
    pub(super) fn agent_mb(&self) -> f64 {
        let of = |agent: &Agent| Memory::of(agent.pid()).resident_mb;
        self.agent.as_ref().map_or(0.0, of)
    }

    /// Frames that arrived at the far end so far.
    pub(super) fn arrived(&self) -> u64 {
        self.world.outside.packets(FAR_END).0
    }
}

fn name(number: usize) -> String {
    format!("bench-{number}")
}

/// What `ip` makes of one.
fn link_lines(vm: &Vm) -> [String; 3] {
    let (Vm { tap, .. }, gateway) = (vm, vm.gateway());
    let mac = link_layer(GATEWAY_MAC);
    [
        format!("tuntap add dev {tap} mode tap"),
        format!("address add {gateway}/30 dev {tap}"),
        format!("link set {tap} address {mac} up"),
    ]
}

/// Creates instances by several clients.
fn create(agent: &Agent, numbers: std::ops::Range<usize>) -> Vec<Vm> {
    let client = |client: usize| {
        let own = numbers.clone().skip(client).step_by(CLIENTS);
        let vms = own.map(|number| {
            let answer = agent.create(&json!({ "name": name(number) }));
            (number, Vm::of(&answer))
        });
        vms.collect::<Vec<(usize, Vm)>>()
    };
    let mut vms: Vec<(usize, Vm)> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| scope.spawn(move || client(number)))
            .collect();
        let joined = clients.into_iter().map(|one| one.join());
        joined
            .flat_map(|vms| vms.expect("each instance runs"))
            .collect()
    });
    vms.sort_by_key(|(number, _)| *number);
    vms.into_iter().map(|(_, vm)| vm).collect()
}
