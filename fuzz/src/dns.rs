//! What must hold for every DNS message of a guest and of a server.
#![allow(
    clippy::indexing_slicing,
    reason = "a panic is how a check fails, and a message that is too short fails it"
)]

use std::collections::BTreeSet;
use std::net::IpAddr;

use netagent::dns::answer::Answer;
use netagent::dns::message::{Failure, Query, Received, id_of};
use netagent::dns::strip::strip;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Neither a query that is taken nor an answer that can be read.
    Refused,
    /// A query.
    Query,
    /// An answer that leads nowhere.
    Barren,
    /// An answer that leads to addresses.
    Leading,
}

/// Gives `message` to the readers as what a guest sent and as what a server answered; says what it was.
///
/// # Panics
///
/// What is made of it breaks a rule.
pub(crate) fn check(message: &[u8]) -> Fate {
    let query = check_query(message);
    let answer = check_answer(message);
    match (query, answer) {
        (Fate::Query, _) => Fate::Query,
        (_, fate) => fate,
    }
}

fn check_query(message: &[u8]) -> Fate {
    match Received::read(message) {
        Received::Query(query) => {
            check_taken(&query, message);
            Fate::Query
        }
        Received::Unfit(answer) => {
            assert_eq!(answer.len(), 12, "a header");
            assert_eq!(id_of(&answer), id_of(message));
            Fate::Refused
        }
        Received::Junk => Fate::Refused,
    }
}

fn check_taken(query: &Query, message: &[u8]) {
    assert_eq!(query.bytes(), message);
    let (name, end) = name_by_hand(message);
    assert_eq!(query.name(), name.as_deref());
    for own in [
        query.failure(Failure::Refused),
        query.truncated(message),
        query.failure(Failure::NoName),
    ] {
        assert!(query.is_answered_by(&own, query.id()));
        assert_eq!(own[6..10], [0; 4], "no records but that of EDNS");
    }
    let rebuilt = query.rebuilt();
    assert_eq!(rebuilt[12..end], message[12..end], "the question as it was");
    match rebuilt.len() - end {
        0 => assert_eq!(rebuilt[4..12], [0, 1, 0, 0, 0, 0, 0, 0]),
        rest => {
            assert_eq!((rest, &rebuilt[end..end + 3]), (11, &[0, 0, 41][..]));
            assert_eq!(rebuilt[end + 9..], [0, 0], "no options");
        }
    }
    let Received::Query(again) = Received::read(&rebuilt) else {
        panic!("what is sent cannot be read");
    };
    assert!(again.is_plain());
    assert_eq!(again.essence(), query.essence());
}

/// The name that a query asks for, as text where it may be one, and where its question ends.
fn name_by_hand(message: &[u8]) -> (Option<String>, usize) {
    let mut labels = Vec::new();
    let mut at = 12;
    while message[at] != 0 {
        let len = usize::from(message[at]);
        assert!(len < 64, "no pointer");
        labels.push(&message[at + 1..=at + len]);
        at += 1 + len;
    }
    assert!(at - 12 < 255);
    let fits = |byte: &u8| (33..127).contains(byte) && !b".\\".contains(byte);
    let text = labels.iter().all(|label| label.iter().all(fits));
    let text = text.then(|| String::from_utf8(labels.join(&b'.')).expect("ASCII"));
    (text.map(|text| text.to_ascii_lowercase()), at + 5)
}

fn check_answer(message: &[u8]) -> Fate {
    let Ok(answer) = Answer::read(message) else {
        return Fate::Refused;
    };
    let everywhere: BTreeSet<IpAddr> = answer.everywhere().iter().copied().collect();
    let led_to = addresses(&answer);
    assert_eq!(led_to.len(), answer.led_to().len(), "each once");
    assert!(led_to.is_subset(&everywhere));
    let day = |(_, ttl): &(IpAddr, u32)| *ttl <= 24 * 60 * 60;
    assert!(answer.led_to().iter().all(day));

    let mut older = message.to_vec();
    answer.grow_older(&mut older, 1 << 20);
    assert_eq!(older.len(), message.len());
    let older = Answer::read(&older).expect("times have nothing to do with the rest");
    assert_eq!(addresses(&older), led_to);

    check_stripped(message, &answer);
    match led_to.is_empty() {
        true => Fate::Barren,
        false => Fate::Leading,
    }
}

fn check_stripped(message: &[u8], answer: &Answer) {
    let is_forbidden = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets()[3] % 2 == 0,
        IpAddr::V6(v6) => v6.octets()[15] % 2 == 0,
    };
    let led_to = addresses(answer);
    if let Ok(stripped) = strip(message, is_forbidden) {
        let left = Answer::read(&stripped.bytes).expect("what is given can be read");
        assert!(!left.everywhere().iter().copied().any(is_forbidden));
        assert!(addresses(&left).is_subset(&led_to));
        if stripped.is_emptied {
            assert!(left.led_to().is_empty());
        }
    }
    // The two readers see the same where both see anything.
    if let Ok(whole) = strip(message, |_| false) {
        let again = Answer::read(&whole.bytes).expect("what is given can be read");
        assert_eq!(again.everywhere(), answer.everywhere());
        assert_eq!(addresses(&again), led_to);
        assert!(!whole.is_emptied);
    }
}

fn addresses(answer: &Answer) -> BTreeSet<IpAddr> {
    answer
        .led_to()
        .iter()
        .map(|(address, _)| *address)
        .collect()
}
