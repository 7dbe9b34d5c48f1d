//! `cargo xtask run`: the agent on the machine's real uplink, or in namespaces of its own.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;
use xtask::paths;

use crate::check;
use crate::private;
use crate::shell;

/// How the agent is run.
#[derive(Args)]
pub(crate) struct RunOptions {
    /// Run in two network namespaces made for it, a host and a world with a web server, and touch nothing else.
    #[arg(long)]
    private: bool,
    /// Everything is built: do not set up. `cargo xtask run` itself says this when it becomes root.
    #[arg(long, hide = true)]
    built: bool,
    /// Further arguments of `netagent run`.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Sets up, builds, and runs the agent as root until it ends.
pub(crate) fn run(options: &RunOptions) -> Result<()> {
    if !options.built {
        check::build(true)?;
    }
    if !options.private {
        let mut agent = Command::new(paths::built("release").join("netagent"));
        agent.arg("run").args(&options.arguments);
        return become_root(&agent);
    }
    if shell::is_root() {
        return private::run(&options.arguments);
    }
    let mut again = Command::new(std::env::current_exe()?);
    again
        .args(["run", "--private", "--built", "--"])
        .args(&options.arguments);
    become_root(&again)
}

/// Replaces this process by the command, run as root.
pub(crate) fn become_root(command: &Command) -> Result<()> {
    let error = shell::as_root(command)?.exec();
    Err(error).with_context(|| format!("cannot run {}", shell::line(command)))
}
