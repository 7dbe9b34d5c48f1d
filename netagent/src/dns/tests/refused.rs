use super::*;

/// The code of REFUSED (RFC 1035, 4.1.1).
const REFUSED: u8 = 5;

#[tokio::test]
async fn d2_who_may_ask_for_nothing_is_refused_and_nothing_of_it_is_forwarded() {
    let (server, asked) = fake_udp("127.0.0.1:0", |query| vec![answer(query, b"open")]).await;
    let world = World::new(&[server], LONG).await;
    let sent = query([7, 8], "secret");
    let by_udp = ask(&world.udp(CLOSED).await, &sent).await;
    let mut guest = world.tcp(CLOSED).await;
    let mut by_tcp = Vec::new();
    // Two on one connection: the refusal ends none.
    for _ in 0..2 {
        send_frame(&mut guest, &sent).await;
        by_tcp.push(receive_frame(&mut guest).await.unwrap());
    }
    for got in by_tcp.iter().chain([&by_udp]) {
        assert_eq!((code(got), &got[..2]), (REFUSED, &sent[..2]));
        assert_eq!(got[12..], sent[12..], "the question is repeated");
    }
    let counters = world.counters(CLOSED);
    assert_eq!((counters.queries, counters.failed), (3, 3));
    // Others are answered, and the server heard of theirs alone.
    let open = ask(&world.udp(GUEST).await, &sent).await;
    assert_eq!(open, answer(&sent, b"open"));
    assert_eq!(asked.lock().unwrap().len(), 1);
}
