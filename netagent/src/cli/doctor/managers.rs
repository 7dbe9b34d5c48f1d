//! Daemons that configure network devices, and would take the agent's TAPs for theirs.

use std::fs;
use std::path::Path;

use crate::cli::doctor::{Check, read};

/// Where NetworkManager runs, and where its configuration lies.
const NETWORK_MANAGER: &str = "run/NetworkManager";
const NETWORK_MANAGER_CONF: [&str; 4] = [
    "etc/NetworkManager/NetworkManager.conf",
    "etc/NetworkManager/conf.d",
    "run/NetworkManager/conf.d",
    "usr/lib/NetworkManager/conf.d",
];
/// Where systemd-networkd runs, and where it finds what is to be configured.
const NETWORKD: &str = "run/systemd/netif";
const NETWORKD_CONF: [&str; 4] = [
    "etc/systemd/network",
    "run/systemd/network",
    "usr/local/lib/systemd/network",
    "usr/lib/systemd/network",
];

/// `root` is `/`, but in tests; TAPs of the pool have names that begin with `prefix`.
pub(super) fn check(root: &Path, prefix: &str) -> Check {
    let network_manager = network_manager(root, prefix);
    let networkd = networkd(root, prefix);
    let (found, fixes): (Vec<String>, Vec<String>) =
        network_manager.into_iter().chain(networkd).unzip();
    if found.is_empty() {
        return Check::good("TAP names", format!("{prefix}*: nobody else takes them"));
    }
    Check::note("TAP names", found.join("; "), &fixes.join("; "))
}

/// NetworkManager takes every device that it was not told to leave.
fn network_manager(root: &Path, prefix: &str) -> Option<(String, String)> {
    if !root.join(NETWORK_MANAGER).is_dir() {
        return None;
    }
    let texts = NETWORK_MANAGER_CONF.map(|place| files(&root.join(place), "conf"));
    let mut lines = texts.iter().flatten().flat_map(|(_, text)| text.lines());
    let is_left = lines.any(|line| {
        let value = line.trim().strip_prefix("unmanaged-devices");
        let value =
            value.and_then(|rest| rest.trim_start().trim_start_matches('+').strip_prefix('='));
        let mut patterns = value.unwrap_or_default().split([';', ',']).map(str::trim);
        patterns.any(|pattern| {
            pattern == "*"
                || pattern
                    .strip_prefix("interface-name:")
                    .is_some_and(|glob| is_matched(glob.trim_start_matches('~'), prefix))
        })
    });
    (!is_left).then(|| {
        (
            format!("NetworkManager may take {prefix}* over"),
            format!(
                "write `[keyfile]` and `unmanaged-devices=interface-name:{prefix}*` into \
                 /etc/NetworkManager/conf.d/netagent.conf, and run `nmcli general reload`"
            ),
        )
    })
}

/// systemd-networkd takes the devices that a file of its matches.
fn networkd(root: &Path, prefix: &str) -> Option<(String, String)> {
    if !root.join(NETWORKD).is_dir() {
        return None;
    }
    let all = NETWORKD_CONF.map(|place| files(&root.join(place), "network"));
    let mut all: Vec<&(String, String)> = all.iter().flatten().collect();
    // The first file by name that matches is the one that counts.
    all.sort();
    let (name, text) = all.into_iter().find(|(_, text)| takes_tap(text, prefix))?;
    let is_unmanaged = text
        .lines()
        .any(|line| matches!(line.trim(), "Unmanaged=yes" | "Unmanaged=true"));
    (!is_unmanaged).then(|| {
        (
            format!("systemd-networkd takes {prefix}* over, by {name}"),
            format!(
                "write `[Match]`, `Name={prefix}*`, `[Link]` and `Unmanaged=yes` into \
                 /etc/systemd/network/00-netagent.network, and run `networkctl reload`"
            ),
        )
    })
}

/// Whether `[Match]` holds for a TAP: every line of it must.
fn takes_tap(text: &str, prefix: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    let section = lines
        .by_ref()
        .skip_while(|line| *line != "[Match]")
        .skip(1)
        .take_while(|line| !line.starts_with('['));
    let mut matched = false;
    for line in section.filter(|line| !line.is_empty() && !line.starts_with(['#', ';'])) {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        let globs = || value.split_whitespace();
        matched = match key.trim() {
            "Name" if value.trim_start().starts_with('!') => {
                let value = value.trim_start().trim_start_matches('!');
                !value
                    .split_whitespace()
                    .any(|glob| is_matched(glob, prefix))
            }
            "Name" => globs().any(|glob| is_matched(glob, prefix)),
            "Type" => globs().any(|kind| kind == "ether" || kind == "*"),
            "Kind" => globs().any(|kind| kind == "tun" || kind == "tap" || kind == "*"),
            // A driver, a path or a hardware address that is not a TAP's.
            _ => false,
        };
        if !matched {
            return false;
        }
    }
    matched
}

