//! The compiler of the eBPF programs: any rustc that has its own library source, for `-Zbuild-std=core`.
//!
//! Three are looked at, in this order: the toolchain in use with `rust-src`, Debian's `rustc-web` with
//! `rust-web-src`, and rustup's nightly with `rust-src`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use xtask::paths;

use crate::shell::{self, say};

/// Debian's compiler and its library source.
pub(crate) const DEBIAN_PACKAGES: [&str; 2] = ["rustc-web", "rust-web-src"];

/// A rustc that can build the eBPF programs.
#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    pub(crate) rustc: PathBuf,
    /// The first line of `rustc --version`.
    pub(crate) version: String,
    pub(crate) llvm_major: String,
    /// The libLLVM that this rustc loads. bpf-linker must load the very same: equal major versions are not enough.
    pub(crate) libllvm: PathBuf,
}

/// The usable compilers, best first.
pub(crate) fn find() -> Vec<Compiler> {
    let mut toolchain = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    toolchain
        .args(["--print", "sysroot"])
        .current_dir(paths::workspace());
    let mut nightly = Command::new("rustup");
    nightly.args(["which", "--toolchain", "nightly", "rustc"]);
    let answer = |command: &mut Command| {
        let answer = shell::read(command.env("RUSTUP_AUTO_INSTALL", "0")).ok()?;
        Some(PathBuf::from(answer.trim()))
    };
    let toolchain = answer(&mut toolchain).map(|sysroot| sysroot.join("bin/rustc"));
    let mut found: Vec<Compiler> = [toolchain, Some("/usr/bin/rustc".into())]
        .into_iter()
        .flatten()
        .filter_map(examine)
        .collect();
    // rustup takes a while to answer, so it is asked only when it matters.
    if found.is_empty() {
        found.extend(answer(&mut nightly).and_then(examine));
    }
    found
}

/// A usable compiler, after Debian's packages were installed or in another way where there are none.
pub(crate) fn find_or_install() -> Result<Compiler> {
    if let Some(compiler) = find().into_iter().next() {
        return Ok(compiler);
    }
    for install in [
        ["60", "rustup", "component", "add", "rust-src"].as_slice(),
        &[
            "600",
            "rustup",
            "toolchain",
            "install",
            "nightly",
            "--profile",
            "minimal",
            "-c",
            "rust-src",
        ],
    ] {
        let mut command = Command::new("timeout");
        command.args(install).current_dir(paths::workspace());
        say(&shell::line(&command));
        if let Err(error) = shell::run(&mut command) {
            say(&format!("{error:#}"));
        }
        if let Some(compiler) = find().into_iter().next() {
            return Ok(compiler);
        }
    }
    anyhow::bail!(
        "there is no rustc with its library source. One of these gives one, then run this again:\n  \
         apt-get install {}\n  rustup component add rust-src",
        DEBIAN_PACKAGES.join(" ")
    )
}

/// Says what this rustc is, if it runs, has its library source and loads LLVM as a shared library.
fn examine(rustc: PathBuf) -> Option<Compiler> {
    let verbose = shell::read(Command::new(&rustc).arg("-vV")).ok()?;
    let sysroot = shell::read(Command::new(&rustc).args(["--print", "sysroot"])).ok()?;
    // Not asked of rustup: it believes its manifest when the files are gone.
    let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/Cargo.lock");
    if !source.exists() {
        return None;
    }
    let llvm = verbose
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    Some(Compiler {
        version: verbose.lines().next()?.to_owned(),
        llvm_major: llvm.split('.').next()?.to_owned(),
        libllvm: loaded_libllvm(&rustc).ok()?,
        rustc,
    })
}

/// The libLLVM that the dynamic linker gives to the program.
pub(crate) fn loaded_libllvm(program: &Path) -> Result<PathBuf> {
    // cargo puts its own toolchain on this path for us.
    let listing = shell::read(
        Command::new("ldd")
            .arg(program)
            .env_remove("LD_LIBRARY_PATH"),
    )?;
    let line = listing
        .lines()
        .find(|line| line.trim().starts_with("libLLVM"));
    let path = line.and_then(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    let path = path.with_context(|| format!("{} loads no libLLVM", program.display()))?;
    Ok(std::fs::canonicalize(path)?)
}
