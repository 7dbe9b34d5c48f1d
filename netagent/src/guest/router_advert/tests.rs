//! Advertisements byte for byte, and solicitations that break a rule.

use std::net::Ipv6Addr;

use proptest::prelude::*;

use super::{Refusal, advertisement, check_solicitation};
use crate::guest::{GuestInterface, GuestV6};

const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x07];
const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

fn interface() -> GuestInterface {
    GuestInterface {
        index: 0,
        tap_name: "tap0".into(),
        mac: MAC,
        model: "virtio-net".into(),
        queues: 1,
        mtu: 1_500,
        autoconfig: true,
        address: "10.1.2.2/30".parse().unwrap(),
        host: [10, 1, 2, 1].into(),
        route: None,
        nameservers: Vec::new(),
        v6: Some(GuestV6 {
            address: "fd12:3456:789a:7::2/64".parse().unwrap(),
            whole_network: true,
            gateway: Some(GATEWAY),
            nameservers: vec![GATEWAY],
        }),
        relay: false,
    }
}

/// The interface with its IPv6 changed.
fn with(change: impl FnOnce(&mut GuestV6)) -> GuestInterface {
    let mut interface = interface();
    change(interface.v6.as_mut().unwrap());
    interface
}

/// The options of an advertisement, `(type, whole option)`; all is as long as it says.
fn options(body: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut rest = &body[16..];
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (option, after) = rest.split_at(usize::from(rest[1]) * 8);
        found.push((option[0], option.to_vec()));
        rest = after;
    }
    found
}

#[test]
fn an_advertisement_holds_gateway_prefix_mtu_and_name_servers() {
    let mut expected = vec![134, 0, 0, 0, 64, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
    expected.extend([1, 1, 0xfe, 0xfc, 0, 0, 0, 1]);
    expected.extend([5, 1, 0, 0, 0, 0, 0x05, 0xdc]);
    expected.extend([3, 4, 64, 0x40]);
    expected.extend([0xff; 8]);
    expected.extend([0; 4]);
    expected.extend([
        0xfd, 0x12, 0x34, 0x56, 0x78, 0x9a, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0,
    ]);
    expected.extend([25, 3, 0, 0, 0, 0, 0xff, 0xff]);
    expected.extend(GATEWAY.octets());
    assert_eq!(advertisement(&interface()), Some(expected));
}

#[test]
fn a_host_without_ipv6_advertises_no_default_route() {
    let body = advertisement(&with(|v6| v6.gateway = None)).unwrap();
    assert_eq!(body[6..8], [0, 0]);
    assert!(options(&body).iter().any(|(kind, _)| *kind == 3));
}

#[test]
fn a_single_address_is_no_prefix_to_make_others_from() {
    for change in [
        |v6: &mut GuestV6| v6.whole_network = false,
        |v6: &mut GuestV6| v6.address = "fd12::2/80".parse().unwrap(),
    ] {
        let body = advertisement(&with(change)).unwrap();
        let kinds: Vec<u8> = options(&body).iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [1, 5, 25]);
    }
}

#[test]
fn without_name_servers_the_option_is_left_out_and_with_many_it_stays_in_a_packet() {
    let body = advertisement(&with(|v6| v6.nameservers.clear())).unwrap();
    assert!(options(&body).iter().all(|(kind, _)| *kind != 25));
    let body = advertisement(&with(|v6| v6.nameservers = vec![GATEWAY; 500])).unwrap();
    assert_eq!(options(&body).last().unwrap().1.len(), 8 + 64 * 16);
    assert!(body.len() <= 1_280 - 40, "{}", body.len());
}

#[test]
fn an_interface_that_cannot_have_ipv6_is_told_nothing() {
    let mut without = interface();
    without.v6 = None;
    assert_eq!(advertisement(&without), None);
    let mut small = interface();
    small.mtu = 1_279;
    assert_eq!(advertisement(&small), None);
    small.mtu = 1_280;
    assert!(advertisement(&small).is_some());
    small.mtu = 65_535;
    let body = advertisement(&small).unwrap();
    assert_eq!(options(&body)[1].1, [5, 1, 0, 0, 0, 0, 0xff, 0xff]);
}

#[track_caller]
fn check(body: &[u8], from_nobody: bool, expected: Result<(), Refusal>) {
    assert_eq!(check_solicitation(body, from_nobody, MAC), expected);
}

const BARE: [u8; 8] = [133, 0, 0xab, 0xcd, 0, 0, 0, 0];

fn solicitation(options: &[u8]) -> Vec<u8> {
    [&BARE, options].concat()
}

#[test]
fn a_solicitation_is_taken_with_and_without_the_address_of_its_sender() {
    check(&BARE, true, Ok(()));
    check(&BARE, false, Ok(()));
    check(&solicitation(&[1, 1, 2, 0, 0, 0, 0, 7]), false, Ok(()));
    // An option that nobody knows, here a nonce, is skipped.
    check(&solicitation(&[14, 1, 1, 2, 3, 4, 5, 6]), true, Ok(()));
}

#[test]
fn a_solicitation_that_breaks_a_rule_is_refused() {
    let cut = Refusal::TooShort { len: 7 };
    check(&BARE[..7], false, Err(cut));
    let (kind, code) = (134, 0);
    let advert = [134, 0, 0, 0, 0, 0, 0, 0];
    check(&advert, false, Err(Refusal::NoSolicitation { kind, code }));
    let (kind, code) = (133, 1);
    let coded = [133, 1, 0, 0, 0, 0, 0, 0];
    check(&coded, false, Err(Refusal::NoSolicitation { kind, code }));
    let of_another = solicitation(&[1, 1, 2, 0, 0, 0, 0, 8]);
    check(&of_another, false, Err(Refusal::ForeignAddress));
    let of_nobody = solicitation(&[1, 1, 2, 0, 0, 0, 0, 7]);
    check(&of_nobody, true, Err(Refusal::AddressOfNobody));
    let too_long = solicitation(&[1, 2, 2, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0]);
    check(&too_long, false, Err(Refusal::ForeignAddress));
}

#[test]
fn an_option_of_a_solicitation_is_neither_empty_nor_longer_than_the_message() {
    let option = 1;
    for options in [
        &[1][..],
        &[1, 0, 0, 0, 0, 0, 0, 0],
        &[1, 2, 2, 0, 0, 0, 0, 7],
        &[1, 1, 2, 0, 0, 0, 0],
        &[1, 255, 2, 0, 0, 0, 0, 7],
    ] {
        let body = solicitation(options);
        check(&body, false, Err(Refusal::OptionLength { option }));
    }
    let reason = Refusal::OptionLength { option }.reason();
    assert_eq!(reason.name(), "malformed_router_solicit");
}

proptest! {
    #[test]
    fn any_bytes_are_taken_or_refused(
        options in prop::collection::vec(any::<u8>(), 0..64),
        from_nobody: bool,
    ) {
        let taken = check_solicitation(&solicitation(&options), from_nobody, MAC).is_ok();
        prop_assert!(!taken || options.len().is_multiple_of(8));
    }
}
