//! A guest that wants to tell the world something, and everything that leaves by the uplink.

use std::net::IpAddr;

use netagent_common::net::protocol;
use netagent_tests::deadline::{Deadline, SOON, wait_until};
use netagent_tests::dnsmasq::Dnsmasq;
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::name_server::{PORT, name_of};
use netagent_tests::netns::{NetNs, join_by_veth};
use netagent_tests::packet::{self, Packet, hex};
use netagent_tests::raw::Raw;
use netagent_tests::tap::Header;
use netagent_tests::world::{HOST_V4, HOST_V6, SILENT, server_v4, server_v6};
use serde_json::json;

use super::{Scene, UPSTREAM, host, texts};
use crate::surroundings::is_of_the_host;

/// What the guest wants to tell.
pub(super) const SECRET: &[u8] = b"s3cr3t0fTheGuest";
const LAST: &[u8] = b"the last one";

/// The lists of networks allow everything here.
pub(super) struct Leak {
    wire: Raw,
    guest: Guest,
    other: Guest,
    pub(super) scene: Scene<Dnsmasq>,
    _management: NetNs,
}

impl Leak {
    pub(super) fn new() -> Self {
        let records = [host("a.test", 0, 300)];
        let scene = Scene::new(&texts(&records));
        let management = NetNs::new();
        let host = &scene.world.host;
        join_by_veth((host, "mgmt0"), (&management, "mgmt1"));
        host.ip("address add 10.77.0.1/24 dev mgmt0");
        let spec = json!({
            "name": "a",
            "allowed_domains": ["a.test"],
            "allowed_cidrs": ["0.0.0.0/0", "::/0"],
        });
        let guest = Guest::create_from(&scene.agent, host, &spec, Header::Vnet);
        let other = Guest::create(&scene.agent, host, "b", Header::Vnet);
        wait_until("the agent follows", SOON, || {
            scene.explain("a", "10.77.0.9:7")["reason"] == "not_uplink"
        });
        Self {
            wire: scene.world.wire(),
            guest,
            other,
            scene,
            _management: management,
        }
    }

    pub(super) fn nic(&self) -> &Nic {
        self.guest.nic()
    }

    pub(super) fn send(&self, bytes: Vec<u8>) {
        self.nic().tap.send_bytes(bytes);
    }

    /// Places where a name server might be, of both families.
    pub(super) fn places(&self) -> Vec<IpAddr> {
        let texts = [
            "169.254.169.254",
            "100.100.100.200",
            "fd00:ec2::254",
            "127.0.0.1",
            "127.0.0.53",
            "::1",
            "10.77.0.1",
            "10.77.0.9",
            "224.0.0.251",
            "224.0.0.252",
            "ff02::fb",
            "255.255.255.255",
            "fe80::9",
        ];
        let mut places: Vec<IpAddr> = texts.map(|text| text.parse().unwrap()).into();
        places.extend(SILENT);
        places.extend([true, false].map(|is_v4| self.nic().gateway(is_v4)));
        places.extend([true, false].map(|is_v4| self.other.nic().address(is_v4)));
        places.extend([
            IpAddr::from(server_v4(UPSTREAM)),
            server_v6(UPSTREAM).into(),
            server_v4(8).into(),
            server_v6(8).into(),
            HOST_V4.into(),
            HOST_V6.into(),
            self.other.nic().gateway_v4.into(),
        ]);
        places
    }

    /// What came out of the uplink: all of it, for a last datagram comes after it.
    pub(super) fn left(&self) -> Vec<Vec<u8>> {
        self.send(packet::udp(&self.nic().to(SILENT[0]), (9_999, 9_999), LAST));
        let mut left = Vec::new();
        loop {
            let received = self.wire.receive(Deadline::after(SOON));
            let bytes = received.expect("the last one arrives").frame.completed();
            if Packet::parse(&bytes).is_some_and(|packet| packet.payload == LAST) {
                return left;
            }
            if !is_of_the_host(&bytes) {
                left.push(bytes);
            }
        }
    }

    /// Nothing left, but questions for these names.
    #[track_caller]
    pub(super) fn check_left(&self, names: &[&str]) {
        let mut asked = Vec::new();
        for bytes in self.left() {
            assert!(!contains(&bytes, SECRET), "{}", hex(&bytes));
            let packet = Packet::parse(&bytes).unwrap_or_else(|| panic!("{}", hex(&bytes)));
            let upstream = (server_v4(UPSTREAM).into(), PORT);
            let to = (packet.ends.dst, packet.ports.1);
            assert_eq!(
                (to, packet.protocol, packet.ends.src),
                (upstream, protocol::UDP, HOST_V4.into()),
                "{}",
                hex(&bytes)
            );
            asked.extend(name_of(&packet.payload));
        }
        assert_eq!(asked, names);
    }

    /// The answer of the resolver to a question from this port: where it came from, and the message.
    pub(super) fn answer_to(&self, port: u16) -> (IpAddr, Vec<u8>) {
        self.nic()
            .tap
            .receive_where(Deadline::after(SOON), |frame| {
                let packet = Packet::parse(&frame.completed())?;
                (packet.ports == (PORT, port)).then_some((packet.ends.src, packet.payload))
            })
    }

    pub(super) fn dropped(&self) -> u64 {
        self.scene.agent.guest_drops("a").values().sum()
    }

    pub(super) fn wait_for_drops(&self, count: u64) {
        wait_until("everything is dropped", SOON, || self.dropped() >= count);
    }
}

pub(super) fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
