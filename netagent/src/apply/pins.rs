//! Where maps, programs and links are pinned, and the BPF file system below them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use netagent_common::names::{ABI_VERSION, IDLE_DROP_ALL, LINKS_DIR, PROGRAMS_DIR, SOCKETS_DIR};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::unistd::geteuid;

use crate::host::HostError;

/// Where a BPF file system is mounted by custom.
const MOUNT_POINT: &str = "/sys/fs/bpf";

/// The pins of one agent. While it lives, no other agent may use the directory.
#[derive(Debug)]
pub struct Pins {
    root: PathBuf,
    /// Held for its lock.
    _lock: Flock<File>,
}

impl Pins {
    /// Mounts a BPF file system where there is none, makes the directory and locks it.
    ///
    /// # Errors
    /// Where the rights are missing, or another agent uses the directory.
    pub fn open(root: &Path) -> Result<Self, HostError> {
        let failed =
            |error: io::Error| HostError::failed(format!("prepare {}", root.display()), error);
        if !on_bpf_file_system(root).map_err(failed)? {
            mount_below(root)?;
        }
        make_directory(root).map_err(failed)?;
        let directory = File::open(root).map_err(failed)?;
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            // An agent that ended meanwhile has removed the directory whose lock this is.
            Ok(lock) if !is_at(&lock, root) => Self::open(root),
            Ok(lock) => Ok(Self {
                root: root.to_owned(),
                _lock: lock,
            }),
            Err((_, Errno::EWOULDBLOCK)) => Err(HostError::missing(
                format!("another agent uses {}", root.display()),
                "stop it, or give this one another --bpf-dir",
            )),
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }

    /// Makes the directories of this version.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn make_directories(&self) -> io::Result<()> {
        make_directory(&self.version())?;
        make_directory(&self.version().join(PROGRAMS_DIR))?;
        make_directory(&self.version().join(SOCKETS_DIR))?;
        make_directory(&self.links())
    }

    /// Pin of a map.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.version().join(name)
    }

    /// Pin of a program.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.version().join(PROGRAMS_DIR).join(name)
    }

    /// Pin of the link of a program on sockets.
    #[must_use]
    pub fn socket(&self, program: &str) -> PathBuf {
        self.version().join(SOCKETS_DIR).join(program)
    }

    /// Name of the pin of a link.
    #[must_use]
    pub fn link_name(ifindex: u32, program: &str) -> String {
        format!("{ifindex}-{program}")
    }

    /// Interface index and program of a link's pin; `None` where the name is not one of ours.
    #[must_use]
    pub fn parse_link_name(name: &str) -> Option<(u32, &str)> {
        let (ifindex, program) = name.split_once('-')?;
        Some((ifindex.parse().ok()?, program))
    }

    /// Pin of a link.
    #[must_use]
    pub fn link(&self, ifindex: u32, program: &str) -> PathBuf {
        self.links().join(Self::link_name(ifindex, program))
    }

    /// Pin of the link that keeps `drop_all` on the idle device. Its name is none of [`Pins::parse_link_name`]: no plan
    /// knows that device.
    #[must_use]
    pub fn idle_drop_all(&self) -> PathBuf {
        self.links().join(IDLE_DROP_ALL)
    }

    /// Names of the pinned links, in order.
    ///
    /// # Errors
    /// Where the directory cannot be read; one that is absent holds none.
    pub fn link_names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in entries(&self.links())? {
            names.extend(entry.file_name().to_str().map(ToOwned::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// Removes every pin of every version, links first, and says how many there were.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn remove_all(&self) -> io::Result<usize> {
        let mut removed = 0;
        for version in self.versions()? {
            removed += remove_tree(&version.join(LINKS_DIR))?;
            removed += remove_tree(&version)?;
        }
        Ok(removed)
    }

    /// Moves the pins of links that another version made to this one's, so that their programs can be replaced
    /// where they are: no device is without programs meanwhile.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn take_over_links(&self) -> io::Result<()> {
        for other in self.other_versions()? {
            for link in entries(&other.join(LINKS_DIR))? {
                let to = self.links().join(link.file_name());
                if fs::symlink_metadata(&to).is_err() {
                    fs::rename(link.path(), to)?;
                }
            }
        }
        Ok(())
    }

    /// Removes every pin of other versions, links first.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn remove_other_versions(&self) -> io::Result<()> {
        for other in self.other_versions()? {
            remove_tree(&other.join(LINKS_DIR))?;
            remove_tree(&other)?;
        }
        Ok(())
    }

    fn other_versions(&self) -> io::Result<Vec<PathBuf>> {
        let mut others = self.versions()?;
        others.retain(|version| *version != self.version());
        Ok(others)
    }

    /// The root may be the mount point itself, where the kernel shows files of its own.
    fn versions(&self) -> io::Result<Vec<PathBuf>> {
        let mut versions = Vec::new();
        for entry in entries(&self.root)? {
            if entry.file_name().to_str().is_some_and(is_version) {
                versions.push(entry.path());
            }
        }
        Ok(versions)
    }

    fn version(&self) -> PathBuf {
        self.root.join(format!("v{ABI_VERSION}"))
    }

    fn links(&self) -> PathBuf {
        self.version().join(LINKS_DIR)
    }
}

