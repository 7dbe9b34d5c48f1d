//! The servers that queries are forwarded to: the instance's own, those of the configuration, or the host's (D-1).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use netagent_common::services::port;
use nix::net::if_::if_nametoindex;
use tokio::time::Instant;

use crate::config::dns::Dns;

/// Names the host's resolvers.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Time between two looks at it.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Longest file that is read.
const FILE_LEN_MAX: u64 = 64 << 10;
/// Servers that are taken from it.
const SERVERS_MAX: usize = 8;

/// Time for which a server that said nothing comes after those that may say something.
const AVOIDANCE: Duration = Duration::from_secs(30);

/// Where queries go.
#[derive(Debug)]
pub struct Upstreams {
    source: Source,
    health: Mutex<Health>,
}

/// What is known of the servers that all share.
#[derive(Debug, Default)]
struct Health {
    /// When each last answered.
    heard_at: BTreeMap<SocketAddr, Instant>,
    /// Those that were silent, and until when they come last: so a dead one does not delay every query.
    avoided: BTreeMap<SocketAddr, Instant>,
}

#[derive(Debug)]
enum Source {
    Configured(Arc<[SocketAddr]>),
    Host(PathBuf, Mutex<Seen>),
}

/// The host's resolvers when they were last looked at.
#[derive(Debug, Default)]
struct Seen {
    looked_at: Option<Instant>,
    stamp: Option<Stamp>,
    servers: Arc<[SocketAddr]>,
    /// How many times others were named.
    epoch: u64,
    /// The lack of servers was logged.
    warned: bool,
}

/// Tells one state of a file from the next, also where another was renamed into its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: (i64, i64),
    len: u64,
    inode: u64,
}

impl Upstreams {
    /// The servers of the configuration; where it names none, the host's.
    #[must_use]
    pub fn new(config: &Dns) -> Self {
        if config.upstream.is_empty() {
            return Self::of_file(RESOLV_CONF.into());
        }
        let servers = config.upstream.as_slice().into();
        Self {
            source: Source::Configured(servers),
            health: Mutex::default(),
        }
    }

    pub(super) fn of_file(path: PathBuf) -> Self {
        Self {
            source: Source::Host(path, Mutex::default()),
            health: Mutex::default(),
        }
    }

    /// The servers to try, in order; `own` is the instance's own name server, which it alone is served by.
    #[must_use]
    pub fn servers(&self, own: Option<IpAddr>, now: Instant) -> Arc<[SocketAddr]> {
        if let Some(own) = own {
            return Arc::new([SocketAddr::new(own, port::DNS)]);
        }
        let servers = self.all(now);
        let mut health = self.health();
        health.avoided.retain(|_, until| now < *until);
        if health.avoided.is_empty() {
            return servers;
        }
        let mut servers = servers.to_vec();
        // Stable, so each half keeps its order.
        servers.sort_by_key(|server| health.avoided.contains_key(server));
        servers.into()
    }

    /// Changes when other servers are named: what those before said may hold no longer.
    #[must_use]
    pub fn epoch(&self, now: Instant) -> u64 {
        match &self.source {
            Source::Configured(_) => 0,
            Source::Host(path, seen) => {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.look(path, now);
                seen.epoch
            }
        }
    }

    /// A server answered. An instance's own is not remembered, nor when it is silent: it has no other.
    pub fn note_answer(&self, server: SocketAddr, now: Instant) {
        let shared = self.all(now);
        if shared.contains(&server) {
            let mut health = self.health();
            health.avoided.remove(&server);
            health.heard_at.retain(|known, _| shared.contains(known));
            health.heard_at.insert(server, now);
        }
    }

    /// A server said nothing from `since` to `now`, unless it answered somebody else: then the question was the
    /// trouble, and a guest with such questions must not turn the others away from it.
    pub fn note_silence(&self, server: SocketAddr, since: Instant, now: Instant) {
        if !self.all(now).contains(&server) {
            return;
        }
        let mut health = self.health();
        if health.heard_at.get(&server).is_none_or(|at| *at < since) {
            health.avoided.insert(server, now + AVOIDANCE);
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self, now: Instant) -> Arc<[SocketAddr]> {
        match &self.source {
            Source::Configured(servers) => Arc::clone(servers),
            Source::Host(path, seen) => {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.look(path, now);
                Arc::clone(&seen.servers)
            }
        }
    }
}

impl Seen {
    /// Reads the file where it changed; a small one of the host, so it is read in place.
    fn look(&mut self, path: &Path, now: Instant) {
        if self.looked_at.is_some_and(|at| now < at + LOOK_INTERVAL) {
            return;
        }
        self.looked_at = Some(now);
        let stamp = Stamp::of(path);
        if stamp.is_none() || stamp != self.stamp {
            let servers: Arc<[SocketAddr]> = read(path, stamp).into();
            self.epoch += u64::from(servers != self.servers);
            self.servers = servers;
            self.stamp = stamp;
        }
        if !self.servers.is_empty() {
            self.warned = false;
        } else if !self.warned {
            self.warned = true;
            tracing::warn!(
                "{} names no server, so guests get no answers to DNS queries: add a nameserver line, or set dns.upstream",
                path.display()
            );
        }
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        // Whoever reads a pipe waits for its writer, and a device may have no end.
        let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        Some(Self {
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            len: metadata.len(),
            inode: metadata.ino(),
        })
    }
}

fn read(path: &Path, stamp: Option<Stamp>) -> Vec<SocketAddr> {
    let fits = stamp.is_some_and(|stamp| stamp.len <= FILE_LEN_MAX);
    let text = if fits {
        fs::read_to_string(path)
    } else {
        Err(io::ErrorKind::NotFound.into())
    };
    text.map(|text| parse(&text)).unwrap_or_default()
}

/// The `nameserver` lines of resolv.conf(5), each server once.
fn parse(text: &str) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some("nameserver"), Some(address)) = (words.next(), words.next()) else {
            continue;
        };
        match parse_address(address) {
            Some(server) if !servers.contains(&server) => servers.push(server),
            _ => {}
        }
    }
    servers.truncate(SERVERS_MAX);
    servers
}

