//! The simulated guest: a namespace with an interface, plugged into what the host has for it.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::net::UnixStream;

use super::cable::{Cable, Waiting};
use netagent_tests::guest::Nic;
use netagent_tests::netns::NetNs;
use netagent_tests::sys;
use netagent_tests::tap::{Header, Tap};
use netagent_tests::world::link_layer;

/// The interface inside.
pub const INSIDE: &str = "eth0";
/// Frames that wait inside for the VMM: a driver stops its stack there, a TAP loses what is more.
const QUEUE: u32 = 20_000;
/// Port of nobody.
const DISCARD: u16 = 9;
/// MTU of Ethernet.
const MTU: u32 = 1_500;
/// MTU that passt asks for.
const PASST_MTU: u32 = 65_520;

/// What frames are handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offloads {
    /// Super-frames of up to 64 KB whose checksums are still to be made.
    On,
    /// Finished frames of 1,514 bytes.
    Off,
}

/// What a guest knows of its network.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its address.
    pub address: Ipv4Addr,
    /// Length of its network's prefix.
    pub prefix: u8,
    /// Its router.
    pub gateway: Ipv4Addr,
}

impl Network {
    /// What the agent's guest knows.
    #[must_use]
    pub const fn of(nic: &Nic) -> Self {
        Self {
            mac: nic.mac,
            address: nic.v4,
            prefix: 30,
            gateway: nic.gateway_v4,
        }
    }
}

/// A guest that runs.
#[derive(Debug)]
pub struct Machine {
    /// Where its programs run.
    pub netns: NetNs,
    /// What it knows of its network.
    pub network: Network,
    _cable: Cable,
}

impl Machine {
    /// Boots one on a TAP of the host, opened with its virtio header.
    ///
    /// # Panics
    /// Without the rights to.
    #[must_use]
    pub fn on_tap(host: Tap, network: Network, (offloads, waiting): (Offloads, Waiting)) -> Self {
        let netns = NetNs::new();
        let inside = Tap::open(&netns, INSIDE, Header::Vnet);
        if offloads == Offloads::Off {
            for tap in [&host, &inside] {
                sys::tun_set_offload(tap.file(), 0).expect("no offload is always possible");
            }
        }
        configure(&netns, network, MTU);
        let cable = Cable::between(host, inside, waiting);
        Self {
            netns,
            network,
            _cable: cable,
        }
    }

    /// Boots one on a stream of finished frames.
    ///
    /// # Panics
    /// Without the rights to.
    #[must_use]
    pub fn on_stream(stream: UnixStream, network: Network, offloads: Offloads) -> Self {
        let netns = NetNs::new();
        let inside = Tap::open(&netns, INSIDE, Header::None);
        let mtu = match offloads {
            Offloads::On => PASST_MTU,
            Offloads::Off => MTU,
        };
        configure(&netns, network, mtu);
        let cable = Cable::to_stream(stream, inside);
        let machine = Self {
            netns,
            network,
            _cable: cable,
        };
        machine.speak();
        machine
    }
}

impl Machine {
    /// Sends a datagram to nobody: passt learns the hardware address from what the guest sends.
    fn speak(&self) {
        let sent = self.netns.run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.send_to(b"here", (self.network.gateway, DISCARD))
        });
        sent.expect("the guest has a route");
    }
}

fn configure(netns: &NetNs, network: Network, mtu: u32) {
    let Network {
        mac,
        address,
        prefix,
        gateway,
    } = network;
    netns.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
    netns.sysctl("net/ipv6/conf/all/disable_ipv6", "1");
    let mac = link_layer(mac);
    let lines = [
        format!("link set {INSIDE} address {mac} txqueuelen {QUEUE} mtu {mtu} up"),
        format!("address add {address}/{prefix} dev {INSIDE}"),
        format!("route add default via {gateway}"),
    ];
    netns.ip_all(&lines);
    // Many short connections: a port for each.
    netns.sysctl("net/ipv4/ip_local_port_range", "1024 65535");
}
