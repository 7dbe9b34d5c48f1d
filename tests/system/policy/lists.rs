//! What the three policies and their lists let a guest open (P-1, P-2, P-3).

use std::net::IpAddr;

use netagent_tests::world::{World, server_v4, server_v6};
use serde_json::json;

use super::site::{ALLOW_ALL, DENY_ALL, Fate, boot, check_fate, drops, put, serve, told};
use Fate::{Answered, Refused};

/// Policy, why it drops what it refuses, and the fate of what is sent to the first and the second server, first over IPv4,
/// then over IPv6.
type Case = (&'static str, &'static str, [Fate; 4]);

const CASES: &[Case] = &[
    (ALLOW_ALL, "", [Answered; 4]),
    (DENY_ALL, "deny_all", [Refused; 4]),
    ("{}", "", [Answered; 4]),
    (r#"{"denied_cidrs": []}"#, "", [Answered; 4]),
    (r#"{"allowed_cidrs": []}"#, "not_allowed", [Refused; 4]),
    (
        r#"{"allowed_cidrs": ["203.0.113.1/32", "2001:db8:200::1/128"]}"#,
        "not_allowed",
        [Answered, Refused, Answered, Refused],
    ),
    // The other family has no entry, and nothing is allowed there.
    (
        r#"{"allowed_cidrs": ["203.0.113.0/24"]}"#,
        "not_allowed",
        [Answered, Answered, Refused, Refused],
    ),
    (
        r#"{"allowed_cidrs": ["::/0"]}"#,
        "not_allowed",
        [Refused, Refused, Answered, Answered],
    ),
    (
        r#"{"denied_cidrs": ["203.0.113.2/32", "2001:db8:200::/64"]}"#,
        "denied_cidr",
        [Answered, Refused, Refused, Refused],
    ),
    // A denied network beats every allowed one: a longer one, an equal one, and a shorter one.
    (
        r#"{"allowed_cidrs": ["203.0.113.1/32", "2001:db8:200::1/128"], "denied_cidrs": ["203.0.113.0/24", "2001:db8::/32"]}"#,
        "",
        [Refused; 4],
    ),
    (
        r#"{"allowed_cidrs": ["203.0.113.1/32", "::/0"], "denied_cidrs": ["203.0.113.1/32", "::/0"]}"#,
        "",
        [Refused; 4],
    ),
    (
        r#"{"allowed_cidrs": ["0.0.0.0/0", "::/0"], "denied_cidrs": ["203.0.113.2/32", "2001:db8:200::2/128"]}"#,
        "denied_cidr",
        [Answered, Refused, Answered, Refused],
    ),
    // Duplicates, overlaps, and bits behind the prefix.
    (
        r#"{"network_policy": "custom", "allowed_cidrs": ["203.0.113.1/32", "203.0.113.1/32", "203.0.113.7/24", "2001:db8:200::9/64"],
            "denied_cidrs": ["203.0.113.2/32", "203.0.113.3/31", "203.0.113.2/31", "203.0.113.2/32"]}"#,
        "denied_cidr",
        [Answered, Refused, Answered, Answered],
    ),
];

#[test]
fn p1_p2_p3_every_policy_lets_a_guest_open_what_it_says_and_nothing_else() {
    let world = World::new();
    let agent = world.agent("");
    let servers: [IpAddr; 4] = [
        server_v4(0).into(),
        server_v4(1).into(),
        server_v6(0).into(),
        server_v6(1).into(),
    ];
    let _servers = serve(&world.outside, &servers);
    // They take turns: one alone would be refused more in a moment than the datapath tells an interface.
    let guests = ["a", "b", "c", "d"].map(|name| {
        let stack = boot(&world, &agent, &told(json!({ "name": name })));
        (name, stack)
    });
    for ((policy, reason, fates), (name, stack)) in CASES.iter().zip(guests.iter().cycle()) {
        put(&agent, name, policy);
        let before = drops(&agent, name, reason);
        for (server, fate) in servers.into_iter().zip(*fates) {
            check_fate(&stack.netns, server, fate);
        }
        let refused = fates.iter().filter(|fate| **fate == Refused).count() as u64;
        if !reason.is_empty() {
            // TCP, UDP and echo of each.
            let dropped = drops(&agent, name, reason) - before;
            assert_eq!(dropped, 3 * refused, "{policy}: {reason}");
        }
    }
}

#[test]
fn a_policy_that_is_given_at_create_holds_from_the_first_packet() {
    let world = World::new();
    let agent = world.agent("");
    let servers: [IpAddr; 2] = [server_v4(0).into(), server_v4(1).into()];
    let _servers = serve(&world.outside, &servers);
    let stack = boot(
        &world,
        &agent,
        &json!({ "name": "a", "allowed_cidrs": ["203.0.113.1/32"] }),
    );
    check_fate(&stack.netns, servers[1], Refused);
    check_fate(&stack.netns, servers[0], Answered);
    let closed = json!({ "name": "b", "network_policy": "deny-all" });
    let closed = boot(&world, &agent, &told(closed));
    check_fate(&closed.netns, servers[0], Refused);
}
