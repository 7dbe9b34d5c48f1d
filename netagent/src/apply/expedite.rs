//! The guard under which RCU is expedited while a step waits for it (design, decision 15).
//!
//! It is one number for the whole machine. The file keeps the value that was there before and who holds the
//! guard now; whoever is last, or the first start that finds only dead holders, puts the value back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::host::HostError;

const KNOB: &str = "/sys/kernel/rcu_expedited";
const FILE: &str = "/run/netagent/expedite";

/// Takes guards, or none where the configuration says so.
#[derive(Clone, Debug)]
pub struct Expedite {
    knob: PathBuf,
    file: PathBuf,
    enabled: bool,
}

impl Expedite {
    /// Puts back what an agent that was killed has left, in any case.
    ///
    /// # Errors
    /// Where the file or the kernel's number cannot be written.
    pub fn open(enabled: bool) -> Result<Self, HostError> {
        let expedite = Self {
            knob: KNOB.into(),
            file: FILE.into(),
            enabled: enabled && Path::new(KNOB).exists(),
        };
        if expedite.file.exists() {
            expedite
                .repair()
                .map_err(|error| failed("restore", &expedite.knob, error))?;
        }
        Ok(expedite)
    }

    /// Holds RCU expedited until the guard is dropped; `None` where that is turned off.
    ///
    /// # Errors
    /// Where the file or the kernel's number cannot be written.
    pub fn guard(&self) -> Result<Option<Guard>, HostError> {
        if !self.enabled {
            return Ok(None);
        }
        self.enter()
            .map_err(|error| failed("raise", &self.knob, error))?;
        Ok(Some(Guard {
            expedite: self.clone(),
        }))
    }

    fn enter(&self) -> io::Result<()> {
        if let Some(directory) = self.file.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut ledger = Ledger::lock(&self.file)?;
        ledger.holders.retain(Holder::is_alive);
        let earlier = match ledger.earlier.take() {
            Some(earlier) => earlier,
            None => fs::read_to_string(&self.knob)?.trim().to_owned(),
        };
        ledger.earlier = Some(earlier);
        ledger.holders.push(Holder::this_process()?);
        // First the file: killed in between, the next start restores a value that was never changed.
        ledger.write()?;
        fs::write(&self.knob, "1")
    }

    fn leave(&self) -> io::Result<()> {
        let own = Holder::this_process()?;
        let mut ledger = Ledger::lock(&self.file)?;
        if let Some(position) = ledger.holders.iter().position(|holder| *holder == own) {
            ledger.holders.remove(position);
        }
        ledger.restore_if_free(&self.knob)
    }

    fn repair(&self) -> io::Result<()> {
        Ledger::lock(&self.file)?.restore_if_free(&self.knob)
    }
}

/// While it lives, RCU is expedited.
#[derive(Debug)]
pub struct Guard {
    expedite: Expedite,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = self.expedite.leave() {
            tracing::warn!(%error, knob = %self.expedite.knob.display(), "RCU stays expedited until the next start");
        }
    }
}

fn failed(verb: &str, knob: &Path, error: io::Error) -> HostError {
    HostError::failed(format!("{verb} {}", knob.display()), error)
}

/// A process, told from a later one of the same number by its start time.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder {
    pid: u32,
    started: u64,
}

impl Holder {
    fn this_process() -> io::Result<Self> {
        let pid = std::process::id();
        let started = start_time(pid)?;
        Ok(Self { pid, started })
    }

    fn is_alive(&self) -> bool {
        start_time(self.pid).is_ok_and(|started| started == self.started)
    }

    fn parse(line: &str) -> Option<Self> {
        let (pid, started) = line.split_once(' ')?;
        Some(Self {
            pid: pid.parse().ok()?,
            started: started.parse().ok()?,
        })
    }
}

/// Field 22 of `/proc/<pid>/stat`; the second field may hold spaces and ends with the last parenthesis.
fn start_time(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest);
    after_name
        .and_then(|rest| rest.split_whitespace().nth(19)?.parse().ok())
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("/proc/{pid}/stat has no start time"),
            )
        })
}

