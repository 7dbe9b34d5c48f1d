//! What a guest may send to hurt the server: broken lists of options, and bytes without any sense.

use dhcproto::Decodable as _;
use dhcproto::v4::{DhcpOption, Message, OptionCode};
use proptest::prelude::*;

use super::tests::{HOST, MAC, RESERVED, ask, discover, interface, option, request, told};
use super::{Answer, Malformed, Refusal, answer};
use crate::guest::GuestInterface;

#[track_caller]
fn check(message: &[u8], expected: Malformed) {
    assert_eq!(ask(&interface(), message), Err(expected.into()));
}

/// `message` with `bytes` at an offset.
fn with(mut message: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    message[offset..offset + bytes.len()].copy_from_slice(bytes);
    message
}

#[test]
fn a_fixed_part_that_is_no_request_is_refused() {
    check(&[], Malformed::TooShort { len: 0 });
    check(&discover()[..239], Malformed::TooShort { len: 239 });
    check(&with(discover(), 0, &[2]), Malformed::NoRequest { op: 2 });
    check(&with(discover(), 1, &[6]), Malformed::Hardware { len: 6 });
    check(&with(discover(), 2, &[16]), Malformed::Hardware { len: 16 });
    let len = 255;
    check(&with(discover(), 2, &[len]), Malformed::Hardware { len });
    check(&with(discover(), 239, &[0]), Malformed::NoCookie);
}

#[test]
fn a_list_of_options_that_runs_over_or_does_not_end_is_refused() {
    let bare = &discover()[..240];
    let list = |options: &[u8]| [bare, options].concat();
    check(&list(&[]), Malformed::NoEnd);
    check(&list(&[53, 1, 1]), Malformed::NoEnd);
    check(&list(&[53, 1, 1, 0, 0, 0]), Malformed::NoEnd);
    check(&list(&[53]), Malformed::RunsOver { code: 53 });
    check(&list(&[53, 1]), Malformed::RunsOver { code: 53 });
    check(
        &list(&[53, 1, 1, 12, 9, b'x', 255]),
        Malformed::RunsOver { code: 12 },
    );
    check(&list(&[255, 53, 1, 1]), Malformed::NoMessageType);
}

#[test]
fn an_option_that_is_empty_or_too_long_is_refused_where_it_is_read() {
    for (option, code, len) in [
        (&[50, 0][..], 50, 0),
        (&[50, 5, 1, 2, 3, 4, 5], 50, 5),
        (&[54, 3, 1, 2, 3], 54, 3),
        (&[55, 0], 55, 0),
        (&[57, 1, 9], 57, 1),
        (&[61, 0], 61, 0),
        (&[61, 1, 9], 61, 1),
        (&[52, 0], 52, 0),
        (&[80, 1, 0], 80, 1),
        (&[53, 1, 1], 53, 2),
    ] {
        let message = request(1, [0; 4], &[option]);
        check(&message, Malformed::OptionLength { code, len });
    }
    let empty_type = [&discover()[..240], &[53, 0, 255]].concat();
    check(&empty_type, Malformed::OptionLength { code: 53, len: 0 });
}

#[test]
fn an_option_that_is_not_read_may_hold_anything() {
    let message = request(
        1,
        [0; 4],
        &[
            &[12, 2, 0xff, 0xfe],
            &[60, 0],
            &[81, 1, 1],
            &[119, 2, 0xc0, 0],
            &[121, 1, 99],
        ],
    );
    told(&interface(), &message);
}

#[test]
fn a_type_that_no_client_sends_is_refused() {
    for number in [0, 2, 5, 6, 9, 10, 13, 255] {
        let message = request(number, RESERVED, &[]);
        check(&message, Malformed::MessageType { number });
    }
}

#[test]
fn a_request_that_names_no_address_or_two_is_refused() {
    check(&request(3, [0; 4], &[]), Malformed::NoAddress);
    check(&request(8, [0; 4], &[]), Malformed::NoAddress);
    let another: &[u8] = &[50, 4, 10, 1, 2, 3];
    check(&request(3, RESERVED, &[another]), Malformed::TwoAddresses);
}

#[test]
fn the_parts_of_an_option_are_put_together_wherever_they_stand() {
    let apart: &[&[u8]] = &[
        &[61, 2, 1, 2],
        &[55, 1, 1],
        &[61, 1, 3],
        &[0, 0],
        &[55, 1, 12],
    ];
    let bytes = told(&interface(), &request(1, [0; 4], apart)).bytes;
    assert_eq!(option(&bytes, 61), Some(vec![1, 2, 3]));
    assert!(option(&bytes, 12).is_some() && option(&bytes, 6).is_none());
}

