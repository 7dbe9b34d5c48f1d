use super::*;

#[tokio::test]
async fn queries_and_answers_pass_as_bytes_but_for_the_id() {
    let (server, asked) =
        fake_udp("127.0.0.1:0", |query| vec![answer(query, b"\xc0\x0c rest")]).await;
    let world = World::new(&[server], LONG).await;
    let mut sent = query([0xab, 0xcd], "mixedCASE");
    // An unknown type, and EDNS with options nobody knows.
    let end = sent.len();
    sent[end - 4..].copy_from_slice(&[0xff, 0x23, 0, 1]);
    sent[11] = 1;
    sent.extend_from_slice(b"\x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x05\xfd\xe9\x00\x01x");
    let got = ask(&world.udp(GUEST).await, &sent).await;
    assert_eq!(got, answer(&sent, b"\xc0\x0c rest"));
    let seen = asked.lock().unwrap().clone();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0][2..], sent[2..]);
    let counters = world.counters(GUEST);
    assert_eq!((counters.queries, counters.answered), (1, 1));
    assert_eq!((counters.failed, counters.refused), (0, 0));
}

#[tokio::test]
async fn ipv6_on_either_side_is_no_different() {
    let (server, _) = fake_udp("[::1]:0", |query| vec![answer(query, b"six")]).await;
    let world = World::new(&[server], LONG).await;
    let socket = UdpSocket::bind("[::1]:0").await.unwrap();
    socket.connect(world.udp6).await.unwrap();
    let sent = query([1, 2], "a");
    assert_eq!(ask(&socket, &sent).await, answer(&sent, b"six"));
    assert_eq!(
        ask(&world.udp(GUEST).await, &sent).await,
        answer(&sent, b"six")
    );
}

#[tokio::test]
async fn a_forged_answer_is_not_passed() {
    let (server, _) = fake_udp("127.0.0.1:0", |query| {
        let mut other_id = answer(query, b"other id");
        other_id[0] ^= 1;
        let mut other_case = answer(query, b"other case");
        other_case[13] ^= 0x20;
        let mut other_type = answer(query, b"other type");
        let end = query.len();
        other_type[end - 3] = 28;
        let no_answer = query.to_vec();
        let right = answer(query, b"right");
        vec![
            other_id,
            other_case,
            other_type,
            no_answer,
            vec![1],
            Vec::new(),
            right,
        ]
    })
    .await;
    let world = World::new(&[server], LONG).await;
    let sent = query([0, 1], "a");
    let got = ask(&world.udp(GUEST).await, &sent).await;
    assert_eq!(got, answer(&sent, b"right"));
}

#[tokio::test]
async fn an_answer_from_elsewhere_is_not_passed() {
    let forger = Arc::new(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let world = World::new(&[server.local_addr().unwrap()], LONG).await;
    let guest = world.udp(GUEST).await;
    let sent = query([0, 1], "a");
    guest.send(&sent).await.unwrap();
    let mut buffer = [0; 512];
    let (len, from) = within(server.recv_from(&mut buffer)).await.unwrap();
    // Right in every byte, and there before the true one.
    forger
        .send_to(&answer(&buffer[..len], b"forged"), from)
        .unwrap();
    let right = answer(&buffer[..len], b"right");
    server.send_to(&right, from).await.unwrap();
    assert_eq!(receive(&guest).await, answer(&sent, b"right"));
}

#[tokio::test]
async fn ids_and_ports_towards_a_server_differ_from_query_to_query() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let world = World::new(&[server.local_addr().unwrap()], LONG).await;
    let guest = world.udp(GUEST).await;
    let mut ids = BTreeSet::new();
    let mut ports = BTreeSet::new();
    let mut buffer = [0; 512];
    for _ in 0..16 {
        guest.send(&query([0, 1], "a")).await.unwrap();
        let (_, from) = within(server.recv_from(&mut buffer)).await.unwrap();
        ids.insert([buffer[0], buffer[1]]);
        ports.insert(from.port());
    }
    assert!(ids.len() > 8 && ports.len() > 8, "{ids:?} {ports:?}");
}

