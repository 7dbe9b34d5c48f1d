//! Whether the host would itself take ports that stand for guests (N-5), and lists of ports.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::config::PortRange;

/// Where the kernel takes ports from by itself.
pub const LOCAL_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// Ports that it leaves out.
pub const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// The host's own ports run into `nat.ports`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", self.what(), self.remedy())]
pub struct PortClash {
    nat: PortRange,
    local: PortRange,
    reserved: String,
}

impl PortClash {
    /// What is wrong.
    #[must_use]
    pub fn what(&self) -> String {
        let Self { nat, local, .. } = self;
        format!(
            "nat.ports {nat} overlaps {local}, from which the host takes ports of its own (net.ipv4.ip_local_port_range)"
        )
    }

    /// How to mend it; what is reserved already stays so.
    #[must_use]
    pub fn remedy(&self) -> String {
        let Self { nat, reserved, .. } = self;
        let comma = if reserved.is_empty() { "" } else { "," };
        format!(
            "run `sysctl -w net.ipv4.ip_local_reserved_ports={reserved}{comma}{nat}`, or set nat.ports outside that range"
        )
    }
}

/// Compares `nat.ports` with the texts of [`LOCAL_RANGE`] and [`RESERVED`]. A text that cannot be understood
/// names no port: the host then has no such setting.
///
/// # Errors
/// Where the host could take a port of `nat` for itself.
pub fn check(nat: PortRange, local: &str, reserved: &str) -> Result<(), PortClash> {
    let Some(local) = parse_range(local) else {
        return Ok(());
    };
    let reserved = reserved.trim();
    let (first, last) = (nat.first.max(local.first), nat.last.min(local.last));
    if first > last || covers(&parse_list(reserved), first, last) {
        return Ok(());
    }
    let reserved = reserved.to_owned();
    Err(PortClash {
        nat,
        local,
        reserved,
    })
}

/// Longer than any list of ports: each of 32,768 with a comma.
const LIST_MAX: usize = 1 << 18;

/// Reads a list of ports. The kernel gives it to one read alone, cut where that has no room for more.
///
/// # Errors
/// Where there is no such setting, or it cannot be read.
pub fn read_list(path: impl AsRef<Path>) -> io::Result<String> {
    let mut text = vec![0; LIST_MAX];
    let length = File::open(path)?.read(&mut text)?;
    text.truncate(length);
    String::from_utf8(text).map_err(io::Error::other)
}

/// "32768\t60999".
fn parse_range(text: &str) -> Option<PortRange> {
    let (first, last) = text.trim().split_once(char::is_whitespace)?;
    let (first, last) = (first.parse().ok()?, last.trim().parse().ok()?);
    Some(PortRange { first, last })
}

/// "1,5-9", in order.
#[must_use]
pub fn parse_list(text: &str) -> Vec<PortRange> {
    let entries = text.split(',').filter_map(|entry| {
        let (first, last) = entry.split_once('-').unwrap_or((entry, entry));
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        Some(PortRange { first, last })
    });
    let mut ranges: Vec<PortRange> = entries.collect();
    ranges.sort_by_key(|range| range.first);
    ranges
}

/// The list as the kernel takes it.
#[must_use]
pub fn print_list(ranges: &[PortRange]) -> String {
    let entries: Vec<String> = ranges.iter().map(ToString::to_string).collect();
    entries.join(",")
}

/// What is in one list and not in the other; both are in order.
#[must_use]
pub fn without(ranges: &[PortRange], others: &[PortRange]) -> Vec<PortRange> {
    let mut left = Vec::new();
    for range in ranges {
        let mut next = u32::from(range.first);
        for other in others {
            let (first, last) = (other.first.min(range.last), other.last);
            if u32::from(last) < next || other.first > range.last {
                continue;
            }
            if u32::from(first) > next {
                left.push(between(next, u32::from(first) - 1));
            }
            next = next.max(u32::from(last) + 1);
        }
        if next <= u32::from(range.last) {
            left.push(between(next, range.last.into()));
        }
    }
    left
}

