//! Who has a port: the sockets of the kernel's tables, and the process that holds one of them.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::spec::publish::{HostPort, PortProtocol};

/// Time that may be spent on the search through all processes: whoever asks waits, and others behind them.
const SEARCH_MAX: Duration = Duration::from_millis(50);
/// State of a listening socket in the tables of TCP.
const LISTEN: &str = "0A";

/// The process that has the port, as `nginx (pid 123)`; `None` where the rights to see it are missing.
#[must_use]
pub fn find(at: &HostPort) -> Option<String> {
    let inodes = sockets(at);
    if inodes.is_empty() {
        return None;
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "it bounds the search, and nothing is decided by it"
    )]
    let start = Instant::now();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        if start.elapsed() > SEARCH_MAX {
            return None;
        }
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if holds(pid, &inodes) {
            let command = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let command: String = command.trim().replace(char::is_control, "?");
            return Some(format!("{command} (pid {pid})"));
        }
    }
    None
}

/// Whether one of the process's descriptors is one of these sockets.
fn holds(pid: u32, inodes: &BTreeSet<String>) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    let mut links = descriptors
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok());
    links.any(|link| {
        let text = link.to_str();
        let inode = text.and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']'));
        inode.is_some_and(|inode| inodes.contains(inode))
    })
}

/// Inodes of the sockets that keep the port from being bound.
fn sockets(at: &HostPort) -> BTreeSet<String> {
    let (v4, v6) = match at.protocol {
        PortProtocol::Tcp => ("tcp", "tcp6"),
        PortProtocol::Udp => ("udp", "udp6"),
    };
    // Of this thread: the agent may have been moved into a namespace.
    let read = |table| fs::read_to_string(format!("/proc/thread-self/net/{table}"));
    let tables = [v4, v6].map(|table| read(table).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines());
    lines.filter_map(|line| inode(line, at)).collect()
}

/// The inode of a line, where its socket stands in the way: `sl local_address rem_address st ... inode ...`.
fn inode(line: &str, at: &HostPort) -> Option<String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, port) = fields.get(1)?.split_once(':')?;
    let listens = at.protocol == PortProtocol::Udp || *fields.get(3)? == LISTEN;
    if u16::from_str_radix(port, 16) != Ok(at.port) || !listens {
        return None;
    }
    let local = address(local)?;
    let meets = |wanted: IpAddr| {
        // "::" may stand for IPv4 too.
        local == wanted || (local.is_unspecified() && (local.is_ipv6() || wanted.is_ipv4()))
    };
    let stands = at.address.is_none_or(meets);
    stands.then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
}

/// An address as the tables write it: words of four bytes, each in the processor's order.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |index: usize| {
        let digits = hex.get(index * 8..index * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    if hex.len() == 8 {
        return Some(IpAddr::from(word(0)?));
    }
    let mut octets = [0; 16];
    for (index, place) in octets.chunks_exact_mut(4).enumerate() {
        place.copy_from_slice(&word(index)?);
    }
    Some(IpAddr::from(octets).to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0";

    fn check(line: &str, wanted: Option<&str>, expected: Option<&str>) {
        let at = HostPort {
            port: 8080,
            protocol: PortProtocol::Tcp,
            address: wanted.map(|address| address.parse().unwrap()),
        };
        assert_eq!(inode(line, &at).as_deref(), expected, "{wanted:?}");
    }

    #[test]
    fn a_line_of_the_kernels_table_is_read() {
        check(LINE, None, Some("4711"));
        check(LINE, Some("127.0.0.1"), Some("4711"));
        check(LINE, Some("127.0.0.2"), None);
        check(&LINE.replace("1F90", "1F91"), None, None);
        check(&LINE.replace(" 0A ", " 01 "), None, None);
        let every = LINE.replace("0100007F", "00000000");
        check(&every, Some("192.0.2.1"), Some("4711"));
        check(&every, Some("2001:db8::1"), None);
        let v6 = LINE.replace("0100007F", &"0".repeat(32));
        check(&v6, Some("192.0.2.1"), Some("4711"));
        check(&v6, Some("2001:db8::1"), Some("4711"));
        let own = LINE.replace("0100007F", "B80D0120000000000000000001000000");
        check(&own, Some("2001:db8::1"), Some("4711"));
        for broken in [
            "",
            "  sl  local_address rem_address   st",
            "0: 01:1F90 x 0A",
        ] {
            check(broken, None, None);
        }
    }
}
