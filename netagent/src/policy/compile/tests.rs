use std::collections::BTreeSet;

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::spec::policy::Networks;

fn list(networks: &[&str]) -> Option<Networks> {
    let networks = networks.iter().map(|text| text.parse().unwrap());
    Some(Arc::new(networks.collect()))
}

fn custom(allowed: Option<Networks>, denied: Option<Networks>) -> PolicySpec {
    PolicySpec {
        mode: PolicyMode::Custom,
        allowed_domains: None,
        allowed_cidrs: allowed,
        denied_cidrs: denied,
        audit: false,
    }
}

fn compiled(policy: &PolicySpec) -> Arc<Compiled> {
    compile(policy, false).unwrap()
}

fn of(mode: PolicyMode) -> PolicySpec {
    PolicySpec {
        mode,
        ..PolicySpec::default()
    }
}

#[track_caller]
fn check(policy: &Compiled, expected: &[(&str, Verdict)]) {
    let v4 = policy
        .v4
        .iter()
        .map(|(network, verdict)| (network.to_string(), *verdict));
    let v6 = policy
        .v6
        .iter()
        .map(|(network, verdict)| (network.to_string(), *verdict));
    let entries: Vec<(String, Verdict)> = v4.chain(v6).collect();
    let expected = expected
        .iter()
        .map(|(text, verdict)| ((*text).to_owned(), *verdict));
    assert_eq!(entries, expected.collect::<Vec<_>>());
}

#[test]
fn what_says_the_same_of_every_address_needs_no_entries() {
    for mode in [PolicyMode::AllowAll, PolicyMode::DenyAll] {
        assert_eq!(compile(&of(mode), false), None);
    }
}

#[test]
fn p2_with_an_allow_list_the_rest_is_denied_in_both_families() {
    let policy = compiled(&custom(list(&["10.0.0.0/8"]), None));
    check(
        &policy,
        &[
            ("0.0.0.0/0", Verdict::NotAllowed),
            ("10.0.0.0/8", Verdict::Allowed),
            ("::/0", Verdict::NotAllowed),
        ],
    );
    let nothing = compiled(&custom(list(&[]), None));
    let denied = [
        ("0.0.0.0/0", Verdict::NotAllowed),
        ("::/0", Verdict::NotAllowed),
    ];
    check(&nothing, &denied);
}

#[test]
fn p2_a_list_of_names_is_an_allow_list_whatever_is_in_it() {
    for text in [
        r#"{"allowed_domains": []}"#,
        r#"{"allowed_domains": ["example.org"]}"#,
    ] {
        let policy = PolicySpec::parse(&serde_json::from_str(text).unwrap()).unwrap();
        let denied = [
            ("0.0.0.0/0", Verdict::NotAllowed),
            ("::/0", Verdict::NotAllowed),
        ];
        check(&compiled(&policy), &denied);
    }
    let both = r#"{"allowed_domains": [], "allowed_cidrs": ["10.0.0.0/8"], "denied_cidrs": ["10.1.0.0/16"]}"#;
    let policy = PolicySpec::parse(&serde_json::from_str(both).unwrap()).unwrap();
    check(
        &compiled(&policy),
        &[
            ("0.0.0.0/0", Verdict::NotAllowed),
            ("10.0.0.0/8", Verdict::Allowed),
            ("10.1.0.0/16", Verdict::Denied),
            ("::/0", Verdict::NotAllowed),
        ],
    );
}

#[test]
fn p2_with_a_deny_list_alone_the_rest_is_allowed() {
    let policy = compiled(&custom(None, list(&["10.0.0.0/8", "2001:db8::/32"])));
    check(
        &policy,
        &[
            ("0.0.0.0/0", Verdict::Default),
            ("10.0.0.0/8", Verdict::Denied),
            ("::/0", Verdict::Default),
            ("2001:db8::/32", Verdict::Denied),
        ],
    );
}

#[test]
fn p3_nothing_in_a_denied_network_is_allowed_whatever_its_length() {
    let allowed = list(&[
        "10.0.0.0/7",
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.2.3/32",
        "12.0.0.0/8",
    ]);
    let denied = list(&["10.0.0.0/8", "10.1.0.0/16", "12.3.0.0/16"]);
    let policy = compiled(&custom(allowed, denied));
    check(
        &policy,
        &[
            ("0.0.0.0/0", Verdict::NotAllowed),
            ("10.0.0.0/7", Verdict::Allowed),
            ("10.0.0.0/8", Verdict::Denied),
            ("12.0.0.0/8", Verdict::Allowed),
            ("12.3.0.0/16", Verdict::Denied),
            ("::/0", Verdict::NotAllowed),
        ],
    );
}

