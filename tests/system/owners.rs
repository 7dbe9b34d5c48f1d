//! Who may open a TAP: its user, its group, or nobody but root.

use netagent_tests::agent::Agent;
use netagent_tests::tap::Tap;
use netagent_tests::world::World;
use serde_json::{Value, json};

/// Users and groups that no other test speaks of; nobody needs to have them.
const USER: u32 = 64_001;
const GROUP: u32 = 64_002;
const STRANGER: u32 = 64_003;

/// User and group.
type Principal = (u32, u32);

/// Creates an instance with this interface, and asks who may open its TAP.
fn check(interface: &Value, may: &[Principal], may_not: &[Principal]) {
    let world = World::new();
    let agent: Agent = world.agent("");
    let answer = agent.create(&json!({ "network_interfaces": [interface] }));
    let name = answer["network_interfaces"][0]["tap_name"].as_str();
    let name = name.expect("the TAP has a name");
    let allowed = |principal: &&Principal| Tap::may_open(&world.host, name, **principal);
    let opened: Vec<_> = may.iter().chain(may_not).filter(allowed).collect();
    assert_eq!(opened, Vec::from_iter(may), "{interface}");
    // Root opens it all the same, as jailers do.
    assert!(Tap::may_open(&world.host, name, (0, 0)), "{interface}");
}

#[test]
fn a_tap_with_an_owner_alone_is_opened_by_that_user_in_any_group() {
    check(
        &json!({ "tap_owner": USER }),
        &[(USER, GROUP), (USER, STRANGER)],
        &[(STRANGER, GROUP), (STRANGER, 0), (GROUP, USER)],
    );
}

#[test]
fn a_tap_with_a_group_alone_is_opened_by_any_user_in_that_group() {
    check(
        &json!({ "tap_group": GROUP }),
        &[(USER, GROUP), (STRANGER, GROUP)],
        &[(USER, STRANGER), (USER, 0), (GROUP, USER)],
    );
}

#[test]
fn a_tap_with_both_is_opened_by_that_user_in_that_group_alone() {
    check(
        &json!({ "tap_owner": USER, "tap_group": GROUP }),
        &[(USER, GROUP)],
        &[(USER, STRANGER), (STRANGER, GROUP), (USER, 0)],
    );
}

#[test]
fn a_tap_with_neither_is_opened_by_root_alone() {
    check(
        &json!({}),
        &[],
        &[(USER, GROUP), (STRANGER, STRANGER), (USER, 0)],
    );
}
