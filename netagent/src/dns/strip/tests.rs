use std::slice::from_ref;

use super::*;
use crate::dns::made::{
    Made, address, alias, authority, question, raw, response, service, signature,
};

const ASKED: &str = "www.exAMPle";
const NEAR: &str = "169.254.169.254";
const NEAR_V6: &str = "fd00:ec2::254";

fn is_forbidden(address: IpAddr) -> bool {
    [NEAR, NEAR_V6].contains(&address.to_string().as_str())
}

/// What stays of the records of the three sections.
fn check(before: [&[Made]; 3], after: [&[Made]; 3], is_emptied: bool) {
    let query = question(ASKED, 1);
    let stripped = strip(&response(&query, before), is_forbidden).unwrap();
    assert_eq!(stripped.is_emptied, is_emptied);
    // By the other reader and in the other order: names may be compressed now.
    let expected = Message::from_vec(&response(&query, after)).unwrap();
    assert_eq!(Message::from_vec(&stripped.bytes).unwrap(), expected);
    assert_eq!(stripped.bytes[..6], response(&query, after)[..6]);
    assert_eq!(stripped.bytes[12..query.len()], query[12..]);
}

#[test]
fn d6_forbidden_addresses_go_and_others_stay() {
    let (good, good_v6) = (
        address(ASKED, 30, "192.0.2.1"),
        address(ASKED, 30, "2001:db8::1"),
    );
    let (near, near_v6) = (address(ASKED, 30, NEAR), address(ASKED, 30, NEAR_V6));
    let both = [near.clone(), good.clone(), near_v6, good_v6.clone()];
    check(
        [&both, &[], &[]],
        [&[good.clone(), good_v6], &[], &[]],
        false,
    );
    let zone = [authority("example", 9, 9)];
    let text = [
        raw(ASKED, 16, 30, b"\x02hi"),
        raw(ASKED, 65_280, 30, b"any"),
    ];
    check(
        [
            &[alias(ASKED, 30, "b.test"), good.clone()],
            &zone,
            &[text[0].clone(), near.clone(), text[1].clone()],
        ],
        [&[alias(ASKED, 30, "b.test"), good], &zone, &text],
        false,
    );
    check([from_ref(&near), &zone, &[]], [&[], &zone, &[]], true);
    // It answered with no address before.
    check([&text, &[], &[near]], [&text, &[], &[]], false);
}

#[test]
fn d6_services_with_forbidden_hints_go() {
    let good = service(ASKED, 30, (1, ""), &["192.0.2.1", "2001:db8::1"]);
    for hints in [&[NEAR][..], &["192.0.2.1", NEAR], &["2001:db8::1", NEAR_V6]] {
        let near = service(ASKED, 30, (2, "b.test"), hints);
        check(
            [&[good.clone(), near.clone()], &[], &[]],
            [from_ref(&good), &[], &[]],
            false,
        );
        check([&[near], &[], &[]], [&[], &[], &[]], true);
    }
}

#[test]
fn d6_signatures_over_what_went_go_too() {
    let (near, good) = (address(ASKED, 30, NEAR), address(ASKED, 30, "2001:db8::1"));
    let other = signature("other.example", 1);
    let of_good = signature(ASKED, 28);
    check(
        [
            &[
                near,
                signature(ASKED, 1),
                good.clone(),
                of_good.clone(),
                other.clone(),
            ],
            &[],
            &[],
        ],
        [&[good, of_good, other], &[], &[]],
        false,
    );
}

#[test]
fn what_cannot_be_read_is_not_stripped() {
    let records = [address(ASKED, 30, NEAR)];
    let whole = response(&question(ASKED, 1), [&records, &[], &[]]);
    for len in 0..whole.len() {
        assert!(strip(&whole[..len], is_forbidden).is_err(), "{len}");
    }
}
