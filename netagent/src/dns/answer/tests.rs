use super::*;
use crate::dns::made::{Made, address, alias, authority, question, raw, response, service};

const ASKED: &str = "www.example";

fn of(sections: [&[Made]; 3]) -> Vec<u8> {
    response(&question(ASKED, 1), sections)
}

/// What the answers to the question lead to.
fn check(answers: &[Made], additionals: &[Made], expected: &[(&str, u32)]) {
    let answer = Answer::read(&of([answers, &[], additionals])).unwrap();
    let mut expected: Vec<(IpAddr, u32)> = expected
        .iter()
        .map(|(address, ttl)| (address.parse().unwrap(), *ttl))
        .collect();
    expected.sort();
    assert_eq!(answer.led_to(), expected, "{answers:?}");
}

#[test]
fn d4_addresses_of_either_family_belong_to_the_question() {
    check(
        &[
            address(ASKED, 300, "192.0.2.1"),
            address("WWW.exAMPle", 200, "2001:db8::1"),
        ],
        &[],
        &[("192.0.2.1", 300), ("2001:db8::1", 200)],
    );
}

#[test]
fn d4_chains_are_followed_in_whatever_order_they_come() {
    let mut records = [
        address("c.test", 300, "192.0.2.1"),
        alias("b.test", 100, "C.test"),
        alias(ASKED, 200, "b.test"),
        address("c.test", 50, "192.0.2.2"),
    ];
    let expected = [("192.0.2.1", 100), ("192.0.2.2", 50)];
    for _ in 0..records.len() {
        check(&records, &[], &expected);
        records.rotate_left(1);
    }
}

#[test]
fn d4_what_the_question_does_not_lead_to_is_not_learned() {
    check(
        &[
            address("other.example", 300, "192.0.2.1"),
            address("x.www.example", 300, "192.0.2.2"),
            address("example", 300, "192.0.2.3"),
            alias("other.example", 300, ASKED),
            alias(ASKED, 300, "b.test"),
            address("other.test", 300, "192.0.2.4"),
        ],
        &[
            address(ASKED, 300, "192.0.2.5"),
            address("b.test", 300, "192.0.2.6"),
        ],
        &[],
    );
    let authority = [address(ASKED, 300, "192.0.2.7")];
    let bytes = of([&[], &authority, &[]]);
    let answer = Answer::read(&bytes).unwrap();
    assert!(answer.led_to().is_empty());
    assert_eq!(
        answer.everywhere(),
        ["192.0.2.7".parse::<IpAddr>().unwrap()]
    );
    let mut chaos = address(ASKED, 300, "192.0.2.8");
    chaos.0[ASKED.len() + 5] = 3;
    check(&[chaos], &[], &[]);
}

#[test]
fn a_loop_of_names_ends() {
    check(
        &[
            alias(ASKED, 300, "b.test"),
            alias("b.test", 300, "c.test"),
            alias("c.test", 300, ASKED),
            alias("c.test", 300, "c.test"),
            service(ASKED, 300, (1, "b.test"), &[]),
            address("b.test", 300, "192.0.2.1"),
        ],
        &[],
        &[("192.0.2.1", 300)],
    );
}

#[test]
fn d4_hints_of_services_count() {
    let hints = ["192.0.2.1", "192.0.2.2", "2001:db8::1"];
    let all = hints.map(|hint| (hint, 60));
    check(&[service(ASKED, 60, (1, ""), &hints)], &[], &all);
    check(
        &[
            alias(ASKED, 60, "b.test"),
            service("b.test", 90, (2, ""), &hints),
        ],
        &[],
        &all,
    );
    check(&[service("b.test", 60, (1, ""), &hints)], &[], &[]);
}

#[test]
fn d4_a_service_elsewhere_leads_to_the_addresses_there() {
    check(
        &[service(ASKED, 60, (1, "pool.test"), &["192.0.2.1"])],
        &[
            address("pool.test", 30, "192.0.2.2"),
            address("other.test", 30, "192.0.2.3"),
        ],
        &[("192.0.2.1", 60), ("192.0.2.2", 30)],
    );
    check(
        &[
            service(ASKED, 60, (0, "pool.test"), &[]),
            address("pool.test", 90, "192.0.2.2"),
            service("pool.test", 20, (1, ""), &["192.0.2.3"]),
        ],
        &[],
        &[("192.0.2.2", 60), ("192.0.2.3", 20)],
    );
}

#[test]
fn an_address_is_good_for_a_day_at_most_and_a_negative_time_is_none() {
    check(
        &[
            address(ASKED, 1 << 20, "192.0.2.1"),
            address(ASKED, 1 << 31, "192.0.2.2"),
            // Twice: the longer time.
            address(ASKED, 5, "192.0.2.3"),
            address(ASKED, 9, "192.0.2.3"),
        ],
        &[],
        &[("192.0.2.1", TTL_MAX), ("192.0.2.2", 0), ("192.0.2.3", 9)],
    );
}

#[test]
fn a_message_cut_anywhere_is_malformed() {
    let records = [
        alias(ASKED, 300, "b.test"),
        service("b.test", 300, (1, "c.test"), &["192.0.2.1"]),
        address("b.test", 300, "2001:db8::1"),
    ];
    let whole = of([&records, &[authority("example", 1, 1)], &[]]);
    assert!(Answer::read(&whole).is_ok());
    for len in 0..whole.len() {
        assert!(Answer::read(&whole[..len]).is_err(), "{len}");
    }
}

