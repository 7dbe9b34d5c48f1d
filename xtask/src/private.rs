//! `cargo xtask run --private`: an agent in a namespace `host`, whose uplink leads to a namespace `world`.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use xtask::paths;

use crate::shell::{self, say};
use crate::world::World;

const DEFAULT_SOCKET: &str = "/run/netagent/netagent.sock";
const BPFFS: &str = "/sys/fs/bpf";
const TICK: Duration = Duration::from_millis(50);
/// How many ticks an agent gets to end after SIGTERM, or to answer after its start: 15 s.
const PATIENCE_TICKS: u32 = 300;
/// How many ticks after it was killed an agent is started again: 10 s, in which what goes on without it can be seen.
const REST_TICKS: u32 = 200;

/// Runs until a signal comes or the agent ends, and leaves nothing behind.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    // Before anything is made, so that no signal can end us in the middle. Children get the default back.
    let end = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        flag::register(signal, Arc::clone(&end))?;
    }

    mount_bpffs()?;
    let mut agent = PrivateAgent::prepare(&format!("netagent-private-{}", std::process::id()))?;
    agent.take_default_socket()?;
    let mut world = World::make(&format!("netagent-{}", std::process::id()))?;
    world.serve(&agent.dir.join("www"))?;
    let result = agent
        .start(&world, arguments)
        .and_then(|()| agent.attend(&world, arguments, &end));
    agent.stop(&world, arguments);
    say("the private agent and its namespaces are gone");
    result
}

/// Waits; false where a signal came meanwhile.
fn rest(end: &AtomicBool) -> bool {
    for _ in 0..REST_TICKS {
        if end.load(Ordering::Relaxed) {
            return false;
        }
        sleep(TICK);
    }
    true
}

/// bpffs is the one thing that stays: others may have pinned something in the meantime.
pub(crate) fn mount_bpffs() -> Result<()> {
    let mounted = statfs(BPFFS).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
    if !mounted {
        say(&format!("mounting bpffs on {BPFFS}"));
        let none: Option<&str> = None;
        mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), none)
            .context("cannot mount bpffs")?;
    }
    Ok(())
}

/// The agent and what it keeps.
pub(crate) struct PrivateAgent {
    /// State, sockets and the web server's page; removed at the end.
    dir: PathBuf,
    bpf_dir: PathBuf,
    socket: PathBuf,
    /// The socket's directory, if it is ours to remove.
    socket_dir: Option<PathBuf>,
    process: Option<Child>,
    /// Where it writes to; to our own output where there is none.
    log: Option<PathBuf>,
}

impl PrivateAgent {
    /// An agent that is not started yet, with directories and a socket of this name.
    pub(crate) fn prepare(name: &str) -> Result<Self> {
        let dir = Path::new("/run").join(name);
        fs::create_dir_all(dir.join("state"))?;
        fs::write(
            dir.join("netagent.toml"),
            "# Everything as it is by default.\n",
        )?;
        Ok(Self {
            bpf_dir: Path::new(BPFFS).join(name),
            socket: dir.join("netagent.sock"),
            socket_dir: None,
            process: None,
            log: None,
            dir,
        })
    }

    /// Where no agent listens on the default socket, this one shall: the command line then finds it by itself.
    fn take_default_socket(&mut self) -> Result<()> {
        let default = PathBuf::from(DEFAULT_SOCKET);
        if UnixStream::connect(&default).is_err() {
            if let Some(parent) = default.parent().filter(|parent| !parent.exists()) {
                fs::create_dir_all(parent)?;
                self.socket_dir = Some(parent.to_path_buf());
            }
            self.socket = default;
        }
        Ok(())
    }

    /// Its directory, which goes with it.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Has it write to a file in its directory.
    pub(crate) fn write_log(&mut self) {
        self.log = Some(self.dir.join("log"));
    }

    /// What it wrote there.
    pub(crate) fn log(&self) -> String {
        let log = self.log.as_ref().and_then(|path| fs::read(path).ok());
        String::from_utf8_lossy(&log.unwrap_or_default()).into_owned()
    }

    /// Whether it answers; an error where it has ended.
    pub(crate) fn answers(&mut self) -> Result<bool> {
        if let Some(status) = self.ended()? {
            bail!("the agent ended by itself ({status})");
        }
        Ok(UnixStream::connect(&self.socket).is_ok())
    }

    /// Words of the command line that speak to it.
    pub(crate) fn client(&self, words: &[&str]) -> Command {
        let mut command = Command::new(agent_binary());
        command
            .args(words)
            .env("NETAGENT_SOCKET", &self.socket)
            .process_group(0);
        command
    }

    /// `netagent <word>` in the host's namespace, with this agent's flags.
    fn command(&self, world: &World, word: &str, arguments: &[String]) -> Command {
        let mut command = world.in_host(&agent_binary());
        command.arg(word);
        if !arguments
            .iter()
            .any(|argument| argument.starts_with("--config"))
        {
            command.arg("--config").arg(self.dir.join("netagent.toml"));
        }
        command
            .arg("--state-dir")
            .arg(self.dir.join("state"))
            .arg("--bpf-dir")
            .arg(&self.bpf_dir);
        command
            .arg("--socket")
            .arg(&self.socket)
            .args(["--uplink", world.uplink()]);
        command.args(arguments);
        command
    }

