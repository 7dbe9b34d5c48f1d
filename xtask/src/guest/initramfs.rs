//! The guest's root file system: a cpio archive in memory, with busybox and an init script.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::guest::modules;
use crate::paths;

/// What every `/init` begins with: mounts, applets, modules.
const PRELUDE: &str = include_str!("prelude.sh");
/// What every guest's script may use: `argument <name>` for `na.<name>=<value>` on the kernel's command line, and others.
pub const FUNCTIONS: &str = include_str!("functions.sh");
const DIRECTORY: u32 = 0o040_755;
const REGULAR: u32 = 0o100_000;

/// Files of a root file system, by path without the first `/`.
#[derive(Clone, Debug, Default)]
pub struct Initramfs {
    files: BTreeMap<String, (u32, Vec<u8>)>,
    modules: Vec<String>,
}

impl Initramfs {
    /// busybox, and an `/init` that prepares the guest and then runs `script` with busybox's shell. A script that
    /// ends powers the guest off.
    pub fn new(script: &str) -> Result<Self> {
        let mut initramfs = Self::default();
        initramfs.add_file("/bin/busybox", 0o755, read(Path::new(paths::BUSYBOX))?);
        initramfs.add_file(
            "/init",
            0o755,
            [PRELUDE, FUNCTIONS, script, "\npoweroff -f\n"].concat(),
        );
        initramfs.add_file("/modules/order", 0o644, "");
        Ok(initramfs)
    }

    /// Adds a file, or replaces it.
    pub fn add_file(&mut self, path: &str, permissions: u32, content: impl Into<Vec<u8>>) {
        let path = path.trim_start_matches('/').to_owned();
        self.files
            .insert(path, (REGULAR | permissions, content.into()));
    }

    /// Adds modules of the guest kernel with those that they depend on; `/init` loads them before its script runs.
    pub fn add_modules(&mut self, names: &[&str]) -> Result<()> {
        for file in modules::in_order(&paths::guest_modules(), names)? {
            let name = file
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if !self.modules.contains(&name) {
                self.add_file(&format!("/modules/{name}"), 0o644, read(&file)?);
                self.modules.push(name);
            }
        }
        let order: String = self
            .modules
            .iter()
            .map(|name| format!("{name}\n"))
            .collect();
        self.add_file("/modules/order", 0o644, order);
        Ok(())
    }

    /// Adds a program of this machine as `/bin/<name>`, and the shared libraries it needs where they lie here.
    pub fn add_binary_with_libraries(&mut self, program: &Path) -> Result<()> {
        let name = program
            .file_name()
            .with_context(|| format!("{} is no file", program.display()))?;
        self.add_file(
            &format!("/bin/{}", name.to_string_lossy()),
            0o755,
            read(program)?,
        );
        let listing = Command::new("ldd")
            .arg(program)
            .env_remove("LD_LIBRARY_PATH")
            .output()?;
        // ldd fails on a static program, which needs nothing more.
        if !listing.status.success() {
            return Ok(());
        }
        for line in String::from_utf8_lossy(&listing.stdout).lines() {
            ensure!(
                !line.contains("not found"),
                "{}: {}",
                program.display(),
                line.trim()
            );
            // `name => /path (0x…)`, `/path (0x…)` for the loader, and the vdso, which has no path.
            if let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')) {
                self.add_file(path, 0o755, read(Path::new(path))?);
            }
        }
        Ok(())
    }

    /// The archive, uncompressed, in the form `newc` that the kernel reads.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut entries: BTreeMap<&str, (u32, &[u8])> = BTreeMap::new();
        for (path, (mode, content)) in &self.files {
            for (index, _) in path.match_indices('/') {
                entries.insert(path.split_at(index).0, (DIRECTORY, &[]));
            }
            entries.insert(path, (*mode, content));
        }
        let mut archive = Vec::new();
        // A directory sorts before what lies in it.
        for (inode, (path, (mode, content))) in entries.into_iter().enumerate() {
            append(&mut archive, inode + 1, path, mode, content);
        }
        append(&mut archive, 0, "TRAILER!!!", 0, &[]);
        archive
    }
}

/// Appends one file: a header of hexadecimal numbers, the name, the content, each padded to four bytes.
fn append(archive: &mut Vec<u8>, inode: usize, path: &str, mode: u32, content: &[u8]) {
    let (size, name_size) = (content.len(), path.len() + 1);
    // Magic, inode, mode, owner, group, links, time, size, device, device of a node, name size, checksum.
    let header = format!(
        "070701{inode:08X}{mode:08X}{0:08X}{0:08X}{1:08X}{0:08X}{size:08X}{0:08X}{0:08X}{0:08X}{0:08X}{name_size:08X}{0:08X}",
        0, 1
    );
    for part in [header.as_bytes(), path.as_bytes(), b"\0"] {
        archive.extend_from_slice(part);
    }
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {} (`cargo xtask setup`)", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_lists_directories_before_their_files_and_stays_aligned() {
        let mut initramfs = Initramfs::default();
        initramfs.add_file("/etc/a/hello", 0o644, "12345");
        let archive = initramfs.to_bytes();
        let text = String::from_utf8_lossy(&archive);
        let place = |name: &str| text.find(name).unwrap();

        assert_eq!(archive.len() % 4, 0);
        assert!(place("etc\0") < place("etc/a\0"));
        assert!(place("etc/a\0") < place("etc/a/hello\0"));
        assert!(place("12345") < place("TRAILER!!!\0"));
        assert_eq!(text.matches("070701").count(), 4);
    }
}
