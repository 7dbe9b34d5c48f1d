//! Debian's cloud-init with the Python modules that it imports, for the tests of what a guest's image reads.

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

/// Unpacks the packages if they are not there. They are not installed: cloud-init's would take over the network of
/// this machine at its next boot.
pub(crate) fn fetch_missing(apt: &mut Option<Apt>) -> Result<()> {
    if paths::cloud_init().join(paths::PYTHON_MODULES).is_dir() {
        return Ok(());
    }
    let Some(apt) = apt else {
        anyhow::bail!(
            "cloud-init comes from Debian. Unpack these packages into {}, without installing them: {}",
            paths::cloud_init().display(),
            PACKAGES.join(" ")
        );
    };
    say("fetching cloud-init, which is unpacked and not installed");
    let scratch = paths::cache_dir().join(format!("cloud-init-{}", std::process::id()));
    let unpacked = scratch.join("unpacked");
    fs::create_dir_all(&unpacked)?;
    let result = apt.download_all(&PACKAGES, &scratch).and_then(|()| {
        unpack(&scratch, &unpacked)?;
        fs::rename(&unpacked, paths::cloud_init()).context("cannot put cloud-init in its place")
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
