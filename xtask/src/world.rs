//! Two network namespaces joined by a veth pair: a host, whose uplink it is, and a world with a web server.

use std::ffi::OsStr;
use std::fs;
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context, Result};
use xtask::paths;

use crate::shell::{self, say};

const UPLINK: &str = "uplink";
const PAGE: &str = "hello from the world\n";

/// The namespaces and the web server; dropping it removes them.
pub(crate) struct World {
    name: String,
    server: Option<Child>,
}

impl World {
    /// Makes the namespaces `<name>-host` and `<name>-world`.
    pub(crate) fn make(name: &str) -> Result<Self> {
        let world = Self {
            name: name.to_owned(),
            server: None,
        };
        world.make_links()?;
        Ok(world)
    }

    pub(crate) fn uplink(&self) -> &'static str {
        UPLINK
    }

    pub(crate) fn host_name(&self) -> String {
        format!("{}-host", self.name)
    }

    pub(crate) fn world_name(&self) -> String {
        format!("{}-world", self.name)
    }

    pub(crate) fn host_path(&self) -> PathBuf {
        Path::new("/run/netns").join(self.host_name())
    }

    pub(crate) fn world_path(&self) -> PathBuf {
        Path::new("/run/netns").join(self.world_name())
    }

    /// A command in the host's network namespace.
    pub(crate) fn in_host(&self, program: &Path) -> Command {
        enter(&self.host_path(), program)
    }

    /// A command in the world's network namespace.
    pub(crate) fn in_world(&self, program: &Path) -> Command {
        enter(&self.world_path(), program)
    }

    /// Gives the world one more address, behind its router.
    pub(crate) fn add_address(&self, address: IpAddr) -> Result<()> {
        let (length, nodad): (&str, &[&str]) = match address {
            IpAddr::V4(_) => ("32", &[]),
            IpAddr::V6(_) => ("128", &["nodad"]),
        };
        let address = format!("{address}/{length}");
        let words = [
            "-n",
            &self.world_name(),
            "addr",
            "add",
            &address,
            "dev",
            "lo",
        ];
        ip(&[&words, nodad].concat())
    }

    fn make_links(&self) -> Result<()> {
        let (host, world) = (self.host_name(), self.world_name());
        for name in [&host, &world] {
            ip(&["netns", "add", name])?;
        }
        for path in [self.host_path(), self.world_path()] {
            // A new namespace takes IPv4 settings over from the machine's own.
            let settings =
                "cd /proc/sys/net; echo 0 >ipv4/ip_forward; echo 0 >ipv6/conf/all/forwarding;
                            for c in all default; do echo 0 >ipv6/conf/$c/disable_ipv6; done;
                            for v in accept_dad accept_ra; do echo 0 >ipv6/conf/default/$v; done";
            shell::run(enter(&path, Path::new("/bin/sh")).args(["-ec", settings]))?;
        }
        ip(&[
            "link", "add", UPLINK, "netns", &host, "type", "veth", "peer", "name", "host", "netns",
            &world,
        ])?;
        for (namespace, link, addresses) in [
            (&host, UPLINK, ["198.51.100.2/24", "2001:db8:100::2/64"]),
            (&world, "host", ["198.51.100.1/24", "2001:db8:100::1/64"]),
        ] {
            ip(&["-n", namespace, "link", "set", "lo", "up"])?;
            let [v4, v6] = addresses;
            ip(&["-n", namespace, "addr", "add", v4, "dev", link])?;
            ip(&["-n", namespace, "addr", "add", v6, "dev", link, "nodad"])?;
            ip(&["-n", namespace, "link", "set", link, "up"])?;
        }
        for gateway in ["198.51.100.1", "2001:db8:100::1"] {
            ip(&[
                "-n", &host, "route", "add", "default", "via", gateway, "dev", UPLINK,
            ])?;
        }
        Ok(())
    }

    /// Serves a page, kept in the directory, on port 80 of every address of the world.
    pub(crate) fn serve(&mut self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir)?;
        fs::write(dir.join("index.html"), PAGE)?;
        let mut server = self.in_world(Path::new(paths::BUSYBOX));
        // Bound to the IPv6 wildcard, it answers IPv4 too.
        server.args(["httpd", "-f", "-p", "[::]:80", "-h"]).arg(dir);
        self.server = Some(
            server
                .process_group(0)
                .spawn()
                .context("cannot start the web server")?,
        );
        Ok(())
    }

    fn end_server(&mut self) -> Result<()> {
        if let Some(mut server) = self.server.take() {
            server.kill()?;
            server.wait()?;
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Err(error) = self.end_server() {
            say(&format!("cannot end the web server: {error:#}"));
        }
        for (name, path) in [
            (self.host_name(), self.host_path()),
            (self.world_name(), self.world_path()),
        ] {
            let removed = if path.exists() {
                ip(&["netns", "delete", &name])
            } else {
                Ok(())
            };
            if let Err(error) = removed {
                say(&format!("{error:#}"));
            }
        }
    }
}

/// A command in a network namespace, by `nsenter`: `ip netns exec` mounts a /sys of its own, which hides bpffs.
pub(crate) fn enter(namespace: &Path, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", namespace.display()))
        .arg(program);
    command
}

/// In a process group of its own: a second Ctrl-C must not end it while things are removed.
fn ip(arguments: &[&str]) -> Result<()> {
    shell::read(Command::new("ip").args(arguments).process_group(0)).map(drop)
}
