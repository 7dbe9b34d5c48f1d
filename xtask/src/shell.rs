//! Running programs, as oneself or as root, and saying so.

use std::env;
use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use xtask::paths;

/// Says on standard error what is being done.
pub(crate) fn say(text: &str) {
    eprintln!("xtask: {text}");
}

/// Runs the command with our own input and output; an error when it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", line(command)))?;
    ensure!(status.success(), "failed ({status}): {}", line(command));
    Ok(())
}

/// What the command prints on standard output; an error when it fails.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {}", line(command)))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "failed: {}: {}",
        line(command),
        errors.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as a person would type it.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| quoted(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::workspace());
    command
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The words that go before a command to run it as root: none for root itself, sudo where it asks for nothing. The
/// environment that matters is kept. `wanted` is what to advise a person without these rights to run.
pub(crate) fn root_prefix(wanted: &[String]) -> Result<Vec<OsString>> {
    if is_root() {
        return Ok(Vec::new());
    }
    let sudo = Command::new("sudo").args(["-n", "true"]).output();
    if !sudo.is_ok_and(|output| output.status.success()) {
        bail!(
            "this needs root, which `sudo -n` does not give. Run as root:\n  {}",
            wanted.join("\n  ")
        );
    }
    let mut words: Vec<OsString> = ["sudo", "-n", "-E", "env"].map(OsString::from).to_vec();
    for (name, value) in [
        ("PATH", env::var_os("PATH")),
        ("HOME", env::var_os("HOME")),
        ("XDG_CACHE_HOME", Some(paths::cache_home().into())),
        ("CARGO_TARGET_DIR", env::var_os("CARGO_TARGET_DIR")),
        ("NETAGENT_SOCKET", env::var_os("NETAGENT_SOCKET")),
        ("NETAGENT_BIN", env::var_os("NETAGENT_BIN")),
    ] {
        if let Some(value) = value {
            let mut word = OsString::from(name);
            word.push("=");
            word.push(value);
            words.push(word);
        }
    }
    Ok(words)
}

/// The command, to be run as root.
pub(crate) fn as_root(command: &Command) -> Result<Command> {
    let words = root_prefix(&[line(command)])?;
    let all: Vec<OsString> = words
        .into_iter()
        .chain(std::iter::once(command.get_program().to_owned()))
        .chain(command.get_args().map(OsString::from))
        .collect();
    let (program, arguments) = all.split_first().context("an empty command")?;
    let mut rooted = Command::new(program);
    rooted.args(arguments);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => rooted.env(name, value),
            None => rooted.env_remove(name),
        };
    }
    Ok(rooted)
}
