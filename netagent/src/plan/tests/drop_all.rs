//! `drop_all` on TAPs: on last, off when the record allows, and gone with its TAP.

use super::*;

const ATTACH: &str = "attach drop_all to tap0 (65536)";
const DETACH: &str = "detach drop_all from device 65536";
const WRITE: &str = "write interface record 0 (device 65536, generation 1)";

/// One instance; its record has these flags.
fn one(policy_flags: u32, drop_all: bool) -> Wanted {
    let mut wanted = wanted(&[(0, 0, true)]);
    for interface in wanted.interfaces.values_mut() {
        interface.record.policy_flags = policy_flags;
        interface.drop_all = drop_all;
    }
    wanted
}

fn dropping(host: &FakeHost) -> BTreeSet<u32> {
    let state = host.state();
    state.observed.datapath.as_ref().unwrap().drop_all.clone()
}

/// From one to the other, every fault on the way is survived; the steps are these.
fn check(before: &Wanted, after: &Wanted, expected: &[&str]) {
    let prepare = || {
        let host = host();
        converge(before, &host);
        host
    };
    let plan = plan_of(after, &prepare());
    assert_eq!(texts(&plan), expected);
    for fault in 0..=expected.len() {
        let host = prepare();
        host.state().until_fault = Some(fault);
        apply(&plan_of(after, &host), &host);
        host.state().until_fault = None;
        converge(after, &host);
    }
}

#[test]
fn it_comes_after_the_record_that_denies_and_goes_after_the_one_that_allows() {
    check(&one(0, false), &one(1, true), &[WRITE, ATTACH]);
    check(&one(1, true), &one(0, false), &[WRITE, DETACH]);
    // Denied a while ago, or published again.
    check(&one(1, false), &one(1, true), &[ATTACH]);
    check(&one(1, true), &one(1, false), &[DETACH]);
}

#[test]
fn a_new_tap_has_its_filters_first() {
    let host = host();
    converge(&wanted(&[]), &host);
    let plan = plan_of(&one(1, true), &host);
    assert_eq!(texts(&plan).last().map(String::as_str), Some(ATTACH));
    converge(&one(1, true), &host);
    assert_eq!(dropping(&host), [65_536].into());
}

#[test]
fn what_others_took_off_is_attached_again() {
    let host = host();
    let wanted = one(1, true);
    converge(&wanted, &host);
    let mut state = host.state();
    let datapath = state.observed.datapath.as_mut().unwrap();
    datapath.drop_all.clear();
    datapath.severed.insert("65536-drop_all".into());
    drop(state);
    let expected = ["remove pin 65536-drop_all, whose device is gone", ATTACH];
    assert_eq!(texts(&plan_of(&wanted, &host)), expected);
    converge(&wanted, &host);
}

#[test]
fn it_goes_with_its_tap_and_a_later_life_gets_its_own() {
    let host = host();
    converge(&one(1, true), &host);
    converge(&wanted(&[]), &host);
    assert_eq!(dropping(&host), BTreeSet::new());
    converge(&one(1, true), &host);
    let mut next = wanted(&[(0, 1, true)]);
    for interface in next.interfaces.values_mut() {
        interface.drop_all = true;
    }
    converge(&next, &host);
    assert_eq!(dropping(&host), [vm::ifindex(0, 1)].into());
}
