use serde_json::json;

use super::*;
use crate::spec::{Grant, InstanceSpec};

fn spec(request: &Value) -> Result<InstanceSpec, String> {
    let parsed = InstanceSpec::parse(request.to_string().as_bytes(), Grant::ALL);
    parsed.map_err(|error| error.to_string())
}

fn published(entry: Value) -> Result<PublishedPort, String> {
    let mut spec = spec(&json!({ "publish": [entry] }))?;
    Ok(spec.ports.published.remove(0))
}

fn check(entry: Value, expected: &str) {
    let port = published(entry.clone()).unwrap_or_else(|error| panic!("{entry}: {error}"));
    assert_eq!(port.to_string(), expected, "{entry}");
    let again = published(json!(expected)).expect(expected);
    assert_eq!(again, port, "what is shown of {entry} is read again");
}

fn check_refused(entry: Value, reason: &str) {
    let named = entry
        .as_str()
        .map_or_else(|| entry.to_string(), str::to_owned);
    let expected = format!("Invalid entry '{named}' of member 'publish': {reason}");
    assert_eq!(published(entry), Err(expected));
}

#[test]
fn n3_every_way_of_writing_is_read() {
    check(json!("8080"), "8080:8080/tcp");
    check(json!("8080/udp"), "8080:8080/udp");
    check(json!("8080:80"), "8080:80/tcp");
    check(json!("8080:80/udp"), "8080:80/udp");
    check(json!("127.0.0.1:8080:80/tcp"), "127.0.0.1:8080:80/tcp");
    check(json!("[::1]:8080:80"), "[::1]:8080:80/tcp");
    check(
        json!("[2001:DB8:0::9]:1:65535"),
        "[2001:db8::9]:1:65535/tcp",
    );
    check(
        json!("8080:80 from 10.0.0.0/8"),
        "8080:80/tcp from 10.0.0.0/8",
    );
    check(
        json!("127.0.0.1:8080:80/udp from 10.1.2.3/8, 192.0.2.1 2001:db8::/32,10.0.0.0/8"),
        "127.0.0.1:8080:80/udp from 10.0.0.0/8,192.0.2.1/32,2001:db8::/32",
    );
    check(
        json!("1:1 from 0.0.0.0/0,::/0"),
        "1:1/tcp from 0.0.0.0/0,::/0",
    );
}

#[test]
fn n3_an_object_says_the_same() {
    check(json!({"host_port": 8080}), "8080:8080/tcp");
    check(
        json!({"host_port": 8080, "guest_port": 80, "proto": "udp", "address": "::1",
            "allow_from": ["10.0.0.0/8", "::1"]}),
        "[::1]:8080:80/udp from 10.0.0.0/8,::1/128",
    );
    check(
        json!({"host_port": 8080, "guest_port": null, "proto": null, "address": null, "allow_from": null}),
        "8080:8080/tcp",
    );
}

const FORM: &str = "use <host port>, <host port>:<guest port> or <address>:<host port>:<guest port>, with /tcp or \
    /udp behind it, and ' from <network>, ...' where not everybody may use it";

