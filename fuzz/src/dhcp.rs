//! What must hold for every DHCP message of a guest: it is refused, or answered with what is reserved for it.
//!
//! Answers are read here by hand, so that no library judges what it has written itself.
#![allow(
    clippy::indexing_slicing,
    reason = "a panic is how a check fails, and an answer that is too short fails it"
)]

use std::net::Ipv4Addr;

use netagent::guest::dhcp::{Answer, answer};
use netagent::guest::{DefaultRoute, GuestInterface};

/// The MAC address that the corpus asks for.
const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x07];
/// The address that is reserved for it.
const RESERVED: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 2);
/// The server.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 1);

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was refused.
    Refused,
    /// It was taken, and nothing is due.
    Silence,
    /// It was answered.
    Answered,
}

/// Gives `message` to the server of every kind of interface and checks the answers; says what the first did.
///
/// # Panics
///
/// An answer breaks a rule.
pub(crate) fn check(message: &[u8]) -> Fate {
    let [first, _, _] = interfaces().map(|interface| check_one(&interface, message));
    first
}

fn check_one(interface: &GuestInterface, message: &[u8]) -> Fate {
    match answer("web-1", interface, message) {
        Err(refusal) => {
            assert!(!refusal.to_string().is_empty());
            Fate::Refused
        }
        Ok(None) => Fate::Silence,
        Ok(Some(answer)) => {
            check_answer(interface, message, &answer);
            Fate::Answered
        }
    }
}

/// An ordinary interface, one whose gateway is off the link, and one with no route and little room.
fn interfaces() -> [GuestInterface; 3] {
    let ordinary = GuestInterface {
        index: 0,
        tap_name: "tap0".into(),
        mac: MAC,
        model: "virtio-net".into(),
        queues: 1,
        mtu: 1_500,
        autoconfig: true,
        address: format!("{RESERVED}/30")
            .parse()
            .expect("an address and the length of its prefix"),
        host: HOST,
        route: Some(DefaultRoute {
            gateway: HOST,
            on_link: false,
        }),
        nameservers: vec![HOST],
        v6: None,
        relay: false,
    };
    let off_link = GuestInterface {
        mtu: 9_000,
        route: Some(DefaultRoute {
            gateway: Ipv4Addr::new(192, 0, 2, 1),
            on_link: true,
        }),
        nameservers: vec![HOST; 40],
        ..ordinary.clone()
    };
    let bare = GuestInterface {
        mtu: 68,
        route: None,
        nameservers: Vec::new(),
        ..ordinary.clone()
    };
    [ordinary, off_link, bare]
}

fn check_answer(interface: &GuestInterface, message: &[u8], answer: &Answer) {
    let bytes = answer.bytes.as_slice();
    let most = interface.mtu.max(576) as usize - 28;
    assert!((300..=most).contains(&bytes.len()), "{}", bytes.len());
    assert_eq!(bytes[..4], [2, 1, 6, 0], "BOOTREPLY on Ethernet, no hops");
    assert_eq!(bytes[4..8], message[4..8], "the transaction");
    assert_eq!(bytes[10..12], message[10..12], "the flags");
    let [ciaddr, yiaddr] = [&bytes[12..16], &bytes[16..20]];
    let reserved = RESERVED.octets();
    let none = [0; 4];
    assert!(ciaddr == none || ciaddr == reserved || ciaddr == &message[12..16]);
    assert!(yiaddr == none || yiaddr == reserved);
    assert_eq!(bytes[20..28], [0; 8], "neither another server nor a relay");
    assert_eq!(bytes[28..34], MAC);
    assert_eq!(bytes[34..236], [0; 202], "rest of chaddr, sname, file");
    assert_eq!(bytes[236..240], [99, 130, 83, 99]);
    let kind = check_options(&bytes[240..]);
    match kind {
        2 | 5 => assert!(yiaddr == reserved || ciaddr == reserved),
        6 => assert!(yiaddr == none && ciaddr == none && answer.broadcast),
        other => panic!("a server does not send type {other}"),
    }
}

/// Reads all options of an answer; gives its type.
fn check_options(mut rest: &[u8]) -> u8 {
    let mut kind = None;
    let mut server = None;
    while rest[0] != 255 {
        let (option, after) = rest.split_at(2 + usize::from(rest[1]));
        match option {
            [53, 1, value] => assert_eq!(kind.replace(*value), None),
            [54, 4, address @ ..] => assert_eq!(server.replace(address), None),
            _ => assert_ne!(option[0], 0),
        }
        rest = after;
    }
    assert!(rest[1..].iter().all(|&byte| byte == 0), "padding");
    assert_eq!(server, Some(HOST.octets().as_slice()));
    kind.unwrap_or_default()
}