#[tokio::test]
async fn an_answer_too_long_for_the_guest_is_truncated() {
    let (server, _) = fake_udp("127.0.0.1:0", |query| {
        let len = if asks_for(query, "long") {
            1_473
        } else {
            1_472
        };
        let rest = vec![0; len - query.len()];
        vec![answer(query, &rest)]
    })
    .await;
    let world = World::new(&[server], LONG).await;
    let guest = world.udp(GUEST).await;
    let edns = b"\x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x00";
    let with_edns = |label| {
        let mut sent = query([0, 1], label);
        sent[11] = 1;
        [sent.as_slice(), edns].concat()
    };
    assert_eq!(ask(&guest, &with_edns("fits")).await.len(), 1_472);
    let cut = ask(&guest, &with_edns("long")).await;
    assert_eq!(cut[2] & 0x82, 0x82);
    assert_eq!(cut.len(), with_edns("long").len());
    let plain = query([0, 1], "fits");
    let cut = ask(&guest, &plain).await;
    assert_eq!(cut, {
        let mut expected = answer(&plain, b"");
        expected[2] |= 2;
        expected
    });
}

#[tokio::test]
async fn the_next_server_is_asked_where_one_is_closed_or_silent() {
    for dead in [closed().await, silent_udp().await] {
        let world = World::new(&[dead, honest_udp().await], SHORT).await;
        let sent = query([0, 1], "a");
        let got = ask(&world.udp(GUEST).await, &sent).await;
        assert_eq!(got, answer(&sent, b"honest"));
    }
}

