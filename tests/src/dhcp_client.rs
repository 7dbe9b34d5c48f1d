//! The DHCP clients of real images, busybox's udhcpc and ISC's dhclient, on an interface of a guest.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::deadline::{SOON, wait_for};
use crate::netns::NetNs;

/// What both call with what they learned.
const SCRIPT: &str = include_str!("dhcp_client.sh");

/// dhclient asks for what it is told to.
const DHCLIENT_CONFIGURATION: &str = "
option classless-routes code 121 = array of unsigned integer 8;
request subnet-mask, routers, domain-name-servers, host-name, interface-mtu, classless-routes;
timeout 10;
retry 1;
initial-interval 1;
";

/// Which client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// busybox's.
    Udhcpc,
    /// ISC's.
    Dhclient,
}

/// A client that runs in the foreground; dropping it ends it.
#[derive(Debug)]
pub struct DhcpClient {
    process: Child,
    directory: TempDir,
}

/// What the client learned: `ip`, `subnet`, `router`, `dns`, `hostname`, `mtu`, `serverid`, `lease`,
/// `staticroutes`; empty where it was not told.
pub type Lease = BTreeMap<String, String>;

impl DhcpClient {
    /// Starts a client on an interface that may be down.
    ///
    /// # Panics
    /// Where it is not installed.
    #[must_use]
    pub fn start(netns: &NetNs, interface: &str, program: Program) -> Self {
        let directory = TempDir::with_prefix("netagent-dhcp-").expect("a temporary directory");
        let place = |name: &str| directory.path().join(name);
        let script = place("script");
        fs::write(&script, SCRIPT).expect("a file of our own");
        let executable = Permissions::from_mode(0o755);
        fs::set_permissions(&script, executable).expect("a file of our own");
        netns.ip(&format!("link set {interface} up"));
        let mut command = match program {
            Program::Udhcpc => udhcpc(netns, interface, &script),
            Program::Dhclient => dhclient(netns, interface, &place),
        };
        command.env("lease_file", place("lease"));
        let log = fs::File::create(place("log")).expect("a file of our own");
        let errors = log.try_clone().expect("an open file");
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let spawned = command.spawn();
        let process = spawned.unwrap_or_else(|error| {
            panic!("cannot run {program:?}: {error}; `cargo xtask setup` installs it")
        });
        Self { process, directory }
    }

    /// What it has learned; waits for it.
    ///
    /// # Panics
    /// When it learns nothing; with what it wrote.
    pub fn lease(&self) -> Lease {
        let read = || fs::read_to_string(self.directory.path().join("lease")).ok();
        let found = std::panic::catch_unwind(|| wait_for("a lease", 2 * SOON, read));
        let text = found.unwrap_or_else(|_panic| panic!("no lease:\n{}", self.log()));
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// Tells udhcpc to renew its lease, and returns what it learned.
    ///
    /// # Panics
    /// When it learns nothing; with what it wrote.
    pub fn renew(&self) -> Lease {
        // What it learned before must not be taken for an answer.
        fs::remove_file(self.directory.path().join("lease")).expect("it has a lease");
        self.signal(Signal::SIGUSR1);
        self.lease()
    }

    /// Tells udhcpc to give its lease back.
    pub fn release(&self) {
        self.signal(Signal::SIGUSR2);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.id().cast_signed());
        kill(pid, signal).expect("a child of ours that was not waited for");
    }

    /// What it wrote.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for DhcpClient {
    fn drop(&mut self) {
        if let Err(error) = self.process.kill().and_then(|()| self.process.wait()) {
            eprintln!("the DHCP client {} did not end: {error}", self.process.id());
        }
    }
}

fn udhcpc(netns: &NetNs, interface: &str, script: &std::path::Path) -> Command {
    let mut command = netns.command("busybox");
    command.args(["udhcpc", "-f", "-i", interface, "-t", "5", "-T", "1"]);
    command.args(["-O", "mtu", "-O", "staticroutes", "-s"]);
    command.arg(script);
    command
}

fn dhclient(netns: &NetNs, interface: &str, place: &dyn Fn(&str) -> PathBuf) -> Command {
    fs::write(place("configuration"), DHCLIENT_CONFIGURATION).expect("a file of our own");
    let mut command = netns.command("dhclient");
    command
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .args(["-4", "-d"]);
    let files = [
        ("-cf", "configuration"),
        ("-sf", "script"),
        ("-lf", "leases"),
        ("-pf", "pid"),
    ];
    for (word, name) in files {
        command.arg(word).arg(place(name));
    }
    // dhclient hands its script a fresh environment.
    let lease = format!("lease_file={}", place("lease").display());
    command.args(["-e", &lease, interface]);
    command
}
