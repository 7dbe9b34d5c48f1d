use super::*;

fn parse(text: &str) -> InstanceSpec {
    InstanceSpec::parse(text.as_bytes(), Grant::ALL).expect(text)
}

fn check_error(text: &str, expected: &str) {
    let error = InstanceSpec::parse(text.as_bytes(), Grant::ALL).expect_err(text);
    assert_eq!(error.to_string(), expected, "{text}");
}

#[test]
fn omitted_interfaces_and_one_empty_entry_are_the_same() {
    for same in [
        r#"{"network_interfaces": [{}]}"#,
        r#"{"network_interfaces": null}"#,
    ] {
        assert_eq!(parse("{}").interfaces, parse(same).interfaces);
    }
    let spec = parse("{}");
    assert!(spec.autostart && spec.name.is_none() && spec.interfaces.len() == 1);
    assert_eq!(spec.interfaces[0].tap_owner, None);
    assert_eq!(spec.interfaces[0].model, "virtio-net-pci");
}

#[test]
fn the_request_of_the_hyperfleet_guide_works() {
    let spec = parse(
        r#"{"name": "web-server", "vcpu_count": 2, "mem_size_mib": 512,
            "kernel_image_path": ".hyperfleet/vmlinux", "rootfs_path": ".hyperfleet/alpine-rootfs.ext4"}"#,
    );
    assert_eq!(spec.name.unwrap().as_str(), "web-server");
    assert_eq!(spec.request.len(), 5);
    assert_eq!(spec.request["vcpu_count"], 2);
}

#[test]
fn built_members_are_read() {
    let spec = parse(
        r#"{"autostart": false, "tags": ["a"], "network_interfaces": [
            {"name": "x", "tap_owner": 1000, "tap_group": "kvm", "queues": 4, "model": "e1000"}, {}]}"#,
    );
    let first = &spec.interfaces[0];
    assert!(!spec.autostart);
    assert_eq!(first.tap_owner, Some(Principal::Id(1000)));
    assert_eq!(first.tap_group, Some(Principal::Name("kvm".into())));
    assert_eq!((first.queues, first.model.as_str()), (4, "e1000"));
    assert_eq!(spec.interfaces.len(), 2);
}

