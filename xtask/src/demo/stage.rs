//! What the demonstration is shown on: a world with a service, a host with an agent, the shield and two sandboxes.

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Child;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::demo::check_programs;
use crate::demo::console::{Answer, Console};
use crate::demo::guests::{Guests, Kind, ShieldFiles};
use crate::demo::patience::Patience;
use crate::private::PrivateAgent;
use crate::shell::{self, say};
use crate::world::World;

/// The service that sandboxes may ask, through the shield.
pub(crate) const SERVICE: [&str; 2] = ["203.0.113.80", "2001:db8:200::80"];
/// A host of the world that the shield's rules do not permit.
pub(crate) const REFUSED: &str = "203.0.113.66";
/// A host of the world that the shield's rules do not know, and that a sandbox's own policy denies.
pub(crate) const DENIED: &str = "203.0.113.99";
/// The port of the world's server that the proxy has nothing to do with.
pub(crate) const PLAIN: u16 = 8080;

/// Names of the instances.
pub(crate) const SHIELD: &str = "shield";
/// The first of them is who most of it is shown with.
pub(crate) const SANDBOXES: [&str; 2] = ["sandbox-a", "sandbox-b"];

/// Everything; dropping it removes it.
pub(crate) struct Stage<'a> {
    pub(crate) patience: &'a Patience,
    pub(crate) kind: Kind,
    pub(crate) secret: String,
    /// The consoles: first of the sandboxes, then of the shield while its VM runs.
    pub(crate) sandboxes: Vec<Console>,
    pub(crate) shield: Option<Console>,
    guests: Guests,
    server: Option<Child>,
    pub(crate) agent: PrivateAgent,
    pub(crate) world: World,
}

impl<'a> Stage<'a> {
    /// Makes everything, and waits until all guests take commands.
    pub(crate) fn set(kind: Kind, patience: &'a Patience) -> Result<Self> {
        check_programs(kind)?;
        let name = format!("netagent-demo-{}", std::process::id());
        let mut agent = PrivateAgent::prepare(&name)?;
        agent.write_log();
        // The credential lies in it, and is nobody else's.
        fs::set_permissions(agent.dir(), Permissions::from_mode(0o700))?;
        let world = World::make(&name)?;
        let mut stage = Self {
            patience,
            kind,
            secret: secret()?,
            sandboxes: Vec::new(),
            shield: None,
            guests: Guests {
                kind,
                host: world.host_path(),
                dir: agent.dir().to_owned(),
            },
            server: None,
            agent,
            world,
        };
        match stage.fill() {
            Ok(()) => Ok(stage),
            Err(error) => {
                stage.complain();
                Err(error)
            }
        }
    }

    fn fill(&mut self) -> Result<()> {
        for address in SERVICE.into_iter().chain([REFUSED, DENIED]) {
            self.world.add_address(address.parse::<IpAddr>()?)?;
        }
        self.serve()?;
        self.agent.start(&self.world, &[])?;
        let agent = &mut self.agent;
        self.patience
            .wait_until("the agent serves", || agent.answers())?;
        self.create(&json!({
            "name": SHIELD,
            "network_interfaces": [{ "name": "shield-front" }],
        }))?;
        for name in SANDBOXES {
            self.create(&json!({
                "name": name,
                "network_interfaces": [{ "relay": { "name": "shield-front" } }],
                "denied_cidrs": [format!("{DENIED}/32")],
            }))?;
        }
        self.start_shield()?;
        for name in SANDBOXES {
            let console = self.guests.sandbox(name, &self.interface(name)?)?;
            self.sandboxes.push(console);
        }
        self.shield()?;
        for sandbox in &mut self.sandboxes {
            sandbox.wait_until_ready(self.patience)?;
        }
        self.wait_for_relay("up")
    }

    /// Starts the world's web server.
    fn serve(&mut self) -> Result<()> {
        let credential = self.agent.dir().join("expected");
        fs::write(&credential, &self.secret)?;
        let mut command = self.world.in_world(&std::env::current_exe()?);
        command.args(["demo-server", "--port", "80", "--port", &PLAIN.to_string()]);
        command.arg("--credential").arg(&credential);
        command.stdout(File::create(self.server_log())?);
        self.server = Some(
            command
                .process_group(0)
                .spawn()
                .context("cannot start the web server")?,
        );
        Ok(())
    }

    fn server_log(&self) -> PathBuf {
        self.agent.dir().join("requests")
    }

