//! The oldest kernel that netagent runs on, Debian's 6.1: programs load there, and clsact carries them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use netagent_tests::agent;
use tempfile::TempDir;
use xtask::guest::Guest;
use xtask::guest::initramfs::Initramfs;
use xtask::paths;

use crate::machine::{Machine, initramfs};

/// Time for the boot, the verifier and everything else, under emulation on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

const MEMORY_MIB: u32 = 512;

const MODULES: [&str; 4] = ["tun", "veth", "sch_ingress", "cls_bpf"];

const SCRIPT: &str = include_str!("kernel_floor.sh");

/// Small tables, for a small machine.
const CONFIGURATION: &str = r#"
[limits]
instances = 16
flows = 1024
[datapath]
attach = "auto"
flows = 4096
"#;

#[test]
fn the_kernel_floor_debian_6_1_loads_attaches_by_clsact_and_forwards_a_ping() {
    let scratch = TempDir::with_prefix("netagent-floor-").unwrap();
    let mut files = initramfs(SCRIPT, &MODULES);
    for name in ["ip", "tc"] {
        let program = paths::find_program(name)
            .unwrap_or_else(|| panic!("there is no `{name}`: `cargo xtask setup` installs it"));
        add_program(&mut files, &program);
    }
    let binaries = [agent::binary(), env!("CARGO_BIN_EXE_tap-ping").into()];
    for binary in binaries {
        add_program(&mut files, &without_symbols(&binary, &scratch));
    }
    files.add_file("/etc/netagent/netagent.toml", 0o644, CONFIGURATION);

    let mut guest = Guest::new(files).unwrap();
    guest.memory_mib = MEMORY_MIB;
    let mut machine = Machine::boot(&guest);
    machine.wait_for_line("guest: the kernel floor holds", LIMIT);

    let console = machine.console();
    assert!(console.contains("Linux 6.1."), "another kernel:\n{console}");
    eprintln!("{console}");
}

fn add_program(files: &mut Initramfs, program: &Path) {
    let added = files.add_binary_with_libraries(program);
    added.unwrap_or_else(|error| panic!("{error:#}"));
}

/// A copy without symbols, which are nine tenths of it and would have to be unpacked into the guest's memory.
fn without_symbols(binary: &Path, scratch: &TempDir) -> PathBuf {
    let copy = scratch.path().join(binary.file_name().unwrap());
    let mut strip = Command::new("strip");
    let status = strip.arg("-o").arg(&copy).arg(binary).status();
    let status = status.unwrap_or_else(|error| {
        panic!("cannot run strip: {error}; it comes with gcc, from binutils")
    });
    assert!(status.success(), "{strip:?}: {status}");
    copy
}
