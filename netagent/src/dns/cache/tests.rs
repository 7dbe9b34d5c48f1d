use super::*;
use crate::dns::made::{address, question, response};
use crate::dns::message::Received;

fn query(bytes: &[u8]) -> Query {
    let Received::Query(query) = Received::read(bytes) else {
        panic!("{bytes:?} is no query");
    };
    query
}

fn key(name: &str) -> Key {
    Key {
        origin: Origin::Shared(0),
        question: query(&question(name, 1)).essence(),
    }
}

fn put(cache: &Cache, name: &str, ttl: u32, now: Instant) {
    let records = [address(name, ttl, "192.0.2.1")];
    let bytes = response(&question(name, 1), [&records, &[], &[]]);
    cache.put(key(name), &bytes, &Answer::read(&bytes).unwrap(), now);
}

fn has(cache: &Cache, name: &str, now: Instant) -> bool {
    cache.get(&key(name), now).is_some()
}

#[tokio::test]
async fn an_answer_is_given_in_the_words_of_the_asker_and_as_old_as_it_is() {
    let cache = Cache::new(BOUNDS);
    let now = Instant::now();
    put(&cache, "www.example", 300, now);
    let mut asked = question("wWw.eXample", 1);
    asked[..2].copy_from_slice(&[7, 8]);
    let asked_query = query(&asked);
    let kept = cache.get(&key("www.example"), now).unwrap();
    let later = now + Duration::from_millis(100_900);
    let (bytes, age) = kept.given_to(&asked_query, later);
    assert_eq!(age, 100);
    let records = [address("www.example", 200, "192.0.2.1")];
    assert_eq!(bytes, response(&asked, [&records, &[], &[]]));
}

#[tokio::test]
async fn an_answer_is_forgotten_when_its_time_is_over() {
    let cache = Cache::new(BOUNDS);
    let now = Instant::now();
    put(&cache, "a.example", 10, now);
    put(&cache, "b.example", 0, now);
    assert!(!has(&cache, "b.example", now), "never kept");
    assert!(has(&cache, "a.example", now + Duration::from_millis(9_999)));
    assert!(!has(&cache, "a.example", now + Duration::from_secs(10)));
    let held = cache.held.lock().unwrap();
    assert_eq!((held.answers.len(), held.ages.len(), held.bytes), (0, 0, 0));
}

#[tokio::test]
async fn the_oldest_make_room() {
    let now = Instant::now();
    let check = |bounds: Bounds| {
        let cache = Cache::new(bounds);
        for name in ["a.example", "b.example", "a.example", "c.example"] {
            put(&cache, name, 60, now);
        }
        let kept = ["a.example", "b.example", "c.example"].map(|name| has(&cache, name, now));
        assert_eq!(kept, [true, false, true], "b is older than the second a");
    };
    let size = {
        let cache = Cache::new(BOUNDS);
        put(&cache, "a.example", 60, now);
        cache.held.lock().unwrap().bytes
    };
    check(Bounds {
        answers: 2,
        ..BOUNDS
    });
    check(Bounds {
        bytes: 2 * size,
        ..BOUNDS
    });
}

#[tokio::test]
async fn long_and_truncated_answers_are_not_kept() {
    let cache = Cache::new(BOUNDS);
    let now = Instant::now();
    let records = vec![address("a.example", 60, "192.0.2.1"); 200];
    let long = response(&question("a.example", 1), [&records, &[], &[]]);
    assert!(long.len() > ANSWER_LEN_MAX);
    let mut cut = response(&question("a.example", 1), [&records[..1], &[], &[]]);
    cut[2] |= 2;
    for bytes in [long, cut] {
        let answer = Answer::read(&bytes).unwrap();
        assert!(answer.good_for().is_some());
        cache.put(key("a.example"), &bytes, &answer, now);
        assert!(!has(&cache, "a.example", now));
    }
}

#[test]
fn answers_differ_by_all_that_they_depend_on() {
    let plain = question("a.example", 1);
    let with = |at: usize, value: u8| {
        let mut other = plain.clone();
        other[at] = value;
        other
    };
    let essence = |bytes: &[u8]| query(bytes).essence();
    let end = plain.len();
    let same = [with(0, 9), with(3, 0x40), with(13, b'A'), with(16, b'X')];
    for bytes in same {
        assert_eq!(essence(&bytes), essence(&plain), "{bytes:?}");
    }
    let edns = |flags: u8| {
        let mut bytes = with(11, 1);
        bytes.extend_from_slice(&[0, 0, 41, 4, 0, 0, 0, flags, 0, 0, 0]);
        bytes
    };
    let mut all: Vec<_> = [
        plain.clone(),
        with(2, 0),
        with(3, 0x10),
        with(3, 0x20),
        with(13, b'b'),
        with(end - 3, 28),
        // Case is one of names alone: 0x41 and 0x61 are two types.
        with(end - 3, 0x41),
        with(end - 3, 0x61),
        edns(0),
        edns(0x80),
    ]
    .map(|bytes| essence(&bytes))
    .to_vec();
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[test]
fn what_a_guests_own_server_says_is_not_kept_as_the_word_of_others() {
    let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|address| address.parse().unwrap());
    let shared = key("a.example");
    let own = Key {
        origin: Origin::Own(one),
        ..shared.clone()
    };
    assert!(shared.is_of(None) && own.is_of(Some(one)));
    assert!(!shared.is_of(Some(one)) && !own.is_of(Some(other)) && !own.is_of(None));
}
