//! Messages that break the rules, ask for what is another's, or are too many: dropped, counted, and nobody else's
//! loss.

use std::net::Ipv4Addr;

use netagent_tests::deadline::{SOON, wait_until};
use netagent_tests::dhcp::{Client, Message, Way, kind, option, read_answer};
use netagent_tests::guest::Guest;
use netagent_tests::packet::{self, hex};
use netagent_tests::random::Random;
use netagent_tests::tap::Header;

use super::Scene;
use crate::surroundings::is_of_the_host;

/// A burst, and what is let through while it lasts, are less.
const FLOOD: u32 = 400;

/// Checks that none of these is answered, and that each is counted for this reason alone.
fn check_dropped(scene: &Scene, reason: &str, messages: &[Vec<u8>]) {
    let before = scene.agent.guest_drops("asks");
    for message in messages {
        scene.client().send_bytes(message);
    }
    scene.client().check_silence(0xfeed);
    let count = messages.len() as u64;
    let mut expected = before;
    *expected.entry(reason.to_owned()).or_default() += count;
    wait_until(reason, SOON, || scene.agent.guest_drops("asks") == expected);
}

/// A message cut or changed at one place.
fn spoilt(message: &Message, spoil: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = message.to_bytes();
    spoil(&mut bytes);
    bytes
}