#[test]
fn unknown_members_are_named_at_any_depth() {
    check_error(r#"{"nmae": "a"}"#, "Unknown member 'nmae'");
    check_error(
        r#"{"network_interfaces": [{}, {"mtuu": 1}]}"#,
        "Unknown member 'mtuu'",
    );
    check_error(
        r#"{"network_interfaces": [{"relay": {"dns": true}}]}"#,
        "Unknown member 'dns'",
    );
    check_error(
        r#"{"publish": ["80", {"port": 1}]}"#,
        "Unknown member 'port'",
    );
    check_error(r#"{"limits": {"qps": 1}}"#, "Unknown member 'qps'");
}

#[test]
fn a_key_twice_is_an_error_with_its_place() {
    check_error(
        r#"{"name": "a", "name": "b"}"#,
        "Malformed JSON: Duplicate member 'name' at line 1 column 20",
    );
    let nested = InstanceSpec::parse(
        br#"{"network_interfaces": [{"queues": 1, "queues": 1}]}"#,
        Grant::ALL,
    );
    assert!(
        nested
            .unwrap_err()
            .to_string()
            .contains("Duplicate member 'queues'")
    );
}

#[test]
fn malformed_json_is_an_error_with_its_place() {
    check_error(
        "{\n  name}",
        "Malformed JSON: key must be a string at line 2 column 3",
    );
    check_error("[]", "The request must be a JSON object");
    assert!(
        InstanceSpec::parse(b"", Grant::ALL)
            .unwrap_err()
            .to_string()
            .starts_with("Malformed JSON: EOF")
    );
    assert!(InstanceSpec::parse(&"[".repeat(100_000).into_bytes(), Grant::ALL).is_err());
}

#[test]
fn unknown_comes_before_wrong_and_wrong_before_unsupported() {
    check_error(
        r#"{"annotations": {"a": "b"}, "queues": 0, "name": 3}"#,
        "Unknown member 'queues'",
    );
    check_error(
        r#"{"annotations": {"a": "b"}, "name": 3}"#,
        "Member 'name' must be a text",
    );
    check_error(
        r#"{"annotations": {"a": "b"}}"#,
        "Not supported yet: annotations",
    );
}

#[test]
fn wrong_values_say_what_may_stand_there() {
    check_error(
        r#"{"network_interfaces": []}"#,
        "An instance has one to four network interfaces, not 0",
    );
    check_error(
        r#"{"network_interfaces": [{}, {}, {}, {}, {}]}"#,
        "An instance has one to four network interfaces, not 5",
    );
    check_error(
        r#"{"network_interfaces": {}}"#,
        "Member 'network_interfaces' must be a list of objects",
    );
    check_error(
        r#"{"name": "A"}"#,
        "Invalid name 'A': use up to 63 of a-z, 0-9 and '-', with a letter or digit at both ends",
    );
    check_error(
        r#"{"network_interfaces": [{"queues": 0}]}"#,
        "Invalid value '0' of member 'queues': use 1 to 256",
    );
    check_error(
        r#"{"network_interfaces": [{"model": "e1000,romfile=x"}]}"#,
        "Invalid value 'e1000,romfile=x' of member 'model': use a name that `qemu-system-x86_64 -device help` lists",
    );
    check_error(
        r#"{"network_interfaces": [{"tap_owner": 4294967295}]}"#,
        "Invalid value '4294967295' of member 'tap_owner': use a number below 4294967295",
    );
    check_error(
        r#"{"network_interfaces": [{"mode": "natt"}]}"#,
        "Invalid value 'natt' of member 'mode': use nat, bridge, direct, socket or tsi",
    );
    check_error(
        r#"{"autostart": "yes"}"#,
        "Member 'autostart' must be true or false",
    );
}

#[test]
fn the_texts_of_the_specification_are_exact() {
    let half =
        "Network interface must specify an IP address when a TAP device is provided and vice versa";
    check_error(
        r#"{"network_interfaces": [{"ip": "192.168.0.1/30"}]}"#,
        half,
    );
    check_error(r#"{"network_interfaces": [{"tap_name": "vpc0"}]}"#, half);
    check_error(
        r#"{"network_interfaces": [{"mac": "0:1"}]}"#,
        "Invalid MAC address '0:1'",
    );
    check_error(
        r#"{"network_interfaces": [{"mac": "AA:FC:00:00:00:09"}]}"#,
        "Invalid MAC address 'AA:FC:00:00:00:09'",
    );
    check_error(
        r#"{"network_interfaces": [{"mac": "01:00:5e:00:00:01"}]}"#,
        "Network interface MAC address must be a unicast address",
    );
    check_error(
        r#"{"network_policy": "deny-all", "denied_cidrs": []}"#,
        "Cannot combine --network-policy deny-all with --allowed-domain, --allowed-cidr, or --denied-cidr.",
    );
    check_error(
        r#"{"network_policy": "custom"}"#,
        "Network policy 'custom' needs allowed_domains, allowed_cidrs or denied_cidrs",
    );
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    for (member, value) in [
        ("mode", r#""bridge""#),
        ("bridge", r#""br0""#),
        ("device", r#""eth0""#),
        ("socket", r#""a""#),
        ("cgroup", r#""a""#),
        ("guest_ip", r#""10.0.0.2/24""#),
        ("guest_mac", r#""02:00:00:00:00:01""#),
        ("guest_gateway", r#""10.0.0.1""#),
    ] {
        let text = format!(r#"{{"network_interfaces": [{{"{member}": {value}}}]}}"#);
        check_error(&text, &format!("Not supported yet: {member}"));
    }
}

#[test]
fn r4_a_relay_has_a_name_and_no_list_of_names_beside_its_dns() {
    let relay = |text: &str| {
        let text = format!(r#"{{"network_interfaces": [{{"relay": {text}}}]}}"#);
        parse(&text).interfaces.remove(0).relay
    };
    let name = Name::parse("gw").unwrap();
    for (text, dns) in [
        (r#"{"name": "gw"}"#, None),
        (r#"{"name": "gw", "relay_dns": null}"#, None),
        (r#"{"name": "gw", "relay_dns": true}"#, Some(true)),
        (r#"{"name": "gw", "relay_dns": false}"#, Some(false)),
    ] {
        let name = name.clone();
        assert_eq!(relay(text), Some(RelaySpec { name, dns }), "{text}");
    }
    assert_eq!(relay("null"), None);
    let check = |relay: &str, more: &str, expected: &str| {
        check_error(
            &format!(r#"{{"network_interfaces": [{{"relay": {relay}}}]{more}}}"#),
            expected,
        );
    };
    check("{}", "", "Member 'relay' needs a 'name'");
    check(r#"{"name": null}"#, "", "Member 'relay' needs a 'name'");
    let expected = "Invalid relay 'My Gateway'. Please make sure the relay exists and does not create a circular dependency";
    check(r#"{"name": "My Gateway"}"#, "", expected);
    let (names, expected) = (
        r#", "allowed_domains": []"#,
        "relay_dns cannot be combined with allowed_domains",
    );
    check(r#"{"name": "gw", "relay_dns": true}"#, names, expected);
    for dns in ["false", "null"] {
        let text = format!(
            r#"{{"network_interfaces": [{{"relay": {{"name": "gw", "relay_dns": {dns}}}}}]{names}}}"#
        );
        let spec = parse(&text);
        let asked = spec.interfaces[0].relay.as_ref().unwrap().dns;
        assert!(!relay::takes_dns(asked, &spec.policy), "{dns}");
    }
    assert!(relay::takes_dns(None, &PolicySpec::default()));
    assert!(!relay::takes_dns(Some(false), &PolicySpec::default()));
}

#[test]
fn policy_and_limits_are_read_and_not_kept_a_second_time() {
    let parsed = parse(
        r#"{"image": "x", "allowed_cidrs": ["10.0.0.0/8"], "denied_cidrs": [], "audit": true, "bandwidth": 5,
            "limits": {"flows": 3}}"#,
    );
    assert_eq!(parsed.policy.mode, PolicyMode::Custom);
    assert_eq!(parsed.limits.flows, Some(3));
    let kept: Vec<&String> = parsed.request.keys().collect();
    assert_eq!(kept, ["image"]);
    check_error(
        r#"{"denied_cidrs": ["10.0.0.0/8", "10.0.0.0/33"], "bandwidth": "x"}"#,
        "Invalid CIDR prefix length: 33",
    );
}

#[test]
fn n8_a_snat_address_is_of_either_family_and_a_template_keeps_it() {
    for address in ["198.51.100.7", "2001:db8::7"] {
        let parsed = parse(&format!(r#"{{"snat_address": "{address}"}}"#));
        assert_eq!(parsed.snat_address, address.parse().ok());
        let template = InstanceSpec::template(&parsed.request);
        assert_eq!(template["snat_address"], address);
    }
    assert_eq!(parse(r#"{"snat_address": null}"#).snat_address, None);
    let wrong = "Member 'snat_address' must be a text";
    check_error(r#"{"snat_address": ["198.51.100.7"]}"#, wrong);
    let range = r#"{"snat_address": "198.51.100.0/24"}"#;
    check_error(range, &SpecError::snat("198.51.100.0/24").to_string());
}

#[test]
fn an_mtu_is_what_a_packet_can_have_and_the_interfaces_own_wins() {
    let mtus = |text: &str| -> Vec<_> {
        let interfaces = parse(text).interfaces.into_iter();
        interfaces.map(|interface| interface.mtu).collect()
    };
    assert_eq!(mtus("{}"), [None]);
    assert_eq!(mtus(r#"{"mtu": null}"#), [None]);
    assert_eq!(mtus(r#"{"mtu": 68}"#), [Some(68)]);
    let both = r#"{"mtu": 1400, "network_interfaces": [{"mtu": 65535}, {"mtu": null}]}"#;
    assert_eq!(mtus(both), [Some(65_535), Some(1400)]);
    for bad in ["0", "67", "65536", "4294968796", "18446744073709551615"] {
        let expected =
            format!("Invalid mtu '{bad}': use 68 to 65535, or leave it out for the uplink's");
        check_error(&format!(r#"{{"mtu": {bad}}}"#), &expected);
        let inner = format!(r#"{{"mtu": 1400, "network_interfaces": [{{"mtu": {bad}}}]}}"#);
        check_error(&inner, &expected);
    }
    for bad in ["-1", "1.5", r#""1500""#, "true", "[]"] {
        let expected = "Member 'mtu' must be a whole number";
        check_error(&format!(r#"{{"mtu": {bad}}}"#), expected);
    }
}

#[test]
fn defaults_are_accepted_where_nothing_is_built() {
    let spec = parse(
        r#"{"network_policy": "allow-all", "audit": false, "exposed_ports": [], "publish": [], "limits": {},
            "annotations": {}, "gateway": null, "allowed_cidrs": null,
            "network_interfaces": [{"mode": "nat", "autoconfig": true, "relay": null}]}"#,
    );
    assert_eq!(spec.interfaces, parse("{}").interfaces);
}

/// The example of the Unikraft guide.
const GUIDE: &str = r#"{"name": "my-instance", "image": "nginx:latest", "network_interfaces": [
    {"name": "my-instance-private"},
    {"name": "my-instance-public", "ip": "192.168.0.1/30", "tap_name": "vpc0", "autoconfig": true}],
    "gateway": "192.168.0.100", "nameserver": "1.2.3.4"}"#;

fn bounds() -> Bounds {
    Bounds {
        pool: "172.16.0.0/16".parse().unwrap(),
        pool6: Some("fd12:3456:789a::/48".parse().unwrap()),
        tap_prefix: "tap".into(),
        custom_subnets: default_custom_subnets(),
    }
}

fn faults(text: &str) -> Vec<String> {
    let faults = InstanceSpec::faults(text.as_bytes(), Grant::ALL, &bounds());
    faults.iter().map(ToString::to_string).collect()
}

#[test]
fn the_request_of_the_unikraft_guide_works() {
    let spec = parse(GUIDE);
    assert_eq!(spec.interfaces[0].addressing, Addressing::Pool);
    assert_eq!(
        spec.interfaces[1].addressing,
        Addressing::Custom {
            ip: "192.168.0.1/30".parse().unwrap(),
            ip6: None,
            tap_name: "vpc0".into(),
        }
    );
    assert_eq!(spec.gateway, Some("192.168.0.100".parse().unwrap()));
    assert_eq!(spec.nameserver, Some("1.2.3.4".parse().unwrap()));
    assert!(faults(GUIDE).is_empty());
}

#[test]
fn i8_a_custom_interface_keeps_off_the_pool() {
    let check = |ip: &str, tap: &str, expected: &[&str]| {
        let text = format!(r#"{{"network_interfaces": [{{"ip": "{ip}", "tap_name": "{tap}"}}]}}"#);
        assert_eq!(faults(&text), expected, "{ip} {tap}");
    };
    let from_pool = "Network interface IP address cannot be from the platform's address pool";
    let pool_tap = "Network interface TAP device cannot be from the platform's device pool";
    let elsewhere = "Network interface IP address is not available on this host";
    check("172.16.0.5/30", "vpc0", &[from_pool]);
    check("172.17.0.5/8", "vpc0", &[from_pool]);
    check("172.17.0.5/12", "vpc0", &[from_pool]);
    check("172.17.0.5/16", "vpc0", &[]);
    check("8.8.8.8/24", "vpc0", &[elsewhere]);
    check("10.0.0.1/7", "vpc0", &[elsewhere]);
    check("100.64.0.9/24", "vpc0", &[]);
    check("10.0.0.1/8", "tap7", &[pool_tap]);
    check("172.16.0.5/30", "tap0", &[from_pool, pool_tap]);
    check("10.0.0.1/8", "tap", &[]);
    check("10.0.0.1/8", "tap7a", &[]);
    let v6 = r#"{"network_interfaces": [{"ip": "10.0.0.1/8", "ip6": "fd12:3456:789a:9::2/64", "tap_name": "a"}]}"#;
    assert_eq!(faults(v6), [from_pool]);
    assert!(faults(&v6.replace("fd12:", "fec0:")).is_empty());
    assert_eq!(faults(&v6.replace("fd12:", "2001:")), [elsewhere]);
}

#[test]
fn a4_without_the_permission_the_custom_members_do_not_exist() {
    let none = Grant {
        net_manager: false,
        custom_network: true,
    };
    for member in [
        "network_interfaces",
        "gateway",
        "nameserver",
        "snat_address",
    ] {
        let text = format!(r#"{{"{member}": null}}"#);
        let error = InstanceSpec::parse(text.as_bytes(), none).unwrap_err();
        assert_eq!(error.to_string(), format!("Unknown member '{member}'"));
    }
    assert!(InstanceSpec::parse(br#"{"name": "a"}"#, none).is_ok());
}

#[test]
fn a4_without_the_feature_they_need_a_license() {
    let unlicensed = Grant {
        net_manager: true,
        custom_network: false,
    };
    let error = InstanceSpec::parse(GUIDE.as_bytes(), unlicensed).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Insufficient license. Please make sure your license is valid and includes custom network configurations"
    );
    assert!(InstanceSpec::parse(br#"{"gateway": null}"#, unlicensed).is_ok());
}

#[test]
fn every_fault_is_named_and_the_first_one_is_the_one_refused() {
    let text = r#"{"name": "A", "bogus": 1, "gateway": "::1", "nameserver": "x", "network_policy": "custom", "mtu": 9,
        "network_interfaces": [{"ip": "10.0.0.1/8"}, {"mac": "0", "queues": 0, "mode": "x"},
            {"ip": "10.0.0.0/8", "tap_name": "a/b", "name": "-"}]}"#;
    let all = faults(text);
    let starts = [
        "Unknown member 'bogus'",
        "Network policy 'custom' needs",
        "Invalid name 'A'",
        "Invalid gateway '::1'",
        "Invalid nameserver 'x'",
        "Invalid mtu '9'",
        "Network interface must specify an IP address",
        "Invalid MAC address '0'",
        "Invalid value 'x' of member 'mode'",
        "Invalid value '0' of member 'queues'",
        "Invalid TAP device name 'a/b'",
        "Invalid IP address '10.0.0.0/8'",
        "Invalid name '-'",
        "Not supported yet: mode",
    ];
    assert_eq!(all.len(), starts.len(), "{all:#?}");
    for (fault, start) in all.iter().zip(starts) {
        assert!(fault.starts_with(start), "{fault} is not {start}");
    }
    let first = InstanceSpec::parse(text.as_bytes(), Grant::ALL).unwrap_err();
    assert_eq!(first.to_string(), all[0]);
}

#[test]
fn two_interfaces_share_nothing() {
    let check = |first: &str, second: &str, expected: &str| {
        check_error(
            &format!(r#"{{"network_interfaces": [{{{first}}}, {{{second}}}]}}"#),
            expected,
        );
    };
    check(
        r#""name": "x""#,
        r#""name": "x""#,
        "Network interfaces of one instance cannot share the name 'x'",
    );
    check(
        r#""ip": "10.0.0.1/8", "tap_name": "a""#,
        r#""ip": "10.0.0.1/24", "tap_name": "b""#,
        "Network interfaces of one instance cannot share the IP address '10.0.0.1'",
    );
    check(
        r#""ip": "10.0.0.1/8", "tap_name": "a""#,
        r#""ip": "10.0.0.2/24", "tap_name": "a""#,
        "Network interfaces of one instance cannot share the TAP device 'a'",
    );
    check(
        r#""mac": "02:00:00:00:00:0a""#,
        r#""mac": "02:00:00:00:00:0A""#,
        "Network interfaces of one instance cannot share the MAC address '02:00:00:00:00:0A'",
    );
}

#[test]
fn i19_a_template_has_no_network_configuration() {
    let template = InstanceSpec::template(&parse(GUIDE).request);
    let members: Vec<&String> = template.keys().collect();
    assert_eq!(members, ["image"]);
}

#[test]
fn i7_a_tap_name_is_a_device_name() {
    for bad in [
        "a/b",
        "..",
        ".",
        "a b",
        "a:b",
        "a\\tb",
        "sixteen-letters-",
        "",
        "tap%d",
        "tapä",
    ] {
        let text =
            format!(r#"{{"network_interfaces": [{{"ip": "10.0.0.1/8", "tap_name": "{bad}"}}]}}"#);
        let error = InstanceSpec::parse(text.as_bytes(), Grant::ALL).unwrap_err();
        assert!(
            error.to_string().starts_with("Invalid TAP device name"),
            "{bad}: {error}"
        );
    }
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            "[a-z0-9:/.]{0,18}".prop_map(Into::into),
            Just("10.0.0.1/8".into()),
            Just("vpc0".into()),
        ];
        let names = prop::sample::select(
            [member_names().0, member_names().1, vec!["relay_dns", "x"]].concat(),
        );
        leaf.prop_recursive(4, 48, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                prop::collection::vec((names.clone(), inner), 0..6).prop_map(|members| {
                    let members = members
                        .into_iter()
                        .map(|(name, value)| (name.to_owned(), value));
                    Value::Object(members.collect())
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_request_is_refused_exactly_where_it_has_a_fault(value in any_value()) {
            let text = value.to_string();
            let parsed = InstanceSpec::parse(text.as_bytes(), Grant::ALL);
            let all = InstanceSpec::faults(text.as_bytes(), Grant::ALL, &bounds());
            match parsed {
                Ok(spec) => prop_assert_eq!(all.len(), spec.check_bounds(&bounds()).len()),
                Err(first) => prop_assert_eq!(first.to_string(), all[0].to_string()),
            }
        }
    }
}
