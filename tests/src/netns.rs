//! Network namespaces without a name: they live as long as a descriptor, so nothing of them outlives the test.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::resume_unwind;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

use crate::sys;

/// A network namespace.
#[derive(Clone, Debug)]
pub struct NetNs {
    descriptor: Arc<OwnedFd>,
}

impl NetNs {
    /// Makes an empty namespace, its loopback interface up.
    ///
    /// # Panics
    /// Without the rights to make one.
    #[must_use]
    pub fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .expect("cannot make a network namespace: run as root, `cargo xtask test` does");
            File::open("/proc/thread-self/ns/net").expect("the thread has a namespace")
        });
        let file = made.join().unwrap_or_else(|panic| resume_unwind(panic));
        let netns = Self {
            descriptor: Arc::new(file.into()),
        };
        netns.sysctl("net/ipv6/conf/default/accept_dad", "0");
        netns.sysctl("net/ipv6/conf/all/accept_dad", "0");
        netns.ip("link set lo up");
        netns
    }

    /// The namespace that a file names, as `/run/netns/<name>`.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        let file = File::open(path);
        let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self {
            descriptor: Arc::new(file.into()),
        }
    }

    /// The namespace that this process is in.
    ///
    /// # Panics
    /// Where proc is not mounted.
    #[must_use]
    pub fn current() -> Self {
        let file = File::open("/proc/self/ns/net").expect("proc is mounted");
        Self {
            descriptor: Arc::new(file.into()),
        }
    }

    /// Runs `work` on a thread inside; what it opens stays inside.
    ///
    /// # Panics
    /// When `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&*self.descriptor, CloneFlags::CLONE_NEWNET).expect("the namespace is held open");
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// A command that will start inside.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        sys::start_in_netns(&mut command, Arc::clone(&self.descriptor));
        command
    }

    /// Runs a command line (split at blanks) inside and returns what it wrote.
    ///
    /// # Panics
    /// When it fails.
    pub fn shell(&self, line: &str) -> String {
        let output = self.try_shell(line);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "`{line}`: {}: {complaint}",
            output.status
        );
        String::from_utf8(output.stdout).expect("the tools write UTF-8")
    }

    /// Runs a command line inside, whatever comes of it.
    ///
    /// # Panics
    /// When the program is not there.
    pub fn try_shell(&self, line: &str) -> Output {
        let mut words = line.split_whitespace();
        let program = words.next().expect("a command line");
        let output = self.command(program).args(words).output();
        output.unwrap_or_else(|error| {
            panic!("cannot run {program}: {error}; `cargo xtask setup` installs it")
        })
    }

    /// Runs `ip` with these words inside.
    pub fn ip(&self, words: &str) {
        self.shell(&format!("ip {words}"));
    }

    /// Runs a command line inside that reads this text.
    ///
    /// # Panics
    /// When it fails.
    pub fn feed(&self, line: &str, text: &str) {
        let mut words = line.split_whitespace();
        let program = words.next().expect("a command line");
        let child = self
            .command(program)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.unwrap_or_else(|error| {
            panic!("cannot run {program}: {error}; `cargo xtask setup` installs it")
        });
        let mut input = child.stdin.take().expect("it is a pipe");
        // Where the program ended before it read all, it says why.
        let written = input.write_all(text.as_bytes());
        drop(input);
        let output = child.wait_with_output().expect("a child of ours");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && written.is_ok(),
            "`{line}`: {}: {complaint}\n{text}",
            output.status
        );
    }

    /// Runs `ip` inside for each of these lines, in one process.
    pub fn ip_all(&self, lines: &[String]) {
        self.feed("ip -batch -", &(lines.join("\n") + "\n"));
    }

    /// Sets a sysctl, given as a path under `/proc/sys`.
    ///
    /// # Panics
    /// Where there is none of this name.
    pub fn sysctl(&self, path: &str, value: &str) {
        let written = self.run(|| fs::write(format!("/proc/sys/{path}"), value));
        written.unwrap_or_else(|error| panic!("sysctl {path}={value}: {error}"));
    }

    /// Reads a sysctl; `None` where there is none of this name.
    #[must_use]
    pub fn read_sysctl(&self, path: &str) -> Option<String> {
        let text = self
            .run(|| fs::read_to_string(format!("/proc/sys/{path}")))
            .ok()?;
        Some(text.trim().to_owned())
    }

    /// A path that names the namespace for `ip link set ... netns`, while this process lives.
    #[must_use]
    pub fn path(&self) -> String {
        format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.descriptor.as_raw_fd()
        )
    }

    /// Index of an interface, where it is there.
    #[must_use]
    pub fn find_ifindex(&self, name: &str) -> Option<u32> {
        self.run(|| nix::net::if_::if_nametoindex(name)).ok()
    }

    /// Index of an interface.
    ///
    /// # Panics
    /// Where there is none of this name.
    #[must_use]
    pub fn ifindex(&self, name: &str) -> u32 {
        self.find_ifindex(name)
            .unwrap_or_else(|| panic!("no interface {name}: {}", self.shell("ip -br link")))
    }

    /// Hardware address of an interface.
    ///
    /// # Panics
    /// Where there is none of this name.
    #[must_use]
    pub fn mac(&self, name: &str) -> [u8; 6] {
        let links = self.json(&format!("ip -json link show dev {name}"));
        let text = links[0]["address"].as_str().expect("ip prints the address");
        let mut bytes = text
            .split(':')
            .map(|part| u8::from_str_radix(part, 16).expect("hexadecimal"));
        std::array::from_fn(|_| bytes.next().expect("six bytes"))
    }

    /// What a command prints as JSON.
    ///
    /// # Panics
    /// When it fails or prints something else.
    #[must_use]
    pub fn json(&self, line: &str) -> serde_json::Value {
        let text = self.shell(line);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("`{line}`: {error}: {text}"))
    }

    /// Names of all interfaces, in the kernel's order.
    #[must_use]
    pub fn links(&self) -> Vec<String> {
        let text = self
            .run(|| fs::read_to_string("/proc/thread-self/net/dev"))
            .expect("proc is mounted");
        text.lines()
            .skip(2)
            .filter_map(|line| line.split(':').next())
            .map(|name| name.trim().to_owned())
            .collect()
    }

    /// Packets that an interface received and sent.
    ///
    /// # Panics
    /// Where there is none of this name.
    #[must_use]
    pub fn packets(&self, name: &str) -> (u64, u64) {
        let numbers = self.counters(name);
        (numbers[1], numbers[9])
    }

    /// Packets to be sent that an interface had no room for.
    ///
    /// # Panics
    /// Where there is none of this name.
    #[must_use]
    pub fn not_sent(&self, name: &str) -> u64 {
        self.counters(name)[11]
    }

    /// The sixteen numbers of an interface: of what it received bytes, packets and so on, then of what it sent.
    fn counters(&self, name: &str) -> Vec<u64> {
        let text = self
            .run(|| fs::read_to_string("/proc/thread-self/net/dev"))
            .expect("proc is mounted");
        let mut lines = text.lines().filter_map(|line| line.trim().split_once(':'));
        let (_, counters) = lines
            .find(|(link, _)| *link == name)
            .unwrap_or_else(|| panic!("no interface {name}"));
        let numbers = counters.split_whitespace();
        numbers
            .map(|number| number.parse().expect("a number"))
            .collect()
    }
}

impl Default for NetNs {
    fn default() -> Self {
        Self::new()
    }
}

/// A veth pair between two namespaces, both ends up.
pub fn join_by_veth((left, left_name): (&NetNs, &str), (right, right_name): (&NetNs, &str)) {
    let path = right.path();
    left.ip(&format!(
        "link add {left_name} type veth peer name {right_name} netns {path}"
    ));
    left.ip(&format!("link set {left_name} up"));
    right.ip(&format!("link set {right_name} up"));
}
