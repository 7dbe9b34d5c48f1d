//! VMs that are told nothing: by DHCP and router advertisements alone, and by what `netagent guest` prints.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use netagent_tests::agent::Agent;
use netagent_tests::server::Server;
use netagent_tests::world::{World, host_address, server_v4, server_v6};
use serde_json::{Value, json};
use xtask::guest::initramfs::Initramfs;
use xtask::guest::{Guest, NETWORK_CARD, NetworkCard};
use xtask::paths;

use crate::machine::{Machine, initramfs};

/// Time for the boot and everything that the guest does, under emulation on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// The page that the guest must see.
const PAGE: &str = "it works\n";

/// What its guests do with the network that they have.
const OBSERVED: &str = include_str!("observed.sh");

/// What udhcpc calls with what it learned.
const TAKE_LEASE: &str = "#!/bin/sh
[ \"$1\" = bound ] || exit 0
ip link set \"$interface\" mtu \"$mtu\"
ip addr add \"$ip/$mask\" dev \"$interface\"
ip route add default via \"$router\" dev \"$interface\"
echo \"$hostname $dns $mtu\" >/tmp/lease
";

/// A world with a page in both families, and an instance.
struct Scene {
    servers: Vec<(IpAddr, Server)>,
    instance: Value,
    agent: Agent,
    world: World,
}

impl Scene {
    fn new(spec: &Value) -> Self {
        let world = World::new();
        let addresses: [IpAddr; 2] = [server_v4(0).into(), server_v6(0).into()];
        let serve = |address| (address, Server::page(&world.outside, address, PAGE));
        let servers = addresses.map(serve).into();
        let agent = world.agent("");
        Self {
            servers,
            instance: agent.create(spec),
            agent,
            world,
        }
    }

    /// A VM in the namespace of the host, which is told of the world alone.
    fn machine(&self, files: Initramfs) -> Guest {
        let mut guest = Guest::new(files).unwrap();
        guest.namespace = Some(PathBuf::from(self.world.host.path()));
        let told = self.servers.iter();
        let told = told.map(|(address, _)| format!("na.world={address}"));
        guest.arguments.extend(told);
        guest
    }

    /// Boots it, and waits until it has seen every page.
    fn boot(&self, guest: &Guest) {
        let mut machine = Machine::boot(guest);
        machine.wait_for_line("guest: everything was reached", LIMIT);
        eprintln!("{}", machine.console());
        for (address, server) in &self.servers {
            let peers: Vec<IpAddr> = server.peers().iter().map(|peer| peer.ip()).collect();
            assert_eq!(peers, [host_address(address.is_ipv4())]);
        }
    }

    /// What `netagent guest` prints for the instance.
    fn printed(&self, format: &str) -> String {
        let name = self.instance["name"].as_str().unwrap();
        let output = self.agent.say(&["guest", name, "--format", format]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

/// The program with which Debian's initramfs obeys `ip=`: the kernel itself does so only where it was built to.
fn add_ipconfig(files: &mut Initramfs) {
    let (tree, missing) = (paths::klibc(), "run `cargo xtask setup`");
    let program = fs::read(tree.join("usr/lib/klibc/bin/ipconfig")).expect(missing);
    files.add_file("/bin/ipconfig", 0o755, program);
    for entry in fs::read_dir(tree.join("lib")).expect(missing) {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("klibc-") {
            files.add_file(&format!("/lib/{name}"), 0o755, fs::read(&path).unwrap());
        }
    }
}

#[test]
fn a_vm_with_nothing_but_dhcp_and_advertisements_fetches_a_page_over_both_families() {
    let scene = Scene::new(&json!({ "name": "machine", "mtu": 1_400 }));
    let mut files = initramfs(
        &[OBSERVED, include_str!("configures_itself.sh")].concat(),
        &NETWORK_CARD,
    );
    files.add_file("/bin/take-lease", 0o755, TAKE_LEASE);
    add_ipconfig(&mut files);
    let mut guest = scene.machine(files);
    let interface = &scene.instance["network_interfaces"][0];
    let text = |member: &str| interface[member].as_str().unwrap().to_owned();
    guest.cards.push(NetworkCard {
        tap: text("tap_name"),
        mac: text("mac"),
    });
    let (tap_ip, mtu) = (text("tap_ip"), &interface["mtu"]);
    guest.arguments.push("ip=dhcp".to_owned());
    guest.arguments.push(format!("na.ip={}", text("ip")));
    guest.arguments.push(format!("na.gateway={tap_ip}"));
    guest.arguments.push(format!("na.mtu={mtu}"));
    scene.boot(&guest);
}

#[test]
fn a_vm_started_with_the_printed_qemu_arguments_and_command_line_has_its_network() {
    let spec = json!({
        "name": "pasted",
        "mtu": 1_400,
        "network_interfaces": [
            {},
            { "ip": "192.168.0.1/30", "ip6": "fec0::2/64", "tap_name": "vpc0", "mtu": 1_300, "queues": 2 },
        ],
    });
    let scene = Scene::new(&spec);
    let mut files = initramfs(
        &[OBSERVED, include_str!("pasted.sh")].concat(),
        &NETWORK_CARD,
    );
    add_ipconfig(&mut files);
    let mut guest = scene.machine(files);
    // No word of these is quoted: they hold no blanks.
    let devices = scene.printed("qemu");
    assert!(!devices.contains('\''), "{devices}");
    guest.devices = devices.split_whitespace().map(str::to_owned).collect();
    let words = scene.printed("cmdline");
    let words = words.split_whitespace().map(str::to_owned);
    guest.arguments.extend(words);
    for (index, interface) in scene.instance["network_interfaces"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
    {
        let text = |member: &str| interface[member].as_str().unwrap().to_lowercase();
        let expected = format!(
            "na.expected=eth{index},{},{},{}",
            text("mac"),
            text("ip"),
            interface["mtu"]
        );
        guest.arguments.push(expected);
    }
    let gateway = scene.instance["gateway"].as_str().unwrap();
    guest.arguments.push(format!("na.gateway={gateway}"));
    scene.boot(&guest);
}