#[test]
fn options_in_file_and_sname_are_read_where_the_message_says_so() {
    // In `file` what is wanted, in `sname` the server.
    let base = with(request(3, [0; 4], &[]), 108, &[50, 4, 10, 1, 2, 2, 255]);
    let base = with(base, 44, &[54, 4, 10, 1, 2, 9, 255]);
    let overloaded = |value: u8| {
        let options = [&base[..243], &[52, 1, value, 255]].concat();
        ask(&interface(), &options)
    };
    check(&base, Malformed::NoAddress);
    assert!(overloaded(1).unwrap().is_some());
    assert_eq!(overloaded(2), Err(Malformed::NoAddress.into()));
    assert_eq!(overloaded(3), Err(Refusal::ForeignServer));
    let value = 4;
    assert_eq!(overloaded(value), Err(Malformed::Overload { value }.into()));

    let endless = with(request(1, [0; 4], &[&[52, 1, 1]]), 108, &[50, 126]);
    check(&endless, Malformed::NoEnd);
    let runs_over = with(request(1, [0; 4], &[&[52, 1, 2]]), 44, &[50, 63]);
    check(&runs_over, Malformed::RunsOver { code: 50 });
}

#[test]
fn what_follows_the_end_is_of_no_interest() {
    let mut message = discover();
    message.extend([53, 0, 82, 200]);
    message.resize(9_000, 0xa5);
    told(&interface(), &message);
}

#[test]
fn the_longest_identifier_leaves_room_for_the_address() {
    let part = [&[61, 255][..], &[7; 255]].concat();
    let answer = told(&interface(), &request(1, [0; 4], &[&part]));
    assert!(answer.bytes.len() <= 548, "{}", answer.bytes.len());
    assert_eq!(option(&answer.bytes, 61), Some(vec![7; 255]));
    assert_eq!(option(&answer.bytes, 1), Some(vec![255, 255, 255, 252]));
    assert!(option(&answer.bytes, 51).is_some());

    let longer = request(1, [0; 4], &[&part, &[61, 1, 7]]);
    check(&longer, Malformed::OptionLength { code: 61, len: 256 });
}

#[test]
fn an_answer_is_as_long_as_client_and_link_take() {
    let mut interface = interface();
    interface.nameservers = vec![[9, 9, 9, 9].into(); 63];
    let name = "n".repeat(63);
    // Option 57, MTU, and whether the name fits behind the name servers.
    for (said, mtu, fits) in [
        (None, 1_500, false),
        (Some(100u16), 1_500, false),
        (Some(1_500), 1_500, true),
        (Some(1_500), 600, false),
        (Some(65_535), 68, false),
    ] {
        interface.mtu = mtu;
        let max = said.map(|said| [&[57, 2][..], &said.to_be_bytes()].concat());
        let message = request(1, [0; 4], &[&max.unwrap_or_default()]);
        let answer = answer(&name, &interface, &message).unwrap().unwrap();
        let most = said.map_or(576, usize::from).min(mtu as usize).max(576) - 28;
        assert!(answer.bytes.len() <= most);
        assert!(option(&answer.bytes, 6).is_some());
        assert_eq!(option(&answer.bytes, 12).is_some(), fits, "{said:?} {mtu}");
    }
}

/// What holds for every answer, whatever was asked.
fn check_answer(interface: &GuestInterface, answer: &Answer) {
    assert!((300..=interface.mtu.max(576) as usize - 28).contains(&answer.bytes.len()));
    let message = Message::from_bytes(&answer.bytes).unwrap();
    assert_eq!(message.chaddr(), MAC);
    for address in [message.yiaddr(), message.ciaddr()] {
        assert!(address.is_unspecified() || address.octets() == RESERVED);
    }
    assert!(message.siaddr().is_unspecified() && message.giaddr().is_unspecified());
    let server = message.opts().get(OptionCode::ServerIdentifier);
    assert_eq!(server, Some(&DhcpOption::ServerIdentifier(HOST.into())));
}

fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let option = (
        prop::sample::select(vec![0u8, 12, 50, 52, 53, 54, 55, 57, 61, 80, 82, 255]),
        prop::collection::vec(any::<u8>(), 0..6),
        -1i8..=1,
    );
    let options = prop::collection::vec(option, 0..6).prop_map(|options| {
        let bytes = |(code, value, off): &(u8, Vec<u8>, i8)| {
            let len = (value.len() as u8).saturating_add_signed((*off).max(0));
            [&[*code, len][..], value].concat()
        };
        options.iter().flat_map(bytes).collect::<Vec<u8>>()
    });
    let changes = prop::collection::vec((0usize..240, any::<u8>()), 0..3);
    let own = prop::sample::select(vec![[0; 4], RESERVED, [10, 1, 2, 3]]);
    (0u8..10, own, options, changes).prop_map(|(kind, own, options, changes)| {
        let mut message = request(kind, own, &[&options]);
        for (offset, byte) in changes {
            message[offset] = byte;
        }
        message
    })
}

proptest! {
    #[test]
    fn bytes_without_sense_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
        prop_assert!(ask(&interface(), &bytes).is_err());
    }

    #[test]
    fn whatever_is_asked_the_answer_holds_the_reserved_address_only(message in any_message()) {
        if let Ok(Some(answer)) = ask(&interface(), &message) {
            check_answer(&interface(), &answer);
        }
    }

    #[test]
    fn a_message_cut_short_is_refused(len in 0usize..252) {
        let whole = request(1, [0; 4], &[&[61, 3, 1, 2, 3], &[80, 0]]);
        prop_assert!(ask(&interface(), &whole).is_ok());
        prop_assert!(ask(&interface(), &whole[..len.min(whole.len() - 1)]).is_err());
    }
}
