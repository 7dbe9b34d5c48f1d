use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Message, ResponseCode};
use proptest::prelude::*;

use super::*;

const NAME: &[u8] = b"\x03wWw\x07example\x00";
/// EDNS: 4,096 bytes, DO bit and a flag without meaning, a cookie.
const OPT: &[u8] = b"\x00\x00\x29\x10\x00\x00\x00\x80\x01\x00\x0c\x00\x0a\x00\x0812345678";

/// A query for an A record; `counts` are those of answers, authorities and additionals.
fn message(flags: [u8; 2], counts: [u8; 3], rest: &[u8]) -> Vec<u8> {
    let [high, low] = flags;
    let [an, ns, ar] = counts;
    let mut bytes = vec![0xab, 0xcd, high, low, 0, 1, 0, an, 0, ns, 0, ar];
    bytes.extend_from_slice(NAME);
    bytes.extend_from_slice(&[0, 1, 0, 1]);
    bytes.extend_from_slice(rest);
    bytes
}

fn query(bytes: &[u8]) -> Query {
    let Received::Query(query) = Received::read(bytes) else {
        panic!("{bytes:?} is not taken");
    };
    query
}

fn plain() -> Query {
    query(&message([RD, 0], [0, 0, 0], b""))
}

fn with_edns() -> Query {
    query(&message([RD, 0], [0, 0, 1], OPT))
}

fn check_unfit(bytes: &[u8], expected: Failure) {
    let Received::Unfit(answer) = Received::read(bytes) else {
        panic!("{bytes:?} is taken");
    };
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.metadata.id, 0xabcd);
    assert_eq!(answer.metadata.message_type, MessageType::Response);
    let code = u16::from(answer.metadata.response_code);
    assert_eq!(code, expected as u16, "{bytes:?}");
}

#[test]
fn a_query_keeps_its_bytes() {
    let bytes = message([RD, 0x30], [0, 0, 1], OPT);
    let query = query(&bytes);
    assert_eq!(query.bytes(), bytes);
    assert_eq!(query.id(), [0xab, 0xcd]);
}

#[test]
fn unknown_types_and_records_behind_the_question_are_taken() {
    let mut strange = message([0, 0], [0, 0, 0], b"");
    let end = strange.len();
    strange[end - 4..].copy_from_slice(&[0xff, 0x23, 0xfe, 0xdc]);
    query(&strange);
    // An IXFR tells its serial number in the authority section; a signature comes last.
    let soa = b"\xc0\x0c\x00\x06\x00\x01\x00\x00\x00\x00\x00\x03abc";
    query(&message([0, 0], [0, 1, 1], &[soa, OPT].concat()));
}

#[test]
fn what_is_no_query_is_dropped() {
    let whole = message([RD, 0], [0, 0, 0], b"");
    for len in 0..HEADER_LEN {
        assert_eq!(Received::read(&whole[..len]), Received::Junk, "{len}");
    }
    let answer = message([QR | RD, RA], [0, 0, 0], b"");
    assert_eq!(Received::read(&answer), Received::Junk);
    assert_eq!(Received::read(&answer[..HEADER_LEN]), Received::Junk);
}

#[test]
fn a_malformed_query_is_answered_so() {
    let whole = message([RD, 0], [0, 0, 1], OPT);
    for len in HEADER_LEN..whole.len() {
        check_unfit(&whole[..len], Failure::Malformed);
    }
    let mut none = whole.clone();
    none[5] = 0;
    check_unfit(&none, Failure::Malformed);
    let behind = [whole.as_slice(), b"x"].concat();
    check_unfit(&behind, Failure::Malformed);
    let two_of_edns = message([RD, 0], [0, 0, 2], &[OPT, OPT].concat());
    check_unfit(&two_of_edns, Failure::Malformed);
    let mut two = whole.clone();
    two[5] = 2;
    check_unfit(&two, Failure::Malformed);
    let mut long_label = whole.clone();
    long_label[HEADER_LEN] = 64;
    check_unfit(&long_label, Failure::Malformed);
    let mut long_name = whole[..HEADER_LEN].to_vec();
    long_name[11] = 0;
    long_name.extend([b"\x3f".as_slice(), &[b'a'; 63]].concat().repeat(4));
    long_name.extend([0, 0, 1, 0, 1]);
    check_unfit(&long_name, Failure::Malformed);
}

#[test]
fn a_compressed_name_in_a_question_is_malformed() {
    let mut into_header = message([RD, 0], [0, 0, 0], b"")[..HEADER_LEN].to_vec();
    into_header.extend([0xc0, 0x04, 0, 1, 0, 1]);
    check_unfit(&into_header, Failure::Malformed);
    let mut itself = into_header.clone();
    itself[HEADER_LEN + 1] = 0x0c;
    check_unfit(&itself, Failure::Malformed);
}

