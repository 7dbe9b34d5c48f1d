//! A VM that runs: its console, and its end whatever happens.

use std::io::{ErrorKind, Read};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use netagent_tests::deadline::{Deadline, wait_for};
use tempfile::TempDir;
use xtask::guest::Guest;
use xtask::guest::initramfs::Initramfs;

/// First lines of every script: a VM whose test was killed ends by itself.
const END_BY_ITSELF: &str = "(sleep 600; poweroff -f) &\n";

/// The initramfs whose `/init` runs this script, with these modules.
///
/// # Panics
/// Where setup has not fetched what it needs.
pub(crate) fn initramfs(script: &str, modules: &[&str]) -> Initramfs {
    let made = Initramfs::new(&[END_BY_ITSELF, script].concat());
    let mut initramfs = made.unwrap_or_else(|error| panic!("{error:#}"));
    let added = initramfs.add_modules(modules);
    added.unwrap_or_else(|error| panic!("{error:#}: run `cargo xtask setup`"));
    initramfs
}

/// A VM; dropping it ends it.
pub(crate) struct Machine {
    process: Child,
    console: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    /// Holds the initramfs.
    _directory: TempDir,
}

impl Machine {
    /// Boots the guest.
    pub(crate) fn boot(guest: &Guest) -> Self {
        let directory = TempDir::with_prefix("netagent-guest-").unwrap();
        let initrd = directory.path().join("initramfs");
        let mut command = guest
            .command(&initrd)
            .unwrap_or_else(|error| panic!("{error:#}"));
        let spawned = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn();
        let mut process = spawned.unwrap_or_else(|error| {
            panic!("cannot start {command:?}: {error}; `cargo xtask setup` installs it")
        });
        let output = process.stdout.take().unwrap();
        let console = Arc::new(Mutex::new(String::new()));
        let written = Arc::clone(&console);
        Self {
            process,
            console,
            reader: Some(thread::spawn(move || read_console(output, &written))),
            _directory: directory,
        }
    }

    /// Everything that the guest wrote.
    pub(crate) fn console(&self) -> String {
        self.console.lock().unwrap().clone()
    }

    /// Waits until the guest has written this line.
    ///
    /// # Panics
    /// When it ended, as it does where a step fails, or stayed silent instead; with its console.
    pub(crate) fn wait_for_line(&mut self, line: &str, limit: Duration) {
        let deadline = Deadline::after(limit);
        // Longer, since what is shown below is worth more than what it says.
        wait_for(line, limit * 2, || {
            let has_ended = self.process.try_wait().unwrap().is_some();
            if has_ended && let Some(reader) = self.reader.take() {
                reader.join().unwrap();
            }
            let console = self.console();
            if console.lines().any(|written| written == line) {
                return Some(());
            }
            assert!(!has_ended, "the guest ended without `{line}`:\n{console}");
            assert!(
                deadline.remaining().is_some(),
                "the guest did not write `{line}` in {limit:?}:\n{console}"
            );
            None
        });
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // By its process id; one that has ended was not waited for, so that the id is still its own.
        if let Err(error) = self.process.kill().and_then(|()| self.process.wait()) {
            eprintln!("QEMU {} did not end: {error}", self.process.id());
        }
        if self
            .reader
            .take()
            .is_some_and(|reader| reader.join().is_err())
        {
            eprintln!("the reader of a console panicked");
        }
    }
}

fn read_console(mut output: ChildStdout, console: &Mutex<String>) {
    let mut buffer = [0; 4096];
    loop {
        match output.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                let text = String::from_utf8_lossy(&buffer[..length]).replace('\r', "");
                console.lock().unwrap().push_str(&text);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("QEMU's output: {error}"),
        }
    }
}
