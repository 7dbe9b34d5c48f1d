//! A real name server of the world: dnsmasq, with records of the test's and a log of what reached it.

use std::fs::{self, File};
use std::net::IpAddr;
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::deadline::wait_until;
use crate::name_server::{self, PORT};
use crate::netns::NetNs;

/// The zone that it answers for: of what else it is asked, it knows nothing either.
pub const ZONE: &str = "test";
/// A name that it always has, so that a test sees when it serves.
const PROBE: &str = "probe.test";

/// Within which it serves: the first question may be lost, which takes a while to be known.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A server that runs, and ends with this.
#[derive(Debug)]
pub struct Dnsmasq {
    process: Child,
    directory: TempDir,
}

impl Dnsmasq {
    /// Serves records at addresses of a namespace, over UDP and TCP. A record is an option of dnsmasq without its
    /// hyphens, as in `host-record=a.test,192.0.2.1,60`.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn start(netns: &NetNs, addresses: &[IpAddr], records: &[&str]) -> Self {
        let directory = TempDir::with_prefix("netagent-test-").expect("a temporary directory");
        let log = File::create(directory.path().join("log")).expect("a file of our own");
        let mut command = netns.command("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            "--user=root",
            "--pid-file=",
            "--cache-size=0",
            "--log-queries",
            "--log-facility=-",
        ]);
        command.arg(format!("--local=/{ZONE}/"));
        command.arg(format!("--host-record={PROBE},192.0.2.1"));
        for address in addresses {
            command.arg(format!("--listen-address={address}"));
        }
        for record in records {
            command.arg(format!("--{record}"));
        }
        let spawned = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let process = spawned.unwrap_or_else(|error| {
            panic!("cannot run dnsmasq: {error}; `cargo xtask setup` installs it")
        });
        let mut server = Self { process, directory };
        for address in addresses {
            server.wait_for_service(netns, *address);
        }
        server
    }

    fn wait_for_service(&mut self, netns: &NetNs, address: IpAddr) {
        wait_until("dnsmasq serves", START_LIMIT, || {
            let ended = self.process.try_wait().expect("a child of ours");
            assert!(ended.is_none(), "dnsmasq ended: {}", self.log());
            // It may not listen yet: that is told at once.
            name_server::ask_udp(netns, (address, PORT), PROBE).is_ok()
        });
    }

    /// The names that reached it, each as it was written, in order; the test's own probe is left out.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let asked = self.queries().into_iter();
        asked.map(|(_, name)| name).collect()
    }

    /// The types and names that reached it.
    #[must_use]
    pub fn queries(&self) -> Vec<(String, String)> {
        let log = self.log();
        let asked = log.lines().filter_map(|line| {
            let (_, query) = line.split_once(": query[")?;
            let (kind, rest) = query.split_once("] ")?;
            let (name, _) = rest.split_once(" from ")?;
            Some((kind.to_owned(), name.to_owned()))
        });
        asked.filter(|(_, name)| name != PROBE).collect()
    }

    fn log(&self) -> String {
        let log = fs::read(self.directory.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.process.id().cast_signed());
        let ended = kill(pid, Signal::SIGTERM).map_err(Into::into);
        if let Err(error) = ended.and_then(|()| self.process.wait()) {
            eprintln!("dnsmasq did not end: {error}");
        }
    }
}