#[test]
fn a_network_of_length_0_stands_in_the_place_of_the_default() {
    let allowed = compiled(&custom(list(&["0.0.0.0/0"]), None));
    check(
        &allowed,
        &[
            ("0.0.0.0/0", Verdict::Allowed),
            ("::/0", Verdict::NotAllowed),
        ],
    );
    let denied = compiled(&custom(
        list(&["::/0", "10.0.0.0/8"]),
        list(&["0.0.0.0/0", "::/0"]),
    ));
    check(
        &denied,
        &[("0.0.0.0/0", Verdict::Denied), ("::/0", Verdict::Denied)],
    );
}

#[test]
fn p5_private_networks_that_are_always_denied_hold_nothing_but_what_is_denied_besides() {
    let allowed = list(&["10.1.0.0/16", "172.0.0.0/8", "192.168.0.0/16", "fd00::/8"]);
    let denied = list(&["100.64.1.0/24", "192.0.0.0/8"]);
    let policy = compile(&custom(allowed, denied), true).unwrap();
    check(
        &policy,
        &[
            ("0.0.0.0/0", Verdict::NotAllowed),
            ("10.0.0.0/8", Verdict::AlwaysDenied),
            ("100.64.0.0/10", Verdict::AlwaysDenied),
            ("100.64.1.0/24", Verdict::DeniedTwice),
            ("172.0.0.0/8", Verdict::Allowed),
            ("172.16.0.0/12", Verdict::AlwaysDenied),
            ("192.0.0.0/8", Verdict::Denied),
            ("192.168.0.0/16", Verdict::DeniedTwice),
            ("::/0", Verdict::NotAllowed),
            ("fc00::/7", Verdict::AlwaysDenied),
            ("fec0::/10", Verdict::AlwaysDenied),
        ],
    );
    for mode in [PolicyMode::AllowAll, PolicyMode::DenyAll] {
        let private = compile(&of(mode), true).unwrap();
        assert_eq!(private.v4.len() + private.v6.len(), 2 + PRIVATE.len());
    }
}

#[test]
fn p12_addresses_that_guests_reach_are_the_lists_business_whatever_private_networks_are() {
    let opened = ["172.16.0.0/16", "fd00:a:b::/48"].map(|text| text.parse().unwrap());
    let denied = list(&["172.16.1.0/24", "172.17.1.0/24"]);
    let policy = custom(None, denied);
    let policy = compile_around(&policy, true, &opened).unwrap();
    for (address, expected) in [
        ("172.16.0.1", Verdict::Default),
        ("172.16.1.1", Verdict::Denied),
        ("172.16.255.255", Verdict::Default),
        ("172.17.0.0", Verdict::AlwaysDenied),
        ("172.17.1.1", Verdict::DeniedTwice),
        ("172.31.255.255", Verdict::AlwaysDenied),
        ("172.32.0.0", Verdict::Default),
        ("10.0.0.1", Verdict::AlwaysDenied),
        ("fd00:a:a:ffff::", Verdict::AlwaysDenied),
        ("fd00:a:b::1", Verdict::Default),
        ("fd00:a:c::", Verdict::AlwaysDenied),
    ] {
        let (_, verdict) = policy.entry(address.parse().unwrap()).unwrap();
        assert_eq!(verdict, expected, "{address}");
    }
}

#[test]
fn private_networks_are_ordered_and_apart() {
    let networks = private_networks();
    assert_eq!(networks.len(), PRIVATE.len());
    assert!(networks.is_sorted());
    assert_eq!(outermost(networks.iter()), networks);
}

#[test]
fn the_same_entries_have_the_same_name_and_others_another() {
    let of = |allowed: &[&str], denied: &[&str]| compiled(&custom(list(allowed), list(denied))).id;
    let one = of(&["10.0.0.0/8"], &["10.1.0.0/16"]);
    assert_eq!(
        one,
        of(
            &["10.0.0.0/8", "10.1.2.0/24"],
            &["10.1.0.0/16", "10.1.9.0/24"]
        )
    );
    let names = [
        one,
        of(&["10.0.0.0/8"], &[]),
        of(&["10.0.0.0/9"], &["10.1.0.0/16"]),
        of(&["a00::/8"], &[]),
        of(&[], &["10.0.0.0/8"]),
        of(&[], &[]),
        compiled(&custom(None, list(&[]))).id,
    ];
    assert_eq!(BTreeSet::from(names).len(), names.len());
    assert!(!names.contains(&NO_POLICY));
}

