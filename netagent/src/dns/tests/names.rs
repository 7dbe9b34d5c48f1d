use super::*;
use crate::dns::made::{Made, address, alias, question, response, service};

const REFUSED: u8 = 5;
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;
/// What is near the host.
const NEAR: &str = "169.254.169.254";

/// A server that gives every name two addresses, by an alias.
fn two(query: &[u8]) -> Vec<u8> {
    let asked = asked_name(query);
    let records = [
        alias(&asked, 300, "pool.test"),
        address("pool.test", 60, "192.0.2.1"),
        address("pool.test", 90, "2001:db8::1"),
        address("other.test", 90, "192.0.2.9"),
    ];
    response(query, [&records, &[], &[]])
}

/// The name that a query of [`query`] asks for.
fn asked_name(query: &[u8]) -> String {
    let len = usize::from(query[12]);
    format!("{}.exAMPle", String::from_utf8_lossy(&query[13..13 + len]))
}

fn expected(name: &str) -> Vec<(String, IpAddr, u64)> {
    vec![
        (name.to_owned(), "192.0.2.1".parse().unwrap(), 60),
        (name.to_owned(), "2001:db8::1".parse().unwrap(), 90),
    ]
}

#[tokio::test]
async fn d4_what_an_allowed_name_leads_to_is_learned_for_the_guest_that_asked() {
    let (server, _) = fake_both(two).await;
    let world = World::new(&[server], LONG).await;
    let by_udp = query([0, 1], "wWw");
    let got = ask(&world.udp(LISTED).await, &by_udp).await;
    assert_eq!(got, two(&by_udp));
    assert_eq!(world.learned(LISTED), expected("www.example"));
    let mut stream = world.tcp(LISTED).await;
    let by_tcp = query([0, 2], "tcp");
    send_frame(&mut stream, &by_tcp).await;
    assert_eq!(receive_frame(&mut stream).await.unwrap(), two(&by_tcp));
    assert_eq!(world.learned(LISTED)[2..], expected("tcp.example"));
    // Where there is no list, every address is open anyway.
    assert_eq!(ask(&world.udp(GUEST).await, &by_udp).await, two(&by_udp));
    assert!(world.learned(GUEST).is_empty());
}

#[tokio::test]
async fn d4_an_answer_whose_addresses_cannot_be_opened_is_not_given() {
    let (server, _) = fake_both(two).await;
    let world = World::new(&[server], LONG).await;
    world.book.is_full.store(true, Ordering::SeqCst);
    let sent = query([0, 1], "www");
    for got in world.ask_both(LISTED, &sent).await {
        assert_eq!((code(&got), &got[12..]), (SERVFAIL, &sent[12..]));
    }
    assert_eq!(world.counters(LISTED).failed, 2);
    assert_eq!(code(&ask(&world.udp(GUEST).await, &sent).await), 0);
}

#[tokio::test]
async fn an_answer_that_leads_to_too_many_is_not_given() {
    let (server, _) = fake_both(|query| {
        let name = asked_name(query);
        let count: u32 = if asks_for(query, "many") { 257 } else { 256 };
        let records = (0..count).map(|n| address(&name, 9, &Ipv4Addr::from(n).to_string()));
        response(query, [&records.collect::<Vec<_>>(), &[], &[]])
    })
    .await;
    let world = World::new(&[server], LONG).await;
    let mut stream = world.tcp(LISTED).await;
    for (label, expected, learned) in [("many", SERVFAIL, 0), ("most", 0, 256)] {
        send_frame(&mut stream, &query([0, 1], label)).await;
        assert_eq!(code(&receive_frame(&mut stream).await.unwrap()), expected);
        assert_eq!(world.learned(LISTED).len(), learned);
    }
}

