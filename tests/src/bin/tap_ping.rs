//! `tap-ping <tap> <mac> <own address> <gateway> <address>...`: plays a guest that resolves its IPv4 gateway and
//! pings every address through it; for the kernel-floor test, inside a VM.

use std::net::{IpAddr, Ipv4Addr};

use netagent_common::net::GATEWAY_MAC;
use netagent_tests::deadline::{Deadline, SOON};
use netagent_tests::guest::parse_mac;
use netagent_tests::neighbour::{self, Claim};
use netagent_tests::netns::NetNs;
use netagent_tests::packet::{self, Ends, Packet};
use netagent_tests::tap::{Header, Tap};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [tap, mac, own, gateway, addresses @ ..] = arguments.as_slice() else {
        panic!("usage: tap-ping <tap> <mac> <own address> <gateway> <address>...");
    };
    let tap = Tap::open(&NetNs::current(), tap, Header::Vnet);
    let parse = |text: &String| -> Ipv4Addr { text.parse().expect("an IPv4 address") };
    let own = Claim {
        mac: parse_mac(mac),
        ip: parse(own),
    };

    tap.send_bytes(neighbour::arp_request(own, parse(gateway)));
    let (answer, _) = tap.receive_where(Deadline::after(SOON), |frame| {
        neighbour::parse_arp_reply(&frame.bytes)
    });
    assert_eq!(
        answer,
        Claim {
            mac: GATEWAY_MAC,
            ip: parse(gateway)
        }
    );
    eprintln!("tap-ping: the gateway is at its constant address");

    for address in addresses.iter().map(parse) {
        let (src, dst) = (IpAddr::V4(own.ip), IpAddr::V4(address));
        let ends = Ends {
            src_mac: own.mac,
            dst_mac: GATEWAY_MAC,
            src,
            dst,
            ttl: 64,
        };
        tap.send_bytes(packet::echo_request(
            &ends,
            (77, 1),
            b"from the kernel floor",
        ));
        let reply = tap.receive_where(Deadline::after(SOON), |frame| {
            let bytes = frame.completed();
            let reply = Packet::parse(&bytes)?;
            let is_answer = reply.kind == 0 && reply.ports.0 == 77 && reply.ends.src == dst;
            is_answer.then(|| {
                packet::assert_checksums(&bytes);
                reply
            })
        });
        assert_eq!(reply.payload, b"from the kernel floor");
        assert_eq!(reply.ends.dst, src);
        eprintln!("tap-ping: {address} answered");
    }
}
