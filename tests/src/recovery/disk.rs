//! A small disk that a test can fill.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

/// A file system in memory; unmounted with everything in it.
#[derive(Debug)]
pub struct SmallDisk {
    mount_point: TempDir,
}

impl SmallDisk {
    /// Mounts one of this size.
    ///
    /// # Panics
    /// Without the rights to.
    #[must_use]
    pub fn mount(kilobytes: u32) -> Self {
        let mount_point = TempDir::with_prefix("netagent-disk-").expect("a temporary directory");
        mount(
            Some("tmpfs"),
            mount_point.path(),
            Some("tmpfs"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            Some(format!("size={kilobytes}k,mode=700").as_str()),
        )
        .expect("cannot mount a tmpfs: run as root, `cargo xtask test` does");
        Self { mount_point }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.mount_point.path()
    }

    /// Takes all the space that is left.
    ///
    /// # Panics
    /// When the disk fails otherwise than by being full.
    pub fn fill(&self) {
        let mut file = File::create(self.ballast()).expect("a file of our own");
        // One byte at a time at the end: a page that is half full would take a small write.
        for chunk in [&[0; 4_096][..], &[0]] {
            let full = loop {
                if let Err(error) = file.write_all(chunk) {
                    break error;
                }
            };
            assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
        }
    }

    /// Gives the space back.
    ///
    /// # Panics
    /// Where nothing was filled.
    pub fn free(&self) {
        fs::remove_file(self.ballast()).expect("the disk was filled");
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whoever still holds a file there keeps the file system, but nobody finds it any more.
        if let Err(error) = umount2(self.path(), MntFlags::MNT_DETACH) {
            eprintln!("{} stays mounted: {error}", self.path().display());
        }
    }
}
