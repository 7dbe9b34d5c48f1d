//! Random and half-random frames: whatever the guest sends, nothing leaves but well-formed packets of its own.

use netagent_common::names::{FROM_UPLINK, FROM_VM};
use netagent_common::net::{GATEWAY_MAC, ethertype};
use netagent_tests::packet::{self, Packet, hex};
use netagent_tests::prog_run::verdict;
use netagent_tests::random::Random;
use netagent_tests::scene::{self, GUEST_MAC, REMOTE_V4, REMOTE_V6, Scene, to};

const FRAMES: u32 = 20_000;

/// A valid frame of some kind.
fn seed_frame(random: &mut Random) -> Vec<u8> {
    let remote = if random.chance(2) {
        REMOTE_V4.into()
    } else {
        std::net::IpAddr::V6(REMOTE_V6)
    };
    let ends = to(remote);
    match random.below(4) {
        0 => packet::udp(&ends, (4_000, 53), &[0; 32]),
        1 => packet::tcp(
            &ends,
            packet::Segment {
                src_port: 4_001,
                dst_port: 80,
                ..packet::Segment::default()
            },
            b"",
        ),
        2 => packet::echo_request(&ends, (7, 1), &[0; 32]),
        _ => {
            let kind = if random.chance(2) {
                ethertype::IPV4
            } else {
                ethertype::IPV6
            };
            packet::ethernet(GATEWAY_MAC, GUEST_MAC, kind, &[0; 60])
        }
    }
}

/// Spoils up to four bytes, and sometimes cuts the frame.
fn spoiled(random: &mut Random) -> Vec<u8> {
    let mut bytes = seed_frame(random);
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len() as u32) as usize;
        bytes[at] = random.next() as u8;
    }
    if random.chance(3) {
        bytes.truncate(14 + random.below(bytes.len() as u32 - 14) as usize);
    }
    bytes
}

#[test]
fn nothing_leaves_but_packets_of_the_guests_own_flows() {
    let mut scene = Scene::usual();
    let mut random = Random::new(2);
    let (mut refused, mut redirected) = (0, 0);
    for number in 0..FRAMES {
        let bytes = spoiled(&mut random);
        let outcome = scene.datapath.try_run(FROM_VM, &bytes, scene::FROM_VM);
        let Some(outcome) = outcome else {
            refused += 1;
            continue;
        };
        if outcome.verdict == verdict::DROP {
            continue;
        }
        assert_eq!(
            outcome.verdict,
            verdict::REDIRECT,
            "frame {number} reaches the host: {}",
            hex(&bytes)
        );
        redirected += 1;
        let packet = Packet::parse(&outcome.bytes);
        let packet =
            packet.unwrap_or_else(|| panic!("frame {number} leaves as {}", hex(&outcome.bytes)));
        let own = [std::net::IpAddr::V4(scene::HOST_V4), scene::HOST_V6.into()];
        let is_answer = packet.ends.dst_mac == GUEST_MAC;
        assert!(
            is_answer || own.contains(&packet.ends.src),
            "frame {number} leaves as {}",
            hex(&outcome.bytes)
        );
    }
    assert!(
        redirected > 0,
        "some frames were spoilt in their payload alone"
    );
    let dropped: u64 = scene.datapath.drops().values().sum();
    assert_eq!(
        dropped + redirected + refused,
        u64::from(FRAMES),
        "every drop is counted once"
    );
}

#[test]
fn garbage_on_the_uplink_is_left_to_the_host() {
    let mut scene = Scene::usual();
    let mut random = Random::new(3);
    for _ in 0..FRAMES {
        let length = 14 + random.below(120) as usize;
        let bytes: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        let outcome = scene
            .datapath
            .try_run(FROM_UPLINK, &bytes, scene::FROM_UPLINK);
        let Some(outcome) = outcome else { continue };
        assert_eq!(
            (outcome.verdict, &outcome.bytes),
            (verdict::NEXT, &bytes),
            "{}",
            hex(&bytes)
        );
    }
}
