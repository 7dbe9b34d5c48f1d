//! Which addresses are the guest's own, by what its record says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netagent_common::drop::DropReason;
use netagent_common::vm::{EXACT_ADDRESS, Interface, WHOLE_NETWORK};
use netagent_tests::neighbour;
use netagent_tests::packet::{Ends, echo_request, udp};
use netagent_tests::prog_run::{Sizes, verdict};
use netagent_tests::scene::{self, GUEST_MAC, GUEST_V6, REMOTE_V4, REMOTE_V6, SLOT, Scene, to};

/// The same network as the guest's own address.
const NEIGHBOUR_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xa, 0xb, SLOT as u16, 0, 0, 0, 3);
const SECOND_V4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 5);
const SECOND_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 1, 0, 0, 0, 5);
const BESIDE_SECOND_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 1, 0, 0, 0, 6);

fn scene(change: impl FnOnce(&mut Interface)) -> Scene {
    let mut record = scene::record();
    change(&mut record);
    Scene::new(Sizes::default(), &record)
}

/// Sends a datagram from `source` and checks that it passes, or is refused as spoofed.
fn check(scene: &mut Scene, source: impl Into<IpAddr>, own: bool) {
    let source = source.into();
    let remote: IpAddr = if source.is_ipv4() {
        REMOTE_V4.into()
    } else {
        REMOTE_V6.into()
    };
    let before = spoofed(scene);
    let outcome = scene.from_vm(&udp(&to(remote).from(source), (4_000, 53), b"question"));
    let expected = if own {
        (verdict::REDIRECT, before)
    } else {
        (verdict::DROP, before + 1)
    };
    assert_eq!((outcome.verdict, spoofed(scene)), expected, "from {source}");
}

fn spoofed(scene: &mut Scene) -> u64 {
    let drops = scene.datapath.drops();
    drops
        .get(&(SLOT, DropReason::SpoofedAddress))
        .copied()
        .unwrap_or(0)
}

#[test]
fn a_pool_interface_may_use_all_of_its_network() {
    let mut scene = scene(|_| {});
    check(&mut scene, GUEST_V6, true);
    check(&mut scene, NEIGHBOUR_V6, true);
}

#[test]
fn a_custom_interface_may_use_its_own_address_alone() {
    let mut scene = scene(|record| record.prefixes_v6[0] = EXACT_ADDRESS);
    check(&mut scene, GUEST_V6, true);
    check(&mut scene, NEIGHBOUR_V6, false);
    let gateway = scene::gateway_v6();
    let own = scene.from_vm(&neighbour::solicitation(GUEST_MAC, GUEST_V6, gateway));
    assert_eq!(own.verdict, verdict::REDIRECT);
    let ask_as_neighbour = neighbour::solicitation(GUEST_MAC, NEIGHBOUR_V6, gateway);
    let claim = neighbour::advertisement(&to(gateway), NEIGHBOUR_V6, GUEST_MAC);
    for (count, frame) in (1..).zip([ask_as_neighbour, claim]) {
        assert_eq!(scene.from_vm(&frame).verdict, verdict::DROP);
        let drops = scene.datapath.drops();
        assert_eq!(drops[&(SLOT, DropReason::SpoofedNeighbour)], count);
    }
}

#[test]
fn the_addresses_of_other_interfaces_count_each_by_its_own_prefix() {
    let mut scene = scene(|record| {
        record.addresses = 4;
        record.addresses_v4[3] = SECOND_V4.octets();
        record.addresses_v6[3] = SECOND_V6.octets();
        record.prefixes_v6[3] = EXACT_ADDRESS;
    });
    check(&mut scene, GUEST_V6, true);
    check(&mut scene, SECOND_V4, true);
    check(&mut scene, SECOND_V6, true);
    check(&mut scene, BESIDE_SECOND_V6, false);
    // The entries between them are empty.
    check(&mut scene, Ipv6Addr::UNSPECIFIED, false);
    check(&mut scene, Ipv6Addr::new(0, 0, 0, 0, 1, 2, 3, 4), false);
}

#[test]
fn what_stands_behind_the_entries_in_use_is_no_address_of_the_guest() {
    let mut scene = scene(|record| {
        record.addresses_v4[1] = SECOND_V4.octets();
        record.addresses_v6[1] = SECOND_V6.octets();
    });
    check(&mut scene, SECOND_V4, false);
    check(&mut scene, SECOND_V6, false);
    check(&mut scene, Ipv4Addr::UNSPECIFIED, false);
}

#[test]
fn a_record_without_addresses_matches_nothing() {
    let mut scene = scene(|record| {
        record.addresses = 0;
        record.addresses_v4 = [[0; 4]; 4];
        record.has_v6 = 0;
        record.addresses_v6 = [[0; 16]; 4];
        record.prefixes_v6 = [0; 4];
    });
    for source in [Ipv4Addr::UNSPECIFIED, scene::GUEST_V4] {
        check(&mut scene, source, false);
    }
    for source in [Ipv6Addr::UNSPECIFIED, GUEST_V6, Ipv6Addr::LOCALHOST] {
        check(&mut scene, source, false);
    }
}

#[test]
fn an_interface_without_ipv6_uses_none_even_where_the_instance_has_some() {
    let mut scene = scene(|record| {
        record.has_v6 = 0;
        record.prefixes_v6 = [0, WHOLE_NETWORK, 0, 0];
        record.addresses_v6[1] = SECOND_V6.octets();
    });
    check(&mut scene, SECOND_V6, false);
    check(&mut scene, GUEST_V6, false);
    let gateway = scene::gateway_v6();
    let asked = scene.from_vm(&neighbour::solicitation(GUEST_MAC, SECOND_V6, gateway));
    assert_eq!(asked.verdict, verdict::DROP);
    let unspecified = Ends {
        ttl: 64,
        ..to(gateway).reversed().to(IpAddr::V6(Ipv6Addr::UNSPECIFIED))
    };
    let ping = scene.from_host(&echo_request(&unspecified, (5, 1), b"hello"));
    assert_eq!(ping.verdict, verdict::DROP, "the guest is not at `::`");
    assert_eq!(scene.open_flows(), 0);
}