#[test]
fn more_records_than_a_query_needs_are_malformed() {
    let record = b"\x00\x00\x10\x00\x01\x00\x00\x00\x00\x00\x00";
    query(&message([0, 0], [0, 0, 16], &record.repeat(16)));
    let many = message([0, 0], [0, 0, 17], &record.repeat(17));
    check_unfit(&many, Failure::Malformed);
    let long = message([0, 0], [0, 0, 0], &[0; QUERY_LEN_MAX]);
    check_unfit(&long, Failure::Malformed);
}

#[test]
fn other_operations_are_not_implemented() {
    for opcode in [1, 2, 4, 5, 15] {
        let bytes = message([opcode << 3, 0], [0, 0, 0], b"");
        check_unfit(&bytes, Failure::NotImplemented);
    }
}

#[test]
fn an_answer_repeats_id_and_question_in_their_case() {
    let query = plain();
    let id = [7, 8];
    let mut answer = query.bytes().to_vec();
    set_id(&mut answer, id);
    assert!(!query.is_answered_by(&answer, id), "no answer");
    answer[2] |= QR;
    assert!(query.is_answered_by(&answer, id));
    answer.extend_from_slice(b"\xc0\x0c whatever");
    assert!(query.is_answered_by(&answer, id));
    assert!(!query.is_answered_by(&answer, [7, 9]));
    let mut other_case = answer.clone();
    other_case[14] = b'W';
    other_case[15] = b'W';
    assert!(!query.is_answered_by(&other_case, id));
    let mut other_type = answer.clone();
    other_type[HEADER_LEN + NAME.len() + 1] = 28;
    assert!(!query.is_answered_by(&other_type, id));
    let mut no_question = answer[..HEADER_LEN].to_vec();
    assert!(!query.is_answered_by(&no_question, id), "cut");
    no_question[5] = 0;
    assert!(!query.is_answered_by(&no_question, id));
    assert!(!query.is_answered_by(&[], id));
}

#[test]
fn the_length_of_an_answer_is_bounded_by_asker_and_mtu() {
    let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
    assert_eq!(plain().answer_len_max(1500, v4), 512);
    assert_eq!(with_edns().answer_len_max(1500, v4), 1472);
    assert_eq!(with_edns().answer_len_max(1500, v6), 1452);
    assert_eq!(with_edns().answer_len_max(9000, v6), 4096);
    assert_eq!(plain().answer_len_max(68, v4), 40);
    assert_eq!(plain().answer_len_max(0, v6), 0);
    // RFC 6891, 6.2.3: less than 512 means 512.
    let small = b"\x00\x00\x29\x00\x10\x00\x00\x00\x00\x00\x00";
    let small = query(&message([0, 0], [0, 0, 1], small));
    assert_eq!(small.answer_len_max(1500, v4), 512);
}

#[test]
fn a_truncated_answer_holds_the_question_and_says_so() {
    let answer = message([QR | RD, RA | 3], [9, 9, 9], &[0; 900]);
    for (query, edns) in [(plain(), false), (with_edns(), true)] {
        let bytes = query.truncated(&answer);
        let cut = Message::from_vec(&bytes).unwrap();
        let metadata = &cut.metadata;
        assert_eq!(metadata.id, 0xabcd);
        assert!(metadata.truncation && metadata.recursion_available);
        assert_eq!(metadata.response_code, ResponseCode::NXDomain);
        assert!(query.is_answered_by(&bytes, query.id()));
        assert_eq!(cut.edns.is_some(), edns);
        assert!(cut.answers.is_empty() && cut.authorities.is_empty());
    }
}

#[test]
fn a_failure_repeats_the_question_and_the_edns_of_the_query() {
    for (query, edns) in [(plain(), false), (with_edns(), true)] {
        let bytes = query.failure(Failure::NoAnswer);
        let failure = Message::from_vec(&bytes).unwrap();
        let metadata = &failure.metadata;
        assert_eq!(metadata.response_code, ResponseCode::ServFail);
        assert!(metadata.recursion_desired && metadata.recursion_available);
        assert!(!metadata.truncation && !metadata.authoritative);
        assert!(query.is_answered_by(&bytes, query.id()));
        let flags = failure
            .edns
            .map(|edns| (edns.flags().dnssec_ok, edns.flags().z));
        assert_eq!(flags, edns.then_some((true, 0)));
    }
}

