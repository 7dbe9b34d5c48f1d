use super::*;
use crate::gateway::host_end;
use crate::guest::{DefaultRoute, GuestV6};

/// An interface as the agent describes one: its own gateway is the name server, and no default route goes by it.
fn interface(index: usize, tap_name: &str, address: &str) -> GuestInterface {
    let address: Ipv4Net = address.parse().unwrap();
    let host = host_end(address);
    GuestInterface {
        index,
        tap_name: tap_name.into(),
        mac: [0xaa, 0xfc, 0, 0, 0, u8::try_from(index + 1).unwrap()],
        model: "virtio-net-pci".into(),
        queues: 1,
        mtu: 1500,
        autoconfig: true,
        address,
        host,
        route: None,
        nameservers: vec![host],
        v6: None,
        relay: false,
    }
}

fn routed(interface: GuestInterface, gateway: &str) -> GuestInterface {
    let gateway = gateway.parse().unwrap();
    let on_link = !interface.address.contains(&gateway);
    let route = Some(DefaultRoute { gateway, on_link });
    GuestInterface { route, ..interface }
}

fn with_v6(interface: GuestInterface, address: &str, gateway: Option<&str>) -> GuestInterface {
    let v6 = Some(GuestV6 {
        address: address.parse().unwrap(),
        whole_network: address.starts_with("fd"),
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        nameservers: vec!["fe80::1".parse().unwrap()],
    });
    GuestInterface { v6, ..interface }
}

/// An interface of the pool with the default routes.
fn pool() -> GuestInterface {
    let interface = routed(interface(0, "tap0", "172.16.0.2/30"), "172.16.0.1");
    with_v6(interface, "fd12:3456:789a::2/64", Some("fe80::1"))
}

fn guest(interfaces: Vec<GuestInterface>) -> GuestConfig {
    GuestConfig {
        hostname: "web".into(),
        interfaces,
    }
}