#[test]
fn a_malformed_text_is_refused_with_the_entry_and_how_it_should_look() {
    let port = |text: &str| format!("'{text}' is no port: use 1 to 65535");
    for (entry, part) in [
        ("", ""),
        ("0", "0"),
        ("0:80", "0"),
        ("80:0", "0"),
        ("65536", "65536"),
        ("8080:65536", "65536"),
        ("99999999999999999999:80", "99999999999999999999"),
        ("-1", "-1"),
        ("+80", "+80"),
        ("080", "080"),
        ("8080-8090", "8080-8090"),
        ("8080:", ""),
        (":80", ""),
        ("http", "http"),
        (" 8080", " 8080"),
        ("8080 ", "8080 "),
        ("8080 :80", "8080 "),
        ("8080, 8081", "8080, 8081"),
        ("٨٠", "٨٠"),
        ("127.0.0.1:8080", "127.0.0.1"),
    ] {
        check_refused(json!(entry), &port(part));
    }
    for entry in [
        "1:2:3:4:5",
        "::1:8080:80",
        "[::1]8080:80",
        "[::1]:8080",
        "[::1",
        "80 from10.0.0.0/8",
    ] {
        check_refused(json!(entry), FORM);
    }
    for (entry, part) in [
        ("80/sctp", "sctp"),
        ("80/", ""),
        ("80/TCP", "TCP"),
        ("80/tcp/udp", "tcp/udp"),
        ("80/tcp ", "tcp "),
    ] {
        check_refused(
            json!(entry),
            &format!("protocol '{part}' is not known: use tcp or udp"),
        );
    }
    for (entry, part) in [
        ("localhost:8080:80", "localhost"),
        ("web.example:8080:80", "web.example"),
        (":8080:80", ""),
        ("127.1:8080:80", "127.1"),
        ("010.0.0.1:8080:80", "010.0.0.1"),
        ("[127.0.0.1]:8080:80", "127.0.0.1"),
        ("[fe80::1%eth0]:8080:80", "fe80::1%eth0"),
        ("[::1/128]:8080:80", "::1/128"),
    ] {
        // "/128" would be the protocol of a text without brackets.
        let expected = if part.contains('/') {
            "protocol '128]:8080:80' is not known: use tcp or udp".to_owned()
        } else {
            format!(
                "'{part}' is no IP address: use one of the host's, an IPv6 one in brackets, or leave it out for all of them"
            )
        };
        check_refused(json!(entry), &expected);
    }
}

#[test]
fn addresses_that_no_host_has_for_itself_are_refused() {
    for address in [
        "0.0.0.0",
        "0.1.2.3",
        "224.0.0.251",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "ff02::1",
        "fe80::1",
        "::ffff:127.0.0.1",
    ] {
        let parsed: IpAddr = address.parse().unwrap();
        let reason = format!(
            "address {parsed} cannot be published on: use a unicast address of the host, or leave it out for all of them"
        );
        let text = if parsed.is_ipv4() {
            format!("{address}:80:80")
        } else {
            format!("[{address}]:80:80")
        };
        check_refused(json!(text), &reason);
        check_refused(json!({"host_port": 80, "address": address}), &reason);
    }
}

#[test]
fn p10_networks_that_are_none_have_its_texts() {
    for (network, reason) in [
        ("10.0.0.0/33", "Invalid CIDR prefix length: 33"),
        ("::/129", "Invalid CIDR prefix length: 129"),
        ("10.0.0.0/999", "Invalid CIDR prefix length: 999"),
        (
            "10.0.0/8",
            "Invalid CIDR format: \"10.0.0/8\". Expected format: x.x.x.x/y",
        ),
        (
            "10.0.0.0/",
            "Invalid CIDR format: \"10.0.0.0/\". Expected format: x.x.x.x/y",
        ),
        (
            "10.0.0.0/08",
            "Invalid CIDR format: \"10.0.0.0/08\". Expected format: x.x.x.x/y",
        ),
        (
            "10.0.0.0/-1",
            "Invalid CIDR format: \"10.0.0.0/-1\". Expected format: x.x.x.x/y",
        ),
        (
            "everybody",
            "Invalid CIDR format: \"everybody\". Expected format: x.x.x.x/y",
        ),
        (
            "::ffff:10.0.0.0/104",
            "Invalid CIDR format: \"::ffff:10.0.0.0/104\". Expected format: x.x.x.x/y",
        ),
    ] {
        check_refused(json!(format!("80 from {network}")), reason);
        check_refused(json!({"host_port": 80, "allow_from": [network]}), reason);
    }
    let nobody = "it names nobody who may use it: name networks, or leave that out for everybody";
    for entry in ["80 from", "80 from ", "80 from ,, "] {
        check_refused(json!(entry), nobody);
    }
    check_refused(json!({"host_port": 80, "allow_from": []}), nobody);
    let many: Vec<String> = (0..=ALLOW_FROM_MAX)
        .map(|n| format!("10.0.{}.{}", n >> 8, n & 255))
        .collect();
    let error = published(json!({"host_port": 80, "allow_from": many})).unwrap_err();
    assert!(
        error.ends_with("...' of member 'publish': it names more than 256 networks"),
        "{error}"
    );
}

