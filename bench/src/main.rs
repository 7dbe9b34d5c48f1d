//! `bench`: measures what netagent does beside what people use today; see `cargo xtask bench`.
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use netagent_bench::catalogue::{self, ALL, Extent};
use netagent_bench::outputs::Outputs;
use netagent_bench::report::compare::compare;
use netagent_bench::report::{Report, files, page, terminal};
use netagent_bench::run;

/// Measure netagent beside what people use today.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Arguments {
    /// Benchmarks, by the names that `--list` shows; without, those that have peers.
    names: Vec<String>,
    /// A first impression within two minutes: fewer benchmarks, rounds and frames.
    #[arg(long)]
    quick: bool,
    /// Those too that have no peers, which takes an hour.
    #[arg(long, conflicts_with_all = ["names", "quick"])]
    all: bool,
    /// Rounds, where a benchmark should not choose for itself.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Where the figures of every round go, rather than below the target directory.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the page with the charts goes.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Say afterwards what changed beyond noise since an earlier run, by its JSON.
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
    /// Measure nothing: take an earlier run's JSON, to compare it or to make its page.
    #[arg(long, value_name = "NEW.json", conflicts_with_all = ["names", "quick", "all", "rounds", "json"])]
    with: Option<PathBuf>,
    /// Show which benchmarks there are, and what each measures.
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
            println!("{:16} {:6} {}", one.name, one.extent.name(), one.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let extent = match (arguments.quick, arguments.all) {
        (true, _) => Extent::Quick,
        (false, true) => Extent::All,
        (false, false) => Extent::Full,
    };
    let chosen = catalogue::chosen(&arguments.names, extent)?;
    // Read first: a long run is not to end at a file that is not there.
    let old = arguments.compare.as_deref().map(files::load).transpose()?;
    let report = if let Some(path) = &arguments.with {
        show(path, arguments.html.as_deref(), old.is_some())?
    } else {
        let outputs = Outputs::choose(arguments.json, arguments.html);
        run::all(&chosen, (arguments.quick, arguments.rounds), &outputs)?
    };
    if let Some(old) = old {
        println!("\n{}", compare(&old, &report).text());
    }
    Ok(if report.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Reads an earlier run, makes its page where one is wanted, and prints it where nothing else is.
fn show(path: &Path, html: Option<&Path>, is_compared: bool) -> Result<Report> {
    let report = files::load(path)?;
    if let Some(html) = html {
        files::replace(html, &page::render(&report)?)?;
    } else if !is_compared {
        let tables = report.tables.iter();
        tables.for_each(|table| println!("{}", terminal::table(table)));
        println!("{}", terminal::summary(&report));
    }
    Ok(report)
}
