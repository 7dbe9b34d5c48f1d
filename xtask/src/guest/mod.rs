//! A guest VM under QEMU: Debian's cloud kernel, a busybox initramfs, one or more network cards on TAPs.

pub mod initramfs;
pub mod modules;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::guest::initramfs::Initramfs;
use crate::paths;

/// The modules that a guest's network card needs; `modules/order` lists them with what they depend on.
pub const NETWORK_CARD: [&str; 2] = ["virtio_pci", "virtio_net"];

/// A network card on a TAP.
#[derive(Clone, Debug)]
pub struct NetworkCard {
    /// The TAP's name in the namespace that QEMU runs in.
    pub tap: String,
    /// The card's address, as `02:00:00:00:00:01`.
    pub mac: String,
}

/// A VM to boot.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The kernel image.
    pub kernel: PathBuf,
    /// Its root file system, whose `/init` runs.
    pub initramfs: Initramfs,
    /// Words for the kernel's command line; the init script reads `na.<name>=<value>` with `argument <name>`.
    pub arguments: Vec<String>,
    /// Its network cards: `eth0`, `eth1` and so on.
    pub cards: Vec<NetworkCard>,
    /// More words for QEMU, as `netagent guest --format qemu` prints them.
    pub devices: Vec<String>,
    /// Its memory.
    pub memory_mib: u32,
    /// The network namespace that the TAPs are in, as `/run/netns/<name>`; the caller's where there is none.
    pub namespace: Option<PathBuf>,
    /// When it is ended if it has not ended by itself; never where there is none.
    pub deadline_s: Option<u32>,
}

impl Guest {
    /// A guest with setup's kernel and no network card.
    pub fn new(initramfs: Initramfs) -> Result<Self> {
        let kernel = paths::guest_kernel();
        ensure!(
            kernel.exists(),
            "there is no guest kernel: run `cargo xtask setup`"
        );
        Ok(Self {
            kernel,
            initramfs,
            arguments: Vec::new(),
            cards: Vec::new(),
            devices: Vec::new(),
            memory_mib: 128,
            namespace: None,
            deadline_s: None,
        })
    }

    /// Plugs a card into the TAP of an interface, given as `netagent inspect --json` shows it, and tells the init
    /// script its addresses, which `take_addresses` takes: of one interface alone.
    pub fn plug_in(&mut self, interface: &Value) -> Result<()> {
        self.cards.push(NetworkCard {
            tap: member(interface, "tap_name")?.to_owned(),
            mac: member(interface, "mac")?.to_owned(),
        });
        self.arguments.extend(addresses(interface)?);
        Ok(())
    }

    /// Writes the initramfs to the file `initrd` and says how to start the VM. Its console is the command's
    /// standard input and output, and the command ends when the guest powers off or panics.
    ///
    /// The processor is emulated: `/dev/kvm` may exist and fail.
    pub fn command(&self, initrd: &Path) -> Result<Command> {
        std::fs::write(initrd, self.initramfs.to_bytes())
            .with_context(|| format!("cannot write {}", initrd.display()))?;
        let qemu = paths::find_program("qemu-system-x86_64")
            .context("there is no qemu-system-x86_64: run `cargo xtask setup`")?;
        let mut words = Vec::new();
        if let Some(deadline_s) = self.deadline_s {
            words.extend([
                "timeout".into(),
                "--foreground".into(),
                deadline_s.to_string(),
            ]);
        }
        if let Some(namespace) = &self.namespace {
            // Not `ip netns exec`: it mounts a /sys of its own, which hides bpffs.
            words.extend(["nsenter".into(), format!("--net={}", namespace.display())]);
        }
        words.push(qemu.to_string_lossy().into_owned());
        let (program, arguments) = words.split_first().context("an empty command")?;
        let mut command = Command::new(program);
        command.args(arguments);
        let append = ["console=ttyS0", "quiet", "panic=-1"].map(str::to_owned);
        command
            .args([
                "-M",
                "q35,accel=tcg",
                "-cpu",
                "max",
                "-m",
                &self.memory_mib.to_string(),
            ])
            .args([
                "-nodefaults",
                "-display",
                "none",
                "-serial",
                "stdio",
                "-no-reboot",
            ])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(initrd)
            .args([
                "-append",
                &[&append, self.arguments.as_slice()].concat().join(" "),
            ]);
        for (index, NetworkCard { tap, mac }) in self.cards.iter().enumerate() {
            let netdev = format!("tap,id=n{index},ifname={tap},script=no,downscript=no");
            let device = format!("virtio-net-pci,netdev=n{index},mac={mac},romfile=");
            command.args(["-netdev", &netdev, "-device", &device]);
        }
        if !self.devices.is_empty() {
            // It boots from no network, and the images for that may not be installed.
            let global = "virtio-net-pci.romfile=";
            command.args(["-global", global]).args(&self.devices);
        }
        Ok(command)
    }
}

/// What `take_addresses` reads: the addresses of an interface, given as `netagent inspect --json` shows it.
pub fn addresses(interface: &Value) -> Result<Vec<String>> {
    let mut told = Vec::new();
    let mut tell = |name, value: &str| told.push(format!("na.{name}={value}"));
    tell("ip4", member(interface, "ip")?);
    tell("gw4", member(interface, "tap_ip")?);
    if let Ok(ip6) = member(interface, "ip6") {
        tell("ip6", ip6);
        tell("gw6", "fe80::1");
    }
    if let Some(mtu) = interface.get("mtu").and_then(Value::as_u64) {
        tell("mtu", &mtu.to_string());
    }
    Ok(told)
}

fn member<'a>(interface: &'a Value, name: &str) -> Result<&'a str> {
    let value = interface.get(name).and_then(Value::as_str);
    value.with_context(|| format!("the interface has no {name}"))
}
