//! What the demonstration says, and whether all of it was as expected.

use std::io::{Write, stdout};

use anyhow::{Result, ensure};

/// Writes to standard output, and counts what was not as expected.
#[derive(Default)]
pub(crate) struct Show {
    sections: u32,
    failures: u32,
}

impl Show {
    /// Begins a section.
    pub(crate) fn section(&mut self, title: &str) -> Result<()> {
        self.sections += 1;
        writeln!(stdout(), "\n{}. {title}", self.sections)?;
        Ok(())
    }

    /// Shows lines as they are.
    pub(crate) fn lines(&self, text: &str) -> Result<()> {
        for line in text.lines() {
            writeln!(stdout(), "     {line}")?;
        }
        Ok(())
    }

    /// Shows a command that a guest runs.
    pub(crate) fn command(&self, guest: &str, line: &str) -> Result<()> {
        writeln!(stdout(), "     {guest}$ {line}")?;
        Ok(())
    }

    /// Says a sentence, and whether it holds.
    pub(crate) fn check(&mut self, holds: bool, sentence: &str) -> Result<()> {
        let mark = if holds { "ok    " } else { "FAILED" };
        writeln!(stdout(), "  {mark}  {sentence}")?;
        self.failures += u32::from(!holds);
        Ok(())
    }

    /// The last line; an error where something was not as expected.
    pub(crate) fn end(&self) -> Result<()> {
        ensure!(
            self.failures == 0,
            "{} of what was shown was not as expected",
            self.failures
        );
        writeln!(stdout(), "\nEverything was as expected.")?;
        Ok(())
    }
}
