//! The real agent, started in a namespace with directories of its own, and taken down whatever happens.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::bpffs::PinDir;
use crate::deadline::{Deadline, wait_for};
use crate::http::{self, Answer};
use crate::netns::NetNs;

/// Time that the agent may take to serve its socket: loading programs costs most of it.
pub const START_LIMIT: Duration = Duration::from_secs(30);

/// What makes `down` remove everything.
const DOWN_ALL: &[&str] = &["--all"];

/// Why `to_vm` drops what a Linux host says on every link: IPv6 group reports.
pub const HOST_CHATTER: [&str; 1] = ["multicast_report"];

/// Where an agent keeps its things; it outlives the process, so that a test can start it again.
#[derive(Debug)]
pub struct Agent {
    netns: NetNs,
    uplink: Option<String>,
    directory: TempDir,
    state_dir: PathBuf,
    pins: Arc<PinDir>,
    kill_at: Option<u32>,
    binary: Option<PathBuf>,
    environment: BTreeMap<String, String>,
    process: Option<Child>,
}

impl Agent {
    /// Prepares an agent with this configuration (TOML); it is not started yet.
    ///
    /// # Panics
    /// When it cannot write the configuration.
    #[must_use]
    pub fn prepare(netns: &NetNs, uplink: Option<&str>, configuration: &str) -> Self {
        let directory = TempDir::with_prefix("netagent-test-").expect("a temporary directory");
        let agent = Self {
            netns: netns.clone(),
            uplink: uplink.map(str::to_owned),
            state_dir: directory.path().join("state"),
            directory,
            pins: Arc::new(PinDir::new()),
            kill_at: None,
            binary: None,
            environment: BTreeMap::new(),
            process: None,
        };
        agent.configure(configuration);
        agent
    }

    /// Gives it another configuration (TOML), for the next start.
    ///
    /// # Panics
    /// When it cannot write it.
    pub fn configure(&self, configuration: &str) {
        fs::write(self.directory.path().join("netagent.toml"), configuration)
            .expect("a file of our own");
    }

    /// Uses the state directory of another agent.
    pub fn share_state(&mut self, other: &Self) {
        self.state_dir.clone_from(&other.state_dir);
    }

    /// Keeps its state in a directory of the test's.
    pub fn keep_state_in(&mut self, directory: &Path) {
        directory.clone_into(&mut self.state_dir);
    }

    /// Lets the processes started from now on kill themselves at this fault boundary, counted from their start.
    pub fn kill_at(&mut self, boundary: Option<u32>) {
        self.kill_at = boundary;
    }

    /// Takes another binary for every later start and command.
    pub fn replace_binary(&mut self, binary: &Path) {
        self.binary = Some(binary.to_owned());
    }

    fn binary(&self) -> PathBuf {
        self.binary.clone().unwrap_or_else(binary)
    }