/// Compares every form of a guest with `golden/<name>.txt`; GOLDEN=write writes the file instead.
fn check(name: &str, guest: &GuestConfig) {
    let mut found = String::new();
    for format in Format::ALL {
        let text = format.print(guest);
        let text = text.unwrap_or_else(|error| format!("error: {error}\n"));
        found.push_str(&format!("### {}\n{text}", format.name()));
    }
    let path = format!("{}/src/guest/golden/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var("GOLDEN").is_ok_and(|mode| mode == "write") {
        std::fs::write(&path, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "{name}");
}

#[test]
fn one_interface_of_the_pool() {
    check("pool", &guest(vec![pool()]));
}

#[test]
fn the_default_route_goes_by_the_second_interface() {
    let first = GuestInterface {
        route: None,
        ..with_v6(pool(), "fd12:3456:789a::2/64", None)
    };
    let second = routed(interface(1, "vpc0", "192.168.0.1/30"), "192.168.0.2");
    let second = with_v6(second, "fec0::2/64", Some("fe80::1"));
    let third = interface(2, "tap1", "172.16.0.6/30");
    check("several", &guest(vec![first, second, third]));
}

#[test]
fn i17_an_interface_without_autoconfig_is_a_device_and_nothing_more() {
    let first = GuestInterface {
        autoconfig: false,
        ..interface(0, "tap0", "172.16.0.2/30")
    };
    let second = routed(interface(1, "tap1", "172.16.0.6/30"), "172.16.0.5");
    check("autoconfig", &guest(vec![first, second]));
    let none = GuestInterface {
        autoconfig: false,
        ..pool()
    };
    check("nothing", &guest(vec![none]));
}

#[test]
fn i15_a_gateway_outside_the_network_is_marked_on_link() {
    check(
        "off_link",
        &guest(vec![routed(
            interface(0, "tap0", "172.16.0.2/30"),
            "10.9.9.9",
        )]),
    );
}

#[test]
fn i16_a_guest_that_is_alone_in_its_network() {
    check(
        "alone",
        &guest(vec![routed(
            interface(0, "vpc0", "10.7.0.1/32"),
            "169.254.1.1",
        )]),
    );
    let second = interface(1, "vpc0", "10.7.0.1/32");
    check("alone_second", &guest(vec![pool(), second]));
    check(
        "pair",
        &guest(vec![routed(
            interface(0, "vpc0", "10.7.0.0/31"),
            "10.7.0.1",
        )]),
    );
}

#[test]
fn m7_another_mtu_is_told_to_the_guest_and_to_its_device() {
    let jumbo = GuestInterface {
        mtu: 9000,
        ..pool()
    };
    let small = GuestInterface {
        mtu: 1400,
        model: "e1000".into(),
        ..interface(1, "tap1", "172.16.0.6/30")
    };
    check("mtu", &guest(vec![jumbo, small]));
}

#[test]
fn m8_a_host_without_ipv6_gives_no_default_route() {
    let v4_only = with_v6(pool(), "fd12:3456:789a::2/64", None);
    check("v4_only_host", &guest(vec![v4_only]));
}

#[test]
fn i15_name_servers_of_the_users_choice() {
    let mut interface = pool();
    interface.nameservers = vec![[192, 0, 2, 53].into()];
    check("nameserver_v4", &guest(vec![interface]));
    let mut interface = pool();
    if let Some(v6) = &mut interface.v6 {
        v6.nameservers = vec!["2001:db8::53".parse().unwrap()];
    }
    check("nameserver_v6", &guest(vec![interface]));
}

#[test]
fn r9_a_relay_says_what_it_must_set() {
    let relay = |interface| GuestInterface {
        relay: true,
        ..interface
    };
    check("relay", &guest(vec![relay(pool())]));
    let second = relay(interface(1, "tap1", "172.16.0.6/30"));
    check("relay_v4", &guest(vec![pool(), second]));
}

#[test]
fn queues_and_models_show_in_the_arguments_of_qemu() {
    let of = |index: usize, queues, model: &str| GuestInterface {
        queues,
        model: model.into(),
        ..interface(
            index,
            &format!("tap{index}"),
            &format!("172.16.0.{}/30", 2 + 4 * index),
        )
    };
    let interfaces = vec![
        of(0, 4, "virtio-net-pci"),
        of(1, 2, "e1000"),
        of(2, 2, "virtio-net-device"),
        of(3, 1, "e1000"),
    ];
    check("queues", &guest(interfaces));
}

#[test]
fn the_short_name_of_the_usual_model_is_written_out_for_qemu() {
    let mut short = interface(0, "tap0", "172.16.0.2/30");
    short.model = "virtio".into();
    let text = Format::Qemu.print(&guest(vec![short])).unwrap();
    assert!(
        text.contains("-device virtio-net-pci,netdev=eth0,"),
        "{text}"
    );
}

#[test]
fn names_of_taps_pass_the_shell_and_qemu() {
    for (tap_name, expected) in [
        ("a,b", "tap,id=eth0,ifname=a,,b,script=no,downscript=no"),
        (
            "a'b",
            r"'tap,id=eth0,ifname=a'\''b,script=no,downscript=no'",
        ),
        (
            "$(id)",
            "'tap,id=eth0,ifname=$(id),script=no,downscript=no'",
        ),
        ("a=b", "tap,id=eth0,ifname=a=b,script=no,downscript=no"),
        (
            "a\"\\`",
            "'tap,id=eth0,ifname=a\"\\`,script=no,downscript=no'",
        ),
    ] {
        let guest = guest(vec![interface(0, tap_name, "172.16.0.2/30")]);
        let text = Format::Qemu.print(&guest).unwrap();
        let rest = "-device virtio-net-pci,netdev=eth0,mac=AA:FC:00:00:00:01\n";
        assert_eq!(text, format!("-netdev {expected} {rest}"));
        let text = Format::Firecracker.print(&guest).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["network-interfaces"][0]["host_dev_name"], tap_name);
    }
}

#[test]
fn a_model_that_is_no_name_adds_no_arguments() {
    for model in [
        "",
        "e1000,romfile=/etc/shadow",
        "-snapshot",
        "a b",
        "a\nb",
        "$(id)",
        "é",
    ] {
        let mut guest = guest(vec![interface(0, "tap0", "172.16.0.2/30")]);
        guest.interfaces[0].model = model.into();
        let error = Format::Qemu.print(&guest).unwrap_err().to_string();
        assert!(
            error.contains("eth0") && error.contains("-device help"),
            "{error}"
        );
        assert!(!error.contains('\n'), "{error}");
        assert!(Format::Json.print(&guest).is_ok());
    }
}

#[test]
fn every_format_has_one_name_everywhere() {
    use clap::ValueEnum;
    assert_eq!(Format::value_variants(), Format::ALL);
    for format in Format::ALL {
        assert_eq!(Format::parse(format.name()), Ok(format));
        let value = format.to_possible_value().unwrap();
        assert_eq!(value.get_name(), format.name());
    }
    let text = Format::parse("xml").unwrap_err().to_string();
    assert_eq!(
        text,
        "Unknown format 'xml': use json, cmdline, cloud-init, firecracker or qemu"
    );
}
