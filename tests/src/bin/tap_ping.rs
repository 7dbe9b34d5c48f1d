//! `tap-ping <address>...`: opens the TAP of an instance as a VMM does, asks for the gateway's hardware address and
//! sends one echo request to each address. In the place of an address, `dhcp` asks for the guest's own, and `router`
//! for an advertisement. The instance comes as `netagent inspect --json` shows it, on standard input.
#![allow(
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a program of the tests: a panic is how it fails"
)]

use std::net::IpAddr;

use netagent_common::net::GATEWAY_V6;
use netagent_tests::deadline::{Deadline, SOON};
use netagent_tests::dhcp::Client;
use netagent_tests::frame::Frame;
use netagent_tests::guest::Nic;
use netagent_tests::neighbour::{self, Claim};
use netagent_tests::netns::NetNs;
use netagent_tests::packet::{self, Ends, Packet};
use netagent_tests::router;
use netagent_tests::tap::Header;

const PAYLOAD: &[u8] = b"one ping through netagent";

fn main() {
    let input = std::io::read_to_string(std::io::stdin()).expect("an instance on standard input");
    let instance: serde_json::Value = serde_json::from_str(&input).expect("the instance is JSON");
    let interface = &instance["network_interfaces"][0];
    let nic = Nic::open(&NetNs::current(), interface, Header::Vnet);
    for word in std::env::args().skip(1) {
        match word.as_str() {
            "dhcp" => ask_dhcp(&nic),
            "router" => println!("{:?}", router::ask(&nic)),
            address => ask_echo(&nic, address),
        }
    }
}

/// Takes the guest's address as a new client.
fn ask_dhcp(nic: &Nic) {
    let (_offer, given) = Client::new(nic).take(1);
    assert_eq!(given.message.given(), nic.v4);
    println!("{:?}", given.message);
}

/// Pings an address by way of the gateway.
fn ask_echo(nic: &Nic, word: &str) {
    let address: IpAddr = word.parse().expect("an address");
    let ends = Ends {
        dst_mac: gateway_mac(nic, address.is_ipv4()),
        ..nic.to(address)
    };
    let ttl = ping(nic, &ends);
    let gateway = netagent_tests::world::link_layer(ends.dst_mac);
    println!("{address} answered by way of {gateway}, ttl {ttl}");
}

/// Asks for the gateway's hardware address, by ARP or neighbour discovery.
fn gateway_mac(nic: &Nic, is_v4: bool) -> [u8; 6] {
    if is_v4 {
        let guest = Claim {
            mac: nic.mac,
            ip: nic.v4,
        };
        nic.tap
            .send_bytes(neighbour::arp_request(guest, nic.gateway_v4));
        return receive(nic, |frame| {
            let (gateway, _asker) = neighbour::parse_arp_reply(&frame.bytes)?;
            (gateway.ip == nic.gateway_v4).then_some(gateway.mac)
        });
    }
    let gateway = GATEWAY_V6.into();
    nic.tap
        .send_bytes(neighbour::solicitation(nic.mac, nic.v6, gateway));
    receive(nic, |frame| {
        let (claimed, mac) = neighbour::parse_advertisement(&frame.bytes)?;
        (claimed == gateway).then_some(mac)
    })
}

/// Sends an echo request and waits for its reply; the reply's TTL.
fn ping(nic: &Nic, ends: &Ends) -> u8 {
    let numbers = (std::process::id() as u16, 1);
    nic.tap
        .send_bytes(packet::echo_request(ends, numbers, PAYLOAD));
    receive(nic, |frame| {
        let bytes = frame.completed();
        let reply = Packet::parse(&bytes)?;
        let is_ours =
            reply.ends.src == ends.dst && reply.ends.dst == ends.src && reply.ports == numbers;
        if !is_ours {
            return None;
        }
        packet::assert_checksums(&bytes);
        assert_eq!(reply.payload, PAYLOAD, "the reply carries what was sent");
        Some(reply.ends.ttl)
    })
}

fn receive<T>(nic: &Nic, wanted: impl FnMut(&Frame) -> Option<T>) -> T {
    nic.tap.receive_where(Deadline::after(SOON), wanted)
}
