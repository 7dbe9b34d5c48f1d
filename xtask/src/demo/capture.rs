//! What crosses the host's interfaces, as tcpdump sees it there: TAPs from the host's side, and the uplink.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use anyhow::{Context, Result, bail};
use xtask::paths;

use crate::demo::patience::Patience;
use crate::shell;
use crate::world::enter;

/// A packet on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The interface.
    pub(crate) device: String,
    /// Whether it came in by it: from the VM, or from the world.
    pub(crate) is_in: bool,
    /// Source, with its port.
    pub(crate) src: String,
    /// Destination, with its port.
    pub(crate) dst: String,
}

impl Seen {
    /// Reads a line as `tcpdump -i any` prints it.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let device = words.next()?.to_owned();
        let is_in = words.next()? == "In";
        let family = words.next()?;
        let src = words.next()?.to_owned();
        let arrow = words.next()?;
        let dst = words.next()?.trim_end_matches(':').to_owned();
        let is_packet = matches!(family, "IP" | "IP6") && arrow == ">";
        is_packet.then_some(Self {
            device,
            is_in,
            src,
            dst,
        })
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            device, src, dst, ..
        } = self;
        let direction = if self.is_in { "in " } else { "out" };
        write!(f, "{device:<7} {direction}  {src} -> {dst}")
    }
}

/// A tcpdump that runs; dropping it ends it.
pub(crate) struct Capture {
    process: Child,
    lines: Receiver<String>,
    seen: Vec<Seen>,
}

impl Capture {
    /// Captures what this filter lets through on every interface of a namespace, from now on.
    pub(crate) fn start(namespace: &Path, filter: &str, patience: &Patience) -> Result<Self> {
        let words = ["-i", "any", "-l", "-t", "-nn", "--immediate-mode", filter];
        Self::run(namespace, &words, patience)
    }

    /// Captures everything on one interface of a namespace into a file, from now on.
    pub(crate) fn to_file(
        namespace: &Path,
        (device, file): (&str, &Path),
        patience: &Patience,
    ) -> Result<CaptureFile> {
        let path = file.to_string_lossy();
        let words = [
            "-i",
            device,
            "-U",
            "-s0",
            "--immediate-mode",
            "-Z",
            "root",
            "-w",
            &path,
        ];
        let capture = Self::run(namespace, &words, patience)?;
        let file = file.to_owned();
        Ok(CaptureFile { capture, file })
    }

    fn run(namespace: &Path, words: &[&str], patience: &Patience) -> Result<Self> {
        let program = paths::find_program("tcpdump").context("there is no tcpdump")?;
        let mut command = enter(namespace, program);
        let mut process = command
            .args(words)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", shell::line(&command)))?;
        let (sender, lines) = channel();
        let output = process.stdout.take().context("a pipe")?;
        let complaints = process.stderr.take().context("a pipe")?;
        let mut capture = Self {
            process,
            lines,
            seen: Vec::new(),
        };
        let (said, started) = channel();
        read_lines(output, move |line| sender.send(line).is_ok());
        // Read to the end, or tcpdump would wait for us.
        read_lines(complaints, move |line| {
            drop(said.send(line));
            true
        });
        patience.wait_until("tcpdump captures", || {
            if let Some(status) = capture.process.try_wait()? {
                bail!("tcpdump ended ({status})");
            }
            Ok(started.try_iter().any(|line| line.contains("listening on")))
        })?;
        Ok(capture)
    }

    /// Everything so far.
    pub(crate) fn seen(&mut self) -> &[Seen] {
        let new = self.lines.try_iter();
        self.seen.extend(new.filter_map(|line| Seen::parse(&line)));
        &self.seen
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if let Err(error) = self.process.kill().and_then(|()| self.process.wait()) {
            shell::say(&format!("tcpdump did not end: {error}"));
        }
    }
}

/// A capture of whole packets.
pub(crate) struct CaptureFile {
    capture: Capture,
    file: PathBuf,
}

impl CaptureFile {
    /// Whether these bytes occur in what was captured so far.
    pub(crate) fn holds(&self, wanted: &str) -> Result<bool> {
        let bytes = fs::read(&self.file)?;
        let wanted = wanted.as_bytes();
        Ok(bytes.windows(wanted.len()).any(|bytes| bytes == wanted))
    }

    /// Ends it.
    pub(crate) fn end(self) {
        drop(self.capture);
    }
}

fn read_lines(
    output: impl Read + Send + 'static,
    mut take: impl FnMut(String) -> bool + Send + 'static,
) {
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if !take(line) {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::Seen;

    #[test]
    fn a_line_of_tcpdump_is_read() {
        let line = "tap1  In  IP 172.16.0.6.40000 > 203.0.113.80.8080: Flags [S], seq 1, length 0";
        let seen = Seen::parse(line).unwrap();
        assert_eq!(
            seen.to_string(),
            "tap1    in   172.16.0.6.40000 -> 203.0.113.80.8080"
        );
        assert_eq!(
            Seen::parse("tap1  In  ARP, Request who-has 172.16.0.5"),
            None
        );
    }
}
