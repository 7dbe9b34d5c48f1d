//! A virtual machine of a full host, as the host knows it.

use std::net::Ipv4Addr;

use netagent_common::net::GATEWAY_MAC;
use netagent_tests::frame::VNET_HEADER_LEN;
use netagent_tests::guest::parse_mac;
use netagent_tests::netns::NetNs;
use netagent_tests::packet::{self, Ends};
use netagent_tests::tap::{Header, Tap};
use netagent_tests::world::server_v4;
use serde_json::Value;

use crate::variant::TTL;

const PORTS: (u16, u16) = (5_000, 9_000);
const PAYLOAD: [u8; 22] = [0x5a; 22];

/// A virtual machine.
#[derive(Clone, Debug)]
pub(super) struct Vm {
    pub(super) tap: String,
    pub(super) mac: [u8; 6],
    pub(super) v4: Ipv4Addr,
}

/// One that sends.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) tap: Tap,
    /// A frame of its flow, behind its virtio header.
    pub(super) frame: Vec<u8>,
}

impl Vm {
    /// The one of this number, where netagent does not choose.
    pub(super) fn plain(number: usize) -> Self {
        let number = u32::try_from(number).expect("fewer than addresses");
        let [.., high, low] = number.to_be_bytes();
        Self {
            tap: format!("tap{number}"),
            mac: [0xaa, 0xfc, 0, 1, high, low],
            v4: Ipv4Addr::from_bits(Ipv4Addr::new(172, 16, 0, 2).to_bits() + 4 * number),
        }
    }

    /// One of netagent's.
    pub(super) fn of(instance: &Value) -> Self {
        let interface = &instance["network_interfaces"][0];
        let text = |name: &str| interface[name].as_str().expect("each has it");
        let address = text("ip").split('/').next().expect("split gives one part");
        Self {
            tap: text("tap_name").to_owned(),
            mac: parse_mac(text("mac")),
            v4: address.parse().expect("an IPv4 address"),
        }
    }

    /// The host's address on its TAP.
    pub(super) fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.v4.to_bits() - 1)
    }

    /// Opens its TAP.
    pub(super) fn open(&self, host: &NetNs) -> Sender {
        let ends = Ends {
            src_mac: self.mac,
            dst_mac: GATEWAY_MAC,
            src: self.v4.into(),
            dst: server_v4(0).into(),
            ttl: TTL,
        };
        let mut frame = vec![0; VNET_HEADER_LEN];
        frame.extend(packet::udp(&ends, PORTS, &PAYLOAD));
        Sender {
            tap: Tap::open(host, &self.tap, Header::Vnet),
            frame,
        }
    }
}
