//! einat: programs of eBPF on tc of the uplink translate what the kernel forwards, for as long as a process holds them.

use std::fs::{self, File};
use std::process::{Child, Stdio};

use aya::programs::{SchedClassifier, TcAttachType};
use tempfile::TempDir;

use netagent_tests::agent::START_LIMIT;
use netagent_tests::deadline::{Deadline, wait_for};
use netagent_tests::netns::NetNs;
use netagent_tests::world::{UPLINK, World};

/// What a reader of its figures has to know.
pub(super) const REMARK: &str = "einat: one port of the uplink for each port of a guest, whatever the destination (full cone), of 1,024 to 65,535, so that all flows fit; no filter; frames that open a flow were sent again where it had no timer for it, and a round is without it where that took more than five seconds";

/// Ports as those of masquerade: one that is free stays as it is. The uplink's link-local address is nobody's.
const CONFIGURATION: &str = r#"
[defaults]
tcp_ranges = ["1024-65535"]
udp_ranges = ["1024-65535"]

[[interfaces]]
if_name = "uplink0"
nat44 = true
nat66 = true

[[interfaces.externals]]
match_address = "fe80::/10"
no_snat = true
no_hairpin = true
"#;

/// A process of it that runs, until it is dropped.
#[derive(Debug)]
pub(super) struct Einat {
    process: Child,
    /// Where its configuration is, and what it wrote.
    directory: TempDir,
}

impl Einat {
    /// Starts it for the uplink, and waits until its programs are there; or says why they are not.
    ///
    /// # Errors
    /// What it complains of, where it does not start here.
    pub(super) fn start(host: &NetNs) -> Result<Self, String> {
        let directory = TempDir::with_prefix("netagent-bench-").expect("a temporary directory");
        let configuration = directory.path().join("einat.toml");
        fs::write(&configuration, CONFIGURATION).expect("a file of our own");
        let log = File::create(directory.path().join("log")).expect("a file of our own");
        let mut command = host.command("einat");
        command
            .arg("--config")
            .arg(&configuration)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file of our own"))
            .stderr(log);
        let process = command.spawn().map_err(|error| format!("einat: {error}"))?;
        let mut einat = Self { process, directory };
        // Loading programs costs most of it, as of the agent's.
        einat.attached(host)?;
        Ok(einat)
    }

    /// Where it cannot load its programs it says so, and goes on running.
    fn attached(&mut self, host: &NetNs) -> Result<(), String> {
        let deadline = Deadline::after(START_LIMIT);
        wait_for("einat attaches or is out of time", 2 * START_LIMIT, || {
            if is_attached(host) {
                return Some(Ok(()));
            }
            let has_ended = self.process.try_wait().expect("a child of ours").is_some();
            let log = self.log();
            let is_over = has_ended || log.contains("ERROR") || deadline.remaining().is_none();
            is_over.then(|| Err(format!("einat does not attach: {}", log.trim())))
        })
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Einat {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("einat's log:\n{}", self.log());
        }
        if let Err(error) = self.process.kill().and_then(|()| self.process.wait()) {
            eprintln!("einat did not end: {error}");
        }
    }
}

/// Whether its second program is there: by tcx, or by a filter, as builds without aya attach it.
fn is_attached(host: &NetNs) -> bool {
    let programs = host.run(|| SchedClassifier::query_tcx(UPLINK, TcAttachType::Egress));
    let (_, programs) = programs.expect("this kernel has tcx");
    let filters = || host.try_shell(&format!("tc filter show dev {UPLINK} egress"));
    !programs.is_empty() || !filters().stdout.is_empty()
}

/// Why it does not run here, where it does not.
pub(super) fn refusal() -> Option<String> {
    Einat::start(&World::new().host).err()
}

/// Whether it was built with IPv6.
pub(super) fn has_v6() -> bool {
    let output = NetNs::current().try_shell("einat --version").stdout;
    String::from_utf8_lossy(&output).contains("ipv6")
}
