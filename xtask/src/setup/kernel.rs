//! The guest's kernel and its modules, from Debian's package for clouds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use xtask::guest::{NETWORK_CARD, modules};
use xtask::paths;

use crate::setup::apt::Apt;
use crate::shell::{self, say};

/// Depends on the newest kernel of the release, and is itself empty.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// Fetches the kernel if it is not there: `vmlinuz`, `config`, `modules/*.ko`, `modules/order`.
pub(crate) fn fetch_missing(apt: &mut Option<Apt>) -> Result<()> {
    if paths::guest_kernel().exists() && paths::guest_modules().join("order").exists() {
        return Ok(());
    }
    let Some(apt) = apt else {
        anyhow::bail!(
            "the guest's kernel comes from Debian. Put a kernel into {} and its modules into {}",
            paths::guest_kernel().display(),
            paths::guest_modules().display()
        );
    };
    let scratch = paths::cache_dir().join(format!("guest-{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    let result = fetch(apt, &scratch).and_then(|()| {
        if paths::guest_dir().exists() {
            fs::remove_dir_all(paths::guest_dir())?;
        }
        fs::rename(scratch.join("guest"), paths::guest_dir())
            .context("cannot put the guest's kernel in its place")
    });
    fs::remove_dir_all(&scratch)?;
    result
}

/// Downloads, by lists as old as they are, else by new ones.
fn fetch(apt: &mut Apt, scratch: &Path) -> Result<()> {
    say(&format!("fetching the guest's kernel ({META_PACKAGE})"));
    let download = |apt: &mut Apt| {
        let package = apt.first_dependency(META_PACKAGE)?;
        apt.download(&package, scratch)
    };
    if download(apt).is_err() {
        apt.update(&[])?;
        download(apt)?;
    }
    let package = only_entry(scratch)?;
    let unpacked = scratch.join("unpacked");
    shell::run(
        Command::new("dpkg-deb")
            .arg("-x")
            .arg(&package)
            .arg(&unpacked),
    )?;
    arrange(&unpacked, &scratch.join("guest"))
}

/// Moves what is of use from the package's tree to the directory `guest`.
fn arrange(unpacked: &Path, guest: &Path) -> Result<()> {
    let modules = guest.join("modules");
    fs::create_dir_all(&modules)?;
    for entry in fs::read_dir(unpacked.join("boot"))? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        for kept in ["vmlinuz", "config"] {
            if name.starts_with(kept) {
                fs::rename(&path, guest.join(kept))?;
            }
        }
    }
    let release = only_entry(&unpacked.join("lib/modules"))?;
    fs::rename(
        release.join("modules.builtin"),
        modules.join(modules::BUILTIN),
    )?;
    flatten(&release, &modules)?;
    let order = modules::in_order(&modules, &NETWORK_CARD)?;
    let names = order.iter().filter_map(|file| file.file_name());
    let text: String = names
        .map(|name| format!("{}\n", name.to_string_lossy()))
        .collect();
    fs::write(modules.join("order"), text)?;
    Ok(())
}

/// Moves every module below `from` into `to`.
fn flatten(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            flatten(&entry.path(), to)?;
        } else if entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "ko")
        {
            fs::rename(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn only_entry(dir: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(dir)?;
    let entry = entries
        .next()
        .with_context(|| format!("{} is empty", dir.display()))?;
    Ok(entry?.path())
}