    /// The requests that the web server saw, one on each line.
    pub(crate) fn requests(&self) -> Result<String> {
        fs::read_to_string(self.server_log()).context("the web server's log")
    }

    fn create(&self, spec: &Value) -> Result<()> {
        let name = spec.get("name").and_then(Value::as_str);
        let file = self.agent.dir().join(name.context("a name")?);
        fs::write(&file, spec.to_string())?;
        let file = file.to_string_lossy();
        shell::read(&mut self.agent.client(&["create", "-f", &file])).map(drop)
    }

    /// Boots the shield's VM, for the first time or again.
    pub(crate) fn start_shield(&mut self) -> Result<()> {
        let files = ShieldFiles {
            services: SERVICE,
            credential: &self.secret,
        };
        let interface = self.interface(SHIELD)?;
        self.shield = Some(self.guests.shield(SHIELD, &interface, &files)?);
        Ok(())
    }

    /// The shield's console, once it takes commands.
    pub(crate) fn shield(&mut self) -> Result<()> {
        let shield = self.shield.as_mut().context("the shield does not run")?;
        shield.wait_until_ready(self.patience)
    }

    /// Kills the shield's VMM, as a crash would.
    pub(crate) fn kill_shield(&mut self) -> Result<()> {
        match self.shield.take() {
            Some(mut shield) => shield.kill(),
            None => bail!("the shield does not run"),
        }
    }

    /// Waits until the agent shows that the relay of every sandbox is so.
    pub(crate) fn wait_for_relay(&self, status: &str) -> Result<()> {
        for name in SANDBOXES {
            let what = format!("the relay of {name} is {status}");
            self.patience.wait_until(&what, || {
                let interface = self.interface(name)?;
                let shown = interface.pointer("/relay/status").and_then(Value::as_str);
                Ok(shown == Some(status))
            })?;
        }
        Ok(())
    }

    /// Runs a line of shell in a sandbox.
    pub(crate) fn ask(&mut self, sandbox: usize, line: &str) -> Result<Answer> {
        let console = self.sandboxes.get_mut(sandbox).context("no such sandbox")?;
        console.run(line, self.patience)
    }

    /// Runs a line of shell in the shield.
    pub(crate) fn ask_shield(&mut self, line: &str) -> Result<Answer> {
        let shield = self.shield.as_mut().context("the shield does not run")?;
        shield.run(line, self.patience)
    }

    /// What the agent shows of an instance.
    pub(crate) fn inspect(&self, name: &str) -> Result<Value> {
        let text = shell::read(&mut self.agent.client(&["inspect", "--json", name]))?;
        serde_json::from_str(&text).context("netagent inspect did not print JSON")
    }

    /// What the agent shows of an instance's interface.
    pub(crate) fn interface(&self, name: &str) -> Result<Value> {
        let instance = self.inspect(name)?;
        let interface = instance.pointer("/network_interfaces/0");
        interface.cloned().context("the instance has no interface")
    }

    /// A member of an instance's interface, without the length of a network.
    pub(crate) fn told(&self, name: &str, member: &str) -> Result<String> {
        let interface = self.interface(name)?;
        let text = interface.get(member).and_then(Value::as_str);
        let text = text.with_context(|| format!("{name} has no {member}"))?;
        Ok(text.split('/').next().unwrap_or(text).to_owned())
    }

    /// Drops of an instance for a reason.
    pub(crate) fn drops(&self, name: &str, reason: &str) -> Result<u64> {
        let interface = self.interface(name)?;
        let count = interface.pointer(&format!("/drops/{reason}"));
        Ok(count.and_then(Value::as_u64).unwrap_or_default())
    }

    /// After a failure: what the agent and the guests wrote.
    pub(crate) fn complain(&self) {
        if self.patience.is_over() {
            return;
        }
        say(&format!("the agent wrote:\n{}", self.agent.log()));
        if let Some(shield) = &self.shield {
            say(&format!("the shield wrote:\n{}", shield.written()));
        }
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        self.sandboxes.clear();
        self.shield = None;
        self.agent.stop(&self.world, &[]);
        if let Some(mut server) = self.server.take()
            && let Err(error) = server.kill().and_then(|()| server.wait())
        {
            say(&format!("the web server did not end: {error}"));
        }
    }
}

/// Thirty-two hexadecimal digits that nobody can guess.
fn secret() -> Result<String> {
    let mut bytes = [0_u8; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
