//! What a client hears, in bytes that are written and read by hand: dhcproto must not judge itself.

use std::net::Ipv4Addr;

use super::{Answer, Malformed, Refusal, answer};
use crate::guest::{DefaultRoute, GuestInterface};

pub(super) const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x07];
pub(super) const RESERVED: [u8; 4] = [10, 1, 2, 2];
pub(super) const HOST: [u8; 4] = [10, 1, 2, 1];

pub(super) fn interface() -> GuestInterface {
    GuestInterface {
        index: 0,
        tap_name: "tap0".into(),
        mac: MAC,
        model: "virtio-net".into(),
        queues: 1,
        mtu: 1_500,
        autoconfig: true,
        address: "10.1.2.2/30".parse().unwrap(),
        host: HOST.into(),
        route: Some(DefaultRoute {
            gateway: HOST.into(),
            on_link: false,
        }),
        nameservers: vec![[10, 1, 2, 1].into(), [9, 9, 9, 9].into()],
        v6: None,
        relay: false,
    }
}

/// A message of a client: type, `ciaddr`, then more options in bytes.
pub(super) fn request(kind: u8, ciaddr: [u8; 4], options: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef, 0, 9, 0, 0];
    bytes.extend(ciaddr);
    bytes.resize(28, 0);
    bytes.extend(MAC);
    bytes.resize(236, 0);
    bytes.extend([99, 130, 83, 99, 53, 1, kind]);
    bytes.extend(options.concat());
    bytes.push(255);
    bytes
}

pub(super) fn discover() -> Vec<u8> {
    request(1, [0; 4], &[])
}

pub(super) fn ask(interface: &GuestInterface, bytes: &[u8]) -> Result<Option<Answer>, Refusal> {
    answer("web-1", interface, bytes)
}

pub(super) fn told(interface: &GuestInterface, bytes: &[u8]) -> Answer {
    ask(interface, bytes).unwrap().unwrap()
}

/// The options of an answer, `(code, value)` in their order; all is as long as it says.
pub(super) fn options(bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    assert_eq!(bytes[236..240], [99, 130, 83, 99]);
    let mut rest = &bytes[240..];
    let mut found = Vec::new();
    while rest[0] != 255 {
        let end = 2 + usize::from(rest[1]);
        found.push((rest[0], rest[2..end].to_vec()));
        rest = &rest[end..];
    }
    assert!(rest[1..].iter().all(|&byte| byte == 0), "padding");
    found
}

pub(super) fn option(bytes: &[u8], code: u8) -> Option<Vec<u8>> {
    let mut with_code = options(bytes).into_iter().filter(|(c, _)| *c == code);
    let found = with_code.next().map(|(_, value)| value);
    assert_eq!(with_code.next(), None, "option {code} twice");
    found
}

#[test]
fn a_discover_is_answered_with_an_offer_byte_for_byte() {
    let offer = told(&interface(), &discover());
    assert!(!offer.broadcast);
    let mut expected = vec![2, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0];
    expected.extend([0, 0, 0, 0]);
    expected.extend(RESERVED);
    expected.extend([0; 8]);
    expected.extend(MAC);
    expected.resize(236, 0);
    expected.extend([99, 130, 83, 99]);
    expected.extend([1, 4, 255, 255, 255, 252]);
    expected.extend([3, 4, 10, 1, 2, 1]);
    expected.extend([6, 8, 10, 1, 2, 1, 9, 9, 9, 9]);
    expected.extend([12, 5, b'w', b'e', b'b', b'-', b'1']);
    expected.extend([26, 2, 0x05, 0xdc]);
    expected.extend([51, 4, 0, 1, 0x51, 0x80]);
    expected.extend([53, 1, 2]);
    expected.extend([54, 4, 10, 1, 2, 1]);
    expected.extend([58, 4, 0, 0, 0x0e, 0x10]);
    expected.extend([59, 4, 0, 1, 0x27, 0x50]);
    expected.push(255);
    assert_eq!(offer.bytes, expected);
}

