//! `cargo xtask demo`: two sandboxes behind a shield, which filters what they ask for and adds a credential that they
//! never see. Everything happens in network namespaces of its own, with VMs where there is QEMU.

mod capture;
mod console;
mod guests;
mod http;
mod patience;
mod proxy;
mod scenes;
mod server;
mod show;
mod stage;

use std::process::Command;

use anyhow::{Result, ensure};
use clap::Args;
use xtask::paths;

pub(crate) use crate::demo::proxy::{ProxyOptions, proxy};
pub(crate) use crate::demo::server::{ServerOptions, server};

use crate::check;
use crate::demo::guests::{Kind, namespace_guest};
use crate::demo::patience::Patience;
use crate::demo::show::Show;
use crate::demo::stage::Stage;
use crate::private::{agent_binary, mount_bpffs};
use crate::run::become_root;
use crate::shell::{self, say};

/// How the demonstration is run.
#[derive(Args)]
pub(crate) struct DemoOptions {
    /// Guests that are network namespaces instead of VMs, also where there is QEMU.
    #[arg(long)]
    namespaces: bool,
    /// Everything is built: do not set up. `cargo xtask demo` itself says this when it becomes root.
    #[arg(long, hide = true)]
    built: bool,
}

/// Sets up, builds, shows everything, and leaves nothing behind.
pub(crate) fn demo(options: &DemoOptions) -> Result<()> {
    let kind = kind(options);
    if !options.built {
        check::build(true)?;
        if kind == Kind::Namespace {
            let words = ["build", "--release", "--package", "netagent-tests"];
            shell::run(
                shell::cargo()
                    .args(words)
                    .args(["--bin", "namespace-guest"]),
            )?;
        }
    }
    if !shell::is_root() {
        let mut again = Command::new(std::env::current_exe()?);
        again.args(["demo", "--built"]);
        if options.namespaces {
            again.arg("--namespaces");
        }
        return become_root(&again);
    }
    // Before anything is made, so that no signal can end us in the middle.
    let patience = Patience::new()?;
    mount_bpffs()?;
    let mut show = Show::default();
    let result = Stage::set(kind, &patience).and_then(|mut stage| {
        let result = scenes::play(&mut stage, &mut show);
        if result.is_err() {
            stage.complain();
        }
        result
    });
    say("the agent, the guests and their namespaces are gone");
    result.and_then(|()| show.end())
}

/// VMs where they can be had.
fn kind(options: &DemoOptions) -> Kind {
    let has_qemu = paths::find_program("qemu-system-x86_64").is_some();
    if options.namespaces {
        return Kind::Namespace;
    }
    if options.built && !(has_qemu && paths::guest_kernel().exists()) {
        say("there is no QEMU here: the guests are namespaces");
        return Kind::Namespace;
    }
    Kind::Vm
}

/// What must be there before anything is made.
fn check_programs(kind: Kind) -> Result<()> {
    let mut programs = vec![agent_binary()];
    if kind == Kind::Namespace {
        programs.push(namespace_guest());
    }
    for program in programs {
        ensure!(
            program.exists(),
            "{} is not built: run `cargo xtask demo` without --built",
            program.display()
        );
    }
    Ok(())
}
