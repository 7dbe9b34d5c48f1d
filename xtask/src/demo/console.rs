//! A guest's console: commands go in, and what they write comes back.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::demo::patience::{Patience, TICK};

/// What a guest's script writes before it takes commands.
const READY: &str = "guest: ready";
/// What it writes before and after what a command writes.
const BEGIN: &str = "guest: begin";
const END: &str = "guest: end ";

/// What came of a command.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its exit status.
    pub(crate) status: i32,
    /// What it wrote, without blanks at the end.
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn is_ok(&self) -> bool {
        self.status == 0
    }
}

/// A process with a guest's console as its standard input and output; dropping it kills it.
pub(crate) struct Console {
    name: String,
    process: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    /// Everything that it wrote.
    written: String,
}

impl Console {
    /// Starts the process, in a process group of its own: Ctrl-C is for us alone.
    pub(crate) fn start(name: &str, command: &mut Command) -> Result<Self> {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start the guest {name}"))?;
        let missing = "a process without a pipe";
        let input = process.stdin.take().context(missing)?;
        let (sender, lines) = channel();
        let outputs: [Box<dyn Read + Send>; 2] = [
            Box::new(process.stdout.take().context(missing)?),
            Box::new(process.stderr.take().context(missing)?),
        ];
        for output in outputs {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                    let line = String::from_utf8_lossy(&line).replace('\r', "");
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self {
            name: name.to_owned(),
            process,
            input,
            lines,
            written: String::new(),
        })
    }

    /// Waits until the guest takes commands.
    pub(crate) fn wait_until_ready(&mut self, patience: &Patience) -> Result<()> {
        self.read_until(patience, |line| line == READY).map(drop)
    }

    /// Runs one line of shell in the guest.
    pub(crate) fn run(&mut self, line: &str, patience: &Patience) -> Result<Answer> {
        writeln!(self.input, "{line}")
            .and_then(|()| self.input.flush())
            .with_context(|| format!("the guest {} takes no command", self.name))?;
        self.read_until(patience, |line| line == BEGIN)?;
        let mut lines = self.read_until(patience, |line| line.starts_with(END))?;
        let last = lines.pop().unwrap_or_default();
        let status = last.strip_prefix(END).unwrap_or_default();
        Ok(Answer {
            status: status.parse().context("the guest's exit status")?,
            text: lines.join("\n").trim_end().to_owned(),
        })
    }

    /// Everything that it wrote.
    pub(crate) fn written(&self) -> &str {
        &self.written
    }

    /// The lines up to the first that is wanted, with it.
    fn read_until(
        &mut self,
        patience: &Patience,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        patience.wait_for(&format!("the guest {}", self.name), || {
            loop {
                let line = match self.lines.recv_timeout(TICK) {
                    Ok(line) => line,
                    Err(RecvTimeoutError::Timeout) => return Ok(None),
                    Err(RecvTimeoutError::Disconnected) => {
                        bail!("the guest {} ended:\n{}", self.name, self.written)
                    }
                };
                self.written.push_str(&line);
                self.written.push('\n');
                let found = wanted(&line);
                lines.push(line);
                if found {
                    return Ok(Some(()));
                }
            }
        })?;
        Ok(lines)
    }

    /// Kills the VMM, as a crash would.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // One that was waited for has no process any more: kill then does nothing.
        if let Err(error) = self.kill() {
            crate::shell::say(&format!("the guest {} did not end: {error:#}", self.name));
        }
    }
}