impl Drop for Pins {
    /// Removes the directory where nothing is left in it: `down` leaves no trace, nor does a start that failed.
    fn drop(&mut self) {
        // Not empty while there is a datapath; and a mount point is not removed by this.
        if is_own(&self.root)
            && let Err(error) = fs::remove_dir(&self.root)
        {
            tracing::debug!(%error, directory = %self.root.display(), "the BPF directory stays");
        }
    }
}

/// Pins made by a load; removed again where it does not come to its end.
#[derive(Debug, Default)]
pub struct NewPins {
    paths: Vec<PathBuf>,
}

impl NewPins {
    /// Notes one.
    pub fn add(&mut self, path: PathBuf) {
        self.paths.push(path);
    }

    /// The load came to its end.
    pub fn keep(mut self) {
        self.paths.clear();
    }
}

impl Drop for NewPins {
    fn drop(&mut self) {
        for path in self.paths.iter().rev() {
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!(%error, pin = %path.display(), "a pin of a failed load is left");
            }
        }
    }
}

/// Whether it looks as this agent makes it.
fn is_own(directory: &Path) -> bool {
    fs::symlink_metadata(directory).is_ok_and(|found| {
        found.is_dir() && found.uid() == geteuid().as_raw() && found.mode() & 0o777 == 0o700
    })
}

/// Whether an open directory is the one at this path.
fn is_at(directory: &File, path: &Path) -> bool {
    let id = |found: fs::Metadata| (found.dev(), found.ino());
    match (directory.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => id(open) == id(there),
        (Ok(_) | Err(_), Ok(_) | Err(_)) => false,
    }
}

fn is_version(name: &str) -> bool {
    name.strip_prefix('v')
        .is_some_and(|number| number.parse::<u32>().is_ok())
}

/// Removes a file, or a directory with what is in it; counts files.
fn remove_tree(path: &Path) -> io::Result<usize> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
        Ok(metadata) if metadata.is_dir() => {
            let mut removed = 0;
            for entry in entries(path)? {
                removed += remove_tree(&entry.path())?;
            }
            fs::remove_dir(path)?;
            Ok(removed)
        }
        Ok(_) => fs::remove_file(path).map(|()| 1),
    }
}

fn entries(directory: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
        Ok(entries) => entries.collect(),
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

fn on_bpf_file_system(path: &Path) -> io::Result<bool> {
    let Some(existing) = path.ancestors().find(|ancestor| ancestor.exists()) else {
        return Ok(false);
    };
    Ok(statfs(existing)?.filesystem_type() == BPF_FS_MAGIC)
}

/// At the usual mount point where `root` lies below it, else at `root` itself.
fn mount_below(root: &Path) -> Result<(), HostError> {
    let point = if root.starts_with(MOUNT_POINT) {
        Path::new(MOUNT_POINT)
    } else {
        root
    };
    let mounted = fs::create_dir_all(point).and_then(|()| {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("bpf"), point, Some("bpf"), flags, Some("mode=0700")).map_err(io::Error::from)
    });
    mounted.map_err(|error| {
        HostError::failed(
            format!("mount a BPF file system on {}", point.display()),
            error,
        )
    })?;
    tracing::info!(mount_point = %point.display(), "BPF file system mounted");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_name_of_a_link_round_trips() {
        let name = Pins::link_name(65_536, "from_vm");
        assert_eq!(name, "65536-from_vm");
        assert_eq!(Pins::parse_link_name(&name), Some((65_536, "from_vm")));
        assert_eq!(Pins::parse_link_name("from_vm"), None);
        assert_eq!(Pins::parse_link_name("x-from_vm"), None);
    }

    #[test]
    fn only_directories_of_versions_are_ours() {
        assert!(is_version("v1"));
        for name in ["maps.debug", "v", "vx", "1", "links"] {
            assert!(!is_version(name), "{name}");
        }
    }

    fn pins(root: &Path) -> Pins {
        make_directory(root).unwrap();
        let lock = Flock::lock(File::open(root).unwrap(), FlockArg::LockExclusiveNonblock);
        Pins {
            root: root.to_owned(),
            _lock: lock.unwrap(),
        }
    }

    #[test]
    fn an_empty_directory_of_ours_goes_and_any_other_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("netagent");
        drop(pins(&root));
        assert!(!root.exists());

        let held = pins(&root);
        fs::create_dir(root.join("v1")).unwrap();
        drop(held);
        assert!(root.exists());

        fs::remove_dir(root.join("v1")).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        drop(pins(&root));
        assert!(root.exists());
    }

    #[test]
    fn the_lock_of_a_removed_directory_is_none() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("netagent");
        make_directory(&root).unwrap();
        let directory = File::open(&root).unwrap();
        assert!(is_at(&directory, &root));
        fs::remove_dir(&root).unwrap();
        assert!(!is_at(&directory, &root));
        make_directory(&scratch.path().join("other")).unwrap();
        make_directory(&root).unwrap();
        assert!(!is_at(&directory, &root));
    }

    #[test]
    fn removing_a_tree_counts_its_files_and_an_absent_one_counts_none() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("v1");
        fs::create_dir_all(root.join("links")).unwrap();
        fs::write(root.join("STATE"), "").unwrap();
        fs::write(root.join("links/2-from_uplink"), "").unwrap();
        assert_eq!(remove_tree(&root).unwrap(), 2);
        assert_eq!(remove_tree(&root).unwrap(), 0);
    }
}