#[test]
fn very_many_entries_are_compiled_in_a_moment() {
    let network = |number: u32, length| {
        let address = number.wrapping_mul(0x9e37_79b1).to_be_bytes();
        IpNet::V4(Ipv4Net::new_assert(address.into(), length).trunc())
    };
    let many = |length| {
        Some(Arc::new(
            (0..100_000).map(|number| network(number, length)).collect(),
        ))
    };
    let policy = custom(many(32), many(30));
    let begin = Instant::now();
    let compiled = compiled(&policy);
    // Compared each with each they would take minutes; without optimisation this takes a fifth of a second.
    assert!(begin.elapsed().as_secs() < 5, "{:?}", begin.elapsed());
    assert!(compiled.v4.len() > 90_000);
}

/// What the lists themselves say, in the order of P-3.
fn direct(policy: &PolicySpec, deny_private: bool, address: IpAddr) -> Verdict {
    let holds = |list: &Option<Networks>| {
        list.as_ref()
            .is_some_and(|list| list.iter().any(|network| network.contains(&address)))
    };
    let private = |text: &str| text.parse::<IpNet>().unwrap().contains(&address);
    if deny_private && PRIVATE.iter().any(|text| private(text)) {
        if holds(&policy.denied_cidrs) {
            Verdict::DeniedTwice
        } else {
            Verdict::AlwaysDenied
        }
    } else if holds(&policy.denied_cidrs) {
        Verdict::Denied
    } else if holds(&policy.allowed_cidrs) {
        Verdict::Allowed
    } else if policy.allowed_cidrs.is_some() || policy.allowed_domains.is_some() {
        Verdict::NotAllowed
    } else {
        Verdict::Default
    }
}

/// Networks that meet each other often: few different bits.
fn network() -> impl Strategy<Value = IpNet> {
    let octet = || prop::sample::select(vec![0_u8, 1, 10, 127, 128, 172, 192, 255]);
    let v4 = ([octet(), octet(), octet(), octet()], 0..=32_u8)
        .prop_map(|(octets, length)| IpNet::V4(Ipv4Net::new_assert(octets.into(), length).trunc()));
    let first = prop::sample::select(vec![[0, 0], [0x20, 1], [0xfc, 0], [0xfe, 0xc0]]);
    let v6 =
        (first, prop::array::uniform14(octet()), 0..=128_u8).prop_map(|(first, rest, length)| {
            let mut octets = [0; 16];
            let from = first.iter().chain(&rest);
            octets
                .iter_mut()
                .zip(from)
                .for_each(|(to, from)| *to = *from);
            IpNet::V6(Ipv6Net::new_assert(octets.into(), length).trunc())
        });
    prop_oneof![v4, v6]
}

fn networks() -> impl Strategy<Value = Option<Networks>> {
    let set = prop::collection::btree_set(network(), 0..24).prop_map(Arc::new);
    prop::option::of(set)
}

/// First and last address of a network, and the ones before and behind it.
fn around(network: IpNet) -> Vec<IpAddr> {
    match network {
        IpNet::V4(network) => {
            let (first, last) = (network.network().to_bits(), network.broadcast().to_bits());
            let near = [first, last, first.wrapping_sub(1), last.wrapping_add(1)];
            near.map(|bits| IpAddr::V4(bits.into())).to_vec()
        }
        IpNet::V6(network) => {
            let (first, last) = (network.network().to_bits(), network.broadcast().to_bits());
            let near = [first, last, first.wrapping_sub(1), last.wrapping_add(1)];
            near.map(|bits| IpAddr::V6(bits.into())).to_vec()
        }
    }
}

proptest! {
    #[test]
    fn the_longest_prefix_says_what_the_lists_say(
        allowed in networks(),
        denied in networks(),
        others in prop::collection::vec(network(), 4),
        has_names: bool,
        deny_private: bool,
    ) {
        let policy = PolicySpec {
            allowed_domains: has_names.then(Arc::default),
            ..custom(allowed, denied)
        };
        let compiled = compile(&policy, deny_private).unwrap();
        let lists = [&policy.allowed_cidrs, &policy.denied_cidrs];
        let listed = lists.into_iter().flatten().flat_map(|list| list.iter().copied());
        for address in listed.chain(others).flat_map(around) {
            let (network, verdict) = compiled.entry(address).unwrap();
            prop_assert!(network.contains(&address));
            prop_assert_eq!(verdict, direct(&policy, deny_private, address), "{}", address);
        }
    }
}
