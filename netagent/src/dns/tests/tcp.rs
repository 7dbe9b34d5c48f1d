use super::*;

/// The type of a zone transfer.
const AXFR: u8 = 252;

/// Answers every query on a connection at once.
async fn answer_all(mut stream: TcpStream) {
    while let Some(query) = receive_frame(&mut stream).await {
        send_frame(&mut stream, &answer(&query, b"tcp")).await;
    }
}

async fn answer_one(mut stream: TcpStream) {
    if let Some(query) = receive_frame(&mut stream).await {
        send_frame(&mut stream, &answer(&query, b"tcp")).await;
    }
}

/// Reads and says nothing.
async fn say_nothing(mut stream: TcpStream) {
    while receive_frame(&mut stream).await.is_some() {}
}

#[tokio::test]
async fn queries_on_one_connection_are_answered_in_whatever_order_the_server_takes() {
    let server = fake_tcp(|mut stream| async move {
        let mut asked = Vec::new();
        while asked.len() < 3 {
            asked.push(receive_frame(&mut stream).await.unwrap());
        }
        for query in asked.iter().rev() {
            send_frame(&mut stream, &answer(query, b"tcp")).await;
        }
        say_nothing(stream).await;
    })
    .await;
    let world = World::new(&[server], LONG).await;
    let mut guest = world.tcp(GUEST).await;
    let queries = [1, 2, 3].map(|id| query([0, id], "name"));
    let frames: Vec<u8> = queries.iter().flat_map(|query| frame(query)).collect();
    within(guest.write_all(&frames)).await.unwrap();
    for query in queries.iter().rev() {
        let got = receive_frame(&mut guest).await.unwrap();
        assert_eq!(got, answer(query, b"tcp"));
    }
    let counters = world.counters(GUEST);
    assert_eq!((counters.queries, counters.answered), (3, 3));
}

#[tokio::test]
async fn a_truncated_answer_is_had_whole_by_tcp() {
    let server = fake_tcp(|mut stream| async move {
        let query = receive_frame(&mut stream).await.unwrap();
        let rest = vec![0; 65_535 - query.len()];
        send_frame(&mut stream, &answer(&query, &rest)).await;
    })
    .await;
    let at = server.to_string();
    fake_udp(&at, |query| vec![answer(query, &[0; 600])]).await;
    let world = World::new(&[server], LONG).await;
    let sent = query([0, 1], "long");
    let cut = ask(&world.udp(GUEST).await, &sent).await;
    assert_eq!(cut[2] & 2, 2);
    let mut guest = world.tcp(GUEST).await;
    send_frame(&mut guest, &sent).await;
    assert_eq!(receive_frame(&mut guest).await.unwrap().len(), 65_535);
}

#[tokio::test]
async fn a_transfer_of_several_answers_passes() {
    let server = fake_tcp(|mut stream| async move {
        let query = receive_frame(&mut stream).await.unwrap();
        for part in 0..5_u8 {
            send_frame(&mut stream, &answer(&query, &[part])).await;
        }
        say_nothing(stream).await;
    })
    .await;
    let world = World::new(&[server], LONG).await;
    let mut guest = world.tcp(GUEST).await;
    let mut sent = query([0, 1], "zone");
    let end = sent.len();
    sent[end - 3] = AXFR;
    send_frame(&mut guest, &sent).await;
    for part in 0..5_u8 {
        let got = receive_frame(&mut guest).await.unwrap();
        assert_eq!(got, answer(&sent, &[part]));
    }
    assert_eq!(world.counters(GUEST).answered, 1);
}

