//! Packets that are dropped for where they go, or where they come from.

use std::net::IpAddr;

use netagent_common::drop::DropReason;
use netagent_common::names::{FROM_UPLINK, TO_VM};
use netagent_tests::packet::{self, Ends};
use netagent_tests::prog_run::Context;
use netagent_tests::scene::{self, GUEST_V4, GUEST_V6, to};

use crate::drops::{Case, REMOTES};

pub(crate) fn destination_cases() -> Vec<Case> {
    use DropReason::{AlwaysDenied, GatewayClosed, HostAddress, NoRoute, NotUplink, OtherInstance};
    let destinations: [(DropReason, &[&str]); 6] = [
        (
            AlwaysDenied,
            &[
                "169.254.169.254",
                "127.0.0.1",
                "224.0.0.251",
                "255.255.255.255",
                "fe80::9",
                "ff02::fb",
            ],
        ),
        (HostAddress, &["198.51.100.2", "2001:db8:100::2"]),
        (
            OtherInstance,
            &["172.16.0.18", "172.16.0.17", "fd00:a:b:4::2"],
        ),
        (NotUplink, &["10.9.0.1", "fd09::1"]),
        (GatewayClosed, &["172.16.0.21", "fe80::1"]),
        (NoRoute, &["192.0.2.1", "2001:db8:300::1"]),
    ];
    let mut cases = Vec::new();
    for (reason, addresses) in destinations {
        for address in addresses {
            let ends = to(address.parse::<IpAddr>().unwrap());
            let segment = packet::Segment {
                src_port: 4_000,
                dst_port: 22,
                flags: 2,
                ..packet::Segment::default()
            };
            cases.push(Case::from_vm(
                reason,
                address,
                packet::udp(&ends, (4_000, 22), b"payload"),
            ));
            cases.push(Case::from_vm(
                reason,
                address,
                packet::tcp(&ends, segment, b""),
            ));
            if reason != GatewayClosed {
                cases.push(Case::from_vm(
                    reason,
                    address,
                    packet::echo_request(&ends, (1, 1), b"payload"),
                ));
            }
        }
    }
    cases
}

pub(crate) fn path_cases() -> Vec<Case> {
    use DropReason::{IcmpError, NotRedirected, TooBig, TtlExpired, Unsolicited};
    let mut cases = Vec::new();
    for remote in REMOTES {
        let mut add =
            |reason, what: &str, bytes: Vec<u8>| cases.push(Case::from_vm(reason, what, bytes));
        add(
            TooBig,
            "1,501 bytes",
            packet::udp(&to(remote), (1, 2), &[0; 1_501 - 28][..]),
        );
        for ttl in [0, 1] {
            add(
                TtlExpired,
                "no hop left",
                packet::udp(&Ends { ttl, ..to(remote) }, (1, 2), b""),
            );
        }
        for kind in if remote.is_ipv4() {
            [3, 11, 12]
        } else {
            [1, 3, 2]
        } {
            add(
                IcmpError,
                "an ICMP error",
                packet::icmp(&to(remote), (kind, 0), &[0; 48]),
            );
        }
        let guest: IpAddr = if remote.is_ipv4() {
            GUEST_V4.into()
        } else {
            GUEST_V6.into()
        };
        let direct = packet::udp(&scene::back(remote).to(guest), (9, 9), b"direct");
        let host: IpAddr = if remote.is_ipv4() {
            scene::GATEWAY_V4.into()
        } else {
            "fd00:a:b:5::1".parse().unwrap()
        };
        let from_host = packet::udp(&scene::back(remote).from(host).to(guest), (9, 9), b"direct");
        let add = |reason, what, bytes: &[u8]| Case::from_vm(reason, what, bytes.to_vec());
        let forwarded = Context {
            ingress_ifindex: scene::UPLINK,
            ..scene::FROM_HOST
        };
        cases.push(add(Unsolicited, "from the host", &from_host).seen_by(TO_VM, scene::FROM_HOST));
        cases.push(add(NotRedirected, "forwarded by the host", &direct).seen_by(TO_VM, forwarded));
        cases.push(
            add(NotRedirected, "straight from the world", &direct)
                .seen_by(FROM_UPLINK, scene::FROM_UPLINK),
        );
    }
    cases
}
