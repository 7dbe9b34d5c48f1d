//! `bench`: measures what netagent does beside what people use today; see `cargo xtask bench`.
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use netagent_bench::catalogue::{self, ALL};
use netagent_bench::outputs::Outputs;
use netagent_bench::run;

/// Measure netagent beside what people use today.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Arguments {
    /// Benchmarks, by the names that `--list` shows; all of them without.
    names: Vec<String>,
    /// A first impression within two minutes: fewer benchmarks, rounds and frames.
    #[arg(long)]
    quick: bool,
    /// Rounds, where a benchmark should not choose for itself.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Where the figures of every round go, rather than below the target directory.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the page with the charts goes.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Show what is the benchmarks' and what each measures.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    match perform(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(arguments: Arguments) -> Result<ExitCode> {
    if arguments.list {
        for one in ALL {
            let quick = if one.is_quick { "quick" } else { "" };
            println!("{:16} {quick:6} {}", one.name, one.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = catalogue::chosen(&arguments.names, arguments.quick)?;
    let outputs = Outputs::choose(arguments.json, arguments.html);
    let report = run::all(&chosen, (arguments.quick, arguments.rounds), &outputs)?;
    Ok(if report.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
