//! `cargo xtask setup`: installs what building, running and testing need, and only what is missing.

mod apt;
mod compiler;
mod images;
mod kernel;
mod linker;
pub(crate) mod peers;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use xtask::paths;

use crate::setup::apt::Apt;
use crate::setup::compiler::Compiler;
use crate::shell::say;

/// Programs that the agent's tests and demonstrations run, and the Debian packages that they are in.
const PROGRAMS: [(&str, &str); 16] = [
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("nsenter", "util-linux"),
    ("nft", "nftables"),
    ("bpftool", "bpftool"),
    ("tcpdump", "tcpdump"),
    ("ethtool", "ethtool"),
    ("traceroute", "traceroute"),
    ("tracepath", "iputils-tracepath"),
    ("busybox", "busybox-static"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("systemd-analyze", "systemd"),
    ("dhclient", "isc-dhcp-client"),
    ("dnsmasq", "dnsmasq-base"),
    ("dig", "bind9-dnsutils"),
    (paths::PYTHON, "python3"),
];

/// Installs what is missing. It changes nothing and takes a fraction of a second when all is there.
pub(crate) fn setup() -> Result<()> {
    let mut apt = Apt::detect();
    let candidates = compiler::find();
    install_packages(&mut apt, candidates.is_empty())?;
    let (compiler, linker) = match candidates.iter().find_map(linker::find_matching) {
        Some(found) => found,
        None => {
            let compiler = match candidates.into_iter().next() {
                Some(compiler) => compiler,
                None => compiler::find_or_install()?,
            };
            let linker = linker::build(&compiler)?;
            (compiler, linker)
        }
    };
    record(&compiler, &linker)?;
    kernel::fetch_missing(&mut apt)?;
    images::fetch_missing(&mut apt)
}

/// Installs the missing programs, and Debian's rustc with its source where there is no usable compiler.
fn install_packages(apt: &mut Option<Apt>, compiler_missing: bool) -> Result<()> {
    let mut packages: Vec<&str> = Vec::new();
    let mut programs: Vec<&str> = Vec::new();
    for (program, package) in PROGRAMS {
        let missing = match program {
            "busybox" => !is_static(Path::new(paths::BUSYBOX)),
            _ => paths::find_program(program).is_none(),
        };
        if missing {
            programs.push(program);
            packages.push(package);
        }
    }
    packages.dedup();
    let Some(apt) = apt else {
        ensure!(
            programs.is_empty(),
            "install these programs, then run this again: {}",
            programs.join(", ")
        );
        return Ok(());
    };
    if compiler_missing && apt.has_candidate(compiler::DEBIAN_PACKAGES[0])? {
        packages.extend(compiler::DEBIAN_PACKAGES);
    }
    apt.install(&packages)
}

/// A dynamic busybox would not run in the guest, which has no libraries.
fn is_static(program: &Path) -> bool {
    const LOADER: &[u8] = b"/ld-linux";
    fs::read(program).is_ok_and(|bytes| !bytes.windows(LOADER.len()).any(|window| window == LOADER))
}

/// Writes down for `netagent/build.rs` what was found, if it is not what stands there: cargo builds the programs
/// again when this file is written.
fn record(compiler: &Compiler, linker: &Path) -> Result<()> {
    let path = paths::toolchain_record();
    let built = fs::metadata(linker)
        .with_context(|| format!("{} is gone", linker.display()))?
        .mtime();
    let text = format!(
        "RUSTC={}\nRUSTC_VERSION={}\nLIBLLVM={}\nLINKER={}\nLINKER_BUILT={built}\n",
        compiler.rustc.display(),
        compiler.version,
        compiler.libllvm.display(),
        linker.display(),
    );
    if fs::read_to_string(&path).is_ok_and(|recorded| recorded == text) {
        return Ok(());
    }
    say(&format!(
        "eBPF is built with {} ({})",
        compiler.rustc.display(),
        compiler.version
    ));
    fs::create_dir_all(paths::cache_dir())?;
    if let Err(error) = fs::write(&path, text) {
        bail!("cannot write {}: {error}", path.display());
    }
    Ok(())
}
