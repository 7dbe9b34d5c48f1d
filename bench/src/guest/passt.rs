//! passt, as its users run it for QEMU: a process in the host's namespace with the VM on a stream socket.

use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use tempfile::TempDir;

use super::host::{GUEST_PORT, PUBLISHED};
use netagent_tests::deadline::{SOON, wait_for};
use netagent_tests::netns::NetNs;

/// A passt that runs, until it is dropped.
#[derive(Debug)]
pub struct Passt {
    process: Child,
    /// Where its socket is.
    _directory: TempDir,
}

impl Passt {
    /// Starts it for a guest with this address, and connects.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(host: &NetNs, guest: Ipv4Addr, gateway: Ipv4Addr) -> (Self, UnixStream) {
        let directory = TempDir::with_prefix("netagent-bench-").expect("a temporary directory");
        let socket = directory.path().join("passt.sock");
        let mut command = host.command("passt");
        // Foreground: it is to end with the benchmark. As root: the socket lies in a directory of ours.
        command
            .args(["--foreground", "--quiet", "--ipv4-only", "--runas", "0"])
            .args(["--address", &guest.to_string(), "--netmask", "24"])
            .args(["--gateway", &gateway.to_string()])
            .args(["--tcp-ports", &format!("{PUBLISHED}:{GUEST_PORT}")])
            .arg("--socket")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = command.spawn().expect("passt is installed");
        let passt = Self {
            process,
            _directory: directory,
        };
        let stream = wait_for("passt listens", SOON, || UnixStream::connect(&socket).ok());
        (passt, stream)
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        if let Err(error) = self.process.kill().and_then(|()| self.process.wait()) {
            eprintln!("passt did not end: {error}");
        }
    }
}
