//! Frames that are dropped for their headers, or for the state of the maps.

use std::net::{Ipv4Addr, Ipv6Addr};

use netagent_common::drop::DropReason;
use netagent_common::net::{GATEWAY_MAC, ethertype};
use netagent_tests::neighbour::multicast_mac;
use netagent_tests::packet::{self, Ends, with_header_checksum};
use netagent_tests::scene::{GUEST_MAC, REMOTE_V4, REMOTE_V6, to};

use crate::drops::{Case, Maps, REMOTES, udp_to};

pub(crate) fn changed(mut bytes: Vec<u8>, offset: usize, value: &[u8]) -> Vec<u8> {
    bytes[offset..offset + value.len()].copy_from_slice(value);
    bytes
}

pub(crate) fn maps_cases() -> Vec<Case> {
    use DropReason::{FlowLimit, FlowTableFull, SnatExhausted, UnknownAbi, UnknownInterface};
    let mut cases = Vec::new();
    for remote in REMOTES {
        let mut add =
            |reason, what, maps| cases.push(Case::from_vm(reason, what, udp_to(remote)).with(maps));
        add(UnknownInterface, "no record", Maps::NoRecord);
        add(UnknownAbi, "a record of another version", Maps::OldRecord);
        add(SnatExhausted, "the only port is taken", Maps::OnePort);
        add(
            FlowTableFull,
            "the table holds one flow",
            Maps::OneFlowInTable,
        );
        add(
            FlowLimit,
            "the instance may have one flow",
            Maps::OneFlowPerInstance,
        );
    }
    cases
}

pub(crate) fn malformed_cases() -> Vec<Case> {
    use DropReason::{BadChecksum, Malformed, UnknownEthertype};
    let (v4, v6) = (udp_to(REMOTE_V4), udp_to(REMOTE_V6));
    let ethernet = |kind, payload: &[u8]| packet::ethernet(GATEWAY_MAC, GUEST_MAC, kind, payload);
    let version_five = with_header_checksum(changed(v4.clone(), 14, &[0x55]));
    let short_header = with_header_checksum(changed(v4.clone(), 14, &[0x44]));
    let too_long = with_header_checksum(changed(v4.clone(), 16, &[2, 0]));
    let table = [
        (UnknownEthertype, "LLDP", ethernet(0x88cc, &[0; 46])),
        (UnknownEthertype, "PPPoE", ethernet(0x8864, &[0; 46])),
        (
            Malformed,
            "half an ARP packet",
            ethernet(ethertype::ARP, &[0; 10]),
        ),
        (Malformed, "half a UDP header", v4[..38].to_vec()),
        (Malformed, "version 5", version_five),
        (Malformed, "a header of four words", short_header),
        (Malformed, "longer than the frame", too_long),
        (
            Malformed,
            "IPv6 longer than the frame",
            changed(v6, 18, &[2, 0]),
        ),
        (
            BadChecksum,
            "a wrong header checksum",
            changed(v4, 24, &[0x12, 0x34]),
        ),
    ];
    table
        .map(|(reason, what, bytes)| Case::from_vm(reason, what, bytes))
        .into()
}

pub(crate) fn refused_cases() -> Vec<Case> {
    use DropReason::{Fragment, IpOptions, UnknownProtocol};
    let v4 = udp_to(REMOTE_V4);
    let mut cases = Vec::new();
    let mut add = |reason, what: &str, bytes| cases.push(Case::from_vm(reason, what, bytes));
    let mut options = changed(v4.clone(), 14, &[0x46]);
    options.splice(34..34, [1, 1, 1, 0]);
    let length = u16::try_from(options.len() - 14).unwrap();
    add(
        IpOptions,
        "IPv4 options",
        with_header_checksum(changed(options, 16, &length.to_be_bytes())),
    );
    for header in [0_u8, 43, 60] {
        let what = format!("IPv6 extension header {header}");
        let bytes = packet::ip(&to(REMOTE_V6), header, &[17, 0, 0, 0, 0, 0, 0, 0]);
        add(IpOptions, &what, bytes);
    }
    add(
        Fragment,
        "a first fragment",
        with_header_checksum(changed(v4.clone(), 20, &[0x20, 0])),
    );
    add(
        Fragment,
        "a later fragment",
        with_header_checksum(changed(v4, 20, &[0, 9])),
    );
    let bytes = packet::ip(&to(REMOTE_V6), 44, &[17, 0, 0, 9, 0, 0, 0, 7, 1, 2, 3, 4]);
    add(Fragment, "a later IPv6 fragment", bytes);
    let protocols = [
        (47, "GRE"),
        (132, "SCTP"),
        (2, "IGMP"),
        (41, "IPv6 in IP"),
        (255, "raw"),
    ];
    for (number, what) in protocols {
        for remote in REMOTES {
            add(
                UnknownProtocol,
                what,
                packet::ip(&to(remote), number, &[0; 40]),
            );
        }
    }
    add(
        UnknownProtocol,
        "ESP",
        packet::ip(&to(REMOTE_V4), 50, &[0; 40]),
    );
    cases
}

pub(crate) fn report_cases() -> Vec<Case> {
    let all_routers: Ipv6Addr = "ff02::16".parse().unwrap();
    // Hop-by-hop with the router alert, then an MLD version 2 report.
    let mut report = vec![58, 0, 5, 2, 0, 0, 1, 0, 143];
    report.extend([0; 27]);
    let ends = Ends {
        dst_mac: multicast_mac(all_routers),
        ttl: 1,
        ..to(all_routers)
    };
    let mld = packet::ip(&ends, 0, &report);
    let all_routers = Ipv4Addr::new(224, 0, 0, 22);
    // The router alert again: a header of six words.
    let mut igmp = packet::ip(&to(all_routers), 2, &[0x22; 16]);
    igmp.splice(34..34, [0x94, 4, 0, 0]);
    let igmp = changed(changed(igmp, 14, &[0x46]), 17, &[40]);
    let case = |what, bytes| Case::from_vm(DropReason::MulticastReport, what, bytes);
    vec![case("MLD", mld), case("IGMP", with_header_checksum(igmp))]
}