    pub(crate) fn start(&mut self, world: &World, arguments: &[String]) -> Result<()> {
        let mut command = self.command(world, "run", arguments);
        if let Some(path) = &self.log {
            let log = File::options().create(true).append(true).open(path)?;
            command.stdout(log.try_clone()?).stderr(log);
        }
        // Ctrl-C is for us alone; we then ask the agent to end.
        let child = command.process_group(0).spawn();
        self.process =
            Some(child.with_context(|| format!("cannot run {}", shell::line(&command)))?);
        Ok(())
    }

    /// Says what to type next when the agent answers, and starts it again where it was killed, as systemd does; returns
    /// when a signal comes, or when the agent ends by itself.
    fn attend(&mut self, world: &World, arguments: &[String], end: &AtomicBool) -> Result<()> {
        let mut ticks = 0;
        let mut answered = false;
        loop {
            if let Some(status) = self.ended()? {
                if status.signal() != Some(Signal::SIGKILL as i32) {
                    bail!("the agent ended by itself ({status})");
                }
                say(
                    "the agent was killed: its programs go on without it, and it is started again in 10 s",
                );
                if !rest(end) {
                    return Ok(());
                }
                self.start(world, arguments)?;
            }
            if end.load(Ordering::Relaxed) {
                return Ok(());
            }
            if !answered {
                answered = UnixStream::connect(&self.socket).is_ok();
                ticks += 1;
                if answered {
                    self.print_next(world)?;
                } else if ticks > PATIENCE_TICKS {
                    bail!("the agent does not listen on {}", self.socket.display());
                }
            }
            sleep(TICK);
        }
    }

    fn print_next(&self, world: &World) -> Result<()> {
        let default = self.socket == Path::new(DEFAULT_SOCKET);
        let variable = if default {
            String::new()
        } else {
            format!("NETAGENT_SOCKET={} ", self.socket.display())
        };
        let binary = agent_binary();
        let binary = binary
            .strip_prefix(paths::workspace())
            .unwrap_or(&binary)
            .display();
        let mut shown = std::io::stdout();
        writeln!(
            shown,
            "
The agent runs in the network namespace {host}. Its uplink leads to the namespace {world},
where a web server answers on http://198.51.100.1/ and http://[2001:db8:100::1]/. In a second shell, as root:

  {variable}{binary} create --name hello      # an instance with a TAP
  {variable}cargo xtask guest hello           # a QEMU guest on that TAP reaches the world; --shell to look around
  {variable}{binary} inspect hello            # what it may do and what was dropped

  nsenter --net={host_path}    # a shell in the host
  nsenter --net={world_path}   # a shell in the world

`kill -9` of the agent leaves its programs at work, and ten seconds later it is started again.
Ctrl-C here ends the agent and removes all of it.
",
            host = world.host_name(),
            world = world.world_name(),
            host_path = world.host_path().display(),
            world_path = world.world_path().display(),
        )?;
        Ok(())
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.process {
            Some(process) => Ok(process.try_wait()?),
            None => bail!("the agent was not started"),
        }
    }

    /// Ends the agent and has it take down what it made. Goes on after a failure, and says so.
    pub(crate) fn stop(&mut self, world: &World, arguments: &[String]) {
        if let Err(error) = self.end() {
            say(&format!("cannot end the agent: {error:#}"));
        }
        let mut down = self.command(world, "down", arguments);
        if let Err(error) = shell::read(down.process_group(0)) {
            say(&format!("{error:#}"));
        }
    }

    fn end(&mut self) -> Result<()> {
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        if process.try_wait()?.is_some() {
            return Ok(());
        }
        kill(Pid::from_raw(i32::try_from(process.id())?), Signal::SIGTERM)?;
        for _ in 0..PATIENCE_TICKS {
            if process.try_wait()?.is_some() {
                return Ok(());
            }
            sleep(TICK);
        }
        say("the agent did not end in time: it is killed");
        process.kill()?;
        process.wait()?;
        Ok(())
    }
}

impl Drop for PrivateAgent {
    fn drop(&mut self) {
        for dir in [
            Some(&self.bpf_dir),
            Some(&self.dir),
            self.socket_dir.as_ref(),
        ]
        .into_iter()
        .flatten()
        {
            remove_tree(dir);
        }
    }
}

/// The agent: the one that was built, or that which `NETAGENT_BIN` names.
pub(crate) fn agent_binary() -> PathBuf {
    let built = || paths::built("release").join("netagent");
    std::env::var_os("NETAGENT_BIN").map_or_else(built, PathBuf::from)
}

/// Removes a directory of ours; one that is not there is as good.
fn remove_tree(dir: &Path) {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            say(&format!("cannot remove {}: {error}", dir.display()));
        }
        _ => {}
    }
}