#[tokio::test]
async fn d3_a_name_that_is_not_allowed_is_never_sent_upstream() {
    let (server, asked) = fake_both(two).await;
    let world = World::new(&[server], LONG).await;
    // `*.example` is not the name itself, nor one that only ends alike.
    for (name, kind) in [
        ("example", 1),
        ("notexample", 1),
        ("www.example.test", 28),
        ("", 2),
        ("test", 65),
    ] {
        let sent = question(name, kind);
        for got in world.ask_both(LISTED, &sent).await {
            assert_eq!((code(&got), &got[12..]), (REFUSED, &sent[12..]), "{name}");
        }
    }
    // One label with a dot in it.
    let mut sent = query([0, 1], "a");
    sent.splice(12.., b"\x09a.example\x00\x00\x01\x00\x01".iter().copied());
    for got in world.ask_both(LISTED, &sent).await {
        assert_eq!(code(&got), REFUSED);
    }
    assert!(asked.lock().unwrap().is_empty());
    assert!(world.learned(LISTED).is_empty());
    assert_eq!(world.counters(LISTED).failed, 12);
}

#[tokio::test]
async fn questions_for_everything_zones_and_other_classes_are_refused() {
    let (server, asked) = fake_both(two).await;
    let world = World::new(&[server], LONG).await;
    let any = question("www.example", 255);
    let mut chaos = question("www.example", 16);
    let end = chaos.len();
    chaos[end - 1] = 3;
    for guest in [GUEST, LISTED, AUDITED] {
        for sent in [&any, &chaos] {
            for got in world.ask_both(guest, sent).await {
                assert_eq!(code(&got), REFUSED);
            }
        }
    }
    for kind in [251, 252] {
        for got in world.ask_both(LISTED, &question("www.example", kind)).await {
            assert_eq!(code(&got), REFUSED);
        }
    }
    assert!(asked.lock().unwrap().is_empty());
    for got in world.ask_both(AUDITED, &question("www.example", 251)).await {
        assert_eq!(code(&got), 0, "what is only counted passes");
    }
}

#[tokio::test]
async fn p14_a_list_that_is_only_counted_refuses_nothing() {
    let (server, _) = fake_both(two).await;
    let world = World::new(&[server], LONG).await;
    let guest = world.udp(AUDITED).await;
    let other = question("www.test", 1);
    assert_eq!(code(&ask(&guest, &other).await), 0);
    assert!(world.learned(AUDITED).is_empty());
    let counters = world.counters(AUDITED);
    assert_eq!((counters.audited, counters.answered), (1, 1));
    ask(&guest, &query([0, 1], "www")).await;
    assert_eq!(world.learned(AUDITED), expected("www.example"));
    let counters = world.counters(AUDITED);
    assert_eq!((counters.audited, counters.answered), (1, 2));
}

#[tokio::test]
async fn d2_a_guest_with_a_list_tells_the_world_its_questions_and_no_more() {
    let (server, asked) = fake_both(two).await;
    let world = World::new(&[server], LONG).await;
    let plain = query([0, 1], "MiXed");
    let mut sent = plain.clone();
    sent[11] = 2;
    let edns = b"\x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00".as_slice();
    let option = b"\x07\xfd\xe9\x00\x03out";
    let record = b"\x03abc\x00\x00\x10\x00\x01\x00\x00\x00\x00\x00\x02hi";
    sent.extend([edns, option, record].concat());
    let mut expected = plain.clone();
    // Of the flags, RD and AD.
    expected[3] &= 0x20;
    expected[11] = 1;
    expected.extend([edns, b"\x00"].concat());
    world.ask_both(LISTED, &sent).await;
    world.ask_both(AUDITED, &sent).await;
    let asked = asked.lock().unwrap();
    assert_eq!(asked[0][2..], expected[2..]);
    // It was kept, and the next guest's is not: by UDP and by TCP.
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[1][2..], sent[2..]);
}

#[tokio::test]
async fn a_name_that_is_taken_off_the_list_meanwhile_is_refused() {
    let directory = Arc::new(std::sync::OnceLock::<Arc<Loopback>>::new());
    let changes = Arc::clone(&directory);
    // The list changes while the server thinks.
    let (server, asked) = fake_both(move |query| {
        let mut changed = changes.get().unwrap().changed.lock().unwrap();
        changed.insert(LISTED.into(), Permission::Listed(Arc::default()));
        two(query)
    })
    .await;
    let world = World::new(&[server], LONG).await;
    directory.set(Arc::clone(&world.directory)).ok().unwrap();
    let listed = world.directory.client(LISTED.into()).unwrap().permission;
    let by_udp = ask(&world.udp(LISTED).await, &query([0, 1], "udp")).await;
    world.permit(LISTED, listed);
    let mut stream = world.tcp(LISTED).await;
    send_frame(&mut stream, &query([0, 1], "tcp")).await;
    let by_tcp = receive_frame(&mut stream).await.unwrap();
    assert_eq!([code(&by_udp), code(&by_tcp)], [REFUSED; 2]);
    assert_eq!(asked.lock().unwrap().len(), 2);
    assert!(world.learned(LISTED).is_empty());
}

