//! The systemd unit: it fits the configuration's defaults, systemd understands it, and its sandbox stays tight.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use netagent::config::{Config, DEFAULT_FILE};

const UNIT: &str = include_str!("../packaging/netagent.service");
const SYSUSERS: &str = include_str!("../packaging/netagent.sysusers");
/// Where a package puts the binary.
const INSTALLED: &str = "/usr/bin/netagent";
/// Highest exposure that `systemd-analyze security` may find, in tenths: below it, a service counts as "OK".
const EXPOSURE_MAX: &str = "30";

/// The values of one setting of the unit, line by line.
fn values(setting: &str) -> Vec<&'static str> {
    let lines = UNIT.lines().filter_map(|line| line.split_once('='));
    lines
        .filter(|(name, _)| *name == setting)
        .map(|(_, value)| value)
        .collect()
}

/// The only value of one setting of the unit.
fn value(setting: &str) -> &'static str {
    match values(setting).as_slice() {
        [value] => value,
        other => panic!("{setting} has {} values", other.len()),
    }
}

fn writable() -> Vec<&'static str> {
    let paths = values("ReadWritePaths").into_iter();
    paths
        .flat_map(str::split_whitespace)
        .map(|path| path.trim_start_matches('-'))
        .collect()
}

/// The unit with the binary that was built, and without its page of the manual, which is not installed here.
fn installed(directory: &Path) -> PathBuf {
    let lines = UNIT
        .lines()
        .filter(|line| !line.starts_with("Documentation="));
    let text: Vec<String> = lines
        .map(|line| line.replace(INSTALLED, env!("CARGO_BIN_EXE_netagent")))
        .collect();
    let path = directory.join("netagent.service");
    fs::write(&path, text.join("\n")).expect("a directory of our own");
    path
}

/// What `systemd-analyze` says of the unit; `cargo xtask setup` installs it.
fn analyze(words: &[&str]) -> Output {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let unit = installed(directory.path());
    let output = Command::new("systemd-analyze")
        .args(words)
        .arg(unit)
        .output();
    output.expect("no systemd-analyze: run `cargo xtask setup`")
}

#[test]
fn the_unit_grants_exactly_the_default_paths() {
    let config = Config::default();
    let named = |setting: &str, base: &str| Path::new(base).join(value(setting));
    assert_eq!(named("StateDirectory", "/var/lib"), config.state_dir);
    assert_eq!(
        Some(named("RuntimeDirectory", "/run").as_path()),
        config.api.socket.parent()
    );
    assert_eq!(
        Some(named("ConfigurationDirectory", "/etc").as_path()),
        Path::new(DEFAULT_FILE).parent()
    );
    let bpf_dir = config.bpf_dir.to_str().expect("a default is ASCII");
    assert!(writable().contains(&bpf_dir), "{:?}", writable());
    assert!(
        value("ExecStartPre").ends_with(&format!(" {bpf_dir}")),
        "the sandbox can only open a directory that is there"
    );
    assert_eq!(
        config.bpf_dir.parent(),
        Some(Path::new(value("AssertPathIsMountPoint")))
    );
}

#[test]
fn the_group_of_the_socket_is_made() {
    let group = Config::default().api.group;
    let is_made = |line: &str| line.split_whitespace().take(2).eq(["g", group.as_str()]);
    assert!(SYSUSERS.lines().any(is_made), "{SYSUSERS}");
}

#[test]
fn pins_and_the_ledger_of_the_guard_outlive_the_service() {
    assert_eq!(value("RuntimeDirectoryPreserve"), "yes");
    let filter = values("SystemCallFilter").join(" ");
    // A BPF file system mounted by the service would end with it, and every pin too.
    assert!(!filter.contains("mount"), "{filter}");
    assert!(
        value("ExecStopPost").starts_with(INSTALLED),
        "RCU stays expedited after a crash"
    );
}

#[test]
fn systemd_finds_no_fault_in_the_unit() {
    let output = analyze(&["verify"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.is_empty(), "{told}");
}

#[test]
fn the_sandbox_is_as_tight_as_it_was() {
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let words = ["security", "--no-pager", "--offline=true", &threshold];
    let output = analyze(&words);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}");
}
