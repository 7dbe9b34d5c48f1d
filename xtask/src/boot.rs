//! `cargo xtask guest <instance>`: a QEMU guest on the TAP that netagent made for the instance.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde_json::Value;
use xtask::guest::initramfs::Initramfs;
use xtask::guest::{Guest, NETWORK_CARD};
use xtask::paths;

use crate::run::become_root;
use crate::setup::setup;
use crate::shell::{self, say};

const SCRIPT: &str = include_str!("boot.sh");
/// What the script says last when everything was reached.
const SUCCESS: &str = "guest: everything was reached";

/// What the guest does.
#[derive(Args)]
pub(crate) struct GuestOptions {
    /// Name or id of an instance.
    instance: String,
    /// Give a shell in the guest after the checks.
    #[arg(long)]
    shell: bool,
    /// The agent's socket.
    #[arg(
        long,
        env = "NETAGENT_SOCKET",
        default_value = "/run/netagent/netagent.sock"
    )]
    socket: PathBuf,
    /// A page that the guest fetches; may be repeated. By default those of the private world.
    #[arg(long, default_values = ["http://198.51.100.1/", "http://[2001:db8:100::1]/"])]
    fetch: Vec<String>,
}

/// Boots the guest, shows its console, and fails unless it reached everything.
pub(crate) fn boot(options: &GuestOptions) -> Result<()> {
    setup()?;
    if !shell::is_root() {
        let mut again = Command::new(std::env::current_exe()?);
        again.args(std::env::args_os().skip(1));
        return become_root(&again);
    }
    let mut initramfs = Initramfs::new(SCRIPT)?;
    initramfs.add_modules(&NETWORK_CARD)?;
    let instance = inspect(options)?;
    let mut guest = Guest::new(initramfs)?;
    guest.namespace = Some(agent_namespace(&options.socket)?);
    let interface = instance.pointer("/network_interfaces/0");
    guest.plug_in(interface.context("the instance has no interface")?)?;
    guest.arguments.extend(arguments(options));

    // Kept, so that the line below can be typed again.
    let initrd = paths::guest_dir().join("initramfs");
    let mut command = guest.command(&initrd)?;
    say(&shell::line(&command));
    if options.shell {
        return shell::run(&mut command);
    }
    ensure!(watch(&mut command)?, "the guest did not reach everything");
    Ok(())
}

/// What `netagent inspect` says about the instance.
fn inspect(options: &GuestOptions) -> Result<Value> {
    let binary = paths::built("release").join("netagent");
    ensure!(
        binary.exists(),
        "{} is not built: `cargo xtask build --release`",
        binary.display()
    );
    let mut inspect = Command::new(binary);
    inspect
        .args(["inspect", "--json", &options.instance])
        .env("NETAGENT_SOCKET", &options.socket);
    let text = shell::read(&mut inspect)?;
    serde_json::from_str(&text).context("netagent inspect did not print JSON")
}

/// The network namespace of the agent that listens on the socket: its TAPs are there.
fn agent_namespace(socket: &Path) -> Result<PathBuf> {
    let stream = UnixStream::connect(socket)
        .with_context(|| format!("no agent listens on {}", socket.display()))?;
    let agent = getsockopt(&stream, PeerCredentials)?.pid();
    Ok(PathBuf::from(format!("/proc/{agent}/ns/net")))
}

/// What the guest's script reads from the kernel's command line.
fn arguments(options: &GuestOptions) -> Vec<String> {
    let mut arguments: Vec<String> = options
        .fetch
        .iter()
        .map(|url| format!("na.fetch={url}"))
        .collect();
    if options.shell {
        arguments.push("na.shell=1".to_owned());
    }
    arguments
}

/// Shows the console until the guest powers off; whether the guest said that it reached everything.
fn watch(command: &mut Command) -> Result<bool> {
    let mut machine = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start QEMU")?;
    let console = machine.stdout.take().context("QEMU has no console")?;
    let success = show(console);
    if success.is_err() {
        machine.kill()?;
    }
    machine.wait()?;
    success
}

fn show(console: ChildStdout) -> Result<bool> {
    let mut success = false;
    let mut shown = std::io::stdout();
    for line in BufReader::new(console).split(b'\n') {
        let line = line?;
        let text = String::from_utf8_lossy(&line);
        success |= text.trim_end() == SUCCESS;
        writeln!(shown, "{}", text.trim_end())?;
    }
    Ok(success)
}
