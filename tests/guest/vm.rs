//! A VM whose console is read while it runs, and which ends with the test.

use std::io::Read;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use netagent_tests::deadline::wait_until;
use tempfile::TempDir;
use xtask::guest::Guest;

/// A running VM.
pub(crate) struct Vm {
    process: Child,
    console: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    _directory: TempDir,
}

impl Vm {
    pub(crate) fn boot(guest: &Guest) -> Self {
        let directory = TempDir::with_prefix("netagent-test-vm-").unwrap();
        let mut command = guest.command(&directory.path().join("initramfs")).unwrap();
        // The VM powers off when its script ends; the script ends by itself, or with the VM.
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let console = Arc::new(Mutex::new(String::new()));
        let (mut output, text) = (process.stdout.take().unwrap(), Arc::clone(&console));
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                text.lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
        });
        Self {
            process,
            console,
            reader: Some(reader),
            _directory: directory,
        }
    }

    /// Everything that it wrote so far.
    pub(crate) fn console(&self) -> String {
        self.console.lock().unwrap().clone()
    }

    /// Waits until it has written `wanted`.
    pub(crate) fn wait_for_line(&mut self, wanted: &str, limit: Duration) {
        wait_until(&format!("{wanted:?} on the console"), limit, || {
            let console = self.console();
            let ended = self.process.try_wait().unwrap();
            assert!(
                ended.is_none() || console.contains(wanted),
                "the VM ended ({ended:?})"
            );
            console.contains(wanted)
        });
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if let Err(error) = self.process.kill().and_then(|()| self.process.wait()) {
            eprintln!("the VM {} did not end: {error}", self.process.id());
        }
        drop(self.reader.take().map(JoinHandle::join));
        if thread::panicking() {
            eprintln!("the VM's console:\n{}", self.console());
        }
    }
}
