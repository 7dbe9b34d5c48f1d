//! Another build of the agent takes over under load (S-3): its programs replace those of the one before where they run,
//! and no packet is lost.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use netagent_tests::agent::{Agent, binary};
use netagent_tests::deadline::wait_until;
use netagent_tests::guest::Guest;
use netagent_tests::numbered::Numbered;
use netagent_tests::rebuilt::{programs, rebuild};
use netagent_tests::stack::Stack;
use netagent_tests::tap::Header;
use netagent_tests::world::{UPLINK, World, server_v4};

/// Datagrams a second in each direction.
const RATE: u32 = 2_000;
/// Datagrams between two steps, of both directions.
const BETWEEN: u64 = 500;
/// Time in which they are sent, on a machine that has other work.
const PATIENCE: Duration = Duration::from_secs(30);

/// Lets traffic meet what is there now.
fn go_on(traffic: &Numbered) {
    let before = traffic.sent();
    let is_met = || traffic.sent() >= before + BETWEEN;
    wait_until("the traffic goes on", PATIENCE, is_met);
}

#[test]
fn another_build_replaces_the_programs_under_load_without_losing_a_packet() {
    let world = World::new();
    let mut agent = world.agent("");
    let other = rebuild(agent.directory());
    let mut guest = Guest::create(&agent, &world.host, "busy", Header::Vnet);
    let tap_name = guest.nic().tap_name.clone();
    let stack = Stack::boot(guest.nics.remove(0), 1_500);
    let server = SocketAddr::new(IpAddr::V4(server_v4(0)), 9_000);
    let traffic = Numbered::start(&stack.netns, (&world.outside, server), RATE);
    let attached = || [UPLINK, &tap_name].map(|device| programs(&world.host, device));
    let ends: [fn(&mut Agent); 2] = [Agent::stop, Agent::kill9];
    for (next, end) in [&other, &binary(), &other]
        .into_iter()
        .zip(ends.iter().cycle())
    {
        go_on(&traffic);
        let before = attached();
        end(&mut agent);
        assert_eq!(attached(), before, "they outlive the agent");
        go_on(&traffic);
        agent.replace_binary(next);
        agent.run();
        go_on(&traffic);
        for (before, after) in before.iter().zip(&attached()) {
            assert_eq!(before.len(), after.len(), "as many programs");
            assert!(!before.is_empty(), "there are programs");
            for ((old, old_tag), (new, new_tag)) in before.iter().zip(after) {
                assert_ne!(old, new, "another program");
                assert_ne!(old_tag, new_tag, "with other instructions");
            }
        }
    }
    for outcome in traffic.finish() {
        assert_eq!((outcome.lost, outcome.twice), (0, 0), "{outcome:?}");
    }
    assert_eq!(world.host.not_sent(&tap_name), 0, "the guest had room");
}
