//! Features of an uplink that do not go with forwarding, off while `from_uplink` is attached (N-2).
//!
//! What was switched off is written down first, and switched on again when the uplink is left.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::net::if_::if_nametoindex;

use crate::apply::ethtool::Ethtool;

/// Large receive offload makes packets that no guest was sent, without the lengths to take them apart again; and
/// lists of packets panic kernels before 6.16 where their headers are pulled apart.
const UNWANTED: [&str; 2] = ["rx-lro", "rx-gro-list"];

const FILE: &str = "uplink-features";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Switches features of uplinks, and keeps the list of what was switched off.
#[derive(Clone, Debug)]
pub struct UplinkFeatures {
    file: PathBuf,
    /// Features are those of this boot: after another, none is to be restored.
    boot: String,
}

/// What was switched off on one uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    boot: String,
    ifindex: u32,
    name: String,
    features: BTreeSet<String>,
}

impl UplinkFeatures {
    /// Looks nothing up yet.
    ///
    /// # Errors
    /// Where the kernel does not say which boot this is.
    pub fn new(state_dir: &Path) -> io::Result<Self> {
        Ok(Self {
            file: state_dir.join(FILE),
            boot: fs::read_to_string(BOOT_ID)?.trim().to_owned(),
        })
    }

    /// Switches the unwanted features of an uplink off, where they are on and can be switched. Where that fails,
    /// the uplink is used as it is, and the log says so.
    pub fn switch_off(&self, ifindex: u32, name: &str) {
        match self.try_switch_off(ifindex, name) {
            Ok(off) if off.is_empty() => {}
            Ok(off) => {
                let features = off.into_iter().collect::<Vec<_>>().join(" ");
                tracing::info!(
                    uplink = name,
                    features,
                    "switched off while it is an uplink"
                );
            }
            Err(error) => {
                tracing::warn!(uplink = name, %error, "cannot look for rx-lro and rx-gro-list: switch them off with ethtool -K");
            }
        }
    }

    fn try_switch_off(&self, ifindex: u32, name: &str) -> io::Result<BTreeSet<String>> {
        let ethtool = Ethtool::open()?;
        let found = ethtool.read(ifindex)?;
        let can = |feature: &&&str| {
            found.active.contains(**feature) && found.changeable.contains(**feature)
        };
        let features: BTreeSet<String> = UNWANTED
            .iter()
            .filter(can)
            .map(|one| (*one).to_owned())
            .collect();
        if features.is_empty() {
            return Ok(features);
        }
        // First the file: killed in between, the next start switches on what was never off.
        self.write(&add(self.read()?, self.entry(ifindex, name, &features)))?;
        ethtool.switch(ifindex, &features, false)?;
        Ok(features)
    }

    /// Switches on again what was switched off: on one uplink, or on all.
    ///
    /// # Errors
    /// Where the list cannot be read or written. A device that is gone or refuses is left as it is.
    pub fn restore(&self, only: Option<u32>) -> io::Result<()> {
        let entries = self.read()?;
        let chosen = |entry: &Entry| only.is_none_or(|ifindex| entry.ifindex == ifindex);
        let (restored, kept): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(chosen);
        for entry in &restored {
            if let Err(error) = self.switch_on(entry) {
                tracing::warn!(device = entry.name, %error, "features stay off: see ethtool -k");
            }
        }
        if restored.is_empty() {
            return Ok(());
        }
        self.write(&kept)
    }

    fn switch_on(&self, entry: &Entry) -> io::Result<()> {
        let there = if_nametoindex(entry.name.as_str()) == Ok(entry.ifindex);
        if entry.boot != self.boot || !there {
            return Ok(());
        }
        Ethtool::open()?.switch(entry.ifindex, &entry.features, true)
    }

    fn entry(&self, ifindex: u32, name: &str, features: &BTreeSet<String>) -> Entry {
        Entry {
            boot: self.boot.clone(),
            ifindex,
            name: name.to_owned(),
            features: features.clone(),
        }
    }

    fn read(&self) -> io::Result<Vec<Entry>> {
        match fs::read_to_string(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            text => Ok(text?.lines().filter_map(Entry::parse).collect()),
        }
    }

    /// Replaces the list whole; an empty one is no file.
    fn write(&self, entries: &[Entry]) -> io::Result<()> {
        if entries.is_empty() {
            return match fs::remove_file(&self.file) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                result => result,
            };
        }
        let fresh = self.file.with_extension("new");
        let mut file = File::create(&fresh)?;
        for entry in entries {
            writeln!(file, "{}", entry.line())?;
        }
        file.sync_all()?;
        fs::rename(&fresh, &self.file)?;
        self.file
            .parent()
            .map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    }
}

impl Entry {
    /// Names of devices and features have no white space.
    fn line(&self) -> String {
        let features: Vec<&str> = self.features.iter().map(String::as_str).collect();
        format!(
            "{} {} {} {}",
            self.boot,
            self.ifindex,
            self.name,
            features.join(" ")
        )
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        Some(Self {
            boot: words.next()?.to_owned(),
            ifindex: words.next()?.parse().ok()?,
            name: words.next()?.to_owned(),
            features: words.map(ToOwned::to_owned).collect(),
        })
    }
}

/// One entry for each device of a boot: what was off before stays in the list.
fn add(mut entries: Vec<Entry>, mut entry: Entry) -> Vec<Entry> {
    entries.retain(|earlier| {
        let same = (&earlier.boot, earlier.ifindex, &earlier.name)
            == (&entry.boot, entry.ifindex, &entry.name);
        if same {
            entry.features.extend(earlier.features.iter().cloned());
        }
        !same
    });
    entries.push(entry);
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, UplinkFeatures) {
        let directory = tempfile::tempdir().unwrap();
        let features = UplinkFeatures {
            file: directory.path().join(FILE),
            boot: "boot".to_owned(),
        };
        (directory, features)
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_list_is_kept_from_one_agent_to_the_next() {
        let (_directory, features) = scratch();
        let first = features.entry(2, "eth0", &names(&["rx-lro", "rx-gro-list"]));
        let second = features.entry(3, "eth1", &names(&["rx-lro"]));
        features.write(&[first.clone(), second.clone()]).unwrap();
        assert_eq!(features.read().unwrap(), [first, second]);
        features.write(&[]).unwrap();
        assert!(!features.file.exists());
        assert_eq!(features.read().unwrap(), []);
        features.write(&[]).unwrap();
    }

    #[test]
    fn a_device_is_in_the_list_once_with_all_that_was_off() {
        let (_directory, features) = scratch();
        let once = features.entry(2, "eth0", &names(&["rx-lro"]));
        let other = features.entry(3, "eth1", &names(&["rx-lro"]));
        let again = features.entry(2, "eth0", &names(&["rx-gro-list"]));
        let both = features.entry(2, "eth0", &names(&["rx-gro-list", "rx-lro"]));
        assert_eq!(add(vec![once, other.clone()], again), [other, both]);
    }

    #[test]
    fn what_is_restored_leaves_the_list_even_where_the_device_is_gone() {
        let (_directory, features) = scratch();
        let gone = features.entry(u32::MAX, "gone0", &names(&["rx-lro"]));
        let other = Entry {
            ifindex: 7,
            boot: "earlier".to_owned(),
            ..gone.clone()
        };
        features.write(&[gone, other.clone()]).unwrap();
        features.restore(Some(u32::MAX)).unwrap();
        assert_eq!(features.read().unwrap(), [other]);
        features.restore(None).unwrap();
        assert!(!features.file.exists());
    }
}
