use super::*;
use crate::dns::made::{address, authority, question, response};

/// A server whose every answer is another address.
async fn counting() -> (SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>) {
    let mut count = 0;
    fake_both(move |query| {
        count += 1;
        let records = [address("www.example", 60, &format!("192.0.2.{count}"))];
        response(query, [&records, &[], &[]])
    })
    .await
}

#[tokio::test]
async fn an_answer_is_given_to_others_by_udp_and_tcp() {
    let (server, asked) = counting().await;
    let world = World::new(&[server], LONG).await;
    let first = ask(&world.udp(GUEST).await, &question("www.example", 1)).await;
    let mut sent = question("wWw.Example", 1);
    sent[..2].copy_from_slice(&[7, 8]);
    for guest in [OTHER, LISTED, AUDITED] {
        for got in world.ask_both(guest, &sent).await {
            assert_eq!(got[..2], [7, 8]);
            assert_eq!(got[12..sent.len()], sent[12..], "its own case");
            // All but the time to live, which may be a second less.
            let rest = sent.len();
            assert_eq!(got[rest..got.len() - 10], first[rest..first.len() - 10]);
            assert_eq!(got[got.len() - 6..], first[first.len() - 6..]);
        }
    }
    assert_eq!(asked.lock().unwrap().len(), 1);
    assert_eq!(world.counters(OTHER).answered, 2);
    // It is learned each time anew.
    let learned = world.learned(LISTED);
    assert_eq!(learned.len(), 2);
    assert!(learned.iter().all(|(_, _, ttl)| (50..=60).contains(ttl)));
}

#[tokio::test]
async fn whatever_is_kept_a_guest_gets_what_it_may_have_alone() {
    let (server, asked) = fake_both(|query| {
        let records = [address("www.example", 60, "169.254.169.254")];
        response(query, [&records, &[], &[]])
    })
    .await;
    let world = World::new(&[server], LONG).await;
    let sent = question("www.example", 1);
    for guest in [GUEST, LISTED] {
        for got in world.ask_both(guest, &sent).await {
            assert_eq!(code(&got), 3);
        }
    }
    for got in world.ask_both(CLOSED, &sent).await {
        assert_eq!(code(&got), 5);
    }
    world.permit(LISTED, Permission::Listed(Arc::default()));
    for got in world.ask_both(LISTED, &sent).await {
        assert_eq!(code(&got), 5);
    }
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn that_there_is_nothing_is_kept_too() {
    let (server, asked) = fake_both(|query| {
        let mut answer = response(query, [&[], &[authority("example", 60, 60)], &[]]);
        answer[3] |= 3;
        answer
    })
    .await;
    let world = World::new(&[server], LONG).await;
    for got in world.ask_both(LISTED, &question("no.example", 1)).await {
        assert_eq!(code(&got), 3);
    }
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn what_depends_on_more_than_its_question_is_not_kept() {
    let (server, asked) = counting().await;
    let world = World::new(&[server], LONG).await;
    let mut sent = question("www.example", 1);
    sent[11] = 1;
    sent.extend_from_slice(b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x06\x00\x0a\x00\x02hi");
    world.ask_both(GUEST, &sent).await;
    assert_eq!(asked.lock().unwrap().len(), 2);
    // Those of a guest with a list do not leave, so its answers are for all.
    world.ask_both(LISTED, &sent).await;
    assert_eq!(asked.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn failures_are_not_kept() {
    let (server, asked) = fake_both(|query| {
        let records = [address("www.example", 60, "192.0.2.1")];
        let mut answer = response(query, [&records, &[], &[]]);
        answer[3] |= 2;
        answer
    })
    .await;
    let world = World::new(&[server], LONG).await;
    for got in world.ask_both(LISTED, &question("www.example", 1)).await {
        assert_eq!(code(&got), 2);
    }
    assert_eq!(asked.lock().unwrap().len(), 2);
    assert!(world.learned(LISTED).is_empty());
}