#[tokio::test]
async fn a_query_may_come_byte_by_byte() {
    let world = World::new(&[fake_tcp(answer_all).await], LONG).await;
    let mut guest = world.tcp(GUEST).await;
    guest.set_nodelay(true).unwrap();
    let sent = query([0, 1], "a");
    for byte in frame(&sent) {
        guest.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let got = receive_frame(&mut guest).await.unwrap();
    assert_eq!(got, answer(&sent, b"tcp"));
}

#[tokio::test]
async fn a_server_that_closes_after_each_answer_serves_a_whole_connection() {
    let world = World::new(&[fake_tcp(answer_one).await], LONG).await;
    let mut guest = world.tcp(GUEST).await;
    for id in 1..=5 {
        send_frame(&mut guest, &query([0, id], "a")).await;
    }
    for id in 1..=5 {
        let got = receive_frame(&mut guest).await.unwrap();
        assert_eq!(got, answer(&query([0, id], "a"), b"tcp"));
    }
    send_frame(&mut guest, &query([0, 6], "a")).await;
    assert_eq!(receive_frame(&mut guest).await.unwrap()[1], 6);
}

#[tokio::test]
async fn the_next_server_is_asked_where_one_is_closed_or_hangs_up() {
    let hangs_up = fake_tcp(|stream| async move { drop(stream) }).await;
    for dead in [closed().await, hangs_up] {
        let world = World::new(&[dead, fake_tcp(answer_all).await], LONG).await;
        let mut guest = world.tcp(GUEST).await;
        let sent = query([0, 1], "a");
        send_frame(&mut guest, &sent).await;
        let got = receive_frame(&mut guest).await.unwrap();
        assert_eq!(got, answer(&sent, b"tcp"));
    }
}

#[tokio::test]
async fn a_server_that_answers_what_nobody_asked_and_hangs_up_is_not_asked_without_end() {
    let connections = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&connections);
    let server = fake_tcp(move |mut stream| {
        *seen.lock().unwrap() += 1;
        async move {
            receive_frame(&mut stream).await;
            send_frame(&mut stream, &answer(&query([9, 9], "other"), b"tcp")).await;
        }
    })
    .await;
    let world = World::new(&[server], LONG).await;
    let mut guest = world.tcp(GUEST).await;
    send_frame(&mut guest, &query([0, 1], "a")).await;
    let mut got = receive_frame(&mut guest).await.unwrap();
    while got[1] != 1 {
        got = receive_frame(&mut guest).await.unwrap();
    }
    assert_eq!(code(&got), 2);
    assert_eq!(*connections.lock().unwrap(), 1);
}

#[tokio::test]
async fn many_messages_in_few_packets_come_no_faster_than_many_packets() {
    const MESSAGES: usize = 512;
    let world = World::new(&[closed().await], LONG).await;
    let mut guest = world.tcp(GUEST).await;
    let mut unfit = query([0, 1], "a");
    unfit[2] |= 0x10;
    let began = tokio::time::Instant::now();
    within(guest.write_all(&frame(&unfit).repeat(MESSAGES)))
        .await
        .unwrap();
    for _ in 0..MESSAGES {
        assert_eq!(code(&receive_frame(&mut guest).await.unwrap()), 4);
    }
    let (all, took) = (MESSAGES as u64, began.elapsed());
    let least = Duration::from_millis((all - 130) * 1_000 / 512);
    assert!(took >= least, "{took:?}");
}

#[tokio::test]
async fn where_no_server_answers_every_query_is_told_so() {
    let hangs_up = fake_tcp(|stream| async move { drop(stream) }).await;
    let silent = fake_tcp(say_nothing).await;
    for dead in [closed().await, hangs_up, silent] {
        let times = Times {
            idle: LONG.idle,
            ..SHORT
        };
        let world = World::new(&[dead], times).await;
        let mut guest = world.tcp(GUEST).await;
        for id in 1..=3 {
            send_frame(&mut guest, &query([0, id], "a")).await;
        }
        for id in 1..=3 {
            let got = receive_frame(&mut guest).await.unwrap();
            assert_eq!((got[1], code(&got)), (id, 2), "{dead}");
        }
        assert_eq!(world.counters(GUEST).failed, 3);
    }
}

#[tokio::test]
async fn a_connection_without_a_whole_message_is_closed() {
    let world = World::new(&[fake_tcp(answer_all).await], SHORT).await;
    let mut idle = world.tcp(GUEST).await;
    assert_eq!(receive_frame(&mut idle).await, None);
    let mut partial = world.tcp(GUEST).await;
    let bytes = frame(&query([0, 1], "a"));
    partial.write_all(&bytes[..bytes.len() - 1]).await.unwrap();
    assert_eq!(receive_frame(&mut partial).await, None);
    assert_eq!(world.counters(GUEST).queries, 0);
    // One that was used is closed as well.
    let mut used = world.tcp(GUEST).await;
    send_frame(&mut used, &query([0, 1], "a")).await;
    assert!(receive_frame(&mut used).await.is_some());
    assert_eq!(receive_frame(&mut used).await, None);
}

#[tokio::test]
async fn a_connection_ends_however_busy_it_is() {
    let times = Times {
        life: Duration::from_millis(500),
        ..LONG
    };
    let world = World::new(&[fake_tcp(answer_all).await], times).await;
    let mut guest = world.tcp(GUEST).await;
    within(async {
        let bytes = frame(&query([0, 1], "a"));
        while guest.write_all(&bytes).await.is_ok() && receive_frame(&mut guest).await.is_some() {}
    })
    .await;
}

