//! The NAT range in `net.ipv4.ip_local_reserved_ports` (N-5): the kernel gives none of its ports to who asks for any.
//!
//! What others reserved stays theirs. What was added for the range is written down before it is added, and taken out
//! again by `netagent down`, or where the range is another one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::{PortRange, ports};
use crate::plan::ReservedPorts;

const FILE: &str = "reserved-ports";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const NAMESPACE: &str = "/proc/self/ns/net";

/// Adds ports to the setting, and remembers which.
#[derive(Clone, Debug)]
pub struct Reservation {
    setting: PathBuf,
    file: PathBuf,
    /// The setting is one of this boot and this network namespace: in another, nothing was added.
    place: String,
}

impl Reservation {
    /// Looks nothing up yet.
    ///
    /// # Errors
    /// Where the kernel does not say which boot this is, or which namespace.
    pub fn new(state_dir: &Path) -> io::Result<Self> {
        let boot = fs::read_to_string(BOOT_ID)?;
        let namespace = fs::metadata(NAMESPACE)?.ino();
        Ok(Self {
            setting: ports::RESERVED.into(),
            file: state_dir.join(FILE),
            place: format!("{} {namespace}", boot.trim()),
        })
    }

    /// What is reserved, and what of it was added here.
    ///
    /// # Errors
    /// Where the setting or the file cannot be read.
    pub fn observe(&self) -> io::Result<ReservedPorts> {
        let all = self.read_setting()?;
        let added = self.read_added()?;
        // What is reserved no more was taken out by somebody else.
        let gone = ports::without(&added, &all);
        let own = if gone.is_empty() { added } else { Vec::new() };
        Ok(ReservedPorts { all, own })
    }

    /// Reserves the range, and takes out what was added for another one.
    ///
    /// # Errors
    /// Where the setting or the file cannot be written.
    pub fn reserve(&self, range: PortRange) -> io::Result<()> {
        let ReservedPorts { all, own } = self.observe()?;
        let wanted = [range];
        let others = ports::without(&all, &own);
        let own = ports::without(&wanted, &others);
        // Killed in between, what is still there of an earlier range is known, and what was not added is not there.
        let earlier = ports::without(&self.read_added()?, &others);
        self.write_added(&ports::with(&own, &earlier))?;
        self.write_setting(&ports::with(&others, &own))?;
        self.write_added(&own)
    }

    /// Takes out what was added.
    ///
    /// # Errors
    /// Where the setting or the file cannot be written.
    pub fn release(&self) -> io::Result<()> {
        let ReservedPorts { all, own } = self.observe()?;
        if !own.is_empty() {
            self.write_setting(&ports::without(&all, &own))?;
        }
        self.write_added(&[])
    }

    fn read_setting(&self) -> io::Result<Vec<PortRange>> {
        match ports::read_list(&self.setting) {
            // A kernel without IPv4 has nothing to reserve.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            text => Ok(ports::parse_list(text?.trim())),
        }
    }

    /// In one write: the kernel replaces the list by it.
    fn write_setting(&self, ranges: &[PortRange]) -> io::Result<()> {
        let text = format!("{}\n", ports::print_list(ranges));
        match fs::write(&self.setting, text) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn read_added(&self) -> io::Result<Vec<PortRange>> {
        let text = match fs::read_to_string(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            text => text?,
        };
        let list = text.trim_end().strip_prefix(&self.place);
        Ok(ports::parse_list(list.unwrap_or_default().trim()))
    }

    /// Replaces the file whole; nothing added is no file.
    fn write_added(&self, ranges: &[PortRange]) -> io::Result<()> {
        if ranges.is_empty() {
            return match fs::remove_file(&self.file) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                result => result,
            };
        }
        let fresh = self.file.with_extension("new");
        let mut file = File::create(&fresh)?;
        writeln!(file, "{} {}", self.place, ports::print_list(ranges))?;
        file.sync_all()?;
        fs::rename(&fresh, &self.file)?;
        self.file
            .parent()
            .map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: PortRange = PortRange {
        first: 16_384,
        last: 29_999,
    };

    fn scratch(setting: &str) -> (tempfile::TempDir, Reservation) {
        let directory = tempfile::tempdir().unwrap();
        let reserved = Reservation {
            setting: directory.path().join("setting"),
            file: directory.path().join(FILE),
            place: "boot 1".to_owned(),
        };
        fs::write(&reserved.setting, format!("{setting}\n")).unwrap();
        (directory, reserved)
    }

    fn setting(reserved: &Reservation) -> String {
        ports::print_list(&reserved.read_setting().unwrap())
    }

    #[test]
    fn what_was_reserved_before_is_reserved_afterwards() {
        for (before, during) in [
            ("", "16384-29999"),
            ("80-80,5000-5100", "80-80,5000-5100,16384-29999"),
            ("20000-20009", "16384-29999"),
            ("16000-30000", "16000-30000"),
            ("16384-29999", "16384-29999"),
        ] {
            let (_directory, reserved) = scratch(before);
            for _ in 0..2 {
                reserved.reserve(RANGE).unwrap();
                assert_eq!(setting(&reserved), during, "{before}");
            }
            for _ in 0..2 {
                reserved.release().unwrap();
                assert_eq!(setting(&reserved), before);
                assert!(!reserved.file.exists());
            }
        }
    }

    #[test]
    fn what_others_reserve_meanwhile_stays() {
        let (_directory, reserved) = scratch("80-80");
        reserved.reserve(RANGE).unwrap();
        fs::write(&reserved.setting, "80,16384-29999,40000\n").unwrap();
        reserved.reserve(RANGE).unwrap();
        reserved.release().unwrap();
        assert_eq!(setting(&reserved), "80-80,40000-40000");
    }

    #[test]
    fn what_others_write_over_it_is_theirs() {
        let (_directory, reserved) = scratch("");
        reserved.reserve(RANGE).unwrap();
        fs::write(&reserved.setting, "20000-20009\n").unwrap();
        assert_eq!(reserved.observe().unwrap().own, []);
        reserved.reserve(RANGE).unwrap();
        assert_eq!(setting(&reserved), "16384-29999");
        reserved.release().unwrap();
        assert_eq!(setting(&reserved), "20000-20009");
    }

    #[test]
    fn another_range_takes_the_place_of_the_first() {
        let (_directory, reserved) = scratch("80-80,29990-30010");
        reserved.reserve(RANGE).unwrap();
        let other = PortRange {
            first: 10_000,
            last: 16_999,
        };
        reserved.reserve(other).unwrap();
        assert_eq!(setting(&reserved), "80-80,10000-16999,29990-30010");
        reserved.release().unwrap();
        assert_eq!(setting(&reserved), "80-80,29990-30010");
    }

    #[test]
    fn what_was_written_down_and_not_added_is_not_taken_out() {
        let (_directory, reserved) = scratch("20000-20009");
        // Killed between the two.
        reserved.write_added(&[RANGE]).unwrap();
        reserved.release().unwrap();
        assert_eq!(setting(&reserved), "20000-20009");
    }

    #[test]
    fn another_boot_and_another_namespace_have_nothing_of_it() {
        let (_directory, reserved) = scratch("");
        reserved.reserve(RANGE).unwrap();
        for place in ["boot 2", "other 1"] {
            let elsewhere = Reservation {
                place: place.to_owned(),
                ..reserved.clone()
            };
            let seen = elsewhere.observe().unwrap();
            assert_eq!((seen.all, seen.own), (vec![RANGE], vec![]), "{place}");
        }
    }
}
