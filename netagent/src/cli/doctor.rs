//! `netagent doctor`: whether this host can run the agent, and how to mend what is missing (O-4).

mod firewalls;
mod managers;
mod uplinks;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use nix::sys::statfs::{FsType, statfs};
use nix::sys::utsname::uname;
use serde_json::{Value, json};

use crate::cli::table::{print, print_json, table};
use crate::config::{Config, Overrides, PortRange, ports};
use crate::host::Attach;

/// The oldest kernel (design, decision 11).
const KERNEL_FLOOR: (u32, u32) = (6, 1);
/// The first kernel with tcx.
const KERNEL_TCX: (u32, u32) = (6, 6);
/// Type of the BPF file system (`BPF_FS_MAGIC`).
const BPF_FS: FsType = FsType(0xcafe_4a11);
/// Capabilities that the agent needs, with their numbers.
const CAPABILITIES: [(u32, &str); 5] = [
    (12, "CAP_NET_ADMIN"),
    (13, "CAP_NET_RAW"),
    (21, "CAP_SYS_ADMIN"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];
const BTF: &str = "/sys/kernel/btf/vmlinux";
const TUN: &str = "/dev/net/tun";

/// What one look at the host found.
struct Check {
    name: &'static str,
    verdict: Verdict,
    found: String,
    /// How to mend it; empty where nothing is to be done.
    fix: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    /// Worth knowing.
    Note,
    /// The agent cannot run.
    Bad,
}

pub(super) fn doctor(overrides: &Overrides, json: bool) -> Result<ExitCode> {
    let config = Config::load(overrides)?;
    let checks = examine(&config);
    if json {
        print_json(&Value::Array(checks.iter().map(Check::json).collect()))?;
    } else {
        let rows: Vec<Vec<String>> = checks.iter().map(Check::row).collect();
        print(&table(&["CHECK", "RESULT", "FOUND", "FIX"], &rows))?;
    }
    let bad = checks.iter().any(|check| check.verdict == Verdict::Bad);
    Ok(if bad {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// What keeps the agent from running, and how to mend it.
pub(super) fn first_obstacle(config: &Config) -> Option<(String, String)> {
    let bad = required(config)
        .into_iter()
        .find(|check| check.verdict == Verdict::Bad)?;
    Some((bad.found, bad.fix))
}

fn examine(config: &Config) -> Vec<Check> {
    let mut checks = required(config);
    checks.push(bpffs(&config.bpf_dir));
    checks.push(ip_forward());
    checks.extend(uplinks::checks(config));
    checks.extend(firewalls::checks(&config.policy.allow_host_ports));
    checks.push(managers::check(Path::new("/"), &config.pool.tap_prefix));
    checks.push(expedited());
    checks
}

fn required(config: &Config) -> Vec<Check> {
    vec![
        kernel(),
        capabilities(&read("/proc/self/status")),
        exists(
            "btf",
            BTF,
            "the kernel's types",
            "boot a kernel with CONFIG_DEBUG_INFO_BTF=y",
        ),
        exists("tun", TUN, "the TAP driver", "run `modprobe tun`"),
        attaching(config.datapath.attach, release().1),
        port_range(config.nat.ports),
    ]
}

impl Check {
    const fn good(name: &'static str, found: String) -> Self {
        Self {
            name,
            verdict: Verdict::Good,
            found,
            fix: String::new(),
        }
    }

    /// Worth knowing, and what can be done.
    fn note(name: &'static str, found: String, fix: &str) -> Self {
        Self {
            name,
            verdict: Verdict::Note,
            found,
            fix: fix.to_owned(),
        }
    }

    const fn verdict(&self) -> &'static str {
        match self.verdict {
            Verdict::Good => "ok",
            Verdict::Note => "note",
            Verdict::Bad => "MISSING",
        }
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.name.into(),
            self.verdict().into(),
            self.found.clone(),
            self.fix.clone(),
        ]
    }

    fn json(&self) -> Value {
        json!({ "check": self.name, "result": self.verdict(), "found": self.found, "fix": self.fix })
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn release() -> (String, (u32, u32)) {
    let release = uname().map_or_else(
        |_| String::new(),
        |name| name.release().to_string_lossy().into_owned(),
    );
    let version = version(&release);
    (release, version)
}

/// Major and minor number at the start of a kernel's release.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn kernel() -> Check {
    let (release, version) = release();
    let verdict = if version >= KERNEL_FLOOR {
        Verdict::Good
    } else {
        Verdict::Bad
    };
    Check {
        name: "kernel",
        verdict,
        found: format!("Linux {release}"),
        fix: "boot Linux 6.1 or newer".to_owned(),
    }
    .without_fix_if_good()
}

fn capabilities(status: &str) -> Check {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let missing: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(number, _)| effective >> number & 1 == 0)
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        return Check::good("rights", "all capabilities".into());
    }
    let found = format!("no {}", missing.join(", "));
    Check {
        name: "rights",
        verdict: Verdict::Bad,
        found,
        fix: "run as root".to_owned(),
    }
}

fn exists(name: &'static str, path: &str, what: &str, fix: &'static str) -> Check {
    let there = Path::new(path).exists();
    let found = if there {
        path.to_owned()
    } else {
        format!("no {path}: {what} are missing")
    };
    let verdict = if there { Verdict::Good } else { Verdict::Bad };
    Check {
        name,
        verdict,
        found,
        fix: fix.to_owned(),
    }
    .without_fix_if_good()
}

impl Check {
    fn without_fix_if_good(self) -> Self {
        if self.verdict == Verdict::Good {
            Self {
                fix: String::new(),
                ..self
            }
        } else {
            self
        }
    }
}

fn bpffs(dir: &Path) -> Check {
    let there = dir.ancestors().find(|ancestor| ancestor.exists());
    let mounted = there
        .and_then(|dir| statfs(dir).ok())
        .is_some_and(|fs| fs.filesystem_type() == BPF_FS);
    let found = if mounted {
        "mounted"
    } else {
        "not mounted: the agent mounts it"
    };
    Check::good("bpffs", format!("{}: {found}", dir.display()))
}

fn attaching(wanted: Attach, kernel: (u32, u32)) -> Check {
    let has_tcx = kernel >= KERNEL_TCX;
    match wanted {
        Attach::Clsact => Check::good("attaching", "clsact".into()),
        Attach::Auto | Attach::Tcx if has_tcx => Check::good("attaching", "tcx".into()),
        Attach::Auto => Check::good("attaching", "clsact, since tcx needs Linux 6.6".into()),
        Attach::Tcx => Check {
            name: "attaching",
            verdict: Verdict::Bad,
            found: "no tcx, which datapath.attach asks for".into(),
            fix: "set datapath.attach to \"auto\", or boot Linux 6.6 or newer".into(),
        },
    }
}

fn ip_forward() -> Check {
    let value = read("/proc/sys/net/ipv4/ip_forward");
    Check::good(
        "ip_forward",
        format!("{value}: netagent neither needs nor changes it"),
    )
}

/// A port that the host picks for itself must not be one that stands for a guest (N-5).
fn port_range(nat: PortRange) -> Check {
    let local = read(ports::LOCAL_RANGE);
    let reserved = read(ports::RESERVED);
    let found = || {
        let ends: Vec<&str> = local.split_whitespace().collect();
        let reserved = if reserved.is_empty() {
            "none"
        } else {
            &reserved
        };
        format!(
            "NAT {nat}, the host's own {}, reserved {reserved}",
            ends.join("-")
        )
    };
    let reserved = ports::read_list(ports::RESERVED).unwrap_or_default();
    match ports::check(nat, &local, &reserved) {
        Ok(()) => Check::good("ports", found()),
        Err(clash) => Check {
            name: "ports",
            verdict: Verdict::Bad,
            found: clash.what(),
            fix: clash.remedy(),
        },
    }
}

fn expedited() -> Check {
    let value = read("/sys/kernel/rcu_expedited");
    Check::good(
        "rcu_expedited",
        format!("{value}: the agent raises it while it makes and removes TAPs"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_begins_with_its_version() {
        assert_eq!(version("6.1.0-18-amd64"), (6, 1));
        assert_eq!(version("6.18.44"), (6, 18));
        assert_eq!(version(""), (0, 0));
        assert!(version("5.15.0") < KERNEL_FLOOR && version("6.1.0") >= KERNEL_FLOOR);
    }

    #[test]
    fn only_an_old_kernel_asked_for_tcx_is_an_obstacle() {
        let bad = |wanted, kernel| attaching(wanted, kernel).verdict == Verdict::Bad;
        assert!(bad(Attach::Tcx, (6, 1)));
        assert!(!bad(Attach::Tcx, (6, 6)));
        assert!(!bad(Attach::Auto, (6, 1)) && !bad(Attach::Clsact, (6, 1)));
    }

    #[test]
    fn missing_capabilities_are_named() {
        let none = capabilities("CapEff:\t0000000000000000");
        assert!(
            none.verdict == Verdict::Bad
                && none
                    .found
                    .contains("CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN")
        );
        assert!(capabilities("CapEff:\t000001ffffffffff").verdict == Verdict::Good);
        assert_eq!(
            capabilities("CapEff:\t000001ffffffefff").found,
            "no CAP_NET_ADMIN"
        );
    }
}