#[tokio::test]
async fn a_guest_that_takes_no_answers_does_not_stay() {
    let server = fake_tcp(|mut stream| async move {
        while let Some(query) = receive_frame(&mut stream).await {
            let rest = vec![0; 60_000];
            if stream
                .write_all(&frame(&answer(&query, &rest)))
                .await
                .is_err()
            {
                return;
            }
        }
    })
    .await;
    let world = World::new(&[server], SHORT).await;
    let mut guest = world.tcp(GUEST).await;
    let bytes = frame(&query([0, 1], "a"));
    within(async { while guest.write_all(&bytes).await.is_ok() {} }).await;
}

#[tokio::test]
async fn one_connection_too_many_is_closed() {
    let world = World::new(&[fake_tcp(answer_all).await], LONG).await;
    let mut open = Vec::new();
    for _ in 0..8 {
        let mut guest = world.tcp(GUEST).await;
        send_frame(&mut guest, &query([0, 1], "a")).await;
        assert!(receive_frame(&mut guest).await.is_some());
        open.push(guest);
    }
    let mut ninth = world.tcp(GUEST).await;
    assert_eq!(receive_frame(&mut ninth).await, None);
    assert_eq!(world.counters(GUEST).refused, 1);
    let mut other = world.tcp(OTHER).await;
    send_frame(&mut other, &query([0, 1], "a")).await;
    assert!(receive_frame(&mut other).await.is_some());
}

#[tokio::test]
async fn a_guest_that_sends_no_more_still_gets_its_answers() {
    let world = World::new(&[fake_tcp(answer_all).await], LONG).await;
    let mut guest = world.tcp(GUEST).await;
    let sent = query([0, 1], "a");
    send_frame(&mut guest, &sent).await;
    guest.shutdown().await.unwrap();
    let got = receive_frame(&mut guest).await.unwrap();
    assert_eq!(got, answer(&sent, b"tcp"));
    assert_eq!(receive_frame(&mut guest).await, None);
}

#[tokio::test]
async fn what_is_malformed_gets_an_error_and_what_is_no_query_ends_the_connection() {
    let world = World::new(&[fake_tcp(answer_all).await], LONG).await;
    let mut guest = world.tcp(GUEST).await;
    let sent = query([0, 1], "a");
    send_frame(&mut guest, &sent[..20]).await;
    assert_eq!(code(&receive_frame(&mut guest).await.unwrap()), 1);
    send_frame(&mut guest, &sent).await;
    assert_eq!(code(&receive_frame(&mut guest).await.unwrap()), 0);
    send_frame(&mut guest, b"").await;
    assert_eq!(receive_frame(&mut guest).await, None);
    let counters = world.counters(GUEST);
    assert_eq!((counters.failed, counters.answered), (1, 1));
    assert_eq!((counters.queries, counters.refused), (3, 1));
    let mut stranger = world.tcp(STRANGER).await;
    assert_eq!(receive_frame(&mut stranger).await, None);
}

#[tokio::test]
async fn a_guest_with_another_name_server_is_no_longer_answered_by_the_one_before() {
    let world = World::new(&[fake_tcp(answer_all).await], LONG).await;
    let mut guest = world.tcp(GUEST).await;
    let codes = async |guest: &mut TcpStream, id| {
        send_frame(guest, &query([0, id], "a")).await;
        code(&receive_frame(guest).await.unwrap())
    };
    assert_eq!(codes(&mut guest, 1).await, 0);
    // Nobody is there.
    let own = "127.0.0.99".parse().unwrap();
    world
        .directory
        .own
        .lock()
        .unwrap()
        .insert(GUEST.into(), own);
    assert_eq!(codes(&mut guest, 2).await, 2);
    world.directory.own.lock().unwrap().clear();
    assert_eq!(codes(&mut guest, 3).await, 0);
}

#[tokio::test]
async fn a_connection_ends_with_the_start_that_opened_it() {
    let world = World::new(&[fake_tcp(answer_all).await], LONG).await;
    let mut guest = world.tcp(GUEST).await;
    let sent = query([0, 1], "a");
    send_frame(&mut guest, &sent).await;
    assert!(receive_frame(&mut guest).await.is_some());
    world.directory.again.lock().unwrap().insert(GUEST.into());
    send_frame(&mut guest, &sent).await;
    assert_eq!(receive_frame(&mut guest).await, None);
}
