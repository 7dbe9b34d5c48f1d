//! Compiled policies: written before a record names them, removed when none does.

use std::sync::Arc;

use netagent_common::policy::{PolicyId, Verdict};

use super::*;
use crate::policy::Compiled;

/// A policy whose name begins with this byte.
pub(super) fn policy(number: u8) -> Arc<Compiled> {
    let everywhere = |prefix: &str| (prefix.parse().unwrap(), Verdict::Default);
    let v4 = [
        everywhere("0.0.0.0/0"),
        ("10.0.0.0/8".parse().unwrap(), Verdict::Denied),
    ];
    Arc::new(Compiled {
        id: id(number),
        v4: v4.into(),
        v6: [("::/0".parse().unwrap(), Verdict::Default)].into(),
    })
}

fn id(number: u8) -> PolicyId {
    let mut id = [0; 16];
    id[0] = number;
    id
}

/// Instances, each with one interface in the slot that is its number, and their policies.
fn with(policies: &[(u32, u8)]) -> Wanted {
    let order: Vec<_> = policies.iter().map(|(slot, _)| (*slot, 0, true)).collect();
    let mut wanted = wanted(&order);
    for interface in wanted.interfaces.values_mut() {
        let record = &mut interface.record;
        let mut found = policies.iter();
        let (_, number) = found.find(|(slot, _)| *slot == record.slot).unwrap();
        record.policy = id(*number);
        wanted.policies.insert(record.policy, policy(*number));
    }
    wanted
}

fn there(host: &FakeHost) -> Vec<u8> {
    let state = host.state();
    let datapath = state.observed.datapath.as_ref().unwrap();
    datapath.policies.iter().map(|id| id[0]).collect()
}

/// From one set of policies to another, every fault on the way is survived.
fn check(before: &[(u32, u8)], after: &[(u32, u8)]) {
    let prepare = || {
        let host = host();
        converge(&with(before), &host);
        host
    };
    let after = with(after);
    let count = plan_of(&after, &prepare()).steps().count();
    for fault in 0..=count {
        let host = prepare();
        host.state().until_fault = Some(fault);
        apply(&plan_of(&after, &host), &host);
        host.state().until_fault = None;
        converge(&after, &host);
        let expected: Vec<u8> = after.policies.keys().map(|id| id[0]).collect();
        assert_eq!(there(&host), expected, "fault {fault}");
    }
}

#[test]
fn a_policy_is_replaced_by_one_that_is_there_before_the_record_names_it() {
    let host = host();
    converge(&with(&[(0, 1)]), &host);
    let expected = [
        "write policy 02000000 (1 networks)",
        "write interface record 0 (device 65536, generation 1)",
        "remove policy 01000000",
    ];
    let wanted = with(&[(0, 2)]);
    assert_eq!(texts(&plan_of(&wanted, &host)), expected);
    // A request sees its own instance alone, and leaves nothing behind either.
    let start = plan_start(&wanted, &host.state().observed);
    assert_eq!(texts(&start), expected);
    check(&[(0, 1)], &[(0, 2)]);
}

#[test]
fn a_policy_that_instances_share_is_written_once_and_goes_with_the_last() {
    check(&[(0, 1), (1, 1)], &[(0, 2), (1, 1)]);
    check(&[(0, 1), (1, 1)], &[(0, 2), (1, 2)]);
    check(&[(0, 1), (1, 2)], &[(0, 2), (1, 1)]);
    check(&[(0, 1), (1, 1)], &[(1, 1)]);
    check(&[(0, 1), (1, 1)], &[]);
    let host = host();
    converge(&with(&[(0, 1), (1, 1)]), &host);
    let writes = |step: &&Step| matches!(step, Step::WritePolicy { .. });
    assert_eq!(host.state().applied.iter().filter(writes).count(), 2);
    let steps = texts(&plan_of(&with(&[(0, 1), (1, 2)]), &host));
    assert_eq!(steps.len(), 2, "{steps:?}");
}

#[test]
fn an_instance_without_policy_has_none_and_none_is_removed_for_it() {
    let host = host();
    converge(&wanted(&[(0, 0, true)]), &host);
    assert!(there(&host).is_empty());
    converge(&with(&[(0, 1)]), &host);
    converge(&wanted(&[(0, 0, true)]), &host);
    assert!(there(&host).is_empty());
}

#[test]
fn where_a_record_cannot_be_rewritten_its_policy_stays() {
    let host = host();
    converge(&with(&[(0, 1), (1, 1)]), &host);
    host.state().refuse = Some("write interface record 0");
    let wanted = with(&[(0, 2), (1, 2)]);
    apply(&plan_of(&wanted, &host), &host);
    assert_eq!(there(&host), [1, 2]);
    // What became of a device keeps no policy from its record.
    host.state().refuse = None;
    let mut state = host.state();
    state.observed.links.get_mut(&65_536).unwrap().name = "other".into();
    drop(state);
    let plan = plan_of(&wanted, &host);
    let steps = [
        "write interface record 0 (device 65536, generation 1)",
        "remove policy 01000000",
    ];
    assert_eq!(
        (texts(&plan), plan.problems.len()),
        (steps.map(str::to_owned).to_vec(), 1)
    );
}

#[test]
fn a_policy_that_vanished_is_written_again_and_nothing_else() {
    let host = host();
    let wanted = with(&[(0, 1)]);
    converge(&wanted, &host);
    let mut state = host.state();
    state.observed.datapath.as_mut().unwrap().policies.clear();
    drop(state);
    let expected = ["write policy 01000000 (1 networks)"];
    assert_eq!(texts(&plan_of(&wanted, &host)), expected);
    converge(&wanted, &host);
}

#[test]
fn what_is_there_for_one_family_alone_is_completed_where_it_is_wanted_and_else_removed() {
    let host = host();
    converge(&with(&[(0, 1)]), &host);
    let mut state = host.state();
    let datapath = state.observed.datapath.as_mut().unwrap();
    datapath.half_policies = [id(2), id(3)].into();
    drop(state);
    let wanted = with(&[(0, 2)]);
    let expected = [
        "write policy 02000000 (1 networks)",
        "write interface record 0 (device 65536, generation 1)",
        "remove policy 01000000",
        "remove policy 03000000",
    ];
    assert_eq!(texts(&plan_of(&wanted, &host)), expected);
    converge(&wanted, &host);
}

#[test]
fn an_instance_that_stops_leaves_no_policy_and_another_its_own() {
    let host = host();
    converge(&with(&[(0, 1), (1, 1), (2, 2)]), &host);
    let stop = |slots: &[u32]| {
        let taps = slots.iter().map(|slot| interface(*slot, 0, true).1.tap);
        let aliases = taps.map(|tap| tap.alias).collect();
        let slots = slots.iter().copied().collect();
        let observed = host.state().observed.clone();
        apply(&plan_stop(&aliases, &slots, &Lent::new(), &observed), &host);
    };
    stop(&[0, 2]);
    assert_eq!(there(&host), [1]);
    assert!(plan_of(&with(&[(1, 1)]), &host).is_empty());
    stop(&[1]);
    assert!(there(&host).is_empty());
}
