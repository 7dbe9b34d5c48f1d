//! `<state-dir>/id`: what makes this store unlike any other, and the lock of the agent that uses it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ipnet::Ipv6Net;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::Deserialize;
use uuid::Uuid;

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreId {
    /// Names the agent's links (S-4).
    pub store_id: Uuid,
    /// IPv6 network of the guests where the configuration names none: a unique local /48 (RFC 4193).
    pub subnet6: Ipv6Net,
    /// Mark of redirected frames; not 0 (design, decision 14).
    pub mark: u32,
}

/// The lock on a state directory; it ends with the agent.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or directory cannot be used.
    #[error("cannot use {path}: {source}: run as root, or name another with {flag}", path = path.display())]
    Use {
        /// The path.
        path: PathBuf,
        /// The flag that names it.
        flag: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Somebody else holds the lock.
    #[error("another agent uses {path}: stop it, or name another with {flag}", path = path.display())]
    Locked {
        /// The path.
        path: PathBuf,
        /// The flag that names it.
        flag: &'static str,
    },
    /// The file cannot be understood.
    #[error("{path} is damaged ({reason}): move it away, and remove what is left with `netagent down`", path = path.display())]
    Damaged {
        /// The path.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

const STATE_FLAG: &str = "--state-dir";

impl StoreId {
    /// Makes a new one.
    fn random() -> Self {
        // Five random bytes behind fd, and a mark of four: all from places of version 4 that are random.
        let [a, b, c, d, e, ..] = *Uuid::new_v4().as_bytes();
        let high = u64::from_be_bytes([0xfd, a, b, c, d, e, 0, 0]);
        Self {
            store_id: Uuid::new_v4(),
            subnet6: Ipv6Net::new_assert((u128::from(high) << 64).into(), 48),
            mark: random().max(1),
        }
    }

    fn text(&self) -> String {
        format!(
            "# Made once by netagent. Without it, the agent does not know its own links.\n\
             store_id = \"{}\"\nsubnet6 = \"{}\"\nmark = {}\n",
            self.store_id, self.subnet6, self.mark
        )
    }
}

/// A random number.
#[must_use]
pub fn random() -> u32 {
    let [a, b, c, d, ..] = *Uuid::new_v4().as_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// Locks the state directory and reads its id, which is made where it is missing.
///
/// # Errors
/// Where the directory cannot be used, or another agent uses it.
pub fn open(state_dir: &Path) -> Result<(StoreId, Lock), StoreError> {
    let path = state_dir.join("id");
    let refused = |source| StoreError::Use {
        path: path.clone(),
        flag: STATE_FLAG,
        source,
    };
    fs::create_dir_all(state_dir).map_err(refused)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(refused)?;
    let mut file = lock(file, &path, STATE_FLAG)?;
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(refused)?;
    if text.is_empty() {
        let id = StoreId::random();
        file.write_all(id.text().as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(refused)?;
        return Ok((id, Lock { _file: file }));
    }
    let id: StoreId = toml::from_str(&text).map_err(|error| StoreError::Damaged {
        path: path.clone(),
        reason: error.message().to_owned(),
    })?;
    Ok((id, Lock { _file: file }))
}

fn lock(file: File, path: &Path, flag: &'static str) -> Result<Flock<File>, StoreError> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        let path = path.to_owned();
        if errno == Errno::EWOULDBLOCK {
            return StoreError::Locked { path, flag };
        }
        StoreError::Use {
            path,
            flag,
            source: errno.into(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (first, locks) = open(&dir.path().join("a/b")).unwrap();
        drop(locks);
        let (second, _locks) = open(&dir.path().join("a/b")).unwrap();
        assert_eq!(first, second);
        assert_eq!(
            (first.subnet6.prefix_len(), first.subnet6.addr().octets()[0]),
            (48, 0xfd)
        );
        assert_eq!(first.subnet6, first.subnet6.trunc());
    }

    #[test]
    fn a_second_agent_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let (_, _lock) = open(dir.path()).unwrap();
        let error = open(dir.path()).unwrap_err().to_string();
        assert!(
            error.starts_with("another agent uses ") && error.ends_with("--state-dir"),
            "{error}"
        );
    }

    #[test]
    fn a_damaged_file_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("id"), "store_id = 3").unwrap();
        let error = open(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("is damaged") && !error.contains('\n'),
            "{error}"
        );
    }
}