/// The file, locked: first line the earlier value, then one holder a line. Empty when nobody holds.
struct Ledger {
    file: Flock<File>,
    earlier: Option<String>,
    holders: Vec<Holder>,
}

impl Ledger {
    fn lock(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let mut file = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| io::Error::from(errno))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let mut lines = text.lines();
        let earlier = lines
            .next()
            .filter(|line| !line.is_empty())
            .map(ToOwned::to_owned);
        let holders = lines.filter_map(Holder::parse).collect();
        Ok(Self {
            file,
            earlier,
            holders,
        })
    }

    fn restore_if_free(&mut self, knob: &Path) -> io::Result<()> {
        self.holders.retain(Holder::is_alive);
        if self.holders.is_empty()
            && let Some(earlier) = self.earlier.take()
        {
            fs::write(knob, earlier)?;
        }
        self.write()
    }

    fn write(&mut self) -> io::Result<()> {
        let mut text = String::new();
        if let Some(earlier) = &self.earlier {
            text = format!("{earlier}\n");
            for holder in &self.holders {
                text.push_str(&format!("{} {}\n", holder.pid, holder.started));
            }
        }
        // Written over first and cut afterwards: killed in between, what was before the crash is still known, and the
        // rest are lines of dead holders. The other way round, nobody would know the earlier value.
        self.file.rewind()?;
        self.file.write_all(text.as_bytes())?;
        self.file.set_len(text.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(earlier: &str) -> (tempfile::TempDir, Expedite) {
        let directory = tempfile::tempdir().unwrap();
        let expedite = Expedite {
            knob: directory.path().join("knob"),
            file: directory.path().join("run/expedite"),
            enabled: true,
        };
        fs::write(&expedite.knob, earlier).unwrap();
        (directory, expedite)
    }

    fn knob(expedite: &Expedite) -> String {
        fs::read_to_string(&expedite.knob)
            .unwrap()
            .trim()
            .to_owned()
    }

    #[test]
    fn the_last_holder_puts_the_earlier_value_back() {
        for earlier in ["0", "1"] {
            let (_directory, expedite) = scratch(earlier);
            let first = expedite.guard().unwrap();
            let second = expedite.guard().unwrap();
            drop(first);
            assert_eq!(knob(&expedite), "1");
            drop(second);
            assert_eq!(knob(&expedite), earlier);
            assert_eq!(fs::read_to_string(&expedite.file).unwrap(), "");
        }
    }

    #[test]
    fn a_start_that_finds_only_dead_holders_restores() {
        let (_directory, expedite) = scratch("1");
        fs::create_dir_all(expedite.file.parent().unwrap()).unwrap();
        // This process with another start time: a number used again.
        fs::write(&expedite.file, format!("0\n{} 1\n", std::process::id())).unwrap();
        expedite.repair().unwrap();
        assert_eq!(knob(&expedite), "0");
    }

    #[test]
    fn a_guard_after_a_crash_keeps_the_value_from_before_the_crash() {
        let (_directory, expedite) = scratch("1");
        fs::create_dir_all(expedite.file.parent().unwrap()).unwrap();
        fs::write(&expedite.file, "0\n4194305 1\n").unwrap();
        drop(expedite.guard().unwrap());
        assert_eq!(knob(&expedite), "0");
    }

    #[test]
    fn what_a_crash_left_behind_the_last_line_is_nobody() {
        let (_directory, expedite) = scratch("1");
        fs::create_dir_all(expedite.file.parent().unwrap()).unwrap();
        fs::write(&expedite.file, "0\n4194305 1\n05 1\n4194306 2\n").unwrap();
        drop(expedite.guard().unwrap());
        assert_eq!(knob(&expedite), "0");
        assert_eq!(fs::read_to_string(&expedite.file).unwrap(), "");
    }

    #[test]
    fn a_live_holder_of_another_process_keeps_rcu_expedited() {
        let (_directory, expedite) = scratch("1");
        fs::create_dir_all(expedite.file.parent().unwrap()).unwrap();
        fs::write(&expedite.file, format!("0\n1 {}\n", start_time(1).unwrap())).unwrap();
        drop(expedite.guard().unwrap());
        assert_eq!(knob(&expedite), "1");
    }
}
