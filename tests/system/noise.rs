//! Thousands of random and half-random frames: whatever leaves is the guest's own, and nothing else moves.

use std::net::IpAddr;

use netagent_tests::deadline::{Deadline, SOON};
use netagent_tests::frame::{Frame, VnetHeader};
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::neighbour::{self, Claim};
use netagent_tests::packet::{self, Packet, hex};
use netagent_tests::random::Random;
use netagent_tests::tap::Header;
use netagent_tests::world::{HOST_V4, HOST_V6, SILENT, World};

use crate::surroundings::{is_of_the_host, received_by_stack};

const FRAMES: u32 = 10_000;
/// The wire is read after so many frames, so that nothing of it is lost.
const BATCH: u32 = 500;

/// A frame: random bytes, or something valid with a few bytes spoilt, tags, odd lengths and odd virtio headers.
fn frame(random: &mut Random, nic: &Nic, victim: &Nic) -> Frame {
    let addresses = [
        SILENT[0],
        SILENT[1],
        victim.v4.into(),
        victim.v6.into(),
        HOST_V4.into(),
        HOST_V6.into(),
    ];
    let ends = nic.to(addresses[random.below(addresses.len() as u32) as usize]);
    let mut bytes = match random.below(7) {
        0 => {
            let length = 14 + random.below(1_486) as usize;
            random.bytes(length)
        }
        1 => packet::tcp(
            &ends,
            packet::Segment {
                src_port: 1,
                dst_port: 2,
                ..packet::Segment::default()
            },
            b"",
        ),
        2 => packet::echo_request(&ends, (1, 1), b"x"),
        3 => neighbour::arp_request(
            Claim {
                mac: nic.mac,
                ip: nic.v4,
            },
            victim.v4,
        ),
        4 => neighbour::solicitation(nic.mac, nic.v6, victim.v6),
        5 => packet::tagged(
            &packet::udp(&ends, (1, 2), b"tagged"),
            0x8100,
            random.next() as u16,
        ),
        _ => packet::udp(&ends, (1, 2), b"datagram"),
    };
    for _ in 0..random.below(4) {
        let at = random.below(bytes.len() as u32) as usize;
        bytes[at] = random.next() as u8;
    }
    if random.chance(4) {
        bytes.truncate(14 + random.below(bytes.len() as u32 - 13) as usize);
    }
    let mut frame = Frame::plain(bytes);
    if random.chance(5) {
        let header = random.bytes(10);
        frame.vnet = VnetHeader::from_bytes(&header.try_into().unwrap());
    }
    frame
}

/// Checks what is on the wire up to the sentinel.
fn check_wire(wire: &netagent_tests::raw::Raw, uplink_mac: [u8; 6]) -> u32 {
    let own: [IpAddr; 2] = [HOST_V4.into(), HOST_V6.into()];
    let mut count = 0;
    loop {
        let received = wire
            .receive(Deadline::after(SOON))
            .expect("the sentinel arrives");
        let bytes = &received.frame.bytes;
        let packet = Packet::parse(bytes);
        if packet
            .as_ref()
            .is_some_and(|packet| packet.payload == b"sentinel")
        {
            return count;
        }
        if is_of_the_host(bytes) {
            continue;
        }
        count += 1;
        assert_eq!(received.vlan, None, "a tag leaks: {}", hex(bytes));
        let packet = packet.unwrap_or_else(|| panic!("garbage leaks: {}", hex(bytes)));
        assert!(
            own.contains(&packet.ends.src),
            "a source leaks: {}",
            hex(bytes)
        );
        assert_eq!(packet.ends.src_mac, uplink_mac, "{}", hex(bytes));
    }
}

#[test]
fn random_frames_reach_neither_world_nor_host_nor_another_guest() {
    let world = World::new();
    world.host.sysctl("net/ipv4/ip_forward", "1");
    world.host.sysctl("net/ipv6/conf/all/forwarding", "1");
    let agent = world.agent("");
    let guest = Guest::create(&agent, &world.host, "noisy", Header::Vnet);
    let victim = Guest::create(&agent, &world.host, "victim", Header::Vnet);
    let wire = world.wire();
    let uplink_mac = world.uplink_mac();
    let seen_by_host = received_by_stack(&world.host);
    let mut random = Random::new(7);
    let (mut refused, mut left) = (0, 0);
    for number in 0..FRAMES {
        // The kernel refuses impossible virtio headers before any program sees them.
        let frame = frame(&mut random, guest.nic(), victim.nic());
        refused += u32::from(guest.nic().tap.try_send(&frame).is_err());
        if number % BATCH == BATCH - 1 {
            let ends = guest.nic().to(SILENT[0]);
            guest
                .nic()
                .tap
                .send_bytes(packet::udp(&ends, (9, 9), b"sentinel"));
            left += check_wire(&wire, uplink_mac);
            while guest.nic().tap.receive_now().is_some() {}
        }
    }
    assert_eq!(
        received_by_stack(&world.host),
        seen_by_host,
        "the host's stack saw some of it"
    );
    while let Some(frame) = victim.nic().tap.receive_now() {
        assert!(
            is_of_the_host(&frame.bytes),
            "another guest saw {}",
            hex(&frame.bytes)
        );
    }
    let dropped: u64 = agent.drops("noisy").values().sum();
    assert!(
        dropped > u64::from(FRAMES / 2),
        "{dropped} counted, {refused} refused, {left} left"
    );
    assert!(left > 0, "valid ones leave");
    assert!(agent.drops("noisy").len() > 8, "{:?}", agent.drops("noisy"));
}