#[test]
fn records_that_break_the_rules_make_an_answer_malformed() {
    let long = [b"\x3f".as_slice(), &[b'a'; 63]].concat().repeat(4);
    let hints =
        |key: u8, len: u8| [&[0, 1, 0, 0, key, 0, len], vec![1; len.into()].as_slice()].concat();
    for (kind, data) in [
        (1, vec![1; 3]),
        (1, vec![1; 5]),
        (1, vec![]),
        (28, vec![1; 4]),
        (28, vec![1; 17]),
        (5, vec![]),
        // A label of 64 bytes, a name of 256, labels of no known kind.
        (5, [&[64], [b'a'; 64].as_slice(), &[0]].concat()),
        (5, [long.as_slice(), &[0]].concat()),
        (5, vec![0x80, 1, 0]),
        // A name that goes on behind its record.
        (5, b"\x01a".to_vec()),
        // Its data begins at byte 52: pointers to themselves, to what comes later, and in a circle.
        (5, vec![0xc0, 52]),
        (5, vec![0xc0, 54, 0]),
        (5, vec![1, b'a', 0xc0, 52]),
        (5, vec![0xff, 0xff]),
        (64, hints(4, 3)),
        (65, hints(6, 15)),
        (65, [hints(4, 4).as_slice(), &[0]].concat()),
    ] {
        let record = raw(ASKED, kind, 300, &data);
        assert!(
            Answer::read(&of([&[record], &[], &[]])).is_err(),
            "{kind} {data:?}"
        );
    }
}

#[test]
fn d7_types_that_are_none_of_ours_may_hold_anything() {
    for kind in [2, 12, 15, 16, 33, 39, 41, 46, 47, 48, 99, 257, 65_280] {
        let record = raw(ASKED, kind, 300, b"\xff\xff\xff");
        assert!(Answer::read(&of([&[record], &[], &[]])).is_ok(), "{kind}");
    }
}

#[test]
fn the_longest_messages_are_read_in_time_that_grows_with_their_length() {
    // Every name has its own; every service points to the same place.
    let chain = (0..2_000).rev().map(|n| {
        let (from, to) = (format!("n{n}"), format!("n{}", n + 1));
        alias(if n == 0 { ASKED } else { &from }, 300, &to)
    });
    let services = (0..1_000).map(|_| service(ASKED, 300, (1, "p"), &[]));
    let pool = (0..1_000_u32).map(|n| address("p", 300, &std::net::Ipv4Addr::from(n).to_string()));
    let end = [address("n2000", 7, "192.0.2.1")];
    let answers: Vec<Made> = services.chain(chain).chain(end).collect();
    let answer = Answer::read(&of([&answers, &[], &pool.collect::<Vec<_>>()])).unwrap();
    assert_eq!(answer.led_to().len(), 1_001);
    let last: (IpAddr, u32) = ("192.0.2.1".parse().unwrap(), 7);
    assert!(answer.led_to().contains(&last));
}

fn check_good_for(code: u8, sections: [&[Made]; 3], expected: Option<u64>) {
    let mut bytes = of(sections);
    bytes[3] |= code;
    let answer = Answer::read(&bytes).unwrap();
    assert_eq!(answer.good_for(), expected.map(Duration::from_secs));
}

#[test]
fn answers_are_good_as_long_as_their_shortest_record() {
    let here = |ttl| address(ASKED, ttl, "192.0.2.1");
    check_good_for(0, [&[here(300), here(200)], &[], &[]], Some(200));
    check_good_for(0, [&[here(300)], &[], &[here(100)]], Some(100));
    check_good_for(0, [&[here(86_400)], &[], &[]], Some(3_600));
    check_good_for(0, [&[here(0)], &[], &[]], None);
    // What stands in the place of a time in EDNS is none.
    check_good_for(0, [&[here(300)], &[], &[raw("", 41, 1, b"")]], Some(300));
    check_good_for(2, [&[here(300)], &[], &[]], None);
    check_good_for(5, [&[here(300)], &[authority("example", 9, 9)], &[]], None);
}

#[test]
fn that_there_is_nothing_is_good_as_long_as_the_zone_says() {
    for code in [0, 3] {
        let zone = |ttl, minimum| [authority("example", ttl, minimum)];
        check_good_for(code, [&[], &zone(300, 60), &[]], Some(60));
        check_good_for(code, [&[], &zone(30, 60), &[]], Some(30));
        check_good_for(code, [&[], &zone(86_400, 86_400), &[]], Some(900));
        check_good_for(code, [&[], &[], &[]], None);
    }
}

#[test]
fn an_answer_grows_older_in_every_record_but_that_of_edns() {
    let records = |minus: u32| {
        let edns = raw("", 41, 0x8000, b"");
        of([
            &[alias(ASKED, 300 - minus, "b.test")],
            &[authority("example", 20_u32.saturating_sub(minus), 60)],
            &[edns],
        ])
    };
    let mut bytes = records(0);
    let answer = Answer::read(&bytes).unwrap();
    answer.grow_older(&mut bytes, 25);
    assert_eq!(bytes, records(25));
}
