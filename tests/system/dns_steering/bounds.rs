//! Guests and servers that behave badly (D-8): they hold up nobody else.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use netagent_tests::deadline::{SOON, now};
use netagent_tests::guest::Guest;
use netagent_tests::name_server::{PORT, ask_tcp, question};
use netagent_tests::netns::NetNs;
use netagent_tests::packet;
use netagent_tests::resolve::dig;
use netagent_tests::tap::Header;
use netagent_tests::upstream::{Upstream, answer};
use netagent_tests::world::server_v4;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};
use serde_json::json;

use super::{Scene, Site};

/// Longer than the resolver waits for all servers together.
const TOLD_LIMIT: Duration = Duration::from_secs(8);
const SERVER_FAILURE: u8 = 2;

/// Says what the name of the question wants, and to every other name the truth.
fn say(name: &str, query: &[u8]) -> Vec<Vec<u8>> {
    let truth = answer(query, &[server_v4(0).into()], 0);
    let wrong_id = || {
        let mut wrong = truth.clone();
        wrong[0] ^= 0x55;
        wrong
    };
    let wrong_question = || {
        let other = [&query[..12], &question(0, "other.test")[12..]].concat();
        answer(&other, &[server_v4(0).into()], 0)
    };
    match name.split('.').next().unwrap_or_default() {
        "silent" => Vec::new(),
        "garbage" => vec![
            b"\xff\xfe no message at all".to_vec(),
            Vec::new(),
            vec![0; 3],
        ],
        "wrongid" => vec![wrong_id()],
        "wrongquestion" => vec![wrong_question()],
        "cut" => vec![truth[..truth.len() - 5].to_vec()],
        "echo" => vec![query.to_vec()],
        "late" => vec![wrong_id(), wrong_question(), b"garbage".to_vec(), truth],
        _ => vec![truth],
    }
}

fn scene() -> Scene<Upstream> {
    Scene::saying(say)
}

/// Whether a guest is told the truth soon.
#[track_caller]
fn check_answered(site: &Site, name: &str) {
    let reply = site.ask(name);
    assert_eq!(
        (reply.code, reply.last),
        (0, server_v4(0).octets()),
        "{name}"
    );
}

#[test]
fn d8_what_a_bad_server_says_is_a_failure_in_time_and_others_are_served_meanwhile() {
    let scene = scene();
    let bad = scene.listed("bad", &["*.test"]);
    let good = scene.listed("good", &["*.test"]);
    // Junk before the answer is passed over.
    check_answered(&bad, "late.test");
    let names = [
        "silent",
        "garbage",
        "wrongid",
        "wrongquestion",
        "cut",
        "echo",
    ];
    let began = now();
    let asked = thread::scope(|scope| {
        let ask = |name: &str| {
            let (bad, name) = (&bad, format!("{name}.test"));
            scope.spawn(move || (bad.ask(&name), began.elapsed()))
        };
        let asking = names.map(ask);
        for number in 0..50 {
            check_answered(&good, &format!("n{number}.test"));
        }
        asking.map(|asked| asked.join().unwrap())
    });
    for (name, (reply, elapsed)) in names.iter().zip(asked) {
        assert_eq!((reply.code, reply.answers), (SERVER_FAILURE, 0), "{name}");
        assert!(elapsed < TOLD_LIMIT, "{name}: {elapsed:?}");
    }
    bad.check_closed(server_v4(1));
    check_answered(&good, "after.test");
}

#[test]
fn d8_a_guest_whose_questions_stay_open_takes_no_place_of_another() {
    let scene = scene();
    let loud = scene.listed("loud", &["*.test"]);
    let calm = scene.listed("calm", &["*.test"]);
    let socket = loud
        .netns()
        .run(|| std::net::UdpSocket::bind("0.0.0.0:0"))
        .unwrap();
    socket.connect(loud.gateway(true)).unwrap();
    for number in 0..500 {
        let name = format!("silent.n{number}.test");
        socket.send(&question(number, &name)).unwrap();
    }
    for number in 0..50 {
        check_answered(&calm, &format!("n{number}.test"));
    }
}

