//! A VM plugged into a TAP of netagent.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use netagent_tests::netns::NetNs;
use netagent_tests::ping::ping;
use netagent_tests::world::{ROUTER_V4, World, server_v4, server_v6};
use serde_json::json;
use tempfile::TempDir;
use xtask::guest::{Guest, NETWORK_CARD};
use xtask::paths;

use crate::machine::{Machine, initramfs};

/// Time for the boot and everything that the guest does, under emulation on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Lines of the page: some 200 segments of TCP.
const LINES: u32 = 20_000;

const SCRIPT: &str = include_str!("on_a_tap.sh");

#[test]
fn a_vm_on_a_tap_of_netagent_reaches_the_world() {
    let world = World::new();
    let server = WebServer::start(&world.outside);
    let agent = world.agent("");
    let instance = agent.create(&json!({ "name": "machine" }));
    let interface = &instance["network_interfaces"][0];

    let mut guest = Guest::new(initramfs(SCRIPT, &NETWORK_CARD)).unwrap();
    guest.plug_in(interface).unwrap();
    guest.namespace = Some(PathBuf::from(world.host.path()));
    guest.arguments.extend([
        format!("na.world=http://{}/", server_v4(0)),
        format!("na.world=http://[{}]/", server_v6(0)),
        format!("na.world=http://{ROUTER_V4}/"),
        format!("na.page={}", server.page_sum()),
    ]);
    let mut machine = Machine::boot(&guest);
    machine.wait_for_line("guest: everything was reached", LIMIT);

    for member in ["ip", "ip6"] {
        let network = interface[member].as_str().unwrap();
        let address: std::net::IpAddr = network.split('/').next().unwrap().parse().unwrap();
        ping(&world.host, address, (3, 1_000)).unwrap();
    }
    eprintln!("{}", machine.console());
}

/// A web server of the world, with one page.
struct WebServer {
    process: Child,
    directory: TempDir,
}

impl WebServer {
    /// Serves port 80 of every address.
    fn start(netns: &NetNs) -> Self {
        let directory = TempDir::with_prefix("netagent-www-").unwrap();
        let page: String = (1..=LINES)
            .map(|line| format!("line {line:08}\n"))
            .collect();
        fs::write(directory.path().join("index.html"), page).unwrap();
        let mut command = netns.command(paths::BUSYBOX);
        // Bound to the IPv6 wildcard, it answers IPv4 too.
        command.args(["httpd", "-f", "-p", "[::]:80", "-h"]);
        command.arg(directory.path()).stdin(Stdio::null());
        let process = command.spawn().unwrap_or_else(|error| {
            panic!("cannot run busybox: {error}; `cargo xtask setup` installs it")
        });
        Self { process, directory }
    }

    /// What `sha256sum` says of the page.
    fn page_sum(&self) -> String {
        let netns = NetNs::current();
        let page = self.directory.path().join("index.html");
        let line = netns.shell(&format!("{} sha256sum {}", paths::BUSYBOX, page.display()));
        line.split(' ').next().unwrap().to_owned()
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        if let Err(error) = self.process.kill().and_then(|()| self.process.wait()) {
            eprintln!("the web server {} did not end: {error}", self.process.id());
        }
    }
}
