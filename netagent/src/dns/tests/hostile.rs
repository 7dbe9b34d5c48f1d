use super::*;
use crate::dns::made::{address, question, raw, response};

const SERVFAIL: u8 = 2;

/// A server whose answers cannot be used, and what the guest gets: by UDP it is as if there was none.
async fn check_unusable(answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) {
    let (server, _) = fake_both(move |query| answer(query)).await;
    let world = World::new(&[server], SHORT).await;
    let sent = question("www.example", 1);
    for got in world.ask_both(LISTED, &sent).await {
        assert_eq!((code(&got), &got[12..]), (SERVFAIL, &sent[12..]));
    }
    assert!(world.learned(LISTED).is_empty());
}

#[tokio::test]
async fn an_answer_with_broken_records_is_none() {
    let own = "www.example";
    check_unusable(move |query| {
        let records = [address(own, 60, "192.0.2.1")];
        let whole = response(query, [&records, &[], &[]]);
        whole[..whole.len() - 1].to_vec()
    })
    .await;
    check_unusable(move |query| {
        // An alias that points to itself.
        let at = u8::try_from(query.len() + own.len() + 12).unwrap();
        let records = [address(own, 60, "192.0.2.1"), raw(own, 5, 60, &[0xc0, at])];
        let mut bytes = response(query, [&records[1..], &[], &[]]);
        bytes[7] = 2;
        bytes.extend_from_slice(&records[0].0);
        bytes
    })
    .await;
    check_unusable(move |query| {
        let label = [&[64], [b'a'; 64].as_slice(), &[0]].concat();
        response(query, [&[raw(own, 5, 60, &label)], &[], &[]])
    })
    .await;
    check_unusable(move |query| {
        let name = [b"\x3f".as_slice(), &[b'a'; 63]].concat().repeat(4);
        let records = [raw(own, 5, 60, &[name.as_slice(), &[0]].concat())];
        response(query, [&records, &[], &[]])
    })
    .await;
}

#[tokio::test]
async fn an_answer_to_another_question_is_none() {
    check_unusable(|query| {
        let records = [address("www.example", 60, "192.0.2.1")];
        let mut other = response(query, [&records, &[], &[]]);
        other[13] = b'x';
        other
    })
    .await;
    check_unusable(|query| {
        let mut other = response(
            query,
            [&[address("www.example", 60, "192.0.2.1")], &[], &[]],
        );
        other[0] ^= 1;
        other
    })
    .await;
}

#[tokio::test]
async fn a_server_that_cannot_answer_is_not_the_last_one() {
    for failure in [1, 2, 4, 5] {
        let (bad, _) = fake_both(move |query| {
            let mut answer = response(query, [&[], &[], &[]]);
            answer[3] |= failure;
            answer
        })
        .await;
        let good = |query: &[u8]| {
            let records = [address("www.example", 0, "192.0.2.1")];
            response(query, [&records, &[], &[]])
        };
        let (server, _) = fake_both(good).await;
        let sent = question("www.example", 1);
        let world = World::new(&[bad, server], LONG).await;
        for got in world.ask_both(LISTED, &sent).await {
            assert_eq!(got, good(&sent), "{failure}");
        }
        assert_eq!(world.learned(LISTED).len(), 2);
        // Where all cannot, the guest hears the last one's words.
        let world = World::new(&[bad], LONG).await;
        for got in world.ask_both(LISTED, &sent).await {
            assert_eq!(code(&got), failure);
        }
    }
}

#[tokio::test]
async fn a_slow_server_is_asked_beside_the_next() {
    let times = Times {
        patience: SHORT.patience,
        ..LONG
    };
    let silent = silent_udp().await;
    let world = World::new(&[silent, silent_udp().await, honest_udp().await], times).await;
    let sent = query([0, 1], "a");
    let began = tokio::time::Instant::now();
    let got = ask(&world.udp(GUEST).await, &sent).await;
    assert_eq!(got, answer(&sent, b"honest"));
    let took = began.elapsed();
    assert!(
        took >= 2 * times.patience && took < times.attempt,
        "{took:?}"
    );
}

#[tokio::test]
async fn a_slow_answer_is_still_taken_when_the_next_server_was_asked() {
    let times = Times {
        patience: Duration::ZERO,
        ..LONG
    };
    let slow = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (next, asked) = fake_udp("127.0.0.1:0", |_| Vec::new()).await;
    let world = World::new(&[slow.local_addr().unwrap(), next], times).await;
    let guest = world.udp(GUEST).await;
    let sent = query([0, 1], "a");
    guest.send(&sent).await.unwrap();
    let mut buffer = [0; 512];
    let (len, from) = within(slow.recv_from(&mut buffer)).await.unwrap();
    within(async {
        while asked.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    slow.send_to(&answer(&buffer[..len], b"slow"), from)
        .await
        .unwrap();
    assert_eq!(receive(&guest).await, answer(&sent, b"slow"));
}

#[tokio::test]
async fn one_query_has_one_answer_by_tcp() {
    let server = fake_tcp(|mut stream| async move {
        while let Some(query) = receive_frame(&mut stream).await {
            let records = [address("www.example", 0, "192.0.2.1")];
            let right = response(&query, [&records, &[], &[]]);
            let more = [address("www.example", 0, "192.0.2.2")];
            for answer in [&right, &response(&query, [&more, &[], &[]])] {
                send_frame(&mut stream, answer).await;
            }
        }
    })
    .await;
    let world = World::new(&[server], LONG).await;
    for guest in [GUEST, LISTED] {
        let mut stream = world.tcp(guest).await;
        for id in 1..=3 {
            let mut sent = question("www.example", 1);
            sent[1] = id;
            send_frame(&mut stream, &sent).await;
            let got = receive_frame(&mut stream).await.unwrap();
            assert_eq!((got[1], got.last()), (id, Some(&1)));
        }
    }
}

#[tokio::test]
async fn d6_every_message_of_a_zone_is_stripped() {
    const AXFR: u16 = 252;
    let server = fake_tcp(|mut stream| async move {
        let query = receive_frame(&mut stream).await.unwrap();
        for last in [1, 2] {
            let records = [
                address("a.example", 60, "169.254.169.254"),
                address("b.example", 60, &format!("192.0.2.{last}")),
            ];
            let mut part = response(&query, [&records, &[], &[]]);
            if last == 2 {
                // The question may be left out of those that follow.
                part[5] = 0;
                part.drain(12..query.len());
            }
            send_frame(&mut stream, &part).await;
        }
        while receive_frame(&mut stream).await.is_some() {}
    })
    .await;
    let world = World::new(&[server], LONG).await;
    let mut stream = world.tcp(GUEST).await;
    send_frame(&mut stream, &question("example", AXFR)).await;
    for last in [1, 2] {
        let got = receive_frame(&mut stream).await.unwrap();
        assert_eq!((code(&got), got[7], got.last()), (0, 1, Some(&last)));
    }
}

#[tokio::test]
async fn a_connection_that_never_ends_its_message_is_no_server() {
    let server = fake_tcp(|mut stream| async move {
        let query = receive_frame(&mut stream).await.unwrap();
        let bytes = frame(&response(&query, [&[], &[], &[]]));
        stream.write_all(&bytes[..bytes.len() - 1]).await.unwrap();
        receive_frame(&mut stream).await;
    })
    .await;
    let world = World::new(&[server], SHORT).await;
    let mut stream = world.tcp(LISTED).await;
    send_frame(&mut stream, &question("www.example", 1)).await;
    assert_eq!(code(&receive_frame(&mut stream).await.unwrap()), SERVFAIL);
}