/// Begins to connect, and does not wait for it.
fn begin(netns: &NetNs, to: SocketAddr) -> OwnedFd {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let made = netns.run(|| socket(AddressFamily::Inet, SockType::Stream, flags, None));
    let socket = made.unwrap();
    let begun = connect(socket.as_raw_fd(), &SockaddrStorage::from(to));
    assert!(
        matches!(begun, Ok(()) | Err(Errno::EINPROGRESS)),
        "{begun:?}"
    );
    socket
}

#[test]
fn d8_ten_thousand_connections_of_a_guest_keep_no_other_from_being_answered() {
    const BATCHES: u32 = 50;
    const EACH: u32 = 200;
    let scene = scene();
    let greedy = scene.listed("greedy", &["*.test"]);
    let calm = scene.listed("calm", &["*.test"]);
    let mut held: Vec<Vec<OwnedFd>> = Vec::new();
    for batch in 0..BATCHES {
        // To the gateway and to others, which all are the resolver.
        let to = match batch % 2 {
            0 => greedy.gateway(true),
            _ => (server_v4(8), PORT).into(),
        };
        let netns = greedy.netns();
        held.push((0..EACH).map(|_| begin(netns, to)).collect());
        if held.len() > 2 {
            held.remove(0);
        }
        let name = format!("n{batch}.test");
        check_answered(&calm, &name);
        let replies = ask_tcp(calm.netns(), calm.gateway(true), &[&name]).unwrap();
        assert_eq!(replies[0].last, server_v4(0).octets());
    }
    drop(held);
    // The greedy one is served again, as soon as its places are free.
    check_answered(&greedy, "again.test");
    netagent_tests::deadline::wait_until("it is served by TCP", 3 * SOON, || {
        ask_tcp(greedy.netns(), greedy.gateway(true), &["again.test"])
            .is_ok_and(|replies| replies[0].code == 0)
    });
}

#[test]
fn d8_connections_that_say_nothing_do_not_keep_others_out() {
    let scene = scene();
    let greedy = scene.listed("greedy", &["*.test"]);
    let calm = scene.listed("calm", &["*.test"]);
    let open = || {
        let to = greedy.gateway(true);
        let netns = greedy.netns();
        netns.run(|| TcpStream::connect_timeout(&to, SOON)).ok()
    };
    let _held: Vec<TcpStream> = (0..40).filter_map(|_| open()).collect();
    for number in 0..20 {
        let name = format!("n{number}.test");
        let replies = ask_tcp(calm.netns(), calm.gateway(true), &[&name]).unwrap();
        assert_eq!(replies[0].last, server_v4(0).octets());
    }
}

#[test]
fn d8_a_flood_of_questions_does_not_stop_another_guest() {
    let scene = scene();
    let spec = json!({ "name": "loud", "allowed_domains": ["*.test"] });
    let loud = Guest::create_from(&scene.agent, &scene.world.host, &spec, Header::Vnet);
    let calm = scene.listed("calm", &["*.test"]);
    let nic = loud.nic();
    let flood = |round: u16| {
        for number in 0..1_000 {
            let zone = ["test", "evil"][usize::from(number % 2)];
            let query = question(number, &format!("n{number}.r{round}.{zone}"));
            let ends = nic.to(server_v4((number % 8) as u8));
            nic.tap
                .send_bytes(packet::udp(&ends, (10_000 + number, PORT), &query));
        }
    };
    let gateway = calm.gateways()[0].clone();
    for round in 0..12 {
        flood(round);
        check_answered(&calm, &format!("calm{round}.test"));
        let dug = dig(calm.netns(), &format!("@{gateway} dug{round}.test"));
        assert_eq!(dug.addresses(), [server_v4(0).into()].into());
    }
    let heard = scene.upstream.queries();
    let is_evil = |query: &Vec<u8>| query.windows(4).any(|part| part == b"evil");
    assert!(!heard.iter().any(is_evil));
}