#[test]
fn a_query_made_anew_tells_its_question_and_no_more() {
    // Every flag, a signature behind a cookie.
    let behind = b"\x00\x00\xfa\x00\xff\x00\x00\x00\x00\x00\x03abc";
    let told = message([RD | 0x07, 0xff], [0, 0, 2], &[OPT, behind].concat());
    let edns = b"\x00\x00\x29\x10\x00\x00\x00\x80\x00\x00\x00";
    let expected = message([RD, AD | CD], [0, 0, 1], edns);
    assert_eq!(query(&told).rebuilt(), expected);
    let again = query(&expected);
    assert!(again.is_plain() && !query(&told).is_plain());
    assert_eq!(again.rebuilt(), expected);
    let bare = message([0, 0], [0, 0, 0], b"");
    assert_eq!(query(&bare).rebuilt(), bare);
    assert!(plain().is_plain() && !with_edns().is_plain());
}

#[test]
fn d3_a_name_is_text_only_where_the_text_is_no_other_name() {
    let check = |labels: &[&[u8]], expected: Option<&str>| {
        let mut bytes = message([RD, 0], [0, 0, 0], b"")[..HEADER_LEN].to_vec();
        for label in labels {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend_from_slice(label);
        }
        bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
        assert_eq!(query(&bytes).name(), expected, "{labels:?}");
    };
    check(&[b"wWw", b"Example"], Some("www.example"));
    check(
        &[b"_dmarc", b"xn--bcher-kva", b"test"],
        Some("_dmarc.xn--bcher-kva.test"),
    );
    check(&[], Some(""));
    // A label with a dot is not two labels.
    check(&[b"www.example"], None);
    check(&[b"x.www", b"example"], None);
    check(&[b"www\\", b"example"], None);
    check(&[b"www\0", b"example"], None);
    check(&[b"w w", b"example"], None);
    check(&["wörld".as_bytes(), b"example"], None);
}

#[test]
fn kinds_of_queries_are_told_apart() {
    let of = |kind: u8, class: u8| {
        let mut bytes = message([RD, 0], [0, 0, 0], b"");
        let end = bytes.len();
        bytes[end - 3] = kind;
        bytes[end - 1] = class;
        let query = query(&bytes);
        (query.is_internet(), query.is_any(), query.is_transfer())
    };
    assert_eq!(of(1, 1), (true, false, false));
    for class in [0, 2, 3, 4, 254, 255] {
        assert!(!of(1, class).0, "{class}");
    }
    assert_eq!(of(255, 1), (true, true, false));
    assert_eq!(of(251, 1), (true, false, true));
    assert_eq!(of(252, 1), (true, false, true));
}

proptest! {
    #[test]
    fn no_bytes_crash_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        check_any(&bytes);
    }

    #[test]
    fn every_name_type_and_class_is_taken(
        labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
        kind in any::<[u8; 4]>(),
    ) {
        let mut bytes = message([RD, 0], [0, 0, 0], b"")[..HEADER_LEN].to_vec();
        for label in &labels {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend_from_slice(label);
        }
        bytes.push(0);
        bytes.extend_from_slice(&kind);
        assert_eq!(query(&bytes).question_end, bytes.len());
    }

    #[test]
    fn no_damage_to_a_query_crashes_the_reader(
        damage in prop::collection::vec((0_usize..60, any::<u8>()), 0..6),
        len in 0_usize..60,
    ) {
        let mut bytes = message([RD, 0], [0, 0, 1], OPT);
        for (index, byte) in damage {
            if let Some(place) = bytes.get_mut(index) {
                *place = byte;
            }
        }
        bytes.truncate(len);
        check_any(&bytes);
    }
}

/// What holds for every message of a guest.
fn check_any(bytes: &[u8]) {
    match Received::read(bytes) {
        Received::Query(query) => {
            assert_eq!(query.bytes(), bytes);
            let rebuilt = Received::read(&query.rebuilt());
            let Received::Query(rebuilt) = rebuilt else {
                panic!("{rebuilt:?}");
            };
            assert!(rebuilt.is_plain());
            assert_eq!(rebuilt.essence(), query.essence());
            let own = [query.failure(Failure::NoAnswer), query.truncated(bytes)];
            for reply in own {
                assert!(query.is_answered_by(&reply, query.id()));
                assert!(is_answer(&reply));
                assert!(reply.len() <= HEADER_LEN + 255 + 4 + 11);
            }
        }
        Received::Unfit(answer) => {
            assert!(is_answer(&answer) && answer.len() == HEADER_LEN);
            assert_eq!(id_of(&answer), id_of(bytes));
        }
        Received::Junk => {}
    }
}