#[tokio::test]
async fn a_silent_server_does_not_delay_every_query() {
    let (silent, asked) = fake_udp("127.0.0.1:0", |_| Vec::new()).await;
    let world = World::new(&[silent, honest_udp().await], SHORT).await;
    let guest = world.udp(GUEST).await;
    for _ in 0..20 {
        assert_eq!(code(&ask(&guest, &query([0, 1], "a")).await), 0);
    }
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_silent_server_is_asked_again() {
    let mut count = 0;
    let (server, asked) = fake_udp("127.0.0.1:0", move |query| {
        count += 1;
        if count == 1 {
            Vec::new()
        } else {
            vec![answer(query, b"late")]
        }
    })
    .await;
    let world = World::new(&[server], SHORT).await;
    let sent = query([0, 1], "a");
    let got = ask(&world.udp(GUEST).await, &sent).await;
    assert_eq!(got, answer(&sent, b"late"));
    assert_eq!(asked.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn where_no_server_answers_the_guest_is_told() {
    for upstreams in [
        vec![closed().await, closed().await],
        vec![silent_udp().await],
    ] {
        let world = World::new(&upstreams, SHORT).await;
        let sent = query([0, 1], "a");
        let got = ask(&world.udp(GUEST).await, &sent).await;
        assert_eq!(code(&got), 2);
        assert_eq!(got[4..], sent[4..]);
        assert_eq!(world.counters(GUEST).failed, 1);
    }
}

#[tokio::test]
async fn where_there_is_no_server_the_guest_is_told() {
    let world = World::without_servers().await;
    let sent = query([0, 1], "a");
    assert_eq!(code(&ask(&world.udp(GUEST).await, &sent).await), 2);
    let mut stream = world.tcp(GUEST).await;
    send_frame(&mut stream, &sent).await;
    let got = receive_frame(&mut stream).await.unwrap();
    assert_eq!(code(&got), 2);
    assert_eq!(world.counters(GUEST).failed, 2);
}

#[tokio::test]
async fn a_silent_server_holds_up_no_other_query() {
    let (server, _) = fake_udp("127.0.0.1:0", |query| {
        if asks_for(query, "slow") {
            Vec::new()
        } else {
            vec![answer(query, b"")]
        }
    })
    .await;
    let world = World::new(&[server], LONG).await;
    let guest = world.udp(GUEST).await;
    guest.send(&query([0, 1], "slow")).await.unwrap();
    assert_eq!(ask(&guest, &query([0, 2], "fast")).await[1], 2);
}

#[tokio::test]
async fn a_flood_slows_its_own_guest_alone() {
    let (server, asked) = fake_udp("127.0.0.1:0", |query| {
        if asks_for(query, "flood") {
            Vec::new()
        } else {
            vec![answer(query, b"")]
        }
    })
    .await;
    let world = World::new(&[server], LONG).await;
    let (flooder, modest) = (world.udp(GUEST).await, world.udp(OTHER).await);
    for sent in 1..=100 {
        flooder.send(&query([0, 1], "flood")).await.unwrap();
        world
            .wait_for(GUEST, |counters| counters.queries == sent)
            .await;
    }
    let counters = world.counters(GUEST);
    assert_eq!(counters.refused, 36);
    assert_eq!(ask(&modest, &query([0, 2], "calm")).await[1], 2);
    assert_eq!(world.counters(OTHER).refused, 0);
    within(async {
        while asked.lock().unwrap().len() < 65 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(asked.lock().unwrap().len(), 65);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_guests_are_served_at_once() {
    let world = World::new(&[honest_udp().await], LONG).await;
    let mut guests = JoinSet::new();
    for last in 100..150 {
        let guest = world.udp([127, 0, 0, last]).await;
        guests.spawn(async move {
            for id in 0..20 {
                let sent = query([last, id], "a");
                assert_eq!(ask(&guest, &sent).await, answer(&sent, b"honest"));
            }
        });
    }
    while let Some(ended) = within(guests.join_next()).await {
        ended.unwrap();
    }
    for last in 100..150 {
        assert_eq!(world.counters([127, 0, 0, last]).answered, 20);
    }
}

#[tokio::test]
async fn places_come_back_when_queries_are_answered() {
    let world = World::new(&[honest_udp().await], LONG).await;
    let guest = world.udp(GUEST).await;
    for _ in 0..200 {
        ask(&guest, &query([0, 1], "a")).await;
    }
    let counters = world.counters(GUEST);
    assert_eq!((counters.answered, counters.refused), (200, 0));
}

#[tokio::test]
async fn what_is_no_query_gets_no_answer_and_what_is_malformed_an_error() {
    let (server, asked) = fake_udp("127.0.0.1:0", |query| vec![answer(query, b"")]).await;
    let world = World::new(&[server], LONG).await;
    let guest = world.udp(GUEST).await;
    let whole = query([0, 9], "a");
    for junk in [b"".as_slice(), b"x", &whole[..11], &answer(&whole, b"")] {
        guest.send(junk).await.unwrap();
    }
    for (len, expected) in [(12, 1), (20, 1), (whole.len(), 0)] {
        // The first answer is to the first of these: the junk had none.
        assert_eq!(code(&ask(&guest, &whole[..len]).await), expected, "{len}");
    }
    let mut update = whole.clone();
    update[2] = 5 << 3;
    assert_eq!(code(&ask(&guest, &update).await), 4);
    let counters = world.counters(GUEST);
    assert_eq!((counters.queries, counters.refused), (8, 4));
    assert_eq!((counters.answered, counters.failed), (1, 3));
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_stranger_is_not_answered() {
    let (server, asked) = fake_udp("127.0.0.1:0", |query| vec![answer(query, b"")]).await;
    let world = World::new(&[server], LONG).await;
    let (stranger, guest) = (world.udp(STRANGER).await, world.udp(GUEST).await);
    stranger.send(&query([0, 1], "strange")).await.unwrap();
    ask(&guest, &query([0, 2], "known")).await;
    assert_eq!(asked.lock().unwrap().len(), 1);
    assert!(stranger.try_recv(&mut [0; 512]).is_err());
}

#[tokio::test]
async fn a_dropped_resolver_leaves_no_socket() {
    let server =
        fake_tcp(|mut stream| async move { while receive_frame(&mut stream).await.is_some() {} })
            .await;
    fake_udp(&server.to_string(), |_| Vec::new()).await;
    let world = World::new(&[server], LONG).await;
    let guest = world.udp(GUEST).await;
    guest.send(&query([0, 1], "a")).await.unwrap();
    let mut stream = world.tcp(GUEST).await;
    send_frame(&mut stream, &query([0, 1], "a")).await;
    world
        .wait_for(GUEST, |counters| counters.queries == 2)
        .await;
    let address = world.udp;
    drop(world);
    assert_eq!(receive_frame(&mut stream).await, None);
    within(async {
        while UdpSocket::bind(address).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_does_not_go_to_the_next_start_of_the_instance() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let world = World::new(&[server.local_addr().unwrap()], LONG).await;
    let guest = world.udp(GUEST).await;
    let mut buffer = [0; 512];
    for rest in [b"old", b"new"] {
        guest.send(&query([0, 1], "a")).await.unwrap();
        let (len, from) = within(server.recv_from(&mut buffer)).await.unwrap();
        world.directory.again.lock().unwrap().insert(GUEST.into());
        let answer = answer(&buffer[..len], rest);
        server.send_to(&answer, from).await.unwrap();
    }
    assert_eq!(receive(&guest).await, answer(&query([0, 1], "a"), b"new"));
}
