//! What others changed is as it should be again.

use super::*;

#[test]
fn what_others_changed_is_mended() {
    let tap = vm::ifindex(0, 0);
    let one = [(0, 0, true)];
    let edit =
        |change: fn(&mut Observed)| move |host: &FakeHost| change(&mut host.state().observed);
    check(
        &one,
        edit(|host| host.links.get_mut(&65_536).unwrap().mtu = 9000),
        &one,
    );
    check(
        &one,
        edit(|host| host.links.get_mut(&65_536).unwrap().hardened = false),
        &one,
    );
    check(
        &one,
        edit(|host| host.links.get_mut(&65_536).unwrap().addresses.clear()),
        &one,
    );
    check(&one, edit(|host| host.neighbours.clear()), &one);
    check(
        &one,
        edit(|host| host.links.get_mut(&65_536).unwrap().up = false),
        &one,
    );
    check(
        &one,
        edit(|host| host.datapath.as_mut().unwrap().interfaces.clear()),
        &one,
    );
    check(
        &one,
        edit(|host| host.datapath.as_mut().unwrap().routes.clear()),
        &one,
    );
    check(
        &one,
        edit(|host| host.datapath.as_mut().unwrap().severed.extend(["a".into()])),
        &one,
    );
    check(
        &one,
        edit(|host| host.routes.retain(|route| route.ifindex != 65_536)),
        &one,
    );
    check(
        &one,
        edit(|host| host.links.retain(|index, _| *index != 65_536)),
        &one,
    );
    assert_eq!(tap, 65_536);
}

#[test]
fn sysctls_that_others_wrote_are_mended_and_nothing_else() {
    let host = host();
    let wanted = wanted(&[(0, 0, true)]);
    converge(&wanted, &host);
    host.state()
        .observed
        .links
        .get_mut(&65_536)
        .unwrap()
        .hardened = false;
    assert_eq!(
        texts(&plan_of(&wanted, &host)),
        ["mend TAP tap0 (MTU 1500)"]
    );
}

#[test]
fn ipv6_that_others_switched_off_is_switched_on_before_its_address() {
    let host = host();
    let wanted = wanted(&[(0, 0, true)]);
    converge(&wanted, &host);
    let v4_only = |address: &IpNet| address.addr().is_ipv4();
    let mut state = host.state();
    let link = state.observed.links.get_mut(&65_536).unwrap();
    link.addresses.retain(v4_only);
    drop(state);
    assert_eq!(
        texts(&plan_of(&wanted, &host)),
        [
            "mend TAP tap0 (MTU 1500)",
            "add address fe80::1/64 to device 65536"
        ]
    );
}
