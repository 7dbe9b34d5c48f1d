//! What `netagent guest` prints (G-2), from real instances, and QEMU started with exactly that.

use std::process::{Child, Stdio};

use netagent_tests::agent::Agent;
use netagent_tests::cloud_init::{Renderer, render};
use netagent_tests::deadline::{SOON, wait_for};
use netagent_tests::netns::NetNs;
use netagent_tests::world::World;
use serde_json::{Value, json};

const FORMATS: [&str; 5] = ["json", "cmdline", "cloud-init", "firecracker", "qemu"];

/// An interface of the pool, one that the guest does not configure, and one of the user's with the default route.
fn three_interfaces(name: &str) -> Value {
    json!({ "name": name, "gateway": "192.168.0.2", "network_interfaces": [
        {}, { "autoconfig": false },
        { "ip": "192.168.0.1/30", "tap_name": "vpc0", "mac": "02:00:00:00:00:07", "model": "e1000", "mtu": 1400 },
    ] })
}

fn printed(agent: &Agent, name: &str, format: &str) -> String {
    agent.cli("guest", &[name, "--format", format])
}

fn printed_json(agent: &Agent, name: &str, format: &str) -> Value {
    let text = printed(agent, name, format);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{format}: {error}: {text}"))
}

#[test]
fn g2_the_command_line_prints_what_the_api_answers() {
    let world = World::new();
    let agent = world.agent("");
    agent.create(&three_interfaces("web"));
    for format in FORMATS {
        let text = printed(&agent, "web", format);
        for prefix in ["/v1/instances", "/machines"] {
            let answer = agent.api("GET", &format!("{prefix}/web/guest?format={format}"), "");
            assert_eq!(answer.status, 200, "{format}: {answer:?}");
            // What is no JSON comes as a string.
            let expected = serde_json::from_str(&text).unwrap_or_else(|_error| json!(text));
            assert_eq!(answer.body, expected, "{format}");
        }
    }
    let default = agent.cli("guest", &["web"]);
    assert_eq!(default, printed(&agent, "web", "json"));
    assert_eq!(default, agent.cli("guest", &["web", "--json"]));
    let wrapped = agent.say_json(&["guest", "web", "--format", "qemu", "--json"]);
    let text = format!("{}\n", wrapped["text"].as_str().unwrap());
    assert_eq!(text, printed(&agent, "web", "qemu"));
}

#[test]
fn g2_the_guests_formats_follow_autoconfig_and_the_vmms_list_every_device() {
    let world = World::new();
    let agent = world.agent("");
    agent.create(&three_interfaces("web"));
    let described = printed_json(&agent, "web", "json");
    let interfaces = described["interfaces"].as_array().unwrap();
    let devices: Vec<_> = interfaces.iter().map(|one| one["device"].clone()).collect();
    assert_eq!(devices, ["eth0", "eth2"]);
    assert_eq!(interfaces[0].get("gateway"), None);
    assert_eq!(interfaces[1]["gateway"], "192.168.0.2");
    assert_eq!(interfaces[1]["on_link"], false);
    assert_eq!(interfaces[1]["mtu"], 1400);
    assert_eq!(
        printed(&agent, "web", "cmdline"),
        "ip=172.16.0.2:::255.255.255.252:web:eth0:off:172.16.0.1 \
         ip=192.168.0.1::192.168.0.2:255.255.255.252:web:eth2:off:172.16.0.1\n"
    );
    let devices = printed_json(&agent, "web", "firecracker");
    let device = |index: usize, mac: &str, tap: &str| json!({ "iface_id": format!("eth{index}"), "guest_mac": mac, "host_dev_name": tap });
    let expected = json!({ "network-interfaces": [
        device(0, "AA:FC:00:00:00:01", "tap0"),
        device(1, "AA:FC:00:00:00:02", "tap1"),
        device(2, "02:00:00:00:00:07", "vpc0"),
    ] });
    assert_eq!(devices, expected);
    let text = printed(&agent, "web", "cloud-init");
    assert!(
        text.contains("    eth2:\n") && !text.contains("eth1"),
        "{text}"
    );
}

/// A paused VM with these arguments, as a shell takes them; dropping it ends it.
struct Paused(Child);

impl Paused {
    fn start(netns: &NetNs, arguments: &str) -> Self {
        let line = format!(
            "exec qemu-system-x86_64 -accel tcg -machine q35 -m 64 -nodefaults -display none -S {}",
            arguments.trim_end()
        );
        let mut command = netns.command("sh");
        let spawned = command.args(["-c", &line]).stdin(Stdio::null()).spawn();
        Self(spawned.expect("a shell is there"))
    }

    /// Waits until it holds every TAP of the instance.
    fn wait_until_attached(&mut self, agent: &Agent, name: &str) {
        wait_for("QEMU holds every TAP", SOON, || {
            let ended = self.0.try_wait().expect("a child of ours");
            assert_eq!(ended, None, "QEMU refused its arguments");
            let shown = agent.inspect(name);
            let interfaces = shown["network_interfaces"].as_array().unwrap();
            let held = interfaces.iter().all(|one| one["attached"] == true);
            held.then_some(())
        });
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("QEMU {} did not end: {error}", self.0.id());
        }
    }
}

#[test]
fn g2_qemu_starts_with_exactly_the_arguments() {
    let world = World::new();
    let agent = world.agent("");
    agent.create(&three_interfaces("plain"));
    agent.create(&json!({ "name": "queues", "network_interfaces": [
        { "queues": 4 },
        { "queues": 2, "model": "e1000" },
        { "ip": "10.7.0.1/32", "tap_name": "a,b'$c", "queues": 2, "mtu": 1400 },
    ] }));
    for name in ["plain", "queues"] {
        let arguments = printed(&agent, name, "qemu");
        assert_eq!(arguments.lines().count(), 1, "{arguments}");
        let mut machine = Paused::start(&world.host, &arguments);
        machine.wait_until_attached(&agent, name);
    }
}

