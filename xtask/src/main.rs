//! `cargo xtask`: what a person types to set up, build, run, test, lint and measure netagent.

#![forbid(unsafe_code)]

mod setup;
mod shell;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing to build, run and test, and say what is done.
    Setup,
}

fn main() -> Result<()> {
    match Arguments::parse().task {
        Task::Setup => setup::setup(),
    }
}
