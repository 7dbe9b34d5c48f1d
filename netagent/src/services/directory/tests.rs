use netagent_common::policy::RouteKind;
use netagent_common::services::Place;

use super::*;
use crate::guest::GuestV6;
use crate::plan::{RouteTarget, routes};

fn guest(generation: u32) -> Guest {
    Guest {
        generation,
        instance: 7,
        account: 0,
        hostname: "web".into(),
        interface: GuestInterface {
            index: 0,
            tap_name: "tap0".into(),
            mac: [2; 6],
            model: "virtio-net-pci".into(),
            queues: 1,
            mtu: 1500,
            autoconfig: true,
            address: "172.16.0.2/30".parse().unwrap(),
            host: [172, 16, 0, 1].into(),
            route: None,
            nameservers: vec![[172, 16, 0, 1].into()],
            v6: Some(GuestV6 {
                address: "fd00:1::2/64".parse().unwrap(),
                whole_network: true,
                gateway: Some("fe80::1".parse().unwrap()),
                nameservers: Vec::new(),
            }),
            relay: false,
        },
        nameserver: None,
        gateway: None,
        permission: Permission::All,
        attached: true,
    }
}

fn client(slot: u32, generation: u32) -> Client {
    Client {
        slot,
        generation,
        place: Place(0),
    }
}

#[test]
fn only_the_start_that_runs_is_known() {
    let directory = Directory::default();
    directory.put(7, Some(guest(5)));
    assert!(directory.of(client(7, 5)).is_some());
    assert!(directory.of(client(7, 4)).is_none(), "an earlier start");
    assert!(directory.of(client(8, 5)).is_none(), "another slot");
    directory.put(7, None);
    assert!(directory.of(client(7, 5)).is_none(), "stopped");
}

#[test]
fn a_guest_is_told_at_once_what_changed_for_it_and_nothing_else() {
    let directory = Directory::default();
    let check = |guest: Guest, expected: &[u32], what: &str| {
        directory.put(7, Some(guest));
        let news: Vec<u32> = std::mem::take(&mut *directory.news()).into_iter().collect();
        assert_eq!(news, expected, "{what}");
    };
    let with = |change: &dyn Fn(&mut Guest)| {
        let mut changed = guest(5);
        change(&mut changed);
        changed
    };
    let detached = with(&|guest| guest.attached = false);
    check(detached, &[], "nobody holds the TAP");
    check(guest(5), &[7], "a VMM came");
    check(guest(5), &[], "nothing changed");
    directory.greet(7);
    directory.greet(8);
    check(guest(5), &[7], "its link changed");
    let renamed = with(&|guest| guest.hostname = "db".into());
    check(renamed, &[], "an advertisement has no name");
    check(
        with(&|guest| guest.interface.mtu = 1400),
        &[7],
        "the MTU changed",
    );
    let silent = with(&|guest| guest.interface.autoconfig = false);
    check(silent, &[], "not unasked");
    check(with(&|guest| guest.interface.v6 = None), &[], "no IPv6");
}

#[test]
fn d6_instances_of_one_account_may_be_named_and_nothing_else_in_the_pools() {
    let directory = Directory::default();
    let target = routes::UNREACHABLE;
    let pool = |text: &str, kind| (text.parse().unwrap(), RouteTarget { kind, ..target });
    let routes = [
        pool("172.16.0.0/16", RouteKind::Instance),
        pool("fd00:1::/48", RouteKind::Instance),
        pool("fe80::/10", RouteKind::AlwaysDenied),
    ];
    let put = |slot: u32, account: u32, v4: &str, v6: &str| {
        let mut guest = guest(5);
        (guest.instance, guest.account) = (slot, account);
        guest.interface.address = v4.parse().unwrap();
        guest.interface.v6.as_mut().unwrap().address = v6.parse().unwrap();
        guest.gateway = Some([192, 168, 0, 100].into());
        directory.put(slot, Some(guest));
    };
    put(7, 3, "172.16.0.2/30", "fd00:1:0:7::2/64");
    put(8, 3, "172.16.0.6/30", "fd00:1:0:8::2/64");
    put(9, 4, "172.16.0.10/30", "fd00:1:0:9::2/64");
    put(10, 0, "172.16.0.14/30", "fd00:1:0:a::2/64");
    let address = Client::to_v4(client(7, 5)).into();
    let asker = dns::Directory::client(&directory, address).unwrap();
    let is_forbidden =
        |text: &str| dns::Directory::is_forbidden(&directory, &asker, text.parse().unwrap());
    assert!(is_forbidden("203.0.113.1"), "nothing is known of the host");
    let routes = Arc::new(routes.into_iter().collect());
    directory.forbid(Forbidden::new(routes, None, BTreeSet::new()));
    for (text, expected) in [
        ("203.0.113.1", false),
        ("172.16.0.6", false),
        ("fd00:1:0:8::99", false),
        ("172.16.0.2", true),
        ("fd00:1:0:7::2", true),
        ("172.16.0.5", true),
        ("172.16.0.10", true),
        ("fd00:1:0:9::2", true),
        ("172.16.0.14", true),
        ("172.16.0.1", true),
        ("192.168.0.100", true),
        ("192.168.0.101", false),
        ("fe80::1", true),
    ] {
        assert_eq!(is_forbidden(text), expected, "{text}");
    }
    put(7, 0, "172.16.0.2/30", "fd00:1:0:7::2/64");
    assert!(is_forbidden("172.16.0.6"), "vm_to_vm is off");
    assert!(is_forbidden("172.16.0.14"), "and no account is none");
    directory.put(7, None);
    assert!(is_forbidden("203.0.113.1"), "nobody asks");
}

#[test]
fn what_may_be_asked_for_changes_alone_and_for_who_is_there() {
    let directory = Directory::default();
    directory.put(7, Some(guest(5)));
    std::mem::take(&mut *directory.news());
    let before = directory.in_slot(7).unwrap();
    for slot in [7, 8] {
        directory.permit(slot, &Permission::None);
    }
    let expected = Guest {
        permission: Permission::None,
        ..(*before).clone()
    };
    assert_eq!(*directory.in_slot(7).unwrap(), expected);
    assert_eq!(
        before.permission,
        Permission::All,
        "who asks is answered as it was"
    );
    assert!(directory.in_slot(8).is_none());
    assert!(directory.news().is_empty());
}

#[test]
fn what_is_refused_is_counted_for_one_start() {
    let directory = Directory::default();
    let reason = DropReason::Malformed;
    directory.count(7, 5, reason);
    directory.count(7, 5, reason);
    directory.count(8, 5, reason);
    assert_eq!(directory.refused(7, 5), BTreeMap::from([(reason, 2)]));
    assert!(directory.refused(7, 6).is_empty());
    directory.count(7, 6, reason);
    assert_eq!(directory.refused(7, 6), BTreeMap::from([(reason, 1)]));
}