/// Whether a shell's pattern holds for the first name of the pool.
fn is_matched(glob: &str, prefix: &str) -> bool {
    matches(glob.as_bytes(), format!("{prefix}0").as_bytes())
}

fn matches(glob: &[u8], name: &[u8]) -> bool {
    match (glob, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => {
            let mut tails = (0..=name.len()).filter_map(|from| name.get(from..));
            tails.any(|tail| matches(rest, tail))
        }
        ([b'?', rest @ ..], [_, name @ ..]) => matches(rest, name),
        ([first, rest @ ..], [letter, name @ ..]) if first == letter => matches(rest, name),
        _ => false,
    }
}

/// Names and texts of a file, or of the files of a directory whose names end so.
fn files(place: &Path, extension: &str) -> Vec<(String, String)> {
    let Ok(entries) = fs::read_dir(place) else {
        return vec![(String::new(), read(&place.to_string_lossy()))];
    };
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    let wanted = paths.filter(|path| path.extension().is_some_and(|found| found == extension));
    wanted
        .map(|path| {
            let name = path.file_name().unwrap_or_default();
            (
                name.to_string_lossy().into_owned(),
                read(&path.to_string_lossy()),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    fn root(texts: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in texts {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn check_text(texts: &[(&str, &str)], expected: &str) {
        let found = check(root(texts).path(), "tap");
        assert!(found.found.contains(expected), "{texts:?}: {}", found.found);
        let is_good = expected.contains("nobody else");
        assert_eq!(found.verdict == Verdict::Good, is_good);
        assert_eq!(found.fix.is_empty(), is_good);
    }

    const NOBODY: &str = "tap*: nobody else takes them";

    #[test]
    fn a_daemon_that_does_not_run_takes_nothing() {
        check_text(&[], NOBODY);
        check_text(
            &[("etc/systemd/network/a.network", "[Match]\nName=*")],
            NOBODY,
        );
    }

    #[test]
    fn network_manager_must_be_told_to_leave_taps() {
        let conf = "etc/NetworkManager/conf.d/x.conf";
        let runs = ("run/NetworkManager/pid", "");
        check_text(&[runs], "NetworkManager may take tap* over");
        for (line, is_left) in [
            ("unmanaged-devices=interface-name:tap*", true),
            (
                "unmanaged-devices = mac:00:11:22:33:44:55; interface-name:tap*",
                true,
            ),
            ("unmanaged-devices+=interface-name:=tap*", false),
            ("unmanaged-devices=*", true),
            ("unmanaged-devices=interface-name:veth*", false),
            ("#unmanaged-devices=interface-name:tap*", false),
        ] {
            let expected = if is_left {
                NOBODY
            } else {
                "may take tap* over"
            };
            check_text(&[runs, (conf, line)], expected);
        }
    }

    #[test]
    fn a_file_of_networkd_that_matches_everything_takes_taps() {
        let runs = ("run/systemd/netif/links/2", "");
        for (text, takes) in [
            ("[Match]\nName=*\n[Network]\nDHCP=yes", true),
            ("[Match]\nName=en* tap?\n", true),
            ("[Match]\nType=ether\n", true),
            ("[Match]\nType=ether\nName=en*\n", false),
            ("[Match]\nName=!tap*\n", false),
            ("[Match]\nDriver=virtio_net\n", false),
            ("[Match]\nName=*\n[Link]\nUnmanaged=yes\n", false),
            ("[Network]\nName=*\n", false),
        ] {
            let expected = if takes {
                "systemd-networkd takes tap* over, by 50.network"
            } else {
                NOBODY
            };
            check_text(&[runs, ("etc/systemd/network/50.network", text)], expected);
        }
        let first = (
            "usr/lib/systemd/network/10.network",
            "[Match]\nName=tap*\n[Link]\nUnmanaged=yes",
        );
        let second = ("etc/systemd/network/50.network", "[Match]\nName=*");
        check_text(&[runs, first, second], NOBODY);
    }
}
