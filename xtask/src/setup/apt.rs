//! Debian's packages.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use xtask::paths;

use crate::shell::{self, say};

const INSTALL: [&str; 4] = ["apt-get", "install", "-y", "--no-install-recommends"];
const UPDATE: [&str; 2] = ["apt-get", "update"];

/// apt-get, whose lists are fetched at most once in a run, and only when something is to be installed.
pub(crate) struct Apt {
    updated: bool,
}

impl Apt {
    pub(crate) fn detect() -> Option<Self> {
        paths::find_program("apt-get").map(|_| Self { updated: false })
    }

    /// Whether the package can be installed, by lists that are new.
    pub(crate) fn has_candidate(&mut self, package: &str) -> Result<bool> {
        if shell::root_prefix(&[]).is_ok() {
            self.update(&[])?;
        }
        let policy = shell::read(Command::new("apt-cache").args(["policy", package]))?;
        Ok(policy
            .lines()
            .any(|line| line.contains("Candidate:") && !line.contains("(none)")))
    }

    /// Installs the packages; without the rights to do so, an error that holds the commands.
    pub(crate) fn install(&mut self, packages: &[&str]) -> Result<()> {
        if packages.is_empty() {
            return Ok(());
        }
        let install = [&INSTALL, packages].concat();
        self.update(&install)?;
        say(&format!("installing the packages {}", packages.join(" ")));
        run_as_root(&install, &[install.join(" ")])
    }

    /// Downloads a package to the directory; needs no rights.
    pub(crate) fn download(&mut self, package: &str, dir: &Path) -> Result<()> {
        let mut download = Command::new("apt-get");
        // Standard error would say that root downloads without a sandbox, which is harmless here.
        download.args(["-q", "download", package]).current_dir(dir);
        shell::read(&mut download).map(drop)
    }

    /// Downloads packages to the directory, by lists as old as they are, else by new ones.
    pub(crate) fn download_all(&mut self, packages: &[&str], dir: &Path) -> Result<()> {
        let download = |apt: &mut Self| {
            let mut packages = packages.iter();
            packages.try_for_each(|package| apt.download(package, dir))
        };
        if download(self).is_err() {
            self.update(&[])?;
            download(self)?;
        }
        Ok(())
    }

    /// What the package directly depends on first: the real package behind a meta package.
    pub(crate) fn first_dependency(&mut self, package: &str) -> Result<String> {
        let listing =
            shell::read(Command::new("apt-cache").args(["depends", package])).unwrap_or_default();
        let dependency = listing
            .lines()
            .find_map(|line| line.trim().strip_prefix("Depends: "));
        dependency
            .map(str::to_owned)
            .with_context(|| format!("apt knows no package {package}"))
    }

    /// Fetches the package lists, once. `next` is what the caller does after that, for the advice.
    pub(crate) fn update(&mut self, next: &[&str]) -> Result<()> {
        if self.updated {
            return Ok(());
        }
        say("fetching the package lists");
        let mut advice = vec![UPDATE.join(" ")];
        if !next.is_empty() {
            advice.push(next.join(" "));
        }
        run_as_root(&UPDATE, &advice)?;
        self.updated = true;
        Ok(())
    }
}

/// Runs apt-get quietly: its output is shown only when it fails.
fn run_as_root(words: &[&str], advice: &[String]) -> Result<()> {
    let mut all: Vec<_> = shell::root_prefix(advice)?;
    all.extend(["env", "DEBIAN_FRONTEND=noninteractive"].map(Into::into));
    all.extend(words.iter().map(Into::into));
    let (program, arguments) = all.split_first().context("an empty command")?;
    shell::read(Command::new(program).args(arguments)).map(drop)
}