/// An address, with the interface behind `%` where it is a link-local one.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let Some((address, scope)) = text.split_once('%') else {
        let address = text.parse().ok()?;
        return Some(SocketAddr::new(address, port::DNS));
    };
    let address: Ipv6Addr = address.parse().ok()?;
    let scope = scope.parse().or_else(|_| if_nametoindex(scope)).ok()?;
    Some(SocketAddrV6::new(address, port::DNS, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_parse(text: &str, expected: &[&str]) {
        let expected: Vec<SocketAddr> = expected.iter().map(|one| one.parse().unwrap()).collect();
        assert_eq!(parse(text), expected, "{text:?}");
    }

    #[test]
    fn nameserver_lines_are_read_in_order() {
        check_parse("", &[]);
        check_parse(
            "search a.example\nnameserver 192.0.2.1\n",
            &["192.0.2.1:53"],
        );
        check_parse(
            "# nameserver 192.0.2.9\n;nameserver 192.0.2.9\n  nameserver\t127.0.0.53 # stub\nnameserver 2001:db8::1\r\n\
             options edns0\nnameserver 127.0.0.53",
            &["127.0.0.53:53", "[2001:db8::1]:53"],
        );
        check_parse("nameserver\nnameserver x\nnameservers 192.0.2.1", &[]);
        check_parse("nameserver fe80::1%7", &["[fe80::1%7]:53"]);
        check_parse("nameserver fe80::1%lo", &["[fe80::1%1]:53"]);
        check_parse("nameserver fe80::1%no-such-link", &[]);
    }

    #[tokio::test]
    async fn a_changed_file_is_followed_but_not_looked_at_all_the_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let upstreams = Upstreams::of_file(path.clone());
        let now = Instant::now();
        let servers = |after_ms| upstreams.servers(None, now + Duration::from_millis(after_ms));
        assert!(servers(0).is_empty());
        fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        assert!(servers(999).is_empty());
        assert_eq!(upstreams.epoch(now), 0);
        assert_eq!(*servers(1_000), ["192.0.2.1:53".parse().unwrap()]);
        // As programs write it: another file takes its place, here with the same length.
        let other = dir.path().join("other");
        fs::write(&other, "nameserver 192.0.2.2\n").unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(*servers(2_000), ["192.0.2.2:53".parse().unwrap()]);
        assert_eq!(upstreams.epoch(now), 2);
        fs::remove_file(&path).unwrap();
        assert!(servers(3_000).is_empty());
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(servers(4_000).is_empty());
    }

    #[tokio::test]
    async fn a_silent_server_comes_last_for_a_while() {
        let [a, b, c] = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"].map(|at| at.parse().unwrap());
        let upstreams = Upstreams::new(&Dns {
            upstream: vec![a, b, c],
        });
        let now = Instant::now();
        let half = now + AVOIDANCE / 2;
        upstreams.note_silence(a, now, now);
        upstreams.note_silence("127.0.0.1:4".parse().unwrap(), now, now);
        assert_eq!(*upstreams.servers(None, now), [b, c, a]);
        upstreams.note_silence(b, half, half);
        assert_eq!(*upstreams.servers(None, half), [c, a, b]);
        upstreams.note_answer(b, half);
        assert_eq!(*upstreams.servers(None, half), [b, c, a]);
        assert_eq!(*upstreams.servers(None, now + AVOIDANCE), [a, b, c]);
    }

    #[tokio::test]
    async fn a_server_that_answers_others_is_not_avoided_for_one_question() {
        let [a, b] = ["127.0.0.1:1", "127.0.0.1:2"].map(|at| at.parse().unwrap());
        let upstreams = Upstreams::new(&Dns {
            upstream: vec![a, b],
        });
        let now = Instant::now();
        let later = now + Duration::from_secs(2);
        upstreams.note_answer(a, now + Duration::from_secs(1));
        upstreams.note_silence(a, now, later);
        assert_eq!(*upstreams.servers(None, later), [a, b]);
        upstreams.note_silence(a, later, later + Duration::from_secs(2));
        assert_eq!(*upstreams.servers(None, later), [b, a]);
    }

    #[tokio::test]
    async fn the_instances_own_server_comes_alone_and_the_configurations_before_the_hosts() {
        let configured = "127.0.0.1:5353".parse().unwrap();
        let upstreams = Upstreams::new(&Dns {
            upstream: vec![configured],
        });
        let own = Some("192.0.2.1".parse().unwrap());
        let now = Instant::now();
        assert_eq!(*upstreams.servers(None, now), [configured]);
        assert_eq!(
            *upstreams.servers(own, now),
            ["192.0.2.1:53".parse().unwrap()]
        );
    }
}