#[test]
fn a_malformed_object_is_refused() {
    check_refused(json!({"guest_port": 80}), "member 'host_port' is missing");
    check_refused(json!({"host_port": 0}), "'0' is no port: use 1 to 65535");
    check_refused(
        json!({"host_port": 80, "guest_port": 65536}),
        "'65536' is no port: use 1 to 65535",
    );
    check_refused(
        json!({"host_port": 80, "proto": "sctp"}),
        "protocol 'sctp' is not known: use tcp or udp",
    );
    let text = |request: Value| spec(&request).unwrap_err();
    assert_eq!(
        text(json!({"publish": [{"host_port": 80, "colour": 1}]})),
        "Unknown member 'colour'"
    );
    assert_eq!(
        text(json!({"publish": [{"host_port": "80"}]})),
        "Member 'host_port' must be a whole number"
    );
    assert_eq!(
        text(json!({"publish": [{"host_port": -1}]})),
        "Member 'host_port' must be a whole number"
    );
    assert_eq!(
        text(json!({"publish": [{"host_port": 80, "allow_from": "10.0.0.0/8"}]})),
        "Member 'allow_from' must be a list of texts"
    );
    assert_eq!(
        text(json!({"publish": [80]})),
        "Member 'publish' must be a list of texts or objects"
    );
    assert_eq!(
        text(json!({"publish": "80"})),
        "Member 'publish' must be a list of texts or objects"
    );
}

#[test]
fn a_port_twice_in_the_list_is_refused_as_two_binds_would_be() {
    let both = |first: &str, second: &str| spec(&json!({"publish": [first, second]}));
    for (first, second) in [
        ("8080", "8080:81"),
        ("8080", "127.0.0.1:8080:81"),
        ("[::1]:8080:80", "8080"),
        ("127.0.0.1:8080:80", "127.0.0.1:8080:81"),
    ] {
        let shown = published(json!(first)).unwrap();
        let expected = format!(
            "Invalid entry '{second}' of member 'publish': entry '{shown}' of the list has that port already"
        );
        assert_eq!(both(first, second).unwrap_err(), expected);
    }
    for (first, second) in [
        ("8080", "8080/udp"),
        ("8080:80", "8081:80"),
        ("127.0.0.1:8080:80", "[::1]:8080:80"),
        ("127.0.0.1:8080:80", "127.0.0.2:8080:80"),
    ] {
        assert!(both(first, second).is_ok(), "{first} {second}");
    }
}

#[test]
fn n4_exposed_ports_are_numbers_or_texts() {
    let exposed = |list: Value| {
        let spec = spec(&json!({ "exposed_ports": list }))?;
        let shown = spec.ports.exposed.iter().map(ToString::to_string);
        Ok::<_, String>(shown.collect::<Vec<_>>())
    };
    assert_eq!(
        exposed(json!([80, "53/udp", "443"])).unwrap(),
        ["53/udp", "80/tcp", "443/tcp"]
    );
    assert_eq!(exposed(json!([])).unwrap(), [""; 0]);
    for (entry, reason) in [
        (json!(0), "'0' is no port: use 1 to 65535"),
        (json!(65536), "'65536' is no port: use 1 to 65535"),
        (
            json!("80/sctp"),
            "protocol 'sctp' is not known: use tcp or udp",
        ),
        (json!(""), "use <port>, with /tcp or /udp behind it"),
        (json!("80:80"), "use <port>, with /tcp or /udp behind it"),
        (json!("web"), "'web' is no port: use 1 to 65535"),
    ] {
        let named = entry
            .as_str()
            .map_or_else(|| entry.to_string(), str::to_owned);
        let expected = format!("Invalid entry '{named}' of member 'exposed_ports': {reason}");
        assert_eq!(exposed(json!([entry])), Err(expected));
    }
    assert_eq!(
        exposed(json!([80, "80/tcp"])),
        Err("Invalid entry '80/tcp' of member 'exposed_ports': entry '80/tcp' of the list has that port already".into())
    );
    assert_eq!(
        exposed(json!([-80])),
        Err("Member 'exposed_ports' must be a list of whole numbers or texts".into())
    );
}