    /// Sets a variable for every later start and command.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.to_owned());
    }

    /// Pins where another agent does.
    pub fn share_pins(&mut self, other: &Self) {
        self.pins = Arc::clone(&other.pins);
    }

    /// Starts an agent and waits until it serves.
    ///
    /// # Panics
    /// When it does not; with what it wrote.
    #[must_use]
    pub fn start(netns: &NetNs, uplink: &str, configuration: &str) -> Self {
        let mut agent = Self::prepare(netns, Some(uplink), configuration);
        agent.run();
        agent
    }

    /// Starts the process and waits until it serves.
    ///
    /// # Panics
    /// When it does not; with what it wrote.
    pub fn run(&mut self) {
        self.spawn();
        if let Some(status) = self.serves_or_ended(START_LIMIT) {
            panic!("the agent ended ({status:?}):\n{}", self.log());
        }
    }

    /// Waits until the process serves, or says how it ended before.
    ///
    /// # Panics
    /// When it does neither; with what it wrote.
    pub fn serves_or_ended(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Deadline::after(limit);
        wait_for("the agent serves", 2 * limit, || {
            if let Some(status) = self.status() {
                return Some(Some(status));
            }
            assert!(
                deadline.remaining().is_some(),
                "the agent does not serve:\n{}",
                self.log()
            );
            let answer = http::request(&self.socket(), "GET", "/healthz", "").ok()?;
            (answer.status == 200).then_some(None)
        })
    }

    /// How the process ended, where it did.
    ///
    /// # Panics
    /// Where none was started.
    pub fn status(&mut self) -> Option<ExitStatus> {
        let process = self.process.as_mut().expect("it was started");
        process.try_wait().expect("a child of ours")
    }

    /// Starts the process; what it writes goes to [`Agent::log`].
    ///
    /// # Panics
    /// When the binary cannot be started.
    pub fn spawn(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("a file of our own");
        let mut command = self.command("run");
        if let Some(boundary) = self.kill_at {
            command.env("NETAGENT_KILL_AT", boundary.to_string());
        }
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("an open file"))
            .stderr(log);
        self.process = Some(command.spawn().expect("the binary was there a moment ago"));
    }

    /// Starts the process where it is expected to end by itself, and waits for that.
    ///
    /// # Panics
    /// When it does not end.
    #[must_use]
    pub fn run_to_end(&mut self) -> Output {
        let mut command = self.command("run");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        self.process = Some(child.expect("the binary was there a moment ago"));
        wait_for("the agent refuses to start", START_LIMIT, || self.status());
        let process = self.process.take().expect("started above");
        process.wait_with_output().expect("it ended")
    }

    /// The command line for a word, with this agent's directories.
    #[must_use]
    pub fn command(&self, word: &str) -> Command {
        let mut command = self.netns.command(&self.binary().to_string_lossy());
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(&self.environment);
        command.arg(word).arg("--socket").arg(self.socket());
        // The other words only speak to the agent that runs.
        if matches!(word, "run" | "down" | "doctor") {
            let configuration = self.directory.path().join("netagent.toml");
            command.arg("--config").arg(configuration);
            command.arg("--state-dir").arg(&self.state_dir);
            command.arg("--bpf-dir").arg(self.pins.path());
            if let Some(uplink) = &self.uplink {
                command.arg("--uplink").arg(uplink);
            }
        }
        command
    }

    /// Runs any words of the command line; they find the agent by its variables.
    ///
    /// # Panics
    /// When the binary cannot be started.
    #[must_use]
    pub fn say(&self, words: &[&str]) -> Output {
        let mut command = self.netns.command(&self.binary().to_string_lossy());
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("NETAGENT_SOCKET", self.socket())
            .args(words)
            .stdin(Stdio::null());
        command.output().expect("the binary was there a moment ago")
    }

    /// Runs any words of the command line; the JSON that they print.
    ///
    /// # Panics
    /// When they fail or print something else.
    #[must_use]
    pub fn say_json(&self, words: &[&str]) -> Value {
        let output = self.say(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{words:?}: {error}: {output:?}"))
    }

    /// Runs a word of the command line with more arguments.
    ///
    /// # Panics
    /// When the binary cannot be started.
    #[must_use]
    pub fn try_cli(&self, word: &str, arguments: &[&str]) -> Output {
        self.command(word)
            .args(arguments)
            .output()
            .expect("the binary was there a moment ago")
    }

    /// Runs a word of the command line; what it prints.
    ///
    /// # Panics
    /// When it fails.
    pub fn cli(&self, word: &str, arguments: &[&str]) -> String {
        let output = self.try_cli(word, arguments);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "netagent {word} {arguments:?}: {complaint}\n{}",
            self.log()
        );
        String::from_utf8(output.stdout).expect("the command line writes UTF-8")
    }

    /// Takes everything that it made off the host; what is stored stays.
    ///
    /// # Panics
    /// When that fails.
    pub fn take_down(&self) {
        self.cli("down", DOWN_ALL);
    }

    /// Sends a request to the API.
    ///
    /// # Panics
    /// When the agent does not answer.
    #[must_use]
    pub fn api(&self, method: &str, path: &str, body: &str) -> Answer {
        http::request(&self.socket(), method, path, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}\n{}", self.log()))
    }

    /// Creates an instance that runs.
    ///
    /// # Panics
    /// When it is refused, or does not run.
    pub fn create(&self, spec: &Value) -> Value {
        let answer = self.api("POST", "/v1/instances", &spec.to_string());
        assert_eq!(
            (answer.status, &answer.body["status"]),
            (201, &"running".into()),
            "{answer:?}\n{}",
            self.log()
        );
        answer.body
    }

    /// Asks for an instance that is refused, with this status and text.
    ///
    /// # Panics
    /// When it is not.
    pub fn refuse(&self, spec: &Value, (status, message): (u16, &str)) {
        let answer = self.api("POST", "/v1/instances", &spec.to_string());
        assert_eq!(answer.status, status, "{spec}: {answer:?}");
        assert_eq!(answer.message(), message, "{spec}");
    }

    /// Deletes an instance.
    ///
    /// # Panics
    /// When it is refused.
    pub fn delete(&self, name: &str) {
        let answer = self.api("DELETE", &format!("/v1/instances/{name}"), "");
        assert_eq!(answer.status, 204, "{answer:?}\n{}", self.log());
    }

    /// Starts or stops an instance, and what is answered.
    ///
    /// # Panics
    /// When it is refused.
    pub fn change(&self, name: &str, action: &str) -> Value {
        let answer = self.api("PUT", &format!("/v1/instances/{name}/{action}"), "");
        assert_eq!(answer.status, 200, "{action}: {answer:?}\n{}", self.log());
        answer.body
    }

    /// What the API shows of an instance.
    ///
    /// # Panics
    /// When there is none of this name.
    #[must_use]
    pub fn inspect(&self, name: &str) -> Value {
        let answer = self.api("GET", &format!("/v1/instances/{name}"), "");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    /// Drops of all interfaces of an instance, by reason.
    #[must_use]
    pub fn drops(&self, name: &str) -> BTreeMap<String, u64> {
        let mut drops = BTreeMap::new();
        for interface in self.inspect(name)["network_interfaces"]
            .as_array()
            .into_iter()
            .flatten()
        {
            for (reason, count) in interface["drops"].as_object().into_iter().flatten() {
                *drops.entry(reason.clone()).or_default() += count.as_u64().expect("a count");
            }
        }
        drops
    }

    /// The same without what the host's own group reports to the TAP are counted as: they come when they like.
    #[must_use]
    pub fn guest_drops(&self, name: &str) -> BTreeMap<String, u64> {
        let mut drops = self.drops(name);
        drops.retain(|reason, _| !HOST_CHATTER.contains(&reason.as_str()));
        drops
    }

    /// Process id.
    ///
    /// # Panics
    /// Where it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    /// kill -9.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn kill9(&mut self) {
        self.end(Signal::SIGKILL);
    }

    /// SIGTERM, as systemd stops it.
    ///
    /// # Panics
    /// Where it does not run or does not end.
    pub fn stop(&mut self) {
        self.end(Signal::SIGTERM);
    }

    fn end(&mut self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed());
        // One that ended by itself is waited for already, and its id may be another's.
        if self.status().is_none() {
            kill(pid, signal).expect("a child of ours that was not waited for");
            wait_for("the agent ends", START_LIMIT, || self.status());
        }
        self.process = None;
    }

    /// What the agent wrote.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("netagent.sock")
    }

    /// Its state directory.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Directory of everything that is this agent's, pins excepted.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its pins.
    #[must_use]
    pub fn pins(&self) -> &PinDir {
        &self.pins
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log());
        }
        if let Some(mut process) = self.process.take()
            && let Err(error) = process.kill().and_then(|()| process.wait())
        {
            eprintln!("the agent {} did not end: {error}", process.id());
        }
        if !self.state_dir.exists() {
            return;
        }
        // Pins and namespace go with their owners; `down` gives back what is the machine's (the expedite guard).
        let down = self
            .command("down")
            .args(DOWN_ALL)
            .stdin(Stdio::null())
            .output();
        if !down.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("netagent down: {down:?}");
        }
    }
}

/// The binary under test: `NETAGENT_BIN`, or the one that cargo built beside the tests.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn binary() -> PathBuf {
    let path = std::env::var_os("NETAGENT_BIN")
        .map_or_else(|| target_dir().join("netagent"), PathBuf::from);
    assert!(
        path.is_file(),
        "no netagent at {}: run `cargo xtask test`, it builds it",
        path.display()
    );
    path
}

/// Directory of the profile that this test was built with.
///
/// # Panics
/// Where the test was moved out of it.
#[must_use]
pub fn target_dir() -> PathBuf {
    let test = std::env::current_exe().expect("proc is mounted");
    let directory = test.parent().expect("an executable lies in a directory");
    let is_deps = directory.file_name().is_some_and(|name| name == "deps");
    if is_deps {
        directory
            .parent()
            .expect("deps lies in the profile's")
            .to_owned()
    } else {
        directory.to_owned()
    }
}
