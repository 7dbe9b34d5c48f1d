//! The unix socket of the API: whose it is, and that nobody else listens there.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};
use nix::unistd::Group;

use crate::config::Api;

/// A bound socket; its file goes with it.
#[derive(Debug)]
pub struct Socket {
    /// Listens, and does not block.
    pub listener: UnixListener,
    /// Takes the file away at the end.
    pub guard: SocketFile,
}

/// The file of a socket, removed on drop.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the text says it")]
pub enum SocketError {
    #[error("another process listens on {}: stop it, or name another socket with --socket", .0.display())]
    Taken(PathBuf),
    #[error("{} exists and is no socket: move it away, or name another with --socket", .0.display())]
    NotASocket(PathBuf),
    #[error("cannot listen on {path}: {source}: run as root, or name another with --socket", path = path.display())]
    Bind { path: PathBuf, source: io::Error },
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::debug!(%error, path = %self.0.display(), "cannot remove the socket");
        }
    }
}

/// Binds the socket: 0660 of the configured group; where there is no such group root's alone, and says so.
///
/// # Errors
/// Where somebody listens there, something else is there, or the directory cannot be used.
pub fn bind(config: &Api) -> Result<Socket, SocketError> {
    let path = &config.socket;
    let refused = |source| SocketError::Bind {
        path: path.clone(),
        source,
    };
    remove_stale(path)?;
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(refused)?;
    }
    // Nobody but the owner may connect before the group is set.
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound.map_err(refused)?;
    let guard = SocketFile(path.clone());
    listener.set_nonblocking(true).map_err(refused)?;
    match Group::from_name(&config.group) {
        Ok(Some(group)) => {
            chown(path, None, Some(group.gid.as_raw())).map_err(refused)?;
            fs::set_permissions(path, Permissions::from_mode(0o660)).map_err(refused)?;
            tracing::info!(socket = %path.display(), group = config.group, "listening");
        }
        Ok(None) | Err(_) => {
            let (socket, group) = (path.display(), &config.group);
            tracing::warn!(%socket, group, "listening for root alone (0600): the group does not exist");
        }
    }
    Ok(Socket { listener, guard })
}

fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)
            .map_err(|source| SocketError::Bind {
                path: path.to_owned(),
                source,
            }),
        Ok(_) => Err(SocketError::Taken(path.to_owned())),
        Err(source) => Err(SocketError::Bind {
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(path: PathBuf) -> Api {
        Api {
            socket: path,
            group: "no-such-group".into(),
            ..Api::default()
        }
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/api.sock");
        let socket = bind(&api(path.clone())).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let error = bind(&api(path.clone())).unwrap_err().to_string();
        assert!(error.starts_with("another process listens on "), "{error}");
        // Dead, but its file is still there.
        drop(socket.listener);
        let second = bind(&api(path.clone())).unwrap();
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "x").unwrap();
        let error = bind(&api(path.clone())).unwrap_err().to_string();
        assert!(error.contains("is no socket"), "{error}");
        assert!(path.exists());
    }
}