#[test]
fn lists_have_an_end() {
    let many: Vec<String> = (0..=PUBLISH_MAX).map(|n| (1024 + n).to_string()).collect();
    assert_eq!(
        spec(&json!({ "publish": many })).unwrap_err(),
        "Member 'publish' has 1025 entries, and may have 1024"
    );
    assert!(spec(&json!({ "publish": many[..PUBLISH_MAX] })).is_ok());
    assert_eq!(
        spec(&json!({ "exposed_ports": many })).unwrap_err(),
        "Member 'exposed_ports' has 1025 entries, and may have 1024"
    );
}

#[test]
fn only_senders_that_are_named_may_use_it() {
    let port = published(json!("80 from 10.0.0.0/8,2001:db8::/32")).unwrap();
    for (client, expected) in [
        ("10.255.0.1", true),
        ("11.0.0.1", false),
        ("::ffff:10.0.0.1", true),
        ("2001:db8:1::1", true),
        ("2001:db9::1", false),
    ] {
        assert_eq!(port.allows(client.parse().unwrap()), expected, "{client}");
    }
    assert!(
        published(json!("80"))
            .unwrap()
            .allows("192.0.2.1".parse().unwrap())
    );
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    fn any_network() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (any::<[u8; 4]>(), 0..=32_u8).prop_map(|(bits, length)| IpNet::new_assert(
                IpAddr::from(bits),
                length
            )
            .trunc()),
            (any::<[u8; 16]>(), 0..=128_u8).prop_map(|(bits, length)| IpNet::new_assert(
                IpAddr::from(bits),
                length
            )
            .trunc()),
        ]
        .prop_filter("no IPv4 in IPv6 clothes", |network| {
            network.addr().to_canonical() == network.addr()
        })
    }

    fn any_address() -> impl Strategy<Value = Option<IpAddr>> {
        let any = prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 16]>().prop_map(IpAddr::from),
        ];
        prop::option::of(any.prop_filter("publishable", |address| is_publishable(*address)))
    }

    proptest! {
        #[test]
        fn what_is_shown_is_what_was_read(
            address in any_address(), port in 1..=u16::MAX, guest_port in 1..=u16::MAX, udp: bool,
            networks in prop::collection::btree_set(any_network(), 0..5),
        ) {
            let protocol = if udp { PortProtocol::Udp } else { PortProtocol::Tcp };
            let port = PublishedPort {
                at: HostPort { port, protocol, address },
                guest_port,
                allow_from: (!networks.is_empty()).then_some(networks),
            };
            prop_assert_eq!(published(json!(port.to_string())), Ok(port));
        }

        #[test]
        fn any_text_is_read_or_refused_by_name(text in "[0-9a-f:./\\[\\] ,fromtcpud]{0,40}") {
            match published(json!(&text)) {
                Ok(port) => prop_assert_eq!(published(json!(port.to_string())), Ok(port)),
                Err(error) => {
                    let start = format!("Invalid entry '{text}' of member 'publish': ");
                    prop_assert!(error.starts_with(&start), "{}", error);
                }
            }
        }
    }
}