#[test]
fn i15_i16_a_gateway_outside_the_network_is_on_link() {
    let world = World::new();
    let agent = world.agent("");
    agent.create(&json!({ "name": "off", "gateway": "10.9.9.9" }));
    agent.create(&json!({ "name": "alone", "network_interfaces": [
        { "ip": "10.7.0.1/32", "tap_name": "vpc0" }
    ] }));
    for (name, gateway) in [("off", "10.9.9.9"), ("alone", "169.254.1.1")] {
        let described = printed_json(&agent, name, "json");
        let interface = &described["interfaces"][0];
        assert_eq!(interface["gateway"], gateway, "{name}");
        assert_eq!(interface["on_link"], true, "{name}");
        let text = printed(&agent, name, "cloud-init");
        let route = format!("via: \"{gateway}\"\n          on-link: true\n");
        assert!(text.contains(&route), "{text}");
    }
    // The kernel wants a gateway within the network: the host's end is one.
    assert!(printed(&agent, "off", "cmdline").starts_with("ip=172.16.0.2::172.16.0.1:"));
    let refused = agent.try_cli("guest", &["alone", "--format", "cmdline"]);
    let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{complaint}");
    assert!(
        complaint.contains("eth0") && complaint.contains("cloud-init"),
        "{complaint}"
    );
    assert!(refused.stdout.is_empty(), "{refused:?}");
}

#[test]
fn g2_what_is_unknown_is_said() {
    let world = World::new();
    let agent = world.agent("");
    agent.create(&json!({ "name": "web" }));
    let unknown = agent.api("GET", "/v1/instances/web/guest?format=xml", "");
    assert_eq!(unknown.status, 400);
    assert_eq!(
        unknown.message(),
        "Unknown format 'xml': use json, cmdline, cloud-init, firecracker or qemu"
    );
    let nobody = agent.api("GET", "/machines/nobody/guest?format=qemu", "");
    assert_eq!(
        (nobody.status, nobody.message()),
        (404, "Instance 'nobody' not found")
    );
    for (arguments, code, text) in [
        (&["web", "--format", "xml"][..], 2, "cloud-init"),
        (&["nobody"], 1, "Instance 'nobody' not found"),
        (&[], 2, "<INSTANCE>"),
    ] {
        let output = agent.try_cli("guest", arguments);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {complaint}"
        );
        assert!(complaint.contains(text), "{arguments:?}: {complaint}");
        assert!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
    }
}

/// What each kind of image is told of the instance with three interfaces, in its own words.
const fn told(renderer: Renderer) -> [&'static str; 7] {
    match renderer {
        Renderer::Netplan => [
            "- 172.16.0.2/30",
            "- 192.168.0.1/30",
            "gateway4: 192.168.0.2",
            "gateway6: fe80::1",
            "mtu: 1400",
            "accept-ra: false",
            "set-name: eth2",
        ],
        Renderer::Eni => [
            "address 172.16.0.2/30",
            "address 192.168.0.1/30",
            "gateway 192.168.0.2",
            "gateway fe80::1",
            "mtu 1400",
            "dns-nameservers 172.16.0.1",
            "NAME=\"eth2\"",
        ],
        Renderer::Networkd => [
            "Address=172.16.0.2/30",
            "Address=192.168.0.1/30",
            "Gateway=192.168.0.2",
            "Gateway=fe80::1",
            "MTUBytes=1400",
            "DNS=172.16.0.1",
            "Name=eth2",
        ],
        Renderer::Sysconfig => [
            "IPADDR=172.16.0.2",
            "IPADDR=192.168.0.1",
            "GATEWAY=192.168.0.2",
            "IPV6_DEFAULTGW=fe80::1",
            "MTU=1400",
            "DNS1=172.16.0.1",
            "DEVICE=eth2",
        ],
    }
}

#[test]
fn g2_cloud_init_reads_it_for_every_kind_of_image() {
    let world = World::new();
    let agent = world.agent("");
    let created = agent.create(&three_interfaces("web"));
    let address = created["network_interfaces"][0]["ip6"].as_str().unwrap();
    let text = printed(&agent, "web", "cloud-init");
    for renderer in Renderer::ALL {
        let files: Vec<String> = render(&text, renderer).into_values().collect();
        let all = files.join("\n");
        for expected in told(renderer) {
            assert!(
                all.contains(expected),
                "{renderer:?}: no {expected}:\n{all}"
            );
        }
        assert!(all.contains(address), "{renderer:?}: no {address}:\n{all}");
        // The one that the guest does not configure.
        let hidden = all.contains("eth1") || all.to_lowercase().contains("aa:fc:00:00:00:02");
        assert!(!hidden, "{renderer:?}:\n{all}");
    }
}

#[test]
fn i15_cloud_init_marks_a_gateway_outside_the_network() {
    let world = World::new();
    let agent = world.agent("");
    agent.create(&json!({ "name": "off", "gateway": "10.9.9.9" }));
    let text = printed(&agent, "off", "cloud-init");
    for renderer in Renderer::ALL {
        let files: Vec<String> = render(&text, renderer).into_values().collect();
        assert!(
            files.iter().any(|file| file.contains("10.9.9.9")),
            "{renderer:?}: {files:#?}"
        );
    }
    let files = render(&text, Renderer::Netplan);
    assert!(
        files.values().any(|file| file.contains("on-link: true")),
        "{files:#?}"
    );
}