/// What is in one of two lists, in order and without overlaps.
#[must_use]
pub fn with(ranges: &[PortRange], others: &[PortRange]) -> Vec<PortRange> {
    let mut all: Vec<PortRange> = ranges.iter().chain(others).copied().collect();
    all.sort_by_key(|range| range.first);
    let mut joined: Vec<PortRange> = Vec::new();
    for range in all {
        match joined.last_mut() {
            Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => {
                last.last = last.last.max(range.last);
            }
            _ => joined.push(range),
        }
    }
    joined
}

/// Both ends are ports.
fn between(first: u32, last: u32) -> PortRange {
    let port = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    PortRange {
        first: port(first),
        last: port(last),
    }
}

/// Whether every port from `first` to `last` is in one of the ranges, which are in order.
#[must_use]
pub fn covers(ranges: &[PortRange], first: u16, last: u16) -> bool {
    let mut next = u32::from(first);
    for range in ranges {
        if u32::from(range.first) <= next {
            next = next.max(u32::from(range.last) + 1);
        }
    }
    next > u32::from(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAT: PortRange = PortRange {
        first: 16_384,
        last: 29_999,
    };

    fn refused(local: &str, reserved: &str) -> Option<String> {
        check(NAT, local, reserved)
            .err()
            .map(|clash| clash.to_string())
    }

    #[test]
    fn a_list_of_ports_is_read() {
        let range = |first, last| PortRange { first, last };
        assert_eq!(parse_list("1,5-9\n"), [range(1, 1), range(5, 9)]);
        assert_eq!(parse_list("5-9,1"), [range(1, 1), range(5, 9)]);
        assert_eq!(parse_list("\n"), []);
        assert_eq!(parse_range("32768\t60999\n"), Some(range(32_768, 60_999)));
        assert_eq!(parse_range(""), None);
    }

    #[test]
    fn lists_are_added_and_taken_from_each_other() {
        let list = |text: &str| parse_list(text);
        for (one, other, without_it, with_it) in [
            ("", "16-29", "", "16-29"),
            ("1,5-9", "16-29", "1-1,5-9", "1-1,5-9,16-29"),
            ("1-40", "16-29", "1-15,30-40", "1-40"),
            ("16-29", "1-40", "", "1-40"),
            ("10-20", "20-29", "10-19", "10-29"),
            ("20-29", "10-20", "21-29", "10-29"),
            ("1-10", "11-20", "1-10", "1-20"),
            (
                "1-9,20-30,40",
                "5-25,28,40-65535",
                "1-4,26-27,29-30",
                "1-30,40-65535",
            ),
            ("65535", "65535", "", "65535-65535"),
        ] {
            let (a, b) = (list(one), list(other));
            assert_eq!(print_list(&without(&a, &b)), without_it, "{one} - {other}");
            assert_eq!(print_list(&with(&a, &b)), with_it, "{one} + {other}");
        }
    }

    #[test]
    fn ranges_apart_do_not_clash() {
        assert_eq!(refused("32768\t60999\n", "\n"), None);
        assert_eq!(refused("1024\t16383\n", ""), None);
        assert_eq!(refused("", ""), None);
    }

    #[test]
    fn an_overlap_names_both_ranges_and_the_command() {
        assert_eq!(
            refused("1024\t65535\n", "\n").unwrap(),
            "nat.ports 16384-29999 overlaps 1024-65535, from which the host takes ports of its own \
             (net.ipv4.ip_local_port_range): run `sysctl -w net.ipv4.ip_local_reserved_ports=16384-29999`, \
             or set nat.ports outside that range"
        );
        let text = refused("29999\t60999\n", "80,5000-5100\n").unwrap();
        assert!(text.contains("ports=80,5000-5100,16384-29999`"), "{text}");
    }

    #[test]
    fn only_the_overlap_needs_to_be_reserved_and_all_of_it() {
        assert_eq!(refused("20000\t60999", "20000-29999"), None);
        assert_eq!(refused("20000\t60999", "1,20000-24999,25000-40000"), None);
        assert_eq!(refused("1024\t65535", "1-65535"), None);
        assert!(refused("20000\t60999", "20001-29999").is_some());
        assert!(refused("20000\t60999", "20000-24999,25001-29999").is_some());
    }
}
