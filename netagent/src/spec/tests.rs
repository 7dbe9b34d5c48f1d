use super::*;

fn parse(text: &str) -> InstanceSpec {
    InstanceSpec::parse(text.as_bytes()).expect(text)
}

fn check_error(text: &str, expected: &str) {
    let error = InstanceSpec::parse(text.as_bytes()).expect_err(text);
    assert_eq!(error.to_string(), expected, "{text}");
}

#[test]
fn omitted_interfaces_and_one_empty_entry_are_the_same() {
    assert_eq!(parse("{}"), parse(r#"{"network_interfaces": [{}]}"#));
    assert_eq!(parse("{}"), parse(r#"{"network_interfaces": null}"#));
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
    assert_eq!(spec.machine.len(), 4);
    assert_eq!(spec.machine["vcpu_count"], 2);
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
    let nested = InstanceSpec::parse(br#"{"network_interfaces": [{"queues": 1, "queues": 1}]}"#);
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
        InstanceSpec::parse(b"")
            .unwrap_err()
            .to_string()
            .starts_with("Malformed JSON: EOF")
    );
    assert!(InstanceSpec::parse(&"[".repeat(100_000).into_bytes()).is_err());
}

#[test]
fn unknown_comes_before_wrong_and_wrong_before_unsupported() {
    check_error(
        r#"{"gateway": "1.2.3.4", "queues": 0, "name": 3}"#,
        "Unknown member 'queues'",
    );
    check_error(
        r#"{"gateway": "1.2.3.4", "name": 3}"#,
        "Member 'name' must be a text",
    );
    check_error(r#"{"gateway": "1.2.3.4"}"#, "Not supported yet: gateway");
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
        ("gateway", r#""10.0.0.1""#),
        ("nameserver", r#""1.2.3.4""#),
        ("exposed_ports", "[80]"),
        ("publish", r#"["8080:80"]"#),
        ("network_policy", r#""deny-all""#),
        ("allowed_domains", "[]"),
        ("allowed_cidrs", "[]"),
        ("denied_cidrs", r#"["10.0.0.0/8"]"#),
        ("bandwidth", "10"),
        ("bandwidth_in", r#""10mbit""#),
        ("limits", r#"{"pps": 5}"#),
        ("audit", "true"),
        ("snat_address", r#""1.2.3.4""#),
        ("mtu", "1400"),
        ("annotations", r#"{"a": "b"}"#),
    ] {
        check_error(
            &format!(r#"{{"{member}": {value}}}"#),
            &format!("Not supported yet: {member}"),
        );
    }
    for (member, value) in [
        ("ip6", r#""fd00::2/64""#),
        ("mac", r#""02:00:00:00:00:01""#),
        ("autoconfig", "false"),
        ("relay", r#"{"name": "x"}"#),
        ("mode", r#""bridge""#),
        ("bridge", r#""br0""#),
        ("device", r#""eth0""#),
        ("socket", r#""a""#),
        ("cgroup", r#""a""#),
        ("mtu", "1400"),
        ("guest_ip", r#""10.0.0.2/24""#),
        ("guest_mac", r#""02:00:00:00:00:01""#),
        ("guest_gateway", r#""10.0.0.1""#),
    ] {
        let text = format!(r#"{{"network_interfaces": [{{"{member}": {value}}}]}}"#);
        check_error(&text, &format!("Not supported yet: {member}"));
    }
    let custom = r#"{"network_interfaces": [{"ip": "192.168.0.1/30", "tap_name": "vpc0"}]}"#;
    check_error(custom, "Not supported yet: ip");
}

#[test]
fn defaults_are_accepted_where_nothing_is_built() {
    let spec = parse(
        r#"{"network_policy": "allow-all", "audit": false, "exposed_ports": [], "publish": [], "limits": {},
            "annotations": {}, "gateway": null, "allowed_cidrs": null,
            "network_interfaces": [{"mode": "nat", "autoconfig": true, "relay": null}]}"#,
    );
    assert_eq!(spec, parse("{}"));
}
