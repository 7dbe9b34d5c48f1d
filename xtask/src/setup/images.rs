//! What a guest's image reads its network from, for the tests of that: Debian's cloud-init with the Python modules
//! that it imports, and the `ipconfig` with which an initramfs obeys `ip=` on the kernel's command line.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use xtask::paths;

use crate::setup::apt::Apt;
use crate::shell::{self, say};

/// cloud-init and what its tool `net-convert` imports beyond Python's own library.
const PACKAGES: [&str; 11] = [
    "cloud-init",
    "python3-certifi",
    "python3-chardet",
    "python3-configobj",
    "python3-idna",
    "python3-json-pointer",
    "python3-jsonpatch",
    "python3-requests",
    "python3-six",
    "python3-urllib3",
    "python3-yaml",
];

/// `ipconfig` and the C library that it wants.
const KLIBC: [&str; 2] = ["klibc-utils", "libklibc"];

/// Unpacks the packages if they are not there. They are not installed: cloud-init's would take over the network of
/// this machine at its next boot.
pub(crate) fn fetch_missing(apt: &mut Option<Apt>) -> Result<()> {
    fetch(apt, "cloud-init", &PACKAGES, &paths::cloud_init())?;
    fetch(apt, "ipconfig", &KLIBC, &paths::klibc())
}

/// Unpacks packages into a directory that appears when it is complete.
fn fetch(apt: &mut Option<Apt>, what: &str, packages: &[&str], to: &Path) -> Result<()> {
    if to.is_dir() {
        return Ok(());
    }
    let Some(apt) = apt else {
        anyhow::bail!(
            "{what} comes from Debian. Unpack these packages into {}, without installing them: {}",
            to.display(),
            packages.join(" ")
        );
    };
    say(&format!(
        "fetching {what}, which is unpacked and not installed"
    ));
    let scratch = paths::cache_dir().join(format!("{what}-{}", std::process::id()));
    let unpacked = scratch.join("unpacked");
    fs::create_dir_all(&unpacked)?;
    let result = apt.download_all(packages, &scratch).and_then(|()| {
        unpack(&scratch, &unpacked)?;
        fs::rename(&unpacked, to).with_context(|| format!("cannot put {what} in its place"))
    });
    fs::remove_dir_all(&scratch)?;
    result
}

/// Unpacks every package of a directory.
fn unpack(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            shell::run(Command::new("dpkg-deb").arg("-x").arg(&path).arg(to))?;
        }
    }
    Ok(())
}