#[tokio::test]
async fn a_query_is_not_sent_again_when_its_name_is_no_longer_allowed() {
    let (silent, asked) = fake_udp("127.0.0.1:0", |_| Vec::new()).await;
    let world = World::new(&[silent], SHORT).await;
    let guest = world.udp(LISTED).await;
    guest.send(&query([0, 1], "www")).await.unwrap();
    within(async {
        while asked.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    world.permit(LISTED, Permission::None);
    assert_eq!(code(&receive(&guest).await), REFUSED);
    assert_eq!(asked.lock().unwrap().len(), 1);
}

/// What a guest gets of an answer of which it may not have all.
async fn check_stripped(kind: u16, records: &[Made], left: Option<&[Made]>) {
    let given = records.to_vec();
    let (server, _) = fake_both(move |query| response(query, [&given, &[], &[]])).await;
    let world = World::new(&[server], LONG).await;
    let sent = question("www.example", kind);
    for guest in [GUEST, LISTED, AUDITED] {
        for got in world.ask_both(guest, &sent).await {
            match left {
                None => assert_eq!((code(&got), &got[6..8]), (NXDOMAIN, &[0, 0][..])),
                Some(left) => {
                    let expected = response(&sent, [left, &[], &[]]);
                    let read = |bytes: &[u8]| hickory_proto::op::Message::from_vec(bytes).unwrap();
                    assert_eq!(read(&got), read(&expected));
                }
            }
        }
        let near: IpAddr = NEAR.parse().unwrap();
        let learned = world.learned(guest);
        assert!(learned.iter().all(|(_, address, _)| *address != near));
        assert_eq!(learned.is_empty(), guest == GUEST || left.is_none());
    }
}

#[tokio::test]
async fn d6_what_no_guest_reaches_is_not_told() {
    let own = "www.example";
    let (good, near) = (address(own, 60, "192.0.2.1"), address(own, 60, NEAR));
    check_stripped(
        1,
        &[near.clone(), good.clone()],
        Some(std::slice::from_ref(&good)),
    )
    .await;
    check_stripped(1, &[near], None).await;
    let hinted = service(own, 60, (1, ""), &["192.0.2.2", NEAR]);
    check_stripped(65, &[hinted.clone(), good.clone()], Some(&[good])).await;
    check_stripped(65, &[hinted], None).await;
}

#[tokio::test]
async fn a_truncated_answer_is_not_learned_from() {
    let (server, _) = fake_both(|query| {
        let mut answer = two(query);
        answer[2] |= 2;
        // Nor need it be whole.
        answer.truncate(answer.len() - 5);
        answer
    })
    .await;
    let world = World::new(&[server], LONG).await;
    let sent = query([0, 1], "www");
    for guest in [LISTED, GUEST] {
        for got in world.ask_both(guest, &sent).await {
            assert_eq!((got[2] & 2, &got[6..8]), (2, &[0, 0][..]));
            assert_eq!(got.len(), sent.len());
        }
    }
    assert!(world.learned(LISTED).is_empty());
}

#[tokio::test]
async fn an_answer_that_does_not_fit_is_learned_when_it_is_had_whole() {
    let (server, _) = fake_both(|query| {
        let name = asked_name(query);
        let records: Vec<Made> = (0..40_u32)
            .map(|n| address(&name, 60, &Ipv4Addr::from(n).to_string()))
            .collect();
        response(query, [&records, &[], &[]])
    })
    .await;
    let world = World::new(&[server], LONG).await;
    let sent = query([0, 1], "www");
    let cut = ask(&world.udp(LISTED).await, &sent).await;
    assert_eq!(cut[2] & 2, 2);
    assert!(world.learned(LISTED).is_empty());
    let [_, whole] = world.ask_both(LISTED, &sent).await;
    assert_eq!((whole[2] & 2, whole[7]), (0, 40));
    assert_eq!(world.learned(LISTED).len(), 40);
}
