//! How much an instance may ask of the agent's servers.

use std::time::Duration;

use bytemuck::Zeroable;
use netagent_common::drop::DropReason;
use netagent_common::names::map;
use netagent_common::services::{Allowance, CONFIGURATION_PER_SECOND, DNS_PER_SECOND};
use netagent_common::vm::Traffic;
use netagent_tests::deadline;
use netagent_tests::packet::udp;
use netagent_tests::prog_run::verdict;
use netagent_tests::scene::{self, GATEWAY_V4, SLOT, Scene, to};

use crate::services::{PAYLOAD, dhcp, solicitation, to_all, to_routers};

const SECOND_NS: u64 = 1_000_000_000;
/// Longer than any test runs.
const LONG_NS: u64 = 3_600 * SECOND_NS;
/// What a DNS packet takes of the allowance.
const DNS_PRICE_NS: u64 = SECOND_NS / DNS_PER_SECOND;

fn allowance(scene: &mut Scene, slot: u32) -> Allowance {
    let allowances = scene.datapath.array::<Allowance>(map::ALLOWANCES);
    allowances.get(&slot, 0).unwrap()
}

fn set_allowance(scene: &mut Scene, slot: u32, allowance: Allowance) {
    let mut allowances = scene.datapath.array::<Allowance>(map::ALLOWANCES);
    allowances.set(slot, allowance, 0).unwrap();
}

/// The instance may ask nothing for a long time.
pub(crate) fn leave_nothing(scene: &mut Scene) {
    scene.from_vm(&query());
    let now = allowance(scene, SLOT).dns_ns;
    let nothing = Allowance {
        configuration_ns: now + LONG_NS,
        dns_ns: now + LONG_NS,
    };
    set_allowance(scene, SLOT, nothing);
}

/// The instance may ask as if it had not asked yet.
pub(crate) fn leave_everything(scene: &mut Scene) {
    set_allowance(scene, SLOT, Allowance::zeroed());
}

fn query() -> Vec<u8> {
    udp(&to(GATEWAY_V4), (4_000, 53), PAYLOAD)
}

fn dhcp_request() -> Vec<u8> {
    dhcp(&to_all(std::net::Ipv4Addr::UNSPECIFIED))
}

fn router_solicitation() -> Vec<u8> {
    solicitation(&to_routers(crate::services::LINK_LOCAL), &[])
}

fn passes(scene: &mut Scene, bytes: &[u8]) -> bool {
    scene.from_vm(bytes).verdict == verdict::REDIRECT
}

fn limited(scene: &mut Scene) -> u64 {
    let drops = scene.datapath.drops();
    assert!(
        drops
            .keys()
            .all(|(_, reason)| *reason == DropReason::ServiceLimit)
    );
    drops.values().sum()
}

/// What may have been allowed again meanwhile, and one that was on the way. The programs' clock moves by ticks, of
/// 10 ms at most.
fn regained(elapsed: Duration, per_second: u64) -> u64 {
    const TICK_NS: u64 = SECOND_NS / 100;
    (elapsed.as_nanos() as u64 + TICK_NS) * per_second / SECOND_NS + 1
}

#[test]
fn dhcp_and_router_solicitations_share_a_burst_and_then_a_trickle() {
    const SENT: u64 = 100;
    let mut scene = Scene::usual();
    let started = deadline::now();
    let mut passed = 0;
    for number in 0..SENT {
        let frame = if number % 2 == 0 {
            dhcp_request()
        } else {
            router_solicitation()
        };
        passed += u64::from(passes(&mut scene, &frame));
    }
    let most = 2 * CONFIGURATION_PER_SECOND + regained(started.elapsed(), CONFIGURATION_PER_SECOND);
    let burst = 2 * CONFIGURATION_PER_SECOND;
    assert!(
        (burst..=most).contains(&passed),
        "{passed} of at most {most}"
    );
    assert_eq!(limited(&mut scene), SENT - passed);
    assert!(
        passes(&mut scene, &query()),
        "DNS has an allowance of its own"
    );
}

/// Leaves this many DNS packets of the allowance.
fn leave(scene: &mut Scene, packets: u64) {
    assert!(passes(scene, &query()));
    let mut allowance = allowance(scene, SLOT);
    allowance.dns_ns += (DNS_PER_SECOND - 1 - packets) * DNS_PRICE_NS;
    set_allowance(scene, SLOT, allowance);
}

#[test]
fn queries_pass_until_the_allowance_is_used_up() {
    const LEFT: u64 = 50;
    const MANY: u32 = 200_000;
    let mut scene = Scene::usual();
    let started = deadline::now();
    leave(&mut scene, LEFT);
    let mut passed = 0;
    let refused = (0..MANY).find(|_| {
        let one_more = passes(&mut scene, &query());
        passed += u64::from(one_more);
        !one_more
    });
    assert!(refused.is_some(), "{MANY} queries pass");
    let most = LEFT + regained(started.elapsed(), DNS_PER_SECOND);
    assert!(
        (LEFT..=most).contains(&passed),
        "{passed} of at most {most}"
    );
    assert_eq!(limited(&mut scene), 1);
    assert!(
        passes(&mut scene, &dhcp_request()),
        "configuration has an allowance of its own"
    );
}

#[test]
fn a_super_frame_of_queries_is_paid_by_its_segments() {
    let mut scene = Scene::usual();
    let question = udp(&to(GATEWAY_V4), (4_000, 53), &[7; 1_000]);
    assert!(passes(&mut scene, &query()));
    let before = allowance(&mut scene, SLOT).dns_ns;
    let outcome = scene.super_frame_from_vm(&question, 10);
    assert_eq!(
        outcome.verdict,
        verdict::REDIRECT,
        "{:?}",
        scene.datapath.drops()
    );
    let paid = allowance(&mut scene, SLOT).dns_ns - before;
    assert!(
        paid >= 100 * DNS_PRICE_NS,
        "{paid} ns for a hundred datagrams"
    );

    // What does not fit is refused whole, and costs nothing.
    leave_nothing(&mut scene);
    let before = allowance(&mut scene, SLOT).dns_ns;
    assert_eq!(
        scene.super_frame_from_vm(&question, 10).verdict,
        verdict::DROP
    );
    assert_eq!(allowance(&mut scene, SLOT).dns_ns, before);
}

#[test]
fn one_instance_that_asks_too_much_takes_nothing_from_another() {
    let mut scene = Scene::usual();
    scene.add_other(scene::record());
    leave_nothing(&mut scene);
    for frame in [query(), dhcp_request(), router_solicitation()] {
        assert!(!passes(&mut scene, &frame));
        let other = scene.from_other(&frame);
        assert_eq!(other.verdict, verdict::REDIRECT);
    }
}

#[test]
fn requests_are_counted_as_traffic_and_refused_ones_are_not() {
    let mut scene = Scene::usual();
    let sent = [query(), dhcp_request(), router_solicitation()];
    let length: usize = sent.iter().map(Vec::len).sum();
    for frame in &sent {
        assert!(passes(&mut scene, frame));
    }
    leave_nothing(&mut scene);
    for frame in &sent {
        assert!(!passes(&mut scene, frame));
    }
    let cpus = scene.datapath.per_cpu::<Traffic>(map::TRAFFIC, SLOT);
    let packets: u64 = cpus.iter().map(|cpu| cpu.from_vm_packets).sum();
    let bytes: u64 = cpus.iter().map(|cpu| cpu.from_vm_bytes).sum();
    // `leave_nothing` asks once.
    assert_eq!((packets, bytes), (4, (length + query().len()) as u64));
}
