//! What is made from the command line itself: completions and the manual; and the repair that systemd calls.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::apply::expedite::Expedite;
use crate::cli::Cli;

pub(super) fn completions(shell: Shell) -> Result<ExitCode> {
    clap_complete::generate(shell, &mut Cli::command(), "netagent", &mut io::stdout());
    Ok(ExitCode::SUCCESS)
}

/// Without a directory, the page of `netagent` itself goes to standard output.
pub(super) fn man(out: Option<&Path>) -> Result<ExitCode> {
    let Some(directory) = out else {
        Man::new(Cli::command()).render(&mut io::stdout())?;
        return Ok(ExitCode::SUCCESS);
    };
    let cannot = || format!("cannot write to {}", directory.display());
    fs::create_dir_all(directory).with_context(cannot)?;
    clap_mangen::generate_to(Cli::command(), directory).with_context(cannot)?;
    Ok(ExitCode::SUCCESS)
}

/// Opening the guard repairs what dead agents left of it.
pub(super) fn restore_rcu() -> Result<ExitCode> {
    Expedite::open(true)?;
    Ok(ExitCode::SUCCESS)
}