#[test]
fn malformed_messages_are_dropped_and_counted() {
    let scene = Scene::plain();
    let discover = scene.client().question(kind::DISCOVER, 1);
    let no_kind = {
        let mut message = discover.clone();
        message.options.remove(&option::KIND);
        message
    };
    let relayed = {
        let mut message = discover.clone();
        message.addresses[3] = [192, 0, 2, 1];
        message
    };
    check_dropped(
        &scene,
        "malformed_dhcp",
        &[
            Vec::new(),
            vec![1, 1, 6, 0],
            spoilt(&discover, |bytes| bytes.truncate(239)),
            // An answer, another kind of hardware, another length of its address.
            spoilt(&discover, |bytes| bytes[0] = 2),
            spoilt(&discover, |bytes| bytes[1] = 6),
            spoilt(&discover, |bytes| bytes[2] = 16),
            // No cookie.
            spoilt(&discover, |bytes| bytes[236] = 0),
            // Options: one that runs over the end, a kind without a value, one that only a server sends.
            spoilt(&discover, |bytes| {
                let end = bytes.len() - 1;
                bytes.truncate(end);
                bytes.extend([61, 200, 1, 2, 3]);
            }),
            no_kind.clone().with(option::KIND, []).to_bytes(),
            no_kind.clone().with(option::KIND, [kind::OFFER]).to_bytes(),
            no_kind.clone().with(option::KIND, [99]).to_bytes(),
            no_kind.to_bytes(),
            relayed.to_bytes(),
        ],
    );
    let shown = scene.agent.say(&["inspect", "asks"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let counted = |line: &str| line.contains("malformed_dhcp") && line.ends_with("13");
    assert!(shown.lines().any(counted), "{shown}");
}

#[test]
fn what_is_meant_for_another_client_or_server_is_dropped_and_counted() {
    let scene = Scene::plain();
    let (client, nic) = (scene.client(), scene.nic());
    let mut foreign = client.question(kind::DISCOVER, 1);
    foreign.mac = [0xaa, 0xfc, 0, 0, 0, 2];
    let elsewhere = client
        .question(kind::REQUEST, 2)
        .with_address(option::WANTED, nic.v4)
        .with_address(option::SERVER, Ipv4Addr::new(192, 168, 1, 1));
    check_dropped(
        &scene,
        "foreign_dhcp",
        &[foreign.to_bytes(), elsewhere.to_bytes()],
    );
}

#[test]
fn a_flood_of_one_guest_is_counted_and_does_not_stop_another() {
    let scene = Scene::plain();
    let other = Guest::create(&scene.agent, &scene.world.host, "calm", Header::Vnet);
    let client = scene.client();
    let flood = || {
        for xid in 0..FLOOD {
            client.send(Way::NEW, &client.question(kind::DISCOVER, xid));
        }
    };
    flood();
    Client::new(other.nic()).take(1);
    flood();
    Client::new(other.nic()).take(3);
    let limited = scene.agent.drops("asks").get("service_limit").copied();
    assert!(limited > Some(u64::from(FLOOD)), "{limited:?}");
    assert_eq!(scene.agent.guest_drops("calm"), [].into());
    // What it is still allowed comes back with time.
    wait_until("the guest is answered again", SOON, || {
        client.send(Way::NEW, &client.question(kind::DISCOVER, 0xcafe));
        let frames = std::iter::from_fn(|| scene.nic().tap.receive_now());
        let mut answers = frames.filter_map(|frame| read_answer(&frame.completed()));
        answers.any(|answer| answer.message.xid == 0xcafe)
    });
}

#[test]
fn random_messages_are_not_answered_and_the_server_lives() {
    let scene = Scene::plain();
    let (client, mut random) = (scene.client(), Random::new(67));
    for round in 0..30 {
        let discover = client.question(kind::DISCOVER, round).to_bytes();
        let bytes = match random.below(3) {
            0 => {
                let length = random.below(600) as usize;
                random.bytes(length)
            }
            1 => {
                // Whatever options; the header is a client's.
                let length = random.below(300) as usize;
                [&discover[..240], &random.bytes(length)].concat()
            }
            _ => discover[..random.below(discover.len() as u32) as usize].to_vec(),
        };
        client.send_bytes(&bytes);
    }
    let shown = scene.agent.inspect("asks");
    assert_eq!(shown["status"], "running");
    let calm = Guest::create(&scene.agent, &scene.world.host, "calm", Header::Vnet);
    Client::new(calm.nic()).take(1);
}

#[test]
fn dhcp_elsewhere_or_from_another_port_is_not_served() {
    let scene = Scene::plain();
    let (client, nic) = (scene.client(), scene.nic());
    let discover = client.question(kind::DISCOVER, 1);
    // From another port, to the gateway and to everybody; to another address than the gateway's, as for DNS.
    let renewal = client.question(kind::REQUEST, 2).from(nic.v4).to_bytes();
    nic.tap
        .send_bytes(packet::udp(&nic.to(nic.gateway_v4), (1_068, 67), &renewal));
    let mut odd = client.frame(Way::NEW, &discover.to_bytes());
    odd[34..36].copy_from_slice(&1_068_u16.to_be_bytes());
    odd[40..42].fill(0);
    nic.tap.send_bytes(odd);
    client.check_silence(3);
    let drops = scene.agent.guest_drops("asks");
    assert_eq!(drops.values().sum::<u64>(), 2, "{drops:?}");
}

#[test]
fn questions_and_answers_reach_neither_another_guest_nor_the_world_nor_the_host() {
    let scene = Scene::plain();
    let other = Guest::create(&scene.agent, &scene.world.host, "victim", Header::Vnet);
    let wire = scene.world.wire();
    let before = crate::surroundings::received_by_stack(&scene.world.host);
    let everybody = scene.client().question(kind::DISCOVER, 1).broadcast();
    let answer = scene.client().ask(Way::NEW, &everybody);
    assert_eq!(answer.message.kind(), kind::OFFER);
    scene.client().take(2);
    let seen = crate::surroundings::received_by_stack(&scene.world.host);
    assert_eq!(seen, before, "the host's stack saw it");
    let reached = std::iter::from_fn(|| other.nic().tap.receive_now()).map(|frame| frame.bytes);
    let left = std::iter::from_fn(|| wire.receive_now()).map(|received| received.frame.bytes);
    for bytes in reached.chain(left) {
        // Advertisements to the other guest come from the same address as the host's own discovery.
        assert!(is_of_the_host(&bytes), "{}", hex(&bytes));
    }
}