#[test]
fn a_request_is_answered_with_an_acknowledgement_in_all_four_states() {
    let wanted: &[u8] = &[50, 4, 10, 1, 2, 2];
    let server: &[u8] = &[54, 4, 10, 1, 2, 1];
    let selecting = request(3, [0; 4], &[wanted, server]);
    let rebooting = request(3, [0; 4], &[wanted]);
    // Renewing is unicast and rebinding broadcast; their bytes are the same.
    let renewing = request(3, RESERVED, &[]);
    for (message, ciaddr) in [
        (selecting, [0; 4]),
        (rebooting, [0; 4]),
        (renewing, RESERVED),
    ] {
        let ack = told(&interface(), &message);
        assert!(!ack.broadcast);
        assert_eq!(ack.bytes[12..16], ciaddr);
        assert_eq!(ack.bytes[16..20], RESERVED);
        assert_eq!(option(&ack.bytes, 53), Some(vec![5]));
        assert_eq!(option(&ack.bytes, 51), Some(vec![0, 1, 0x51, 0x80]));
    }
}

#[test]
fn another_address_than_the_reserved_one_is_denied_to_everybody() {
    let wanted: &[u8] = &[50, 4, 10, 1, 2, 3];
    let server: &[u8] = &[54, 4, 10, 1, 2, 1];
    for message in [
        request(3, [0; 4], &[wanted, server]),
        request(3, [0; 4], &[wanted]),
        request(3, [10, 9, 9, 9], &[]),
        request(3, [0; 4], &[&[50, 4, 0, 0, 0, 0]]),
    ] {
        let nak = told(&interface(), &message);
        assert!(nak.broadcast);
        assert_eq!(nak.bytes[12..28], [0; 16]);
        let codes: Vec<u8> = options(&nak.bytes).iter().map(|(code, _)| *code).collect();
        assert_eq!(codes, [53, 54, 56]);
        assert_eq!(option(&nak.bytes, 53), Some(vec![6]));
        assert_eq!(nak.bytes.len(), 300);
    }
}

#[test]
fn a_rapid_commit_saves_the_second_round() {
    let ack = told(&interface(), &request(1, [0; 4], &[&[80, 0]]));
    assert_eq!(option(&ack.bytes, 53), Some(vec![5]));
    assert_eq!(option(&ack.bytes, 80), Some(vec![]));
    assert_eq!(ack.bytes[16..20], RESERVED);
    let offer = told(&interface(), &discover());
    assert_eq!(option(&offer.bytes, 80), None);
}

#[test]
fn an_inform_is_answered_without_an_address_and_without_times() {
    let ack = told(&interface(), &request(8, RESERVED, &[]));
    assert!(!ack.broadcast);
    assert_eq!(ack.bytes[12..16], RESERVED);
    assert_eq!(ack.bytes[16..20], [0; 4]);
    assert_eq!(option(&ack.bytes, 53), Some(vec![5]));
    for code in [51, 58, 59] {
        assert_eq!(option(&ack.bytes, code), None);
    }
    assert_eq!(option(&ack.bytes, 3), Some(HOST.to_vec()));
}

#[test]
fn a_release_and_a_decline_are_taken_without_an_answer() {
    for kind in [4, 7] {
        assert_eq!(ask(&interface(), &request(kind, RESERVED, &[])), Ok(None));
    }
}

#[test]
fn a_client_that_cannot_hear_unicast_is_answered_by_broadcast() {
    let mut message = discover();
    message[10] = 0x80;
    let offer = told(&interface(), &message);
    assert!(offer.broadcast);
    assert_eq!(offer.bytes[10..12], [0x80, 0]);

    let mut renewing = request(3, RESERVED, &[]);
    renewing[10] = 0x80;
    assert!(!told(&interface(), &renewing).broadcast);
}

#[test]
fn the_identifier_of_a_client_is_said_back_in_every_answer() {
    let id: &[u8] = &[61, 7, 1, 2, 0, 0, 0, 0, 7];
    for message in [
        request(1, [0; 4], &[id]),
        request(3, [10, 9, 9, 9], &[id]),
        request(8, RESERVED, &[id]),
    ] {
        let bytes = told(&interface(), &message).bytes;
        assert_eq!(option(&bytes, 61), Some(id[2..].to_vec()));
    }
}

