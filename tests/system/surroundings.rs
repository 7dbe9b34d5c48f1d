//! A guest, and everything around it that it could reach: world, host, another guest.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;

use netagent_common::drop::DropReason;
use netagent_tests::agent::{Agent, HOST_CHATTER};
use netagent_tests::deadline::{Deadline, SOON};
use netagent_tests::frame::Frame;
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::netns::NetNs;
use netagent_tests::packet::{self, Packet, hex};
use netagent_tests::raw::Raw;
use netagent_tests::tap::Header;
use netagent_tests::world::{SILENT, UPLINK, World};

/// Everything around a guest that could be reached.
pub(crate) struct Surroundings {
    world: World,
    agent: Agent,
    guest: Guest,
    pub(crate) victim: Guest,
    wire: Raw,
    /// As they were at the last look.
    seen_by_host: Cell<u64>,
    drops: RefCell<Drops>,
}

type Drops = BTreeMap<String, u64>;

impl Surroundings {
    pub(crate) fn new(configuration: &str) -> Self {
        let world = World::new();
        // As on a host with Docker: without our programs this host would forward everything.
        world.host.sysctl("net/ipv4/ip_forward", "1");
        world.host.sysctl("net/ipv6/conf/all/forwarding", "1");
        let agent = world.agent(configuration);
        let guest = Guest::create(&agent, &world.host, "liar", Header::Vnet);
        let victim = Guest::create(&agent, &world.host, "victim", Header::Vnet);
        let wire = world.wire();
        let seen_by_host = Cell::new(received_by_stack(&world.host));
        Self {
            world,
            agent,
            guest,
            victim,
            wire,
            seen_by_host,
            drops: RefCell::default(),
        }
    }

    pub(crate) fn nic(&self) -> &Nic {
        self.guest.nic()
    }

    /// Sends a valid datagram and waits for it on the wire: whatever was sent before has arrived by then, or
    /// never will. Returns what else came from the guest.
    fn arrived(&self) -> Vec<Vec<u8>> {
        let ends = self.nic().to(SILENT[0]);
        self.nic()
            .tap
            .send_bytes(packet::udp(&ends, (9_999, 9_999), b"sentinel"));
        let mut arrived = Vec::new();
        loop {
            let received = self
                .wire
                .receive(Deadline::after(SOON))
                .expect("the sentinel arrives");
            let packet = Packet::parse(&received.frame.bytes);
            if packet
                .as_ref()
                .is_some_and(|packet| packet.payload == b"sentinel")
            {
                return arrived;
            }
            // The host's own neighbour discovery and group reports are not the guest's.
            if !is_of_the_host(&received.frame.bytes) {
                arrived.push(received.frame.bytes);
            }
        }
    }

    /// Sends frames, and checks that they reach nobody and are counted for this reason alone.
    pub(crate) fn check(&self, reason: DropReason, frames: &[Frame]) {
        for frame in frames {
            self.nic().tap.send(frame);
        }
        self.check_dropped(reason, frames.len() as u64);
    }

    /// The same with frames some of which the kernel itself refuses, on some kernels.
    pub(crate) fn check_accepted(&self, reason: DropReason, frames: &[Frame]) {
        let sent = |frame: &&Frame| self.nic().tap.try_send(frame).is_ok();
        let count = frames.iter().filter(sent).count();
        assert!(
            count > 0,
            "{}: the kernel takes none of them",
            reason.name()
        );
        self.check_dropped(reason, count as u64);
    }

    /// Checks that what was sent reached nobody, and that so many were dropped for this reason since the last
    /// look.
    fn check_dropped(&self, reason: DropReason, count: u64) {
        let name = reason.name();
        let arrived: Vec<String> = self.arrived().iter().map(|bytes| hex(bytes)).collect();
        assert!(arrived.is_empty(), "{name}: {arrived:?}");
        let seen = received_by_stack(&self.world.host);
        assert_eq!(
            seen,
            self.seen_by_host.replace(seen),
            "{name}: the host saw it"
        );
        let drops = self.agent.drops("liar");
        let before = self.drops.replace(drops.clone());
        let of = |drops: &Drops| drops.get(name).copied().unwrap_or(0);
        let since = of(&drops) - of(&before);
        // The host's own chatter is counted with the options.
        let is_exact = since == count || (HOST_CHATTER.contains(&name) && since > count);
        assert!(
            is_exact,
            "{name}: {since} and not {count}: {before:?} {drops:?}"
        );
        let others = |drops: &Drops| -> u64 {
            let chatter = HOST_CHATTER.iter().filter_map(|name| drops.get(*name));
            drops.values().sum::<u64>() - chatter.sum::<u64>()
        };
        if !HOST_CHATTER.contains(&name) {
            let others = others(&drops) - others(&before);
            assert_eq!(others, count, "{name} and others: {before:?} {drops:?}");
        }
        self.check_victim();
    }

    fn check_victim(&self) {
        while let Some(frame) = self.victim.nic().tap.receive_now() {
            let bytes = frame.completed();
            assert!(
                is_of_the_host(&bytes),
                "it reached another guest: {}",
                hex(&bytes)
            );
        }
    }
}

/// Packets that the host's stack took in: of IPv4 all, of IPv6 those of every TAP. On the uplink the world's own
/// group reports arrive whenever they like.
pub(crate) fn received_by_stack(host: &NetNs) -> u64 {
    host.run(|| {
        let v4 = fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
        let v4 = v4
            .lines()
            .filter(|line| line.starts_with("Ip:"))
            .nth(1)
            .unwrap();
        let v4: u64 = v4.split_whitespace().nth(3).unwrap().parse().unwrap();
        let devices = fs::read_dir("/proc/thread-self/net/dev_snmp6").unwrap();
        let taps = devices
            .map(|device| device.unwrap().path())
            .filter(|path| path.file_name().is_some_and(|name| name != UPLINK));
        let v6 = taps.map(|tap| {
            let counters = fs::read_to_string(&tap).unwrap();
            let received = counters
                .lines()
                .find_map(|line| line.strip_prefix("Ip6InReceives"))
                .unwrap();
            received.trim().parse::<u64>().unwrap()
        });
        v4 + v6.sum::<u64>()
    })
}

/// What a Linux host says by itself on a link: neighbour discovery and group reports.
pub(crate) fn is_of_the_host(bytes: &[u8]) -> bool {
    let is_v6 = bytes.get(12..14) == Some(&[0x86, 0xdd]);
    let is_link_local_or_unspecified =
        is_v6 && (bytes.get(22) == Some(&0xfe) || bytes.get(22..38) == Some(&[0; 16]));
    let is_arp = bytes.get(12..14) == Some(&[8, 6]);
    let is_solicitation =
        is_v6 && bytes.get(20) == Some(&58) && matches!(bytes.get(54), Some(135 | 136));
    is_link_local_or_unspecified || is_arp || is_solicitation
}
