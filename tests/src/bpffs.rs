//! The BPF file system in which test agents pin.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

const MOUNT_POINT: &str = "/sys/fs/bpf";

static UNIQUE: AtomicU32 = AtomicU32::new(0);

/// A directory of its own for the pins of one agent; removed with everything in it.
#[derive(Debug)]
pub struct PinDir {
    path: PathBuf,
}

impl PinDir {
    /// Reserves a path; the agent makes the directory.
    ///
    /// # Panics
    /// Without the rights to mount the file system where it is missing.
    #[must_use]
    pub fn new() -> Self {
        ensure_mounted();
        let number = UNIQUE.fetch_add(1, Ordering::Relaxed);
        Self {
            path: PathBuf::from(format!(
                "{MOUNT_POINT}/netagent-test-{}-{number}",
                std::process::id()
            )),
        }
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything that is pinned there, relative to the directory.
    #[must_use]
    pub fn pins(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect_files(&self.path, &mut found);
        found.sort();
        found
    }
}

impl Default for PinDir {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for PinDir {
    fn drop(&mut self) {
        if self.path.exists()
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            eprintln!("pins are left in {}: {error}", self.path.display());
        }
    }
}

fn collect_files(directory: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        if path.is_dir() {
            collect_files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// Mounts the file system once, however many tests start together: a second mount would hide the pins of the
/// first.
fn ensure_mounted() {
    let lock = File::create(std::env::temp_dir().join("netagent-tests-bpffs.lock"))
        .expect("a temporary file");
    let _held = Flock::lock(lock, FlockArg::LockExclusive).expect("a lock on a file of our own");
    let is_mounted =
        statfs(MOUNT_POINT).is_ok_and(|status| status.filesystem_type() == BPF_FS_MAGIC);
    if !is_mounted {
        mount(
            Some("bpf"),
            MOUNT_POINT,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .expect("cannot mount /sys/fs/bpf: run as root, `cargo xtask test` does");
    }
}