#[test]
fn a_gateway_off_the_link_is_told_as_two_classless_routes() {
    let mut interface = interface();
    let gateway = Ipv4Addr::new(192, 0, 2, 1);
    let on_link = true;
    interface.route = Some(DefaultRoute { gateway, on_link });
    let routes = [32, 192, 0, 2, 1, 0, 0, 0, 0, 0, 192, 0, 2, 1];
    // Who asks for nothing, for 121, and for 3 only.
    for list in [&[][..], &[55, 1, 121], &[55, 2, 1, 3]] {
        let bytes = told(&interface, &request(1, [0; 4], &[list])).bytes;
        assert_eq!(option(&bytes, 121), Some(routes.to_vec()), "{list:?}");
    }
    let bytes = told(&interface, &request(1, [0; 4], &[&[55, 2, 1, 3]])).bytes;
    assert_eq!(option(&bytes, 3), Some(vec![192, 0, 2, 1]));
    let bytes = told(&interface, &request(1, [0; 4], &[&[55, 2, 1, 6]])).bytes;
    assert_eq!(option(&bytes, 121), None);
}

#[test]
fn an_interface_without_the_default_route_tells_no_router() {
    let mut interface = interface();
    interface.route = None;
    interface.nameservers.clear();
    let bytes = told(&interface, &request(1, [0; 4], &[&[55, 3, 3, 6, 121]])).bytes;
    for code in [3, 6, 121] {
        assert_eq!(option(&bytes, code), None);
    }
}

#[test]
fn a_client_hears_what_it_asks_for_and_what_it_needs() {
    let list: &[u8] = &[55, 1, 12];
    let bytes = told(&interface(), &request(1, [0; 4], &[list])).bytes;
    let codes: Vec<u8> = options(&bytes).iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, [1, 12, 51, 53, 54, 58, 59]);
}

#[test]
fn an_mtu_other_than_ethernets_is_told_unasked_and_stays_within_its_option() {
    let list: &[u8] = &[55, 1, 1];
    for (mtu, told_mtu) in [
        (1_400, Some(vec![0x05, 0x78])),
        (68, Some(vec![0, 68])),
        (10, Some(vec![0, 68])),
        (100_000, Some(vec![0xff, 0xff])),
        (1_500, None),
    ] {
        let mut interface = interface();
        interface.mtu = mtu;
        let bytes = told(&interface, &request(1, [0; 4], &[list])).bytes;
        assert_eq!(option(&bytes, 26), told_mtu, "{mtu}");
    }
}

#[test]
fn a_message_of_another_client_or_to_another_server_is_foreign() {
    let mut other = discover();
    other[33] = 8;
    assert_eq!(ask(&interface(), &other), Err(Refusal::ForeignClient));
    let server: &[u8] = &[54, 4, 10, 1, 2, 9];
    let message = request(3, [0; 4], &[&[50, 4, 10, 1, 2, 2], server]);
    assert_eq!(ask(&interface(), &message), Err(Refusal::ForeignServer));
    let message = request(8, [10, 1, 2, 3], &[]);
    assert_eq!(ask(&interface(), &message), Err(Refusal::ForeignClient));
    assert_eq!(Refusal::ForeignClient.reason().name(), "foreign_dhcp");
    assert_eq!(Refusal::ForeignServer.reason().name(), "foreign_dhcp");
}

#[test]
fn a_relayed_message_is_refused() {
    let mut with_hops = discover();
    with_hops[3] = 1;
    let mut with_gateway = discover();
    with_gateway[24..28].copy_from_slice(&[10, 0, 0, 1]);
    let with_agent = request(1, [0; 4], &[&[82, 2, 1, 0]]);
    for message in [with_hops, with_gateway, with_agent] {
        assert_eq!(ask(&interface(), &message), Err(Refusal::Relayed));
    }
    assert_eq!(Refusal::Relayed.reason().name(), "malformed_dhcp");
    let malformed = Refusal::from(Malformed::NoEnd);
    assert_eq!(malformed.reason().name(), "malformed_dhcp");
}
