//! The shield and the sandboxes: VMs under QEMU, or namespaces where there is none.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;
use xtask::guest::initramfs::{FUNCTIONS, Initramfs};
use xtask::guest::{Guest, NETWORK_CARD, addresses};
use xtask::paths;

use crate::demo::console::Console;
use crate::private::agent_binary;

const CONSOLE: &str = include_str!("console.sh");
const SANDBOX: &str = include_str!("sandbox.sh");
const SHIELD: &str = include_str!("shield.sh");
const RULES: &str = include_str!("shield.nft");

/// What the shield's rules need: sets and chains, connection tracking, redirection, refusals of both families.
const RULE_MODULES: [&str; 5] = [
    "nf_tables",
    "nft_ct",
    "nft_chain_nat",
    "nft_redir",
    "nft_reject_inet",
];
/// The shield's memory: its proxy is this very program.
const SHIELD_MEMORY_MIB: u32 = 256;

/// What a guest is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A VM under QEMU.
    Vm,
    /// A network namespace on this machine's kernel.
    Namespace,
}

/// Where guests are started.
pub(crate) struct Guests {
    pub(crate) kind: Kind,
    /// The network namespace of the TAPs.
    pub(crate) host: PathBuf,
    /// A directory for what they are started with.
    pub(crate) dir: PathBuf,
}

/// What only the shield gets.
pub(crate) struct ShieldFiles<'a> {
    pub(crate) services: [&'a str; 2],
    pub(crate) credential: &'a str,
}

impl Guests {
    /// Starts a sandbox on its interface, given as `netagent inspect --json` shows it.
    pub(crate) fn sandbox(&self, name: &str, interface: &Value) -> Result<Console> {
        match self.kind {
            Kind::Vm => {
                let initramfs = Initramfs::new(&[SANDBOX, CONSOLE].concat())?;
                self.start_vm((name, interface), initramfs, &[])
            }
            Kind::Namespace => self.start_namespace((name, interface), SANDBOX, &[]),
        }
    }

    /// Starts the shield.
    pub(crate) fn shield(
        &self,
        name: &str,
        interface: &Value,
        files: &ShieldFiles<'_>,
    ) -> Result<Console> {
        let [service4, service6] = files.services;
        let rules = format!("define service4 = {service4}\ndefine service6 = {service6}\n{RULES}");
        let mut told: Vec<String> = files
            .services
            .iter()
            .map(|service| format!("na.service={service}"))
            .collect();
        let program = std::env::current_exe()?;
        match self.kind {
            Kind::Vm => {
                let mut initramfs = Initramfs::new(&[SHIELD, CONSOLE].concat())?;
                initramfs.add_modules(&RULE_MODULES)?;
                let nft = paths::find_program("nft").context("there is no nft")?;
                for program in [&nft, &program] {
                    initramfs.add_binary_with_libraries(program)?;
                }
                initramfs.add_file("/etc/rules", 0o644, rules);
                initramfs.add_file("/etc/credential", 0o600, files.credential);
                let file_name = program.file_name().context("we have a name")?;
                let proxy = format!("/bin/{}", file_name.to_string_lossy());
                told.extend(shield_paths([
                    "/etc/rules",
                    "/etc/credential",
                    &proxy,
                    "/tmp/proxy",
                ]));
                self.start_vm((name, interface), initramfs, &told)
            }
            Kind::Namespace => {
                let [rule_file, credential, log] = ["rules", "credential", "proxy.log"]
                    .map(|file| self.dir.join(file).to_string_lossy().into_owned());
                fs::write(&rule_file, rules)?;
                fs::write(&credential, files.credential)?;
                let proxy = program.to_string_lossy();
                told.extend(shield_paths([&rule_file, &credential, &proxy, &log]));
                self.start_namespace((name, interface), SHIELD, &told)
            }
        }
    }

    fn start_vm(
        &self,
        (name, interface): (&str, &Value),
        mut initramfs: Initramfs,
        told: &[String],
    ) -> Result<Console> {
        initramfs.add_modules(&NETWORK_CARD)?;
        let mut guest = Guest::new(initramfs)?;
        guest.namespace = Some(self.host.clone());
        guest.plug_in(interface)?;
        guest.arguments.extend_from_slice(told);
        if !told.is_empty() {
            guest.memory_mib = SHIELD_MEMORY_MIB;
        }
        let initrd = self.dir.join(format!("{name}.initramfs"));
        Console::start(name, guest.command(&initrd)?.process_group(0))
    }

    fn start_namespace(
        &self,
        (name, interface): (&str, &Value),
        script: &str,
        told: &[String],
    ) -> Result<Console> {
        let (told_file, script_file) = (
            self.dir.join(format!("{name}.cmdline")),
            self.dir.join(format!("{name}.sh")),
        );
        let words = [addresses(interface)?.as_slice(), told].concat();
        fs::write(&told_file, words.join(" "))?;
        fs::write(&script_file, [FUNCTIONS, script, CONSOLE].concat())?;
        let mut command = Command::new(namespace_guest());
        command.arg(&self.host).args([paths::BUSYBOX, "sh"]);
        command.arg(&script_file);
        // Nothing of ours but what it needs.
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("NA_CMDLINE", &told_file);
        command.env("NA_INTERFACE", interface.to_string());
        Console::start(name, command.process_group(0))
    }
}

/// What the shield's script reads of where its files are.
fn shield_paths([rules, credential, proxy, log]: [&str; 4]) -> [String; 4] {
    [
        format!("na.rules={rules}"),
        format!("na.credential={credential}"),
        format!("na.proxy={proxy}"),
        format!("na.log={log}"),
    ]
}

/// The program that a namespace is a guest with; built beside the agent.
pub(crate) fn namespace_guest() -> PathBuf {
    let agent = agent_binary();
    let dir = agent.parent().unwrap_or(Path::new("."));
    dir.join("namespace-guest")
}
