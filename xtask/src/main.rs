//! `cargo xtask`: what a person types to set up, build, run, test, lint and measure netagent.

#![forbid(unsafe_code)]

mod boot;
mod check;
mod demo;
mod private;
mod run;
mod setup;
mod shell;
mod world;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Set up, build, run, test and measure netagent"
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing to build, run and test, and say what is done.
    Setup,
    /// Build the daemon with its eBPF programs.
    Build {
        /// Optimised, as `run` and `bench` use it.
        #[arg(long)]
        release: bool,
    },
    /// Run the agent: on the machine's real uplink, or with `--private` in namespaces of its own.
    Run(run::RunOptions),
    /// Boot a QEMU guest on the TAP of an instance; it pings its gateway and fetches pages.
    Guest(boot::GuestOptions),
    /// Show a shield: two sandboxes whose traffic all passes a VM that filters it and adds a credential.
    Demo(demo::DemoOptions),
    /// The proxy in the demonstration's shield.
    #[command(hide = true)]
    ShieldProxy(demo::ProxyOptions),
    /// The web server of the demonstration's world.
    #[command(hide = true)]
    DemoServer(demo::ServerOptions),
    /// Run every test, those that need root too.
    Test(check::TestOptions),
    /// Check formatting, clippy and documentation, without a warning.
    Lint,
    /// Measure netagent beside what people use today; the figures and a page with charts go to `target/bench`.
    // The benchmark program has a help of its own.
    #[command(disable_help_flag = true)]
    Bench {
        /// Arguments of the benchmark program.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    match perform(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<()> {
    match task {
        Task::Setup => setup::setup(),
        Task::Build { release } => check::build(release),
        Task::Run(options) => run::run(&options),
        Task::Guest(options) => boot::boot(&options),
        Task::Demo(options) => demo::demo(&options),
        Task::ShieldProxy(options) => demo::proxy(&options),
        Task::DemoServer(options) => demo::server(&options),
        Task::Test(options) => check::test(&options),
        Task::Lint => check::lint(),
        Task::Bench { arguments } => check::bench(&arguments),
    }
}
